"""The reader of Galaxy workflow connections."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagrec.data.dataset import Dataset
from dagrec.data.formats import read
from dagrec.data.formats.galaxy_tsv import tool_key
from dagrec.errors import DataError


def load(folder: Path, *rows: str) -> Dataset:
    file = folder / "connections.tsv"
    file.write_text("".join(row.replace(" ", "\t") + "\n" for row in rows))
    return read(file)


@pytest.mark.parametrize(
    ("tool_id", "key"),
    [
        ("Cut1", "Cut1"),
        ("toolshed.g2.bx.psu.edu/repos/devteam/fastqc/fastqc/0.73", "fastqc"),
        ("toolshed.g2.bx.psu.edu/repos/devteam/suite/two/words/1.0+galaxy0", "words"),
        (
            "toolshed.g2.bx.psu.edu/repos/devteam/fastqc//0.73",
            "toolshed.g2.bx.psu.edu/repos/devteam/fastqc//0.73",
        ),
        ("a/b/c", "a/b/c"),
        ("interactive/tools/a/b/c/d", "interactive/tools/a/b/c/d"),
    ],
)
def test_tool_key_of_toolshed_id(tool_id: str, key: str) -> None:
    assert tool_key(tool_id) == key


def test_rows_of_workflow_need_not_be_adjacent(tmp_path: Path) -> None:
    dataset = load(
        tmp_path,
        "7 2013-02-07 1  1 2 Cut1 1 in",
        "8 2013-02-07 1 a 1 2 b 1 in",
        "7 2013-02-09 2 Cut1 1 3 Sort1 1 in  t f",
    )
    first, second = dataset.compositions
    assert (first.id, second.id) == ("7", "8")
    assert first.links == (("1", "2"), ("2", "3"))
    assert [n.key for n in first.nodes] == ["__input__", "Cut1", "Sort1"]
    assert first.time is not None
    assert second.time is not None
    assert first.time - second.time == 2 * 86400


def test_duplicate_links_are_merged_and_counted(tmp_path: Path) -> None:
    row = "7  1 a 1 2 b 1 left"
    dataset = load(tmp_path, row, row, "7  1 a 1 2 b 1 right")
    assert dataset.compositions[0].links == (("1", "2"),)
    assert [wire.input for wire in dataset.compositions[0].wires] == ["left", "right"]
    assert dict(dataset.report.notes) == {"links given more than once": 1}


def test_quotes_are_ordinary_characters(tmp_path: Path) -> None:
    dataset = load(tmp_path, '7  1 "a 1 2 b 1 left', "", '7  2 b 1 3 c" 1 left')
    assert [node.key for node in dataset.compositions[0].nodes] == ['"a', "b", 'c"']
    with pytest.raises(DataError, match="line 3: a row needs at least 8 tab-separated columns"):
        load(tmp_path, '7  1 "a 1 2 b 1 left', "", '7  2 b" 1')


def test_row_with_empty_last_column_is_recognised(tmp_path: Path) -> None:
    dataset = load(tmp_path, "7  1 a  2 b ")
    assert dict(dataset.report.formats) == {"galaxy-tsv": 1}
    assert dataset.compositions[0].time is None


def test_table_of_psql_is_read(tmp_path: Path) -> None:
    text = """\
 wf_id | wf_updated | in_id | in_tool | in_tool_v | out_id | out_tool | out_tool_v | published | deleted | has_errors
-------+------------+-------+---------+-----------+--------+----------+------------+-----------+---------+------------
     7 | 2020-01-02 |     1 |         |           |      2 | cut      | 1.0        | t         | f       | f
     7 | 2020-01-02 |     2 | cut     | 1.0       |      3 | join     | 2.0        | t         | f       | t
     8 | 2020-01-03 |     1 |         |           |      2 | plot     | 2.0        | t         | t       | f
(3 rows)
"""  # noqa: E501
    file = tmp_path / "table.txt"
    file.write_text(text, encoding="utf-8")
    data = read(file)
    assert [composition.id for composition in data] == ["7", "8"]
    assert [node.key for node in data[0].nodes] == ["__input__", "cut", "join"]
    assert data[0].links == (("1", "2"), ("2", "3"))
    assert dict(data.report.notes) == {
        "links of workflows with has_errors": 1,
        "links of workflows with deleted": 1,
    }
    file.write_text(text.replace("2020-01-03", "soon"), encoding="utf-8")
    with pytest.raises(DataError, match="workflow 8: line 5: updated must be ISO 8601"):
        read(file)
