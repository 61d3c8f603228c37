"""Error messages of readers name the file, the position, the field, the rule and the value."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dagrec.data.formats import FORMATS, ReadOptions, read
from dagrec.errors import ConfigError, DataError
from tests.contract.samples import SAMPLES, Json, names, read_error, replaced, write

OBJECT, ARRAY, ID, TEXT = "an object", "an array", "a non-empty string or an integer", "a string"
TIME = "ISO 8601, or seconds, milliseconds or microseconds since 1970, from 1970 to 2099"

# (place, value, rule, part of the message) for the second document of a file.
NATIVE: list[tuple[str, Json, str, str]] = [
    ("", 5, "wrong-type", f"a composition must be {OBJECT}, found 5"),
    ("composition", [], "wrong-type", f"composition must be {OBJECT}, found an array of 0"),
    ("id", 1.5, "wrong-type", f"id must be {ID}, found 1.5"),
    ("id", "", "missing-id", f'id must be {ID}, found ""'),
    ("owner", [], "wrong-type", f"owner must be {ID}, found an array of 0"),
    ("time", "noon", "bad-time", f'time must be {TIME}, found "noon"'),
    ("time", float("inf"), "bad-time", f"time must be {TIME}, found Inf"),
    ("nodes", "x", "wrong-type", f'nodes must be {ARRAY}, found "x"'),
    ("nodes", {}, "wrong-type", f"nodes must be {ARRAY}, found an object of 0"),
    ("nodes", None, "wrong-type", f"nodes must be {ARRAY}, found nothing"),
    ("nodes", [], "no-nodes", "a composition needs at least one node, found none"),
    ("nodes/1", "x", "wrong-type", f'node 2 must be {OBJECT}, found "x"'),
    ("nodes/1/id", None, "missing-id", f"node 2: id must be {ID}, found nothing"),
    ("nodes/1/id", {}, "wrong-type", f"node 2: id must be {ID}, found an object of 0"),
    ("nodes/1/id", "1", "duplicate-id", "node '1': an id may occur once"),
    ("nodes/1/mid", True, "wrong-type", f"node 2: mid must be {ID}, found true"),
    ("nodes/2/key", "", "missing-id", f'node 3: key must be {ID}, found ""'),
    ("nodes/2/kind", 3, "wrong-type", f"node 3: kind must be {TEXT}, found 3"),
    ("nodes/1/text", [1], "wrong-type", f"node 2: text must be {TEXT}, found an array of 1"),
    ("nodes/1/owner", 0.5, "wrong-type", f"node 2: owner must be {ID}, found 0.5"),
    ("nodes/1/start_time", True, "bad-time", f"node 2: start_time must be {TIME}, found true"),
    ("nodes/1/time", 10**40, "bad-time", f"node 2: start_time must be {TIME}, found 1000"),
    ("links", {"a": 1}, "wrong-type", f"links must be {ARRAY}, found an object of 1"),
    ("links/0", ["1", "2"], "wrong-type", f"link 1 must be {OBJECT}, found an array of 2"),
    ("links/0/source", None, "missing-id", f"link 1: source must be {ID}, found nothing"),
    ("links/0/target", 2.0, "wrong-type", f"link 1: target must be {ID}, found 2.0"),
    ("links/0/source", "9", "dangling-link", "its source must be the id of a node"),
]
N8N: list[tuple[str, Json, str, str]] = [
    ("id", {}, "wrong-type", f"id must be {ID}, found an object of 0"),
    ("owner", False, "wrong-type", f"owner must be {ID}, found false"),
    ("updatedAt", "noon", "bad-time", f'updatedAt must be {TIME}, found "noon"'),
    ("updatedAt", [], "bad-time", f"updatedAt must be {TIME}, found an array of 0"),
    ("nodes", 1, "wrong-type", f"nodes must be {ARRAY}, found 1"),
    ("nodes/0", None, "wrong-type", f"node 1 must be {OBJECT}, found nothing"),
    ("nodes/0/name", None, "missing-id", f"node 1: name must be {ID}, found nothing"),
    ("nodes/0/type", [], "wrong-type", f"node 1 (1): type must be {ID}, found an array of 0"),
    ("connections", [], "wrong-type", f"connections must be {OBJECT}, found an array of 0"),
    (
        "connections/x",
        {"main": [[{"node": "1"}]]},
        "link-by-id",
        'connections must name nodes, found the id "x"; use the name "1"',
    ),
    ("connections/1", 1, "wrong-type", f"connections of '1' must be {OBJECT}, found 1"),
    ("connections/1/main", 1, "wrong-type", f"connections of '1', 'main' must be {ARRAY}, found 1"),
    ("connections/1/main/0", 1, "wrong-type", f"'main' must be {ARRAY}, found 1"),
    ("connections/1/main/0/0", 1, "wrong-type", f"'main' must be {OBJECT}, found 1"),
    ("connections/1/main/0/0/node", None, "missing-id", f"'main': node must be {ID}, found nothing"),
]
GA: list[tuple[str, Json, str, str]] = [
    ("uuid", {}, "wrong-type", f"uuid must be {ID}, found an object of 0"),
    ("steps", [], "wrong-type", f"steps of the workflow must be {OBJECT}, found an array of 0"),
    ("steps/1", 1, "wrong-type", f"step 1 must be {OBJECT}, found 1"),
    ("steps/1/label", 1, "wrong-type", f"step 1: label must be {TEXT}, found 1"),
    ("steps/2/type", [], "wrong-type", f"step 2: type must be {TEXT}, found an array of 0"),
    ("steps/2/tool_id", [], "wrong-type", f"step 2: tool_id must be {ID}, found an array of 0"),
    (
        "steps/2/input_connections",
        [1],
        "wrong-type",
        f"step 2: input_connections must be {OBJECT}, found an array of 1",
    ),
    (
        "steps/2/input_connections/a",
        "1",
        "wrong-type",
        f"step 2: input 'a' must be {OBJECT}, found \"1\"",
    ),
    (
        "steps/2/input_connections/a/id",
        None,
        "missing-id",
        f"step 2: id must be {ID}, found nothing",
    ),
    (
        "steps/2/input_connections/a/id",
        "8",
        "dangling-link",
        "link '8' -> '2': its source must be a step of the workflow",
    ),
    (
        "steps/2/input_connections/a/output_name",
        [[]],
        "wrong-type",
        f"step 2: output_name must be {TEXT}, found an array of 1",
    ),
]


@pytest.mark.parametrize(
    ("format_", "place", "value", "rule", "message"),
    [
        pytest.param(name, *row, id=f"{name} {row[0]} {i}")
        for name, rows in (("native", NATIVE), ("n8n", N8N), ("galaxy-ga", GA))
        for i, row in enumerate(rows)
    ],
)
def test_invalid_field_value_is_named(
    format_: str, place: str, value: Json, rule: str, message: str, tmp_path: Path
) -> None:
    document = SAMPLES[format_].document("7")
    steps: list[str | int] = []
    here = document
    for step in place.split("/") if place else ():
        steps.append(int(step) if isinstance(here, list) else step)
        here = here[steps[-1]] if isinstance(here, list) else here.get(step)
    text = json.dumps([document, replaced(document, tuple(steps), value)])
    # JSON has no infinity, but a number too large for a float is read as one.
    file = write(tmp_path, text.replace("Infinity", "1e999"))
    error = read_error(file)
    assert error.rule == rule
    assert str(error).startswith(f"{file}: composition 2: ")
    assert message in str(error)


GOOD = "7\t2024-05-01\t1\tcut\t1\t2\tjoin\t1"
COLUMNS = "line 2: a row needs at least 8 tab-separated columns"


@pytest.mark.parametrize(
    ("row", "rule", "message"),
    [
        ("7\t2024-05-01\t1\tcut\t1\t2\tjoin", "bad-row", COLUMNS),
        ("\t2024-05-01\t1\tcut\t1\t2\tjoin\t1", "bad-row", COLUMNS),
        ("7\t2024-05-01\t\tcut\t1\t2\tjoin\t1", "bad-row", COLUMNS),
        ("7\t2024-05-01\t1\tcut\t1\t\tjoin\t1", "bad-row", COLUMNS),
        (
            "7\tnoon\t1\tcut\t1\t3\tjoin\t1",
            "bad-time",
            f'workflow 7: line 2: updated must be {TIME}, found "noon"',
        ),
        (
            "7\t\t2\tcut\t1\t3\tjoin\t1",
            "two-tools",
            'line 2: step \'2\' must have one tool, found "cut" after "join"',
        ),
    ],
)
def test_invalid_row_of_galaxy_connections_is_named(
    row: str, rule: str, message: str, tmp_path: Path
) -> None:
    file = write(tmp_path, "\n".join([GOOD, row, GOOD.replace("7", "8", 1)]))
    error = read_error(file)
    assert error.rule == rule
    assert message in str(error)
    dataset = read(file, ReadOptions(on_error="skip"))
    assert dict(dataset.report.skipped) == {rule: 1}
    assert dataset.compositions[-1].id == "8"


@pytest.mark.parametrize(
    ("row", "rule", "message"),
    [
        ("ann;cut", "bad-row", "a row needs 3 columns, found 2"),
        (";cut;2024-05-01", "missing-id", f'owner must be {ID}, found ""'),
        ("ann; ;2024-05-01", "missing-id", f'service must be {ID}, found ""'),
        ("ann;cut;", "bad-time", "a call needs a time, found nothing"),
        ("ann;cut;noon", "bad-time", f'time must be {TIME}, found "noon"'),
        (f"ann;{'x' * 200_000};2024-05-01", "bad-row", "field larger than field limit"),
    ],
    ids=lambda text: text[:20],
)
def test_invalid_row_of_call_log_is_named(row: str, rule: str, message: str, tmp_path: Path) -> None:
    good = "eve;cut;2024-05-01"
    file = write(tmp_path, "\n".join(["owner;service;time", "", good, row, good]))
    error = read_error(file)
    assert error.rule == rule
    assert str(error).startswith(f"{file}: line 4: ")
    assert message in str(error)
    dataset = read(file, ReadOptions(on_error="skip"))
    assert dict(dataset.report.skipped) == {rule: 1}
    assert [node.id for node in dataset.compositions[0].nodes] == ["3", "5"]


# Empty files and unknown formats


@pytest.mark.parametrize("text", ["", "\n", " \t\r\n", "\ufeff", "\ufeff\n"])
def test_empty_file_is_rejected(text: str, tmp_path: Path) -> None:
    error = read_error(write(tmp_path, text))
    assert error.rule == "empty"
    assert "a file must hold compositions, found it empty; check the file" in str(error)


@pytest.mark.parametrize(
    ("text", "rule", "message"),
    [
        ("[1]", "unknown-format", "found JSON whose first composition is 1;"),
        ("[[]]", "unknown-format", "found JSON whose first composition is an array of 0;"),
        ("[null]", "unknown-format", "found JSON whose first composition is nothing;"),
        (
            '{"vertices": []}',
            "unknown-format",
            'found JSON whose first object has the fields "vertices";',
        ),
        ("true", "unknown-format", 'found text that is not JSON and begins with "true";'),
        ("nodes, links", "unknown-format", "found text that is not JSON and begins with"),
        ("x" * 200_000, "unknown-format", "found text that is not JSON and begins with"),
        ('["]', "not-json", "not JSON at line 1, column 2"),
        ("[1,", "not-json", "not JSON at line 1, column 4"),
    ],
    ids=lambda text: text[:20],
)
def test_unknown_format_is_rejected(text: str, rule: str, message: str, tmp_path: Path) -> None:
    error = read_error(write(tmp_path, text))
    assert error.rule == rule
    assert message in str(error)
    known = f"a known format ({', '.join(FORMATS)})"
    assert (known in str(error)) == (rule == "unknown-format")


# Any table is a list of paths to somebody who names that format.
@pytest.mark.parametrize("format_", [name for name in FORMATS if name != "paths"])
def test_file_of_other_than_named_format_is_rejected(format_: str, tmp_path: Path) -> None:
    other = SAMPLES["native" if SAMPLES[format_].is_table else "galaxy-tsv"]
    error = read_error(write(tmp_path, other.text(other.document("7"))), ReadOptions(format=format_))
    assert error.rule == ("unknown-format" if SAMPLES[format_].is_table else "not-json")


def test_unknown_format_name_lists_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no format 'xml'; there are auto, {', '.join(FORMATS)}"):
        read(write(tmp_path, "[]"), ReadOptions(format="xml"))


def test_missing_path_is_rejected(tmp_path: Path) -> None:
    error = read_error(tmp_path / "absent.json")
    assert error.rule == "no-file"
    assert "must be a file or a folder, found neither" in str(error)


def test_empty_folder_is_rejected(tmp_path: Path) -> None:
    assert read_error(tmp_path).rule == "empty"


def test_invalid_unicode_in_file_name_is_rejected_with_printable_message(tmp_path: Path) -> None:
    sample = SAMPLES["native"]
    text = sample.text(sample.document("7"))
    try:
        bad = write(tmp_path, text, os.fsdecode(b"\xff.json"))
    except OSError as error:
        pytest.skip(f"the file system does not allow such names: {error}")
    with pytest.raises(DataError) as caught:
        read(bad)
    assert caught.value.rule == "surrogate"
    assert (
        str(caught.value)
        .encode()
        .startswith(os.fsencode(tmp_path) + rb"/\udcff.json: the path of a file")
    )
    write(tmp_path, text, "good.json")
    dataset = read(tmp_path, ReadOptions(on_error="skip"))
    assert names(dataset) == ["7"]
    assert dict(dataset.report.skipped) == {"surrogate": 1}
    assert all(problem.encode() for problem in dataset.report.problems)


# Folders


def test_folder_can_mix_formats(tmp_path: Path) -> None:
    for number, sample in enumerate(SAMPLES.values()):
        write(tmp_path, sample.text(sample.document(str(number))), f"{number:02}.json")
    dataset = read(tmp_path)
    assert names(dataset) == [str(number) for number in range(len(SAMPLES))]
    assert dict(dataset.report.formats) == dict.fromkeys(SAMPLES, 1)


def test_advance_counts_compositions(tmp_path: Path) -> None:
    counts: list[int] = []
    sample = SAMPLES["native"]
    file = write(tmp_path, sample.text(*(sample.document(str(i)) for i in range(5))))
    read(file, advance=counts.append)
    assert sum(counts) == 5


def test_missing_composition_id_is_file_and_position(tmp_path: Path) -> None:
    without_id = {"nodes": [{"id": 1, "mid": 2}], "links": []}
    broken: Json = {"nodes": [], "links": []}
    write(tmp_path, json.dumps([without_id, broken, without_id]), "a/x.json")
    write(tmp_path, json.dumps([without_id]), "b/x.json")
    dataset = read(tmp_path, ReadOptions(on_error="skip"))
    assert [c.id for c in dataset.compositions] == ["x-1", "x-3", "x-4"]
