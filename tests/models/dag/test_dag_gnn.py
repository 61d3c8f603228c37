from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dagrec.data.examples import Context, extract
from dagrec.graph.upstream import Upstream
from dagrec.models.dag.dag_gnn import DagGnnConfig, DagGnnNetwork, Layer
from dagrec.models.registry import create
from tests.data.dags import dag
from tests.models.dag.layout import (
    VOCABULARY,
    all_nodes,
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
    reversed_dag,
    upstream,
)
from tests.worlds import everything

WIDTH = 5
DAGS = [random_dag(11, seed) for seed in range(4)]
NO_DROPOUT: dict[str, object] = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}


def network(**options: object) -> DagGnnNetwork:
    config = DagGnnConfig.model_validate({"width": WIDTH, "layers": 2, **options})
    net = DagGnnNetwork(config, len(VOCABULARY), len(VOCABULARY.services))
    randomise_parameters(net)
    return net


def layers(net: DagGnnNetwork) -> list[Layer]:
    return [layer for layer in net.layers if isinstance(layer, Layer)]


# Formula


def test_states_match_formula() -> None:
    net = network()
    for composition in DAGS:
        inputs = inputs_of(all_nodes(composition))
        h = {key: net.embed.weight[VOCABULARY.ids[key]] for key in composition.by_id}
        for layer in layers(net):
            new_h = {}
            for key in h:
                total = layer.from_self(h[key])
                for weight, others in (
                    (layer.from_parents, composition.parents[key]),
                    (layer.from_children, composition.children[key]),
                ):
                    if others:
                        total = total + torch.stack([weight(h[other]) for other in others]).mean(dim=0)
                new_h[key] = layer.norm(h[key] + nn.functional.gelu(total))
            h = new_h
        states = by_key(inputs, net.node_states(inputs))
        for key, expected in h.items():
            assert_close(states[key], expected)


def test_layer_without_messages_only_normalises() -> None:
    net, inputs = network(layers=1), inputs_of(all_nodes(DAGS[0]))
    layer = layers(net)[0]
    with torch.no_grad():
        for weight in (layer.from_self, layer.from_parents, layer.from_children):
            weight.weight.zero_()
    assert_close(net.node_states(inputs), layer.norm(net.embed(inputs.nodes)))


def test_reversing_links_equals_swapping_weights() -> None:
    net = network()
    for composition in DAGS:
        inputs, reversed_inputs = (
            inputs_of(all_nodes(composition)),
            inputs_of(all_nodes(reversed_dag(composition))),
        )
        expected = by_key(inputs, net.node_states(inputs))
        for layer in layers(net):
            layer.from_parents, layer.from_children = layer.from_children, layer.from_parents
        states = by_key(reversed_inputs, net.node_states(reversed_inputs))
        for layer in layers(net):
            layer.from_parents, layer.from_children = layer.from_children, layer.from_parents
        for key in expected:
            assert_close(states[key], expected[key])


def test_equal_parents_count_once() -> None:
    net = network(layers=1)
    once = inputs_of(upstream(dag("t a:x d", "t>a a>d"), "d"))
    twice = inputs_of(upstream(dag("t a:x b:x d", "t>a t>b a>d b>d"), "d"))
    assert_close(net(once), net(twice))


# Dependencies of states


@pytest.mark.parametrize("count", [1, 2, 3])
def test_states_depend_on_nodes_within_as_many_links_as_layers(count: int) -> None:
    net = network(layers=count)
    inputs = inputs_of(all_nodes(dag("a b c d e f g h", "a>b b>c c>d d>e e>f f>g g>h")))
    keys = dependencies(net, net.embed, inputs, net.node_states)
    for i, key in enumerate("abcdefgh"):
        assert keys[key] == set("abcdefgh"[max(0, i - count) : i + count + 1])


def test_messages_come_only_from_upstream_nodes() -> None:
    """Children of the frontier and parallel branches have no effect."""
    composition = dag("a b c d x y z", "a>b b>c a>c c>x c>y b>z")
    bare = dag("a b c d", "a>b b>c a>c")
    net = network()
    assert torch.equal(net(inputs_of(upstream(composition, "c"))), net(inputs_of(upstream(bare, "c"))))
    keys = dependencies(net, net.embed, inputs_of(upstream(composition, "c")), net.node_states)
    assert set().union(*keys.values()) == set("abc")


def test_scores_do_not_depend_on_target() -> None:
    """The scores of a context do not depend on what follows it in its composition."""
    world = everything()
    model = create("dag_gnn", {"epochs": 2, "width": 8}).fit(world.data)
    for target in ("left", "nobody"):
        composition = dag("table_d split answer:" + target, "table_d>split split>answer")
        example = extract([composition])[0][-1]
        assert example.target == target
        scores = model.score(world.data.vocabulary.encode([example.context]))
        bare = model.score(world.data.vocabulary.encode([Context(example.context.path)]))
        np.testing.assert_allclose(scores, bare, rtol=1e-5)


def test_batch_equals_single_dags() -> None:
    dags = [upstream(c, node) for c in DAGS for node in ("c", "h", "k")]
    assert_batch_equals_single(network(), [*dags, Upstream(("z",), ((),), ("k", "nobody"))])


def test_scores_do_not_depend_on_document_order() -> None:
    net = network()
    one = dag("t u a b c d", "t>a u>b a>c b>c a>d c>d u>d")
    other = dag("d c b a u t", "u>d c>d a>d b>c a>c u>b t>a")
    assert_close(net(inputs_of(upstream(one, "d"))), net(inputs_of(upstream(other, "d"))))


def test_global_graph_passes_messages_along_training_links() -> None:
    net = network(layers=1)
    composition = dag("a b c d", "a>b b>c b>d")
    keys = dependencies(net, net.embed, global_inputs(composition, "b"), net.node_states)
    assert keys["b"] == set("abcd")
    assert keys["a"] == {"a", "b"}
    assert keys["x"] == {"x"}


# Training


def test_gradients_match_finite_differences() -> None:
    assert_gradients_match_finite_differences(network().double(), inputs_of(upstream(DAGS[0], "k")))


def test_all_parameters_have_gradient_without_links() -> None:
    assert_gradient_without_links(network())


def test_dropout_is_active_only_in_training() -> None:
    kinds = ("embedding_dropout", "hidden_dropout")
    assert_dropout_only_in_training(network, upstream(DAGS[0], "k"), kinds)
