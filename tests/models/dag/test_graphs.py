from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dagrec.data.compositions import Composition
from dagrec.data.examples import Context, context_at
from dagrec.data.vocabulary import FIRST, UNKNOWN
from dagrec.errors import DataError
from dagrec.graph.upstream import Upstream, Upstreams
from dagrec.models.dag.attention import Looks, PairAttention, with_self
from dagrec.models.dag.graphs import (
    GlobalUnits,
    GraphInputs,
    Readout,
    UpstreamUnits,
    mean_over,
    softmax_over,
)
from dagrec.models.registry import create
from tests.data.dags import dag, dags
from tests.models.dag.laid_out import (
    VOCABULARY,
    close,
    global_inputs,
    inputs_of,
    keys_of,
    own_generator,
    random_dag,
    upstream,
    whole,
)
from tests.worlds import everything

DIAMOND = dag("a b c e d", "a>b b>d a>c c>e e>d")
SEVERAL = [
    upstream(DIAMOND, "d"),
    upstream(DIAMOND, "a"),
    upstream(random_dag(9, 1), "i"),
    whole(random_dag(12, 2, 0.1)),
    Upstream(("x", "x", "y"), ((), (0,), (1,)), ("k", "nobody")),
    Upstream(("z",), ((),), ("k",)),
]


@pytest.fixture(autouse=True)
def _own_generator() -> object:
    with own_generator():
        yield


# How DAGs are laid out


def check_order(inputs: GraphInputs) -> None:
    """What networks rely on."""
    levels = inputs.levels.tolist()
    assert levels == sorted(levels)
    assert list(inputs.level_sizes) == np.bincount(levels).tolist()
    assert sum(inputs.link_sizes) == len(inputs.sources) == len(inputs.targets)
    assert len(inputs.link_sizes) == len(inputs.level_sizes)
    assert inputs.link_sizes[0] == 0
    into = inputs.levels[inputs.targets].tolist()
    assert into == sorted(into)
    assert list(inputs.link_sizes) == np.bincount(into, minlength=len(inputs.level_sizes)).tolist()
    assert (inputs.levels[inputs.sources] < inputs.levels[inputs.targets]).all()
    assert (inputs.graph[inputs.ancestors] == inputs.graph[inputs.descendants]).all()
    near = inputs.distances == 1
    assert torch.equal(inputs.ancestors[near], inputs.sources)
    assert torch.equal(inputs.descendants[near], inputs.targets)


def test_nodes_and_links_stand_by_level() -> None:
    check_order(inputs_of(*SEVERAL))
    check_order(inputs_of(*SEVERAL[::-1]))
    check_order(global_inputs(random_dag(12, 3), "a", "l"))


@given(st.lists(dags(most=5), min_size=1, max_size=4))
def test_nodes_and_links_of_any_dags_stand_by_level(compositions: list[Composition]) -> None:
    check_order(inputs_of(*map(whole, compositions)))


def parts(inputs: GraphInputs, graph: int) -> tuple[object, ...]:
    """One DAG of a batch, with places counted within it."""
    own = (inputs.graph == graph).nonzero().flatten()
    place = {node: i for i, node in enumerate(own.tolist())}
    pairs = [
        (place[a], place[d], n)
        for a, d, n in zip(
            inputs.ancestors.tolist(),
            inputs.descendants.tolist(),
            inputs.distances.tolist(),
            strict=True,
        )
        if a in place
    ]
    links = zip(inputs.sources.tolist(), inputs.targets.tolist(), strict=True)
    return (
        inputs.nodes[own].tolist(),
        inputs.levels[own].tolist(),
        inputs.hops[own].tolist(),
        pairs,
        [(place[a], place[b]) for a, b in links if a in place],
        [place[node] for node in inputs.frontiers.tolist() if node in place],
        inputs.children[inputs.child_rows == graph].tolist(),
    )


@given(st.permutations(range(len(SEVERAL))))
def test_a_batch_holds_each_dag_as_it_stands_alone(order: list[int]) -> None:
    units = UpstreamUnits(Upstreams.of(SEVERAL, VOCABULARY))
    inputs, answered = units.take(np.array(order))
    assert answered.tolist() == order
    for row, unit in enumerate(order):
        alone, _ = units.take(np.array([unit]))
        single = inputs_of(SEVERAL[unit])
        assert parts(inputs, row) == parts(alone, 0) == parts(single, 0)


def test_sizes_are_nodes_and_a_unit_may_be_taken_twice() -> None:
    units = UpstreamUnits(Upstreams.of(SEVERAL, VOCABULARY))
    assert units.sizes.tolist() == [len(one.keys) for one in SEVERAL]
    inputs, _ = units.take(np.array([2, 2]))
    assert parts(inputs, 0) == parts(inputs, 1)


def test_hops_are_the_fewest_links_to_the_frontier() -> None:
    inputs = inputs_of(upstream(DIAMOND, "d"), upstream(DIAMOND, "e"))
    found = list(zip(keys_of(inputs), inputs.graph.tolist(), inputs.hops.tolist(), strict=True))
    assert {key: n for key, graph, n in found if graph == 0} == {"a": 2, "b": 1, "c": 2, "e": 1, "d": 0}
    assert {key: n for key, graph, n in found if graph == 1} == {"a": 2, "c": 1, "e": 0}
    assert [keys_of(inputs)[place] for place in inputs.frontiers.tolist()] == ["d", "e"]


def test_children_stand_beside_their_question() -> None:
    inputs = inputs_of(SEVERAL[4], SEVERAL[0], SEVERAL[5])
    assert inputs.children.tolist() == [VOCABULARY.ids["k"], UNKNOWN, VOCABULARY.ids["k"]]
    assert inputs.child_rows.tolist() == [0, 0, 2]


def test_the_global_graph_is_read_once_and_asked_at_last_nodes() -> None:
    composition = random_dag(12, 3)
    inputs = global_inputs(composition, "l", "a", "l", "nobody")
    keys = keys_of(inputs)
    assert sorted(inputs.nodes.tolist()) == list(range(UNKNOWN, len(VOCABULARY)))
    assert [keys[place] for place in inputs.frontiers.tolist()] == ["l", "a", "l", ""]
    assert not inputs.hops.any()
    assert not inputs.graph.any()
    links = {(keys[a], keys[b]) for a, b in zip(inputs.sources, inputs.targets, strict=True)}
    assert links == set(composition.links)


def test_global_units_answer_the_contexts_that_are_taken() -> None:
    graph = everything().data.graph
    contexts = [Context((key,), children=()) for key in ("hub", "table_a", "nobody")]
    units = GlobalUnits(graph.dag, Upstreams.of([Upstream.of(c) for c in contexts], graph.vocabulary))
    assert units.sizes.tolist() == [1, 1, 1]
    inputs, answered = units.take(np.array([2, 0]))
    assert answered.tolist() == [2, 0]
    assert inputs.nodes[inputs.frontiers].tolist() == [UNKNOWN, graph.vocabulary.ids["hub"]]
    assert (inputs.nodes >= UNKNOWN).all()
    assert len(inputs.nodes) == len(graph.vocabulary) - FIRST + 1


# What recommenders tell apart


def test_upstream_recommenders_tell_dags_apart_and_global_ones_last_nodes() -> None:
    near = context_at(dag("a b c", "a>b b>c"), "c")
    far = context_at(dag("a b c", "a>b b>c a>c"), "c")
    fed = context_at(dag("a b c d", "a>b b>c c>d"), "c")
    cases: list[tuple[dict[str, object], tuple[bool, bool]]] = [
        ({}, (False, False)),
        ({"children": False}, (False, True)),
        ({"graph": "global"}, (True, False)),
        ({"graph": "global", "children": False}, (True, True)),
    ]
    for options, equal in cases:
        model = create("dagnn", options)
        assert (model.key(near) == model.key(far), model.key(near) == model.key(fed)) == equal  # type: ignore[attr-defined]


# Operations


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    size = draw(st.integers(1, 5))
    groups = draw(st.lists(st.integers(0, size - 1), max_size=12))
    heads = draw(st.integers(1, 3))
    values = torch.randn(len(groups), heads, generator=torch.Generator().manual_seed(len(groups)))
    return values * draw(st.sampled_from([1.0, 100.0])), torch.tensor(groups, dtype=torch.int64), size


@given(grouped())
def test_softmax_of_each_group_is_that_of_torch(drawn: tuple[Tensor, Tensor, int]) -> None:
    logits, groups, size = drawn
    found = softmax_over(logits, groups, size)
    assert found.shape == logits.shape
    for group in range(size):
        assert close(found[groups == group], logits[groups == group].softmax(dim=0), 1e-6)
    assert torch.equal(softmax_over(logits[:, 0], groups, size), found[:, 0])


def test_softmax_of_groups_has_the_gradient_of_torch() -> None:
    logits = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([2, 0, 2, 2, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda x: softmax_over(x, groups, 4), (logits,))


@given(grouped())
def test_means_of_each_group_and_0_for_an_empty_one(drawn: tuple[Tensor, Tensor, int]) -> None:
    values, groups, size = drawn
    found = mean_over(values, groups, size)
    for group in range(size):
        own = values[groups == group]
        assert close(found[group], own.mean(dim=0) if len(own) else torch.zeros(values.shape[1]))


def test_readout_adds_the_children_to_the_frontier() -> None:
    inputs = inputs_of(*SEVERAL)
    readout, h = Readout(len(VOCABULARY), 3), torch.randn(len(inputs.nodes), 3)
    assert torch.equal(readout(h, inputs), h[inputs.frontiers])  # it starts at 0
    with torch.no_grad():
        readout.beside.weight.normal_()
    found = readout(h, inputs) - h[inputs.frontiers]
    child, unknown = readout.beside.weight[[VOCABULARY.ids["k"], UNKNOWN]]
    assert close(found, torch.stack([*[0 * child] * 4, child + unknown, child]))


def test_readout_takes_states_of_half_precision() -> None:
    """As they come out of a linear layer under autocast, while embeddings stay as they are."""
    inputs = inputs_of(*SEVERAL)
    h = torch.randn(len(inputs.nodes), 3).bfloat16()
    assert Readout(len(VOCABULARY), 3)(h, inputs).shape == (len(SEVERAL), 3)


# Attention over pairs


def test_attention_over_all_pairs_is_that_of_torch() -> None:
    width, heads, n = 8, 2, 5
    attend, bare = PairAttention(width, heads).eval(), torch.nn.MultiheadAttention(width, heads)
    with torch.no_grad():
        bare.in_proj_weight.copy_(
            torch.cat([attend.query.weight, attend.key.weight, attend.value.weight])
        )
        bare.in_proj_bias.copy_(torch.cat([attend.query.bias, attend.key.bias, attend.value.bias]))
        bare.out_proj.weight.copy_(attend.out.weight)
        bare.out_proj.bias.copy_(attend.out.bias)
    h, bias = torch.randn(n, width), torch.randn(n * n, heads)
    queries, keys = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
    expected, expected_weights = bare(
        h, h, h, attn_mask=bias.t().reshape(heads, n, n), average_attn_weights=False
    )
    found, weights = attend(h, queries, keys, bias)
    assert close(found, expected)
    assert close(weights.t().reshape(heads, n, n), expected_weights)


def test_attention_reaches_listed_pairs_alone() -> None:
    attend = PairAttention(4, 2).eval()
    h = torch.randn(4, 4, requires_grad=True)
    queries, keys = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 1])
    out, weights = attend(h, queries, keys)
    assert close(weights[:2].sum(dim=0), torch.ones(2))
    assert close(weights[2], torch.ones(2))
    assert torch.equal(out[3], attend.out.bias)  # it has no pairs
    for query, seen in [(0, [0, 1, 2]), (1, [1]), (2, []), (3, [])]:
        (moved,) = torch.autograd.grad(out[query].sum(), h, retain_graph=True)
        assert moved.ne(0).any(dim=1).nonzero().flatten().tolist() == seen


def test_attention_is_dropped_in_training_alone() -> None:
    attend, h = PairAttention(4, 2, dropout=0.5), torch.randn(6, 4)
    queries, keys = with_self(torch.tensor([0, 1]), torch.tensor([2, 3]), 6)
    first, weights = attend(h, queries, keys)
    second, again = attend(h, queries, keys)
    assert (first != second).any()
    assert torch.equal(weights, again)
    attend.eval()
    assert torch.equal(attend(h, queries, keys)[0], attend(h, queries, keys)[0])


def test_with_self_adds_each_node() -> None:
    queries, keys = with_self(torch.tensor([2]), torch.tensor([0]), 3)
    assert list(zip(queries.tolist(), keys.tolist(), strict=True)) == [(2, 0), (0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("name", ["dagnn", "deepdag"])
def test_attention_of_a_context_has_its_nodes_in_the_order_read(name: str) -> None:

    model = create(name, {"epochs": 1, "width": 4})
    with pytest.raises(Exception, match="fit"):
        model.attention(Context(("table_d",)))  # type: ignore[attr-defined]
    world = everything()
    model.fit(world.data)
    composition = next(c for c in world.compositions if c.id == "diamond")
    found = model.attention(context_at(composition, "report"))  # type: ignore[attr-defined]
    assert found.nodes[:2] == ("table_d", "split")
    assert set(found.nodes[2:4]) == {"left", "right"}
    assert found.nodes[4:] == ("merge", "report")
    assert found.weights.shape[0] == 2
    assert found.weights.shape[2:] == (6, 6)
    assert found.weights.dtype == np.float32
    sums = found.weights.sum(axis=3)
    assert ((abs(sums - 1) < 1e-6) | (sums == 0)).all()
    ancestors = [*(composition.ancestors(node) for node in found.nodes)]
    for i, above in enumerate(ancestors):
        for j, node in enumerate(found.nodes):
            if node not in (*above, found.nodes[i]):
                assert not found.weights[:, :, i, j].any()
    with pytest.raises(DataError, match="empty"):
        model.attention(Context(()))  # type: ignore[attr-defined]
    assert Looks._fields == ("queries", "keys", "weights")
