"""Extraction of examples, compared with loops over all paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Node, compose
from dagrec.data.dataset import Dataset, ReadReport
from dagrec.data.examples import (
    MAX_CONTEXT_LENGTH,
    Example,
    ExampleOptions,
    Form,
    context_at,
    extract,
)
from dagrec.data.paths import count_pairs, count_paths, longest_path
from dagrec.errors import DataError
from tests.checks import says
from tests.data.dags import all_paths, chain, dag, dags, diamonds

LINKS = ExampleOptions(form="links")
ALL_PATHS = ExampleOptions(max_paths=10**9)


def data_set(*compositions: Composition, form: Form = "paths") -> Dataset:
    return Dataset.of(compositions, ReadReport(), source="test", form=form)


def pairs(examples: Sequence[Example]) -> list[tuple[tuple[str, ...], str]]:
    return [(example.context.path, example.target) for example in examples]


# ---- form: paths


@given(composition=dags())
def test_paths_form_has_example_for_each_service_on_each_path(composition: Composition) -> None:
    expected = []
    for path in all_paths(composition):
        keys = tuple(composition.by_id[node].key for node in path)
        for i in range(1, len(path)):
            if composition.by_id[path[i]].is_service:
                expected.append((keys[:i], keys[i], path[i - 1], path[i]))
    examples, report = extract([composition], ALL_PATHS)
    assert [(e.context.path, e.target, e.context.at, e.node) for e in examples] == expected
    assert report.pairs == report.examples == len(expected)
    assert report.paths == report.paths_taken == len(all_paths(composition))


def test_service_used_twice_gives_two_examples() -> None:
    composition = dag("t a1:a a2:a", "t>a1 a1>a2")
    assert pairs(extract([composition])[0]) == [(("t",), "a"), (("t", "a"), "a")]


def test_tables_are_never_targets() -> None:
    assert pairs(extract([dag("a t b", "a>t t>b")])[0]) == [(("a", "t"), "b")]


def test_examples_have_composition_owner_and_time() -> None:
    first = dag("a b", "a>b", owner="ann", time=5.0)
    node = replace(first.nodes[1], time=9.0)
    second = compose("second", [first.nodes[0], node], first.links, owner="bob", time=7.0)[0]
    one, two = extract([first, second])[0]
    assert (one.composition, one.context.composition, one.context.owner) == (0, first, "ann")
    assert (two.composition, two.context.composition, two.context.owner) == (1, second, "bob")
    # The time is that of the target node, or else that of the composition.
    assert (one.context.time, two.context.time) == (5.0, 9.0)


def test_event_identifies_call_and_requires_node_time() -> None:
    first = dag("a b", "a>b", owner="ann", time=5.0)
    timed = compose(
        "timed", [replace(node, time=9.0) for node in first.nodes], first.links, owner="ann"
    )[0]
    plain, one, same = extract([first, timed, replace(timed, id="other")])[0]
    assert plain.event is None
    assert one.event == same.event == ("ann", "b", "b", 9.0)


# ---- form: links


@given(composition=dags())
def test_links_form_has_example_for_each_link_to_service(composition: Composition) -> None:
    expected = []
    for source, target in composition.links:
        if composition.by_id[target].is_service:
            path = longest_path(composition, source)
            keys = tuple(composition.by_id[node].key for node in path)
            expected.append((keys, composition.by_id[target].key, source, target))
    examples, report = extract([composition], LINKS)
    assert [(e.context.path, e.target, e.context.at, e.node) for e in examples] == expected
    assert report.examples == len(expected)


def test_number_of_links_form_examples_does_not_depend_on_number_of_paths() -> None:
    composition = diamonds(60)
    examples, report = extract([composition], LINKS)
    assert len(examples) == len(composition.links) == 4 * 60
    assert report.paths == 2**60


# ---- contexts


@given(composition=dags(), form=st.sampled_from(["paths", "links"]))
def test_contexts_exclude_descendants(composition: Composition, form: str) -> None:
    graph = nx.DiGraph(composition.links)
    graph.add_nodes_from(composition.by_id)
    for example in extract([composition], ExampleOptions(form=form, max_paths=10**9))[0]:
        at = example.context.at
        assert at is not None
        upstream = example.context.upstream()
        assert set(upstream) == nx.ancestors(graph, at) | {at}
        assert upstream[-1] == at
        assert not set(upstream) & (nx.descendants(graph, at) | {example.node})
        assert set(example.context.path) <= {composition.by_id[node].key for node in upstream}
        assert (at, example.node) in composition.links


@given(composition=dags())
def test_context_at_has_longest_path_to_node(composition: Composition) -> None:
    for at in composition.by_id:
        context = context_at(composition, at)
        keys = [composition.by_id[node].key for node in longest_path(composition, at)]
        assert (list(context.path), context.at, context.composition) == (keys, at, composition)


def test_context_without_composition_has_no_upstream() -> None:
    context = context_at(dag("a b", "a>b"), "b")
    assert context.upstream() == ("a", "b")
    assert replace(context, composition=None, at=None).upstream() == ()


@pytest.mark.parametrize("form", ["paths", "links"])
@pytest.mark.parametrize("excess", [-1, 0, 1, 2])
def test_long_context_keeps_newest_nodes_and_is_counted(form: str, excess: int) -> None:
    """A chain of n nodes has contexts of 1 to n - 1 nodes; those beyond the limit are cut."""
    length = MAX_CONTEXT_LENGTH + 1 + excess
    composition = chain(length)
    examples, report = extract([composition], ExampleOptions(form=form))
    assert report.shortened == max(excess, 0)
    newest = tuple(f"service_{i}" for i in range(max(excess, 0), length - 1))
    assert examples[-1].context.path == newest
    assert [len(e.context.path) for e in examples] == [
        min(i, MAX_CONTEXT_LENGTH) for i in range(1, length)
    ]


# ---- counting


def test_count_once_keeps_first_of_equal_pairs() -> None:
    composition = dag("t a1:a a2:a b", "t>a1 t>a2 a1>b a2>b")
    first, second = (("t",), "a"), (("t", "a"), "b")
    assert pairs(extract([composition])[0]) == [first, second, first, second]
    once, report = extract([composition] * 2, ExampleOptions(count="once"))
    assert pairs(once) == [first, second] * 2
    assert [e.node for e in once] == ["a1", "b"] * 2
    assert (report.pairs, report.examples) == (2 * 4, 2 * 2)


@given(compositions=st.lists(dags(), max_size=3), form=st.sampled_from(["paths", "links"]))
def test_count_once_has_each_pair_of_composition_once(
    compositions: list[Composition], form: str
) -> None:
    every = extract(compositions, ExampleOptions(form=form, max_paths=10**9))[0]
    once = extract(compositions, ExampleOptions(form=form, max_paths=10**9, count="once"))[0]
    counts = Counter((e.composition, visible(e)) for e in once)
    assert set(counts) == {(e.composition, visible(e)) for e in every}
    assert set(counts.values()) <= {1}


def visible(example: Example) -> tuple[object, ...]:
    """Path, upstream graph, existing children and target, by keys alone."""
    context, composition = example.context, example.context.composition
    assert composition is not None

    def upstream(id_: str) -> tuple[object, ...]:
        node = composition.by_id[id_]
        return node.kind, node.key, tuple(sorted(map(upstream, composition.parents[id_]), key=repr))

    assert context.at is not None
    children = tuple(composition.by_id[child].key for child in context.children)
    return context.path, upstream(context.at), children, example.target


def test_count_once_keeps_examples_with_other_existing_children() -> None:
    nodes = [Node("1", "a"), Node("2", "b"), Node("3", "c"), Node("4", "b")]
    composition, _ = compose("x", nodes, [("1", "2"), ("1", "3"), ("1", "4")])
    options = ExampleOptions(form="links", count="once")
    assert [e.target for e in extract([composition], options)[0]] == ["b", "c", "b"]


# ---- sampling


def test_paths_beyond_max_paths_are_sampled_and_reported() -> None:
    small, large = dag("a b", "a>b"), diamonds(10)
    examples, report = extract([small, large], ExampleOptions(max_paths=7))
    assert report.paths == 1 + 2**10
    assert (report.paths_taken, report.sampled_compositions) == (1 + 7, 1)
    assert report.pairs == 1 + count_pairs(large)
    assert len(examples) == report.examples == 1 + 7 * 2 * 10


def test_path_sample_depends_on_seed() -> None:
    compositions = [diamonds(10), diamonds(12)]

    def sample(seed: int) -> list[tuple[tuple[str, ...], str]]:
        return pairs(extract(compositions, ExampleOptions(max_paths=5, seed=seed))[0])

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_equal_compositions_are_sampled_independently() -> None:
    first, second = (
        {
            e.context.path
            for e in extract([diamonds(20)] * 2, ExampleOptions(max_paths=5))[0]
            if e.composition == i
        }
        for i in (0, 1)
    )
    assert first != second


# ---- no examples


@pytest.mark.parametrize("composition", [dag("a"), dag("a b"), dag("a t", "a>t")])
def test_data_without_examples_are_rejected(composition: Composition) -> None:
    assert extract([composition])[0] == ()
    with pytest.raises(DataError) as error:
        data_set(composition).examples()
    assert error.value.rule == "no-examples"
    assert says(error, "a service follows a node", "found none among 1", "`dagrec inspect`")


@pytest.mark.parametrize("form", ["paths", "links"])
def test_examples_have_form_of_options_or_data(form: Form) -> None:
    data = data_set(dag("a b c", "a>b b>c a>c"), form=form)
    assert data.examples() == extract(data.compositions, ExampleOptions(form=form))
    assert data.examples()[1].form == form
    for other in ("paths", "links"):
        options = ExampleOptions(form=other)
        assert data.examples(options) == extract(data.compositions, options)


# ---- real and bundled data


def test_bundled_compositions_have_documented_counts(bundled: Sequence[Composition]) -> None:
    examples, report = extract(bundled)
    assert len(bundled) == 900
    assert report.paths == sum(map(count_paths, bundled)) == 1171
    assert report.pairs == len(examples) == 1791


def test_geoportal_has_published_counts(geoportal: Sequence[Composition]) -> None:
    examples, report = extract(geoportal)
    nodes = {node.key for c in geoportal for node in c.nodes}
    links = {tuple(c.by_id[end].key for end in link) for c in geoportal for link in c.links}
    assert len(geoportal) == 943
    assert report.paths == 943
    assert report.pairs == len(examples) == 1016
    assert len({e.target for e in examples}) == 15
    assert (len(nodes), len(links)) == (50, 97)
    assert len({e.context.path for e in examples}) == 51
    assert len(set(pairs(examples))) == 109


def test_steps_of_path_contexts_are_links(bundled: Sequence[Composition]) -> None:
    for example in extract(bundled)[0]:
        composition = example.context.composition
        assert composition is not None
        links = {(composition.by_id[a].key, composition.by_id[b].key) for a, b in composition.links}
        assert set(pairwise((*example.context.path, example.target))) <= links


def test_links_form_has_earlier_children_of_source() -> None:
    """The children before the target in document order, including tables."""
    nodes = [Node(id_, id_, "table" if id_ == "t" else "service") for id_ in "abtcd"]
    links = [("a", "b"), ("a", "t"), ("b", "d"), ("a", "c"), ("a", "d")]
    composition, _ = compose("c", nodes, links)
    examples, _ = extract([composition], ExampleOptions(form="links"))
    children = {(e.context.at, e.node): e.context.children for e in examples}
    assert children == {
        ("a", "b"): (),
        ("b", "d"): (),
        ("a", "c"): ("b", "t"),
        ("a", "d"): ("b", "t", "c"),
    }
    assert context_at(composition, "a").children == ("b", "t", "c", "d")
