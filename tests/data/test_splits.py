"""Properties of the evaluation protocols."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, compose
from dagrec.data.examples import Example, extract
from dagrec.data.splits import (
    PROTOCOLS,
    Split,
    hold_out,
    prequential_splits,
    split_compositions,
    split_leave_one_out,
    split_pairs,
    split_temporal,
)
from dagrec.errors import DataError
from tests.checks import says
from tests.data.dags import chain, dag
from tests.data.parts import SHARES, pairs_of, rng


def targets(*parts: Sequence[Example]) -> list[str]:
    return ["".join(e.target for e in part) for part in parts]


def times(part: Sequence[Example]) -> list[float]:
    return [e.context.time for e in part if e.context.time is not None]


# ---- all protocols


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("protocol", ["pairs", "compositions"])
def test_parts_partition_examples(protocol: str, share: float, examples: tuple[Example, ...]) -> None:
    split = PROTOCOLS[protocol](examples, share, rng())
    assert split.train
    assert split.test
    parts = [id(example) for part in (split.train, split.test) for example in part]
    assert sorted(parts) == sorted(map(id, examples))
    # Each part keeps the order of the data.
    position = {id(example): i for i, example in enumerate(examples)}
    for part in (split.train, split.test):
        assert [position[id(e)] for e in part] == sorted(position[id(e)] for e in part)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_split_is_reproducible(protocol: str, examples: tuple[Example, ...]) -> None:
    split, second = (PROTOCOLS[protocol](examples, 0.3, rng(5)) for _ in range(2))
    assert split == second
    assert split.fingerprint == second.fingerprint


@pytest.mark.parametrize("protocol", ["pairs", "compositions"])
def test_seeds_give_different_splits(protocol: str, examples: tuple[Example, ...]) -> None:
    prints = {PROTOCOLS[protocol](examples, 0.3, rng(seed)).fingerprint for seed in range(5)}
    assert len(prints) == 5


def test_temporal_split_does_not_depend_on_seed(examples: tuple[Example, ...]) -> None:
    assert len({split_temporal(examples, 0.3, rng(seed)).fingerprint for seed in range(3)}) == 1


def test_fingerprint_depends_on_parts_and_order() -> None:
    one, two = pairs_of("a", "b")
    splits = [
        Split((one, two), ()),
        Split((one,), (two,)),
        Split((two,), (one,)),
        Split((two, one), ()),
        Split((), (one, two)),
        Split((one, replace(two, target="c")), ()),
    ]
    assert len({split.fingerprint for split in splits}) == len(splits)


@pytest.mark.parametrize("protocol", ["pairs", "temporal", "leave-one-out"])
@pytest.mark.parametrize("count", [0, 1])
def test_split_requires_two_examples(protocol: str, count: int) -> None:
    examples = pairs_of("a", "b", times=[1.0, 2.0])[:count]
    with pytest.raises(DataError) as error:
        PROTOCOLS[protocol](examples, 0.3, rng())
    assert error.value.rule == "too-few"
    assert says(error, "at least two examples", f"found {count}", "use more data")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("share", SHARES)
def test_two_examples_are_split_one_and_one(protocol: str, share: float) -> None:
    split = PROTOCOLS[protocol](pairs_of("a", "b", times=[1.0, 2.0]), share, rng())
    assert (len(split.train), len(split.test)) == (1, 1)


# ---- pairs


@pytest.mark.parametrize("share", SHARES)
def test_pairs_are_stratified_within_one_of_proportional_size(
    share: float, examples: tuple[Example, ...]
) -> None:
    split = split_pairs(examples, share, rng())
    assert len(split.test) == min(ceil(len(examples) * share), len(examples) - 1)
    exact = len(split.test) / len(examples)
    test_counts = Counter(e.target for e in split.test)
    for target, count in Counter(e.target for e in examples).items():
        if count > 1:
            assert abs(test_counts[target] - count * exact) < 1


def test_pairs_split_has_published_sizes(geoportal: Sequence[Composition]) -> None:
    split = split_pairs(extract(geoportal)[0], 0.3, rng())
    assert (len(split.train), len(split.test)) == (711, 305)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
def test_targets_with_one_pair_form_one_stratum(sizes: list[int], share: float, seed: int) -> None:
    if sum(sizes) < 2:
        sizes = [2]
    names = [f"s{i}" for i, size in enumerate(sizes) for _ in range(size)]
    examples = pairs_of(*names)
    split = split_pairs(examples, share, rng(seed))
    assert len(split.train) + len(split.test) == len(examples)
    exact = len(split.test) / len(examples)
    strata = {f"s{i}": f"s{i}" if size > 1 else "single" for i, size in enumerate(sizes)}
    test_counts = Counter(strata[e.target] for e in split.test)
    for stratum, count in Counter(strata[name] for name in names).items():
        assert abs(test_counts[stratum] - count * exact) < 1


def test_rounding_is_unbiased() -> None:
    """With four targets of two pairs and two test pairs, a target is in half of the test parts."""
    examples = pairs_of(*"aabbccdd")
    splits = 400
    test_counts = Counter(
        e.target for seed in range(splits) for e in split_pairs(examples, 0.25, rng(seed)).test
    )
    assert sum(test_counts.values()) == 2 * splits
    for target in "abcd":
        # five standard deviations of a binomial distribution with p = 1/2
        assert abs(test_counts[target] - splits / 2) < 5 * (splits / 4) ** 0.5


# ---- compositions


@pytest.mark.parametrize("share", SHARES)
def test_identical_compositions_are_in_same_part(share: float, examples: tuple[Example, ...]) -> None:
    split = split_compositions(examples, share, rng())
    signatures = [
        {e.context.composition.signature for e in part if e.context.composition}
        for part in (split.train, split.test)
    ]
    assert not signatures[0] & signatures[1]
    assert not {e.composition for e in split.train} & {e.composition for e in split.test}


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_compositions_split_has_requested_share(share: float) -> None:
    examples = extract([dag(f"t{i} a b", f"t{i}>a a>b", id=str(i)) for i in range(20)])[0]
    split = split_compositions(examples, share, rng())
    assert len({e.composition for e in split.test}) == round(20 * share)


def test_compositions_split_requires_two_distinct_compositions() -> None:
    examples = extract([dag("t a b", "t>a a>b", id=str(i)) for i in range(3)])[0]
    with pytest.raises(DataError) as error:
        split_compositions(examples, 0.3, rng())
    assert error.value.rule == "too-few"
    assert says(error, "two different compositions", "found 1", "--protocol pairs")


def test_examples_without_composition_are_grouped_by_its_number() -> None:
    examples = [
        replace(e, context=replace(e.context, composition=None), composition=e.composition)
        for e in extract([chain(4), chain(4)])[0]
    ]
    split = split_compositions(examples, 0.5, rng())
    assert sorted({e.composition for e in part} for part in (split.train, split.test)) in (
        [{0}, {1}],
        [{1}, {0}],
    )


# ---- temporal


@pytest.mark.parametrize("share", SHARES)
def test_temporal_training_part_is_before_test_part(
    share: float, examples: tuple[Example, ...]
) -> None:
    split = split_temporal(examples, share, rng())
    assert max(times(split.train)) < min(times(split.test))
    for part in (split.train, split.test):
        assert times(part) == sorted(e.context.time for e in part if e.context.time is not None)
        assert len(times(part)) == len(part)


def test_temporal_test_part_has_requested_share() -> None:
    examples = pairs_of(*"abcdefghij", times=[float(i) for i in range(10)][::-1])
    split = split_temporal(examples, 0.3, rng())
    assert targets(split.train, split.test) == ["jihgfed", "cba"]


def test_temporal_split_does_not_divide_equal_times() -> None:
    split = split_temporal(pairs_of(*"abcd", times=[1.0, 2.0, 2.0, 2.0]), 0.3, rng())
    assert targets(split.train, split.test) == ["a", "bcd"]


def test_temporal_training_part_has_all_examples_of_first_time() -> None:
    split = split_temporal(pairs_of(*"abcd", times=[1.0, 1.0, 1.0, 2.0]), 0.5, rng())
    assert targets(split.train, split.test) == ["abc", "d"]


def test_shared_call_counts_once_for_each_context() -> None:
    """Three compositions share a call, two of them with the same path."""

    def call(id_: str, table: str, time: float) -> Composition:
        plain = dag(f"{table} a", f"{table}>a", id=id_, owner="ann")
        nodes = [plain.nodes[0], replace(plain.nodes[1], time=time)]
        return compose(id_, nodes, plain.links, owner="ann")[0]

    shared = [call("0", "t1", 5.0), call("1", "t1", 5.0), call("2", "t2", 5.0)]
    examples = extract([call("early", "t1", 1.0), *shared])[0]
    split = split_temporal(examples, 0.5, rng())
    assert [e.context.path for e in split.train] == [("t1",)]
    assert sorted(e.context.path for e in split.test) == [("t1",), ("t2",)]


def test_calls_count_once_for_each_context(examples: tuple[Example, ...]) -> None:
    split = split_temporal(examples, 0.3, rng())
    calls = [(e.event, e.context.path) for part in (split.train, split.test) for e in part]
    assert len(calls) == len(set(calls))
    assert set(calls) == {(e.event, e.context.path) for e in examples}


def test_examples_without_call_time_all_count() -> None:
    """If only compositions have a time, equal pairs of different compositions are different calls."""
    split = split_temporal(pairs_of(*"aaab", times=[1.0, 1.0, 1.0, 2.0]), 0.25, rng())
    assert (len(split.train), len(split.test)) == (3, 1)


TIME_ORDERED: dict[str, Callable[[Sequence[Example]], object]] = {
    "temporal": lambda examples: split_temporal(examples, 0.3, rng()),
    "leave-one-out": lambda examples: split_leave_one_out(examples, 0.3, rng()),
    "blocks": lambda examples: prequential_splits(examples, 0.3, 2),
}


@pytest.mark.parametrize("protocol", TIME_ORDERED)
def test_time_ordered_protocols_require_times(protocol: str) -> None:
    with pytest.raises(DataError) as error:
        TIME_ORDERED[protocol](pairs_of("a", "b", times=[1.0, None]))
    assert error.value.rule == "no-time"
    assert says(error, "composition 2", "needs a time", "found none at node 'b'", "add start_time")


@pytest.mark.parametrize("protocol", TIME_ORDERED)
def test_time_ordered_protocols_require_two_times(protocol: str) -> None:
    with pytest.raises(DataError) as error:
        TIME_ORDERED[protocol](pairs_of("a", "b", times=[1.0, 1.0]))
    assert error.value.rule == "too-few"
    assert says(error, "found the same time for all", "use another protocol")


# ---- leave one out


def test_leave_one_out_by_hand() -> None:
    examples = pairs_of(
        *"abcdefgh",
        times=[1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 6.0, 7.0],
        owners=["ann", "bob", "ann", "eve", "bob", "bob", None, None],
    )
    split = split_leave_one_out(examples, 0.3, rng())
    assert targets(split.train, split.test) == ["abdgh", "cef"]


def test_leave_one_out_tests_last_time_of_every_owner(examples: tuple[Example, ...]) -> None:
    split = split_leave_one_out(examples, 0.3, rng())
    last_train = dict.fromkeys({e.context.owner for e in split.test}, 0.0)
    for example in split.train:
        owner, time = example.context.owner, example.context.time
        if owner in last_train and time is not None:
            last_train[owner] = max(last_train[owner], time)
    for example in split.test:
        assert example.context.time is not None
        assert 0 < last_train[example.context.owner] < example.context.time
    whole = {(e.event, e.context.path) for e in examples}
    assert {(e.event, e.context.path) for e in (*split.train, *split.test)} == whole


def test_leave_one_out_requires_owner_with_two_times() -> None:
    with pytest.raises(DataError) as error:
        split_leave_one_out(pairs_of("a", "b", times=[1.0, 2.0], owners=["ann", "bob"]), 0.3, rng())
    assert error.value.rule == "too-few"
    assert says(error, "examples at two different times", "found none", "another protocol")


# ---- prequential


def test_prequential_blocks_by_hand() -> None:
    times_ = [float(i) for i in (0, 1, 2, 3, 4, 5, 5, 5, 6, 7)]
    splits = prequential_splits(pairs_of(*"abcdefghij", times=times_), 0.6, 2)
    assert [targets(split.train, split.test) for split in splits] == [
        ["abcd", "efgh"],
        ["abcdefgh", "ij"],
    ]


@pytest.mark.parametrize("every", [1, 20, 10**6])
def test_prequential_blocks_train_on_all_older_examples(
    every: int, examples: tuple[Example, ...]
) -> None:
    splits = prequential_splits(examples, 0.3, every)
    whole = split_temporal(examples, 0.3, rng())
    assert splits[0].train == whole.train
    assert tuple(e for split in splits for e in split.test) == whole.test
    for split in splits:
        assert max(times(split.train)) < min(times(split.test))
    for before, after in pairwise(splits):
        assert after.train == (*before.train, *before.test)
        assert len(before.test) >= every


# ---- validation part


@pytest.mark.parametrize("share", SHARES)
def test_hold_out_draws_whole_compositions(share: float, examples: tuple[Example, ...]) -> None:
    split = hold_out(examples, share, rng())
    train, test = ({e.composition for e in part} for part in (split.train, split.test))
    assert not train & test
    total = len(train | test)
    assert total == len({e.composition for e in examples})
    assert len(test) == min(ceil(total * share), total - 1)
    assert len(split.train) + len(split.test) == len(examples)
