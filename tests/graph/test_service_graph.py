from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dagrec.data.examples import Example
from dagrec.data.vocabulary import PADDING, UNKNOWN, Vocabulary
from dagrec.errors import DataError, StoreError
from dagrec.graph.service_graph import ServiceGraph, Successors, read_catalogue, read_services
from tests.checks import says
from tests.worlds import WORLDS, World, branching, chain, everything

State = dict[str, NDArray[np.generic]]


def links(graph: ServiceGraph) -> dict[tuple[str, str], float]:
    """The observed links between keys, with their counts."""
    vocabulary = graph.vocabulary
    return {
        (key, vocabulary.services[column]): count
        for key, node in vocabulary.ids.items()
        for column, count in zip(*graph.observed.row(node), strict=True)
    }


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_observed_links_match_world(world: World) -> None:
    expected: Counter[tuple[str, str]] = Counter()
    for path, targets in world.follows.items():
        for service, count in targets.items():
            expected[path[-1], service] += count
    assert links(world.data.graph) == dict(expected)


def test_links_and_popularity_match_loop_over_examples(examples: tuple[Example, ...]) -> None:
    graph = ServiceGraph.of(examples, Vocabulary.of(examples))
    expected = Counter((e.context.path[-1], e.target) for e in examples)
    assert links(graph) == dict(expected)
    assert graph.observed.degrees.sum() == len(expected)
    targets = Counter(e.target for e in examples)
    assert graph.popularity.tolist() == [targets[y] for y in graph.vocabulary.services]


def test_columns_of_row_are_ascending(examples: tuple[Example, ...]) -> None:
    graph = ServiceGraph.of(examples, Vocabulary.of(examples))
    rows = [graph.observed.row(node)[0] for node in range(len(graph.vocabulary))]
    assert all((np.diff(row) > 0).all() for row in rows)


def test_support_is_row_of_counts() -> None:
    graph = branching().data.graph
    assert graph.support(graph.vocabulary.ids["table_b"]).tolist() == [3, 1]
    assert graph.support(graph.vocabulary.ids["often"]).tolist() == [0, 0]
    assert graph.support(UNKNOWN).tolist() == graph.support(PADDING).tolist() == [0, 0]


def test_unseen_mass_by_hand() -> None:
    """(n1 + m) / (n + 1) with m = (1 + 1) / (4 + 2): one of the four observations is a singleton."""
    graph = branching().data.graph
    m = (1 + 1) / (4 + 2)
    mass = dict(
        zip(("padding", "unknown", "often", "rarely", "table_b"), graph.unseen_mass, strict=True)
    )
    assert mass["table_b"] == pytest.approx((1 + m) / (4 + 1))
    assert mass["often"] == mass["rarely"] == mass["unknown"] == pytest.approx(m)


def test_unseen_mass_matches_loop_over_examples(examples: tuple[Example, ...]) -> None:
    graph = ServiceGraph.of(examples, Vocabulary.of(examples))
    counts = Counter((e.context.path[-1], e.target) for e in examples)
    singletons = sum(count == 1 for count in counts.values())
    m = (singletons + 1) / (len(examples) + 2)
    for key, node in graph.vocabulary.ids.items():
        node_counts = [count for (last, _), count in counts.items() if last == key]
        n1 = sum(count == 1 for count in node_counts)
        assert graph.unseen_mass[node] == pytest.approx((n1 + m) / (sum(node_counts) + 1))


def test_unseen_mass_decreases_with_observations() -> None:
    def mass(copies: int) -> float:
        graph = chain(copies).data.graph
        return float(graph.unseen_mass[graph.vocabulary.ids["table_a"]])

    assert 1 > mass(1) > mass(2) > mass(10) > mass(100) > 0


# The catalogue


def test_duplicate_declared_links_are_dropped_and_unknown_ones_counted() -> None:
    data = branching().data
    catalogue = [
        ("table_b", "often"),
        ("table_b", "often"),
        ("often", "rarely"),
        ("unknown", "often"),
        ("table_b", "unknown"),
        ("often", "table_b"),  # a table is not a service
    ]
    graph = ServiceGraph.of(data.examples, data.vocabulary, catalogue)
    assert graph.declared is not None
    rows = {key: graph.declared.row(node)[0].tolist() for key, node in data.vocabulary.ids.items()}
    assert rows == {"table_b": [0], "often": [1], "rarely": []}
    assert graph.declared.counts.tolist() == [1, 1]
    assert graph.unknown_links == 3


def test_missing_catalogue_differs_from_empty_catalogue() -> None:
    data = branching().data
    assert ServiceGraph.of(data.examples, data.vocabulary).declared is None
    empty = ServiceGraph.of(data.examples, data.vocabulary, []).declared
    assert empty is not None
    assert not empty.degrees.any()


def test_declared_links_do_not_change_observed_links() -> None:
    data = branching().data
    graph = ServiceGraph.of(data.examples, data.vocabulary, [("often", "rarely")])
    assert links(graph) == links(data.graph)
    assert np.array_equal(graph.popularity, data.graph.popularity)


def test_read_catalogue_keeps_file_order(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.json"
    file.write_text(json.dumps([["b", "a"], ["a", 308], ["b", "a"]]), encoding="utf-8")
    assert read_catalogue(file) == [("b", "a"), ("a", "308"), ("b", "a")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"a": 1}', ("catalogue", "array")),
        ('[["a"]]', ("link 1", "[source key, service key]", "1 items")),
        ('[["a", "b"], ["a", "b", "c"]]', ("link 2", "found 3 items")),
        ('[["a", "b"], "ab"]', ("link 2", "array")),
        ('[["a", null]]', ("link 1", "service")),
        ('[[[], "b"]]', ("link 1", "source")),
        ("[", ("JSON",)),
    ],
)
def test_read_catalogue_rejects_malformed_files(
    tmp_path: Path, text: str, parts: tuple[str, ...]
) -> None:
    file = tmp_path / "catalogue.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_catalogue(file)
    assert says(error, str(file), *parts)


def test_read_catalogue_rejects_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_catalogue(tmp_path / "none.json")
    assert says(error, str(tmp_path / "none.json"))


def test_read_services_returns_texts(tmp_path: Path) -> None:
    file = tmp_path / "services.json"
    file.write_text(json.dumps({"b": "draws a map", "a": ""}), encoding="utf-8")
    assert read_services(file) == {"b": "draws a map", "a": ""}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('["a"]', ("services", "object")),
        ('{"a": 1}', ("'a'", "string", "int")),
        ('{"": "text"}', ("services", "key")),
        ("[", ("JSON",)),
    ],
)
def test_read_services_rejects_malformed_files(
    tmp_path: Path, text: str, parts: tuple[str, ...]
) -> None:
    file = tmp_path / "services.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_services(file)
    assert says(error, str(file), *parts)


# State


def graph_with_catalogue() -> ServiceGraph:
    data = everything().data
    return ServiceGraph.of(data.examples, data.vocabulary, [("table_a", "extract")])


@pytest.mark.parametrize("graph", [graph_with_catalogue(), everything().data.graph])
def test_restored_graph_is_equal(graph: ServiceGraph) -> None:
    restored = ServiceGraph.restore(graph.state(), graph.vocabulary)
    assert restored.state().keys() == graph.state().keys()
    assert all(np.array_equal(restored.state()[key], array) for key, array in graph.state().items())
    assert restored.fingerprint == graph.fingerprint
    assert (restored.declared is None) == (graph.declared is None)


def test_fingerprint_differs_between_graphs() -> None:
    graphs = [world.data.graph for world in WORLDS.values()] + [
        graph_with_catalogue(),
        chain(4).data.graph,
    ]
    assert len({graph.fingerprint for graph in graphs}) == len(graphs)


def changed_state(key: str, change: object) -> State:
    """The state of a graph with one array changed_state, or removed if ``change`` is None."""
    state = dict(graph_with_catalogue().state())
    array = state.pop(key)
    if callable(change):
        state[key] = change(array.copy())
    return state


def set_first(value: float) -> object:
    def change(array: NDArray[np.generic]) -> NDArray[np.generic]:
        array[0] = value
        return array

    return change


@pytest.mark.parametrize("part", ["observed", "declared"])
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("starts", lambda a: a[:-1]),
        ("starts", lambda a: a[None]),
        ("starts", lambda a: a[::-1]),
        ("starts", lambda a: a + 1),
        ("starts", lambda a: np.concatenate([a[:1], a[1:-1][::-1], a[-1:]])),
        ("services", None),
        ("services", lambda a: a[:-1]),
        ("services", lambda a: a[:, None]),
        ("services", set_first(-1)),
        ("services", set_first(10_000)),
        ("counts", None),
        ("counts", lambda a: np.append(a, 1.0)),
        ("counts", set_first(np.nan)),
        ("counts", set_first(np.inf)),
        ("counts", set_first(-1)),
        ("counts", set_first(0)),
    ],
)
def test_restore_rejects_damaged_state(part: str, field: str, change: object) -> None:
    vocabulary = everything().data.vocabulary
    with pytest.raises(StoreError) as error:
        ServiceGraph.restore(changed_state(f"{part}.{field}", change), vocabulary)
    assert says(error, "graph", "publish")


def test_restore_rejects_state_without_observed_links() -> None:
    with pytest.raises(StoreError) as error:
        ServiceGraph.restore({}, everything().data.vocabulary)
    assert says(error, "observed.starts", "found none")


def test_restore_rejects_state_of_other_vocabulary() -> None:
    with pytest.raises(StoreError) as error:
        ServiceGraph.restore(everything().data.graph.state(), chain().data.vocabulary)
    assert says(error, "7 nodes", "4 services")


def test_successors_without_links_are_valid() -> None:
    empty = Successors.of(5, {})
    assert empty.degrees.tolist() == [0] * 5
    assert empty.check(5, 3) is empty


# networkx


def test_to_networkx_has_all_nodes_and_link_counts() -> None:
    data = everything().data
    graph = data.graph.to_networkx()
    kinds = dict(graph.nodes(data="kind"))
    assert {key for key, kind in kinds.items() if kind == "service"} == set(data.vocabulary.services)
    assert {key for key, kind in kinds.items() if kind == "other"} == set(data.vocabulary.others)
    assert {(a, b): count for a, b, count in graph.edges(data="count")} == links(data.graph)
