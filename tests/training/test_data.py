from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dagrec.data.compositions import Node
from dagrec.data.examples import Call, Context, Example, extract
from dagrec.errors import DataError
from dagrec.training.data import Candidates, TrainingData
from tests.checks import says
from tests.worlds import DAY, WORLDS, World, branching, chain, composition, everything


def pairs_by_key(data: TrainingData) -> dict[tuple[tuple[str, ...], str], float]:
    """The distinct pairs of the data, as keys."""
    return {
        (data.contexts.origins[row].path, data.vocabulary.services[column]): count
        for row, column, count in zip(*data.pairs, strict=True)
    }


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_pairs_match_world(world: World) -> None:
    expected = {(path, y): n for path, targets in world.follows.items() for y, n in targets.items()}
    assert pairs_by_key(world.data) == expected


def test_pairs_match_loop_over_examples(examples: tuple[Example, ...]) -> None:
    expected = Counter((e.context.path, e.target) for e in examples)
    data = TrainingData.of(examples)
    assert pairs_by_key(data) == dict(expected)
    assert len(data.contexts) == len({e.context.path for e in examples})


def test_rows_and_targets_match_examples(examples: tuple[Example, ...]) -> None:
    data = TrainingData.of(examples)
    pairs = [
        (data.contexts.origins[row].path, data.vocabulary.services[column])
        for row, column in zip(data.rows, data.targets, strict=True)
    ]
    assert pairs == [(e.context.path, e.target) for e in examples]


def test_pairs_do_not_depend_on_order_of_examples() -> None:
    world = everything()
    assert pairs_by_key(TrainingData.of(world.examples[::-1])) == pairs_by_key(world.data)


def test_training_data_requires_examples() -> None:
    with pytest.raises(DataError) as error:
        TrainingData.of([])
    assert says(error, "training", "at least one example", "found none")
    assert error.value.rule == "no-examples"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_hold_out_parts_partition_compositions(share: float) -> None:
    data = everything().data
    rest, held_out = data.hold_out(share, seed=3)
    compositions = [{e.composition for e in part.examples} for part in (rest, held_out)]
    assert compositions[0].isdisjoint(compositions[1])
    assert compositions[0] | compositions[1] == {e.composition for e in data.examples}
    assert Counter((*rest.examples, *held_out.examples)) == Counter(data.examples)
    assert len(compositions[1]) == int(np.ceil(share * len(compositions[0] | compositions[1])))


def test_hold_out_parts_share_vocabulary_and_graph() -> None:
    data = everything().data
    for part in data.hold_out(0.3, seed=0):
        assert part.vocabulary is data.vocabulary
        assert part.graph is data.graph


def test_hold_out_depends_only_on_seed() -> None:
    data = everything().data
    parts = [data.hold_out(0.3, seed=seed)[1].examples for seed in (5, 5, 6)]
    assert parts[0] == parts[1]
    assert parts[0] != parts[2]


def test_hold_out_requires_two_compositions() -> None:
    with pytest.raises(DataError) as error:
        chain(copies=1).data.hold_out(0.1, seed=0)
    assert says(error, "at least two", "found 1")


def test_examples_have_histories() -> None:
    compositions = (
        composition("later", ("table_a", "x"), owner="ann", time=5 * DAY),
        composition("early", ("table_b", "y"), owner="ann", time=1 * DAY),
        composition("other", ("table_a", "z"), owner="bob", time=0.0),
    )
    data = TrainingData.of(extract(compositions)[0])
    histories = [[call.service for call in e.context.history] for e in data.examples]
    assert histories == [["y"], [], []]
    assert data.contexts.origins[0].history == (Call("y", ("table_b",), 1 * DAY),)


def test_additional_services_are_in_vocabulary(examples: tuple[Example, ...]) -> None:
    data = TrainingData.of(examples, services={"brand_new": "does something new"})
    assert "brand_new" in data.vocabulary.columns
    assert data.graph.popularity[data.vocabulary.columns["brand_new"]] == 0
    assert set(data.vocabulary.services) - {"brand_new"} == set(
        TrainingData.of(examples).vocabulary.services
    )
    assert data.fingerprint != TrainingData.of(examples, services={"brand_new": ""}).fingerprint
    assert data.hold_out(0.3, 0)[0].services == data.services


def test_training_data_of_examples_without_compositions() -> None:
    data = TrainingData.of([Example(Context(("a", "b")), "c", "3", 0)])
    assert data.vocabulary.services == ("c",)
    assert data.vocabulary.others == ("a", "b")


def test_catalogue_is_in_graph() -> None:
    data = TrainingData.of(branching().examples, catalogue=[("table_b", "often"), ("no", "often")])
    assert data.graph.declared is not None
    assert data.graph.unknown_links == 1


def test_candidates_have_catalogue_and_services() -> None:
    examples, links, services = branching().examples, [("table_b", "new")], {"new": "a text"}
    expected = TrainingData.of(examples, catalogue=links, services=services)
    assert Candidates(links, services).training(examples).fingerprint == expected.fingerprint
    fingerprint = Candidates().training(examples).fingerprint
    assert fingerprint == TrainingData.of(examples).fingerprint != expected.fingerprint


# Groups


Key = Callable[[Context], Hashable]
KEYS: dict[str, Key] = {
    "path": lambda context: context.path,
    "last": lambda context: context.path[-1],
    "owner and last": lambda context: (context.owner, context.path[-1]),
    "nothing": lambda _: None,
    "everything": id,
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_groups_match_loop_over_examples(key: Key) -> None:
    data = everything().data
    grouped = data.grouped(key)
    expected = Counter((key(e.context), e.target) for e in data.examples)
    counts = {
        (key(context), data.vocabulary.services[grouped.columns[pair]]): grouped.counts[pair]
        for row, context in enumerate(grouped.contexts.origins)
        for pair in range(grouped.starts[row], grouped.starts[row + 1])
    }
    assert counts == dict(expected)
    assert len(grouped.contexts) == len({key(e.context) for e in data.examples})
    assert grouped.counts.sum() == len(data.examples)


def test_groups_by_path_are_pairs(examples: tuple[Example, ...]) -> None:
    data = TrainingData.of(examples)
    grouped, (rows, columns, counts) = data.grouped(lambda context: context.path), data.pairs
    assert np.array_equal(np.repeat(np.arange(len(grouped.contexts)), np.diff(grouped.starts)), rows)
    assert np.array_equal(grouped.columns, columns)
    assert np.array_equal(grouped.counts, counts)
    assert np.array_equal(grouped.contexts.nodes, data.contexts.nodes)


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_group_has_its_first_context(key: Key) -> None:
    data = everything().data
    first: dict[Hashable, Context] = {}
    for example in data.examples:
        first.setdefault(key(example.context), example.context)
    assert [id(c) for c in data.grouped(key).contexts.origins] == [id(c) for c in first.values()]


@pytest.mark.parametrize("rows", [[], [0], [3, 1], [2, 2, 2], list(range(25))], ids=str)
def test_pairs_of_rows_are_in_order_of_rows(rows: list[int]) -> None:
    grouped = everything().data.grouped(lambda context: context.path)
    positions, pairs = grouped.pairs_of(np.array(rows, dtype=np.int64))
    expected = [
        (position, pair)
        for position, row in enumerate(rows)
        for pair in range(grouped.starts[row], grouped.starts[row + 1])
    ]
    assert list(zip(positions.tolist(), pairs.tolist(), strict=True)) == expected


# Fingerprints


def test_equal_data_have_equal_fingerprints() -> None:
    assert TrainingData.of(everything().examples).fingerprint == everything().data.fingerprint


def test_fingerprint_is_equal_in_other_process() -> None:
    code = "from tests.worlds import everything; print(everything().data.fingerprint)"
    root = Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == everything().data.fingerprint


def changed_data(**changes: object) -> TrainingData:
    """Data of two compositions, the first of which has other values of some fields."""
    node = Node("mid", "middle", "service", "a text", 2.0)
    one = composition("one", ("table_a", "mid", "end"), owner="ann", time=3.0)
    nodes = tuple(node if n.id == "mid" else n for n in one.nodes)
    one = replace(one, **({"nodes": nodes} | changes))
    return TrainingData.of(extract([one, composition("two", ("table_a", "end"))])[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "other"},
        {"owner": "bob"},
        {"owner": None},
        {"time": 4.0},
        {"links": (("table_a", "mid"), ("mid", "end"), ("table_a", "end"))},
        *(
            {"nodes": (Node("table_a", "table_a", "table"), node, Node("end", "end"))}
            for node in (
                Node("mid", "centre", "service", "a text", 2.0),
                Node("mid", "middle", "table", "a text", 2.0),
                Node("mid", "middle", "service", "another", 2.0),
                Node("mid", "middle", "service", None, 2.0),
                Node("mid", "middle", "service", "a text", 2.5),
            )
        ),
    ],
    ids=str,
)
def test_fingerprint_depends_on_all_fields(
    changes: dict[str, object],
) -> None:
    fingerprint = changed_data().fingerprint
    assert changed_data(id="one").fingerprint == fingerprint
    assert changed_data(**changes).fingerprint != fingerprint


def test_fingerprint_depends_on_order_catalogue_and_copies() -> None:
    examples = branching().examples
    variants = [
        TrainingData.of(examples),
        TrainingData.of(examples[::-1]),
        TrainingData.of((*examples, examples[0])),
        TrainingData.of(examples, catalogue=[("table_b", "often")]),
        TrainingData.of(examples, catalogue=[]),
    ]
    assert len({data.fingerprint for data in variants}) == len(variants)


def test_parts_have_different_fingerprints() -> None:
    data = everything().data
    parts = [data, *data.hold_out(0.3, seed=0), *data.hold_out(0.3, seed=1)]
    assert len({part.fingerprint for part in parts}) == len(parts)


def test_fingerprint_of_examples_without_compositions() -> None:
    paths = [("a",), ("a", "b"), ("a, b",)]
    fingerprints = {
        TrainingData.of([Example(Context(path), "y", "n", 0)]).fingerprint for path in paths
    }
    assert len(fingerprints) == 3
