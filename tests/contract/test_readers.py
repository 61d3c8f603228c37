"""Rules that every format of the registry obeys: named checks, crossed with all formats."""

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
    failure,
    holds_together,
    names,
    places,
    put,
    renamed,
    replaced,
    value_at,
)

HUGE = "9" * 5000
"""More digits than Python turns into an integer."""
Check = Callable[[Sample, Path], None]


# ---- what every format does


def check_is_recognised_by_its_content(sample: Sample, folder: Path) -> None:
    report = read(put(folder, sample.text(sample.document("7")))).report
    assert (report.files, dict(report.formats)) == (1, {sample.name: 1})
    assert not report.skipped


def check_reads_ids_keys_kinds_and_links(sample: Sample, folder: Path) -> None:
    dataset = read(put(folder, sample.text(sample.document("7"))))
    (composition,) = dataset.compositions
    assert names(dataset) == ["7"]
    assert tuple((node.id, node.key, node.kind) for node in composition.nodes) == sample.nodes
    assert set(composition.links) == sample.links


def check_its_name_reads_the_same_as_auto(sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("7")))
    assert read(file, ReadOptions(format=sample.name)).fingerprint == read(file).fingerprint


def check_gives_the_same_each_time(sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7"), sample.document("8"))
    first, again = read(put(folder, text)), read(put(folder, text, "a/copy"))
    assert first.compositions == again.compositions
    assert first.fingerprint == again.fingerprint
    other = read(put(folder, sample.text(sample.document("8"), sample.document("7"))))
    assert other.fingerprint != first.fingerprint


def check_byte_order_mark_and_line_ends_change_nothing(sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7")).replace(", ", ",\n")
    plain = read(put(folder, text)).fingerprint
    for same in ("\ufeff" + text, text.replace("\n", "\r\n"), text.replace("\n", "\r"), text + "\n \n"):
        assert read(put(folder, same)).fingerprint == plain


def check_folder_is_read_in_the_order_of_names(sample: Sample, folder: Path) -> None:
    put(folder, sample.text(sample.document("8")), sample.named("b"))
    put(folder, sample.text(sample.document("7")), sample.named("a/z"))
    put(folder, "not data", "a/notes.md")
    dataset = read(folder)
    assert names(dataset) == ["7", "8"]
    assert (dataset.report.files, dataset.report.ignored_files) == (2, 1)


def check_broken_composition_is_named(sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("7"), sample.document("8", broken=True)))
    error = failure(file)
    assert error.rule == sample.rule
    assert str(error).startswith(f"{file}: {sample.place}: ")
    assert f"found {sample.found}" in str(error)


def check_broken_composition_is_skipped_and_counted(sample: Sample, folder: Path) -> None:
    broken = sample.document("8", broken=True)
    file = put(folder, sample.text(sample.document("7"), broken, sample.document("9")))
    dataset = read(file, ReadOptions(on_error="skip"))
    assert names(dataset) == ["7", "9"]
    assert dict(dataset.report.skipped) == {sample.rule: 1}
    (problem,) = dataset.report.problems
    assert problem.startswith(f"{file}: {sample.place}: ")


def check_nothing_left_is_an_error_that_says_why(sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("8", broken=True)))
    error = failure(file, ReadOptions(on_error="skip"))
    assert error.rule == "empty"
    assert "1 skipped, the first: " in str(error)
    assert sample.found in str(error)


def check_cycle_fails(sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("7"), sample.document("8", back=True)))
    error = failure(file, ReadOptions(on_cycle="fail"))
    assert error.rule == "cycle"
    assert "link '3' -> '2': closes a cycle" in str(error)
    assert "--on-cycle break" in str(error)


def check_cycle_is_skipped_and_counted(sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("7"), sample.document("8", back=True)))
    dataset = read(file, ReadOptions(on_cycle="skip"))
    assert names(dataset) == ["7"]
    assert dict(dataset.report.skipped) == {"cycle": 1}
    assert (dataset.report.cycles, dataset.report.broken_links) == (1, 0)


def check_cycle_is_broken_and_counted(sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("7"), sample.document("8", back=True)))
    dataset = read(file, ReadOptions(on_cycle="break"))
    assert [set(c.links) for c in dataset.compositions] == [sample.links, sample.links]
    assert not dataset.report.skipped
    assert (dataset.report.cycles, dataset.report.broken_links) == (1, 1)


def check_cycle_without_a_choice_does_what_the_format_says(sample: Sample, folder: Path) -> None:
    file = put(folder, sample.text(sample.document("7", back=True)))

    def outcome(options: ReadOptions) -> str:
        try:
            return read(file, options).fingerprint
        except DataError as error:
            return str(error)

    assert outcome(ReadOptions()) == outcome(ReadOptions(on_cycle=FORMATS[sample.name].on_cycle))
    assert outcome(ReadOptions(on_cycle="fail")) != outcome(ReadOptions(on_cycle="break"))


def check_too_large_a_file_is_refused(sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7"))
    limit = 1_000_000
    at_limit = read(put(folder, text + "\n" * (limit - len(text))), ReadOptions(max_mb=1))
    assert names(at_limit) == ["7"]
    error = failure(put(folder, text + "\n" * (limit + 1 - len(text))), ReadOptions(max_mb=1))
    assert error.rule == "too-large"
    assert "1 MB, found 1.0 MB" in str(error)
    assert "--max-mb" in str(error)


def check_bytes_that_are_not_utf8_are_refused(sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7")).encode()
    error = failure(put(folder, text.replace(b"2", b"\xff", 1)))
    assert error.rule == "not-utf8"
    assert f"found byte 0xff at offset {text.index(b'2')}" in str(error)
    assert failure(put(folder, text.decode().encode("utf-16"))).rule == "not-utf8"


def check_unreadable_files_of_a_folder_are_skipped_and_counted(sample: Sample, folder: Path) -> None:
    text = sample.text(sample.document("7"))
    put(folder, text, sample.named("good"))
    bad = put(folder, b"\xff", sample.named("bad"))
    put(folder, " \n", sample.named("blank"))
    put(folder, text + "\n" * 1_000_000, sample.named("large"))
    dataset = read(folder, ReadOptions(on_error="skip", max_mb=1))
    assert names(dataset) == ["7"]
    assert dict(dataset.report.skipped) == {"not-utf8": 1, "empty": 1, "too-large": 1}
    assert str(failure(folder)).startswith(f"{bad}: ")


def checks(prefix: str) -> dict[str, Check]:
    found = ((name, value) for name, value in sorted(globals().items()) if name.startswith(prefix))
    return {name.removeprefix(prefix): value for name, value in found}


CHECKS = checks("check_")
EXCEPTIONS = {
    ("calls", check): "a call log holds paths, and a path has no cycle"
    for check in CHECKS
    if check.startswith("cycle_")
}


def test_every_format_has_a_sample_and_every_exception_a_reason() -> None:
    assert sorted(SAMPLES) == sorted(FORMATS)
    assert all(name in FORMATS and check in CHECKS for name, check in EXCEPTIONS)
    assert all(EXCEPTIONS.values())


@pytest.mark.parametrize(
    ("format_", "check"),
    [(name, check) for name in FORMATS for check in CHECKS if (name, check) not in EXCEPTIONS],
)
def test_format(format_: str, check: str, tmp_path: Path) -> None:
    CHECKS[check](SAMPLES[format_], tmp_path)


# ---- what the formats that are JSON do


def json_check_object_array_and_lines_are_equal(sample: Sample, folder: Path) -> None:
    document = sample.document("7")
    line, other = json.dumps(document), json.dumps(sample.document("8"))
    plain = read(put(folder, line)).fingerprint
    for text in (f"[{line}]", json.dumps(document, indent=2), line + "\n", f"\n\n{line}\n\n"):
        assert read(put(folder, text)).fingerprint == plain
    array = read(put(folder, f"[{line},\n{other}]")).fingerprint
    for text in (f"{line}\n\n{other}", f"\n{line}\r\n{other}\r\n", f"\ufeff{line}\n{other}"):
        assert read(put(folder, text)).fingerprint == array


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
        assert names(dataset) == ["7", "9"]
        assert dict(dataset.report.skipped) == {rule: 1}


def json_check_broken_first_line_is_skipped_too(sample: Sample, folder: Path) -> None:
    file = put(folder, '{"nodes": [}\n' + json.dumps(sample.document("9")))
    assert failure(file).rule == "not-json"
    dataset = read(file, ReadOptions(on_error="skip"))
    assert names(dataset) == ["9"]
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


def with_extra(sample: Sample, text: str) -> str:
    """The document with this text as the value of a field that nothing reads."""
    return json.dumps(sample.document("7") | {"extra": 0.25}).replace("0.25", text)


def json_check_numbers_that_are_not_finite_are_refused(sample: Sample, folder: Path) -> None:
    for constant in ("NaN", "Infinity", "-Infinity"):
        error = failure(put(folder, with_extra(sample, constant)))
        assert error.rule == "not-finite"
        assert f"found {constant}" in str(error)


def json_check_deep_nesting_is_refused(sample: Sample, folder: Path) -> None:
    deep = "[" * 100_000
    for text in (deep, deep + "]" * 100_000, '{"a":' * 100_000, with_extra(sample, deep)):
        error = failure(put(folder, text))
        assert error.rule == "too-deep"
        assert "nested too deeply" in str(error)


def json_check_nesting_that_parses_is_no_problem(sample: Sample, folder: Path) -> None:
    """Whatever place it is in, nothing that comes later goes through it by recursion."""
    deep: Json = []
    for _ in range(700):
        deep = [deep]
    for place in places(sample.document("7")):
        file = put(folder, json.dumps([replaced(sample.document("7"), place, deep)]))
        try:
            assert all(map(holds_together, read(file).compositions))
        except DataError as error:
            assert len(str(error)) < 1000  # noqa: PT017


def json_check_integers_of_thousands_of_digits_are_refused(sample: Sample, folder: Path) -> None:
    error = failure(put(folder, with_extra(sample, HUGE)))
    assert error.rule == "not-json"
    assert len(str(error)) < 1000


def json_check_empty_array_holds_nothing(sample: Sample, folder: Path) -> None:
    for options in (ReadOptions(), ReadOptions(format=sample.name)):
        error = failure(put(folder, "[]"), options)
        assert error.rule == "empty"
        assert "at least one composition is needed, found none" in str(error)


JSON_CHECKS = checks("json_check_")


@pytest.mark.parametrize("check", JSON_CHECKS)
@pytest.mark.parametrize("format_", JSON_FORMATS)
def test_json_format(format_: str, check: str, tmp_path: Path) -> None:
    JSON_CHECKS[check](SAMPLES[format_], tmp_path)


# ---- every value and every name of a document, spoiled in every way


def outcome(file: Path, document: Json) -> str | None:
    """The rule that reading the document breaks; None when what is read holds together."""
    put(file.parent, json.dumps([document]), file.name)
    try:
        assert all(map(holds_together, read(file).compositions))
    except DataError as error:
        text = str(error)
        text.encode()
        ok = text.startswith(f"{file}: ") and "{" not in text and len(text) < 1000
        return error.rule if ok else f"a bad message: {text}"
    return None


@pytest.mark.parametrize("name", DOCUMENTS)
def test_lone_surrogates_are_kept_out(name: str, tmp_path: Path) -> None:
    """Refused by name, or in a place that is not read: never part of a composition or a message."""
    document = DOCUMENTS[name]
    mutants = [replaced(document, place, "a\ud800") for place in places(document)]
    in_objects = [p for p in places(document) if isinstance(value_at(document, p[:-1]), dict)]
    mutants += [renamed(document, place, "\udfff") for place in in_objects]
    rules = {outcome(tmp_path / "file", mutant) for mutant in mutants}
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
def test_wrong_types_never_escape(name: str, value: Json, tmp_path: Path) -> None:
    document = DOCUMENTS[name]
    file = tmp_path / "file"
    rules = [outcome(file, replaced(document, place, value)) for place in places(document)]
    assert any(rules)
    assert not {rule for rule in rules if rule and rule.startswith("a bad message")}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_missing_values_never_escape(name: str, tmp_path: Path) -> None:
    document = DOCUMENTS[name]
    rules = []
    for place in places(document):
        mutant = replaced(document, place, None)
        del value_at(mutant, place[:-1])[place[-1]]
        rules.append(outcome(tmp_path / "file", mutant))
    assert {"missing-id", "dangling-link"} & set(rules)
    assert not {rule for rule in rules if rule and rule.startswith("a bad message")}
