from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from dagrec.data.compositions import Composition
from dagrec.data.examples import Context, context_at
from dagrec.models.dag.dagformer import (
    DAGformer,
    DAGformerConfig,
    DAGformerNetwork,
    depth_encoding,
)
from dagrec.models.dag.graphs import GraphInputs
from dagrec.models.registry import create
from tests.data.dags import dags
from tests.models.dag.inputs import (
    CHAIN,
    DIAMOND,
    LETTERS,
    SKIP,
    assert_close,
    context,
    index_of,
    inputs_at,
    inputs_of,
    keys_with_gradient,
    randomise_zero_parameters,
    torch_attention,
)
from tests.worlds import everything


def network(**options: object) -> DAGformerNetwork:
    config = DAGformerConfig(**{"width": 8, **options})
    net = DAGformerNetwork(config, len(LETTERS), len(LETTERS.services)).eval()
    randomise_zero_parameters(net)
    return net


def reachable_keys(net: DAGformerNetwork, inputs: GraphInputs, key: str) -> set[str]:
    """Return the keys of the nodes that the state of a node depends on."""
    h, _ = net.attend(inputs)
    return keys_with_gradient(h[index_of(inputs, key)], net.embed)


# Depths


def test_depth_encoding_is_sinusoidal() -> None:
    encoding = depth_encoding(torch.tensor([0, 1, 5]), 4)
    assert_close(encoding[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    for row, depth in zip(encoding[1:], (1, 5), strict=True):
        waves = [f(depth / 10000 ** (i / 4)) for i in (0, 2) for f in (math.sin, math.cos)]
        assert_close(row, torch.tensor(waves))
    assert depth_encoding(torch.arange(3), 5).shape == (3, 5)


def test_nodes_of_equal_depth_share_encoding() -> None:
    inputs = inputs_at("t>a a>b t>c c>d b>d", "d")
    depth = {key: int(inputs.levels[index_of(inputs, key)]) for key in "tabcd"}
    assert depth == {"t": 0, "a": 1, "c": 1, "b": 2, "d": 3}, "depth is the length of the longest path"
    codes = depth_encoding(inputs.levels, 8)
    assert torch.equal(codes[index_of(inputs, "a")], codes[index_of(inputs, "c")])
    assert len(torch.unique(codes, dim=0)) == 4


# Attention


def reference_states(net: DAGformerNetwork, inputs: GraphInputs, masked: Tensor) -> Tensor:
    """Return the states of torch's transformer with the same weights; masked: [N, N] excluded pairs."""
    x = net.embed(inputs.nodes) * 8**0.5 + depth_encoding(inputs.levels, 8)
    for block in net.blocks:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        layer.self_attn = torch_attention(block.attend)
        layer.norm1, layer.norm2 = block.norm_attention, block.norm_feed
        layer.linear1, layer.linear2 = block.feed[0], block.feed[3]
        x = layer(x[None], src_mask=masked)[0]
    return x


def transitive_closure(inputs: GraphInputs) -> Tensor:
    """Return the transitive closure [N, N] of the links, by powers of their matrix."""
    links = torch.zeros(len(inputs.nodes), len(inputs.nodes), dtype=torch.int64)
    links[inputs.sources, inputs.targets] = 1
    reach = links
    for _ in links:
        reach = ((reach + reach @ links) > 0).long()
    return reach > 0


def test_chain_states_match_plain_transformer() -> None:
    net, inputs = network(layers=3), inputs_at(CHAIN, "d")
    nothing_masked = torch.zeros(4, 4, dtype=torch.bool)
    assert_close(net.attend(inputs)[0], reference_states(net, inputs, nothing_masked))


@pytest.mark.parametrize("direction", ["both", "ancestors"])
@pytest.mark.parametrize("links", [DIAMOND, SKIP, "a>d b>d t>c c>b"])
def test_dag_states_match_transformer_with_reachability_mask(links: str, direction: str) -> None:
    net, inputs = network(direction=direction), inputs_at(links, "d")
    reach = transitive_closure(inputs)
    allowed = reach.t() | torch.eye(len(reach), dtype=torch.bool)
    if direction == "both":
        allowed = allowed | reach
    assert_close(net.attend(inputs)[0], reference_states(net, inputs, ~allowed))


@settings(max_examples=20)
@given(dags())
def test_pairs_are_transitive_closure_with_self_pairs(composition: Composition) -> None:
    inputs = inputs_of(*(context_at(composition, node.id) for node in composition.nodes))
    reach, self_pairs = transitive_closure(inputs), torch.eye(len(inputs.nodes), dtype=torch.bool)
    for direction, expected in (
        ("ancestors", reach.t() | self_pairs),
        ("both", reach | reach.t() | self_pairs),
    ):
        queries, keys = network(direction=direction)._pairs(inputs)
        matrix = torch.zeros_like(reach)
        matrix[queries, keys] = True
        assert torch.equal(matrix, expected)
        assert len(queries) == int(expected.sum()), "each pair once"


def test_unconnected_nodes_do_not_interact_in_one_block() -> None:
    inputs = inputs_at("t>a a>d u>b b>d", "d")
    one, two = network(layers=1), network(layers=2)
    assert reachable_keys(one, inputs, "a") == {"t", "a", "d"}
    assert reachable_keys(one, inputs, "u") == {"u", "b", "d"}
    assert reachable_keys(two, inputs, "a") == {"t", "u", "a", "b", "d"}, "by way of d"


def test_reach_limits_distance_of_attention() -> None:
    net, inputs = network(layers=1, reach=1), inputs_at("t>a a>b b>c t>c", "c")
    assert reachable_keys(net, inputs, "a") == {"t", "a", "b"}
    assert reachable_keys(net, inputs, "c") == {"t", "b", "c"}
    assert reachable_keys(network(layers=1, reach=2), inputs, "c") == {"t", "a", "b", "c"}


@pytest.mark.parametrize("reach", [None, 1])
def test_direction_ancestors_excludes_later_nodes(reach: int | None) -> None:
    net, inputs = (
        network(layers=3, direction="ancestors", reach=reach),
        inputs_at("t>a t>b a>c b>c u>c", "c"),
    )
    expected = {"t": "t", "u": "u", "a": "ta", "b": "tb", "c": "tuabc"}
    assert {key: reachable_keys(net, inputs, key) for key in expected} == {
        key: set(keys) for key, keys in expected.items()
    }


def test_isolated_node_attends_to_itself() -> None:
    net, inputs = network(), inputs_at("", "a")
    h, pairs = net.attend(inputs)
    assert torch.isfinite(h).all()
    assert all(weights.tolist() == [[1, 1]] for weights in pairs.weights)


def test_batch_equals_single_dags() -> None:
    net = network()
    contexts = [context(DIAMOND, "d"), context("", "a"), context(SKIP, "d"), context(CHAIN, "b")]
    single = torch.cat([net(inputs_of(item)) for item in contexts])
    assert_close(net(inputs_of(*contexts)), single)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_share_embeddings(tied: bool) -> None:
    """Only with tied weights does an embedding outside the DAG change a score."""
    net, inputs = network(tied=tied), inputs_at("a>b", "b")
    before = net(inputs)
    with torch.no_grad():
        net.embed.weight[LETTERS.ids["g"]] += 1
    changed = (net(inputs) != before)[0].nonzero().flatten().tolist()
    assert changed == ([LETTERS.columns["g"]] if tied else [])


# Attention weights


@pytest.fixture(scope="module")
def fitted() -> DAGformer:
    options = {"epochs": 2, "width": 8, "layers": 3, "direction": "ancestors"}
    model = create("dagformer", options)
    assert isinstance(model, DAGformer)
    return model.fit(everything().data)


def test_attention_is_restricted_to_connected_nodes(fitted: DAGformer) -> None:
    attention = fitted.attention(context_at(everything().compositions[3], "merge"))
    assert sorted(attention.nodes) == ["left", "merge", "right", "split", "table_d"]
    assert attention.weights.shape == (3, 2, 5, 5)
    np.testing.assert_allclose(attention.weights.sum(axis=3), 1, rtol=1e-5)
    left, right, merge = (attention.nodes.index(key) for key in ("left", "right", "merge"))
    assert not attention.weights[:, :, left, right].any()
    assert not attention.weights[:, :, left, merge].any()
    assert (attention.weights[:, :, merge] > 0).all()


def test_attention_includes_unknown_nodes(fitted: DAGformer) -> None:
    attention = fitted.attention(Context(("nobody", "split")))
    assert attention.nodes == ("nobody", "split")
    assert attention.weights[0, 0, 0].tolist() == [1, 0]


def test_width_must_be_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match="multiple of heads, found 8 and 3"):
        DAGformerConfig(width=8, heads=3)
