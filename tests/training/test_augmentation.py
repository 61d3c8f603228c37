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
"""Key s007 has node id 7 + FIRST_SERVICE."""
LENGTHS = st.lists(st.integers(0, 9), max_size=8)
OPTIONS = st.builds(Augmentation, node_mask=st.floats(0, 0.9), crop=st.floats(0, 1))
SEEDS = st.integers(0, 2**32)


def make_rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def numbered_contexts(*lengths: int) -> Contexts:
    """Contexts of these lengths over the nodes s000, s001, ..., with read-only arrays."""
    return read_only(NUMBERS.encode([Context(tuple(KEYS[:length])) for length in lengths]))


def read_only(contexts: Contexts) -> Contexts:
    for array in (contexts.nodes, contexts.lengths):
        array.flags.writeable = False
    return contexts


def rows_of(contexts: Contexts) -> list[list[int]]:
    """Check the padding, and return the rows without it."""
    for row, length in zip(contexts.nodes, contexts.lengths, strict=True):
        assert (row[:length] != PADDING).all()
        assert (row[length:] == PADDING).all()
    assert contexts.nodes.dtype == contexts.lengths.dtype == np.int64
    pairs = zip(contexts.nodes, contexts.lengths.tolist(), strict=True)
    return [row[:length].tolist() for row, length in pairs]


def upstream_contexts(compositions: Sequence[Composition]) -> tuple[Contexts, Vocabulary]:
    """A context for every node, which is read from the upstream DAG of the node."""
    contexts = []
    for composition in compositions:
        for node in composition.nodes:
            upstream = Context((), composition, node.id).upstream()
            keys = tuple(composition.by_id[id_].key for id_ in upstream)
            contexts.append(Context(keys, composition, node.id))
    vocabulary = Vocabulary.of([Example(context, "target", "", 0) for context in contexts])
    return read_only(vocabulary.encode(contexts)), vocabulary


def with_unique_keys(composition: Composition) -> Composition:
    """The same structure with a different key for each node."""
    nodes = [replace(node, key=node.id) for node in composition.nodes]
    return compose("own", nodes, composition.links)[0]


def equal(a: Contexts, b: Contexts) -> bool:
    return np.array_equal(a.nodes, b.nodes) and np.array_equal(a.lengths, b.lengths)


# Options


def test_augmentation_is_inactive_by_default() -> None:
    assert not Augmentation().active
    for name in Augmentation.model_fields:
        assert Augmentation(**{name: 0.1}).active


@pytest.mark.parametrize("values", [{"node_mask": 1}, {"crop": 1.1}, {"reorder": -0.1}])
def test_augmentation_rejects_invalid_probabilities(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Augmentation(**values)


# Masks and crops


@given(lengths=LENGTHS, seed=SEEDS)
def test_inactive_augmentation_is_identity_without_random_numbers(
    lengths: list[int], seed: int
) -> None:
    contexts, rng = numbered_contexts(*lengths), make_rng(seed)
    for options in (Augmentation(), Augmentation(reorder=1)):
        assert equal(augment(contexts, options, rng), contexts)
    assert rng.random() == make_rng(seed).random()


@given(lengths=LENGTHS, options=OPTIONS, seed=SEEDS)
def test_augmented_context_is_masked_suffix_with_same_last_node(
    lengths: list[int], options: Augmentation, seed: int
) -> None:
    contexts = numbered_contexts(*lengths)
    changed = augment(contexts, options, make_rng(seed))
    assert changed.origins == contexts.origins
    assert np.array_equal(changed.last, contexts.last)
    for before, after in zip(rows_of(contexts), rows_of(changed), strict=True):
        assert min(len(before), 1) <= len(after) <= len(before)
        newest = before[len(before) - len(after) :]
        assert all(new in (old, UNKNOWN) for old, new in zip(newest, after, strict=True))


@given(lengths=LENGTHS, options=OPTIONS, seed=SEEDS)
def test_augment_is_reproducible(lengths: list[int], options: Augmentation, seed: int) -> None:
    contexts = numbered_contexts(*lengths)
    assert equal(*(augment(contexts, options, make_rng(seed)) for _ in range(2)))


def test_augment_depends_on_seed() -> None:
    contexts, options = numbered_contexts(*[9] * 50), Augmentation(node_mask=0.5, crop=0.5)
    assert not equal(*(augment(contexts, options, make_rng(seed)) for seed in (0, 1)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_share_of_masked_nodes(share: float) -> None:
    contexts = numbered_contexts(*[1, 2, 11, 6] * 1000)
    changed = augment(contexts, Augmentation(node_mask=share), make_rng())
    assert np.array_equal(changed.lengths, contexts.lengths)
    masked = (changed.nodes == UNKNOWN).sum()
    maskable = int((contexts.lengths - 1).sum())
    # four standard deviations of a binomial share
    assert abs(masked / maskable - share) < 4 * (share * (1 - share) / maskable) ** 0.5
    by_position = (changed.nodes == UNKNOWN)[2::4].mean(axis=0)
    tolerance = 4 * (share * (1 - share) / 1000) ** 0.5
    assert by_position[:10] == pytest.approx([share] * 10, abs=tolerance)
    assert by_position[10] == 0


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_share_and_lengths_of_cropped_contexts(share: float) -> None:
    contexts = numbered_contexts(*[6, 1] * 3000)
    changed = augment(contexts, Augmentation(crop=share), make_rng())
    counts = np.bincount(changed.lengths[::2], minlength=7)
    expected = np.array([0, *[3000 * share / 5] * 5, 3000 * (1 - share)])
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible], expected[possible]).pvalue > 1e-4
    assert (changed.lengths[1::2] == 1).all()


def test_crop_removes_unused_padding() -> None:
    changed = augment(numbered_contexts(2, 2, 1), Augmentation(crop=1), make_rng())
    assert changed.nodes.tolist() == [[1 + FIRST_SERVICE], [1 + FIRST_SERVICE], [FIRST_SERVICE]]


def test_contexts_with_less_than_two_nodes_are_not_changed() -> None:
    contexts = numbered_contexts(0, 1, 0, 1)
    assert equal(augment(contexts, Augmentation(crop=1, node_mask=0.99), make_rng()), contexts)


# Linear extensions


def parents_of(composition: Composition) -> list[list[int]]:
    position = {id_: i for i, id_ in enumerate(composition.order)}
    return [[position[p] for p in composition.parents[id_]] for id_ in composition.order]


def is_extension(order: Sequence[int], parents: Sequence[Sequence[int]]) -> bool:
    position = {node: i for i, node in enumerate(order)}
    return sorted(order) == list(range(len(parents))) and all(
        position[parent] < position[node]
        for node, node_parents in enumerate(parents)
        for parent in node_parents
    )


@given(composition=dags(), seed=SEEDS, data=st.data())
def test_linear_extension_has_nodes_after_their_parents(
    composition: Composition, seed: int, data: st.DataObject
) -> None:
    """Nodes may be given in any order, and a topological order is kept."""
    parents = parents_of(composition)
    assert linear_extension(parents, None) == list(range(len(parents)))
    new_number = data.draw(st.permutations(range(len(parents))))
    shuffled: list[list[int]] = [[] for _ in parents]
    for node, node_parents in enumerate(parents):
        shuffled[new_number[node]] = [new_number[parent] for parent in node_parents]
    for rng in (None, make_rng(seed)):
        assert is_extension(linear_extension(shuffled, rng), shuffled)


def test_linear_extension_without_generator_takes_first_ready_node() -> None:
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
def test_random_linear_extensions_are_all_extensions(parents: list[list[int]]) -> None:
    rng = make_rng()
    extensions = {tuple(linear_extension(parents, rng)) for _ in range(300)}
    assert extensions == {p for p in permutations(range(len(parents))) if is_extension(p, parents)}


def test_ready_nodes_are_drawn_uniformly() -> None:
    rng = make_rng()
    counts = Counter(tuple(linear_extension([[], [], [], [0, 1, 2]], rng)) for _ in range(3000))
    assert chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("rng", [None, make_rng()], ids=["first", "random"])
def test_linear_extension_rejects_cycles(rng: np.random.Generator | None) -> None:
    with pytest.raises(DataError) as error:
        linear_extension([[], [2], [1], [0, 2]], rng)
    assert says(error, "order_parents", "must not form a cycle", "[1, 2, 3]", "checked composition")
    assert error.value.rule == "cycle"


# Reordering


@given(composition=dags(), share=st.floats(0, 1), seed=SEEDS)
def test_reordered_context_is_topological_order_of_same_nodes(
    composition: Composition, share: float, seed: int
) -> None:
    unique = with_unique_keys(composition)
    contexts, vocabulary = upstream_contexts([unique])
    changed = reorder(contexts, vocabulary, share, make_rng(seed))
    names = {number: key for key, number in vocabulary.ids.items()}
    assert changed.origins == contexts.origins
    assert np.array_equal(changed.last, contexts.last)
    for before, after in zip(rows_of(contexts), rows_of(changed), strict=True):
        assert sorted(before) == sorted(after)
        nodes = [names[number] for number in after]
        for i, node in enumerate(nodes):
            assert set(unique.ancestors(node)) <= set(nodes[:i])


@given(composition=dags(), seed=SEEDS)
def test_reorder_keeps_counts_of_recurring_keys(composition: Composition, seed: int) -> None:
    contexts, vocabulary = upstream_contexts([composition])
    changed = reorder(contexts, vocabulary, 1, make_rng(seed))
    for before, after in zip(rows_of(contexts), rows_of(changed), strict=True):
        assert Counter(before) == Counter(after)


@given(length=st.integers(1, 9), seed=SEEDS)
def test_reorder_does_not_change_chain(length: int, seed: int) -> None:
    contexts, vocabulary = upstream_contexts([chain(length)])
    assert equal(reorder(contexts, vocabulary, 1, make_rng(seed)), contexts)


@given(count=st.integers(1, 3), share=st.floats(0, 1), seed=SEEDS)
def test_reorder_is_reproducible(count: int, share: float, seed: int) -> None:
    contexts, vocabulary = upstream_contexts([diamonds(count)])
    assert equal(*(reorder(contexts, vocabulary, share, make_rng(seed)) for _ in range(2)))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_share_of_reordered_rows(share: float) -> None:
    """A diamond has two orders, and half of the chosen rows get the other one."""
    contexts, vocabulary = upstream_contexts([diamonds(1)] * 1000)
    changed = reorder(contexts, vocabulary, share, make_rng())
    frontiers = np.flatnonzero(contexts.lengths == 4)
    assert len(frontiers) == 1000
    others = (changed.nodes != contexts.nodes)[frontiers].any(axis=1).mean()
    assert others == pytest.approx(share / 2, abs=4 * 0.5 / 1000**0.5)
    assert others.any() == (share > 0)


def test_reorder_does_not_change_rows_without_composition() -> None:
    composition = dag("a b c", "a>c b>c")
    contexts = [
        Context(("a", "b", "c"), composition, "c"),
        Context(("a", "b", "c")),
        Context(("a",), composition),
    ]
    vocabulary = Vocabulary(("a", "b", "c"), ())
    encoded = read_only(vocabulary.encode([*contexts, Context(())]))
    results = {str(rows_of(reorder(encoded, vocabulary, 1, make_rng(i)))) for i in range(20)}
    assert results == {str([row, [2, 3, 4], [2], []]) for row in ([2, 3, 4], [3, 2, 4])}


def test_reorder_replaces_path_by_upstream_dag() -> None:
    composition = dag("a new b", "a>b new>b")
    vocabulary = Vocabulary(("a", "b"), ())
    encoded = read_only(vocabulary.encode([Context(("a", "b"), composition, "b"), Context(("a",))]))
    results = {str(rows_of(reorder(encoded, vocabulary, 1, make_rng(i)))) for i in range(20)}
    assert results == {str([row, [2]]) for row in ([2, UNKNOWN, 3], [UNKNOWN, 2, 3])}


def test_reorder_pads_rows_that_get_shorter() -> None:
    contexts = [Context(("a", "b", "b"), dag("a b", "a>b"), "b"), Context(("a",) * 3)]
    vocabulary = Vocabulary(("a", "b"), ())
    changed = reorder(read_only(vocabulary.encode(contexts)), vocabulary, 1, make_rng())
    assert rows_of(changed) == [[2, 3], [2, 2, 2]]


def test_reorder_keeps_last_nodes_of_large_dag() -> None:
    size = MAX_CONTEXT_LENGTH + 20
    nodes = [Node(key, key) for key in KEYS[: size + 1]]
    wide, _ = compose("wide", nodes, [(key, KEYS[size]) for key in KEYS[:size]])
    encoded = read_only(NUMBERS.encode([Context(tuple(KEYS[: size + 1]), wide, KEYS[size])]))
    (row,) = rows_of(reorder(encoded, NUMBERS, 1, make_rng()))
    assert len(row) == MAX_CONTEXT_LENGTH
    assert len(set(row)) == MAX_CONTEXT_LENGTH
    assert row[-1] == size + FIRST_SERVICE
    assert min(row) < 20 + FIRST_SERVICE  # the order is random


@pytest.mark.parametrize(
    "change",
    [
        lambda contexts: augment(contexts, Augmentation(node_mask=0.5, crop=0.5), make_rng()),
        lambda contexts: reorder(contexts, NUMBERS, 0.5, make_rng()),
    ],
    ids=["augment", "reorder"],
)
def test_augmentation_of_no_rows_gives_no_rows(change: Callable[[Contexts], Contexts]) -> None:
    changed = change(numbered_contexts())
    assert changed.nodes.shape == (0, 1)
    assert len(changed) == 0
