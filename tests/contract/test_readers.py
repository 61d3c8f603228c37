"""Checks that every format must pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dagrec.data.formats import FORMATS, ReadOptions, read
from dagrec.errors import DataError
from tests.contract.samples import (
    DOCUMENTS,
    JSON_FORMATS,
    SAMPLES,
    Json,
    Sample,
    is_valid,
    names,
    places,
    read_error,
    renamed,
    replaced,
    value_at,
    write,
)

HUGE = "9" * 5000
"""An integer with more digits than Python converts."""
Check = Callable[[Sample, Path], None]


# All formats


def check_is_detected_from_content(sample: Sample, folder: Path) -> None:
    report = read(write(folder, sample.text(sample.document("7")))).report
    assert (report.files, dict(report.formats)) == (1, {sample.name: 1})
    assert not report.skipped


def check_reads_ids_keys_kinds_and_links(sample: Sample, folder: Path) -> None:
    dataset = read(write(folder, sample.text(sample.document("7"))))
    (composition,) = dataset.compositions
    assert names(dataset) == ["7"]
    assert tuple((node.id, node.key, node.kind) for node in composition.nodes) == sample.nodes
    assert set(composition.links) == sample.links


def check_format_name_equals_auto(sample: Sample, folder: Path) -> None:
    file = write(folder, sample.text(sample.document("7")))
    assert read(file, ReadOptions(format=sample.name)).fingerprint == read(file).fingerprint


def check_result_is_deterministic(sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7"), sample.document("8"))
    first, again = read(write(folder, text)), read(write(folder, text, "a/copy"))
    assert first.compositions == again.compositions
    assert first.fingerprint == again.fingerprint
    other = read(write(folder, sample.text(sample.document("8"), sample.document("7"))))
    assert other.fingerprint != first.fingerprint


def check_byte_order_mark_and_line_ends_are_ignored(sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7")).replace(", ", ",\n")
    plain = read(write(folder, text)).fingerprint
    for same in ("\ufeff" + text, text.replace("\n", "\r\n"), text.replace("\n", "\r"), text + "\n \n"):
        assert read(write(folder, same)).fingerprint == plain


def check_folder_is_read_in_order_of_names(sample: Sample, folder: Path) -> None:
    write(folder, sample.text(sample.document("8")), sample.file_name("b"))
    write(folder, sample.text(sample.document("7")), sample.file_name("a/z"))
    write(folder, "not data", "a/notes.md")
    dataset = read(folder)
    assert names(dataset) == ["7", "8"]
    assert (dataset.report.files, dataset.report.ignored_files) == (2, 1)


def check_broken_composition_is_named(sample: Sample, folder: Path) -> None:
    file = write(folder, sample.text(sample.document("7"), sample.document("8", broken=True)))
    error = read_error(file)
    assert error.rule == sample.rule
    assert str(error).startswith(f"{file}: {sample.place}: ")
    assert f"found {sample.value}" in str(error)


def check_broken_composition_is_skipped_and_counted(sample: Sample, folder: Path) -> None:
    broken = sample.document("8", broken=True)
    file = write(folder, sample.text(sample.document("7"), broken, sample.document("9")))
    dataset = read(file, ReadOptions(on_error="skip"))
    assert names(dataset) == ["7", "9"]
    assert dict(dataset.report.skipped) == {sample.rule: 1}
    (problem,) = dataset.report.problems
    assert problem.startswith(f"{file}: {sample.place}: ")


def check_all_skipped_raises_with_first_error(sample: Sample, folder: Path) -> None:
    file = write(folder, sample.text(sample.document("8", broken=True)))
    error = read_error(file, ReadOptions(on_error="skip"))
    assert error.rule == "empty"
    assert "1 skipped, the first: " in str(error)
    assert sample.value in str(error)


def check_cycle_fails(sample: Sample, folder: Path) -> None:
    file = write(folder, sample.text(sample.document("7"), sample.document("8", back=True)))
    error = read_error(file, ReadOptions(on_cycle="fail"))
    assert error.rule == "cycle"
    assert "link '3' -> '2': closes a cycle" in str(error)
    assert "--on-cycle break" in str(error)


def check_cycle_is_skipped_and_counted(sample: Sample, folder: Path) -> None:
    file = write(folder, sample.text(sample.document("7"), sample.document("8", back=True)))
    dataset = read(file, ReadOptions(on_cycle="skip"))
    assert names(dataset) == ["7"]
    assert dict(dataset.report.skipped) == {"cycle": 1}
    assert (dataset.report.cycles, dataset.report.broken_links) == (1, 0)


def check_cycle_is_broken_and_counted(sample: Sample, folder: Path) -> None:
    file = write(folder, sample.text(sample.document("7"), sample.document("8", back=True)))
    dataset = read(file, ReadOptions(on_cycle="break"))
    assert [set(c.links) for c in dataset.compositions] == [sample.links, sample.links]
    assert not dataset.report.skipped
    assert (dataset.report.cycles, dataset.report.broken_links) == (1, 1)


def check_cycle_default_is_that_of_format(sample: Sample, folder: Path) -> None:
    file = write(folder, sample.text(sample.document("7", back=True)))

    def fingerprint_or_error(options: ReadOptions) -> str:
        try:
            return read(file, options).fingerprint
        except DataError as error:
            return str(error)

    default = ReadOptions(on_cycle=FORMATS[sample.name].on_cycle)
    assert fingerprint_or_error(ReadOptions()) == fingerprint_or_error(default)
    fail, break_ = ReadOptions(on_cycle="fail"), ReadOptions(on_cycle="break")
    assert fingerprint_or_error(fail) != fingerprint_or_error(break_)


def check_too_large_file_is_rejected(sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7"))
    limit = 1_000_000
    at_limit = read(write(folder, text + "\n" * (limit - len(text))), ReadOptions(max_mb=1))
    assert names(at_limit) == ["7"]
    error = read_error(write(folder, text + "\n" * (limit + 1 - len(text))), ReadOptions(max_mb=1))
    assert error.rule == "too-large"
    assert "1 MB, found 1.0 MB" in str(error)
    assert "--max-mb" in str(error)


def check_bytes_that_are_not_utf8_are_rejected(sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7")).encode()
    error = read_error(write(folder, text.replace(b"2", b"\xff", 1)))
    assert error.rule == "not-utf8"
    assert f"found byte 0xff at offset {text.index(b'2')}" in str(error)
    assert read_error(write(folder, text.decode().encode("utf-16"))).rule == "not-utf8"


def check_unreadable_files_of_a_folder_are_skipped_and_counted(sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7"))
    write(folder, text, sample.file_name("good"))
    bad = write(folder, b"\xff", sample.file_name("bad"))
    write(folder, " \n", sample.file_name("blank"))
    write(folder, text + "\n" * 1_000_000, sample.file_name("large"))
    dataset = read(folder, ReadOptions(on_error="skip", max_mb=1))
    assert names(dataset) == ["7"]
    assert dict(dataset.report.skipped) == {"not-utf8": 1, "empty": 1, "too-large": 1}
    assert str(read_error(folder)).startswith(f"{bad}: ")


def checks(prefix: str) -> dict[str, Check]:
    return {
        name.removeprefix(prefix): value
        for name, value in sorted(globals().items())
        if name.startswith(prefix)
    }


CHECKS = checks("check_")
EXCEPTIONS = {
    (name, check): "a path has no cycle"
    for name in ("calls", "paths")
    for check in CHECKS
    if check.startswith("cycle_")
}


def test_every_format_has_sample_and_exceptions_exist() -> None:
    assert sorted(SAMPLES) == sorted(FORMATS)
    assert all(name in FORMATS and check in CHECKS for name, check in EXCEPTIONS)
    assert all(EXCEPTIONS.values())


@pytest.mark.parametrize(
    ("format_", "check"),
    [(name, check) for name in FORMATS for check in CHECKS if (name, check) not in EXCEPTIONS],
)
def test_format(format_: str, check: str, tmp_path: Path) -> None:
    CHECKS[check](SAMPLES[format_], tmp_path)


# JSON formats


def json_check_object_array_and_lines_are_equal(sample: Sample, folder: Path) -> None:
    document = sample.document("7")
    line, other = json.dumps(document), json.dumps(sample.document("8"))
    plain = read(write(folder, line)).fingerprint
    for text in (f"[{line}]", json.dumps(document, indent=2), line + "\n", f"\n\n{line}\n\n"):
        assert read(write(folder, text)).fingerprint == plain
    array = read(write(folder, f"[{line},\n{other}]")).fingerprint
    for text in (f"{line}\n\n{other}", f"\n{line}\r\n{other}\r\n", f"\ufeff{line}\n{other}"):
        assert read(write(folder, text)).fingerprint == array


def json_check_broken_line_is_named_and_skipped(sample: Sample, folder: Path) -> None:
    line, last = (json.dumps(sample.document(id_)) for id_ in "79")
    for broken, rule in (
        ('{"nodes": [}', "not-json"),
        ("oops", "not-json"),
        ('{"nodes": NaN}', "not-finite"),
        ("[[1]]", "wrong-type"),
    ):
        file = write(folder, f"{line}\n\n{broken}\n{last}\n")
        error = read_error(file)
        assert error.rule == rule
        assert str(error).startswith(f"{file}: line 3: ")
        dataset = read(file, ReadOptions(on_error="skip"))
        assert names(dataset) == ["7", "9"]
        assert dict(dataset.report.skipped) == {rule: 1}


def json_check_broken_first_line_is_skipped(sample: Sample, folder: Path) -> None:
    file = write(folder, '{"nodes": [}\n' + json.dumps(sample.document("9")))
    assert read_error(file).rule == "not-json"
    dataset = read(file, ReadOptions(on_error="skip"))
    assert names(dataset) == ["9"]
    assert dict(dataset.report.skipped) == {"not-json": 1}


def json_check_integer_ids_equal_string_ids(sample: Sample, folder: Path) -> None:
    as_text = read(write(folder, json.dumps(sample.document("7", number=str))))
    as_numbers = read(write(folder, json.dumps(sample.document("7", number=int))))
    assert as_numbers.compositions == as_text.compositions
    assert as_numbers.fingerprint == as_text.fingerprint


def json_check_fractional_and_boolean_ids_are_rejected(sample: Sample, folder: Path) -> None:
    for number in (float, bool):
        error = read_error(write(folder, json.dumps([sample.document("7", number=number)])))
        assert error.rule == "wrong-type"
        assert "must be a non-empty string or an integer, found " in str(error)


def with_extra(sample: Sample, text: str) -> str:
    """The document with this text as the value of an unknown field."""
    return json.dumps(sample.document("7") | {"extra": 0.25}).replace("0.25", text)


def json_check_non_finite_numbers_are_rejected(sample: Sample, folder: Path) -> None:
    for constant in ("NaN", "Infinity", "-Infinity"):
        error = read_error(write(folder, with_extra(sample, constant)))
        assert error.rule == "not-finite"
        assert f"found {constant}" in str(error)


def json_check_too_deep_nesting_is_rejected(sample: Sample, folder: Path) -> None:
    deep = "[" * 100_000
    for text in (deep, deep + "]" * 100_000, '{"a":' * 100_000, with_extra(sample, deep)):
        error = read_error(write(folder, text))
        assert error.rule == "too-deep"
        assert "nested too deeply" in str(error)


def json_check_deep_nesting_is_read_or_rejected(sample: Sample, folder: Path) -> None:
    deep: Json = []
    for _ in range(700):
        deep = [deep]
    for place in places(sample.document("7")):
        file = write(folder, json.dumps([replaced(sample.document("7"), place, deep)]))
        try:
            assert all(map(is_valid, read(file).compositions))
        except DataError as error:
            assert len(str(error)) < 1000  # noqa: PT017


def json_check_huge_integers_are_rejected(sample: Sample, folder: Path) -> None:
    error = read_error(write(folder, with_extra(sample, HUGE)))
    assert error.rule == "not-json"
    assert len(str(error)) < 1000


def json_check_empty_array_is_rejected(sample: Sample, folder: Path) -> None:
    for options in (ReadOptions(), ReadOptions(format=sample.name)):
        error = read_error(write(folder, "[]"), options)
        assert error.rule == "empty"
        assert "at least one composition is needed, found none" in str(error)


JSON_CHECKS = checks("json_check_")


@pytest.mark.parametrize("check", JSON_CHECKS)
@pytest.mark.parametrize("format_", JSON_FORMATS)
def test_json_format(format_: str, check: str, tmp_path: Path) -> None:
    JSON_CHECKS[check](SAMPLES[format_], tmp_path)


# Mutations of every value and key of a document


def violated_rule(file: Path, document: Json) -> str | None:
    """The rule that a document violates, or None if the compositions are valid."""
    write(file.parent, json.dumps([document]), file.name)
    try:
        assert all(map(is_valid, read(file).compositions))
    except DataError as error:
        text = str(error)
        text.encode()
        ok = text.startswith(f"{file}: ") and "{" not in text and len(text) < 1000
        return error.rule if ok else f"a bad message: {text}"
    return None


@pytest.mark.parametrize("name", DOCUMENTS)
def test_lone_surrogates_are_rejected_or_ignored(name: str, tmp_path: Path) -> None:
    document = DOCUMENTS[name]
    mutants = [replaced(document, place, "a\ud800") for place in places(document)]
    in_objects = [p for p in places(document) if isinstance(value_at(document, p[:-1]), dict)]
    mutants += [renamed(document, place, "\udfff") for place in in_objects]
    rules = {violated_rule(tmp_path / "file", mutant) for mutant in mutants}
    assert "surrogate" in rules
    assert not {rule for rule in rules if rule and rule.startswith("a bad message")}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        10**40,
        0.5,
        1e308,
        "",
        "x",
        "9",
        [],
        [[]],
        [None],
        {},
        {"x": {}},
        [{}],
    ],
    ids=lambda value: repr(value)[:12],
)
def test_wrong_types_raise_only_data_errors(name: str, value: Json, tmp_path: Path) -> None:
    document = DOCUMENTS[name]
    file = tmp_path / "file"
    rules = [violated_rule(file, replaced(document, place, value)) for place in places(document)]
    assert any(rules)
    assert not {rule for rule in rules if rule and rule.startswith("a bad message")}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_missing_values_raise_only_data_errors(name: str, tmp_path: Path) -> None:
    document = DOCUMENTS[name]
    rules = []
    for place in places(document):
        mutant = replaced(document, place, None)
        del value_at(mutant, place[:-1])[place[-1]]
        rules.append(violated_rule(tmp_path / "file", mutant))
    # Without one of its keys, a path is only shorter.
    assert {"missing-id", "dangling-link"} & set(rules) or name == "paths"
    assert not {rule for rule in rules if rule and rule.startswith("a bad message")}
