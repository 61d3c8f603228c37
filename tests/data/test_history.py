from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Node, compose
from dagrec.data.examples import Call, extract
from dagrec.data.history import MAX_HISTORY_LENGTH, Histories
from tests.worlds import DAY, composition


@pytest.fixture
def compositions() -> tuple[Composition, ...]:
    """Compositions of two owners, without an owner and without a time, not in the order of time."""
    return (
        composition("later", ("table_a", "later"), owner="ann", time=5 * DAY),
        composition("early", ("table_a", "early"), owner="ann", time=1 * DAY),
        composition("other", ("table_a", "other"), owner="bob", time=0.0),
        composition("ownerless", ("table_a", "ownerless"), owner=None, time=0.0),
        composition("timeless", ("table_a", "timeless"), owner="ann", time=None),
        composition("middle", ("table_a", "middle"), owner="ann", time=3 * DAY),
    )


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (1 * DAY, []),
        (1 * DAY + 1, ["early"]),
        (3 * DAY, ["early"]),
        (5 * DAY, ["early", "middle"]),
        (9 * DAY, ["early", "middle", "later"]),
        (None, []),
    ],
)
def test_before_returns_earlier_calls_of_same_owner(
    compositions: tuple[Composition, ...], time: float | None, expected: list[str]
) -> None:
    histories = Histories.of(extract(compositions)[0])
    assert [call.service for call in histories.before("ann", time)] == expected


def test_history_of_unknown_owner_is_empty(compositions: tuple[Composition, ...]) -> None:
    histories = Histories.of(extract(compositions)[0])
    assert histories.before("eve", 9 * DAY) == ()
    assert histories.before(None, 9 * DAY) == ()


def test_call_has_service_path_and_time(compositions: tuple[Composition, ...]) -> None:
    (call,) = Histories.of(extract(compositions)[0]).before("bob", DAY)
    assert call == Call("other", ("table_a",), 0.0)


def test_shared_call_counts_once() -> None:
    def shared(id: str, source: str) -> Composition:
        nodes = [Node("t", source, "table"), Node("call-7", "x", time=2 * DAY)]
        return compose(id, nodes, [("t", "call-7")], owner="ann", time=2 * DAY)[0]

    examples, _ = extract([shared("one", "table_a"), shared("two", "table_b")])
    assert len(examples) == 2
    assert Histories.of(examples).before("ann", 3 * DAY) == (Call("x", ("table_a",), 2 * DAY),)


def test_long_history_keeps_newest_calls() -> None:
    many = [composition(f"c{i}", ("t", f"x{i}"), time=float(i)) for i in range(MAX_HISTORY_LENGTH + 5)]
    history = Histories.of(extract(many)[0]).before("ann", 1e9)
    assert [call.service for call in history] == [f"x{i}" for i in range(5, MAX_HISTORY_LENGTH + 5)]


@given(st.lists(st.tuples(st.sampled_from(["ann", "bob", None]), st.integers(0, 5)), min_size=1))
def test_history_excludes_example_and_later_calls(
    owners_and_times: list[tuple[str | None, int]],
) -> None:
    examples, _ = extract(
        [
            composition(f"c{i}", ("table_a", f"x{i}"), owner=owner, time=float(time))
            for i, (owner, time) in enumerate(owners_and_times)
        ]
    )
    with_history = Histories.of(examples).with_history(examples)
    for (owner, time), example in zip(owners_and_times, with_history, strict=True):
        expected = [
            (t, f"x{j}")
            for j, (o, t) in enumerate(owners_and_times)
            if o == owner is not None and t < time
        ]
        assert sorted((call.time, call.service) for call in example.context.history) == sorted(expected)
        times = [call.time for call in example.context.history]
        assert times == sorted(times)
    assert Histories.of(examples).with_history(with_history) == with_history
