from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrec.data.examples import context_at
from dagrec.errors import ConfigError
from dagrec.graph.upstream import Upstream
from dagrec.models.dag.deepdag import DeepDAG, DeepDAGConfig, DeepDAGNetwork, Layer
from dagrec.models.dag.graphs import GraphInputs
from dagrec.models.registry import create
from tests.data.dags import dag
from tests.models.dag.layout import (
    VOCABULARY,
    all_nodes,
    ancestors_of,
    assert_batch_equals_single,
    assert_close,
    assert_dropout_only_in_training,
    assert_gradient_without_links,
    assert_gradients_match_finite_differences,
    by_key,
    dependencies,
    global_inputs,
    inputs_of,
    random_dag,
    randomise_parameters,
    states_of,
    upstream,
)
from tests.worlds import everything

WIDTH, HEADS = 6, 2
REACHES: list[int | None] = [1, 2, None]
DAGS = [random_dag(11, seed) for seed in range(4)]
DIAMOND = dag("a b c e d", "a>b b>d a>c c>e e>d")


def network(**options: object) -> DeepDAGNetwork:
    config = DeepDAGConfig.model_validate({"width": WIDTH, "layers": 2, "heads": HEADS, **options})
    net = DeepDAGNetwork(config, len(VOCABULARY), len(VOCABULARY.services))
    randomise_parameters(net)
    return net


def node_states(net: DeepDAGNetwork, inputs: GraphInputs) -> Tensor:
    return net.attend(inputs)[0]


def layers(net: DeepDAGNetwork) -> list[Layer]:
    return [layer for layer in net.layers if isinstance(layer, Layer)]


# Formula


@pytest.mark.parametrize("reach", REACHES)
def test_states_match_reference(reach: int | None) -> None:
    """The reference is torch's attention with a mask."""
    net = network(reach=reach, depths=4)
    for composition in DAGS:
        inputs = inputs_of(all_nodes(composition))
        n = len(inputs.nodes)
        allowed = torch.eye(n, dtype=torch.bool)
        near = inputs.distances <= (n if reach is None else reach)
        allowed[inputs.descendants[near], inputs.ancestors[near]] = True
        differences = (inputs.levels[:, None] - inputs.levels).clamp(min=0, max=3)
        h = net.embed(inputs.nodes) + net.depth[inputs.levels.clamp(max=3)]
        for layer in layers(net):
            ours = layer.attend
            reference = nn.MultiheadAttention(WIDTH, HEADS)
            with torch.no_grad():
                parts = (ours.query, ours.key, ours.value)
                reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
                reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
                reference.out_proj.load_state_dict(ours.out.state_dict())
            bias = layer.depth_bias[differences].permute(2, 0, 1).masked_fill(~allowed, -torch.inf)
            attended, _ = reference(h, h, h, attn_mask=bias)
            h = layer.norm_attention(h + attended)
            h = layer.norm_feed(h + layer.feed(h))
        assert_close(node_states(net, inputs), h)


def test_source_attends_only_to_itself() -> None:
    net, inputs = network(), inputs_of(all_nodes(DAGS[0]))
    _, pairs = net.attend(inputs)
    sources = inputs.levels[pairs.queries] == 0
    for weights in pairs.weights:
        assert torch.equal(weights[sources], torch.ones(int(sources.sum()), HEADS))
    assert torch.equal(pairs.keys[sources], pairs.queries[sources])


@pytest.mark.parametrize("reach", REACHES)
def test_attention_rows_sum_to_1_within_reach(reach: int | None) -> None:
    model = create("deepdag", {"epochs": 1, "width": 4, "reach": reach})
    assert isinstance(model, DeepDAG)
    model.fit(everything().data)
    for composition in DAGS:
        attention = model.attention(context_at(composition, "k"))
        assert attention.weights.shape[:2] == (2, HEADS)
        np.testing.assert_allclose(attention.weights.sum(axis=3), 1, atol=1e-6)
        dag_upstream = Upstream.of(context_at(composition, "k"))
        distances = {
            key: {dag_upstream.keys[a]: n for a, n in node_distances.items()}
            for key, node_distances in zip(dag_upstream.keys, dag_upstream.distances, strict=True)
        }
        for i, node in enumerate(attention.nodes):
            max_distance = len(composition.nodes) if reach is None else reach
            allowed = {node} | {other for other, n in distances[node].items() if n <= max_distance}
            attended = {
                attention.nodes[j] for j in attention.weights[:, :, i].min(axis=(0, 1)).nonzero()[0]
            }
            assert attended == allowed


# Depths


def test_depth_is_length_of_longest_path() -> None:
    """The last node of the diamond has depth 3, although a shorter path leads to it."""
    net = network()
    inputs = inputs_of(upstream(DIAMOND, "d"))
    net(inputs).sum().backward()
    assert net.depth.grad is not None
    assert net.depth.grad.ne(0).any(dim=1).nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_large_depths_share_last_embedding() -> None:
    """Nodes with equal inputs differ only by their depth embeddings."""
    composition = dag("a b c d e f", "a>b b>c c>d d>e e>f")
    for depths, different in ((16, 6), (3, 3), (1, 1)):
        net = network(depths=depths)
        with torch.no_grad():
            net.embed.weight.fill_(1.0)
            for layer in layers(net):
                layer.attend.out.weight.zero_()
        h = node_states(net, inputs_of(all_nodes(composition)))
        assert len(torch.unique(h.detach().round(decimals=4), dim=0)) == different


def test_depth_bias_changes_attention() -> None:
    net = network(reach=None, layers=1)
    inputs = inputs_of(upstream(DIAMOND, "d"))
    with torch.no_grad():
        layers(net)[0].depth_bias[2] += 50
    _, pairs = net.attend(inputs)
    of_frontier = pairs.queries == inputs.frontiers[0]
    assert of_frontier.sum() == 5
    two_up = inputs.levels[pairs.keys[of_frontier]] == 1  # b and c, two levels above d
    assert_close(pairs.weights[0][of_frontier][two_up].sum(dim=0), torch.ones(HEADS))


# Dependencies of states


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("reach", [1, 2])
def test_states_depend_on_nodes_within_layers_times_reach(count: int, reach: int) -> None:
    net = network(layers=count, reach=reach)
    inputs = inputs_of(all_nodes(dag("a b c d e f g h", "a>b b>c c>d d>e e>f f>g g>h")))
    keys = dependencies(net, net.embed, inputs, states_of(net))
    for i, key in enumerate("abcdefgh"):
        assert keys[key] == set("abcdefgh"[max(0, i - count * reach) : i + 1])


def test_unlimited_reach_covers_all_ancestors_in_one_layer() -> None:
    net = network(layers=1, reach=None)
    for composition in DAGS:
        ancestors = ancestors_of(composition)
        keys = dependencies(net, net.embed, inputs_of(all_nodes(composition)), states_of(net))
        assert keys == {node: {node} | ancestors[node] for node in composition.by_id}


@pytest.mark.parametrize("reach", REACHES)
def test_batch_equals_single_dags(reach: int | None) -> None:
    dags = [upstream(c, node) for c in DAGS for node in ("c", "h", "k")]
    assert_batch_equals_single(network(reach=reach), [*dags, Upstream(("z",), ((),), ("k", "nobody"))])


@pytest.mark.parametrize("reach", REACHES)
def test_scores_do_not_depend_on_document_order(reach: int | None) -> None:
    net = network(reach=reach)
    one = dag("t u a b c d", "t>a u>b a>c b>c a>d c>d u>d")
    other = dag("d c b a u t", "u>d c>d a>d b>c a>c u>b t>a")
    assert_close(net(inputs_of(upstream(one, "d"))), net(inputs_of(upstream(other, "d"))))


def test_global_graph_states_depend_only_on_ancestors() -> None:
    net, composition = network(reach=None), DAGS[0]
    keys = dependencies(net, net.embed, global_inputs(composition, "a", "k"), states_of(net))
    ancestors = ancestors_of(composition)
    assert all(keys[node] == {node} | ancestors[node] for node in composition.by_id)


def test_children_change_scores_but_not_node_states() -> None:
    net = network()
    without_children, with_children = (
        Upstream(("a", "b"), ((), (0,)), ()),
        Upstream(("a", "b"), ((), (0,)), ("c",)),
    )
    assert not torch.allclose(net(inputs_of(without_children)), net(inputs_of(with_children)))
    assert torch.equal(
        *(
            by_key(i, node_states(net, i))["b"]
            for i in map(inputs_of, (without_children, with_children))
        )
    )


# Training


def test_width_must_be_multiple_of_heads() -> None:
    with pytest.raises(ConfigError, match="width must be a multiple of heads, found 6 and 4"):
        create("deepdag", {"width": 6, "heads": 4})


@pytest.mark.parametrize("reach", REACHES)
def test_gradients_match_finite_differences(reach: int | None) -> None:
    assert_gradients_match_finite_differences(
        network(reach=reach).double(), inputs_of(upstream(DIAMOND, "d"))
    )


def test_all_parameters_have_gradient_without_links() -> None:
    assert_gradient_without_links(network())


def test_dropout_is_active_only_in_training() -> None:
    kinds = ("embedding_dropout", "hidden_dropout")
    assert_dropout_only_in_training(network, upstream(DIAMOND, "d"), kinds)
