"""Counting and sampling of source-to-sink paths, compared with enumeration."""

from __future__ import annotations

import random
import time
from collections import Counter
from itertools import pairwise
from math import comb

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from dagrec.data.compositions import Composition
from dagrec.data.paths import count_pairs, count_paths, draw_paths, longest_path, longest_paths
from tests.data.dags import all_paths, chain, dag, dags, diamonds

UNEVEN = dag("a b c d e f g", "a>b a>c b>d c>d d>e d>f d>g a>g c>g")
"""A DAG with one source and 9 paths, 6 of which go through d."""


@given(composition=dags())
def test_counts_match_enumeration(composition: Composition) -> None:
    paths = all_paths(composition)
    assert count_paths(composition) == len(paths)
    services = [composition.by_id[node].is_service for path in paths for node in path[1:]]
    assert count_pairs(composition) == sum(services)


@given(composition=dags(), spare=st.integers(0, 3))
def test_draw_paths_returns_all_paths_in_document_order(composition: Composition, spare: int) -> None:
    paths = all_paths(composition)
    drawn, total = draw_paths(composition, len(paths) + spare, random.Random(0))
    assert (drawn, total) == (paths, len(paths))
    assert len(set(drawn)) == total


@given(composition=dags(), limit=st.integers(1, 5), seed=st.integers(0, 5))
def test_drawn_paths_are_distinct(composition: Composition, limit: int, seed: int) -> None:
    paths = all_paths(composition)
    drawn, total = draw_paths(composition, limit, random.Random(seed))
    assert total == len(paths)
    assert len(drawn) == len(set(drawn)) == min(limit, total)
    ranks = [paths.index(path) for path in drawn]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("limit", [1, 3])
def test_drawn_paths_are_uniform(limit: int) -> None:
    """All sets of ``limit`` paths are equally likely."""
    paths = all_paths(UNEVEN)
    sets = comb(len(paths), limit)
    rng = random.Random(20)
    draws = 60 * sets
    counts = Counter(tuple(draw_paths(UNEVEN, limit, rng)[0]) for _ in range(draws))
    assert len(counts) == sets
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_drawn_paths_depend_on_seed() -> None:
    def draw(seed: int) -> list[tuple[str, ...]]:
        return draw_paths(diamonds(20), 10, random.Random(seed))[0]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_exponentially_many_paths_are_counted_and_sampled_fast() -> None:
    composition = diamonds(60)
    start = time.perf_counter()
    paths, total = draw_paths(composition, 100, random.Random(3))
    assert time.perf_counter() - start < 1
    assert total == count_paths(composition) == 2**60
    # The node after a diamond is on all paths, each side of a diamond on half of them.
    assert count_pairs(composition) == 60 * 2**60 + 2 * 60 * 2**59
    assert len(set(paths)) == 100
    for path in paths:
        assert len(path) == 2 * 60 + 1
        assert all(link in set(composition.links) for link in pairwise(path))
    sides = Counter(path[1] for path in paths)
    assert set(sides) == {"0l", "0r"}


def test_single_node_is_one_path_without_pairs() -> None:
    assert draw_paths(dag("a"), 1, random.Random(0)) == ([("a",)], 1)
    assert count_pairs(dag("a")) == 0


def test_isolated_node_is_path() -> None:
    assert draw_paths(dag("a b c", "a>c"), 9, random.Random(0)) == ([("a", "c"), ("b",)], 2)


@given(composition=dags())
def test_longest_path_matches_networkx(
    composition: Composition,
) -> None:
    """Ties are broken by document order, from the end of the path backwards."""
    graph = nx.DiGraph(composition.links)
    graph.add_nodes_from(composition.by_id)
    position = {node.id: i for i, node in enumerate(composition.nodes)}

    def ending_in(at: str) -> list[tuple[str, ...]]:
        parents = composition.parents[at]
        if not parents:
            return [(at,)]
        return [(*path, at) for parent in parents for path in ending_in(parent)]

    for at in composition.by_id:
        longest = longest_path(composition, at)
        upstream = graph.subgraph({at, *composition.ancestors(at)})
        assert len(longest) == nx.dag_longest_path_length(upstream) + 1
        ties = [path for path in ending_in(at) if len(path) == len(longest)]
        assert longest == min(ties, key=lambda path: [position[node] for node in reversed(path)])


@pytest.mark.parametrize(
    ("nodes", "links", "expected"),
    [
        ("a b z", "a>z b>z", "az"),
        ("b a z", "a>z b>z", "bz"),
        ("a b c z", "a>z b>c c>z", "bcz"),
        ("a b c d z", "a>d b>c d>z c>z", "bcz"),
    ],
)
def test_longest_path_ties_by_hand(nodes: str, links: str, expected: str) -> None:
    assert longest_path(dag(nodes, links), "z") == tuple(expected)


@given(composition=dags(), newest=st.integers(1, 4))
def test_newest_nodes_are_end_of_longest_path(composition: Composition, newest: int) -> None:
    newest_of = longest_paths(composition, newest)
    for at in composition.by_id:
        assert newest_of(at) == longest_path(composition, at)[-newest:]


def test_long_chain_does_not_exceed_recursion_limit() -> None:
    composition = chain(50_000)
    paths, total = draw_paths(composition, 1, random.Random(0))
    assert total == 1
    assert paths == [composition.order] == [longest_path(composition, "49999")]
