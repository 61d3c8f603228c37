"""Training and test parts: what each protocol promises about them."""

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


# ---- what all protocols promise


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("protocol", ["pairs", "compositions"])
def test_parts_are_disjoint_and_sum_to_the_whole(
    protocol: str, share: float, examples: tuple[Example, ...]
) -> None:
    split = PROTOCOLS[protocol](examples, share, rng())
    assert split.train
    assert split.test
    parts = [id(example) for part in (split.train, split.test) for example in part]
    assert sorted(parts) == sorted(map(id, examples))
    # Each part keeps the order of the data.
    place = {id(example): i for i, example in enumerate(examples)}
    for part in (split.train, split.test):
        assert [place[id(e)] for e in part] == sorted(place[id(e)] for e in part)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_seed_gives_one_split(protocol: str, examples: tuple[Example, ...]) -> None:
    split, again = (PROTOCOLS[protocol](examples, 0.3, rng(5)) for _ in range(2))
    assert split == again
    assert split.fingerprint == again.fingerprint


@pytest.mark.parametrize("protocol", ["pairs", "compositions"])
def test_seeds_give_different_splits(protocol: str, examples: tuple[Example, ...]) -> None:
    prints = {PROTOCOLS[protocol](examples, 0.3, rng(seed)).fingerprint for seed in range(5)}
    assert len(prints) == 5


def test_the_temporal_split_does_not_depend_on_the_seed(examples: tuple[Example, ...]) -> None:
    assert len({split_temporal(examples, 0.3, rng(seed)).fingerprint for seed in range(3)}) == 1


def test_fingerprint_tells_the_parts_and_their_order_apart() -> None:
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
def test_two_examples_are_the_fewest(protocol: str, count: int) -> None:
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
def test_pairs_are_stratified_within_one_of_proportional(
    share: float, examples: tuple[Example, ...]
) -> None:
    split = split_pairs(examples, share, rng())
    assert len(split.test) == min(ceil(len(examples) * share), len(examples) - 1)
    exact = len(split.test) / len(examples)
    tested = Counter(e.target for e in split.test)
    for target, count in Counter(e.target for e in examples).items():
        if count > 1:
            assert abs(tested[target] - count * exact) < 1


def test_the_published_split_has_711_and_305_pairs(geoportal: Sequence[Composition]) -> None:
    split = split_pairs(extract(geoportal)[0], 0.3, rng())
    assert (len(split.train), len(split.test)) == (711, 305)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
def test_any_targets_are_stratified_and_single_ones_together(
    sizes: list[int], share: float, seed: int
) -> None:
    if sum(sizes) < 2:
        sizes = [2]
    names = [f"s{i}" for i, size in enumerate(sizes) for _ in range(size)]
    examples = pairs_of(*names)
    split = split_pairs(examples, share, rng(seed))
    assert len(split.train) + len(split.test) == len(examples)
    exact = len(split.test) / len(examples)
    strata = {f"s{i}": f"s{i}" if size > 1 else "single" for i, size in enumerate(sizes)}
    tested = Counter(strata[e.target] for e in split.test)
    for stratum, count in Counter(strata[name] for name in names).items():
        assert abs(tested[stratum] - count * exact) < 1


def test_rounding_favours_no_target() -> None:
    """Four targets of two pairs, two test pairs: each target is tested in half of the splits."""
    examples = pairs_of(*"aabbccdd")
    splits = 400
    tested = Counter(
        e.target for seed in range(splits) for e in split_pairs(examples, 0.25, rng(seed)).test
    )
    assert sum(tested.values()) == 2 * splits
    for target in "abcd":
        # Five standard deviations of a binomial with p = 1/2.
        assert abs(tested[target] - splits / 2) < 5 * (splits / 4) ** 0.5


# ---- compositions


@pytest.mark.parametrize("share", SHARES)
def test_identical_compositions_never_straddle(share: float, examples: tuple[Example, ...]) -> None:
    split = split_compositions(examples, share, rng())
    sides = [
        {e.context.composition.signature for e in part if e.context.composition}
        for part in (split.train, split.test)
    ]
    assert not sides[0] & sides[1]
    assert not {e.composition for e in split.train} & {e.composition for e in split.test}


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_different_compositions_are_split_by_share(share: float) -> None:
    examples = extract([dag(f"t{i} a b", f"t{i}>a a>b", id=str(i)) for i in range(20)])[0]
    split = split_compositions(examples, share, rng())
    assert len({e.composition for e in split.test}) == round(20 * share)


def test_one_different_composition_is_too_few() -> None:
    examples = extract([dag("t a b", "t>a a>b", id=str(i)) for i in range(3)])[0]
    with pytest.raises(DataError) as error:
        split_compositions(examples, 0.3, rng())
    assert error.value.rule == "too-few"
    assert says(error, "two different compositions", "found 1", "--protocol pairs")


def test_examples_without_a_composition_are_grouped_by_its_number() -> None:
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
def test_training_is_before_testing(share: float, examples: tuple[Example, ...]) -> None:
    split = split_temporal(examples, share, rng())
    assert max(times(split.train)) < min(times(split.test))
    for part in (split.train, split.test):
        assert times(part) == sorted(e.context.time for e in part if e.context.time is not None)
        assert len(times(part)) == len(part)


def test_share_of_the_temporal_test_part() -> None:
    examples = pairs_of(*"abcdefghij", times=[float(i) for i in range(10)][::-1])
    split = split_temporal(examples, 0.3, rng())
    assert targets(split.train, split.test) == ["jihgfed", "cba"]


def test_examples_of_the_moment_of_the_cut_are_all_tested() -> None:
    split = split_temporal(pairs_of(*"abcd", times=[1.0, 2.0, 2.0, 2.0]), 0.3, rng())
    assert targets(split.train, split.test) == ["a", "bcd"]


def test_the_first_moment_trains_even_when_it_is_more_than_the_training_share() -> None:
    split = split_temporal(pairs_of(*"abcd", times=[1.0, 1.0, 1.0, 2.0]), 0.5, rng())
    assert targets(split.train, split.test) == ["abc", "d"]


def test_an_event_is_predicted_once_for_each_of_its_contexts() -> None:
    """A call shared by three compositions, in two of them after the same path."""

    def call(id_: str, table: str, time: float) -> Composition:
        plain = dag(f"{table} a", f"{table}>a", id=id_, owner="ann")
        nodes = [plain.nodes[0], replace(plain.nodes[1], time=time)]
        return compose(id_, nodes, plain.links, owner="ann")[0]

    shared = [call("0", "t1", 5.0), call("1", "t1", 5.0), call("2", "t2", 5.0)]
    examples = extract([call("early", "t1", 1.0), *shared])[0]
    split = split_temporal(examples, 0.5, rng())
    assert [e.context.path for e in split.train] == [("t1",)]
    assert sorted(e.context.path for e in split.test) == [("t1",), ("t2",)]


def test_events_of_the_data_are_predicted_once(examples: tuple[Example, ...]) -> None:
    split = split_temporal(examples, 0.3, rng())
    kept = [(e.event, e.context.path) for part in (split.train, split.test) for e in part]
    assert len(kept) == len(set(kept))
    assert set(kept) == {(e.event, e.context.path) for e in examples}


def test_examples_that_are_no_event_all_count() -> None:
    """Times of compositions, not of calls: equal pairs of several compositions are several."""
    split = split_temporal(pairs_of(*"aaab", times=[1.0, 1.0, 1.0, 2.0]), 0.25, rng())
    assert (len(split.train), len(split.test)) == (3, 1)


IN_TIME: dict[str, Callable[[Sequence[Example]], object]] = {
    "temporal": lambda examples: split_temporal(examples, 0.3, rng()),
    "leave-one-out": lambda examples: split_leave_one_out(examples, 0.3, rng()),
    "blocks": lambda examples: prequential_splits(examples, 0.3, 2),
}


@pytest.mark.parametrize("protocol", IN_TIME)
def test_protocols_in_the_order_of_time_need_times(protocol: str) -> None:
    with pytest.raises(DataError) as error:
        IN_TIME[protocol](pairs_of("a", "b", times=[1.0, None]))
    assert error.value.rule == "no-time"
    assert says(error, "composition 2", "needs a time", "found none at node 'b'", "add start_time")


@pytest.mark.parametrize("protocol", IN_TIME)
def test_protocols_in_the_order_of_time_need_two_moments(protocol: str) -> None:
    with pytest.raises(DataError) as error:
        IN_TIME[protocol](pairs_of("a", "b", times=[1.0, 1.0]))
    assert error.value.rule == "too-few"
    assert says(error, "found them all at one moment", "use another protocol")


# ---- leave one out


def test_each_owner_is_tested_at_its_last_moment_and_owners_with_one_moment_train() -> None:
    examples = pairs_of(
        *"abcdefgh",
        times=[1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 6.0, 7.0],
        owners=["ann", "bob", "ann", "eve", "bob", "bob", None, None],
    )
    split = split_leave_one_out(examples, 0.3, rng())
    assert targets(split.train, split.test) == ["abdgh", "cef"]


def test_leave_one_out_tests_the_last_of_every_owner(examples: tuple[Example, ...]) -> None:
    split = split_leave_one_out(examples, 0.3, rng())
    trained = dict.fromkeys({e.context.owner for e in split.test}, 0.0)
    for example in split.train:
        if example.context.owner in trained and example.context.time is not None:
            trained[example.context.owner] = max(trained[example.context.owner], example.context.time)
    for example in split.test:
        assert example.context.time is not None
        assert 0 < trained[example.context.owner] < example.context.time
    whole = {(e.event, e.context.path) for e in examples}
    assert {(e.event, e.context.path) for e in (*split.train, *split.test)} == whole


def test_leave_one_out_needs_an_owner_with_two_moments() -> None:
    with pytest.raises(DataError) as error:
        split_leave_one_out(pairs_of("a", "b", times=[1.0, 2.0], owners=["ann", "bob"]), 0.3, rng())
    assert error.value.rule == "too-few"
    assert says(error, "owners with examples at two moments", "found none", "another protocol")


# ---- blocks


def test_blocks_hold_so_many_examples_and_divide_no_moment() -> None:
    moments = [float(i) for i in (0, 1, 2, 3, 4, 5, 5, 5, 6, 7)]
    found = prequential_splits(pairs_of(*"abcdefghij", times=moments), 0.6, 2)
    assert [targets(split.train, split.test) for split in found] == [
        ["abcd", "efgh"],
        ["abcdefgh", "ij"],
    ]


@pytest.mark.parametrize("every", [1, 20, 10**6])
def test_blocks_learn_from_all_that_is_older_and_test_the_newest_share(
    every: int, examples: tuple[Example, ...]
) -> None:
    found = prequential_splits(examples, 0.3, every)
    whole = split_temporal(examples, 0.3, rng())
    assert found[0].train == whole.train
    assert tuple(e for split in found for e in split.test) == whole.test
    for split in found:
        assert max(times(split.train)) < min(times(split.test))
    for before, after in pairwise(found):
        assert after.train == (*before.train, *before.test)
        assert len(before.test) >= every


# ---- the validation part


@pytest.mark.parametrize("share", SHARES)
def test_hold_out_takes_whole_compositions(share: float, examples: tuple[Example, ...]) -> None:
    split = hold_out(examples, share, rng())
    train, test = ({e.composition for e in part} for part in (split.train, split.test))
    assert not train & test
    total = len(train | test)
    assert total == len({e.composition for e in examples})
    assert len(test) == min(ceil(total * share), total - 1)
    assert len(split.train) + len(split.test) == len(examples)
