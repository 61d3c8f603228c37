"""The reader of lists of paths."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.dataset import Dataset
from dagrec.data.formats import ReadOptions, read, read_composition
from dagrec.data.formats.base import Reading
from dagrec.data.formats.content import Content
from dagrec.data.formats.paths import FORMAT
from dagrec.errors import DataError
from tests.checks import says

Json = Any
NOON = 1_714_564_800.0
PATHS = [["clean", "plot"], ["clean", "join", "plot"], [7]]
KEYS = [["clean", "plot"], ["clean", "join", "plot"], ["7"]]


def load(folder: Path, text: str, name: str = "paths.json", **options: object) -> Dataset:
    file = folder / name
    file.write_text(text)
    return read(file, ReadOptions.model_validate(options))


def keys(dataset: Dataset) -> list[list[str]]:
    return [[node.key for node in composition.nodes] for composition in dataset]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PATHS),
        json.dumps(PATHS, indent=1),
        "\n".join(map(json.dumps, PATHS)),
        "\n\n".join(map(json.dumps, PATHS)) + "\n",
        json.dumps([{"path": path} for path in PATHS]),
        "\n".join(json.dumps({"path": path}) for path in PATHS),
    ],
)
def test_each_path_is_composition_of_services(text: str, tmp_path: Path) -> None:
    dataset = load(tmp_path, text)
    assert dict(dataset.report.formats) == {"paths": 1}
    assert dataset.form == "paths"
    assert keys(dataset) == KEYS
    assert {node.kind for composition in dataset for node in composition.nodes} == {"service"}
    assert [c.links for c in dataset] == [(("1", "2"),), (("1", "2"), ("2", "3")), ()]
    assert [c.id for c in dataset] == ["paths-1", "paths-2", "paths-3"]


def test_fields_of_paths_are_read(tmp_path: Path) -> None:
    value = {"id": 5, "path": ["a", "a"], "owner": 3, "time": "2024-05-01T12:00", "goal": " Sell "}
    (composition,) = load(tmp_path, json.dumps(value))
    assert (composition.id, composition.owner) == ("5", "3")
    assert (composition.time, composition.goal) == (NOON, "Sell")
    assert composition.links == (("1", "2"),)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("clean,plot\nclean,join,plot\n7\n", "paths.csv"),
        ("clean,plot,\n\nclean,join,plot\n7,,\n", "paths"),
        ("clean\tplot\nclean\tjoin\tplot\n7\n", "paths.tsv"),
        ("clean plot\nclean join plot\n7\n", "paths.txt"),
        ("7\nclean;plot\nclean;join;plot\n", "paths"),
        ('"clean", plot \nclean,"join",plot\n"7"\n', "paths.csv"),
    ],
)
def test_rows_of_keys_are_paths_if_format_is_named(text: str, name: str, tmp_path: Path) -> None:
    dataset = load(tmp_path, text, name, format="paths")
    assert sorted(keys(dataset)) == sorted(KEYS)
    with pytest.raises(DataError) as error:
        load(tmp_path, text, name)
    assert error.value.rule == "unknown-format"


def test_keys_in_csv_can_have_spaces(tmp_path: Path) -> None:
    assert keys(load(tmp_path, "clean up\nplot it\n", "a.csv", format="paths")) == [
        ["clean up"],
        ["plot it"],
    ]


@pytest.mark.parametrize("text", ['["a", "b"]', '["a"]\n'])
def test_one_array_of_keys_is_a_path_if_format_is_named(text: str, tmp_path: Path) -> None:
    assert keys(load(tmp_path, text, format="paths")) == [json.loads(text)]
    with pytest.raises(DataError, match="its content must be that of a known format"):
        load(tmp_path, text)


def test_path_in_a_request_is_read() -> None:
    for value in ([["a", "b"]], {"path": ["a", "b"]}):
        assert [n.key for n in read_composition(value).nodes] == ["a", "b"]
    with pytest.raises(DataError) as error:
        read_composition([["a"], ["b"]])
    assert says(error, "one composition (paths), found several")


@pytest.mark.parametrize(
    ("bad", "rule", "message"),
    [
        ([], "no-nodes", "a path needs at least one key, found none"),
        (["a", ""], "missing-id", 'key 2 must be a non-empty string or an integer, found ""'),
        ([0.5], "wrong-type", "key 1 must be a non-empty string or an integer, found 0.5"),
        ([True], "wrong-type", "key 1 must be"),
        (["x" * 1001], "long-key", "key 1 may have 1000 characters"),
        (5, "wrong-type", "a path must be an array, found 5"),
        ({"path": "a"}, "wrong-type", 'path must be an array, found "a"'),
        ({"keys": []}, "missing-field", "a path needs 'path', an array of keys"),
        ({"path": ["a"], "time": "noon"}, "bad-time", "time must be"),
        ({"path": ["a"], "owner": []}, "wrong-type", "owner must be"),
    ],
)
def test_invalid_path_is_named_or_skipped(bad: Json, rule: str, message: str, tmp_path: Path) -> None:
    text = json.dumps([["a"], bad, ["b"]])
    with pytest.raises(DataError) as error:
        load(tmp_path, text)
    assert error.value.rule == rule
    assert says(error, f"paths.json: composition 2: {message}")
    dataset = load(tmp_path, text, on_error="skip")
    assert keys(dataset) == [["a"], ["b"]]
    assert dict(dataset.report.skipped) == {rule: 1}


@pytest.mark.parametrize(
    ("text", "rule", "place"),
    [
        ('["a"]\n["b"\n["c"]', "not-json", "line 2: not JSON"),
        ('["a"]\n[]\n["c"]', "no-nodes", "line 2: a path needs"),
    ],
)
def test_invalid_line_is_named_or_skipped(text: str, rule: str, place: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, text)
    assert error.value.rule == rule
    assert says(error, place)
    assert keys(load(tmp_path, text, on_error="skip")) == [["a"], ["c"]]


def test_empty_cell_between_keys_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, "a,b\na,,b\n", "paths.csv", format="paths")
    assert says(error, "line 2: key 2 must be")


@pytest.mark.parametrize(
    "text",
    [
        "[[]]",
        "[1]",
        '[[["a"]]]',
        '[["a", null]]',
        "[[1.5]]",
        '[["a", {}]]',
        '{"path": "/tmp"}',
        '{"path": [["a"]]}',
        '{"path": ["a"], "nodes": [], "links": []}',
        "a,b\n",
    ],
)
def test_other_text_is_not_recognised(text: str) -> None:
    assert not FORMAT.recognises(Content(text), ReadOptions())


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5)
LISTS = st.lists(st.lists(NAMES, min_size=1, max_size=4), min_size=1, max_size=4)


def read_keys(content: Content) -> list[list[str]]:
    return [
        [node.key for node in document.draft().nodes]
        for document in FORMAT.documents(content, Reading())
    ]


@given(written=LISTS, lines=st.booleans())
def test_written_json_is_read_again(written: list[list[str]], lines: bool) -> None:
    text = "\n".join(map(json.dumps, written)) if lines and len(written) > 1 else json.dumps(written)
    content = Content(text)
    assert FORMAT.recognises(content, ReadOptions())
    assert read_keys(content) == written


@given(written=LISTS)
def test_written_csv_is_read_again(written: list[list[str]]) -> None:
    # A file that begins as JSON is JSON.
    stripped = [[name.strip("[{ ").strip() or "x" for name in path] for path in written]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(stripped)
    assert read_keys(Content(file.getvalue(), "a.csv")) == stripped
