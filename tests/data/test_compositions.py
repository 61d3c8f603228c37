"""Compositions, and their validation."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Link, Node, compose, fingerprint
from dagrec.errors import DataError
from tests.checks import says
from tests.data.dags import chain, dag, dags, graphs, links_of, relabelled


def digraph(composition: Composition) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(composition.by_id)
    graph.add_edges_from(composition.links)
    return graph


# ---- order and neighbours


@given(composition=dags())
def test_order_is_topological(composition: Composition) -> None:
    position = {node: i for i, node in enumerate(composition.order)}
    assert sorted(position) == sorted(composition.by_id)
    assert all(position[source] < position[target] for source, target in composition.links)


def test_order_breaks_ties_by_document_order() -> None:
    assert dag("d b a c").order == ("d", "b", "a", "c")
    assert dag("x c b a r", "r>c r>a r>b").order == ("x", "r", "c", "a", "b")


def test_neighbours_sources_and_sinks_keep_document_order() -> None:
    composition = dag("c b a t", "t>c t>a b>a")
    assert composition.children == {"c": (), "b": ("a",), "a": (), "t": ("c", "a")}
    assert composition.parents == {"c": ("t",), "b": (), "a": ("t", "b"), "t": ()}
    assert composition.sources == ("b", "t")
    assert composition.sinks == ("c", "a")


def test_service_keys_exclude_tables() -> None:
    assert dag("t a b:a c:tool", "t>a").service_keys == {"a", "tool"}


@given(composition=dags())
def test_ancestors_match_networkx(composition: Composition) -> None:
    graph = digraph(composition)
    for node in composition.by_id:
        ancestors = composition.ancestors(node)
        assert set(ancestors) == nx.ancestors(graph, node)
        assert list(ancestors) == [n for n in composition.order if n in ancestors]


def test_long_chain_does_not_exceed_recursion_limit() -> None:
    length = 50_000
    composition = chain(length)
    assert composition.order == tuple(map(str, range(length)))
    assert len(composition.ancestors(str(length - 1))) == length - 1
    assert len(composition.signature) == 24


# ---- signature


@given(composition=dags(), data=st.data())
def test_signature_ignores_ids_document_order_owner_and_time(
    composition: Composition, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(composition.nodes))))
    links = data.draw(st.permutations(range(len(composition.links))))
    assert relabelled(composition, order, links, "other-").signature == composition.signature


@given(composition=dags())
def test_signature_changes_with_every_link_key_and_kind(composition: Composition) -> None:
    for link in composition.links:
        fewer = [other for other in composition.links if other != link]
        assert compose("fewer", composition.nodes, fewer)[0].signature != composition.signature
    for i, node in enumerate(composition.nodes):
        for other in (replace(node, key="other"), replace(node, kind="other")):
            nodes = [*composition.nodes[:i], other, *composition.nodes[i + 1 :]]
            changed = compose("changed", nodes, composition.links)[0]
            assert changed.signature != composition.signature


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (dag("a b", "a>b"), dag("a b", "b>a")),
        (dag("a b c", "a>b b>c"), dag("a b c", "a>b a>c")),
        (dag("a1:a a2:a b", "a1>b"), dag("a b", "a>b")),
        (dag("a1:a a2:a b", "a1>b a2>b"), dag("a1:a a2:a b", "a1>b")),
        # All nodes have equal parents, but one table feeds both services in the second composition.
        (dag("t1:t t2:t b c", "t1>b t2>c"), dag("t1:t t2:t b c", "t1>b t1>c")),
    ],
)
def test_signature_differs_between_structures_with_same_keys(
    one: Composition, other: Composition
) -> None:
    assert one.signature != other.signature


# ---- fingerprint


def test_fingerprint_depends_on_all_fields_and_order() -> None:
    base = dag("a b", "a>b", id="x", owner="ann", time=1.0)
    node = base.nodes[0]
    variants = [
        replace(base, id="y"),
        replace(base, owner=None),
        replace(base, time=2.0),
        replace(base, links=()),
        replace(base, nodes=base.nodes[::-1]),
        *(
            replace(base, nodes=(changed, base.nodes[1]))
            for changed in (
                replace(node, key="c"),
                replace(node, kind="table"),
                replace(node, text="c"),
                replace(node, time=1.0),
            )
        ),
    ]
    prints = [fingerprint([variant]) for variant in (base, *variants)]
    assert len(set(prints)) == len(prints)
    assert fingerprint([base]) == fingerprint([replace(base)])
    assert fingerprint([base, variants[0]]) != fingerprint([variants[0], base])


# ---- validation


def compose_error(nodes: str, links: str) -> pytest.ExceptionInfo[DataError]:
    with pytest.raises(DataError) as error:
        compose("c", [Node(id_, id_) for id_ in nodes.split()], links_of(links))
    return error


def test_compose_rejects_duplicate_node_ids() -> None:
    error = compose_error("a b a", "a>b")
    assert error.value.rule == "duplicate-id"
    assert says(error, "node 'a'", "may occur once", "found it twice", "rename one")


@pytest.mark.parametrize(("links", "end"), [("a>b x>b", "source"), ("a>b a>x", "target")])
def test_compose_rejects_links_to_missing_nodes(links: str, end: str) -> None:
    error = compose_error("a b", links)
    assert error.value.rule == "dangling-link"
    assert says(error, links.split()[1][0], f"its {end} must be the id of a node", "found 'x'", "add")


def test_compose_rejects_cycles() -> None:
    error = compose_error("a b c", "a>b b>c c>b")
    assert error.value.rule == "cycle"
    assert says(error, "link 'c' -> 'b'", "closes a cycle", "--on-cycle break", "--on-cycle skip")


def test_compose_merges_duplicate_links() -> None:
    assert dag("a b", "a>b a>b a>b").links == (("a", "b"),)


# ---- breaking cycles


@pytest.mark.parametrize(
    ("nodes", "links", "expected"),
    [
        # There are no sources. The search starts at a, the first node, and visits a, b, c, d.
        ("a b c d", "a>b b>c c>a c>d d>b", "a>b b>c c>d"),
        # The search starts at the source r, though it is the last node. It visits y, and x>y is back.
        ("x y r", "x>y y>x r>y", "y>x r>y"),
        # Without r the search starts at x, and y>x is back.
        ("x y", "x>y y>x", "x>y"),
        # The links of a are followed in document order, c first. So b>c is back and c>b is not.
        ("a b c", "a>c a>b b>c c>b", "a>c a>b c>b"),
        ("a b c", "a>b a>c b>c c>b", "a>b a>c b>c"),
        ("a b", "a>a a>b b>b", "a>b"),
        # A link to a finished node is not a back link, so the diamond is not changed.
        ("a b c d", "a>b a>c b>d c>d d>a", "a>b a>c b>d c>d"),
    ],
)
def test_break_drops_back_links_by_hand(nodes: str, links: str, expected: str) -> None:
    all_links = links_of(links)
    composition, dropped = compose(
        "c", [Node(id_, id_) for id_ in nodes.split()], all_links, on_cycle="break"
    )
    assert list(composition.links) == links_of(expected)
    assert dropped == len(all_links) - len(composition.links)


@given(graph=graphs(acyclic=False))
def test_break_makes_graph_acyclic_and_counts_dropped_links(
    graph: tuple[list[Node], list[Link]],
) -> None:
    nodes, links = graph
    composition, dropped = compose("c", nodes, links, on_cycle="break")
    assert len(composition.order) == len(nodes)
    assert dropped == len(links) - len(composition.links)
    whole = nx.DiGraph(links)
    assert (dropped == 0) == nx.is_directed_acyclic_graph(whole)
    # Each dropped link closes a cycle with the remaining links.
    remaining = digraph(composition)
    for source, target in set(links) - set(composition.links):
        assert nx.has_path(remaining, target, source)


@given(composition=dags())
def test_break_does_not_change_acyclic_graph(composition: Composition) -> None:
    result, dropped = compose("drawn", composition.nodes, composition.links, on_cycle="break")
    assert (result, dropped) == (composition, 0)


def test_long_cycle_does_not_exceed_recursion_limit() -> None:
    nodes = [Node(str(i), "a") for i in range(50_000)]
    links = [(str(i), str((i + 1) % len(nodes))) for i in range(len(nodes))]
    composition, dropped = compose("ring", nodes, links, on_cycle="break")
    assert (len(composition.links), dropped) == (len(nodes) - 1, 1)
