from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from dagrec.data.compositions import Composition
from dagrec.data.examples import Context, context_at
from dagrec.errors import DataError
from dagrec.models.dag import graph_transformer
from dagrec.models.dag.graph_transformer import (
    BACKWARD,
    FORWARD,
    SELF,
    UNRELATED,
    GraphTransformer,
    GraphTransformerConfig,
    GraphTransformerNetwork,
    all_pairs,
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
    randomise_zero_parameters,
    torch_attention,
)
from tests.worlds import everything


def network(**options: object) -> GraphTransformerNetwork:
    config = GraphTransformerConfig(**{"width": 8, **options})
    net = GraphTransformerNetwork(config, len(LETTERS), len(LETTERS.services)).eval()
    randomise_zero_parameters(net)
    return net


# Pairs and relations


def relations(inputs: GraphInputs) -> Tensor:
    """Return the relations [N, N], -1 for nodes of different DAGs."""
    pairs = all_pairs(inputs)
    matrix = torch.full((len(inputs.nodes), len(inputs.nodes)), -1)
    matrix[pairs.queries, pairs.keys] = pairs.relations
    return matrix


def test_relations_of_small_dag() -> None:
    inputs = inputs_at("t>a a>b b>c t>c u>c", "c")
    matrix = relations(inputs)
    t, a, c, u = (index_of(inputs, key) for key in "tacu")
    assert matrix.diagonal().tolist() == [SELF] * 5
    assert matrix[t, a] == FORWARD + 1
    assert matrix[a, t] == BACKWARD + 1
    assert matrix[a, c] == FORWARD + 2
    assert matrix[t, c] == FORWARD + 1, "the shortest path counts"
    assert matrix[u, a] == matrix[a, u] == UNRELATED


def test_distances_beyond_four_are_unrelated() -> None:
    inputs = inputs_at("a>b b>c c>d d>e e>f", "f")
    assert relations(inputs)[0].tolist() == [0, 1, 2, 3, 4, UNRELATED]
    assert relations(inputs)[5].tolist() == [UNRELATED, 8, 7, 6, 5, 0]


@settings(max_examples=25)
@given(dags())
def test_relations_match_distances_in_both_directions(composition: Composition) -> None:
    """Each pair of a DAG occurs once; the relation is forward d one way and backward d the other."""
    inputs = inputs_of(*(context_at(composition, node.id) for node in composition.nodes))
    matrix, pairs = relations(inputs), all_pairs(inputs)
    same = inputs.graph[:, None] == inputs.graph
    assert torch.equal(matrix >= 0, same)
    assert len(pairs.queries) == int(same.sum())
    assert torch.equal(torch.sort(pairs.order)[0], torch.arange(len(inputs.nodes)))
    assert torch.equal(pairs.order.repeat_interleave(pairs.sizes), pairs.queries)

    forward = (matrix > FORWARD) & (matrix <= BACKWARD)
    backward = (matrix > BACKWARD) & (matrix < UNRELATED)
    assert torch.equal(forward, backward.t())
    assert torch.equal(matrix[forward] - FORWARD, matrix.t()[forward] - BACKWARD)
    pairs_with_distance = zip(inputs.ancestors, inputs.descendants, inputs.distances, strict=True)
    expected = {(int(a), int(b)): int(d) for a, b, d in pairs_with_distance if d <= 4}
    assert {(i, j): int(matrix[i, j]) for i, j in forward.nonzero().tolist()} == expected


# Attention


def without_positions(net: GraphTransformerNetwork) -> GraphTransformerNetwork:
    """Remove all information about the position of nodes."""
    with torch.no_grad():
        net.level.zero_()
        for block in net.blocks:
            block.bias.zero_()
    return net


def test_constant_bias_does_not_change_scores() -> None:
    net, inputs = network(), inputs_at(DIAMOND, "d")
    before = net(inputs)
    with torch.no_grad():
        for block in net.blocks:
            block.bias += torch.tensor([3.0, -2.0])  # one for each head
    assert_close(net(inputs), before)


def test_single_bias_changes_scores() -> None:
    net, inputs = network(), inputs_at("a>b b>c t>d c>d", "d")
    before = net(inputs)
    for relation in (SELF, FORWARD + 1, BACKWARD + 2, UNRELATED):
        with torch.no_grad():
            net.blocks[0].bias[relation] += 1
        after = net(inputs)
        assert not torch.allclose(after, before)
        before = after


@pytest.mark.parametrize("links", ["c>a a>b b>d", "a>d b>d c>d", "b>a c>a a>d c>d"])
def test_scores_without_positions_ignore_links(links: str) -> None:
    net = network()
    assert not torch.allclose(net(inputs_at(links, "d")), net(inputs_at(CHAIN, "d")))
    without_positions(net)
    assert_close(net(inputs_at(links, "d")), net(inputs_at(CHAIN, "d")))


@pytest.mark.parametrize("links", [CHAIN, DIAMOND, SKIP])
def test_states_without_positions_match_torch_transformer(links: str) -> None:
    net, inputs = without_positions(network(layers=2)), inputs_at(links, "d")
    x = (net.embed(inputs.nodes) * 8**0.5)[None]
    for block in net.blocks:
        reference = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, activation="gelu", norm_first=True, batch_first=True
        )
        reference.self_attn = torch_attention(block.attend)
        reference.norm1, reference.norm2 = block.norm_attention, block.norm_feed
        reference.linear1, reference.linear2 = block.feed[0], block.feed[3]
        x = reference(x)
    h, _ = net.attend(inputs)
    assert_close(h, net.norm(x[0]))


@pytest.mark.parametrize("links", [CHAIN, DIAMOND, SKIP])
def test_biases_are_added_to_logits_of_each_head(links: str) -> None:
    net, inputs = network(layers=1), inputs_at(links, "d")
    (block,) = net.blocks
    x = net.embed(inputs.nodes) * 8**0.5 + net.level[inputs.levels]
    mask = block.bias[relations(inputs)].permute(2, 0, 1)
    y = block.norm_attention(x)[None]
    attended, weights = torch_attention(block.attend)(
        y, y, y, attn_mask=mask, average_attn_weights=False
    )
    h = x + attended[0]
    h = h + block.feed(block.norm_feed(h))
    states, attention = net.attend(inputs)
    assert_close(states, net.norm(h))
    dense = torch.zeros_like(weights[0])
    dense[:, attention.queries, attention.keys] = attention.weights[0].t()
    assert_close(dense, weights[0])


def test_batch_equals_single_dags() -> None:
    net = network()
    contexts = [context(DIAMOND, "d"), context("", "a"), context(SKIP, "d"), context(CHAIN, "b")]
    single = torch.cat([net(inputs_of(item)) for item in contexts])
    assert_close(net(inputs_of(*contexts)), single)


@pytest.mark.parametrize("pairs_per_pass", [1, 7, 20])
def test_chunks_do_not_change_states_and_gradients(
    pairs_per_pass: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network()
    inputs = inputs_of(context(DIAMOND, "d"), context("", "a"), context(SKIP, "d"))

    def run() -> list[Tensor]:
        net.zero_grad()
        states, attention = net.attend(inputs)
        states.square().sum().backward()
        gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        return [states.detach(), *(weights.detach() for weights in attention.weights), *gradients]

    expected = run()
    monkeypatch.setattr(graph_transformer, "PAIRS_PER_PASS", pairs_per_pass)
    chunked = run()
    assert len(expected) == len(chunked) > 10
    for a, b in zip(expected, chunked, strict=True):
        assert_close(a, b)


def test_high_levels_share_last_embedding() -> None:
    few, many, inputs = network(levels=2), network(levels=4), inputs_at(CHAIN, "d")
    weights = {name: tensor for name, tensor in few.state_dict().items() if name != "level"}
    many.load_state_dict(weights, strict=False)
    assert not torch.allclose(few(inputs), many(inputs))
    with torch.no_grad():
        many.level.copy_(few.level[[0, 1, 1, 1]])
    assert_close(few(inputs), many(inputs))


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
def fitted() -> GraphTransformer:
    model = create("graph_transformer", {"epochs": 2, "width": 8, "layers": 3})
    assert isinstance(model, GraphTransformer)
    return model.fit(everything().data)


def test_attention_covers_all_pairs_of_nodes(fitted: GraphTransformer) -> None:
    composition = everything().compositions[3]
    attention = fitted.attention(context_at(composition, "merge"))
    assert set(attention.nodes) == {"table_d", "split", "left", "right", "merge"}
    assert attention.nodes[-1] == "merge"
    assert attention.weights.shape == (3, 2, 5, 5)
    np.testing.assert_allclose(attention.weights.sum(axis=3), 1, rtol=1e-5)
    assert (attention.weights > 0).all(), "all nodes of the DAG attend to each other"


def test_attention_covers_paths_and_rejects_empty_context(fitted: GraphTransformer) -> None:
    attention = fitted.attention(Context(("nobody", "split")))
    assert attention.nodes == ("nobody", "split")
    np.testing.assert_allclose(attention.weights.sum(axis=3), 1, rtol=1e-5)
    with pytest.raises(DataError, match="empty"):
        fitted.attention(Context(()))


def test_width_must_be_multiple_of_heads() -> None:
    for width, heads in product((8, 12), (1, 2, 4)):
        assert GraphTransformerConfig(width=width, heads=heads)
    with pytest.raises(ValueError, match="multiple of heads, found 8 and 3"):
        GraphTransformerConfig(width=8, heads=3)
