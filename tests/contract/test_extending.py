"""docs/extending.md: its package is installed with pip, and its reader and recommender work everywhere.

Broken packages are installed beside it. Processes find them on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from dagrec.data import formats
from dagrec.models import registry
from tests.processes import Completed, Job, run_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES: dict[str, str] = dict(re.findall(r"`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.M | re.S))
"""The files that the page shows, by their names."""
MAX_LINES = 50

FLOW = {"flows": [{"steps": [{"id": 1, "uses": "fetch"}, {"id": 2, "uses": "parse", "after": [1]}]}]}
BROKEN = {
    "pyproject.toml": """
        [build-system]
        requires = ["setuptools"]
        build-backend = "setuptools.build_meta"

        [project]
        name = "dagrec-broken"
        version = "0.1"

        [tool.setuptools]
        py-modules = ["broken_parts", "broken_import", "broken_exit"]

        [project.entry-points."dagrec.formats"]
        native = "broken_parts:FORMAT"
        acme = "broken_parts:FORMAT"
        auto = "broken_parts:FORMAT"
        no-module = "broken_nowhere:FORMAT"
        no-format = "broken_parts:NUMBER"
        misnamed = "broken_parts:FORMAT"
        one-ending = "broken_parts:ENDINGS"
        buggy = "broken_parts:BUGGY"

        [project.entry-points."dagrec.models"]
        markov = "broken_parts:Whole"
        last = "broken_parts:Whole"
        raising = "broken_import:Anything"
        exiting = "broken_exit:Anything"
        no-class = "broken_parts:NUMBER"
        abstract = "broken_parts:Abstract"
        no-config = "broken_parts:NoConfig"
        no-defaults = "broken_parts:NoDefaults"
        other-name = "broken_parts:Whole"
        """,
    "broken_import.py": "raise RuntimeError('first line\\nsecond line')",
    "broken_exit.py": "raise SystemExit(3)",
    "broken_parts.py": """
        from dagrec.data.formats import Document, Format
        from dagrec.models.counting.popularity import Popularity
        from dagrec.models.base import Recommender, Traits
        from dagrec.types import Options

        NUMBER = 7
        FORMAT = Format("some-name", "", lambda content, options: True, lambda *_: iter(()))
        ENDINGS = Format("one-ending", "", lambda *_: True, lambda *_: iter(()), suffixes=".json")

        def documents(content, reading):
            yield Document("flow 1", lambda: content.value["bugs"]["missing"])

        BUGGY = Format("buggy", "", lambda content, options: content.value["bugs"], documents)

        class Whole(Popularity):
            pass

        class Abstract(Recommender):
            name = "abstract"

        class NoConfig(Popularity):
            name = "no-config"
            Config = dict

        class Required(Options):
            size: int

        class NoDefaults(Popularity):
            name = "no-defaults"
            Config = Required
        """,
}
FORMAT_FAULTS = {
    "native": "its name must be free, found that dagrec has it",
    "acme": "its name must be free, found that the package dagrec-acme has it",
    "auto": "its name must be free, found that dagrec has it",
    "no-module": "must be importable, found ModuleNotFoundError: No module named 'broken_nowhere'",
    "no-format": "must be a dagrec.data.formats.Format, found 7",
    "misnamed": "its Format must have the name of the entry point, found 'some-name'",
    "one-ending": "suffixes must be endings in lower case",
}
MODEL_FAULTS = {
    "markov": "its name must be free, found that dagrec has it",
    "last": "its name must be free, found that the package dagrec-acme has it",
    "raising": "must be importable, found RuntimeError: first line second line",
    "exiting": "must be importable, found SystemExit: 3",
    "no-class": "must be a class derived from Recommender, found 7",
    "abstract": "Abstract must define _fit, _restore, _score, _state",
    "no-config": "NoConfig.Config must be a class derived from Options",
    "no-defaults": "NoDefaults.Config must have defaults",
    "other-name": "Whole.name must be the name of the entry point, found 'popularity'",
}


def install(files: Mapping[str, str], source: Path, target: Path) -> Path:
    """Install a package of these files into a folder with pip, and return the folder."""
    for name, text in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(dedent(text).lstrip(), encoding="utf-8")
    options = ["--quiet", "--no-index", "--no-build-isolation", "--no-deps", "--target", str(target)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options, str(source)]
    completed = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    return target


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the package of the page is installed."""
    folder = tmp_path_factory.mktemp("acme")
    package = {name: text for name, text in FILES.items() if name.endswith((".py", ".toml"))}
    return install(package, folder / "source", folder / "installed")


@pytest.fixture(scope="module")
def both(acme: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the broken package is installed, with the package of the page."""
    folder = tmp_path_factory.mktemp("both")
    shutil.copytree(acme, folder / "installed")
    return install(BROKEN, folder / "source", folder / "installed")


@pytest.fixture(scope="module")
def work(acme: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the flows of the page, a store with models of them, and saved models."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "flows.json").write_text(json_block(), encoding="utf-8")
    train = next(line for line in console_lines() if " train " in line)
    assert run(acme, folder, *shlex.split(train)[1:]).status == 0
    script(
        acme,
        folder,
        """
        import dagrec
        data = dagrec.read("flows.json")
        dagrec.fit(data, "markov").save("saved")
        dagrec.fit(data, "cache", base="last").save("nested")
        """,
    )
    return folder


def json_block() -> str:
    found = re.search(r"`flows.json`:\n\n```json\n(.*?)^```$", PAGE, re.M | re.S)
    assert found
    return found[1]


def console_lines() -> list[str]:
    return re.findall(r"^\$ (.+)$", PAGE, re.M)


def run(installed: Path | None, folder: Path, *arguments: str | Path) -> Completed:
    """Run the command `dagrec` with installed packages."""
    texts = [str(argument) for argument in arguments]
    completed = Job(run_with_packages, [str(installed or ""), *texts], folder).wait()
    assert "Traceback" not in completed.err, completed.err
    return completed


def run_with_packages(installed: str, *arguments: str) -> None:
    """Run the command `dagrec` in this process, as if a folder had been on its path from the start."""
    sys.path.insert(0, installed)
    for plugins in (formats.PLUGINS, registry.PLUGINS):
        plugins.__dict__.pop("_scan", None)
    run_command(*arguments)


def fresh(installed: Path, folder: Path, *arguments: str | Path) -> str:
    """Run a new interpreter with installed packages, and return its output."""
    process = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def script(installed: Path, folder: Path, code: str, *arguments: str | Path) -> str:
    """Run a script in a new interpreter with installed packages, and return its output."""
    return fresh(installed, folder, "-c", dedent(code), *arguments)


# The package of the page


def test_page_shows_each_extension_in_few_lines() -> None:
    assert set(FILES) == {
        "pyproject.toml",
        "dagrec_acme/reader.py",
        "dagrec_acme/last.py",
        "flows.json",
    }
    assert all(text.count("\n") < MAX_LINES for text in FILES.values())


def test_commands_of_page_run(acme: Path, work: Path) -> None:
    lines = console_lines()
    assert len(lines) >= 6
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "dagrec"
        completed = run(acme, work, *arguments)
        assert completed.status == 0, f"{line}: {completed.err}"
        assert completed.out, line


def test_new_interpreter_finds_plugins(acme: Path, work: Path) -> None:
    output = fresh(acme, work, "-m", "dagrec.cli", "inspect", "--help")
    assert re.search(r"\bacme\b", output)
    output = fresh(acme, work, "-m", "dagrec.cli", "predict", "--store", "store", "--path", "fetch")
    assert "parse" in output


def test_formats_and_models_list_plugins_with_their_package(acme: Path, work: Path) -> None:
    formats = json.loads(run(acme, work, "formats", "--json").out)
    assert formats[-1] == {
        "name": "acme",
        "about": "flows of Acme",
        "on_cycle": "break",
        "package": "dagrec-acme",
    }
    assert {format_["package"] for format_ in formats[:-1]} == {"dagrec"}
    (model,) = json.loads(run(acme, work, "models", "last", "--json").out)
    assert (model["family"], model["package"], model["uses"]) == ("plug-in", "dagrec-acme", ["order"])
    assert model["hyperparameters"] == {"smoothing": {"default": 1.0, "about": "added to each count"}}
    for command in ("formats", "models", "doctor"):
        assert "dagrec-acme" in run(acme, work, command).out


def test_reader_reads_with_its_defaults(acme: Path, work: Path) -> None:
    cyclic = {"flows": [{"steps": [{"id": i, "uses": str(i), "after": [3 - i]} for i in (1, 2)]}]}
    (work / "more").mkdir()
    (work / "more" / "cyclic.json").write_text(json.dumps(cyclic))
    (work / "more" / "whole.json").write_text(json_block())
    output = script(
        acme,
        work,
        """
        import dagrec
        for data in (
            dagrec.read("flows.json"),
            dagrec.read("more", progress=False),
            dagrec.read("flows.json", format="acme"),
        ):
            print(len(data.compositions), data.form, data.report.broken_links, dict(data.report.notes))
        print(data.compositions[0].goal, [node.key for node in data.compositions[0].nodes])
        """,
    )
    lines = output.splitlines()
    assert lines[0] == lines[2] == "2 links 0 {'comments dropped': 1}"
    assert lines[1] == "3 links 1 {'comments dropped': 1}"
    assert lines[3] == "Orders ['fetch', 'parse', 'store']"


def test_recommender_fits_saves_loads_and_is_a_member_of_others(acme: Path, work: Path) -> None:
    output = script(
        acme,
        work,
        """
        import dagrec
        from dagrec.models import Last
        data = dagrec.read("flows.json", progress=False)
        for model in ("last", Last(smoothing=0.1)):
            dagrec.fit(data, model, progress=False).save("last")
            loaded = dagrec.load("last")
            print(loaded.recommend(["fetch"], k=1).services, "Last" in dir(dagrec.models))
        print(dagrec.load("nested").recommend(["fetch"], k=1).services)
        print(list(dagrec.evaluate(data, ["last"], repeats=2, progress=False).result["models"]))
        """,
    )
    assert output.splitlines()[:2] == ["['parse'] True"] * 2
    assert output.splitlines()[2] == "['parse']"
    assert "last" in output.splitlines()[3]
    manifest = json.loads((work / "nested" / "manifest.json").read_text())
    assert [entry["plugins"] for entry in manifest["models"].values()] == [{"last": "dagrec-acme"}]


def test_service_takes_the_format_and_answers_with_the_model(acme: Path, work: Path) -> None:
    output = script(
        acme,
        work,
        f"""
        from pathlib import Path
        from starlette.testclient import TestClient
        from dagrec_service.app import create_app
        from dagrec_service.settings import Settings
        with TestClient(create_app(Settings(store=Path("store"), log_level="warning"))) as client:
            body = {{"composition": {FLOW!r}, "at": "2", "model": "last"}}
            response = client.post("/predict", json=body)
            print(response.status_code, response.json()["model"], response.json()["candidates"] > 0)
            print(client.post("/compositions/validate", json={FLOW!r}).json()["format"])
            print(sorted(model["name"] for model in client.get("/models").json()["models"]))
        """,
    )
    assert output.splitlines()[:2] == ["200 last True", "acme"]
    assert output.splitlines()[2] == "['last', 'markov']"


def test_import_does_not_import_plugins(acme: Path, work: Path) -> None:
    code = """
        import sys
        import dagrec, dagrec.cli, dagrec.models
        from dagrec.data.formats import format_names
        from dagrec.models.registry import model_names
        assert "acme" in format_names() and "last" in model_names() and "Last" in dir(dagrec.models)
        dagrec.read(sys.argv[1], progress=False)
        print([name for name in sys.modules if name.startswith(("dagrec_acme", "torch"))])
        """
    native = ROOT / "data" / "compositions.json"
    assert script(acme, work, code, native) == "[]\n"


# A package that is missing


@pytest.mark.parametrize("saved", ["store", "nested"])
def test_bundle_of_missing_package_is_refused_with_its_name(saved: str, work: Path) -> None:
    process = run(None, work, "predict", "--store", saved, "--path", "fetch")
    assert (process.status, process.out) == (1, "")
    assert process.err.count("\n") == 1
    assert "recommender 'last' of the package dagrec-acme must be installed" in process.err
    assert process.err.endswith("install dagrec-acme\n")


def test_bundle_is_refused_where_another_package_has_the_name(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "saved", tmp_path / "saved")
    manifest = tmp_path / "saved" / "manifest.json"
    about = json.loads(manifest.read_text())
    about["models"]["markov"]["plugins"] = {"markov": "dagrec-other"}
    manifest.write_text(json.dumps(about))
    process = run(None, tmp_path, "predict", "--store", "saved", "--path", "fetch")
    assert process.status == 1
    assert process.err.count("\n") == 1
    assert "'markov' must be that of the package dagrec-other, found that of dagrec;" in process.err


# Packages that are broken


def skipped(process: Completed) -> list[str]:
    """The warnings on standard error, which has nothing else but what was read."""
    lines = process.err.splitlines()
    assert all(line.startswith(("skipped: ", "read ")) for line in lines), process.err
    return [line for line in lines if line.startswith("skipped: ")]


@pytest.mark.parametrize(
    ("command", "kind", "faults", "whole"),
    [("formats", "format", FORMAT_FAULTS, "acme"), ("models", "recommender", MODEL_FAULTS, "last")],
)
def test_broken_plugins_are_each_skipped_with_one_line(
    command: str, kind: str, faults: Mapping[str, str], whole: str, both: Path, work: Path
) -> None:
    process = run(both, work, command, "--json")
    assert process.status == 0
    listed = [entry["name"] for entry in json.loads(process.out)]
    assert whole in listed
    assert not (set(listed) & set(faults)) - {"native", "markov", whole}
    lines = skipped(process)
    for name, fault in faults.items():
        (line,) = (line for line in lines if f"{kind} {name!r} of the package dagrec-broken: " in line)
        assert fault in line
        assert line.endswith("update or uninstall dagrec-broken")
    assert len(lines) == len(faults)


def test_doctor_lists_broken_plugins(both: Path, work: Path) -> None:
    process = run(both, work, "doctor", "--json")
    plugins = json.loads(process.out)["plugins"]
    sound = {p["name"] for p in plugins if p["problem"] is None}
    assert sound == {"acme", "last", "buggy"}
    broken = {(p["group"], p["name"]) for p in plugins if p["problem"]}
    assert broken == {
        *(("dagrec.formats", name) for name in FORMAT_FAULTS),
        *(("dagrec.models", name) for name in MODEL_FAULTS),
    }
    table = run(both, work, "doctor")
    assert re.search(r"no-format +dagrec.formats +dagrec-broken +0.1 +skipped", table.out)
    assert "must be a dagrec.data.formats.Format, found 7" in table.err


def test_commands_work_beside_broken_plugins(both: Path, work: Path) -> None:
    native = str(ROOT / "data" / "compositions.json")
    assert skipped(run(both, work, "inspect", native)) == []
    process = run(both, work, "inspect", "flows.json")
    assert process.status == 0
    assert len(skipped(process)) == len(FORMAT_FAULTS)
    process = run(both, work, "predict", "--store", "store", "--path", "fetch,parse")
    assert (process.status, process.err) == (0, "")


def test_named_broken_plugin_is_an_error_of_one_line(both: Path, work: Path) -> None:
    for arguments, fault in (
        (["inspect", "flows.json", "--format", "no-format"], FORMAT_FAULTS["no-format"]),
        (["models", "raising"], MODEL_FAULTS["raising"]),
        (["train", "flows.json", "--store", "x", "--model", "exiting"], MODEL_FAULTS["exiting"]),
    ):
        process = run(both, work, *arguments)
        assert (process.status, process.out) == (2, "")
        assert process.err.startswith("dagrec: ")
        assert fault in process.err
        assert process.err.count("\n") == 1


def test_reader_that_fails_to_recognise_is_named_once(both: Path, work: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.json").write_text('{"other": 1}')
    process = run(both, work, "inspect", tmp_path, "--on-error", "skip")
    assert process.status == 1
    (line,) = (line for line in process.err.splitlines() if "format 'buggy'" in line)
    assert line.startswith("skipped: ")
    assert "recognises must not raise errors, found KeyError" in line


def test_reader_that_fails_is_named(both: Path, work: Path) -> None:
    (work / "bugs.json").write_text('{"bugs": {}}')
    process = run(both, work, "inspect", "bugs.json", "--format", "buggy")
    assert process.status == 1
    assert process.err == (
        "dagrec: bugs.json: flow 1: the reader of the plug-in 'buggy' must read a file or name its "
        "fault, found KeyError: 'missing'; report this to its authors\n"
    )
