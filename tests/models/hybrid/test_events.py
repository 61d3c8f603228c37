from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.examples import Call, Context
from dagrec.data.history import MAX_HISTORY_LENGTH
from dagrec.models.hybrid.events import CACHES, HALF_LIVES, OwnerHistory
from tests.models.hybrid.owners import context_after

COLUMNS = {"a": 0, "b": 1, "c": 2}
CALLS = st.lists(
    st.tuples(st.sampled_from("abcx"), st.sampled_from([("t",), ("u",), ("u", "t")])), max_size=12
)


def shares(context: Context, cache: str, half_life: float) -> list[float]:
    all_shares = OwnerHistory.of(context, COLUMNS).shares(3)
    return [float(x) for x in all_shares[CACHES.index(cache), HALF_LIVES.index(half_life)]]


def test_shares_match_manual_computation() -> None:
    """The ages of a, b, a are 2, 1, 0; with a half-life of 2 the weights are 1/2, 1/sqrt 2, 1."""
    context = context_after("a", "b", "a")
    total = 0.5 + 0.5**0.5 + 1
    assert shares(context, "any", 2.0) == pytest.approx([1.5 / total, 0.5**0.5 / total, 0])
    assert shares(context, "any", np.inf) == pytest.approx([2 / 3, 1 / 3, 0])


def test_order_changes_only_decayed_shares() -> None:
    one, other = context_after("a", "a", "b"), context_after("b", "a", "a")
    assert shares(one, "any", np.inf) == pytest.approx(shares(other, "any", np.inf))
    assert shares(one, "any", 0.5)[1] == pytest.approx(1 / (1 + 1 / 4 + 1 / 16))
    assert shares(other, "any", 0.5)[1] == pytest.approx(1 / 16 / (1 + 1 / 4 + 1 / 16))


def test_caches_hold_matching_calls() -> None:
    """The last two calls were of b and a."""
    history = (
        Call("c", ("u",)),
        Call("b", ("t",)),
        Call("a", ("u", "t")),
        Call("c", ("t",)),
        Call("b", ("u",)),
        Call("a", ("u",)),
    )
    history = OwnerHistory.of(Context(("t",), history=history), COLUMNS)
    calls = {name: np.flatnonzero(history.matches[i]).tolist() for i, name in enumerate(CACHES)}
    assert calls == {
        "any": [0, 1, 2, 3, 4, 5],
        "node": [1, 2, 3],
        "path": [1, 3],
        "call": [3],
        "calls": [3],
        "path and call": [3],
    }


def reference_shares(context: Context) -> dict[tuple[str, float], list[float]]:
    """Return the shares of each cache and half-life, computed by loops."""
    calls = context.history
    services = [call.service for call in calls]
    result = {}
    for half_life in HALF_LIVES:
        for cache in CACHES:
            counts = dict.fromkeys(COLUMNS, 0.0)
            for j, call in enumerate(calls):
                matches = {
                    "any": True,
                    "node": call.path[-1:] == context.path[-1:],
                    "path": call.path == context.path,
                    "call": j >= 1 and services[j - 1] == services[-1],
                    "calls": j >= 2 and services[j - 2 : j] == services[-2:],
                }
                matches["path and call"] = matches["path"] and matches["call"]
                if matches[cache] and call.service in counts:
                    counts[call.service] += 0.5 ** ((len(calls) - 1 - j) / half_life)
            total = sum(counts.values())
            result[cache, half_life] = [n / total if total else 0.0 for n in counts.values()]
    return result


@given(CALLS)
def test_shares_match_reference(calls: list[tuple[str, tuple[str, ...]]]) -> None:
    context = Context(("t",), history=tuple(Call(service, path) for service, path in calls))
    for (cache, half_life), expected in reference_shares(context).items():
        assert shares(context, cache, half_life) == pytest.approx(expected), (cache, half_life)


def test_recency_matches_manual_computation() -> None:
    history = (Call("a", ("t",), 10.0), Call("b", ("u",), 20.0), Call("a", ("u",), 40.0))
    history = OwnerHistory.of(Context(("t",), time=100.0, history=history), COLUMNS)
    nan = np.nan
    logs = np.log1p([60.0, 80.0, 90.0])
    expected = [[0, 1, nan], [logs[0], logs[1], nan], [2, nan, nan], [logs[2], nan, nan]]
    np.testing.assert_allclose(history.recency(3), expected)


def test_summary_matches_manual_computation() -> None:
    history = (Call("a", ("t",), 10.0), Call("b", ("u",), 20.0), Call("b", ("u",), 40.0))
    history = OwnerHistory.of(Context(("u", "t"), time=100.0, history=history), COLUMNS)
    # One call after the same node, one after a call of b, none after this path; b twice in a row.
    expected = [3, 1, 0, 1, 0, 0, np.log1p(60), np.nan, np.log1p(20), 2, 2, 2]
    np.testing.assert_allclose(history.summary(), expected)


def test_recency_without_times_has_only_call_counts() -> None:
    history = OwnerHistory.of(context_after("a", "b", timed=False), COLUMNS)
    recency = history.recency(3)
    assert np.isnan(recency[[1, 3]]).all()
    assert recency[0, :2].tolist() == [1, 0]
    assert np.isfinite(history.shares(3)).all()


def test_long_history_keeps_newest_calls() -> None:
    history = OwnerHistory.of(context_after("a", *["b"] * 2 * MAX_HISTORY_LENGTH), COLUMNS)
    assert len(history.services) == MAX_HISTORY_LENGTH
    assert history.shares(3)[:, :, 0].max() == 0
    old = OwnerHistory.of(context_after("a", *["x"] * (MAX_HISTORY_LENGTH - 1)), COLUMNS)
    assert old.shares(3)[0, :, 0] == pytest.approx(1)
