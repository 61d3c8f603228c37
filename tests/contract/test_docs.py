"""Commands and code in the documentation run, and everything that it names exists."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main

from dagrec import cli
from dagrec.data.formats import FORMATS
from dagrec.graph.mask import MaskPolicy
from dagrec.jobs.experiment import ALL_PROTOCOLS
from dagrec.models.registry import MODELS
from tests.processes import command, python

ROOT = Path(__file__).parents[2]
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
DOCS = "\n".join(PAGES.values())
README = PAGES["README.md"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
MAX_README_LINES = 130


def blocks(text: str, language: str) -> Sequence[str]:
    """The fenced code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def console_lines(text: str) -> Sequence[str]:
    """The commands of a page: lines of console blocks that start with a dollar sign."""
    lines = [line for block in blocks(text, "console") for line in block.splitlines()]
    return [line[2:] for line in lines if line.startswith("$ ")]


PYTHON_BLOCKS = [
    pytest.param(block, id=f"{name}-{number}")
    for name, text in PAGES.items()
    for number, block in enumerate(blocks(text, "python"), start=1)
    if name != "extending.md"  # files of a package, which test_extending.py installs and uses
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with copies of data/ and configs/."""
    for name in ("data", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def check_console(page: str, folder: Path, extra_options: Mapping[str, Sequence[str]]) -> None:
    """Run the commands of a page; ``extra_options`` are added to lines that contain their keys."""
    lines = console_lines(PAGES[page])
    assert lines
    assert all(any(text in line for line in lines) for text in extra_options)
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "dagrec", f"{line}: console blocks may only contain dagrec commands"
        for text, options in extra_options.items():
            if text in line:
                arguments += options
        completed = command(*arguments, folder=folder)
        assert completed.status == 0, f"{line}\n{completed.err}"
        assert "Traceback" not in completed.err
        assert completed.out, f"{line}: no output"


def test_readme_commands_run_in_order(copy: Path) -> None:
    check_console("README.md", copy, {})


FASTER_OPTIONS = {
    "--protocol prequential": ["--test-share", "0.02"],
    " ablate ": ["--set", "plan.repeats=2"],
    " tune ": ["--trials", "2"],
}
FASTER_ARGUMENTS = {
    '"gru4rec", epochs=20': '"gru4rec", epochs=2',
    '"gru4rec"], protocol="compositions", repeats=5': '"gru4rec"], "compositions", repeats=2',
}


def test_documented_commands_run_in_order(copy: Path) -> None:
    check_console("commands.md", copy, FASTER_OPTIONS)


@pytest.mark.slow
def test_documented_commands_run_as_written(copy: Path) -> None:
    check_console("commands.md", copy, {})


def check_python(block: str, folder: Path) -> None:
    completed = python(block, folder=folder)
    assert completed.status == 0, completed.err
    assert completed.out


@pytest.mark.parametrize("block", PYTHON_BLOCKS)
def test_documented_python_runs(block: str, copy: Path) -> None:
    for text, faster in FASTER_ARGUMENTS.items():
        assert text in DOCS
        block = block.replace(text, faster)
    check_python(block, copy)


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON_BLOCKS)
def test_documented_python_runs_as_written(block: str, copy: Path) -> None:
    check_python(block, copy)


def test_readme_is_short_and_shows_python_and_console() -> None:
    assert README.count("\n") <= MAX_README_LINES
    assert blocks(README, "python")
    assert blocks(README, "console")


def test_docs_have_no_placeholders() -> None:
    assert not re.findall(r"@[A-Z]+@", DOCS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    assert re.search(rf"\bdagrec {name}\b", PAGES["commands.md"])


def test_documented_commands_and_options_exist() -> None:
    fences = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL))
    commands = set(re.findall(r"^(?:\$ )?dagrec ([a-z-]+)", fences, re.MULTILINE))
    commands |= set(re.findall(r"`dagrec ([a-z][a-z-]*)", DOCS))
    assert commands <= set(COMMANDS)
    existing = {option for c in COMMANDS.values() for p in c.params for option in p.opts}
    existing |= {option for c in COMMANDS.values() for p in c.params for option in p.secondary_opts}
    existing |= {"--help", "--version", "--install-completion"}
    text = "\n".join(
        line for line in DOCS.splitlines() if not re.search(r"docker|pip|curl|torchrun|kube", line)
    )
    options = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", text))
    assert options
    assert options <= existing


@pytest.mark.parametrize(
    ("page", "name"),
    [
        *(("recommenders.md", name) for name in MODELS),
        *(("data.md", name) for name in FORMATS),
        *(("measuring.md", mask.value) for mask in MaskPolicy),
        *(("measuring.md", name) for name in ALL_PROTOCOLS),
    ],
    ids=str,
)
def test_every_registered_name_is_documented(page: str, name: str) -> None:
    assert f"`{name}`" in PAGES[page].replace("`--test FILE`", "`test-file`")


def test_files_in_readme_exist() -> None:
    named = re.findall(
        r"(?<![\w/.-])((?:configs|data|dagrec|scripts|service|tests)/[\w./*-]*\w)", README
    )
    named += re.findall(r"\[[^\]\n]+\]\((?!https?:)([^)#\s]+)\)", README)
    assert named
    missing = [name for name in named if not list(ROOT.glob(name))]
    assert not missing


def test_documented_make_targets_exist() -> None:
    texts = DOCS + (ROOT / ".ci" / "run").read_text() + (ROOT / "data" / "README.md").read_text()
    named = set(re.findall(r"(?:^|[`$(]|&& |=1 )make ([a-z-]+)", texts, re.MULTILINE))
    assert {"demo", "test"} <= named <= TARGETS
    assert set(MAKEFILE.partition(".PHONY:")[2].splitlines()[0].split()) == TARGETS


def test_scripts_in_makefile_exist() -> None:
    named = re.findall(r"[\w/]+\.(?:py|json|toml)\b", MAKEFILE)
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_files_in_dockerfile_exist() -> None:
    lines = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), f"COPY {line}: {source} does not exist"
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {source for line in lines for source in line.split()[:-1]} & set(ignored)


def test_constraints_pin_every_dependency_without_sources() -> None:
    text = (ROOT / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert pins["torch"] == "2.13.0"
    for source in ("+cpu", "+cu", "://", " @ ", "--", "-f "):
        assert source not in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for extra in project["optional-dependencies"].values() for name in extra]
    required = {re.split(r"[^\w.-]", name)[0] for name in [*project["dependencies"], *extras]}
    assert required <= set(pins)


def test_changelog_starts_with_current_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == version
