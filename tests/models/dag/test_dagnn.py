from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dagrec.data.compositions import Composition
from dagrec.data.examples import Context, context_at
from dagrec.graph.upstream import Upstream
from dagrec.models.dag.dagnn import DAGNN, DAGNNConfig, DAGNNNetwork, pool_sources, reverse_order
from dagrec.models.dag.graphs import GraphInputs
from dagrec.models.registry import create
from tests.data.dags import chain, dag
from tests.models.dag.layout import (
    KEYS,
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
    keys_of,
    random_dag,
    randomise_parameters,
    reversed_dag,
    states_of,
    upstream,
)
from tests.worlds import everything

WIDTH, LAYERS = 6, 2
NO_DROPOUT = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
SHAPES: list[dict[str, object]] = [{}, {"attention": "multiplicative"}, {"reverse": True}]
DAGS = [random_dag(11, seed) for seed in range(4)]
DIAMOND = dag("a b c e d", "a>b b>d a>c c>e e>d")


def network(**options: object) -> DAGNNNetwork:
    config = DAGNNConfig.model_validate({"width": WIDTH, "layers": LAYERS, **options})
    net = DAGNNNetwork(config, len(VOCABULARY), len(VOCABULARY.services))
    randomise_parameters(net)
    return net


def states(net: DAGNNNetwork, inputs: GraphInputs) -> Tensor:
    """Return the states [N, (L + 1) H] of the forward layers."""
    return net.attend(inputs)[0][:, : (LAYERS + 1) * WIDTH]


# Formula


def reference_states(
    net: DAGNNNetwork, composition: Composition, query: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return the states by the paper's equations, node by node, including w_q (``query``)."""
    weights = {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}
    embedding = weights["embed.weight"]
    h = {node: [embedding[VOCABULARY.ids[node]]] for node in composition.by_id}
    for layer in range(LAYERS):
        w_i, w_h, b_i, b_h = (
            weights[f"forward_layers.{layer}.cell.{kind}"]
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        w_k = weights[f"forward_layers.{layer}.key.weight"]
        for node in composition.order:
            x, m = h[node][layer], np.zeros(WIDTH)
            parents = composition.parents[node]
            if parents:
                sent = np.stack([h[parent][layer + 1] for parent in parents])
                if net.forward_layers[layer].query is None:
                    logits = sent @ w_k[0] + x @ query
                else:
                    w_q = weights[f"forward_layers.{layer}.query.weight"]
                    logits = (sent @ w_k.T) @ (w_q @ x) / np.sqrt(WIDTH)
                a = np.exp(logits - logits.max())
                m = (a / a.sum()) @ sent
            (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(w_i @ x + b_i, 3), np.split(w_h @ m + b_h, 3)
            r, z = 1 / (1 + np.exp(-(r_x + r_h))), 1 / (1 + np.exp(-(z_x + z_h)))
            n = np.tanh(n_x + r * n_h)
            h[node].append((1 - z) * n + z * m)
    return {node: np.concatenate(layers) for node, layers in h.items()}


@pytest.mark.parametrize("attention", ["additive", "multiplicative"])
def test_states_match_paper_for_any_additive_query(attention: str) -> None:
    """w_q is the same for all parents of a node and cancels; the network has no w_q."""
    net = network(attention=attention)
    for seed, composition in enumerate(DAGS):
        query = np.random.default_rng(seed).normal(size=WIDTH) * 3
        by_node = by_key(inputs := inputs_of(all_nodes(composition)), states(net, inputs))
        for node, expected in reference_states(net, composition, query).items():
            np.testing.assert_allclose(by_node[node].detach(), expected, rtol=1e-4, atol=1e-5)


def test_multiplicative_query_changes_states() -> None:
    net, inputs = network(attention="multiplicative"), inputs_of(all_nodes(DIAMOND))
    before = states(net, inputs)
    with torch.no_grad():
        query = net.forward_layers[0].query
        assert isinstance(query, nn.Linear)
        query.weight.mul_(-1)
    after = states(net, inputs)
    changed = {key for key, same in by_key(inputs, (before == after).all(dim=1)).items() if not same}
    assert changed == {"d"}  # the only node with two parents


@pytest.mark.parametrize("attention", ["additive", "multiplicative"])
def test_layer_on_chain_is_gru(attention: str) -> None:
    net = network(attention=attention)
    keys = tuple("bdcabf")
    inputs = inputs_of(Upstream.of(Context(keys)))
    assert keys_of(inputs) == list(keys)
    by_layer = states(net, inputs).split(WIDTH, dim=1)
    for layer in range(LAYERS):
        cell, h = net.forward_layers[layer].cell, torch.zeros(1, WIDTH)
        assert isinstance(cell, nn.GRUCell)
        for index in range(len(keys)):
            h = cell(by_layer[layer][index : index + 1], h)
            assert_close(by_layer[layer + 1][index], h[0])


def test_layers_on_chain_match_torch_gru() -> None:
    net = network()
    gru = nn.GRU(WIDTH, WIDTH, num_layers=LAYERS)
    for name, tensor in gru.named_parameters():
        kind, layer = name.removesuffix(name[-3:]), int(name[-1])
        with torch.no_grad():
            tensor.copy_(getattr(net.forward_layers[layer].cell, kind))
    inputs = inputs_of(Upstream.of(Context(tuple("bdcabf"))))
    by_layer = states(net, inputs).split(WIDTH, dim=1)
    assert_close(by_layer[LAYERS], gru(by_layer[0])[0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equal_parents_count_once(shape: dict[str, object]) -> None:
    """A softmax averages the parents; a sum would count them twice."""
    net = network(**shape)
    once = inputs_of(upstream(dag("t a:x d", "t>a a>d"), "d"))
    twice = inputs_of(upstream(dag("t a:x b:x d", "t>a t>b a>d b>d"), "d"))
    assert_close(net.states(once), net.states(twice))
    other = inputs_of(upstream(dag("t a:x b:y d", "t>a t>b a>d b>d"), "d"))
    assert not torch.allclose(net.states(once), net.states(other))


def test_messages_use_states_of_same_layer() -> None:
    """With states of the layer below, one layer would cover only one link."""
    net = network(layers=1)
    composition = chain(6)
    inputs = inputs_of(all_nodes(dag("a b c d e f", "a>b b>c c>d d>e e>f")))
    assert len(composition.nodes) == len(inputs.nodes)
    keys = dependencies(net, net.embed, inputs, states_of(net))
    assert keys["f"] == set("abcdef")


# Dependencies of states


@pytest.mark.parametrize("attention", ["additive", "multiplicative"])
def test_states_depend_only_on_node_and_ancestors(attention: str) -> None:
    net = network(attention=attention)
    for composition in DAGS:
        ancestors = ancestors_of(composition)
        keys = dependencies(net, net.embed, inputs_of(all_nodes(composition)), states_of(net))
        assert keys == {node: {node} | ancestors[node] for node in composition.by_id}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_equals_single_dags(shape: dict[str, object]) -> None:
    net = network(**shape)
    dags = [upstream(c, node) for c in DAGS for node in ("c", "h", "k")]
    assert_batch_equals_single(net, [*dags, Upstream(("z",), ((),), ("k", "nobody"))])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_do_not_depend_on_document_order(shape: dict[str, object]) -> None:
    net = network(**shape)
    one = dag("t u a b c d", "t>a u>b a>c b>c a>d c>d u>d")
    other = dag("d c b a u t", "u>d c>d a>d b>c a>c u>b t>a")
    assert upstream(one, "d").keys != upstream(other, "d").keys
    assert_close(net(inputs_of(upstream(one, "d"))), net(inputs_of(upstream(other, "d"))))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_children_change_scores(shape: dict[str, object]) -> None:
    net = network(**shape)
    without_children = Upstream(("a", "b"), ((), (0,)), ())
    with_children = Upstream(("a", "b"), ((), (0,)), ("c",))
    assert not torch.allclose(net(inputs_of(without_children)), net(inputs_of(with_children)))


# Reverse direction


def test_reverse_order_is_order_of_reversed_dag() -> None:
    net = network(reverse=True)
    for composition in DAGS:
        inputs = inputs_of(all_nodes(composition))
        reversed_inputs = inputs_of(all_nodes(reversed_dag(composition)))
        nodes, order = reverse_order(inputs)
        keys = [keys_of(inputs)[i] for i in nodes.tolist()]
        assert list(order.sizes) == list(reversed_inputs.level_sizes)
        assert list(order.link_sizes) == list(reversed_inputs.link_sizes)
        links = zip(order.senders.tolist(), order.receivers.tolist(), strict=True)
        assert {(keys[b], keys[a]) for a, b in links} == set(composition.links)
        backward = by_key(inputs, net.attend(inputs)[0][:, (LAYERS + 1) * WIDTH :])
        net.forward_layers, net.backward_layers = net.backward_layers, net.forward_layers
        expected = by_key(reversed_inputs, states(net, reversed_inputs))
        net.forward_layers, net.backward_layers = net.backward_layers, net.forward_layers
        for node in composition.by_id:
            assert_close(backward[node], expected[node])


def test_pool_sources_is_separate_for_each_frontier() -> None:
    composition = dag("a b c d e f", "a>c b>c c>d e>f")
    inputs = inputs_of(
        upstream(composition, "d"), upstream(composition, "f"), upstream(composition, "a")
    )
    h = torch.randn(len(inputs.nodes), 4)
    states = {(key, int(g)): row for key, g, row in zip(keys_of(inputs), inputs.graph, h, strict=True)}
    pooled = pool_sources(h, inputs)
    assert torch.equal(pooled[0], torch.maximum(states["a", 0], states["b", 0]))
    assert torch.equal(pooled[1], states["e", 1])
    assert torch.equal(pooled[2], states["a", 2])


def test_pool_sources_in_global_graph_uses_sources_of_last_node() -> None:
    composition = dag("a b c d e f", "a>c b>c c>d e>f")
    inputs = global_inputs(composition, "d", "f", "f", "c", "x")
    h = torch.randn(len(inputs.nodes), 4)
    states, pooled = by_key(inputs, h), pool_sources(h, inputs)
    assert torch.equal(pooled[0], torch.maximum(states["a"], states["b"]))
    assert torch.equal(pooled[1], states["e"])
    assert torch.equal(pooled[2], states["e"])
    assert torch.equal(pooled[3], pooled[0])
    assert torch.equal(pooled[4], states["x"])


def test_reverse_states_depend_on_nodes_up_to_frontier() -> None:
    net = network(reverse=True)
    inputs = inputs_of(upstream(DIAMOND, "d"))
    width = (LAYERS + 1) * WIDTH
    keys = dependencies(net, net.embed, inputs, lambda i: net.attend(i)[0][:, width:])
    assert keys == {
        "a": set("abced"),
        "b": {"b", "d"},
        "c": {"c", "e", "d"},
        "e": {"e", "d"},
        "d": {"d"},
    }
    assert net.states(inputs).shape == (1, 2 * width)


# The global graph


def test_global_graph_states_depend_only_on_ancestors() -> None:
    net, composition = network(), DAGS[0]
    keys = dependencies(net, net.embed, global_inputs(composition, "a"), states_of(net))
    ancestors = ancestors_of(composition)
    for node in composition.by_id:
        assert keys[node] == {node} | ancestors[node]


@pytest.mark.parametrize("reverse", [False, True])
def test_scores_depend_only_on_last_node_with_global_graph(reverse: bool) -> None:
    world = everything()
    contexts = [Context(("table_l", "hub")), Context(("table_r", "hub")), Context(("hub",))]
    encoded = world.data.vocabulary.encode(contexts)
    for graph, equal in (("global", True), ("upstream", False)):
        model = create("dagnn", {"graph": graph, "reverse": reverse, "epochs": 2, "width": 8})
        scores = model.fit(world.data).score(encoded)
        assert np.allclose(scores, scores[:1], atol=1e-5) == equal


# Attention


@pytest.mark.parametrize("reverse", [False, True])
def test_attention_covers_parents_then_children(reverse: bool) -> None:
    model = create("dagnn", {"epochs": 1, "width": 4, "layers": 3, "reverse": reverse})
    assert isinstance(model, DAGNN)
    world = everything()
    attention = model.fit(world.data).attention(
        context_at(next(c for c in world.compositions if c.id == "diamond"), "report")
    )
    n = len(attention.nodes)
    assert attention.weights.shape == (6 if reverse else 3, 1, n, n)
    links = np.zeros((n, n), dtype=bool)
    for a, b in world.compositions[3].links:
        links[attention.nodes.index(b), attention.nodes.index(a)] = True
    assert attention.nodes[0] == "table_d"
    for layer, weights in enumerate(attention.weights[:, 0]):
        allowed = links if layer < 3 else links.T
        assert not weights[~allowed].any()
        np.testing.assert_allclose(weights.sum(axis=1), allowed.any(axis=1), atol=1e-6)
    assert (
        0 < attention.weights[0, 0, attention.nodes.index("merge"), attention.nodes.index("left")] < 1
    )


def test_attention_weights_reproduce_states() -> None:
    """The state of a node follows from the message that the weights define."""
    net, inputs = network(layers=1), inputs_of(all_nodes(DAGS[1]))
    h, pairs = net.attend(inputs)
    x, after = h.split(WIDTH, dim=1)
    dense = torch.zeros(len(x), len(x))
    dense[pairs.queries, pairs.keys] = pairs.weights[0][:, 0]
    cell = net.forward_layers[0].cell
    assert isinstance(cell, nn.GRUCell)
    assert_close(cell(x, dense @ after), after)


# Training


def test_parameter_count_matches_formula() -> None:
    nodes, services, wide = len(VOCABULARY), len(KEYS), (LAYERS + 1) * WIDTH
    layer = 6 * WIDTH * (WIDTH + 1) + WIDTH
    expected = nodes * WIDTH + LAYERS * layer + nodes * wide + services * (wide + 1)
    assert sum(p.numel() for p in network().parameters()) == expected


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_match_finite_differences(shape: dict[str, object]) -> None:
    assert_gradients_match_finite_differences(
        network(**shape, width=2, layers=2).double(), inputs_of(upstream(DIAMOND, "d"))
    )


def test_all_parameters_have_gradient_without_links() -> None:
    for shape in SHAPES:
        assert_gradient_without_links(network(**shape))


def test_dropout_is_active_only_in_training() -> None:
    kinds = ("embedding_dropout", "hidden_dropout")
    assert_dropout_only_in_training(network, upstream(DIAMOND, "d"), kinds)
