from __future__ import annotations

import json
import re
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from dagrec import cli
from dagrec.data.formats import FORMATS
from dagrec.models.registry import MODELS
from tests.cli.commands import (
    DAGREC,
    DATA,
    GEOPORTAL,
    NETWORK,
    SMALL,
    Run,
    assert_fails,
    native,
)


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["unknown"], ["No such command"]),
        (["inspect"], ["DATA"]),
        (["inspect", DATA, "--unknown"], ["--unknown"]),
        (["inspect", DATA, "--on-cycle", "ignore"], ["--on-cycle", "break"]),
        (["inspect", DATA, "--max-paths", "0"], ["--max-paths"]),
        (["inspect", DATA, "--max-mb", "0"], ["max_mb", "greater than or equal to 1"]),
        (["inspect", DATA, "--format", "xml"], ["no format 'xml'", *FORMATS]),
        (["inspect", DATA, "--table-mid", "("], ["table_mid", "not a regular expression"]),
        (["train", DATA], ["--store"]),
        (["train", DATA, "--store", "s", "--model", "unknown"], ["no recommender 'unknown'", *MODELS]),
        (["evaluate", DATA, "--set", "markov"], ["key=value", "'markov'"]),
        (["evaluate", DATA, "--model", "markov", "--set", "markov.mu=-1"], ["mu", "-1"]),
        (["evaluate", DATA, "--model", "markov", "--set", "markov.nu=1"], ["nu", "not permitted"]),
        (["evaluate", DATA, "--config", "missing.toml"], ["missing.toml", "cannot be read"]),
        (["evaluate", DATA, "--mask", "hard"], ["--mask", "observed"]),
        (["evaluate", DATA, "--repeats", "0"], ["--repeats"]),
        (["predict", "--store", "s"], ["--path, --composition and --contexts"]),
        (["predict", "--store", "s", "--path", "a", "--contexts", "b"], ["give one of"]),
        (["predict", "--store", "s", "--path", "a", "-k", "0"], ["-k"]),
        (["serve", "--store", "s", "--port", "70000"], ["--port"]),
        (["generate"], ["--out"]),
        (["generate", "--out", "x.json", "--set", "predictability=2"], ["predictability", "2"]),
    ],
    ids=lambda value: " ".join(str(v) for v in value if v != DATA) if isinstance(value, list) else "",
)
def test_invalid_usage_gives_status_2(arguments: list[str | Path], texts: list[str], run: Run) -> None:
    completed = run(*arguments)
    assert completed.status == 2, completed
    assert completed.out == ""
    assert "Traceback" not in completed.err
    for text in texts:
        assert text in re.sub(r"[\s│]+", " ", completed.err)


def test_installed_command(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(native(links='{"source": "t", "target": "x"}'))
    for arguments, status in ((["inspect", file], 1), (["unknown"], 2), (["--help"], 0)):
        completed = subprocess.run([DAGREC, *arguments], capture_output=True, text=True, check=False)
        assert completed.returncode == status
        assert "Traceback" not in completed.stderr
        assert bool(completed.stdout) is (status == 0)


def test_inspect_bundled_data(run: Run) -> None:
    result = json.loads(run("inspect", DATA, "--json", "-").out)
    expected = {
        "compositions": 900,
        "paths": 1_171,
        "pairs": 1_791,
        "targets": 16,
        "nodes": 2_553,
        "links": 1_656,
        "distinct_nodes": 62,
        "distinct_links": 359,
        "distinct_contexts": 339,
        "owners": 6,
        "cycles": 0,
        "skipped": 0,
    }
    assert {name: result[name] for name in expected} == expected
    readme = (DATA.parent / "README.md").read_text()
    for name in ("compositions", "paths", "pairs", "distinct_contexts"):
        assert f"{expected[name]:,}" in readme


def test_inspect_geoportal_within_two_seconds() -> None:
    if not GEOPORTAL.is_file():
        pytest.skip(f"{GEOPORTAL} is not part of the project")  # it must not be published
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    completed = subprocess.run(
        [DAGREC, "inspect", GEOPORTAL, "--json"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The processor time, unlike the time on the wall, does not depend on other processes.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    result = json.loads(completed.stdout)
    expected = {
        "compositions": 943,
        "paths": 943,
        "pairs": 1_016,
        "targets": 15,
        "nodes": 1_959,
        "links": 1_016,
        "distinct_nodes": 50,
        "distinct_links": 97,
        "cycles": 0,
        "skipped": 0,
    }
    assert {name: result[name] for name in expected} == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "SMALL"],
        ["models"],
        ["formats"],
        ["evaluate", "SMALL", *SMALL, "--repeats", "2"],
    ],
    ids=lambda value: value[0],
)
def test_json_to_standard_output_or_file(
    arguments: list[str], run: Run, small: Path, tmp_path: Path
) -> None:
    arguments = [str(small) if argument == "SMALL" else argument for argument in arguments]
    dash, bare = run(*arguments, "--json", "-"), run(*arguments, "--json")
    file = tmp_path / "new" / "result.json"
    to_file = run(*arguments, "--json", file)
    assert [completed.status for completed in (dash, bare, to_file)] == [0, 0, 0]
    shapes = [shape_of(json.loads(text)) for text in (dash.out, bare.out, file.read_text())]
    assert shapes[0] == shapes[1] == shapes[2]
    assert f"written to {file}" in to_file.err


def shape_of(value: Any) -> Any:
    """The keys and types of JSON, without values, because times differ."""
    if isinstance(value, dict):
        return {key: shape_of(inner) for key, inner in value.items()}
    return [shape_of(inner) for inner in value] if isinstance(value, list) else type(value)


def test_unwritable_output_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "result.json"
    completed = run("formats", "--json", below)
    assert_fails(completed, 1, str(below), "cannot be written")
    assert_fails(run("generate", "--out", below), 1, str(below), "cannot be written")
    completed = run("train", DATA, "--store", below, *SMALL, "--measure", "0")
    assert_fails(completed, 1, str(below), "cannot be written")


def test_broken_pipe_is_silent() -> None:
    with subprocess.Popen(
        [DAGREC, "formats", "--json", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_full_disk_is_reported() -> None:
    with Path("/dev/full").open("wb") as full:
        completed = subprocess.run(
            [DAGREC, "formats"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert completed.returncode == 1
    assert completed.stderr == b"dagrec: the result cannot be written: No space left on device\n"


def test_equal_seeds_give_equal_results(run: Run, small: Path) -> None:
    arguments = ["evaluate", small, *SMALL, *NETWORK, "--repeats", "2", "--json", "-"]
    texts = []
    for seed in ("1", "1", "2"):
        result = json.loads(run(*arguments, "--seed", seed).out)
        for model in result["models"].values():
            assert model.pop("seconds").keys() == {"fit", "score"}
        texts.append(json.dumps(result))
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_evaluate_prints_reference_lines(run: Run, small: Path) -> None:
    completed = run("evaluate", small, *SMALL, "--repeats", "3", "--protocol", "compositions")
    assert completed.status == 0
    for text in ("markov", "popularity", "(random)", "(popularity)", "accuracy", "Best possible"):
        assert text in completed.out
    assert "Traceback" not in completed.err


def test_generate_reproduces_bundled_data(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "new" / "compositions.json"
    completed = run("generate", "--out", file)
    assert completed.status == 0
    assert file.read_bytes() == DATA.read_bytes()
    best = re.search(r"best possible accuracy\s+(\S+)", completed.out)
    assert best
    assert best[1] in (DATA.parent / "README.md").read_text()


def test_models_and_formats_list_registries(run: Run) -> None:
    models = json.loads(run("models", "--json").out)
    assert [model["name"] for model in models] == list(MODELS)
    table = run("models").out
    for model in models:
        assert re.search(
            rf"^{model['name']} +{model['family']} .* {len(model['hyperparameters'])}$",
            table,
            re.MULTILINE,
        )
    output = re.sub(r"\s+", " ", run("models", "markov", "gru4rec").out)
    for model in json.loads(run("models", "markov", "gru4rec", "--json").out):
        assert f"{model['name']} ({model['family']}; {model['paper']})" in output
        for name, about in model["hyperparameters"].items():
            assert f"{name} = {about['default']}: {about['about']}" in output
    formats = json.loads(run("formats", "--json").out)
    assert [format_["name"] for format_ in formats] == list(FORMATS)
    output = run("formats").out
    assert all(format_["name"] in output for format_ in formats)


def commands() -> dict[str, Any]:
    result: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    return result


@pytest.mark.parametrize("name", commands())
def test_every_command_and_option_has_help(name: str, run: Run) -> None:
    command = commands()[name]
    completed = run(name, "--help")
    assert (completed.status, completed.err) == (0, "")
    output = re.sub(r"[\s│]+", " ", completed.out)
    assert re.sub(r"\s+", " ", command.help).split(".")[0] in output
    for parameter in command.params:
        text = parameter.help or ""
        words = re.sub(r"\[default.*", "", text).split()
        assert len(words) > 1, f"{name} {parameter.name}: has no help"
        assert parameter.opts[-1] in output or parameter.param_type_name == "argument"
        assert words[0] in output
        if "[default" in text:
            assert re.search(r"\[default.*\]", text)[0].split()[0] in output  # type: ignore[index]


def test_help_lists_every_command(run: Run) -> None:
    output = run("--help").out
    assert all(name in output for name in commands())
    assert run().status == 2
