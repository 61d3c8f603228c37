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
    at,
    close,
    context,
    inputs_of,
    keys_that_reach,
    own_generator,
    place,
    stirred,
    torch_attention,
)
from tests.worlds import everything

_own_generator = pytest.fixture(autouse=True)(own_generator)


def network(**options: object) -> DAGformerNetwork:
    config = DAGformerConfig(**{"width": 8, **options})
    net = DAGformerNetwork(config, len(LETTERS), len(LETTERS.services)).eval()
    stirred(net)
    return net


def reached(net: DAGformerNetwork, inputs: GraphInputs, key: str) -> set[str]:
    """Keys whose nodes the state of this one depends on."""
    h, _ = net.attend(inputs)
    return keys_that_reach(h[place(inputs, key)], net.embed)


# Depths


def test_depth_encodings_are_sines_and_cosines() -> None:
    found = depth_encoding(torch.tensor([0, 1, 5]), 4)
    assert close(found[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    for row, depth in zip(found[1:], (1, 5), strict=True):
        waves = [f(depth / 10000 ** (i / 4)) for i in (0, 2) for f in (math.sin, math.cos)]
        assert close(row, torch.tensor(waves))
    assert depth_encoding(torch.arange(3), 5).shape == (3, 5)


def test_nodes_of_equal_depth_get_the_same_encoding() -> None:
    inputs = at("t>a a>b t>c c>d b>d", "d")
    depth = {key: int(inputs.levels[place(inputs, key)]) for key in "tabcd"}
    assert depth == {"t": 0, "a": 1, "c": 1, "b": 2, "d": 3}, "that of the longest path"
    codes = depth_encoding(inputs.levels, 8)
    assert torch.equal(codes[place(inputs, "a")], codes[place(inputs, "c")])
    assert len(torch.unique(codes, dim=0)) == 4


# Attention


def plain(net: DAGformerNetwork, inputs: GraphInputs, hidden: Tensor) -> Tensor:
    """torch's own transformer with the same weights; ``hidden`` [N, N]: where nobody may look."""
    x = net.embed(inputs.nodes) * 8**0.5 + depth_encoding(inputs.levels, 8)
    for block in net.blocks:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        layer.self_attn = torch_attention(block.attend)
        layer.norm1, layer.norm2 = block.norm_attention, block.norm_feed
        layer.linear1, layer.linear2 = block.feed[0], block.feed[3]
        x = layer(x[None], src_mask=hidden)[0]
    return x


def closure(inputs: GraphInputs) -> Tensor:
    """[N, N] who reaches whom, by powers of the matrix of links."""
    links = torch.zeros(len(inputs.nodes), len(inputs.nodes), dtype=torch.int64)
    links[inputs.sources, inputs.targets] = 1
    reach = links
    for _ in links:
        reach = ((reach + reach @ links) > 0).long()
    return reach > 0


def test_on_a_chain_it_is_a_plain_transformer_with_depths_as_positions() -> None:
    net, inputs = network(layers=3), at(CHAIN, "d")
    everyone = torch.zeros(4, 4, dtype=torch.bool)
    assert close(net.attend(inputs)[0], plain(net, inputs, everyone))


@pytest.mark.parametrize("direction", ["both", "ancestors"])
@pytest.mark.parametrize("links", [DIAMOND, SKIP, "a>d b>d t>c c>b"])
def test_elsewhere_it_is_one_with_the_mask_of_reachability(links: str, direction: str) -> None:
    net, inputs = network(direction=direction), at(links, "d")
    reach = closure(inputs)
    seen = reach.t() | torch.eye(len(reach), dtype=torch.bool)
    if direction == "both":
        seen = seen | reach
    assert close(net.attend(inputs)[0], plain(net, inputs, ~seen))


@settings(max_examples=20)
@given(dags())
def test_pairs_are_those_of_the_closure_and_each_node_with_itself(composition: Composition) -> None:
    inputs = inputs_of(*(context_at(composition, node.id) for node in composition.nodes))
    reach, own = closure(inputs), torch.eye(len(inputs.nodes), dtype=torch.bool)
    for direction, expected in (("ancestors", reach.t() | own), ("both", reach | reach.t() | own)):
        queries, keys = network(direction=direction)._pairs(inputs)
        found = torch.zeros_like(reach)
        found[queries, keys] = True
        assert torch.equal(found, expected)
        assert len(queries) == int(expected.sum()), "each pair once"


def test_nodes_that_do_not_reach_each_other_exchange_nothing_in_one_block() -> None:
    inputs = at("t>a a>d u>b b>d", "d")
    one, two = network(layers=1), network(layers=2)
    assert reached(one, inputs, "a") == {"t", "a", "d"}
    assert reached(one, inputs, "u") == {"u", "b", "d"}
    assert reached(two, inputs, "a") == {"t", "u", "a", "b", "d"}, "by way of d"


def test_within_one_link_there_are_neighbours_alone() -> None:
    net, inputs = network(layers=1, reach=1), at("t>a a>b b>c t>c", "c")
    assert reached(net, inputs, "a") == {"t", "a", "b"}
    assert reached(net, inputs, "c") == {"t", "b", "c"}
    assert reached(network(layers=1, reach=2), inputs, "c") == {"t", "a", "b", "c"}


@pytest.mark.parametrize("reach", [None, 1])
def test_looking_at_ancestors_alone_no_node_knows_what_follows(reach: int | None) -> None:
    net, inputs = network(layers=3, direction="ancestors", reach=reach), at("t>a t>b a>c b>c u>c", "c")
    expected = {"t": "t", "u": "u", "a": "ta", "b": "tb", "c": "tuabc"}
    assert {key: reached(net, inputs, key) for key in expected} == {
        key: set(seen) for key, seen in expected.items()
    }


def test_an_isolated_node_sees_itself() -> None:
    net, inputs = network(), at("", "a")
    h, looks = net.attend(inputs)
    assert torch.isfinite(h).all()
    assert all(weights.tolist() == [[1, 1]] for weights in looks.weights)


def test_other_dags_in_the_batch_change_nothing() -> None:
    net = network()
    asked = [context(DIAMOND, "d"), context("", "a"), context(SKIP, "d"), context(CHAIN, "b")]
    alone = torch.cat([net(inputs_of(one)) for one in asked])
    assert close(net(inputs_of(*asked)), alone)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_output_weights_are_the_embeddings(tied: bool) -> None:
    """The score of a service that is in no DAG moves with its embedding, or does not."""
    net, inputs = network(tied=tied), at("a>b", "b")
    before = net(inputs)
    with torch.no_grad():
        net.embed.weight[LETTERS.ids["g"]] += 1
    changed = (net(inputs) != before)[0].nonzero().flatten().tolist()
    assert changed == ([LETTERS.columns["g"]] if tied else [])


# What it looked at


@pytest.fixture(scope="module")
def fitted() -> DAGformer:
    options = {"epochs": 2, "width": 8, "layers": 3, "direction": "ancestors"}
    model = create("dagformer", options)
    assert isinstance(model, DAGformer)
    return model.fit(everything().data)


def test_attention_of_a_context(fitted: DAGformer) -> None:
    found = fitted.attention(context_at(everything().compositions[3], "merge"))
    assert sorted(found.nodes) == ["left", "merge", "right", "split", "table_d"]
    assert found.weights.shape == (3, 2, 5, 5)
    np.testing.assert_allclose(found.weights.sum(axis=3), 1, rtol=1e-5)
    left, right, merge = (found.nodes.index(key) for key in ("left", "right", "merge"))
    assert not found.weights[:, :, left, right].any()
    assert not found.weights[:, :, left, merge].any()
    assert (found.weights[:, :, merge] > 0).all()


def test_attention_of_a_path_with_an_unknown_node(fitted: DAGformer) -> None:
    found = fitted.attention(Context(("nobody", "split")))
    assert found.nodes == ("nobody", "split")
    assert found.weights[0, 0, 0].tolist() == [1, 0]


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of heads, found 8 and 3"):
        DAGformerConfig(width=8, heads=3)
