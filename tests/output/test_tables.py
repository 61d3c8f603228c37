"""Tables as plain text and as HTML."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from dagrec.output.tables import Table

COLUMNS = ("service", "recommender", "mrr")
ROWS = [("plot", "markov", "0.75"), ("a longer key", "gru4rec", "0.2"), ("x", "", -1)]


def test_text_columns_are_aligned_left_and_others_right() -> None:
    assert str(Table("two services", COLUMNS, ROWS, texts=2)).splitlines() == [
        "two services",
        "service       recommender   mrr",
        "plot          markov       0.75",
        "a longer key  gru4rec       0.2",
        "x                            -1",
    ]


def test_only_first_column_is_text_by_default() -> None:
    assert str(Table("title", COLUMNS, ROWS[:1])).splitlines()[1:] == [
        "service  recommender   mrr",
        "plot          markov  0.75",
    ]


def test_lines_have_no_trailing_spaces() -> None:
    table = Table("title", ("a long name", "b"), [("x", ""), ("", "")], texts=2)
    assert str(table).split("\n") == ["title", "a long name  b", "x", ""]


def test_notes_are_printed_below_rows() -> None:
    table = Table("title", ("name", "count"), [("a", 1)], notes=["one", "two"])
    assert str(table).splitlines()[-3:] == ["a         1", "one", "two"]


def test_table_without_rows_has_header() -> None:
    table = Table("title", ("name", "count"), [])
    assert str(table) == "title\nname  count"
    assert "<tbody></tbody>" in table.html()


def test_row_of_wrong_length_raises() -> None:
    with pytest.raises(ValueError, match="argument"):
        str(Table("title", ("name", "count"), [("a",)]))


def test_html_is_escaped() -> None:
    evil = """<b onclick="x">&'</b>"""
    html = Table(evil, (evil, "count"), [(evil, evil)], notes=[evil]).html()
    assert "<b" not in html
    root = ElementTree.fromstring(html)
    assert [element.text for element in root.iter() if element.text] == [
        evil,
        evil,
        "count",
        *3 * [evil],
    ]


def test_html_has_all_cells_with_their_alignment() -> None:
    root = ElementTree.fromstring(Table("title", COLUMNS, ROWS, texts=2, notes=["a note"]).html())
    assert root.findtext(".//caption") == "title"
    assert [head.text for head in root.iterfind(".//th")] == list(COLUMNS)
    rows = [[cell.text or "" for cell in row] for row in root.iterfind(".//tbody/tr")]
    assert rows == [[str(cell) for cell in row] for row in ROWS]
    for row in root.iterfind(".//tbody/tr"):
        sides = [cell.attrib["style"] for cell in row]
        assert sides == ["text-align: left", "text-align: left", "text-align: right"]
    assert root.findtext("./div") == "a note"
