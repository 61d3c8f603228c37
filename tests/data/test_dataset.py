"""A data set: compositions in their order, their fingerprint, and how it shows itself."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import pytest

import dagrec
from dagrec.data.dataset import MAX_PROBLEMS, Dataset, ReadReport
from dagrec.errors import DataError

PATHS = [["table_1", "clean", "plot"], ["clean", "plot"], ["plot"]]


@pytest.fixture
def data() -> Dataset:
    return dagrec.from_paths(PATHS, owners=["ann", "bob", None], times=[1, None, None])


def test_dataset_is_a_sequence_of_compositions(data: Dataset) -> None:
    assert len(data) == 3
    assert [composition.id for composition in data] == ["path-0", "path-1", "path-2"]
    assert data[0] is data.compositions[0]
    assert data[-1].id == "path-2"
    assert [composition.id for composition in data[1:]] == ["path-1", "path-2"]
    with pytest.raises(IndexError):
        data[3]


def test_fingerprint_tells_every_change_and_nothing_else(data: Dataset) -> None:
    owners, times = ["ann", "bob", None], [1, None, None]
    for same in ({}, {"services": ["clean", "plot"]}, {"services": lambda key: key != "table_1"}):
        again = dagrec.from_paths(PATHS, owners=owners, times=times, **same)
        assert again.fingerprint == data.fingerprint
    changed = [
        dagrec.from_paths(PATHS[::-1], owners=owners, times=times),
        dagrec.from_paths([*PATHS[:2], ["plots"]], owners=owners, times=times),
        dagrec.from_paths(PATHS, owners=["ann", "bob", "bob"], times=times),
        dagrec.from_paths(PATHS, owners=owners, times=[1, None, 2]),
        dagrec.from_paths(PATHS, owners=owners, times=times, services=["clean"]),
        dagrec.from_paths(PATHS[:2], owners=owners[:2], times=times[:2]),
    ]
    prints = {data.fingerprint, *(each.fingerprint for each in changed)}
    assert len(prints) == 1 + len(changed)


def test_fingerprint_does_not_depend_on_where_the_data_lie(data: Dataset) -> None:
    moved = Dataset.of(data.compositions, ReadReport(), source="elsewhere")
    assert moved.fingerprint == data.fingerprint


def test_about_says_what_a_result_needs(data: Dataset) -> None:
    _, report = data.examples()
    assert data.about(report) == {
        "path": "a list of paths",
        "fingerprint": data.fingerprint,
        "compositions": 3,
        "form": "paths",
        "examples": 3,
        "skipped": {},
    }


def test_dataset_shows_its_counts(data: Dataset) -> None:
    lines = dict(re.findall(r"^(\S.*?) {2,}(\S+)$", repr(data), re.MULTILINE))
    assert lines == {
        "compositions": "3",
        "nodes": "6",
        "links": "3",
        "distinct services": "2",
        "owners": "2",
        "with a time": "1",
        "skipped": "0",
    }
    assert repr(data).startswith("data set of a list of paths\n")


def test_dataset_shows_what_was_skipped_and_noted(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    good = '{"nodes": [{"id": 1}, {"id": 2, "mid": 3}], "links": [{"source": 1, "target": 2}]}'
    twice = good.replace('"links": [', '"links": [{"source": 1, "target": 2}, ')
    file.write_text(f'[{good}, {{"nodes": [], "links": []}}, {twice}]')
    data = dagrec.read(file, on_error="skip")
    assert len(data) == 2
    assert re.search(r"^skipped +1$", repr(data), re.MULTILINE)
    assert f"skipped: {file}: composition 2: a composition needs at least one node" in repr(data)
    assert repr(data).splitlines()[-2:] == [
        "note: links given more than once: 1",
        "note: compositions given more than once: 1",
    ]


def test_report_keeps_the_first_messages_and_counts_all() -> None:
    report = ReadReport()
    for number in range(MAX_PROBLEMS + 5):
        report.skip(DataError(f"problem {number}", rule="cycle"))
    assert report.skipped == {"cycle": MAX_PROBLEMS + 5}
    assert report.problems == [f"problem {number}" for number in range(MAX_PROBLEMS)]
    data = Dataset.of((), report, source="x")
    assert repr(data).count("skipped: problem") == 3


def test_html_of_a_dataset_is_escaped(data: Dataset) -> None:
    report = ReadReport()
    report.skip(DataError("<script>alert(1)</script>", rule="cycle"))
    report.notes["<b>bold</b>"] += 1
    html = Dataset.of(data.compositions, report, source="<img src=x>")._repr_html_()
    assert html.startswith("<div>")
    for text in ("<script", "<b>", "<img"):
        assert text not in html
        assert escape(text) in html
