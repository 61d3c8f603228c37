from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dagrec.data.compositions import Composition
from dagrec.data.examples import Context, context_at
from dagrec.graph.upstream import Upstream
from dagrec.models.dag.dagnn import DAGNN, DAGNNConfig, DAGNNNetwork, pool_sources, reverse_walk
from dagrec.models.dag.graphs import GraphInputs
from dagrec.models.registry import create
from tests.data.dags import chain, dag
from tests.models.dag.laid_out import (
    KEYS,
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
    keys_of,
    own_generator,
    random_dag,
    reads,
    states_of,
    stirred,
    upstream,
    whole,
)
from tests.worlds import everything

WIDTH, LAYERS = 6, 2
STILL = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
SHAPES: list[dict[str, object]] = [{}, {"attention": "multiplicative"}, {"reverse": True}]
DAGS = [random_dag(11, seed) for seed in range(4)]
DIAMOND = dag("a b c e d", "a>b b>d a>c c>e e>d")


def network(**options: object) -> DAGNNNetwork:
    config = DAGNNConfig.model_validate({"width": WIDTH, "layers": LAYERS, **options})
    net = DAGNNNetwork(config, len(VOCABULARY), len(VOCABULARY.services))
    stirred(net)
    return net


@pytest.fixture(autouse=True)
def _own_generator() -> object:
    with own_generator():
        yield


def states(net: DAGNNNetwork, inputs: GraphInputs) -> Tensor:
    """[N, (L + 1) H] against which the paper's formula stands."""
    return net.attend(inputs)[0][:, : (LAYERS + 1) * WIDTH]


# The formula


def by_hand(
    net: DAGNNNetwork, composition: Composition, query: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """The paper's equations one node after the other, w_q and all, in numpy."""
    weights = {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}
    key_rows = weights["embed.weight"]
    h = {node: [key_rows[VOCABULARY.ids[node]]] for node in composition.by_id}
    for layer in range(LAYERS):
        w_i, w_h, b_i, b_h = (
            weights[f"along.{layer}.cell.{kind}"]
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        w_k = weights[f"along.{layer}.key.weight"]
        for node in composition.order:
            x, m = h[node][layer], np.zeros(WIDTH)
            parents = composition.parents[node]
            if parents:
                said = np.stack([h[parent][layer + 1] for parent in parents])
                if net.along[layer].query is None:
                    logits = said @ w_k[0] + x @ query
                else:
                    w_q = weights[f"along.{layer}.query.weight"]
                    logits = (said @ w_k.T) @ (w_q @ x) / np.sqrt(WIDTH)
                a = np.exp(logits - logits.max())
                m = (a / a.sum()) @ said
            (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(w_i @ x + b_i, 3), np.split(w_h @ m + b_h, 3)
            r, z = 1 / (1 + np.exp(-(r_x + r_h))), 1 / (1 + np.exp(-(z_x + z_h)))
            n = np.tanh(n_x + r * n_h)
            h[node].append((1 - z) * n + z * m)
    return {node: np.concatenate(found) for node, found in h.items()}


@pytest.mark.parametrize("attention", ["additive", "multiplicative"])
def test_states_follow_the_paper_whatever_its_additive_query_is(attention: str) -> None:
    """w_q is the same for all parents of a node, and cancels; the network has none."""
    net = network(attention=attention)
    for seed, composition in enumerate(DAGS):
        query = np.random.default_rng(seed).normal(size=WIDTH) * 3
        found = by_key(inputs := inputs_of(whole(composition)), states(net, inputs))
        for node, expected in by_hand(net, composition, query).items():
            np.testing.assert_allclose(found[node].detach(), expected, rtol=1e-4, atol=1e-5)


def test_the_multiplicative_query_matters() -> None:
    net, inputs = network(attention="multiplicative"), inputs_of(whole(DIAMOND))
    before = states(net, inputs)
    with torch.no_grad():
        query = net.along[0].query
        assert isinstance(query, nn.Linear)
        query.weight.mul_(-1)
    after = states(net, inputs)
    moved = {key for key, same in by_key(inputs, (before == after).all(dim=1)).items() if not same}
    assert moved == {"d"}  # the only one with a choice


@pytest.mark.parametrize("attention", ["additive", "multiplicative"])
def test_a_layer_on_a_chain_is_a_gru(attention: str) -> None:
    net = network(attention=attention)
    keys = tuple("bdcabf")
    inputs = inputs_of(Upstream.of(Context(keys)))
    assert keys_of(inputs) == list(keys)
    found = states(net, inputs).split(WIDTH, dim=1)
    for layer in range(LAYERS):
        cell, h = net.along[layer].cell, torch.zeros(1, WIDTH)
        assert isinstance(cell, nn.GRUCell)
        for step in range(len(keys)):
            h = cell(found[layer][step : step + 1], h)
            assert close(found[layer + 1][step], h[0])


def test_two_layers_on_a_chain_are_torchs_gru_with_the_same_weights() -> None:
    net = network()
    bare = nn.GRU(WIDTH, WIDTH, num_layers=LAYERS)
    for name, tensor in bare.named_parameters():
        kind, layer = name.removesuffix(name[-3:]), int(name[-1])
        with torch.no_grad():
            tensor.copy_(getattr(net.along[layer].cell, kind))
    inputs = inputs_of(Upstream.of(Context(tuple("bdcabf"))))
    found = states(net, inputs).split(WIDTH, dim=1)
    assert close(found[LAYERS], bare(found[0])[0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_two_equal_parents_say_what_one_says(shape: dict[str, object]) -> None:
    """A softmax takes a mean; a sum would say it twice."""
    net = network(**shape)
    once = inputs_of(upstream(dag("t a:x d", "t>a a>d"), "d"))
    twice = inputs_of(upstream(dag("t a:x b:x d", "t>a t>b a>d b>d"), "d"))
    assert close(net.states(once), net.states(twice))
    other = inputs_of(upstream(dag("t a:x b:y d", "t>a t>b a>d b>d"), "d"))
    assert not torch.allclose(net.states(once), net.states(other))


def test_attention_is_over_states_of_the_same_layer() -> None:
    """Were it the layer below, one layer would see one link back."""
    net = network(layers=1)
    composition = chain(6)
    inputs = inputs_of(whole(dag("a b c d e f", "a>b b>c c>d d>e e>f")))
    assert len(composition.nodes) == len(inputs.nodes)
    found = reads(net, net.embed, inputs, states_of(net))
    assert found["f"] == set("abcdef")


# What a state depends on


@pytest.mark.parametrize("attention", ["additive", "multiplicative"])
def test_a_state_depends_on_the_node_and_its_ancestors_alone(attention: str) -> None:
    net = network(attention=attention)
    for composition in DAGS:
        above = ancestors_of(composition)
        found = reads(net, net.embed, inputs_of(whole(composition)), states_of(net))
        assert found == {node: {node} | above[node] for node in composition.by_id}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_batch_of_dags_equals_each_alone(shape: dict[str, object]) -> None:
    net = network(**shape)
    dags = [upstream(c, node) for c in DAGS for node in ("c", "h", "k")]
    assert each_alone(net, [*dags, Upstream(("z",), ((),), ("k", "nobody"))])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_order_in_a_document_changes_nothing(shape: dict[str, object]) -> None:
    net = network(**shape)
    one = dag("t u a b c d", "t>a u>b a>c b>c a>d c>d u>d")
    other = dag("d c b a u t", "u>d c>d a>d b>c a>c u>b t>a")
    assert upstream(one, "d").keys != upstream(other, "d").keys
    assert close(net(inputs_of(upstream(one, "d"))), net(inputs_of(upstream(other, "d"))))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_children_are_heard_if_they_are_read(shape: dict[str, object]) -> None:
    net = network(**shape)
    bare = Upstream(("a", "b"), ((), (0,)), ())
    fed = Upstream(("a", "b"), ((), (0,)), ("c",))
    assert not torch.allclose(net(inputs_of(bare)), net(inputs_of(fed)))


# Against the links


def turned(composition: Composition) -> Composition:
    return dag(" ".join(composition.order), " ".join(f"{b}>{a}" for a, b in composition.links))


def test_the_reverse_walk_is_the_walk_of_the_turned_dag() -> None:
    net = network(reverse=True)
    for composition in DAGS:
        inputs, other = inputs_of(whole(composition)), inputs_of(whole(turned(composition)))
        order, walk = reverse_walk(inputs)
        keys = [keys_of(inputs)[i] for i in order.tolist()]
        assert list(walk.sizes) == list(other.level_sizes)
        assert list(walk.link_sizes) == list(other.link_sizes)
        links = zip(walk.speakers.tolist(), walk.listeners.tolist(), strict=True)
        assert {(keys[b], keys[a]) for a, b in links} == set(composition.links)
        assert torch.nn.ModuleList is type(net.against)
        h = by_key(inputs, net.attend(inputs)[0][:, (LAYERS + 1) * WIDTH :])
        net.along, net.against = net.against, net.along
        expected = by_key(other, states(net, other))
        net.along, net.against = net.against, net.along
        for node in composition.by_id:
            assert close(h[node], expected[node])


def test_sources_are_pooled_for_each_frontier_by_itself() -> None:
    composition = dag("a b c d e f", "a>c b>c c>d e>f")
    inputs = inputs_of(
        upstream(composition, "d"), upstream(composition, "f"), upstream(composition, "a")
    )
    h = torch.randn(len(inputs.nodes), 4)
    own = {(key, int(g)): row for key, g, row in zip(keys_of(inputs), inputs.graph, h, strict=True)}
    found = pool_sources(h, inputs)
    assert torch.equal(found[0], torch.maximum(own["a", 0], own["b", 0]))
    assert torch.equal(found[1], own["e", 1])
    assert torch.equal(found[2], own["a", 2])


def test_in_the_global_graph_the_sources_are_those_above_the_last_node() -> None:
    composition = dag("a b c d e f", "a>c b>c c>d e>f")
    inputs = global_inputs(composition, "d", "f", "f", "c", "x")
    h = torch.randn(len(inputs.nodes), 4)
    own, found = by_key(inputs, h), pool_sources(h, inputs)
    assert torch.equal(found[0], torch.maximum(own["a"], own["b"]))
    assert torch.equal(found[1], own["e"])
    assert torch.equal(found[2], own["e"])
    assert torch.equal(found[3], found[0])
    assert torch.equal(found[4], own["x"])


def test_reverse_states_say_what_lies_between_a_source_and_the_frontier() -> None:
    net = network(reverse=True)
    inputs = inputs_of(upstream(DIAMOND, "d"))
    wide = (LAYERS + 1) * WIDTH
    found = reads(net, net.embed, inputs, lambda i: net.attend(i)[0][:, wide:])
    assert found == {
        "a": set("abced"),
        "b": {"b", "d"},
        "c": {"c", "e", "d"},
        "e": {"e", "d"},
        "d": {"d"},
    }
    assert net.states(inputs).shape == (1, 2 * wide)


# The global graph


def test_with_the_global_graph_ancestors_in_it_count_and_nothing_else() -> None:
    net, composition = network(), DAGS[0]
    found = reads(net, net.embed, global_inputs(composition, "a"), states_of(net))
    above = ancestors_of(composition)
    for node in composition.by_id:
        assert found[node] == {node} | above[node]


@pytest.mark.parametrize("reverse", [False, True])
def test_scores_are_a_function_of_the_last_node_with_the_global_graph_alone(reverse: bool) -> None:
    world = everything()
    contexts = [Context(("table_l", "hub")), Context(("table_r", "hub")), Context(("hub",))]
    encoded = world.data.vocabulary.encode(contexts)
    for graph, equal in (("global", True), ("upstream", False)):
        model = create("dagnn", {"graph": graph, "reverse": reverse, "epochs": 2, "width": 8})
        scores = model.fit(world.data).score(encoded)
        assert np.allclose(scores, scores[:1], atol=1e-5) == equal


# Attention


@pytest.mark.parametrize("reverse", [False, True])
def test_attention_is_over_parents_and_then_over_children(reverse: bool) -> None:
    model = create("dagnn", {"epochs": 1, "width": 4, "layers": 3, "reverse": reverse})
    assert isinstance(model, DAGNN)
    world = everything()
    found = model.fit(world.data).attention(
        context_at(next(c for c in world.compositions if c.id == "diamond"), "report")
    )
    n = len(found.nodes)
    assert found.weights.shape == (6 if reverse else 3, 1, n, n)
    links = np.zeros((n, n), dtype=bool)
    for a, b in world.compositions[3].links:
        links[found.nodes.index(b), found.nodes.index(a)] = True
    assert found.nodes[0] == "table_d"
    for layer, weights in enumerate(found.weights[:, 0]):
        allowed = links if layer < 3 else links.T
        assert not weights[~allowed].any()
        np.testing.assert_allclose(weights.sum(axis=1), allowed.any(axis=1), atol=1e-6)
    assert 0 < found.weights[0, 0, found.nodes.index("merge"), found.nodes.index("left")] < 1


def test_attention_is_what_the_answer_was_made_of() -> None:
    """The message of a node, taken from the weights, gives its state."""
    net, inputs = network(layers=1), inputs_of(whole(DAGS[1]))
    h, looks = net.attend(inputs)
    x, after = h.split(WIDTH, dim=1)
    dense = torch.zeros(len(x), len(x))
    dense[looks.queries, looks.keys] = looks.weights[0][:, 0]
    cell = net.along[0].cell
    assert isinstance(cell, nn.GRUCell)
    assert close(cell(x, dense @ after), after)


# Training


def test_parameters_are_those_of_the_formula() -> None:
    nodes, services, wide = len(VOCABULARY), len(KEYS), (LAYERS + 1) * WIDTH
    layer = 6 * WIDTH * (WIDTH + 1) + WIDTH
    expected = nodes * WIDTH + LAYERS * layer + nodes * wide + services * (wide + 1)
    assert sum(p.numel() for p in network().parameters()) == expected


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_those_of_finite_differences(shape: dict[str, object]) -> None:
    assert_gradients(network(**shape, width=2, layers=2).double(), inputs_of(upstream(DIAMOND, "d")))


def test_links_are_not_needed_for_a_gradient_everywhere() -> None:
    for shape in SHAPES:
        assert_gradient_without_links(network(**shape))


def test_dropout_acts_in_training_alone() -> None:
    kinds = ("embedding_dropout", "hidden_dropout")
    assert_dropout_in_training_alone(network, upstream(DIAMOND, "d"), kinds)
