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
from tests.models.dag.laid_out import (
    VOCABULARY,
    ancestors_of,
    assert_dropout_in_training_alone,
    assert_gradient_without_links,
    assert_gradients,
    by_key,
    close,
    each_alone,
    global_inputs,
    inputs_of,
    own_generator,
    random_dag,
    reads,
    states_of,
    stirred,
    upstream,
    whole,
)
from tests.worlds import everything

WIDTH, HEADS = 6, 2
REACHES: list[int | None] = [1, 2, None]
DAGS = [random_dag(11, seed) for seed in range(4)]
DIAMOND = dag("a b c e d", "a>b b>d a>c c>e e>d")


def network(**options: object) -> DeepDAGNetwork:
    config = DeepDAGConfig.model_validate({"width": WIDTH, "layers": 2, "heads": HEADS, **options})
    net = DeepDAGNetwork(config, len(VOCABULARY), len(VOCABULARY.services))
    stirred(net)
    return net


def node_states(net: DeepDAGNetwork, inputs: GraphInputs) -> Tensor:
    return net.attend(inputs)[0]


def layers(net: DeepDAGNetwork) -> list[Layer]:
    return [layer for layer in net.layers if isinstance(layer, Layer)]


@pytest.fixture(autouse=True)
def _own_generator() -> object:
    with own_generator():
        yield


# The formula


@pytest.mark.parametrize("reach", REACHES)
def test_states_follow_the_formula(reach: int | None) -> None:
    """With torch's own attention under a mask."""
    net = network(reach=reach, depths=4)
    for composition in DAGS:
        inputs = inputs_of(whole(composition))
        n = len(inputs.nodes)
        allowed = torch.eye(n, dtype=torch.bool)
        near = inputs.distances <= (n if reach is None else reach)
        allowed[inputs.descendants[near], inputs.ancestors[near]] = True
        steps = (inputs.levels[:, None] - inputs.levels).clamp(min=0, max=3)
        h = net.embed(inputs.nodes) + net.depth[inputs.levels.clamp(max=3)]
        for layer in layers(net):
            pairs = layer.attend
            bare = nn.MultiheadAttention(WIDTH, HEADS)
            with torch.no_grad():
                parts = (pairs.query, pairs.key, pairs.value)
                bare.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
                bare.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
                bare.out_proj.load_state_dict(pairs.out.state_dict())
            bias = layer.steps[steps].permute(2, 0, 1).masked_fill(~allowed, -torch.inf)
            seen, _ = bare(h, h, h, attn_mask=bias)
            h = layer.norm_attention(h + seen)
            h = layer.norm_feed(h + layer.feed(h))
        assert close(node_states(net, inputs), h)


def test_a_source_looks_at_itself_alone() -> None:
    net, inputs = network(), inputs_of(whole(DAGS[0]))
    _, looks = net.attend(inputs)
    sources = inputs.levels[looks.queries] == 0
    for weights in looks.weights:
        assert torch.equal(weights[sources], torch.ones(int(sources.sum()), HEADS))
    assert torch.equal(looks.keys[sources], looks.queries[sources])


@pytest.mark.parametrize("reach", REACHES)
def test_rows_of_attention_sum_to_1_and_are_0_outside_their_set(reach: int | None) -> None:
    model = create("deepdag", {"epochs": 1, "width": 4, "reach": reach})
    assert isinstance(model, DeepDAG)
    model.fit(everything().data)
    for composition in DAGS:
        found = model.attention(context_at(composition, "k"))
        assert found.weights.shape[:2] == (2, HEADS)
        np.testing.assert_allclose(found.weights.sum(axis=3), 1, atol=1e-6)
        far = Upstream.of(context_at(composition, "k"))
        distances = {
            key: {far.keys[a]: n for a, n in own.items()}
            for key, own in zip(far.keys, far.distances, strict=True)
        }
        for i, node in enumerate(found.nodes):
            most = len(composition.nodes) if reach is None else reach
            allowed = {node} | {other for other, n in distances[node].items() if n <= most}
            seen = {found.nodes[j] for j in found.weights[:, :, i].min(axis=(0, 1)).nonzero()[0]}
            assert seen == allowed


# Depths


def test_depth_is_the_longest_path() -> None:
    """The last node of the diamond is at 3, though a shorter path leads to it."""
    net = network()
    inputs = inputs_of(upstream(DIAMOND, "d"))
    net(inputs).sum().backward()
    assert net.depth.grad is not None
    assert net.depth.grad.ne(0).any(dim=1).nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_depths_are_told_apart_up_to_the_last() -> None:
    """Two nodes that hear equal things differ by their depth, unless both are beyond the last."""
    composition = dag("a b c d e f", "a>b b>c c>d d>e e>f")
    for depths, different in ((16, 6), (3, 3), (1, 1)):
        net = network(depths=depths)
        with torch.no_grad():
            net.embed.weight.fill_(1.0)
            for layer in layers(net):
                layer.attend.out.weight.zero_()
        h = node_states(net, inputs_of(whole(composition)))
        assert len(torch.unique(h.detach().round(decimals=4), dim=0)) == different


def test_differences_of_depth_weigh_what_is_looked_at() -> None:
    net = network(reach=None, layers=1)
    inputs = inputs_of(upstream(DIAMOND, "d"))
    with torch.no_grad():
        layers(net)[0].steps[2] += 50
    _, looks = net.attend(inputs)
    last = looks.queries == inputs.frontiers[0]
    assert last.sum() == 5
    two_up = inputs.levels[looks.keys[last]] == 1  # b and c, seen from 3
    assert close(looks.weights[0][last][two_up].sum(dim=0), torch.ones(HEADS))


# What a state depends on


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("reach", [1, 2])
def test_layers_see_as_many_links_back_as_their_reach_allows(count: int, reach: int) -> None:
    net = network(layers=count, reach=reach)
    inputs = inputs_of(whole(dag("a b c d e f g h", "a>b b>c c>d d>e e>f f>g g>h")))
    found = reads(net, net.embed, inputs, states_of(net))
    for i, key in enumerate("abcdefgh"):
        assert found[key] == set("abcdefgh"[max(0, i - count * reach) : i + 1])


def test_with_open_reach_one_layer_sees_all_ancestors_and_nothing_else() -> None:
    net = network(layers=1, reach=None)
    for composition in DAGS:
        above = ancestors_of(composition)
        found = reads(net, net.embed, inputs_of(whole(composition)), states_of(net))
        assert found == {node: {node} | above[node] for node in composition.by_id}


@pytest.mark.parametrize("reach", REACHES)
def test_a_batch_of_dags_equals_each_alone(reach: int | None) -> None:
    dags = [upstream(c, node) for c in DAGS for node in ("c", "h", "k")]
    assert each_alone(network(reach=reach), [*dags, Upstream(("z",), ((),), ("k", "nobody"))])


@pytest.mark.parametrize("reach", REACHES)
def test_the_order_in_a_document_changes_nothing(reach: int | None) -> None:
    net = network(reach=reach)
    one = dag("t u a b c d", "t>a u>b a>c b>c a>d c>d u>d")
    other = dag("d c b a u t", "u>d c>d a>d b>c a>c u>b t>a")
    assert close(net(inputs_of(upstream(one, "d"))), net(inputs_of(upstream(other, "d"))))


def test_with_the_global_graph_ancestors_in_it_count_and_nothing_else() -> None:
    net, composition = network(reach=None), DAGS[0]
    found = reads(net, net.embed, global_inputs(composition, "a", "k"), states_of(net))
    above = ancestors_of(composition)
    assert all(found[node] == {node} | above[node] for node in composition.by_id)


def test_children_are_heard_if_they_are_read() -> None:
    net = network()
    bare, fed = Upstream(("a", "b"), ((), (0,)), ()), Upstream(("a", "b"), ((), (0,)), ("c",))
    assert not torch.allclose(net(inputs_of(bare)), net(inputs_of(fed)))
    assert torch.equal(*(by_key(i, node_states(net, i))["b"] for i in map(inputs_of, (bare, fed))))


# Training


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="width must be a multiple of heads, found 6 and 4"):
        create("deepdag", {"width": 6, "heads": 4})


@pytest.mark.parametrize("reach", REACHES)
def test_gradients_are_those_of_finite_differences(reach: int | None) -> None:
    assert_gradients(network(reach=reach).double(), inputs_of(upstream(DIAMOND, "d")))


def test_links_are_not_needed_for_a_gradient_everywhere() -> None:
    assert_gradient_without_links(network())


def test_dropout_acts_in_training_alone() -> None:
    kinds = ("embedding_dropout", "hidden_dropout")
    assert_dropout_in_training_alone(network, upstream(DIAMOND, "d"), kinds)
