from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import ConfigError
from dagrec.models.bipartite.graph import LayerInputs
from dagrec.models.bipartite.layergcn import LayerGCNConfig, LayerGCNNetwork
from dagrec.models.bipartite.lightgcn import LightGCNConfig, LightGCNNetwork
from dagrec.models.registry import create
from dagrec.types import Floats
from tests.checks import says
from tests.models.bipartite.dense import (
    DETERMINISTIC,
    NODES,
    SERVICES,
    SETS,
    adjacency,
    adjacency_of,
    ego_layer,
    inputs,
    interactions,
    network,
    to_numpy,
)
from tests.worlds import everything

LINKS = sum(len(items) for items in dict.fromkeys(SETS))


def layergcn(
    sets: tuple[tuple[int, ...], ...] = SETS, *, merged: bool = True, **options: float
) -> LayerGCNNetwork:
    config = LayerGCNConfig.model_validate({**DETERMINISTIC, **options})
    return network(LayerGCNNetwork, config, interactions(sets, merged=merged))


def training(net: LayerGCNNetwork) -> LayerGCNNetwork:
    net.train()
    return net


# Layers


def test_factors_follow_formula() -> None:
    net = layergcn(layers=3, merged=False)
    ego = layer = ego_layer(to_numpy(net.embed.weight))
    total = np.zeros_like(ego)
    for _ in range(3):
        aggregated = adjacency() @ layer
        norms = np.linalg.norm(aggregated, axis=1) * np.linalg.norm(ego, axis=1)
        cosines = (aggregated * ego).sum(axis=1) / np.where(norms == 0, 1, norms)
        layer = cosines[:, None] * aggregated
        total += layer
    z_x, z_y = net.factors(inputs(*SETS))
    np.testing.assert_allclose(
        to_numpy(z_y), total[FIRST_SERVICE : FIRST_SERVICE + SERVICES], rtol=1e-6
    )
    np.testing.assert_allclose(to_numpy(z_x), total[NODES:], rtol=1e-6)


def test_gate_is_signed_cosine() -> None:
    net = layergcn()
    aggregated = torch.tensor([[3.0, 4.0], [-3.0, -4.0], [4.0, -3.0], [0.0, 0.0]])
    ego = torch.tensor([[3.0, 4.0]]).expand(4, 2)
    out = net.layer(0, LayerInputs(aggregated, ego, aggregated[:, :1]), None)
    torch.testing.assert_close(out, torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]))


def gates(net: LayerGCNNetwork) -> list[Floats]:
    """Return the factor of each row in each layer; 0 for rows without neighbours."""
    layers = net.propagate().layers
    a = net.adjacency()
    result = []
    for before, after in pairwise(layers):
        aggregated = a.aggregate(before)
        squares = aggregated.square().sum(dim=1)
        result.append(to_numpy((aggregated * after).sum(dim=1) / squares.clamp(min=1e-300)))
    return result


def test_gates_are_invariant_to_scale_of_vectors() -> None:
    net = layergcn(layers=3)
    before, factors = gates(net), net.factors(inputs((2, 4), (8,)))
    assert all(np.abs(gate).max() <= 1 + 1e-9 for gate in before)
    assert any((gate < 0.9).any() for gate in before)
    with torch.no_grad():
        net.embed.weight.mul_(7)
    np.testing.assert_allclose(gates(net), before, atol=1e-9)
    for z, scaled in zip(factors, net.factors(inputs((2, 4), (8,))), strict=True):
        torch.testing.assert_close(7 * z, scaled)


def test_parallel_vectors_give_sum_of_lightgcn_layers() -> None:
    net = layergcn(layers=3)
    lightgcn = network(LightGCNNetwork, LightGCNConfig(**DETERMINISTIC, layers=3))
    lengths = torch.arange(1.0, NODES + 1, dtype=torch.float64)
    with torch.no_grad():
        net.embed.weight.copy_(lengths[:, None] * net.embed.weight[4])
        lightgcn.embed.weight.copy_(net.embed.weight)
    layers = lightgcn.propagate().layers
    expected = torch.stack(layers[1:]).sum(dim=0)
    torch.testing.assert_close(net.readout(net.propagate().layers), expected)


def test_readout_excludes_the_ego_layer() -> None:
    net = layergcn()
    z_y = net.factors(inputs((2,)))[1]
    assert not z_y[7 - FIRST_SERVICE].any()
    assert net.embed.weight[7].all()


def test_config_rejects_0_layers() -> None:
    with pytest.raises(ConfigError) as error:
        create("layergcn", {"layers": 0})
    assert says(error, "layergcn", "layers", "greater than or equal to 1", "found 0")


# Pruning


def epoch_links(net: LayerGCNNetwork, number: int) -> list[int]:
    net.begin_epoch(number)
    assert net._epoch_links is not None
    return sorted(net._epoch_links.tolist())


def test_each_epoch_keeps_a_new_sample_of_the_same_size() -> None:
    net = training(layergcn(pruned_share=0.3))
    torch.manual_seed(0)
    for number in (0, 1):
        samples = [epoch_links(net, number) for _ in range(20)]
        assert {len(set(sample)) for sample in samples} == {LINKS - int(0.3 * LINKS)}
        assert len(set(map(tuple, samples))) > 10


def test_pruning_is_reproducible() -> None:
    net = training(layergcn(pruned_share=0.3))
    samples = []
    for _ in range(2):
        torch.manual_seed(5)
        samples.append([epoch_links(net, number) for number in range(4)])
    assert samples[0] == samples[1]


def test_pruned_graph_has_its_own_degrees() -> None:
    net = training(layergcn(pruned_share=0.4))
    torch.manual_seed(0)
    links = epoch_links(net, 0)
    users, items = (part[links].tolist() for part in (net.graph.users, net.graph.items))
    weights = net.graph.weights.tolist()
    degrees = {i: sum(weights[u] for u, j in zip(users, items, strict=True) if i == j) for i in items}
    expected = np.zeros((NODES + len(weights),) * 2)
    for u, i in zip(users, items, strict=True):
        value = np.sqrt(weights[u] / (users.count(u) * degrees[i]))
        expected[i, NODES + u] = expected[NODES + u, i] = value
    np.testing.assert_allclose(adjacency_of(net), expected, rtol=1e-6)
    pruned = net.factors(inputs((2, 4)))[0]
    net.eval()
    assert not torch.allclose(net.factors(inputs((2, 4)))[0], pruned)


def test_evaluation_uses_all_links() -> None:
    net = layergcn(pruned_share=0.5)
    before = net.factors(inputs((2, 4)))
    net.train().begin_epoch(0)
    net.eval()
    for expected, actual in zip(before, net.factors(inputs((2, 4))), strict=True):
        torch.testing.assert_close(actual, expected)


def test_training_without_pruning_equals_evaluation() -> None:
    net = layergcn(pruned_share=0.0)
    before = net.factors(inputs((2, 4)))
    state = torch.get_rng_state()
    net.train().begin_epoch(0)
    assert torch.equal(torch.get_rng_state(), state)
    for expected, actual in zip(before, net.factors(inputs((2, 4))), strict=True):
        assert torch.equal(actual, expected)


def inclusion_probabilities(weights: Floats, size: int) -> Floats:
    """Return the probability of each item to be in a weighted sample without replacement."""
    total = np.zeros(len(weights))
    for order in permutations(range(len(weights)), size):
        probability, remaining = 1.0, weights.sum()
        for item in order:
            probability *= weights[item] / remaining
            remaining -= weights[item]
        total[list(order)] += probability
    return total


def frequencies(net: LayerGCNNetwork, number: int, draws: int) -> Floats:
    counts = np.zeros(len(net.graph.users))
    for _ in range(draws):
        counts[epoch_links(net, number)] += 1
    return counts / draws


def test_even_epochs_prune_links_of_high_degree_most() -> None:
    """Item 2 is in six compositions, in one of them together with 3 and 4."""
    net = training(layergcn(((2,), (2, 3, 4), (2,), (2,), (2,), (2,)), pruned_share=0.5))
    users, items = net.graph.users.tolist(), net.graph.items.tolist()
    assert (users, items) == ([0, 1, 1, 1], [2, 2, 3, 4])
    weights = np.array([1 / np.sqrt(1 * 6), 1 / np.sqrt(3 * 6), 1 / np.sqrt(3), 1 / np.sqrt(3)])
    draws = 1500
    error = 4 * np.sqrt(0.25 / draws)
    torch.manual_seed(0)
    even, odd = frequencies(net, 4, draws), frequencies(net, 3, draws)
    np.testing.assert_allclose(even, inclusion_probabilities(weights, 2), atol=error)
    np.testing.assert_allclose(odd, 0.5, atol=error)
    assert even[1] < even[0] < even[2]


def test_pruning_supports_more_links_than_torch_multinomial() -> None:
    """torch.multinomial supports at most 2^24 categories."""
    net = training(layergcn(pruned_share=0.9999))
    num_links = 2**24 + 5
    net.graph.users = torch.zeros(1, dtype=torch.int64).expand(num_links)
    net.graph.items = torch.full((1,), 2).expand(num_links)
    links = epoch_links(net, 1)
    assert len(links) == num_links - int(0.9999 * num_links)
    assert links[0] < num_links / 100
    assert links[-1] > 0.99 * num_links


def test_fit_uses_pruning() -> None:
    data = everything().data
    options = {"epochs": 3, "min_steps": 0}
    full, pruned = (
        create("layergcn", {**options, "pruned_share": share}).fit(data) for share in (0.0, 0.4)
    )
    assert full.history != pruned.history
