from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from dagrec import cli
from dagrec.data.formats import FORMATS
from dagrec.data.synthetic import World, WorldOptions, dump
from dagrec.models.registry import MODELS
from tests.consoles import Done, command

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data" / "compositions.json"
GEOPORTAL = ROOT.parent / "shared" / "data" / "geoportal" / "compositions.json"
DAGREC = Path(sys.executable).with_name("dagrec")
SMALL = ["--model", "markov", "--model", "popularity"]
NETWORK = ["--model", "gru4rec", "--set", "gru4rec.epochs=2", "--set", "gru4rec.hidden=8"]
A_NODE = '{"id": "t"}, {"id": "a", "mid": 1}'


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """Runs a command in a process of its own, in an empty folder."""

    def run(*arguments: str | Path) -> Done:
        return command(*arguments, folder=tmp_path_factory.mktemp("command"))

    run("--help")  # starts the process that all others are forked from
    return run


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty compositions of the known world: what takes seconds takes less on them."""
    file = tmp_path_factory.mktemp("small") / "compositions.json"
    file.write_text(dump(World(WorldOptions(compositions=80)).draw()))
    return file


@pytest.fixture(scope="session")
def store(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that `dagrec train` has made."""
    folder = tmp_path_factory.mktemp("cli") / "store"
    done = run("train", DATA, "--store", folder, *SMALL, *NETWORK, "--measure", "1", "--json")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert set(result["models"]) == {"markov", "popularity", "gru4rec"}
    return folder


def check_refused(done: Done, status: int, *texts: str) -> None:
    """The exit status, nothing on standard output, and one clear line with these texts."""
    assert done.status == status, done
    assert done.out == ""
    assert done.err.startswith("dagrec: ")
    assert done.err.count("\n") == 1, done.err
    assert not re.search(r"\{[a-z_.]+\}", done.err), "a literal brace: an f-prefix is missing"
    for text in texts:
        assert text in done.err


def native(nodes: str = A_NODE, links: str = '{"source": "t", "target": "a"}') -> str:
    return f'[{{"nodes": [{nodes}], "links": [{links}]}}]'


MALFORMED: dict[str, tuple[str | bytes, list[str]]] = {
    "empty": ("", ["found it empty"]),
    "blank": (" \n\n", ["found it empty"]),
    "no composition": ("[]", ["at least one composition is needed", "found none"]),
    "not JSON": ('{"nodes": [', ["not JSON at line 1, column"]),
    "text": ("hello world", ["known format", *FORMATS]),
    "another document": ('{"a": 1}', ["known format", "--format"]),
    "not UTF-8": (native().encode("utf-16"), ["must be UTF-8", "0xff", "offset 0"]),
    "binary": (bytes(range(256)), ["must be UTF-8"]),
    "a list of numbers": ("[1, 2]", ["first composition is 1", *FORMATS]),
    "nodes no array": ('{"nodes": {}, "links": []}', ["nodes must be an array", "an object of 0"]),
    "node no object": (native("5"), ["composition 1", "node 1 must be an object", "found 5"]),
    "link no object": (native(links="[]"), ["link 1 must be an object", "an array of 0"]),
    "id no text": (native('{"id": true}', ""), ["node 1: id", "found true"]),
    "no id": (native('{"mid": 1}', ""), ["node 1: id", "found nothing"]),
    "no links": ('{"nodes": [{"id": 1}]}', ["needs 'links'"]),
    "no nodes": ('{"nodes": [], "links": []}', ["at least one node"]),
    "id used twice": (native('{"id": 1}, {"id": "1"}', ""), ["node '1'", "found it twice"]),
    "dangling link": (native(links='{"source": "t", "target": "x"}'), ["'t' -> 'x'", "which is none"]),
    "no source": (native(links='{"target": "a"}'), ["link 1: source", "found nothing"]),
    "cycle": (native(links='{"source": "a", "target": "a"}'), ["closes a cycle", "--on-cycle break"]),
    "NaN": (native('{"id": NaN}', ""), ["must be finite", "found NaN"]),
    "infinity": (native('{"id": 1, "start_time": 1e999}', ""), ["start_time", "Infinity"]),
    "surrogate": (native('{"id": "\\ud800"}', ""), ["node 1: id", "lone surrogate"]),
    "huge integer": (native(f'{{"id": {"1" * 5000}}}', ""), ["not readable JSON", "4300 digits"]),
    "deep": ("[" * 100_000, ["nested too deeply"]),
    "deep inside": (native('{"id": ' + "[" * 990 + "]" * 990 + "}", ""), ["composition"]),
    "bad time": (native('{"id": 1, "start_time": "noon"}', ""), ["start_time", "ISO 8601", "noon"]),
    "nothing to learn": (native(links=""), []),
}


@pytest.mark.parametrize("kind", [kind for kind in MALFORMED if kind != "nothing to learn"])
def test_a_malformed_file_is_one_clear_line_and_status_1(kind: str, run: Run, tmp_path: Path) -> None:
    content, texts = MALFORMED[kind]
    file = tmp_path / "data.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = run("inspect", file)
    check_refused(done, 1, str(file), *texts)
    assert done.seconds < 5


@pytest.mark.parametrize("command", ["train", "evaluate", "bench"])
def test_data_without_anything_to_learn_are_refused(command: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(native(links=""))
    more = ["--store", tmp_path / "store"] if command == "train" else []
    done = run(command, file, "--model", "markov", *more)
    check_refused(done, 1, "learning needs compositions in which a service follows a node")
    assert not (tmp_path / "store").exists()


def test_a_file_of_100_mb_is_refused_by_its_size_and_read_within_seconds_when_allowed(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "data.json"
    with file.open("wb") as sparse:
        sparse.truncate(100_000_000)
    done = run("inspect", file)
    check_refused(done, 1, str(file), "a file may have 64 MB, found 100.0 MB", "--max-mb")
    assert done.seconds < 2
    done = run("inspect", file, "--max-mb", "200")
    check_refused(done, 1, str(file), "known format")
    assert done.seconds < 10


def test_one_very_long_line_is_refused_within_seconds(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_bytes(b'{"nodes": "' + b"a" * 50_000_000)
    done = run("inspect", file)
    check_refused(done, 1, str(file), "not JSON at line 1")
    assert done.seconds < 10


@pytest.mark.parametrize("place", ["nowhere.json", "empty folder", "/dev/null"])
def test_a_place_without_data_is_refused(place: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / place
    if place == "empty folder":
        path.mkdir()
    check_refused(run("inspect", path), 1, str(path), "found n")


def test_skipping_goes_on_and_counts(run: Run, tmp_path: Path) -> None:
    lines = [native()[1:-1], "{", native(links='{"source": "t", "target": "x"}')[1:-1], native()[1:-1]]
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(lines))
    result = json.loads(run("inspect", file, "--on-error", "skip", "--json").out)
    assert (result["compositions"], result["skipped"]) == (2, 2)
    assert result["skipped_by_rule"] == {"dangling-link": 1, "not-json": 1}
    shown = run("inspect", file, "--on-error", "skip")
    assert shown.status == 0
    assert [line.startswith("skipped: ") for line in shown.err.splitlines()] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["nobody"], ["No such command"]),
        (["inspect"], ["data"]),
        (["inspect", DATA, "--nobody"], ["--nobody"]),
        (["inspect", DATA, "--on-cycle", "ignore"], ["--on-cycle", "break"]),
        (["inspect", DATA, "--max-paths", "0"], ["--max-paths"]),
        (["inspect", DATA, "--max-mb", "0"], ["max_mb", "greater than or equal to 1"]),
        (["inspect", DATA, "--format", "xml"], ["no format 'xml'", *FORMATS]),
        (["inspect", DATA, "--table-mid", "("], ["table_mid", "not a regular expression"]),
        (["train", DATA], ["--store"]),
        (["train", DATA, "--store", "s", "--model", "nobody"], ["no recommender 'nobody'", *MODELS]),
        (["evaluate", DATA, "--set", "markov"], ["key=value", "'markov'"]),
        (["evaluate", DATA, "--model", "markov", "--set", "markov.mu=-1"], ["mu", "-1"]),
        (["evaluate", DATA, "--model", "markov", "--set", "markov.nu=1"], ["nu", "not permitted"]),
        (["evaluate", DATA, "--config", "nowhere.toml"], ["nowhere.toml", "cannot be read"]),
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
def test_wrong_usage_is_named_with_status_2(
    arguments: list[str | Path], texts: list[str], run: Run
) -> None:
    done = run(*arguments)
    assert done.status == 2, done
    assert done.out == ""
    assert "Traceback" not in done.err
    for text in texts:
        assert text in re.sub(r"[\s│]+", " ", done.err)


def test_the_installed_command_does_the_same(tmp_path: Path) -> None:
    """Everything else here calls its entry point in forked processes; this is the file in bin."""
    file = tmp_path / "data.json"
    file.write_text(native(links='{"source": "t", "target": "x"}'))
    for arguments, status in ((["inspect", file], 1), (["nobody"], 2), (["--help"], 0)):
        done = subprocess.run(
            [DAGREC, *arguments], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == status
        assert "Traceback" not in done.stderr
        assert bool(done.stdout) is (status == 0)


def test_inspect_counts_what_the_bundled_data_hold(run: Run) -> None:
    """The figures stand in data/README.md as well."""
    result = json.loads(run("inspect", DATA, "--json", "-").out)
    expected = {
        "compositions": 900,
        "paths": 1_171,
        "pairs": 1_791,
        "targets": 16,
        "nodes": 62,
        "links": 359,
        "distinct_contexts": 339,
        "owners": 6,
        "cycles": 0,
        "skipped": 0,
    }
    assert {name: result[name] for name in expected} == expected
    about = (DATA.parent / "README.md").read_text()
    for name in ("compositions", "paths", "pairs", "distinct_contexts"):
        assert f"{expected[name]:,}" in about


def test_inspect_counts_the_geoportal_within_two_seconds() -> None:
    if not GEOPORTAL.is_file():
        pytest.skip(f"{GEOPORTAL} is not part of the project")
    seconds = []
    while not seconds or (min(seconds) >= 2 and len(seconds) < 3):  # another may use the processor
        start = time.perf_counter()
        done = subprocess.run(
            [DAGREC, "inspect", GEOPORTAL, "--json"], capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2
    result = json.loads(done.stdout)
    expected = {
        "compositions": 943,
        "paths": 943,
        "pairs": 1_016,
        "targets": 15,
        "nodes": 50,
        "links": 97,
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
def test_json_comes_alone_on_standard_output_or_goes_to_a_file(
    arguments: list[str], run: Run, small: Path, tmp_path: Path
) -> None:
    arguments = [str(small) if argument == "SMALL" else argument for argument in arguments]
    alone, bare = run(*arguments, "--json", "-"), run(*arguments, "--json")
    file = tmp_path / "new" / "result.json"
    written = run(*arguments, "--json", file)
    assert [done.status for done in (alone, bare, written)] == [0, 0, 0]
    shapes = [shape_of(json.loads(text)) for text in (alone.out, bare.out, file.read_text())]
    assert shapes[0] == shapes[1] == shapes[2]
    assert f"written to {file}" in written.err


def shape_of(value: Any) -> Any:
    """Keys and types, without the values: those of times differ."""
    if isinstance(value, dict):
        return {key: shape_of(inner) for key, inner in value.items()}
    return [shape_of(inner) for inner in value] if isinstance(value, list) else type(value)


def test_a_place_where_nothing_can_be_written_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "result.json"
    done = run("formats", "--json", below)
    check_refused(done, 1, str(below), "cannot be written")
    check_refused(run("generate", "--out", below), 1, str(below), "cannot be written")
    done = run("train", DATA, "--store", below, *SMALL, "--measure", "0")
    check_refused(done, 1, str(below), "a bundle cannot be written there")


def test_a_reader_that_goes_away_is_no_crash() -> None:
    with subprocess.Popen(
        [DAGREC, "formats", "--json", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_full_disk_behind_standard_output_is_named() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([DAGREC, "formats"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"dagrec: the result cannot be written: No space left on device\n"


def test_equal_seeds_give_equal_bytes_apart_from_seconds(run: Run, small: Path) -> None:
    arguments = ["evaluate", small, *SMALL, *NETWORK, "--repeats", "2", "--json", "-"]
    texts = []
    for seed in ("1", "1", "2"):
        result = json.loads(run(*arguments, "--seed", seed).out)
        for model in result["models"].values():
            assert model.pop("seconds").keys() == {"fit", "score"}
        texts.append(json.dumps(result))
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_evaluate_shows_intervals_and_lines_to_read_them_against(run: Run, small: Path) -> None:
    done = run("evaluate", small, *SMALL, "--repeats", "3", "--protocol", "compositions")
    assert done.status == 0
    for text in ("markov", "popularity", "(random)", "(popularity)", "accuracy", "Best possible"):
        assert text in done.out
    assert "Traceback" not in done.err


def test_train_measures_and_predict_answers_from_what_it_published(run: Run, store: Path) -> None:
    done = run("predict", "--store", store, "--path", "table_1000000, service_301", "-k", "3", "--json")
    answer = json.loads(done.out)
    assert set(answer) == {
        *("model", "version", "mask", "candidates", "strategy", "terminal", "unknown", "predictions")
    }
    assert len(answer["predictions"]) == 3
    assert answer["version"] == (store / "current").read_text().strip()
    named = run("predict", "--store", store, "--path", "table_1000000,service_301", "-k", "3", "--json")
    assert named.out == done.out
    shown = run("predict", "--store", store, "--path", "table_1000000,service_301", "-k", "3")
    for prediction in answer["predictions"]:
        assert f"{prediction['probability']:.4f}" in shown.out


def test_predict_takes_a_composition_a_model_a_mask_and_a_version(
    run: Run, store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "composition.json"
    file.write_text(
        '{"composition": {"nodes": [{"id": "1000000"}, {"id": 5, "mid": 301}], '
        '"links": [{"source": "1000000", "target": 5}]}}'
    )
    more = [
        "--model",
        "gru4rec",
        "--mask",
        "soft",
        "--version",
        (store / "current").read_text().strip(),
    ]
    by_composition = run("predict", "--store", store, "--composition", file, "--json", *more)
    at = run("predict", "--store", store, "--composition", file, "--at", "5", "--json", *more)
    path = run("predict", "--store", store, "--path", "table_1000000,service_301", "--json", *more)
    assert by_composition.out == at.out == path.out
    answer = json.loads(path.out)
    assert (answer["model"], answer["mask"]) == ("gru4rec", "soft")


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--path", "a", "--model", "nobody"], ["model must be one of", "'nobody'"]),
        (["--path", "a", "--mask", "catalogue"], ["mask 'catalogue' needs links"]),
        (["--path", "a", "--at", "x"], ["at names a node of a composition"]),
        (["--path", "a", "--version", "x"], ["x/manifest.json", "cannot be read"]),
        (["--composition", "nowhere.json"], ["nowhere.json: cannot be read"]),
        (["--contexts", "nowhere.jsonl"], ["nowhere.jsonl: cannot be read"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_prediction_that_cannot_be_made_is_refused(
    arguments: list[str], texts: list[str], run: Run, store: Path
) -> None:
    check_refused(run("predict", "--store", store, *arguments), 1, *texts)


def test_predict_from_an_empty_store_says_how_to_fill_it(run: Run, tmp_path: Path) -> None:
    done = run("predict", "--store", tmp_path, "--path", "a")
    check_refused(done, 1, str(tmp_path), "dagrec train DATA --store")


def test_contexts_are_answered_line_by_line_in_order(run: Run, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "contexts.jsonl"
    file.write_text('{"path": ["service_301"]}\n\n{"path": ["service_302"], "k": 1}\n')
    done = run("predict", "--store", store, "--contexts", file, "-k", "2", "--json", "-")
    assert (done.status, done.err) == (0, "")
    answers = [json.loads(line) for line in done.out.splitlines()]
    for answer, path, k in zip(answers, ("service_301", "service_302"), (2, 1), strict=True):
        one = run("predict", "--store", store, "--path", path, "-k", str(k), "--json")
        assert answer == json.loads(one.out)


def test_a_wrong_context_is_answered_in_its_place_and_fails_the_command(
    run: Run, store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "contexts.jsonl"
    file.write_text('{"path": "a"}\n{"path": ["service_302"]}\n')
    done = run("predict", "--store", store, "--contexts", file)
    first, second = (json.loads(line) for line in done.out.splitlines())
    assert first["error"].startswith("line 1: path")
    assert second["predictions"]
    assert done.status == 1
    assert done.err == f"dagrec: {file}: 1 requests could not be answered; see their lines\n"


def test_a_catalogue_is_the_mask_and_what_it_names_in_vain_is_told(
    run: Run, small: Path, tmp_path: Path
) -> None:
    links, store = tmp_path / "links.json", tmp_path / "store"
    links.write_text('[["service_301", "service_302"], ["nobody", "service_302"]]')
    arguments = ["train", small, "--store", store, "--model", "markov", "--measure", "0"]
    done = run(*arguments, "--catalogue", links, "--mask", "catalogue")
    assert done.status == 0
    assert "1 declared links name a node or service that no example has" in done.err
    answer = json.loads(run("predict", "--store", store, "--path", "service_301", "--json").out)
    assert [p["service"] for p in answer["predictions"]] == ["service_302"]
    links.write_text('[["service_301"]]')
    done = run(*arguments, "--catalogue", links)
    check_refused(done, 1, str(links), "link 1: must be [source key, service key], found 1 items")


def test_keys_in_brackets_are_shown_as_they_stand(run: Run, tmp_path: Path) -> None:
    """rich takes [/b] for markup, and fails at it."""
    file = tmp_path / "[bold]data.json"
    keys = ("[/b]", "[red]x")
    nodes = '{"id": "t"}, ' + ", ".join(f'{{"id": "{key}", "key": "{key}"}}' for key in keys)
    file.write_text(native(nodes, ", ".join(f'{{"source": "t", "target": "{key}"}}' for key in keys)))
    assert "[bold]data.json" in run("inspect", file).out
    run("train", file, "--store", tmp_path / "s", "--model", "markov", "--measure", "0")
    shown = run("predict", "--store", tmp_path / "s", "--path", "table_t")
    assert shown.status == 0
    assert all(key in shown.out for key in keys)


def test_generate_draws_the_bundled_data_again(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "new" / "compositions.json"
    done = run("generate", "--out", file)
    assert done.status == 0
    assert file.read_bytes() == DATA.read_bytes()
    best = re.search(r"best possible accuracy\s+(\S+)", done.out)
    assert best
    assert best[1] in (DATA.parent / "README.md").read_text()


def test_models_and_formats_are_those_of_the_registries(run: Run) -> None:
    models = json.loads(run("models", "--json").out)
    assert [model["name"] for model in models] == list(MODELS)
    table = run("models").out
    for model in models:
        assert re.search(
            rf"^{model['name']} +{model['family']} .* {len(model['hyperparameters'])}$",
            table,
            re.MULTILINE,
        )
    shown = re.sub(r"\s+", " ", run("models", "markov", "gru4rec").out)
    for model in json.loads(run("models", "markov", "gru4rec", "--json").out):
        assert f"{model['name']} ({model['family']}; {model['paper']})" in shown
        for name, about in model["hyperparameters"].items():
            assert f"{name} = {about['default']}: {about['about']}" in shown
    formats = json.loads(run("formats", "--json").out)
    assert [format_["name"] for format_ in formats] == list(FORMATS)
    shown = run("formats").out
    assert all(format_["name"] in shown for format_ in formats)


def commands() -> dict[str, Any]:
    found: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_and_every_option_explains_itself(name: str, run: Run) -> None:
    described = commands()[name]
    done = run(name, "--help")
    assert (done.status, done.err) == (0, "")
    shown = re.sub(r"[\s│]+", " ", done.out)
    assert re.sub(r"\s+", " ", described.help).split(".")[0] in shown
    for parameter in described.params:
        about = parameter.help or ""
        words = re.sub(r"\[default.*", "", about).strip()
        assert len(words.split()) > 1, f"{name} {parameter.name}: says nothing of itself"
        for text in (parameter.opts[-1], words.split()[0]):
            assert text in shown
        if "[default" in about:
            assert re.search(r"\[default.*\]", about)[0].split()[0] in shown  # type: ignore[index]


def test_help_names_every_command(run: Run) -> None:
    shown = run("--help").out
    assert all(name in shown for name in commands())
    assert run().status == 2
