"""Rules that every format of the registry obeys, and what no file whatsoever may do to a reader."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagrec.data.compositions import Composition
from dagrec.data.formats import FORMATS, Dataset, ReadOptions, read, read_composition
from dagrec.errors import ConfigError, DataError

Json = Any
Step = str | int
HUGE = "9" * 5000
"""More digits than Python turns into an integer."""


# One small composition per format: an input feeds a cut, both feed a join. `number` is the type of the
# ids where the format lets a writer choose; `back` adds the link join -> cut, `broken` breaks a rule.


def native(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    links = [(1, 2), (2, 3), (1, 3)] + [(3, 2)] * back + [(1, 9)] * broken
    return {
        "id": id_,
        "owner": "ann",
        "nodes": [
            {"id": number(1)},
            {"id": number(2), "mid": number(308), "text": "cut", "start_time": "2024-05-01T10:00:00Z"},
            {"id": number(3), "key": "join", "kind": "service", "owner": "ann"},
        ],
        "links": [{"source": number(a), "target": number(b)} for a, b in links],
    }


def n8n(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    ends = [{"node": number(2), "type": "main", "index": 0}]
    return {
        "id": id_,
        "owner": "ann",
        "updatedAt": "2024-05-01T10:00:00Z",
        "nodes": [
            {"id": "x", "name": number(1), "type": "base.webhook", "notes": "start"},
            {"id": "y", "name": number(2), "type": "base.set"},
            {"id": "z", "name": number(3), "type": "base.merge"},
        ],
        "connections": {
            "1": {"main": [ends, None, [{"node": number(3)}]]},
            "2": {"main": [[{"node": number(3)}]]} | ({"ai_tool": [[{"node": "9"}]]} if broken else {}),
            "3": {"main": [[{"node": number(2)}]] if back else [[]]},
        },
    }


def galaxy_ga(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    def wire(step: int) -> Json:
        return {"id": number(step), "output_name": "out"}

    toolshed = "toolshed.g2.bx.psu.edu/repos/devteam/cutter/cut/1.0"
    return {
        "a_galaxy_workflow": "true",
        "uuid": id_,
        "name": "a workflow",
        "steps": {
            "1": {"id": 1, "type": "data_input", "tool_id": None, "label": "reads"},
            "2": {
                "id": 2,
                "type": "tool",
                "tool_id": toolshed,
                "input_connections": {"a": wire(1), "b": [wire(3)] if back else []},
            },
            "3": {
                "id": 3,
                "type": "tool",
                "tool_id": "join",
                "input_connections": {"a": [wire(2), wire(1)]} | ({"b": wire(9)} if broken else {}),
                "workflow_outputs": [{"output_name": "out", "label": "joined"}],
            },
        },
    }


def galaxy_tsv(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    tools = {1: "", 2: "toolshed.g2.bx.psu.edu/repos/devteam/cutter/cut/1.0", 3: "join"}
    links = [(1, 2), (2, 3), (1, 3)] + [(3, 2)] * back
    time = "yesterday" if broken else "2024-05-01 10:00:00"
    return "".join(f"{id_}\t{time}\t{a}\t{tools[a]}\t1\t{b}\t{tools[b]}\t1\tin\n" for a, b in links)


@dataclass(frozen=True)
class Sample:
    """A format's composition, and what must be read from it."""

    document: Callable[..., Json]
    keys: tuple[str, str, str]
    kinds: tuple[str, str, str]
    rule: str
    found: str
    """The rule that the broken document breaks, and the value that the message shows."""

    def text(self, *documents: Json) -> str:
        """A file of these documents: a JSON array, or the rows of all."""
        if all(isinstance(document, str) for document in documents):
            return "".join(documents)
        return json.dumps(documents)


SAMPLES = {
    "native": Sample(
        native,
        ("table_1", "service_308", "join"),
        ("table", "service", "service"),
        "dangling-link",
        "'9'",
    ),
    "n8n": Sample(
        n8n, ("base.webhook", "base.set", "base.merge"), ("service",) * 3, "dangling-link", '"9"'
    ),
    "galaxy-ga": Sample(
        galaxy_ga, ("__input__", "cut", "join"), ("data", "service", "service"), "dangling-link", "'9'"
    ),
    "galaxy-tsv": Sample(
        galaxy_tsv,
        ("__input__", "cut", "join"),
        ("data", "service", "service"),
        "bad-time",
        '"yesterday"',
    ),
}
LINKS = {("1", "2"), ("2", "3"), ("1", "3")}
JSON_FORMATS = sorted(name for name, format_ in FORMATS.items() if not format_.rows)


def put(folder: Path, text: str | bytes, name: str = "file.txt") -> Path:
    """A file with this content; the name says nothing about the format."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def failure(path: Path, options: ReadOptions | None = None) -> DataError:
    """The error of reading, whose text a person can be shown."""
    with pytest.raises(DataError) as caught:
        read(path, options)
    text = str(caught.value)
    assert str(path) in text
    text.encode()
    assert "{" not in text
    assert "}" not in text
    return caught.value


def content(composition: Composition) -> tuple[object, ...]:
    nodes = [(node.id, node.key, node.kind) for node in composition.nodes]
    return composition.id, nodes, set(composition.links)


# ---- what every format does


def check_is_recognised_by_its_content(name: str, sample: Sample, folder: Path) -> None:
    report = read(put(folder, sample.text(sample.document("7")))).report
    assert (report.files, dict(report.formats)) == (1, {name: 1})
    assert not report.skipped


def check_reads_ids_keys_kinds_and_links(name: str, sample: Sample, folder: Path) -> None:
    (composition,) = read(put(folder, sample.text(sample.document("7")))).compositions
    nodes = list(zip("123", sample.keys, sample.kinds, strict=True))
    assert content(composition) == ("7", nodes, LINKS)


def check_its_name_reads_the_same_as_auto(name: str, sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("7")))
    assert read(file, ReadOptions(format=name)).fingerprint == read(file).fingerprint


def check_gives_the_same_each_time(name: str, sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7"), sample.document("8"))
    first, again = read(put(folder, text)), read(put(folder, text))
    assert first.compositions == again.compositions
    assert first.fingerprint == again.fingerprint
    other = read(put(folder, sample.text(sample.document("8"), sample.document("7"))))
    assert other.fingerprint != first.fingerprint


def check_byte_order_mark_and_crlf_change_nothing(name: str, sample: Sample, folder: Path) -> None:
    document = sample.document("7")
    text = document if isinstance(document, str) else json.dumps(document, indent=1)
    plain = read(put(folder, text)).fingerprint
    assert read(put(folder, b"\xef\xbb\xbf" + text.encode())).fingerprint == plain
    assert read(put(folder, text.replace("\n", "\r\n"))).fingerprint == plain


def check_folder_is_read_in_the_order_of_names(name: str, sample: Sample, folder: Path) -> None:
    suffix = "tsv" if FORMATS[name].rows else "json"
    put(folder, sample.text(sample.document("8")), f"b.{suffix}")
    put(folder, sample.text(sample.document("7")), f"a/z.{suffix}")
    put(folder, "not data", "a/notes.md")
    dataset = read(folder)
    assert [c.id for c in dataset.compositions] == ["7", "8"]
    assert (dataset.report.files, dataset.report.ignored_files) == (2, 1)


def check_broken_composition_is_named(name: str, sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("7"), sample.document("8", broken=True)))
    error = failure(file)
    assert error.rule == sample.rule
    place = "workflow 8" if FORMATS[name].rows else "composition 2"
    assert str(error).startswith(f"{file}: {place}: ")
    assert f"found {sample.found}" in str(error)


def check_broken_composition_is_skipped_and_counted(name: str, sample: Sample, folder: Path) -> None:
    broken = sample.document("8", broken=True)
    file = put(folder, sample.text(sample.document("7"), broken, sample.document("9")))
    dataset = read(file, ReadOptions(on_error="skip"))
    assert [c.id for c in dataset.compositions] == ["7", "9"]
    assert dict(dataset.report.skipped) == {sample.rule: 1}
    (problem,) = dataset.report.problems
    place = "workflow 8" if FORMATS[name].rows else "composition 2"
    assert problem.startswith(f"{file}: {place}: ")


def check_nothing_left_is_an_error_that_says_why(name: str, sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("8", broken=True)))
    error = failure(file, ReadOptions(on_error="skip"))
    assert error.rule == "empty"
    assert "1 skipped, the first: " in str(error)
    assert sample.found in str(error)


def check_cycle_fails(name: str, sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("7"), sample.document("8", back=True)))
    error = failure(file, ReadOptions(on_cycle="fail"))
    assert error.rule == "cycle"
    assert "link '3' -> '2': closes a cycle" in str(error)
    assert "--on-cycle break" in str(error)


def check_cycle_is_skipped_and_counted(name: str, sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("7"), sample.document("8", back=True)))
    dataset = read(file, ReadOptions(on_cycle="skip"))
    assert [c.id for c in dataset.compositions] == ["7"]
    assert dict(dataset.report.skipped) == {"cycle": 1}
    assert (dataset.report.cycles, dataset.report.broken_links) == (1, 0)


def check_cycle_is_broken_and_counted(name: str, sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("7"), sample.document("8", back=True)))
    dataset = read(file, ReadOptions(on_cycle="break"))
    assert [set(c.links) for c in dataset.compositions] == [LINKS, LINKS]
    assert not dataset.report.skipped
    assert (dataset.report.cycles, dataset.report.broken_links) == (1, 1)


def check_cycle_without_a_choice_does_what_the_format_says(
    name: str, sample: Sample, folder: Path
) -> None:
    file = put(folder, sample.text(sample.document("7", back=True)))

    def outcome(options: ReadOptions) -> str:
        try:
            return read(file, options).fingerprint
        except DataError as error:
            return str(error)

    assert outcome(ReadOptions()) == outcome(ReadOptions(on_cycle=FORMATS[name].on_cycle))


def check_too_large_a_file_is_refused(name: str, sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7"))
    limit = 1_000_000
    at_limit = read(put(folder, text + "\n" * (limit - len(text))), ReadOptions(max_mb=1))
    assert len(at_limit.compositions) == 1
    error = failure(put(folder, text + "\n" * (limit + 1 - len(text))), ReadOptions(max_mb=1))
    assert error.rule == "too-large"
    assert "1 MB, found 1.0 MB" in str(error)
    assert "--max-mb" in str(error)


def check_bytes_that_are_not_utf8_are_refused(name: str, sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7")).encode()
    error = failure(put(folder, text.replace(b"join", b"jo\xffn").replace(b"merge", b"mer\xffe")))
    assert error.rule == "not-utf8"
    assert "found byte 0xff at offset" in str(error)


def check_utf16_is_refused(name: str, sample: Sample, folder: Path) -> None:
    error = failure(put(folder, sample.text(sample.document("7")).encode("utf-16")))
    assert error.rule == "not-utf8"


def check_unreadable_file_of_a_folder_is_skipped_and_counted(
    name: str, sample: Sample, folder: Path
) -> None:
    suffix = "tsv" if FORMATS[name].rows else "json"
    put(folder, sample.text(sample.document("7")), f"good.{suffix}")
    bad = put(folder, b"\xff", f"bad.{suffix}")
    put(folder, " \n", f"blank.{suffix}")
    dataset = read(folder, ReadOptions(on_error="skip"))
    assert [c.id for c in dataset.compositions] == ["7"]
    assert dict(dataset.report.skipped) == {"not-utf8": 1, "empty": 1}
    with pytest.raises(DataError, match="not-utf8|0xff") as caught:
        read(folder)
    assert str(caught.value).startswith(f"{bad}: ")


CHECKS = [value for name, value in sorted(globals().items()) if name.startswith("check_")]


def test_every_format_has_a_sample() -> None:
    assert sorted(SAMPLES) == sorted(FORMATS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("format_", FORMATS)
def test_format(format_: str, check: Callable[..., None], tmp_path: Path) -> None:
    check(format_, SAMPLES[format_], tmp_path)


# ---- what the formats that are JSON do


def json_check_object_array_and_lines_are_equal(sample: Sample, folder: Path) -> None:
    document = sample.document("7")
    plain = read(put(folder, json.dumps(document))).fingerprint
    line = json.dumps(document)
    for text in (
        json.dumps([document]),
        json.dumps(document, indent=2),
        line + "\n",
        f"\n\n{line}\n\n",
    ):
        assert read(put(folder, text)).fingerprint == plain
    other = json.dumps(sample.document("8"))
    array = read(put(folder, f"[{line},\n{other}]")).fingerprint
    assert read(put(folder, f"{line}\n\n{other}")).fingerprint == array
    assert read(put(folder, f"\n{line}\r\n{other}\r\n")).fingerprint == array


def json_check_broken_line_is_named_and_skipped(sample: Sample, folder: Path) -> None:
    line, last = (json.dumps(sample.document(id_)) for id_ in "79")
    for broken, rule in (
        ('{"nodes": [}', "not-json"),
        ("oops", "not-json"),
        ('{"nodes": NaN}', "not-finite"),
        ("[1]", "wrong-type"),
    ):
        file = put(folder, f"{line}\n\n{broken}\n{last}\n")
        error = failure(file)
        assert error.rule == rule
        assert str(error).startswith(f"{file}: line 3: ")
        dataset = read(file, ReadOptions(on_error="skip"))
        assert [c.id for c in dataset.compositions] == ["7", "9"]
        assert dict(dataset.report.skipped) == {rule: 1}


def json_check_broken_first_line_is_skipped_too(sample: Sample, folder: Path) -> None:
    file = put(folder, '{"nodes": [}\n' + json.dumps(sample.document("9")))
    assert failure(file).rule == "not-json"
    dataset = read(file, ReadOptions(on_error="skip"))
    assert [c.id for c in dataset.compositions] == ["9"]
    assert dict(dataset.report.skipped) == {"not-json": 1}


def json_check_integer_ids_equal_string_ids(sample: Sample, folder: Path) -> None:
    as_text = read(put(folder, json.dumps(sample.document("7", number=str))))
    as_numbers = read(put(folder, json.dumps(sample.document("7", number=int))))
    assert as_numbers.compositions == as_text.compositions
    assert as_numbers.fingerprint == as_text.fingerprint


def json_check_fractional_and_boolean_ids_are_refused(sample: Sample, folder: Path) -> None:
    for number in (float, bool):
        error = failure(put(folder, json.dumps([sample.document("7", number=number)])))
        assert error.rule == "wrong-type"
        assert "must be a non-empty string or an integer, found " in str(error)


def json_check_numbers_that_are_not_finite_are_refused(sample: Sample, folder: Path) -> None:
    for constant in ("NaN", "Infinity", "-Infinity"):
        document = json.dumps(sample.document("7") | {"extra": 0.5}).replace("0.5", constant)
        error = failure(put(folder, document))
        assert error.rule == "not-finite"
        assert f"found {constant}" in str(error)


def json_check_deep_nesting_is_refused(sample: Sample, folder: Path) -> None:
    deep = "[" * 100_000
    inside = json.dumps(sample.document("7") | {"extra": 0.5}).replace("0.5", deep)
    for text in (deep, inside, deep + "]" * 100_000, '{"a":' * 100_000):
        error = failure(put(folder, text))
        assert error.rule == "too-deep"
        assert "nested too deeply" in str(error)


def json_check_integers_of_thousands_of_digits_are_refused(sample: Sample, folder: Path) -> None:
    document = json.dumps(sample.document("7") | {"extra": 0.5}).replace("0.5", HUGE)
    error = failure(put(folder, document))
    assert error.rule == "not-json"
    assert len(str(error)) < 1000


def json_check_lone_surrogates_are_kept_out(sample: Sample, folder: Path) -> None:
    """In any text or name of the document: refused by name, or in a place that is not read."""
    refused = 0
    for place in places(sample.document("7")):
        for mutant in (replaced(sample.document("7"), place, "a\ud800"), *renamed(sample, place)):
            file = put(folder, json.dumps([mutant]))
            try:
                check_sound(read(file))
            except DataError as error:
                str(error).encode()
                refused += error.rule == "surrogate"
    assert refused >= 5


def json_check_wrong_types_never_escape(sample: Sample, folder: Path) -> None:
    """Every value of the document, replaced by values of every other type."""
    wrong = [None, True, False, 0, 10**40, 0.5, 1e308, "", "x", [], [[]], [None], {}, {"x": {}}]
    refused = 0
    for place in places(sample.document("7")):
        for value in wrong:
            file = put(folder, json.dumps([replaced(sample.document("7"), place, value)]))
            try:
                check_sound(read(file))
            except DataError as error:
                assert str(error).startswith(f"{file}: ")
                assert "{" not in str(error)
                refused += 1
    assert refused > len(wrong)


def json_check_empty_array_holds_nothing(sample: Sample, folder: Path) -> None:
    name = next(name for name in SAMPLES if SAMPLES[name] is sample)
    for options in (ReadOptions(), ReadOptions(format=name)):
        error = failure(put(folder, "[]"), options)
        assert error.rule == "empty"
        assert "at least one composition is needed, found none" in str(error)


JSON_CHECKS = [value for name, value in sorted(globals().items()) if name.startswith("json_check_")]


@pytest.mark.parametrize("check", JSON_CHECKS, ids=lambda c: c.__name__.removeprefix("json_check_"))
@pytest.mark.parametrize("format_", JSON_FORMATS)
def test_json_format(format_: str, check: Callable[..., None], tmp_path: Path) -> None:
    check(SAMPLES[format_], tmp_path)


# ---- wrong types, field by field: what the message must say


OBJECT, ARRAY, ID, TEXT = "an object", "an array", "a non-empty string or an integer", "a string"
FIELDS: list[tuple[str, str, Json, str, str]] = [
    ("native", "", 5, "wrong-type", f"a composition must be {OBJECT}, found 5"),
    ("native", "composition", [], "wrong-type", f"composition must be {OBJECT}, found an array of 0"),
    ("native", "id", 1.5, "wrong-type", f"id must be {ID}, found 1.5"),
    ("native", "id", "", "missing-id", f'id must be {ID}, found ""'),
    ("native", "owner", [], "wrong-type", f"owner must be {ID}, found an array of 0"),
    ("native", "time", "noon", "bad-time", 'time must be ISO 8601 or seconds since 1970, found "noon"'),
    ("native", "time", 1e999, "bad-time", "time must be ISO 8601 or seconds since 1970, found Inf"),
    ("native", "nodes", "x", "wrong-type", f'nodes must be {ARRAY}, found "x"'),
    ("native", "nodes", {}, "wrong-type", f"nodes must be {ARRAY}, found an object of 0"),
    ("native", "nodes", None, "wrong-type", f"nodes must be {ARRAY}, found nothing"),
    ("native", "nodes", [], "no-nodes", "a composition needs at least one node, found none"),
    ("native", "nodes/1", "x", "wrong-type", f'node 2 must be {OBJECT}, found "x"'),
    ("native", "nodes/1/id", None, "missing-id", f"node 2: id must be {ID}, found nothing"),
    ("native", "nodes/1/id", {}, "wrong-type", f"node 2: id must be {ID}, found an object of 0"),
    ("native", "nodes/1/id", "1", "duplicate-id", "node '1': an id may occur once"),
    ("native", "nodes/1/mid", True, "wrong-type", f"node 2: mid must be {ID}, found true"),
    ("native", "nodes/2/key", "", "missing-id", f'node 3: key must be {ID}, found ""'),
    ("native", "nodes/2/kind", 3, "wrong-type", f"node 3: kind must be {TEXT}, found 3"),
    ("native", "nodes/1/text", [1], "wrong-type", f"node 2: text must be {TEXT}, found an array of 1"),
    ("native", "nodes/1/owner", 0.5, "wrong-type", f"node 2: owner must be {ID}, found 0.5"),
    ("native", "nodes/1/start_time", True, "bad-time", "node 2: start_time must be ISO 8601"),
    ("native", "nodes/1/time", 10**40, "bad-time", "node 2: start_time must be ISO 8601"),
    ("native", "links", {"a": 1}, "wrong-type", f"links must be {ARRAY}, found an object of 1"),
    ("native", "links/0", ["1", "2"], "wrong-type", f"link 1 must be {OBJECT}, found an array of 2"),
    ("native", "links/0/source", None, "missing-id", f"link 1: source must be {ID}, found nothing"),
    ("native", "links/0/target", 2.0, "wrong-type", f"link 1: target must be {ID}, found 2.0"),
    ("native", "links/0/source", "9", "dangling-link", "its source must be the id of a node"),
    ("n8n", "id", {}, "wrong-type", f"id must be {ID}, found an object of 0"),
    ("n8n", "owner", False, "wrong-type", f"owner must be {ID}, found false"),
    ("n8n", "updatedAt", "noon", "bad-time", "updatedAt must be ISO 8601 or seconds since 1970"),
    ("n8n", "updatedAt", [], "bad-time", "updatedAt must be ISO 8601 or seconds since 1970"),
    ("n8n", "nodes", 1, "wrong-type", f"nodes must be {ARRAY}, found 1"),
    ("n8n", "nodes/0", None, "wrong-type", f"node 1 must be {OBJECT}, found nothing"),
    ("n8n", "nodes/0/name", None, "missing-id", f"node 1: name must be {ID}, found nothing"),
    ("n8n", "nodes/0/type", [], "wrong-type", f"node 1 (1): type must be {ID}, found an array of 0"),
    ("n8n", "nodes/0/notes", 1, "wrong-type", f"node 1 (1): notes must be {TEXT}, found 1"),
    ("n8n", "connections", [], "wrong-type", f"connections must be {OBJECT}, found an array of 0"),
    (
        "n8n",
        "connections/9",
        {},
        "dangling-link",
        'must be the name of a node of the workflow, found "9"',
    ),
    ("n8n", "connections/1", 1, "wrong-type", f"connections of '1' must be {OBJECT}, found 1"),
    (
        "n8n",
        "connections/1/main",
        1,
        "wrong-type",
        f"connections of '1', main must be {ARRAY}, found 1",
    ),
    ("n8n", "connections/1/main/0", 1, "wrong-type", f"main must be {ARRAY}, found 1"),
    ("n8n", "connections/1/main/0/0", 1, "wrong-type", f"main must be {OBJECT}, found 1"),
    (
        "n8n",
        "connections/1/main/0/0/node",
        None,
        "missing-id",
        f"main: node must be {ID}, found nothing",
    ),
    ("n8n", "connections/1/main/0/0/node", "9", "dangling-link", 'found "9", which is none'),
    ("galaxy-ga", "uuid", {}, "wrong-type", f"must be {ID}, found an object of 0"),
    ("galaxy-ga", "steps", [], "wrong-type", f"steps of the workflow must be {OBJECT}, found an array"),
    ("galaxy-ga", "steps/1", 1, "wrong-type", f"step 1 must be {OBJECT}, found 1"),
    ("galaxy-ga", "steps/2/tool_id", [], "wrong-type", f"step 2: tool_id must be {ID}, found an array"),
    ("galaxy-ga", "steps/1/label", 1, "wrong-type", f"step 1: label must be {TEXT}, found 1"),
    (
        "galaxy-ga",
        "steps/2/type",
        [],
        "wrong-type",
        f"step 2: type must be {TEXT}, found an array of 0",
    ),
    (
        "galaxy-ga",
        "steps/2/input_connections",
        [1],
        "wrong-type",
        f"step 2: input_connections must be {OBJECT}, found an array of 1",
    ),
    (
        "galaxy-ga",
        "steps/2/input_connections/a",
        "1",
        "wrong-type",
        f'step 2: a must be {OBJECT}, found "1"',
    ),
    ("galaxy-ga", "steps/2/input_connections/a/id", None, "missing-id", f"step 2: id must be {ID}"),
    (
        "galaxy-ga",
        "steps/2/input_connections/a/output_name",
        [[]],
        "wrong-type",
        f"step 2: output_name must be {TEXT}, found an array of 1",
    ),
    (
        "galaxy-ga",
        "steps/2/input_connections/a/id",
        "8",
        "dangling-link",
        "link '8' -> '2': its source must",
    ),
]


@pytest.mark.parametrize(("format_", "place", "value", "rule", "says"), FIELDS)
def test_wrong_value_of_a_field_is_named(
    format_: str, place: str, value: Json, rule: str, says: str, tmp_path: Path
) -> None:
    document = SAMPLES[format_].document("7")
    steps = [int(step) if step.isdigit() and "nodes/" in place else step for step in place.split("/")]
    steps = [int(step) if i in (3, 4) and str(step).isdigit() else step for i, step in enumerate(steps)]
    if place.startswith("links/"):
        steps[1] = int(steps[1])
    mutant = replaced(document, tuple(steps), value) if place else value
    file = put(tmp_path, json.dumps([document, mutant]).replace("Infinity", "1e999"))
    error = failure(file)
    assert error.rule == rule
    assert str(error).startswith(f"{file}: composition 2: ")
    assert says in str(error)


@pytest.mark.parametrize(
    ("row", "rule", "says"),
    [
        (
            "7\t2024-05-01\t1\tcut\t1\t2\tjoin",
            "bad-row",
            "line 2: a row needs at least 8 tab-separated",
        ),
        (
            "\t2024-05-01\t1\tcut\t1\t2\tjoin\t1",
            "bad-row",
            "line 2: a row needs at least 8 tab-separated",
        ),
        (
            "7\t2024-05-01\t\tcut\t1\t2\tjoin\t1",
            "bad-row",
            "line 2: a row needs at least 8 tab-separated",
        ),
        (
            "7\t2024-05-01\t1\tcut\t1\t\tjoin\t1",
            "bad-row",
            "line 2: a row needs at least 8 tab-separated",
        ),
        ("7\tnoon\t1\tcut\t1\t3\tjoin\t1", "bad-time", "workflow 7: line 2: updated must be ISO 8601"),
        (
            "7\t\t2\tcut\t1\t3\tjoin\t1",
            "two-tools",
            "line 2: step '2' must have one tool, found \"cut\" after",
        ),
    ],
)
def test_wrong_row_of_galaxy_connections_is_named(
    row: str, rule: str, says: str, tmp_path: Path
) -> None:
    good = "7\t2024-05-01\t1\tcut\t1\t2\tjoin\t1\n"
    file = put(tmp_path, good + row + "\n" + good.replace("7\t", "8\t"))
    error = failure(file)
    assert error.rule == rule
    assert str(error).startswith(f"{file}: ")
    assert says in str(error)
    dataset = read(file, ReadOptions(on_error="skip"))
    assert dict(dataset.report.skipped) == {rule: 1}
    assert dataset.compositions[-1].id == "8"


# ---- files that hold nothing


@pytest.mark.parametrize("text", ["", "\n", " \t\r\n", "\ufeff", "\ufeff\n"])
def test_empty_file_is_refused(text: str, tmp_path: Path) -> None:
    error = failure(put(tmp_path, text))
    assert error.rule == "empty"
    assert "a file must hold compositions, found it empty; check the file" in str(error)


@pytest.mark.parametrize(
    ("text", "rule", "says"),
    [
        ("[1]", "unknown-format", "found JSON whose first composition is 1;"),
        ("[[]]", "unknown-format", "found JSON whose first composition is an array of 0;"),
        ("[null]", "unknown-format", "found JSON whose first composition is nothing;"),
        ("true", "unknown-format", "found text that is not JSON;"),
        ("nodes, links", "unknown-format", "found text that is not JSON;"),
        ('["]', "not-json", "not JSON at line 1, column 2"),
        ("[1,", "not-json", "not JSON at line 1, column 4"),
    ],
)
def test_file_of_no_known_format_is_refused(text: str, rule: str, says: str, tmp_path: Path) -> None:
    error = failure(put(tmp_path, text))
    assert error.rule == rule
    assert says in str(error)
    if rule == "unknown-format":
        assert f"a known format ({', '.join(FORMATS)})" in str(error)


def test_object_of_no_known_format_is_refused(tmp_path: Path) -> None:
    error = failure(put(tmp_path, '{"vertices": []}'))
    assert error.rule == "unknown-format"
    assert "found JSON whose first composition is an object of 1;" in str(error)


def test_unknown_name_of_a_format_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no format 'xml'; there are auto, native, n8n"):
        read(put(tmp_path, "[]"), ReadOptions(format="xml"))


@pytest.mark.parametrize("format_", FORMATS)
def test_file_that_is_not_what_the_named_format_reads_is_refused(format_: str, tmp_path: Path) -> None:
    is_json = not FORMATS[format_].rows
    other = SAMPLES["galaxy-tsv" if is_json else "native"]
    error = failure(put(tmp_path, other.text(other.document("7"))), ReadOptions(format=format_))
    assert error.rule == "unknown-format"


def test_path_that_is_nothing_is_refused(tmp_path: Path) -> None:
    error = failure(tmp_path / "absent.json")
    assert error.rule == "no-file"
    assert "must be a file or a folder, found neither" in str(error)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    assert failure(tmp_path).rule == "empty"


def test_folder_can_mix_formats(tmp_path: Path) -> None:
    for number, (name, sample) in enumerate(SAMPLES.items()):
        put(tmp_path, sample.text(sample.document(str(number))), f"{number}.json")
        assert name in FORMATS
    dataset = read(tmp_path)
    assert [c.id for c in dataset.compositions] == ["0", "1", "2", "3"]
    assert dict(dataset.report.formats) == dict.fromkeys(SAMPLES, 1)


def test_progress_counts_every_composition(tmp_path: Path) -> None:
    steps: list[int] = []
    sample = SAMPLES["native"]
    file = put(tmp_path, sample.text(*(sample.document(str(i)) for i in range(5))))
    read(file, advance=steps.append)
    assert sum(steps) == 5


def test_compositions_without_an_id_are_named_after_file_and_position(tmp_path: Path) -> None:
    nameless = {"nodes": [{"id": 1}], "links": []}
    broken = {"nodes": [], "links": []}
    put(tmp_path, json.dumps([nameless, broken, nameless]), "a/x.json")
    put(tmp_path, json.dumps([nameless]), "b/x.json")
    dataset = read(tmp_path, ReadOptions(on_error="skip"))
    assert [c.id for c in dataset.compositions] == ["x-1", "x-3", "x-4"]


# ---- hostile input: whatever comes, it is a composition that holds together or a DataError


def places(document: Json, here: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """Every place of a document below its root."""
    if isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for step, value in items:
            yield (*here, step)
            yield from places(value, (*here, step))


def replaced(document: Json, place: tuple[Step, ...], value: Json) -> Json:
    """A copy with another value at a place; the last step may be a new name of an object."""
    result = copy.deepcopy(document)
    target = result
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    return result


def renamed(sample: Sample, place: tuple[Step, ...]) -> Iterator[Json]:
    """A copy in which the name at a place holds a lone surrogate, if it is the name of an object."""
    result = copy.deepcopy(sample.document("7"))
    target = result
    for step in place[:-1]:
        target = target[step]
    if isinstance(target, dict):
        target["\udfff"] = target.pop(place[-1])
        yield result


def check_sound(dataset: Dataset) -> None:
    for composition in dataset.compositions:
        check_holds_together(composition)


def check_holds_together(composition: Composition) -> None:
    """Acyclic, with every link resolved, every id once, and no text that cannot be stored."""
    ids = {node.id for node in composition.nodes}
    assert len(ids) == len(composition.nodes)
    assert all(source in ids and target in ids for source, target in composition.links)
    assert sorted(composition.order) == sorted(ids)
    texts = [composition.id, composition.owner or ""]
    for node in composition.nodes:
        assert node.id
        assert node.key
        texts += [node.id, node.key, node.kind, node.text or ""]
    "".join(texts).encode()


NAMES = sorted(
    {
        step
        for s in SAMPLES.values()
        for p in places(s.document("7"))
        for step in p
        if isinstance(step, str)
    }
    | {"composition", "subworkflow", "input_subworkflow_step_id", "content_id", "time", "createdAt"}
)
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        ["1", "2", "3", "data_input", "subworkflow", "tool", "n8n.stickyNote", "2020-01-01"]
    )
    | st.text(st.characters(), max_size=8)
)
NAME = st.sampled_from(NAMES) | st.text(st.characters(), max_size=4)
VALUES = st.recursive(
    ATOMS, lambda v: st.lists(v, max_size=4) | st.dictionaries(NAME, v, max_size=5), max_leaves=25
)
OPTIONS = st.builds(
    ReadOptions,
    format=st.sampled_from(["auto", *FORMATS]),
    on_error=st.sampled_from(["fail", "skip"]),
    on_cycle=st.sampled_from([None, "fail", "skip", "break"]),
    table_mid=st.sampled_from([None, "^3", ""]),
)
hostile = partial(
    settings,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@st.composite
def mutants(draw: st.DrawFn) -> Json:
    """A valid document after a few edits: values replaced, removed, moved elsewhere, given twice."""
    make = SAMPLES[draw(st.sampled_from(JSON_FORMATS))].document
    document = make("7", number=draw(st.sampled_from([str, int])), back=draw(st.booleans()))
    for _ in range(draw(st.integers(1, 4))):
        all_places = list(places(document))
        if not all_places:
            break
        *path, last = draw(st.sampled_from(all_places))
        target = document
        for step in path:
            target = target[step]
        edit = draw(st.sampled_from(["replace", "remove", "copy", "add"]))
        if edit == "replace":
            target[last] = draw(VALUES)
        elif edit == "remove":
            del target[last]
        elif edit == "copy":
            value: Json = document
            for step in draw(st.sampled_from(all_places)):
                value = value[step]
            target[last] = copy.deepcopy(value)
        elif isinstance(target, dict):
            target[draw(NAME)] = draw(VALUES)
        else:
            target.append(draw(VALUES))
    return document


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "file.json"


def read_or_refuse(file: Path, options: ReadOptions) -> None:
    try:
        check_sound(read(file, options))
    except DataError as error:
        str(error).encode()
        assert error.rule


@hostile(max_examples=300)
@given(documents=st.lists(VALUES | mutants(), max_size=3), lines=st.booleans(), options=OPTIONS)
def test_no_json_file_escapes(
    documents: list[Json], lines: bool, options: ReadOptions, scratch: Path
) -> None:
    texts = [json.dumps(document) for document in documents]
    scratch.write_text("\n".join(texts) if lines else f"[{','.join(texts)}]")
    read_or_refuse(scratch, options)


@hostile(max_examples=300)
@given(document=VALUES | mutants(), options=OPTIONS)
def test_no_parsed_json_escapes(document: Json, options: ReadOptions) -> None:
    try:
        composition = read_composition(document, options)
    except DataError as error:
        str(error).encode()
    else:
        check_holds_together(composition)


@hostile(max_examples=200)
@given(
    name=st.sampled_from(sorted(SAMPLES)),
    cuts=st.lists(
        st.tuples(st.integers(0, 2000), st.integers(0, 40), st.binary(max_size=6)), max_size=5
    ),
    options=OPTIONS,
)
def test_no_cut_or_overwritten_file_escapes(
    name: str, cuts: list[tuple[int, int, bytes]], options: ReadOptions, scratch: Path
) -> None:
    content = SAMPLES[name].text(SAMPLES[name].document("7"), SAMPLES[name].document("8")).encode()
    for start, length, instead in cuts:
        start %= len(content) + 1
        content = content[:start] + instead + content[start + length :]
    scratch.write_bytes(content)
    read_or_refuse(scratch, options)


@hostile(max_examples=150)
@given(text=st.text(st.sampled_from("\t\n\r 12a/é\0\x1c\x85\u2028\ufeff")), options=OPTIONS)
def test_no_table_escapes(text: str, options: ReadOptions, scratch: Path) -> None:
    scratch.write_bytes(text.encode())
    read_or_refuse(scratch, options)
