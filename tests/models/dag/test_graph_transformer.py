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
    APART,
    BACKWARD,
    FORWARD,
    SELF,
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
    at,
    close,
    context,
    inputs_of,
    own_generator,
    place,
    stirred,
    torch_attention,
)
from tests.worlds import everything

_own_generator = pytest.fixture(autouse=True)(own_generator)


def network(**options: object) -> GraphTransformerNetwork:
    config = GraphTransformerConfig(**{"width": 8, **options})
    net = GraphTransformerNetwork(config, len(LETTERS), len(LETTERS.services)).eval()
    stirred(net)
    return net


# Pairs and relations


def relations(inputs: GraphInputs) -> Tensor:
    """[N, N], -1 for nodes of different DAGs."""
    pairs = all_pairs(inputs)
    found = torch.full((len(inputs.nodes), len(inputs.nodes)), -1)
    found[pairs.queries, pairs.keys] = pairs.relations
    return found


def test_relations_of_a_small_dag() -> None:
    inputs = at("t>a a>b b>c t>c u>c", "c")
    found = relations(inputs)
    t, a, c, u = (place(inputs, key) for key in "tacu")
    assert found.diagonal().tolist() == [SELF] * 5
    assert found[t, a] == FORWARD + 1
    assert found[a, t] == BACKWARD + 1
    assert found[a, c] == FORWARD + 2
    assert found[t, c] == FORWARD + 1, "the shortest way counts"
    assert found[u, a] == found[a, u] == APART


def test_distances_beyond_four_are_not_told_apart() -> None:
    inputs = at("a>b b>c c>d d>e e>f", "f")
    assert relations(inputs)[0].tolist() == [0, 1, 2, 3, 4, APART]
    assert relations(inputs)[5].tolist() == [APART, 8, 7, 6, 5, 0]


@settings(max_examples=25)
@given(dags())
def test_relations_are_antisymmetric_and_those_of_the_distances(composition: Composition) -> None:
    """Each pair of one DAG once, forward d one way and backward d the other."""
    inputs = inputs_of(*(context_at(composition, node.id) for node in composition.nodes))
    found, pairs = relations(inputs), all_pairs(inputs)
    same = inputs.graph[:, None] == inputs.graph
    assert torch.equal(found >= 0, same)
    assert len(pairs.queries) == int(same.sum())
    assert torch.equal(torch.sort(pairs.order)[0], torch.arange(len(inputs.nodes)))
    assert torch.equal(pairs.order.repeat_interleave(pairs.sizes), pairs.queries)

    forward = (found > FORWARD) & (found <= BACKWARD)
    backward = (found > BACKWARD) & (found < APART)
    assert torch.equal(forward, backward.t())
    assert torch.equal(found[forward] - FORWARD, found.t()[forward] - BACKWARD)
    known = zip(inputs.ancestors, inputs.descendants, inputs.distances, strict=True)
    expected = {(int(a), int(b)): int(d) for a, b, d in known if d <= 4}
    assert {(i, j): int(found[i, j]) for i, j in forward.nonzero().tolist()} == expected


# Attention


def loose(net: GraphTransformerNetwork) -> GraphTransformerNetwork:
    """Without anything that tells where a node lies."""
    with torch.no_grad():
        net.level.zero_()
        for block in net.blocks:
            block.bias.zero_()
    return net


def test_a_constant_on_all_biases_changes_nothing() -> None:
    net, inputs = network(), at(DIAMOND, "d")
    before = net(inputs)
    with torch.no_grad():
        for block in net.blocks:
            block.bias += torch.tensor([3.0, -2.0])  # one for each head
    assert close(net(inputs), before)


def test_one_bias_alone_changes_scores() -> None:
    net, inputs = network(), at("a>b b>c t>d c>d", "d")
    before = net(inputs)
    for relation in (SELF, FORWARD + 1, BACKWARD + 2, APART):
        with torch.no_grad():
            net.blocks[0].bias[relation] += 1
        after = net(inputs)
        assert not torch.allclose(after, before)
        before = after


@pytest.mark.parametrize("links", ["c>a a>b b>d", "a>d b>d c>d", "b>a c>a a>d c>d"])
def test_without_biases_and_levels_the_other_nodes_are_a_set(links: str) -> None:
    net = network()
    assert not torch.allclose(net(at(links, "d")), net(at(CHAIN, "d")))
    loose(net)
    assert close(net(at(links, "d")), net(at(CHAIN, "d")))


@pytest.mark.parametrize("links", [CHAIN, DIAMOND, SKIP])
def test_without_biases_it_is_a_plain_transformer(links: str) -> None:
    net, inputs = loose(network(layers=2)), at(links, "d")
    x = (net.embed(inputs.nodes) * 8**0.5)[None]
    for block in net.blocks:
        plain = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, activation="gelu", norm_first=True, batch_first=True
        )
        plain.self_attn = torch_attention(block.attend)
        plain.norm1, plain.norm2 = block.norm_attention, block.norm_feed
        plain.linear1, plain.linear2 = block.feed[0], block.feed[3]
        x = plain(x)
    h, _ = net.attend(inputs)
    assert close(h, net.norm(x[0]))


@pytest.mark.parametrize("links", [CHAIN, DIAMOND, SKIP])
def test_biases_are_added_to_the_logits_of_each_head(links: str) -> None:
    net, inputs = network(layers=1), at(links, "d")
    (block,) = net.blocks
    x = net.embed(inputs.nodes) * 8**0.5 + net.level[inputs.levels]
    mask = block.bias[relations(inputs)].permute(2, 0, 1)
    y = block.norm_attention(x)[None]
    seen, weights = torch_attention(block.attend)(y, y, y, attn_mask=mask, average_attn_weights=False)
    h = x + seen[0]
    h = h + block.feed(block.norm_feed(h))
    found, looks = net.attend(inputs)
    assert close(found, net.norm(h))
    dense = torch.zeros_like(weights[0])
    dense[:, looks.queries, looks.keys] = looks.weights[0].t()
    assert close(dense, weights[0])


def test_other_dags_in_the_batch_change_nothing() -> None:
    net = network()
    asked = [context(DIAMOND, "d"), context("", "a"), context(SKIP, "d"), context(CHAIN, "b")]
    alone = torch.cat([net(inputs_of(one)) for one in asked])
    assert close(net(inputs_of(*asked)), alone)


@pytest.mark.parametrize("most", [1, 7, 20])
def test_pairs_in_stretches_give_the_same_states_and_gradients(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network()
    inputs = inputs_of(context(DIAMOND, "d"), context("", "a"), context(SKIP, "d"))

    def run() -> list[Tensor]:
        net.zero_grad()
        states, looks = net.attend(inputs)
        states.square().sum().backward()
        gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        return [states.detach(), *(weights.detach() for weights in looks.weights), *gradients]

    whole = run()
    monkeypatch.setattr(graph_transformer, "PAIRS_PER_PASS", most)
    parts = run()
    assert len(whole) == len(parts) > 10
    assert all(close(a, b) for a, b in zip(whole, parts, strict=True))


def test_levels_beyond_the_last_are_not_told_apart() -> None:
    few, many, inputs = network(levels=2), network(levels=4), at(CHAIN, "d")
    rest = {name: tensor for name, tensor in few.state_dict().items() if name != "level"}
    many.load_state_dict(rest, strict=False)
    assert not torch.allclose(few(inputs), many(inputs))
    with torch.no_grad():
        many.level.copy_(few.level[[0, 1, 1, 1]])
    assert close(few(inputs), many(inputs))


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
def fitted() -> GraphTransformer:
    model = create("graph_transformer", {"epochs": 2, "width": 8, "layers": 3})
    assert isinstance(model, GraphTransformer)
    return model.fit(everything().data)


def test_attention_of_a_context(fitted: GraphTransformer) -> None:
    source = everything().compositions[3]
    found = fitted.attention(context_at(source, "merge"))
    assert set(found.nodes) == {"table_d", "split", "left", "right", "merge"}
    assert found.nodes[-1] == "merge"
    assert found.weights.shape == (3, 2, 5, 5)
    np.testing.assert_allclose(found.weights.sum(axis=3), 1, rtol=1e-5)
    assert (found.weights > 0).all(), "all nodes of the DAG see each other"


def test_attention_of_a_path_and_of_nothing(fitted: GraphTransformer) -> None:
    found = fitted.attention(Context(("nobody", "split")))
    assert found.nodes == ("nobody", "split")
    np.testing.assert_allclose(found.weights.sum(axis=3), 1, rtol=1e-5)
    with pytest.raises(DataError, match="empty"):
        fitted.attention(Context(()))


def test_heads_divide_the_width() -> None:
    for width, heads in product((8, 12), (1, 2, 4)):
        assert GraphTransformerConfig(width=width, heads=heads)
    with pytest.raises(ValueError, match="multiple of heads, found 8 and 3"):
        GraphTransformerConfig(width=8, heads=3)
