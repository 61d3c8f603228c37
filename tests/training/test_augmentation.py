from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare

from dagrec.data.compositions import Composition, Node, compose
from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context, Example
from dagrec.data.vocabulary import FIRST_SERVICE, PADDING, UNKNOWN, Contexts, Vocabulary
from dagrec.errors import DataError
from dagrec.graph.upstream import linear_extension
from dagrec.training.augmentation import Augmentation, augment, reorder
from tests.checks import says
from tests.data.dags import chain, dag, dags, diamonds

KEYS = [f"s{i:03}" for i in range(200)]
NUMBERS = Vocabulary(tuple(KEYS), ())
"""Key s007 has node id 7 + FIRST_SERVICE: rows of it show where their nodes come from."""
LENGTHS = st.lists(st.integers(0, 9), max_size=8)
OPTIONS = st.builds(Augmentation, node_mask=st.floats(0, 0.9), crop=st.floats(0, 1))
SEEDS = st.integers(0, 2**32)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def counted(*lengths: int) -> Contexts:
    """Contexts of these lengths over nodes s000, s001, ...; their arrays cannot be written to."""
    return frozen(NUMBERS.encode([Context(tuple(KEYS[:length])) for length in lengths]))


def frozen(contexts: Contexts) -> Contexts:
    for array in (contexts.nodes, contexts.lengths):
        array.flags.writeable = False
    return contexts


def rows_of(contexts: Contexts) -> list[list[int]]:
    """The rows without their padding, which is checked."""
    for row, length in zip(contexts.nodes, contexts.lengths, strict=True):
        assert (row[:length] != PADDING).all()
        assert (row[length:] == PADDING).all()
    assert contexts.nodes.dtype == contexts.lengths.dtype == np.int64
    pairs = zip(contexts.nodes, contexts.lengths.tolist(), strict=True)
    return [row[:length].tolist() for row, length in pairs]


def lines(compositions: Sequence[Composition]) -> tuple[Contexts, Vocabulary]:
    """Every node of them as a frontier, read from its upstream DAG."""
    contexts = []
    for composition in compositions:
        for node in composition.nodes:
            line = Context((), composition, node.id).upstream()
            keys = tuple(composition.by_id[id_].key for id_ in line)
            contexts.append(Context(keys, composition, node.id))
    vocabulary = Vocabulary.of([Example(context, "target", "", 0) for context in contexts])
    return frozen(vocabulary.encode(contexts)), vocabulary


def with_own_keys(composition: Composition) -> Composition:
    """The same structure, with each key at one node: a row of keys tells its nodes."""
    nodes = [replace(node, key=node.id) for node in composition.nodes]
    return compose("own", nodes, composition.links)[0]


def same(a: Contexts, b: Contexts) -> bool:
    return np.array_equal(a.nodes, b.nodes) and np.array_equal(a.lengths, b.lengths)


# Options


def test_nothing_is_active_unless_asked_for() -> None:
    assert not Augmentation().active
    for name in Augmentation.model_fields:
        assert Augmentation(**{name: 0.1}).active


@pytest.mark.parametrize("values", [{"node_mask": 1}, {"crop": 1.1}, {"reorder": -0.1}])
def test_probabilities_are_probabilities(values: dict[str, float]) -> None:
    """A context with all nodes masked but the last would be a context of one node."""
    with pytest.raises(ValidationError):
        Augmentation(**values)


# Masks and crops


@given(lengths=LENGTHS, seed=SEEDS)
def test_inactive_options_change_nothing_and_draw_nothing(lengths: list[int], seed: int) -> None:
    contexts, rng = counted(*lengths), random(seed)
    for options in (Augmentation(), Augmentation(reorder=1)):
        assert same(augment(contexts, options, rng), contexts)
    assert rng.random() == random(seed).random()


@given(lengths=LENGTHS, options=OPTIONS, seed=SEEDS)
def test_a_changed_context_is_a_masked_newest_part_with_its_last_node(
    lengths: list[int], options: Augmentation, seed: int
) -> None:
    contexts = counted(*lengths)
    changed = augment(contexts, options, random(seed))
    assert changed.origins == contexts.origins
    assert np.array_equal(changed.last, contexts.last)
    for before, after in zip(rows_of(contexts), rows_of(changed), strict=True):
        assert min(len(before), 1) <= len(after) <= len(before)
        newest = before[len(before) - len(after) :]
        assert all(new in (old, UNKNOWN) for old, new in zip(newest, after, strict=True))


@given(lengths=LENGTHS, options=OPTIONS, seed=SEEDS)
def test_one_seed_gives_one_result(lengths: list[int], options: Augmentation, seed: int) -> None:
    contexts = counted(*lengths)
    assert same(*(augment(contexts, options, random(seed)) for _ in range(2)))


def test_another_seed_gives_another_result() -> None:
    contexts, options = counted(*[9] * 50), Augmentation(node_mask=0.5, crop=0.5)
    assert not same(*(augment(contexts, options, random(seed)) for seed in (0, 1)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_masks_take_their_share_of_the_nodes_before_the_last(share: float) -> None:
    contexts = counted(*[1, 2, 11, 6] * 1000)
    changed = augment(contexts, Augmentation(node_mask=share), random())
    assert np.array_equal(changed.lengths, contexts.lengths)
    masked = (changed.nodes == UNKNOWN).sum()
    able = int((contexts.lengths - 1).sum())
    # Four standard deviations of a binomial share.
    assert abs(masked / able - share) < 4 * (share * (1 - share) / able) ** 0.5
    by_place = (changed.nodes == UNKNOWN)[2::4].mean(axis=0)
    assert by_place[:10] == pytest.approx([share] * 10, abs=4 * (share * (1 - share) / 1000) ** 0.5)
    assert by_place[10] == 0


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_crops_take_their_share_of_the_contexts_and_every_length_as_often(share: float) -> None:
    contexts = counted(*[6, 1] * 3000)
    changed = augment(contexts, Augmentation(crop=share), random())
    found = np.bincount(changed.lengths[::2], minlength=7)
    expected = [0, *[3000 * share / 5] * 5, 3000 * (1 - share)]
    kept = np.array(expected) > 0
    assert found[~kept].sum() == 0
    assert chisquare(found[kept], np.array(expected)[kept]).pvalue > 1e-4
    assert (changed.lengths[1::2] == 1).all()


def test_a_crop_leaves_no_more_padding_than_is_needed() -> None:
    changed = augment(counted(2, 2, 1), Augmentation(crop=1), random())
    assert changed.nodes.tolist() == [[1 + FIRST_SERVICE], [1 + FIRST_SERVICE], [FIRST_SERVICE]]


def test_contexts_of_one_node_or_none_stay_as_they_are() -> None:
    contexts = counted(0, 1, 0, 1)
    assert same(augment(contexts, Augmentation(crop=1, node_mask=0.99), random()), contexts)


# Linear extensions


def parents_of(composition: Composition) -> list[list[int]]:
    place = {id_: i for i, id_ in enumerate(composition.order)}
    return [[place[p] for p in composition.parents[id_]] for id_ in composition.order]


def is_extension(order: Sequence[int], parents: Sequence[Sequence[int]]) -> bool:
    at = {node: i for i, node in enumerate(order)}
    return sorted(order) == list(range(len(parents))) and all(
        at[parent] < at[node] for node, before in enumerate(parents) for parent in before
    )


@given(composition=dags(), seed=SEEDS, data=st.data())
def test_every_node_comes_after_its_parents(
    composition: Composition, seed: int, data: st.DataObject
) -> None:
    """Whatever order the nodes are given in; and one that is such an order already is kept."""
    parents = parents_of(composition)
    assert linear_extension(parents, None) == list(range(len(parents)))
    place = data.draw(st.permutations(range(len(parents))))
    shuffled: list[list[int]] = [[] for _ in parents]
    for node, before in enumerate(parents):
        shuffled[place[node]] = [place[parent] for parent in before]
    for rng in (None, random(seed)):
        assert is_extension(linear_extension(shuffled, rng), shuffled)


def test_without_a_generator_the_first_ready_node_is_next() -> None:
    assert linear_extension([[1], [], [], [0, 2]], None) == [1, 0, 2, 3]


@pytest.mark.parametrize(
    "parents",
    [
        [],
        [[]],
        [[], [0], [1]],
        [[], [0], [0], [1, 2]],
        [[], [], [], [0, 1, 2]],
        [[], [], [0], [1], [2, 3]],
        [[3], [3], [0], [], [1, 2]],
    ],
    ids=str,
)
def test_every_extension_comes_out_and_nothing_else(parents: list[list[int]]) -> None:
    rng = random()
    found = {tuple(linear_extension(parents, rng)) for _ in range(300)}
    assert found == {p for p in permutations(range(len(parents))) if is_extension(p, parents)}


def test_ready_nodes_are_drawn_as_often() -> None:
    rng = random()
    drawn = Counter(tuple(linear_extension([[], [], [], [0, 1, 2]], rng)) for _ in range(3000))
    assert chisquare(list(drawn.values())).pvalue > 1e-4


@pytest.mark.parametrize("rng", [None, random()], ids=["first", "drawn"])
def test_a_cycle_is_named(rng: np.random.Generator | None) -> None:
    with pytest.raises(DataError) as error:
        linear_extension([[], [2], [1], [0, 2]], rng)
    assert says(error, "order_parents", "no cycle", "[1, 2, 3]", "checked composition")
    assert error.value.rule == "cycle"


# Other readings of the upstream DAG


@given(composition=dags(), share=st.floats(0, 1), seed=SEEDS)
def test_another_reading_has_the_same_nodes_and_ancestors_before_descendants(
    composition: Composition, share: float, seed: int
) -> None:
    own = with_own_keys(composition)
    contexts, vocabulary = lines([own])
    changed = reorder(contexts, vocabulary, share, random(seed))
    names = {number: key for key, number in vocabulary.ids.items()}
    assert changed.origins == contexts.origins
    assert np.array_equal(changed.last, contexts.last)
    for before, after in zip(rows_of(contexts), rows_of(changed), strict=True):
        assert sorted(before) == sorted(after)
        nodes = [names[number] for number in after]
        for i, node in enumerate(nodes):
            assert set(own.ancestors(node)) <= set(nodes[:i])


@given(composition=dags(), seed=SEEDS)
def test_keys_that_recur_keep_their_number(composition: Composition, seed: int) -> None:
    contexts, vocabulary = lines([composition])
    changed = reorder(contexts, vocabulary, 1, random(seed))
    for before, after in zip(rows_of(contexts), rows_of(changed), strict=True):
        assert Counter(before) == Counter(after)


@given(length=st.integers(1, 9), seed=SEEDS)
def test_a_chain_has_one_reading(length: int, seed: int) -> None:
    contexts, vocabulary = lines([chain(length)])
    assert same(reorder(contexts, vocabulary, 1, random(seed)), contexts)


@given(count=st.integers(1, 3), share=st.floats(0, 1), seed=SEEDS)
def test_one_seed_gives_one_reading(count: int, share: float, seed: int) -> None:
    contexts, vocabulary = lines([diamonds(count)])
    assert same(*(reorder(contexts, vocabulary, share, random(seed)) for _ in range(2)))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_share_of_the_rows_is_read_anew(share: float) -> None:
    """Of a diamond's two readings the other one is drawn for half of the chosen rows."""
    contexts, vocabulary = lines([diamonds(1)] * 1000)
    changed = reorder(contexts, vocabulary, share, random())
    frontiers = np.flatnonzero(contexts.lengths == 4)
    assert len(frontiers) == 1000
    others = (changed.nodes != contexts.nodes)[frontiers].any(axis=1).mean()
    assert others == pytest.approx(share / 2, abs=4 * 0.5 / 1000**0.5)
    assert others.any() == (share > 0)


def test_rows_without_a_composition_stay_as_they_are() -> None:
    own = dag("a b c", "a>c b>c")
    contexts = [Context(("a", "b", "c"), own, "c"), Context(("a", "b", "c")), Context(("a",), own)]
    vocabulary = Vocabulary(("a", "b", "c"), ())
    encoded = frozen(vocabulary.encode([*contexts, Context(())]))
    seen = {str(rows_of(reorder(encoded, vocabulary, 1, random(i)))) for i in range(20)}
    assert seen == {str([row, [2, 3, 4], [2], []]) for row in ([2, 3, 4], [3, 2, 4])}


def test_a_path_becomes_the_whole_upstream_dag_and_unknown_keys_stay_unknown() -> None:
    own = dag("a new b", "a>b new>b")
    vocabulary = Vocabulary(("a", "b"), ())
    encoded = frozen(vocabulary.encode([Context(("a", "b"), own, "b"), Context(("a",))]))
    seen = {str(rows_of(reorder(encoded, vocabulary, 1, random(i)))) for i in range(20)}
    assert seen == {str([row, [2]]) for row in ([2, UNKNOWN, 3], [UNKNOWN, 2, 3])}


def test_a_shorter_reading_leaves_nothing_of_the_row_before() -> None:
    contexts = [Context(("a", "b", "b"), dag("a b", "a>b"), "b"), Context(("a",) * 3)]
    vocabulary = Vocabulary(("a", "b"), ())
    changed = reorder(frozen(vocabulary.encode(contexts)), vocabulary, 1, random())
    assert rows_of(changed) == [[2, 3], [2, 2, 2]]


def test_a_reading_keeps_the_newest_nodes_of_a_dag_that_is_too_large() -> None:
    size = MAX_CONTEXT_LENGTH + 20
    nodes = [Node(key, key) for key in KEYS[: size + 1]]
    wide, _ = compose("wide", nodes, [(key, KEYS[size]) for key in KEYS[:size]])
    encoded = frozen(NUMBERS.encode([Context(tuple(KEYS[: size + 1]), wide, KEYS[size])]))
    (row,) = rows_of(reorder(encoded, NUMBERS, 1, random()))
    assert len(row) == MAX_CONTEXT_LENGTH
    assert len(set(row)) == MAX_CONTEXT_LENGTH
    assert row[-1] == size + FIRST_SERVICE
    assert min(row) < 20 + FIRST_SERVICE  # the oldest of the given order, which is none of the drawn


@pytest.mark.parametrize(
    "change",
    [
        lambda contexts: augment(contexts, Augmentation(node_mask=0.5, crop=0.5), random()),
        lambda contexts: reorder(contexts, NUMBERS, 0.5, random()),
    ],
    ids=["augment", "reorder"],
)
def test_no_rows_give_no_rows(change: Callable[[Contexts], Contexts]) -> None:
    changed = change(counted())
    assert changed.nodes.shape == (0, 1)
    assert len(changed) == 0
