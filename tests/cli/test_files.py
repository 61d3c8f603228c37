"""Malformed and large data files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dagrec.data.formats import FORMATS
from tests.cli.commands import Run, assert_fails, native

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
    "dangling link": (
        native(links='{"source": "t", "target": "x"}'),
        ["'t' -> 'x'", "which does not exist"],
    ),
    "no source": (native(links='{"target": "a"}'), ["link 1: source", "found nothing"]),
    "cycle": (native(links='{"source": "a", "target": "a"}'), ["closes a cycle", "--on-cycle break"]),
    "NaN": (native('{"id": NaN}', ""), ["must be finite", "found NaN"]),
    "infinity": (native('{"id": 1, "start_time": 1e999}', ""), ["start_time", "Infinity"]),
    "surrogate": (native('{"id": "\\ud800"}', ""), ["node 1: id", "lone surrogate"]),
    "huge integer": (native(f'{{"id": {"1" * 5000}}}', ""), ["not readable JSON", "4300 digits"]),
    "deep": ("[" * 100_000, ["nested too deeply"]),
    "deep inside": (native('{"id": ' + "[" * 990 + "]" * 990 + "}", ""), ["composition"]),
    "bad time": (native('{"id": 1, "start_time": "noon"}', ""), ["start_time", "ISO 8601", "noon"]),
    "no examples": (native(links=""), []),
}


@pytest.mark.parametrize("kind", [kind for kind in MALFORMED if kind != "no examples"])
def test_malformed_file_gives_one_error_line_and_status_1(kind: str, run: Run, tmp_path: Path) -> None:
    content, texts = MALFORMED[kind]
    file = tmp_path / "data.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    completed = run("inspect", file)
    assert_fails(completed, 1, str(file), *texts)
    assert completed.seconds < 5


@pytest.mark.parametrize("command", ["train", "evaluate", "bench"])
def test_data_without_examples_fail(command: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(native(links=""))
    options = ["--store", tmp_path / "store"] if command == "train" else []
    completed = run(command, file, "--model", "markov", *options)
    assert_fails(completed, 1, "training needs compositions in which a service follows a node")
    assert not (tmp_path / "store").exists()


def test_file_size_is_limited(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    with file.open("wb") as sparse:
        sparse.truncate(100_000_000)
    completed = run("inspect", file)
    assert_fails(completed, 1, str(file), "a file may have 64 MB, found 100.0 MB", "--max-mb")
    assert completed.seconds < 2
    completed = run("inspect", file, "--max-mb", "200")
    assert_fails(completed, 1, str(file), "known format")
    assert completed.seconds < 10


def test_very_long_line_fails_within_seconds(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_bytes(b'{"nodes": "' + b"a" * 50_000_000)
    completed = run("inspect", file)
    assert_fails(completed, 1, str(file), "not JSON at line 1")
    assert completed.seconds < 10


@pytest.mark.parametrize("place", ["missing.json", "empty folder", "/dev/null"])
def test_path_without_data_fails(place: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / place
    if place == "empty folder":
        path.mkdir()
    found = "found it empty" if place == "/dev/null" else "found n"
    assert_fails(run("inspect", path), 1, str(path), found)


def test_on_error_skip_counts_skipped_compositions(run: Run, tmp_path: Path) -> None:
    lines = [native()[1:-1], "{", native(links='{"source": "t", "target": "x"}')[1:-1], native()[1:-1]]
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(lines))
    result = json.loads(run("inspect", file, "--on-error", "skip", "--json").out)
    assert (result["compositions"], result["skipped"]) == (2, 2)
    assert result["skipped_by_rule"] == {"dangling-link": 1, "not-json": 1}
    completed = run("inspect", file, "--on-error", "skip")
    assert completed.status == 0
    lines = [line.partition(":")[0] for line in completed.err.splitlines()]
    assert lines[:2] == ["skipped", "skipped"]
    assert lines[2].startswith("read 2 compositions (native); one example for every step of every path")
