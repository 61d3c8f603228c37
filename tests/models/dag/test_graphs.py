from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dagrec.data.compositions import Composition
from dagrec.data.examples import Context, context_at
from dagrec.data.vocabulary import FIRST_SERVICE, UNKNOWN
from dagrec.errors import DataError
from dagrec.graph.upstream import Upstream, Upstreams
from dagrec.models.dag.attention import PairAttention, with_self
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
from tests.models.dag.layout import (
    VOCABULARY,
    all_nodes,
    assert_close,
    global_inputs,
    inputs_of,
    keys_of,
    random_dag,
    upstream,
)
from tests.worlds import everything

DIAMOND = dag("a b c e d", "a>b b>d a>c c>e e>d")
SEVERAL_DAGS = [
    upstream(DIAMOND, "d"),
    upstream(DIAMOND, "a"),
    upstream(random_dag(9, 1), "i"),
    all_nodes(random_dag(12, 2, 0.1)),
    Upstream(("x", "x", "y"), ((), (0,), (1,)), ("k", "nobody")),
    Upstream(("z",), ((),), ("k",)),
]


# Inputs


def check_order(inputs: GraphInputs) -> None:
    """Check the order of nodes and links that networks rely on."""
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


def test_inputs_are_sorted_by_level() -> None:
    check_order(inputs_of(*SEVERAL_DAGS))
    check_order(inputs_of(*SEVERAL_DAGS[::-1]))
    check_order(global_inputs(random_dag(12, 3), "a", "l"))


@given(st.lists(dags(max_nodes=5), min_size=1, max_size=4))
def test_inputs_of_random_dags_are_sorted_by_level(compositions: list[Composition]) -> None:
    check_order(inputs_of(*map(all_nodes, compositions)))


def parts(inputs: GraphInputs, graph: int) -> tuple[object, ...]:
    """Return the parts of one DAG of a batch, with node indices within that DAG."""
    nodes = (inputs.graph == graph).nonzero().flatten()
    index_of = {node: i for i, node in enumerate(nodes.tolist())}
    pairs = [
        (index_of[a], index_of[d], n)
        for a, d, n in zip(
            inputs.ancestors.tolist(),
            inputs.descendants.tolist(),
            inputs.distances.tolist(),
            strict=True,
        )
        if a in index_of
    ]
    links = zip(inputs.sources.tolist(), inputs.targets.tolist(), strict=True)
    return (
        inputs.nodes[nodes].tolist(),
        inputs.levels[nodes].tolist(),
        inputs.hops[nodes].tolist(),
        pairs,
        [(index_of[a], index_of[b]) for a, b in links if a in index_of],
        [index_of[node] for node in inputs.frontiers.tolist() if node in index_of],
        inputs.children[inputs.child_rows == graph].tolist(),
    )


@given(st.permutations(range(len(SEVERAL_DAGS))))
def test_batch_contains_each_dag_unchanged(order: list[int]) -> None:
    units = UpstreamUnits(Upstreams.of(SEVERAL_DAGS, VOCABULARY))
    inputs, context_rows = units.take(np.array(order))
    assert context_rows.tolist() == order
    for row, unit in enumerate(order):
        taken, _ = units.take(np.array([unit]))
        single = inputs_of(SEVERAL_DAGS[unit])
        assert parts(inputs, row) == parts(taken, 0) == parts(single, 0)


def test_sizes_are_node_counts_and_units_may_repeat() -> None:
    units = UpstreamUnits(Upstreams.of(SEVERAL_DAGS, VOCABULARY))
    assert units.sizes.tolist() == [len(one.keys) for one in SEVERAL_DAGS]
    inputs, _ = units.take(np.array([2, 2]))
    assert parts(inputs, 0) == parts(inputs, 1)


def test_hops_are_shortest_distances_to_frontier() -> None:
    inputs = inputs_of(upstream(DIAMOND, "d"), upstream(DIAMOND, "e"))
    hops = list(zip(keys_of(inputs), inputs.graph.tolist(), inputs.hops.tolist(), strict=True))
    assert {key: n for key, graph, n in hops if graph == 0} == {"a": 2, "b": 1, "c": 2, "e": 1, "d": 0}
    assert {key: n for key, graph, n in hops if graph == 1} == {"a": 2, "c": 1, "e": 0}
    assert [keys_of(inputs)[index] for index in inputs.frontiers.tolist()] == ["d", "e"]


def test_child_rows_refer_to_contexts() -> None:
    inputs = inputs_of(SEVERAL_DAGS[4], SEVERAL_DAGS[0], SEVERAL_DAGS[5])
    assert inputs.children.tolist() == [VOCABULARY.ids["k"], UNKNOWN, VOCABULARY.ids["k"]]
    assert inputs.child_rows.tolist() == [0, 0, 2]


def test_global_inputs_share_one_graph() -> None:
    composition = random_dag(12, 3)
    inputs = global_inputs(composition, "l", "a", "l", "nobody")
    keys = keys_of(inputs)
    assert sorted(inputs.nodes.tolist()) == list(range(UNKNOWN, len(VOCABULARY)))
    assert [keys[index] for index in inputs.frontiers.tolist()] == ["l", "a", "l", ""]
    assert not inputs.hops.any()
    assert not inputs.graph.any()
    links = {(keys[a], keys[b]) for a, b in zip(inputs.sources, inputs.targets, strict=True)}
    assert links == set(composition.links)


def test_global_units_return_selected_contexts() -> None:
    graph = everything().data.graph
    contexts = [Context((key,), children=()) for key in ("hub", "table_a", "nobody")]
    units = GlobalUnits(graph.dag, Upstreams.of([Upstream.of(c) for c in contexts], graph.vocabulary))
    assert units.sizes.tolist() == [1, 1, 1]
    inputs, context_rows = units.take(np.array([2, 0]))
    assert context_rows.tolist() == [2, 0]
    assert inputs.nodes[inputs.frontiers].tolist() == [UNKNOWN, graph.vocabulary.ids["hub"]]
    assert (inputs.nodes >= UNKNOWN).all()
    assert len(inputs.nodes) == len(graph.vocabulary) - FIRST_SERVICE + 1


# Keys


def test_keys_depend_on_graph_and_children_options() -> None:
    chain = context_at(dag("a b c", "a>b b>c"), "c")
    skip = context_at(dag("a b c", "a>b b>c a>c"), "c")
    with_child = context_at(dag("a b c d", "a>b b>c c>d"), "c")
    cases: list[tuple[dict[str, object], tuple[bool, bool]]] = [
        ({}, (False, False)),
        ({"children": False}, (False, True)),
        ({"graph": "global"}, (True, False)),
        ({"graph": "global", "children": False}, (True, True)),
    ]
    for options, equal in cases:
        model = create("dagnn", options)
        assert (model.key(chain) == model.key(skip), model.key(chain) == model.key(with_child)) == equal  # type: ignore[attr-defined]


# Operations


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    size = draw(st.integers(1, 5))
    groups = draw(st.lists(st.integers(0, size - 1), max_size=12))
    heads = draw(st.integers(1, 3))
    values = torch.randn(len(groups), heads, generator=torch.Generator().manual_seed(len(groups)))
    return values * draw(st.sampled_from([1.0, 100.0])), torch.tensor(groups, dtype=torch.int64), size


@given(grouped())
def test_softmax_over_matches_torch(values_and_groups: tuple[Tensor, Tensor, int]) -> None:
    logits, groups, size = values_and_groups
    weights = softmax_over(logits, groups, size)
    assert weights.shape == logits.shape
    for group in range(size):
        assert_close(weights[groups == group], logits[groups == group].softmax(dim=0), 1e-6)
    assert torch.equal(softmax_over(logits[:, 0], groups, size), weights[:, 0])


def test_softmax_over_has_correct_gradient() -> None:
    logits = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([2, 0, 2, 2, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda x: softmax_over(x, groups, 4), (logits,))


@given(grouped())
def test_mean_over_is_0_for_empty_group(values_and_groups: tuple[Tensor, Tensor, int]) -> None:
    values, groups, size = values_and_groups
    means = mean_over(values, groups, size)
    for group in range(size):
        group_values = values[groups == group]
        assert_close(
            means[group],
            group_values.mean(dim=0) if len(group_values) else torch.zeros(values.shape[1]),
        )


def test_readout_adds_children_to_frontier() -> None:
    inputs = inputs_of(*SEVERAL_DAGS)
    readout, h = Readout(len(VOCABULARY), 3), torch.randn(len(inputs.nodes), 3)
    assert torch.equal(readout(h, inputs), h[inputs.frontiers])  # B is initially 0
    with torch.no_grad():
        readout.embed_children.weight.normal_()
    added = readout(h, inputs) - h[inputs.frontiers]
    child, unknown = readout.embed_children.weight[[VOCABULARY.ids["k"], UNKNOWN]]
    assert_close(added, torch.stack([*[0 * child] * 4, child + unknown, child]))


def test_readout_accepts_half_precision() -> None:
    """Under autocast, linear layers return half precision while embeddings keep float32."""
    inputs = inputs_of(*SEVERAL_DAGS)
    h = torch.randn(len(inputs.nodes), 3).bfloat16()
    assert Readout(len(VOCABULARY), 3)(h, inputs).shape == (len(SEVERAL_DAGS), 3)


# Attention over pairs


def test_attention_over_all_pairs_matches_torch() -> None:
    width, heads, n = 8, 2, 5
    attend, reference = PairAttention(width, heads).eval(), torch.nn.MultiheadAttention(width, heads)
    with torch.no_grad():
        reference.in_proj_weight.copy_(
            torch.cat([attend.query.weight, attend.key.weight, attend.value.weight])
        )
        reference.in_proj_bias.copy_(torch.cat([attend.query.bias, attend.key.bias, attend.value.bias]))
        reference.out_proj.weight.copy_(attend.out.weight)
        reference.out_proj.bias.copy_(attend.out.bias)
    h, bias = torch.randn(n, width), torch.randn(n * n, heads)
    queries, keys = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
    expected, expected_weights = reference(
        h, h, h, attn_mask=bias.t().reshape(heads, n, n), average_attn_weights=False
    )
    output, weights = attend(h, queries, keys, bias)
    assert_close(output, expected)
    assert_close(weights.t().reshape(heads, n, n), expected_weights)


def test_attention_is_restricted_to_listed_pairs() -> None:
    attend = PairAttention(4, 2).eval()
    h = torch.randn(4, 4, requires_grad=True)
    queries, keys = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 1])
    out, weights = attend(h, queries, keys)
    assert_close(weights[:2].sum(dim=0), torch.ones(2))
    assert_close(weights[2], torch.ones(2))
    assert torch.equal(out[3], attend.out.bias)  # node 3 has no pairs
    for query, nodes in [(0, [0, 1, 2]), (1, [1]), (2, []), (3, [])]:
        (gradient,) = torch.autograd.grad(out[query].sum(), h, retain_graph=True)
        assert gradient.ne(0).any(dim=1).nonzero().flatten().tolist() == nodes


def test_attention_dropout_is_active_only_in_training() -> None:
    attend, h = PairAttention(4, 2, dropout=0.5), torch.randn(6, 4)
    queries, keys = with_self(torch.tensor([0, 1]), torch.tensor([2, 3]), 6)
    first, weights = attend(h, queries, keys)
    second, again = attend(h, queries, keys)
    assert (first != second).any()
    assert torch.equal(weights, again)
    attend.eval()
    assert torch.equal(attend(h, queries, keys)[0], attend(h, queries, keys)[0])


def test_with_self_adds_pair_of_each_node() -> None:
    queries, keys = with_self(torch.tensor([2]), torch.tensor([0]), 3)
    assert list(zip(queries.tolist(), keys.tolist(), strict=True)) == [(2, 0), (0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("name", ["dagnn", "deepdag"])
def test_context_attention_covers_upstream_nodes_in_order(name: str) -> None:
    model = create(name, {"epochs": 1, "width": 4})
    with pytest.raises(Exception, match="fit"):
        model.attention(Context(("table_d",)))  # type: ignore[attr-defined]
    world = everything()
    model.fit(world.data)
    composition = next(c for c in world.compositions if c.id == "diamond")
    attention = model.attention(context_at(composition, "report"))  # type: ignore[attr-defined]
    assert attention.nodes[:2] == ("table_d", "split")
    assert set(attention.nodes[2:4]) == {"left", "right"}
    assert attention.nodes[4:] == ("merge", "report")
    assert attention.weights.shape[0] == 2
    assert attention.weights.shape[2:] == (6, 6)
    assert attention.weights.dtype == np.float32
    sums = attention.weights.sum(axis=3)
    assert ((abs(sums - 1) < 1e-6) | (sums == 0)).all()
    ancestors = [*(composition.ancestors(node) for node in attention.nodes)]
    for i, node_ancestors in enumerate(ancestors):
        for j, node in enumerate(attention.nodes):
            if node not in (*node_ancestors, attention.nodes[i]):
                assert not attention.weights[:, :, i, j].any()
    with pytest.raises(DataError, match="empty"):
        model.attention(Context(()))  # type: ignore[attr-defined]
