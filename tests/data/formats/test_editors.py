"""What the readers of visual editors share."""

from __future__ import annotations

from collections import Counter

import pytest

from dagrec.data.compositions import MAX_KEY_LENGTH, Wire
from dagrec.data.formats import editors
from dagrec.data.formats.documents import join_texts
from dagrec.data.formats.editors import join_links, known_links, port, written_name
from dagrec.errors import DataError
from tests.checks import says


def test_joined_link_has_the_first_output_and_the_last_input() -> None:
    wires = [Wire("a", "r", "0", "in"), Wire("r", "s", "1", "in"), Wire("s", "b", "2", "x")]
    assert join_links(wires, {"r", "s"}) == [Wire("a", "b", "0", "x")]


def test_links_through_a_node_are_joined_with_each_other() -> None:
    wires = [Wire("a", "j"), Wire("b", "j"), Wire("j", "c"), Wire("j", "d"), Wire("a", "b")]
    expected = [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("a", "b")]
    assert [wire[:2] for wire in join_links(wires, {"j"})] == expected


def test_loose_ends_and_cycles_of_passing_nodes_give_no_links() -> None:
    wires = [Wire("a", "r"), Wire("r", "s"), Wire("s", "r"), Wire("t", "b")]
    assert join_links(wires, {"r", "s", "t"}) == []


def test_links_through_many_passing_nodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editors, "MAX_JOINED", 50)
    wires = [Wire(f"a{i}", "j") for i in range(20)] + [Wire("j", f"b{i}") for i in range(20)]
    with pytest.raises(DataError) as error:
        join_links(wires, {"j"})
    assert error.value.rule == "too-large"
    assert says(error, "may add 50 links")


def test_steps_through_passing_nodes_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(editors, "MAX_JOINED", 50)
    comb = [Wire(f"j{i}", f"j{i + 1}") for i in range(30)] + [Wire("a", f"j{i}") for i in range(30)]
    with pytest.raises(DataError) as error:
        join_links(comb, {f"j{i}" for i in range(31)})
    assert error.value.rule == "too-large"


def test_chain_of_passing_nodes_is_joined_in_linear_work() -> None:
    size = 50_000
    wires = [Wire(str(i), str(i + 1)) for i in range(size)]
    assert join_links(wires, {str(i) for i in range(1, size)}) == [Wire("0", str(size))]


def test_links_of_comments_and_of_nodes_that_are_gone_are_counted_apart() -> None:
    notes: Counter[str] = Counter()
    wires = [Wire("a", "b"), Wire("a", "note"), Wire("a", "gone"), Wire("note", "gone")]
    assert known_links(wires, {"a", "b"}, {"note"}, notes) == [Wire("a", "b")]
    assert dict(notes) == {
        "links of comment nodes dropped": 1,
        "links to nodes that are gone dropped": 2,
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [("HTTP Request", None), ("HTTP Request 2", None), ("Ask", "Ask"), ("", None), (7, None)],
)
def test_name_of_a_node_is_its_text_unless_it_repeats_the_type(name: object, text: str | None) -> None:
    assert written_name(name, "http-request") == text


def test_texts_are_joined_without_repetition() -> None:
    assert join_texts("a", None, 3, " a ", "b") == "a\nb"
    assert join_texts("", None) is None


def test_parts_of_ports_are_joined_and_bounded() -> None:
    assert port("MODEL", "MODEL") == "MODEL/MODEL"
    assert port(0) == "0"
    assert port(None, "", []) is None
    assert len(port("x" * 2000) or "") == MAX_KEY_LENGTH
