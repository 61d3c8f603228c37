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
    assert_close,
    context,
    id_of,
    index_of,
    inputs_at,
    inputs_of,
    keys_with_gradient,
    randomise_zero_parameters,
    torch_attention,
)
from tests.worlds import everything

COUNTS = {("a", "b"): 7.0, ("t", "a"): 2.0, ("a", "c"): 1.0, ("h", "a"): 3.0}


def observed(counts: dict[tuple[str, str], float] = COUNTS) -> Successors:
    return Successors.of(
        len(LETTERS), {(id_of(a), LETTERS.columns[b]): n for (a, b), n in counts.items()}
    )


def network(successors: Successors | None = None, **options: object) -> DAGCNNetwork:
    config = DAGCNConfig(**{"width": 8, **options})
    torch.manual_seed(0)
    net = DAGCNNetwork(config, len(LETTERS), len(LETTERS.services), successors or observed()).eval()
    randomise_zero_parameters(net)
    return net


# Counts


def test_link_weight_is_log_of_count() -> None:
    pairs = [("a", "b"), ("t", "a"), ("a", "c"), ("h", "a"), ("b", "a"), ("h", "h"), ("t", "u")]
    sources, targets = (torch.tensor([id_of(pair[end]) for pair in pairs]) for end in (0, 1))
    expected = [
        math.log(1 + n) for n in (7, 2, 1, 3, 1, 1, 1)
    ]  # an unseen link weighs as much as one with count 1
    assert_close(LinkWeights(observed())(sources, targets), torch.tensor(expected))


def test_link_weight_grows_slowly_with_count() -> None:
    weights = LinkWeights(observed({("a", "b"): 1.0, ("a", "c"): 10000.0}))
    source = torch.tensor([id_of("a")] * 2)
    few, many = weights(source, torch.tensor([id_of("b"), id_of("c")])).tolist()
    assert 1 < many / few < 14


def test_counts_are_not_in_state_dict() -> None:
    assert not any(name.startswith("links") for name in network().state_dict())


def test_counts_come_from_training_data() -> None:
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
    assert_close(network.links(*ends), torch.tensor([math.log(3)]))


# Formula


def reference_layer(net: DAGCNNetwork, inputs: GraphInputs, h: Tensor, number: int) -> Tensor:
    """Return the states after one layer, computed node by node with torch's attention."""
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
    masked = ~torch.eye(len(h), dtype=torch.bool)
    masked[inputs.descendants, inputs.ancestors] = False
    attended, _ = torch_attention(layer.attend)(h[None], g[None], g[None], attn_mask=masked)
    h = layer.norm_attention(h + attended[0])
    result: Tensor = layer.norm_feed(h + layer.feed(h))
    return result


@pytest.mark.parametrize(("links", "node"), [(CHAIN, "d"), (DIAMOND, "d"), (SKIP, "d"), ("", "a")])
def test_states_match_reference(links: str, node: str) -> None:
    net, inputs = network(layers=2), inputs_at(links, node)
    states = [net.embed(inputs.nodes)]
    for number in range(2):
        states.append(reference_layer(net, inputs, states[-1], number))
    logits = torch.stack([net.layer_score(h) for h in states])
    expected = (logits.softmax(dim=0) * torch.stack(states)).sum(dim=0)
    assert_close(net.attend(inputs)[0], expected)


def test_zero_layer_scores_average_layers() -> None:
    net, inputs = network(layers=1), inputs_at(DIAMOND, "d")
    with torch.no_grad():
        net.layer_score.weight.zero_()
    first = net.embed(inputs.nodes)
    assert_close(net.attend(inputs)[0], (first + reference_layer(net, inputs, first, 0)) / 2)


@pytest.mark.parametrize("layers", [1, 3])
def test_attention_is_restricted_to_ancestors(layers: int) -> None:
    net, inputs = network(layers=layers), inputs_at("t>a t>b a>c b>c u>c", "c")
    h, pairs = net.attend(inputs)
    expected = {"t": "t", "u": "u", "a": "ta", "b": "tb", "c": "tuabc"}
    for key, keys in expected.items():
        assert keys_with_gradient(h[index_of(inputs, key)], net.embed) == set(keys)
    assert len(pairs.queries) == len(inputs.ancestors) + len(inputs.nodes)
    for weights in pairs.weights:
        sums = torch.zeros(len(h), 2).index_add(0, pairs.queries, weights)
        assert_close(sums, torch.ones_like(sums))


def test_scores_depend_only_on_counts_of_present_links() -> None:
    inputs = inputs_at("t>a a>b", "b")
    before = network()(inputs)
    assert not torch.allclose(network(observed(COUNTS | {("a", "b"): 70.0}))(inputs), before)
    assert torch.equal(network(observed(COUNTS | {("g", "e"): 70.0}))(inputs), before)


def test_batch_equals_single_dags() -> None:
    net = network()
    contexts = [context(DIAMOND, "d"), context("", "a"), context(SKIP, "d"), context(CHAIN, "b")]
    single = torch.cat([net(inputs_of(item)) for item in contexts])
    assert_close(net(inputs_of(*contexts)), single)


def test_attention_rows_sum_to_1_over_ancestors() -> None:
    model = create("dagcn", {"epochs": 2, "width": 8, "layers": 1})
    assert isinstance(model, DAGCN)
    model.fit(everything().data)
    attention = model.attention(context_at(everything().compositions[3], "merge"))
    assert attention.weights.shape == (1, 2, 5, 5)
    np.testing.assert_allclose(attention.weights.sum(axis=3), 1, rtol=1e-5)
    assert not np.triu(attention.weights[0, 0], 1).any()


def test_width_must_be_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match="multiple of heads, found 8 and 3"):
        DAGCNConfig(width=8, heads=3)
