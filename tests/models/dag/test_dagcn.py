from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dagrec.data.examples import Context, Example, context_at
from dagrec.graph.service_graph import Successors
from dagrec.models.dag.dagcn import DAGCN, DAGCNConfig, DAGCNNetwork, LinkWeights
from dagrec.models.dag.graphs import GraphInputs
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from tests.models.dag.inputs import (
    CHAIN,
    DIAMOND,
    LETTERS,
    SKIP,
    at,
    close,
    context,
    id_of,
    inputs_of,
    keys_that_reach,
    own_generator,
    place,
    stirred,
    torch_attention,
)
from tests.worlds import everything

_own_generator = pytest.fixture(autouse=True)(own_generator)

COUNTS = {("a", "b"): 7.0, ("t", "a"): 2.0, ("a", "c"): 1.0, ("h", "a"): 3.0}


def observed(counts: dict[tuple[str, str], float] = COUNTS) -> Successors:
    return Successors.of(
        len(LETTERS), {(id_of(a), LETTERS.columns[b]): n for (a, b), n in counts.items()}
    )


def network(seen: Successors | None = None, **options: object) -> DAGCNNetwork:
    config = DAGCNConfig(**{"width": 8, **options})
    torch.manual_seed(0)
    net = DAGCNNetwork(config, len(LETTERS), len(LETTERS.services), seen or observed()).eval()
    stirred(net)
    return net


# Counts


def test_a_link_weighs_the_logarithm_of_its_count() -> None:
    pairs = [("a", "b"), ("t", "a"), ("a", "c"), ("h", "a"), ("b", "a"), ("h", "h"), ("t", "u")]
    sources, targets = (torch.tensor([id_of(pair[end]) for pair in pairs]) for end in (0, 1))
    expected = [math.log(1 + n) for n in (7, 2, 1, 3, 1, 1, 1)]  # never seen is as seen once
    assert close(LinkWeights(observed())(sources, targets), torch.tensor(expected))


def test_the_scale_of_a_message_does_not_follow_popularity() -> None:
    weights = LinkWeights(observed({("a", "b"): 1.0, ("a", "c"): 10000.0}))
    source = torch.tensor([id_of("a")] * 2)
    few, many = weights(source, torch.tensor([id_of("b"), id_of("c")])).tolist()
    assert 1 < many / few < 14


def test_counts_are_not_stored() -> None:
    assert not any(name.startswith("links") for name in network().state_dict())


def test_counts_are_those_of_the_training_data() -> None:
    paths = [("t", "a"), ("t", "a", "b"), ("t", "a", "c")]
    data = TrainingData.of(
        [Example(Context(path[:-1]), path[-1], "n", i) for i, path in enumerate(paths * 2)]
    )
    model = create("dagcn", {"epochs": 1, "width": 8})
    assert isinstance(model, DAGCN)
    model.fit(data)
    ids = data.vocabulary.ids
    ends = (torch.tensor([ids[key]]) for key in "ta")
    network = model.build(data.vocabulary, None)
    assert close(network.links(*ends), torch.tensor([math.log(3)]))


# The formula


def layer_by_hand(net: DAGCNNetwork, inputs: GraphInputs, h: Tensor, number: int) -> Tensor:
    """One layer, node by node, with torch's own attention."""
    layer = net.layers[number]
    names = (*LETTERS.services, *LETTERS.others)
    links = list(zip(inputs.sources.tolist(), inputs.targets.tolist(), strict=True))
    means = []
    for v in range(len(h)):
        edges = []
        for a, b in links:
            if b == v:
                count = COUNTS.get((names[inputs.nodes[a] - 2], names[inputs.nodes[b] - 2]), 1.0)
                edges.append((layer.source(h[a]) + layer.target(h[b])) * math.log(1 + count))
        means.append(torch.stack(edges).mean(dim=0) if edges else torch.zeros(h.shape[1]))
    g = torch.stack(means)
    hidden = ~torch.eye(len(h), dtype=torch.bool)
    hidden[inputs.descendants, inputs.ancestors] = False
    seen, _ = torch_attention(layer.attend)(h[None], g[None], g[None], attn_mask=hidden)
    h = layer.norm_attention(h + seen[0])
    found: Tensor = layer.norm_feed(h + layer.feed(h))
    return found


@pytest.mark.parametrize(("links", "node"), [(CHAIN, "d"), (DIAMOND, "d"), (SKIP, "d"), ("", "a")])
def test_states_follow_the_formula(links: str, node: str) -> None:
    net, inputs = network(layers=2), at(links, node)
    states = [net.embed(inputs.nodes)]
    for number in range(2):
        states.append(layer_by_hand(net, inputs, states[-1], number))
    logits = torch.stack([net.weigh(h) for h in states])
    expected = (logits.softmax(dim=0) * torch.stack(states)).sum(dim=0)
    assert close(net.attend(inputs)[0], expected)


def test_without_a_preference_layers_share_equally() -> None:
    net, inputs = network(layers=1), at(DIAMOND, "d")
    with torch.no_grad():
        net.weigh.weight.zero_()
    first = net.embed(inputs.nodes)
    assert close(net.attend(inputs)[0], (first + layer_by_hand(net, inputs, first, 0)) / 2)


@pytest.mark.parametrize("layers", [1, 3])
def test_attention_stays_upstream(layers: int) -> None:
    net, inputs = network(layers=layers), at("t>a t>b a>c b>c u>c", "c")
    h, looks = net.attend(inputs)
    expected = {"t": "t", "u": "u", "a": "ta", "b": "tb", "c": "tuabc"}
    for key, reached in expected.items():
        assert keys_that_reach(h[place(inputs, key)], net.embed) == set(reached)
    assert len(looks.queries) == len(inputs.ancestors) + len(inputs.nodes)
    for weights in looks.weights:
        sums = torch.zeros(len(h), 2).index_add(0, looks.queries, weights)
        assert close(sums, torch.ones_like(sums))


def test_a_count_matters_and_one_that_is_not_there_does_not() -> None:
    inputs = at("t>a a>b", "b")
    before = network()(inputs)
    assert not torch.allclose(network(observed(COUNTS | {("a", "b"): 70.0}))(inputs), before)
    assert torch.equal(network(observed(COUNTS | {("g", "e"): 70.0}))(inputs), before)


def test_other_dags_in_the_batch_change_nothing() -> None:
    net = network()
    asked = [context(DIAMOND, "d"), context("", "a"), context(SKIP, "d"), context(CHAIN, "b")]
    alone = torch.cat([net(inputs_of(one)) for one in asked])
    assert close(net(inputs_of(*asked)), alone)


def test_attention_of_a_context() -> None:
    model = create("dagcn", {"epochs": 2, "width": 8, "layers": 1})
    assert isinstance(model, DAGCN)
    model.fit(everything().data)
    found = model.attention(context_at(everything().compositions[3], "merge"))
    assert found.weights.shape == (1, 2, 5, 5)
    np.testing.assert_allclose(found.weights.sum(axis=3), 1, rtol=1e-5)
    assert not np.triu(found.weights[0, 0], 1).any()


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of heads, found 8 and 3"):
        DAGCNConfig(width=8, heads=3)
