from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Node, compose
from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context, Example, context_at
from dagrec.data.vocabulary import FIRST, UNKNOWN, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.graph.upstream import Upstream, Upstreams
from dagrec.types import Ragged
from tests.data.dags import chain, dag, dags, diamonds, relabelled
from tests.worlds import WORLDS

DIAMOND = dag("a b c e d", "a>b b>d a>c c>e e>d")
"""From a to d over b, or over c and e."""


def graph_of(composition: Composition) -> nx.DiGraph:
    graph = nx.DiGraph(list(composition.links))
    graph.add_nodes_from(node.id for node in composition.nodes)
    return graph


def of(composition: Composition, at: str) -> tuple[list[str], Upstream]:
    """Node ids in the order of the upstream DAG, and it."""
    context = context_at(composition, at)
    return list(context.upstream()), Upstream.of(context)


# One DAG


@given(dags(), st.data())
def test_it_holds_the_ancestors_and_their_links(composition: Composition, data: st.DataObject) -> None:
    at = data.draw(st.sampled_from(sorted(composition.by_id)))
    ids, found = of(composition, at)
    near = nx.ancestors(graph_of(composition), at) | {at}
    assert set(ids) == near
    assert ids[-1] == at
    assert found.keys == tuple(composition.by_id[node].key for node in ids)
    links = {(ids[parent], ids[i]) for i, parents in enumerate(found.parents) for parent in parents}
    assert links == set(graph_of(composition).subgraph(near).edges)
    assert all(parent < i for i, parents in enumerate(found.parents) for parent in parents)


@given(dags(), st.data())
def test_levels_are_longest_paths(composition: Composition, data: st.DataObject) -> None:
    at = data.draw(st.sampled_from(sorted(composition.by_id)))
    ids, found = of(composition, at)
    assert found.levels == tuple(
        1 + max((found.levels[parent] for parent in parents), default=-1) for parents in found.parents
    )
    near = graph_of(composition).subgraph(ids)
    assert max(found.levels) == found.levels[-1] == nx.dag_longest_path_length(near)


@given(dags(most=9), st.data())
def test_distances_are_shortest_paths_from_all_ancestors(
    composition: Composition, data: st.DataObject
) -> None:
    at = data.draw(st.sampled_from(sorted(composition.by_id)))
    ids, found = of(composition, at)
    graph = graph_of(composition)
    for node, own in zip(ids, found.distances, strict=True):
        expected = dict(nx.single_target_shortest_path_length(graph, node))
        assert {ids[ancestor]: distance for ancestor, distance in own.items()} == {
            ancestor: distance for ancestor, distance in expected.items() if ancestor != node
        }


def test_levels_of_a_diamond_are_longest_and_its_distances_shortest() -> None:
    ids, found = of(DIAMOND, "d")
    assert dict(zip(ids, found.levels, strict=True)) == {"a": 0, "b": 1, "c": 1, "e": 2, "d": 3}
    nearest = {"a": 2, "b": 1, "c": 2, "e": 1}
    assert {ids[ancestor]: n for ancestor, n in found.distances[-1].items()} == nearest


def test_what_lies_beside_and_below_the_frontier_is_left_out() -> None:
    ids, found = of(dag("a b c d", "a>b a>c b>d"), "b")
    assert ids == ["a", "b"]
    assert found.keys == ("a", "b")


def test_many_diamonds_are_walked_once() -> None:
    """2 ** 40 paths lead to its end."""
    composition = diamonds(40)
    _, found = of(composition, "40")
    assert len(found.keys) == 121
    assert found.levels[-1] == 80
    assert found.distances[-1][0] == 80


def test_a_path_alone_is_a_chain() -> None:
    found = Upstream.of(Context(("x", "y", "x")))
    assert found == Upstream(("x", "y", "x"), ((), (0,), (1,)), ())
    assert found.levels == (0, 1, 2)
    assert found.distances[-1] == {1: 1, 0: 2}


def test_a_chain_is_the_path_through_it() -> None:
    composition = chain(6)
    _, found = of(composition, "5")
    assert found == Upstream.of(Context(context_at(composition, "5").path))


def test_an_empty_context_has_nothing_upstream() -> None:
    assert Upstream.of(Context(())) == Upstream((), (), ())


def test_of_a_long_chain_the_newest_nodes_are_kept() -> None:
    composition = chain(MAX_CONTEXT_LENGTH + 50)
    at = str(MAX_CONTEXT_LENGTH + 49)
    _, found = of(composition, at)
    assert found.keys == tuple(f"service_{i}" for i in range(50, MAX_CONTEXT_LENGTH + 50))
    assert found.levels[-1] == MAX_CONTEXT_LENGTH - 1
    path = tuple(f"service_{i}" for i in range(MAX_CONTEXT_LENGTH + 50))
    assert Upstream.of(Context(path)) == found


def test_of_a_wide_dag_the_nearest_nodes_are_kept() -> None:
    parents, far = [f"p{i}" for i in range(100)], [f"q{i}" for i in range(100)]
    links = [(q, p) for q, p in zip(far, parents, strict=True)] + [(p, "end") for p in parents]
    nodes = [Node(name, name) for name in (*far, *parents, "end")]
    _, found = of(compose("wide", nodes, links)[0], "end")
    assert len(found.keys) == MAX_CONTEXT_LENGTH
    assert set(parents) < set(found.keys)
    assert sum(key.startswith("q") for key in found.keys) == MAX_CONTEXT_LENGTH - 101
    assert found.keys[-1] == "end"


def test_children_are_keys_of_the_context_sorted() -> None:
    composition = dag("a x:k3 y:k1 z:k2", "a>x a>y a>z")
    context = Context(("a",), composition, "a", children=("x", "y"))
    assert Upstream.of(context).children == ("k1", "k3")
    assert Upstream.of(context_at(composition, "a")).children == ("k1", "k2", "k3")


def test_signatures_tell_structure_and_children_apart() -> None:
    diamond, other = of(DIAMOND, "d")[1], of(dag("a b c e d", "a>b b>d a>c c>e e>d a>d"), "d")[1]
    again = of(relabelled(DIAMOND, range(5), range(5), "x"), "xd")[1]
    assert diamond.keys == other.keys
    assert diamond.signature == again.signature
    assert diamond.signature != other.signature
    fed = Upstream(diamond.keys, diamond.parents, ("f",))
    assert fed.signature != diamond.signature


@given(dags(), st.randoms(use_true_random=False))
def test_ids_and_document_order_move_nothing_but_the_order(
    composition: Composition, random: object
) -> None:
    """What a node is and what lies above it stays, whatever the file looked like."""
    order, links = list(range(len(composition.nodes))), list(range(len(composition.links)))
    random.shuffle(order)  # type: ignore[attr-defined]
    random.shuffle(links)  # type: ignore[attr-defined]
    other = relabelled(composition, order, links, "x")

    def described(ids: list[str], found: Upstream) -> dict[str, object]:
        return {
            node.removeprefix("x"): (
                found.keys[i],
                found.levels[i],
                {ids[a].removeprefix("x"): n for a, n in found.distances[i].items()},
            )
            for i, node in enumerate(ids)
        }

    for node in composition.by_id:
        assert described(*of(composition, node)) == described(*of(other, f"x{node}"))


# Many DAGs


def test_flat_arrays_hold_what_the_dags_hold() -> None:
    vocabulary = Vocabulary(("b", "c", "d"), ("a",))
    dags_ = [of(DIAMOND, "d")[1], Upstream(("a",), ((),), ("c", "nobody")), Upstream((), (), ())]
    flat = Upstreams.of(dags_, vocabulary)
    assert len(flat) == 3
    assert flat.node_rows.lengths.tolist() == [5, 1, 0]
    assert flat.child_rows.lengths.tolist() == [0, 2, 0]
    assert flat.pair_rows.lengths.tolist() == [8, 0, 0]
    assert flat.children.tolist() == [vocabulary.ids["c"], UNKNOWN]
    words = [vocabulary.ids.get(key, UNKNOWN) for dag_ in dags_ for key in dag_.keys]
    assert flat.nodes.tolist() == words
    assert UNKNOWN in words  # e
    assert flat.levels.tolist() == [level for dag_ in dags_ for level in dag_.levels]
    columns = (flat.ancestors.tolist(), flat.descendants.tolist(), flat.distances.tolist())
    pairs = set(zip(*columns, strict=True))
    assert pairs == {(a, i, n) for i, own in enumerate(dags_[0].distances) for a, n in own.items()}


def test_no_dags_are_empty_arrays() -> None:
    flat = Upstreams.of([], Vocabulary(("a",), ()))
    assert len(flat) == 0
    assert {array.dtype for array in (flat.nodes, flat.distances, flat.children)} == {np.dtype("int64")}


@given(st.lists(st.integers(0, 4), max_size=6), st.data())
def test_ragged_rows_are_taken_in_any_order(lengths: list[int], data: st.DataObject) -> None:
    ragged = Ragged.of(lengths)
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))))) if lengths else []
    places, owner = ragged.take(np.array(rows, dtype=np.int64))
    values = [(row, i) for row, length in enumerate(lengths) for i in range(length)]
    expected = [(row, i, n) for n, row in enumerate(rows) for i in range(lengths[row])]
    assert [(*values[place], n) for place, n in zip(places, owner, strict=True)] == expected
    assert ragged.lengths.tolist() == lengths


# The graph of all training links


def of_links(*links: str) -> ServiceGraph:
    """The graph of training links that may run in circles; one composition a link."""
    examples = [
        Example(Context((source,)), target, target, i)
        for i, (source, target) in enumerate(link.split(">") for link in links)
    ]
    return ServiceGraph.of(examples, Vocabulary.of(examples))


def check_dag(graph: ServiceGraph) -> nx.DiGraph:
    """The DAG as ids, after what must hold of any."""
    flat = graph.dag
    assert len(flat) == 1
    assert sorted(flat.nodes.tolist()) == list(range(UNKNOWN, len(graph.vocabulary)))
    near = flat.distances == 1
    found = nx.DiGraph()
    found.add_nodes_from(flat.nodes.tolist())
    sources, targets = flat.nodes[flat.ancestors[near]], flat.nodes[flat.descendants[near]]
    found.add_edges_from(zip(sources.tolist(), targets.tolist(), strict=True))
    assert nx.is_directed_acyclic_graph(found)
    observed = {
        (node, int(service) + FIRST)
        for node in range(len(graph.vocabulary))
        for service in graph.observed.row(node)[0]
    }
    assert set(found.edges) <= observed
    levels = dict(zip(flat.nodes.tolist(), flat.levels.tolist(), strict=True))
    assert all(levels[a] < levels[b] for a, b in found.edges)
    return found


@pytest.mark.parametrize("world", WORLDS)
def test_the_global_dag_covers_all_ids(world: str) -> None:
    graph = WORLDS[world].data.graph
    check_dag(graph)


def test_the_global_dag_drops_what_closes_a_cycle() -> None:
    graph = of_links("t>p", "p>q", "q>r", "r>p", "q>q")
    found = check_dag(graph)
    ids = graph.vocabulary.ids
    assert set(found.edges) == {(ids[a], ids[b]) for a, b in pairwise("tpqr")}


@given(st.lists(st.tuples(st.sampled_from("pqrstu"), st.sampled_from("pqrstu")), min_size=1))
def test_the_global_dag_of_any_links_is_acyclic(links: list[tuple[str, str]]) -> None:
    graph = of_links(*(f"{a}>{b}" for a, b in links))
    found = check_dag(graph)
    ids = graph.vocabulary.ids
    acyclic = nx.DiGraph([(ids[a], ids[b]) for a, b in links])
    if nx.is_directed_acyclic_graph(acyclic):
        assert set(found.edges) == set(acyclic.edges)
