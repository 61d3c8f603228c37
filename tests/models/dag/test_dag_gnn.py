from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dagrec.data.compositions import Composition
from dagrec.data.examples import Context, extract
from dagrec.graph.upstream import Upstream
from dagrec.models.dag.dag_gnn import DagGnnConfig, DagGnnNetwork, Layer
from dagrec.models.registry import create
from tests.data.dags import dag
from tests.models.dag.laid_out import (
    VOCABULARY,
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
    stirred,
    upstream,
    whole,
)
from tests.worlds import everything

WIDTH = 5
DAGS = [random_dag(11, seed) for seed in range(4)]
STILL: dict[str, object] = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}


def network(**options: object) -> DagGnnNetwork:
    config = DagGnnConfig.model_validate({"width": WIDTH, "layers": 2, **options})
    net = DagGnnNetwork(config, len(VOCABULARY), len(VOCABULARY.services))
    stirred(net)
    return net


def layers(net: DagGnnNetwork) -> list[Layer]:
    return [layer for layer in net.layers if isinstance(layer, Layer)]


@pytest.fixture(autouse=True)
def _own_generator() -> object:
    with own_generator():
        yield


def turned(composition: Composition) -> Composition:
    return dag(" ".join(composition.order), " ".join(f"{b}>{a}" for a, b in composition.links))


# The formula


def test_states_follow_the_formula() -> None:
    net = network()
    for composition in DAGS:
        inputs = inputs_of(whole(composition))
        h = {key: net.embed.weight[VOCABULARY.ids[key]] for key in composition.by_id}
        for layer in layers(net):
            out = {}
            for key in h:
                total = layer.own(h[key])
                for weight, others in (
                    (layer.from_parents, composition.parents[key]),
                    (layer.from_children, composition.children[key]),
                ):
                    if others:
                        total = total + torch.stack([weight(h[other]) for other in others]).mean(dim=0)
                out[key] = layer.norm(h[key] + nn.functional.gelu(total))
            h = out
        found = by_key(inputs, net.node_states(inputs))
        for key, expected in h.items():
            assert close(found[key], expected)


def test_without_messages_a_layer_norms_and_nothing_else() -> None:
    net, inputs = network(layers=1), inputs_of(whole(DAGS[0]))
    layer = layers(net)[0]
    with torch.no_grad():
        for weight in (layer.own, layer.from_parents, layer.from_children):
            weight.weight.zero_()
    assert close(net.node_states(inputs), layer.norm(net.embed(inputs.nodes)))


def test_turning_links_is_swapping_the_weights_of_parents_and_children() -> None:
    net = network()
    for composition in DAGS:
        inputs, other = inputs_of(whole(composition)), inputs_of(whole(turned(composition)))
        expected = by_key(inputs, net.node_states(inputs))
        for layer in layers(net):
            layer.from_parents, layer.from_children = layer.from_children, layer.from_parents
        found = by_key(other, net.node_states(other))
        for layer in layers(net):
            layer.from_parents, layer.from_children = layer.from_children, layer.from_parents
        assert all(close(found[key], expected[key]) for key in expected)


def test_two_equal_parents_say_what_one_says() -> None:
    net = network(layers=1)
    once = inputs_of(upstream(dag("t a:x d", "t>a a>d"), "d"))
    twice = inputs_of(upstream(dag("t a:x b:x d", "t>a t>b a>d b>d"), "d"))
    assert close(net(once), net(twice))


# What a state depends on


@pytest.mark.parametrize("count", [1, 2, 3])
def test_layers_see_as_many_links_far_up_and_down(count: int) -> None:
    net = network(layers=count)
    inputs = inputs_of(whole(dag("a b c d e f g h", "a>b b>c c>d d>e e>f f>g g>h")))
    found = reads(net, net.embed, inputs, net.node_states)
    for i, key in enumerate("abcdefgh"):
        assert found[key] == set("abcdefgh"[max(0, i - count) : i + count + 1])


def test_children_speak_only_upstream_of_the_frontier() -> None:
    """What the frontier feeds in the composition, and what lies beside it, never enters."""
    composition = dag("a b c d x y z", "a>b b>c a>c c>x c>y b>z")
    bare = dag("a b c d", "a>b b>c a>c")
    net = network()
    assert torch.equal(net(inputs_of(upstream(composition, "c"))), net(inputs_of(upstream(bare, "c"))))
    found = reads(net, net.embed, inputs_of(upstream(composition, "c")), net.node_states)
    assert set().union(*found.values()) == set("abc")


def test_the_answer_cannot_leak() -> None:
    """Whatever followed a context in its composition, the context is scored the same."""
    world = everything()
    model = create("dag_gnn", {"epochs": 2, "width": 8}).fit(world.data)
    for target in ("left", "nobody"):
        composition = dag("table_d split answer:" + target, "table_d>split split>answer")
        example = extract([composition])[0][-1]
        assert example.target == target
        scores = model.score(world.data.vocabulary.encode([example.context]))
        bare = model.score(world.data.vocabulary.encode([Context(example.context.path)]))
        np.testing.assert_allclose(scores, bare, rtol=1e-5)


def test_a_batch_of_dags_equals_each_alone() -> None:
    dags = [upstream(c, node) for c in DAGS for node in ("c", "h", "k")]
    assert each_alone(network(), [*dags, Upstream(("z",), ((),), ("k", "nobody"))])


def test_the_order_in_a_document_changes_nothing() -> None:
    net = network()
    one = dag("t u a b c d", "t>a u>b a>c b>c a>d c>d u>d")
    other = dag("d c b a u t", "u>d c>d a>d b>c a>c u>b t>a")
    assert close(net(inputs_of(upstream(one, "d"))), net(inputs_of(upstream(other, "d"))))


def test_with_the_global_graph_messages_run_along_training_links() -> None:
    net = network(layers=1)
    composition = dag("a b c d", "a>b b>c b>d")
    found = reads(net, net.embed, global_inputs(composition, "b"), net.node_states)
    assert found["b"] == set("abcd")
    assert found["a"] == {"a", "b"}
    assert found["x"] == {"x"}


# Training


def test_gradients_are_those_of_finite_differences() -> None:
    assert_gradients(network().double(), inputs_of(upstream(DAGS[0], "k")))


def test_links_are_not_needed_for_a_gradient_everywhere() -> None:
    assert_gradient_without_links(network())


def test_dropout_acts_in_training_alone() -> None:
    kinds = ("embedding_dropout", "hidden_dropout")
    assert_dropout_in_training_alone(network, upstream(DAGS[0], "k"), kinds)
