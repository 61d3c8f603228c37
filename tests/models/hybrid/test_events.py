from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.examples import Call, Context
from dagrec.data.history import MAX_HISTORY_LENGTH
from dagrec.models.hybrid.events import CACHES, HALF_LIVES, Past
from tests.models.hybrid.owners import asked

COLUMNS = {"a": 0, "b": 1, "c": 2}
CALLS = st.lists(
    st.tuples(st.sampled_from("abcx"), st.sampled_from([("t",), ("u",), ("u", "t")])), max_size=12
)


def shares(context: Context, cache: str, half_life: float) -> list[float]:
    found = Past.of(context, COLUMNS).shares(3)
    return [float(x) for x in found[CACHES.index(cache), HALF_LIVES.index(half_life)]]


def test_shares_by_hand() -> None:
    """a is 2 calls old, b 1, a 0: with a half-life of 2, weights 1/2, 1/sqrt 2, 1."""
    context = asked("a", "b", "a")
    total = 0.5 + 0.5**0.5 + 1
    assert shares(context, "any", 2.0) == pytest.approx([1.5 / total, 0.5**0.5 / total, 0])
    assert shares(context, "any", np.inf) == pytest.approx([2 / 3, 1 / 3, 0])


def test_another_order_changes_decayed_shares_and_not_plain_ones() -> None:
    one, other = asked("a", "a", "b"), asked("b", "a", "a")
    assert shares(one, "any", np.inf) == pytest.approx(shares(other, "any", np.inf))
    assert shares(one, "any", 0.5)[1] == pytest.approx(1 / (1 + 1 / 4 + 1 / 16))
    assert shares(other, "any", 0.5)[1] == pytest.approx(1 / 16 / (1 + 1 / 4 + 1 / 16))


def test_caches_keep_what_is_like_the_question() -> None:
    """The last call was of a, the one before of b."""
    history = (
        Call("c", ("u",)),
        Call("b", ("t",)),
        Call("a", ("u", "t")),
        Call("c", ("t",)),
        Call("b", ("u",)),
        Call("a", ("u",)),
    )
    past = Past.of(Context(("t",), history=history), COLUMNS)
    kept = {name: np.flatnonzero(past.matches[i]).tolist() for i, name in enumerate(CACHES)}
    assert kept == {
        "any": [0, 1, 2, 3, 4, 5],
        "node": [1, 2, 3],
        "path": [1, 3],
        "call": [3],
        "calls": [3],
        "path and call": [3],
    }


def by_definition(context: Context) -> dict[tuple[str, float], list[float]]:
    """The shares, by plain loops."""
    calls = context.history
    names = [call.service for call in calls]
    found = {}
    for half_life in HALF_LIVES:
        for cache in CACHES:
            counts = dict.fromkeys(COLUMNS, 0.0)
            for j, call in enumerate(calls):
                like = {
                    "any": True,
                    "node": call.path[-1:] == context.path[-1:],
                    "path": call.path == context.path,
                    "call": j >= 1 and names[j - 1] == names[-1],
                    "calls": j >= 2 and names[j - 2 : j] == names[-2:],
                }
                like["path and call"] = like["path"] and like["call"]
                if like[cache] and call.service in counts:
                    counts[call.service] += 0.5 ** ((len(calls) - 1 - j) / half_life)
            total = sum(counts.values())
            found[cache, half_life] = [n / total if total else 0.0 for n in counts.values()]
    return found


@given(CALLS)
def test_shares_are_those_of_the_definition(calls: list[tuple[str, tuple[str, ...]]]) -> None:
    context = Context(("t",), history=tuple(Call(service, path) for service, path in calls))
    for (cache, half_life), expected in by_definition(context).items():
        assert shares(context, cache, half_life) == pytest.approx(expected), (cache, half_life)


def test_recency_by_hand() -> None:
    history = (Call("a", ("t",), 10.0), Call("b", ("u",), 20.0), Call("a", ("u",), 40.0))
    past = Past.of(Context(("t",), time=100.0, history=history), COLUMNS)
    nan = np.nan
    logs = np.log1p([60.0, 80.0, 90.0])
    expected = [[0, 1, nan], [logs[0], logs[1], nan], [2, nan, nan], [logs[2], nan, nan]]
    np.testing.assert_allclose(past.recency(3), expected)


def test_the_summary_by_hand() -> None:
    history = (Call("a", ("t",), 10.0), Call("b", ("u",), 20.0), Call("b", ("u",), 40.0))
    past = Past.of(Context(("u", "t"), time=100.0, history=history), COLUMNS)
    # After the same node 1, after a call of b 1; no call of this path; two calls of b in a row.
    expected = [3, 1, 0, 1, 0, 0, np.log1p(60), np.nan, np.log1p(20), 2, 2, 2]
    np.testing.assert_allclose(past.summary(), expected)


def test_without_times_only_ranks_are_told() -> None:
    past = Past.of(asked("a", "b", timed=False), COLUMNS)
    recency = past.recency(3)
    assert np.isnan(recency[[1, 3]]).all()
    assert recency[0, :2].tolist() == [1, 0]
    assert np.isfinite(past.shares(3)).all()


def test_the_longest_history_keeps_its_newest_and_stays_finite() -> None:
    past = Past.of(asked("a", *["b"] * 2 * MAX_HISTORY_LENGTH), COLUMNS)
    assert len(past.services) == MAX_HISTORY_LENGTH
    assert past.shares(3)[:, :, 0].max() == 0
    old = Past.of(asked("a", *["x"] * (MAX_HISTORY_LENGTH - 1)), COLUMNS)
    assert old.shares(3)[0, :, 0] == pytest.approx(1)
