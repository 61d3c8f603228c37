"""The reader of Galaxy workflow connections."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dagrec.data.compositions import Link, Node, Wire
from dagrec.data.dataset import Dataset
from dagrec.data.formats import FORMATS, Content, Reading, compose_draft, read
from dagrec.data.formats.galaxy_tsv import tool_key
from dagrec.errors import DataError
from tests.data.dags import graphs


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


PSQL = """\
 wf_id | wf_updated | in_id | in_tool | in_tool_v | out_id | out_tool | out_tool_v | published | deleted | has_errors
-------+------------+-------+---------+-----------+--------+----------+------------+-----------+---------+------------
     7 | 2020-01-02 |     1 |         |           |      2 | cut      | 1.0        | t         | f       | f
     7 | 2020-01-02 |     2 | cut     | 1.0       |      3 | join     | 2.0        | t         | f       | t
     8 | 2020-01-03 |     1 |         |           |      2 | plot     | 2.0        | t         | t       | f
(3 rows)
"""  # noqa: E501


def load_text(folder: Path, text: str) -> Dataset:
    file = folder / "table.txt"
    file.write_text(text, encoding="utf-8")
    return read(file)


def test_table_of_psql_is_read(tmp_path: Path) -> None:
    data = load_text(tmp_path, PSQL)
    assert [composition.id for composition in data] == ["7", "8"]
    assert [node.key for node in data[0].nodes] == ["__input__", "cut", "join"]
    assert data[0].links == (("1", "2"), ("2", "3"))
    assert data[0].wires == ()
    with pytest.raises(DataError, match="workflow 8: line 5: updated must be ISO 8601"):
        load_text(tmp_path, PSQL.replace("2020-01-03", "soon"))


def test_flagged_workflows_are_kept_and_counted(tmp_path: Path) -> None:
    notes = {"published workflows": 2, "deleted workflows": 1, "workflows with errors": 1}
    assert dict(load_text(tmp_path, PSQL).report.notes) == notes
    rows = [
        "7 2020-01-02 1  1 2 cut 1 t f f",
        "7 2020-01-02 2 cut 1 3 join 1 t f t",
        "8 2020-01-02 1  1 2 cut 1 t t f",
    ]
    dataset = load(tmp_path, *rows)
    assert dict(dataset.report.notes) == notes
    assert dataset.compositions[0].wires == ()
    with_inputs = load(tmp_path, *(row.replace(" 1 t", " 1 query t") for row in rows))
    assert dict(with_inputs.report.notes) == notes
    assert {wire.input for wire in with_inputs.compositions[0].wires} == {"query"}


def test_last_column_of_export_with_inputs_is_counted(tmp_path: Path) -> None:
    rows = ["7 2020-01-02 1  1 2 cut 1 input out_file1 f", "8 2020-01-02 1  1 2 cut 1 t  t"]
    dataset = load(tmp_path, *rows)
    assert dict(dataset.report.notes) == {"deleted workflows or workflows with errors": 1}
    assert [c.wires[0].input for c in dataset.compositions] == ["input", "t"]


def test_columns_of_a_header_are_found_by_name(tmp_path: Path) -> None:
    assert load_text(tmp_path, f"Timing is on.\n{PSQL}Time: 3.142 ms\n").compositions == (
        load_text(tmp_path, PSQL).compositions
    )
    dataset = load(
        tmp_path,
        "wf_id in_id in_name in_tool in_tool_v out_id out_tool out_tool_v",
        "7 1 query cut 1 2 join 1",
    )
    (composition,) = dataset.compositions
    assert [node.key for node in composition.nodes] == ["cut", "join"]
    assert composition.wires == (Wire("1", "2", None, "query"),)


def test_row_of_psql_with_too_few_columns_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 6: a row needs at least 11 columns"):
        load_text(tmp_path, PSQL.replace("(3 rows)", " 9 | 2020-01-02 | 1"))


@pytest.mark.parametrize(
    "text",
    [
        "a\tb\tc\td\te\tf\tg\th\n1\t2\t3\t4\t5\t6\t7\t8\n",
        "\t".join(["cut", "join", "plot"] * 3),
        PSQL.replace("in_tool ", "version "),
        PSQL.replace("-+-", "-|-"),
    ],
    ids=["other header", "words", "other query", "no rule"],
)
def test_other_tables_are_not_recognised(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load_text(tmp_path, text)
    assert error.value.rule in ("unknown-format", "missing-field", "bad-row")
    assert "galaxy-tsv" not in str(error.value).partition("found")[2]


@given(drawn=graphs(), inputs=st.lists(st.sampled_from(["a", "b|c", None]), min_size=21, max_size=21))
def test_written_links_are_read_back(
    drawn: tuple[list[Node], list[Link]], inputs: list[str | None]
) -> None:
    nodes, links = drawn
    assume(links)
    by_id = {node.id: node for node in nodes}
    tools = {id_: node.key if node.is_service else "" for id_, node in by_id.items()}
    rows = [
        f"7\t2020-01-02\t{a}\t{tools[a]}\t1\t{b}\t{tools[b]}\t1\t{input_ or ''}\n"
        for (a, b), input_ in zip(links, inputs, strict=False)
    ]
    reading = Reading()
    (document,) = FORMATS["galaxy-tsv"].documents(Content("".join(rows)), reading)
    composition = compose_draft(document.draft(), "drawn", "fail")[0]
    linked = {id_ for link in links for id_ in link}
    expected = {id_: tools[id_] or "__input__" for id_ in linked}
    assert {node.id: node.key for node in composition.nodes} == expected
    assert {node.id for node in composition.nodes if node.is_service} == {
        id_ for id_ in linked if tools[id_]
    }
    assert composition.links == tuple(links)
    ports = zip(links, inputs, strict=False)
    assert composition.wires == tuple(Wire(*link, None, port) for link, port in ports if port)
