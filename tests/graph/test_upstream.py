from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Node, compose
from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context, Example, context_at
from dagrec.data.vocabulary import FIRST_SERVICE, UNKNOWN, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.graph.upstream import Upstream, Upstreams
from dagrec.types import Ragged
from tests.data.dags import chain, dag, dags, diamonds, relabelled
from tests.worlds import WORLDS

DIAMOND = dag("a b c e d", "a>b b>d a>c c>e e>d")
"""Two paths from a to d: through b, and through c and e."""


def graph_of(composition: Composition) -> nx.DiGraph:
    graph = nx.DiGraph(list(composition.links))
    graph.add_nodes_from(node.id for node in composition.nodes)
    return graph


def upstream_of(composition: Composition, at: str) -> tuple[list[str], Upstream]:
    """The upstream DAG of a node, and the node ids in its order."""
    context = context_at(composition, at)
    return list(context.upstream()), Upstream.of(context)


# One DAG


@given(dags(), st.data())
def test_upstream_has_ancestors_and_their_links(composition: Composition, data: st.DataObject) -> None:
    at = data.draw(st.sampled_from(sorted(composition.by_id)))
    ids, upstream = upstream_of(composition, at)
    ancestors = nx.ancestors(graph_of(composition), at) | {at}
    assert set(ids) == ancestors
    assert ids[-1] == at
    assert upstream.keys == tuple(composition.by_id[node].key for node in ids)
    links = {(ids[parent], ids[i]) for i, parents in enumerate(upstream.parents) for parent in parents}
    assert links == set(graph_of(composition).subgraph(ancestors).edges)
    assert all(parent < i for i, parents in enumerate(upstream.parents) for parent in parents)


@given(dags(), st.data())
def test_levels_are_longest_path_lengths(composition: Composition, data: st.DataObject) -> None:
    at = data.draw(st.sampled_from(sorted(composition.by_id)))
    ids, upstream = upstream_of(composition, at)
    assert upstream.levels == tuple(
        1 + max((upstream.levels[parent] for parent in parents), default=-1)
        for parents in upstream.parents
    )
    ancestors = graph_of(composition).subgraph(ids)
    assert max(upstream.levels) == upstream.levels[-1] == nx.dag_longest_path_length(ancestors)


@given(dags(max_nodes=9), st.data())
def test_distances_are_shortest_path_lengths(composition: Composition, data: st.DataObject) -> None:
    at = data.draw(st.sampled_from(sorted(composition.by_id)))
    ids, upstream = upstream_of(composition, at)
    graph = graph_of(composition)
    for node, distances in zip(ids, upstream.distances, strict=True):
        expected = dict(nx.single_target_shortest_path_length(graph, node))
        assert {ids[ancestor]: distance for ancestor, distance in distances.items()} == {
            ancestor: distance for ancestor, distance in expected.items() if ancestor != node
        }


def test_levels_and_distances_of_diamond() -> None:
    ids, upstream = upstream_of(DIAMOND, "d")
    assert dict(zip(ids, upstream.levels, strict=True)) == {"a": 0, "b": 1, "c": 1, "e": 2, "d": 3}
    expected = {"a": 2, "b": 1, "c": 2, "e": 1}
    assert {ids[ancestor]: n for ancestor, n in upstream.distances[-1].items()} == expected


def test_upstream_excludes_siblings_and_descendants() -> None:
    ids, upstream = upstream_of(dag("a b c d", "a>b a>c b>d"), "b")
    assert ids == ["a", "b"]
    assert upstream.keys == ("a", "b")


def test_upstream_of_exponentially_many_paths() -> None:
    """There are 2 ** 40 paths to the last node."""
    composition = diamonds(40)
    _, upstream = upstream_of(composition, "40")
    assert len(upstream.keys) == 121
    assert upstream.levels[-1] == 80
    assert upstream.distances[-1][0] == 80


def test_context_without_composition_is_chain() -> None:
    upstream = Upstream.of(Context(("x", "y", "x")))
    assert upstream == Upstream(("x", "y", "x"), ((), (0,), (1,)), ())
    assert upstream.levels == (0, 1, 2)
    assert upstream.distances[-1] == {1: 1, 0: 2}


def test_upstream_of_chain_equals_its_path() -> None:
    composition = chain(6)
    _, upstream = upstream_of(composition, "5")
    assert upstream == Upstream.of(Context(context_at(composition, "5").path))


def test_upstream_of_empty_context_is_empty() -> None:
    assert Upstream.of(Context(())) == Upstream((), (), ())


def test_long_chain_keeps_newest_nodes() -> None:
    composition = chain(MAX_CONTEXT_LENGTH + 50)
    at = str(MAX_CONTEXT_LENGTH + 49)
    _, upstream = upstream_of(composition, at)
    assert upstream.keys == tuple(f"service_{i}" for i in range(50, MAX_CONTEXT_LENGTH + 50))
    assert upstream.levels[-1] == MAX_CONTEXT_LENGTH - 1
    path = tuple(f"service_{i}" for i in range(MAX_CONTEXT_LENGTH + 50))
    assert Upstream.of(Context(path)) == upstream


def test_wide_dag_keeps_nodes_closest_to_frontier() -> None:
    parents, far = [f"p{i}" for i in range(100)], [f"q{i}" for i in range(100)]
    links = [(q, p) for q, p in zip(far, parents, strict=True)] + [(p, "end") for p in parents]
    nodes = [Node(name, name) for name in (*far, *parents, "end")]
    _, upstream = upstream_of(compose("wide", nodes, links)[0], "end")
    assert len(upstream.keys) == MAX_CONTEXT_LENGTH
    assert set(parents) < set(upstream.keys)
    assert sum(key.startswith("q") for key in upstream.keys) == MAX_CONTEXT_LENGTH - 101
    assert upstream.keys[-1] == "end"


def test_children_are_sorted_keys_of_context() -> None:
    composition = dag("a x:k3 y:k1 z:k2", "a>x a>y a>z")
    context = Context(("a",), composition, "a", children=("x", "y"))
    assert Upstream.of(context).children == ("k1", "k3")
    assert Upstream.of(context_at(composition, "a")).children == ("k1", "k2", "k3")


def test_signature_depends_on_structure_and_children() -> None:
    _, diamond = upstream_of(DIAMOND, "d")
    _, with_shortcut = upstream_of(dag("a b c e d", "a>b b>d a>c c>e e>d a>d"), "d")
    _, with_other_ids = upstream_of(relabelled(DIAMOND, range(5), range(5), "x"), "xd")
    assert diamond.keys == with_shortcut.keys
    assert diamond.signature == with_other_ids.signature
    assert diamond.signature != with_shortcut.signature
    with_child = Upstream(diamond.keys, diamond.parents, ("f",))
    assert with_child.signature != diamond.signature


@given(dags(), st.randoms(use_true_random=False))
def test_upstream_does_not_depend_on_ids_or_document_order(
    composition: Composition, random: object
) -> None:
    order, links = list(range(len(composition.nodes))), list(range(len(composition.links)))
    random.shuffle(order)  # type: ignore[attr-defined]
    random.shuffle(links)  # type: ignore[attr-defined]
    other = relabelled(composition, order, links, "x")

    def described(ids: list[str], upstream: Upstream) -> dict[str, object]:
        return {
            node.removeprefix("x"): (
                upstream.keys[i],
                upstream.levels[i],
                {ids[a].removeprefix("x"): n for a, n in upstream.distances[i].items()},
            )
            for i, node in enumerate(ids)
        }

    for node in composition.by_id:
        assert described(*upstream_of(composition, node)) == described(*upstream_of(other, f"x{node}"))


# Many DAGs


def test_flat_arrays_equal_dags() -> None:
    vocabulary = Vocabulary(("b", "c", "d"), ("a",))
    dags_ = [
        upstream_of(DIAMOND, "d")[1],
        Upstream(("a",), ((),), ("c", "unknown")),
        Upstream((), (), ()),
    ]
    flat = Upstreams.of(dags_, vocabulary)
    assert len(flat) == 3
    assert flat.node_rows.lengths.tolist() == [5, 1, 0]
    assert flat.child_rows.lengths.tolist() == [0, 2, 0]
    assert flat.pair_rows.lengths.tolist() == [8, 0, 0]
    assert flat.children.tolist() == [vocabulary.ids["c"], UNKNOWN]
    ids = [vocabulary.ids.get(key, UNKNOWN) for dag_ in dags_ for key in dag_.keys]
    assert flat.nodes.tolist() == ids
    assert UNKNOWN in ids  # e is not in the vocabulary
    assert flat.levels.tolist() == [level for dag_ in dags_ for level in dag_.levels]
    columns = (flat.ancestors.tolist(), flat.descendants.tolist(), flat.distances.tolist())
    pairs = set(zip(*columns, strict=True))
    assert pairs == {
        (ancestor, node, distance)
        for node, distances in enumerate(dags_[0].distances)
        for ancestor, distance in distances.items()
    }


def test_no_dags_give_empty_arrays() -> None:
    flat = Upstreams.of([], Vocabulary(("a",), ()))
    assert len(flat) == 0
    assert {array.dtype for array in (flat.nodes, flat.distances, flat.children)} == {np.dtype("int64")}


@given(st.lists(st.integers(0, 4), max_size=6), st.data())
def test_ragged_take_in_any_order(lengths: list[int], data: st.DataObject) -> None:
    ragged = Ragged.of(lengths)
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))))) if lengths else []
    indices, positions = ragged.take(np.array(rows, dtype=np.int64))
    values = [(row, i) for row, length in enumerate(lengths) for i in range(length)]
    expected = [(row, i, n) for n, row in enumerate(rows) for i in range(lengths[row])]
    assert [(*values[index], n) for index, n in zip(indices, positions, strict=True)] == expected
    assert ragged.lengths.tolist() == lengths


# The graph of all training links


def of_links(*links: str) -> ServiceGraph:
    """The graph of training links, which may form cycles; each link is a composition of its own."""
    examples = [
        Example(Context((source,)), target, target, i)
        for i, (source, target) in enumerate(link.split(">") for link in links)
    ]
    return ServiceGraph.of(examples, Vocabulary.of(examples))


def check_dag(graph: ServiceGraph) -> nx.DiGraph:
    """Check the properties that every graph's DAG has, and return it as a networkx graph of ids."""
    flat = graph.dag
    assert len(flat) == 1
    assert sorted(flat.nodes.tolist()) == list(range(UNKNOWN, len(graph.vocabulary)))
    is_link = flat.distances == 1
    dag_graph = nx.DiGraph()
    dag_graph.add_nodes_from(flat.nodes.tolist())
    sources, targets = flat.nodes[flat.ancestors[is_link]], flat.nodes[flat.descendants[is_link]]
    dag_graph.add_edges_from(zip(sources.tolist(), targets.tolist(), strict=True))
    assert nx.is_directed_acyclic_graph(dag_graph)
    observed = {
        (node, int(service) + FIRST_SERVICE)
        for node in range(len(graph.vocabulary))
        for service in graph.observed.row(node)[0]
    }
    assert set(dag_graph.edges) <= observed
    levels = dict(zip(flat.nodes.tolist(), flat.levels.tolist(), strict=True))
    assert all(levels[a] < levels[b] for a, b in dag_graph.edges)
    return dag_graph


@pytest.mark.parametrize("world", WORLDS)
def test_graph_dag_covers_all_ids(world: str) -> None:
    graph = WORLDS[world].data.graph
    check_dag(graph)


def test_graph_dag_drops_links_that_close_cycles() -> None:
    graph = of_links("t>p", "p>q", "q>r", "r>p", "q>q")
    dag_graph = check_dag(graph)
    ids = graph.vocabulary.ids
    assert set(dag_graph.edges) == {(ids[a], ids[b]) for a, b in pairwise("tpqr")}


@given(st.lists(st.tuples(st.sampled_from("pqrstu"), st.sampled_from("pqrstu")), min_size=1))
def test_graph_dag_is_acyclic(links: list[tuple[str, str]]) -> None:
    graph = of_links(*(f"{a}>{b}" for a, b in links))
    dag_graph = check_dag(graph)
    ids = graph.vocabulary.ids
    all_links = nx.DiGraph([(ids[a], ids[b]) for a, b in links])
    if nx.is_directed_acyclic_graph(all_links):
        assert set(dag_graph.edges) == set(all_links.edges)
