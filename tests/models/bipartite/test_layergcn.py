from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import ConfigError
from dagrec.models.bipartite.graph import Rows
from dagrec.models.bipartite.layergcn import LayerGCNConfig, LayerGCNNetwork
from dagrec.models.bipartite.lightgcn import LightGCNConfig, LightGCNNetwork
from dagrec.models.registry import create
from dagrec.types import Floats
from tests.checks import says
from tests.models.bipartite.dense import (
    NODES,
    SERVICES,
    SETS,
    STILL,
    adjacency,
    ego,
    inputs,
    interactions,
    network,
    numbers,
)
from tests.worlds import everything

LINKS = sum(len(own) for own in dict.fromkeys(SETS))


def layergcn(
    sets: tuple[tuple[int, ...], ...] = SETS, *, merged: bool = True, **options: float
) -> LayerGCNNetwork:
    config = LayerGCNConfig.model_validate({**STILL, **options})
    return network(LayerGCNNetwork, config, interactions(sets, merged=merged))


def in_training(found: LayerGCNNetwork) -> LayerGCNNetwork:
    found.train()
    return found


# Layers


def test_vectors_follow_the_formula() -> None:
    found = layergcn(layers=3, merged=False)
    first = layer = ego(numbers(found.embed.weight))
    total = np.zeros_like(first)
    for _ in range(3):
        heard = adjacency() @ layer
        norms = np.linalg.norm(heard, axis=1) * np.linalg.norm(first, axis=1)
        gates = (heard * first).sum(axis=1) / np.where(norms == 0, 1, norms)
        layer = gates[:, None] * heard
        total += layer
    z, items = found.match(inputs(*SETS))
    np.testing.assert_allclose(
        numbers(items), total[FIRST_SERVICE : FIRST_SERVICE + SERVICES], rtol=1e-6
    )
    np.testing.assert_allclose(numbers(z), total[NODES:], rtol=1e-6)


def test_the_gate_is_a_signed_cosine() -> None:
    found = layergcn()
    heard = torch.tensor([[3.0, 4.0], [-3.0, -4.0], [4.0, -3.0], [0.0, 0.0]])
    first = torch.tensor([[3.0, 4.0]]).expand(4, 2)
    out = found.layer(0, Rows(heard, heard, first, heard[:, :1]), None)
    torch.testing.assert_close(out, torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]))


def gates(found: LayerGCNNetwork) -> list[Floats]:
    """Of each layer, by how much a row is multiplied; 0 where nothing is heard."""
    layers = found.propagate().layers
    links = found.links()
    result = []
    for before, after in pairwise(layers):
        heard = links.hear(before)
        norms = heard.square().sum(dim=1)
        result.append(numbers((heard * after).sum(dim=1) / norms.clamp(min=1e-300)))
    return result


def test_scaling_all_vectors_scales_all_and_leaves_the_gates() -> None:
    found = layergcn(layers=3)
    before, z = gates(found), found.match(inputs((2, 4), (8,)))
    assert all(np.abs(gate).max() <= 1 + 1e-9 for gate in before)
    assert any((gate < 0.9).any() for gate in before)
    with torch.no_grad():
        found.embed.weight.mul_(7)
    np.testing.assert_allclose(gates(found), before, atol=1e-9)
    for one, other in zip(z, found.match(inputs((2, 4), (8,))), strict=True):
        torch.testing.assert_close(7 * one, other)


def test_among_parallel_vectors_it_is_the_sum_of_lightgcns_later_layers() -> None:
    found = layergcn(layers=3)
    light = network(LightGCNNetwork, LightGCNConfig(**STILL, layers=3))
    lengths = torch.arange(1.0, NODES + 1, dtype=torch.float64)
    with torch.no_grad():
        found.embed.weight.copy_(lengths[:, None] * found.embed.weight[4])
        light.embed.weight.copy_(found.embed.weight)
    layers = light.propagate().layers
    expected = torch.stack(layers[1:]).sum(dim=0)
    torch.testing.assert_close(found.readout(found.propagate().layers), expected)


def test_the_ego_layer_is_not_in_the_sum() -> None:
    found = layergcn()
    items = found.match(inputs((2,)))[1]
    assert not items[7 - FIRST_SERVICE].any()
    assert found.embed.weight[7].all()


def test_without_layers_there_is_nothing_to_sum() -> None:
    with pytest.raises(ConfigError) as error:
        create("layergcn", {"layers": 0})
    assert says(error, "layergcn", "layers", "greater than or equal to 1", "found 0")


# Pruning


def kept(found: LayerGCNNetwork, number: int) -> list[int]:
    found.begin_epoch(number)
    assert found._kept is not None
    return sorted(found._kept.tolist())


def test_an_epoch_keeps_so_many_links_and_another_others() -> None:
    found = in_training(layergcn(pruned=0.3))
    torch.manual_seed(0)
    for number in (0, 1):
        draws = [kept(found, number) for _ in range(20)]
        assert {len(set(draw)) for draw in draws} == {LINKS - int(0.3 * LINKS)}
        assert len(set(map(tuple, draws))) > 10


def test_the_same_seed_prunes_the_same_links() -> None:
    found = in_training(layergcn(pruned=0.3))
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append([kept(found, number) for number in range(4)])
    assert draws[0] == draws[1]


def test_the_graph_of_an_epoch_has_degrees_of_its_own() -> None:
    found = in_training(layergcn(pruned=0.4))
    torch.manual_seed(0)
    links = kept(found, 0)
    users, items = (part[links].tolist() for part in (found.graph.users, found.graph.items))
    weights = found.graph.weights.tolist()
    of_item = {i: sum(weights[u] for u, j in zip(users, items, strict=True) if i == j) for i in items}
    expected = np.zeros((NODES + len(weights),) * 2)
    for u, i in zip(users, items, strict=True):
        value = np.sqrt(weights[u] / (users.count(u) * of_item[i]))
        expected[i, NODES + u] = expected[NODES + u, i] = value
    size = len(expected)
    np.testing.assert_allclose(
        numbers(found.links().hear(torch.eye(size, dtype=torch.float64))), expected, rtol=1e-6
    )
    pruned = found.match(inputs((2, 4)))[0]
    found.eval()
    assert not torch.allclose(found.match(inputs((2, 4)))[0], pruned)


def test_what_is_trained_is_asked_over_all_links() -> None:
    found = layergcn(pruned=0.5)
    before = found.match(inputs((2, 4)))
    found.train().begin_epoch(0)
    found.eval()
    for one, other in zip(before, found.match(inputs((2, 4))), strict=True):
        torch.testing.assert_close(one, other)


def test_without_pruning_training_and_evaluation_are_the_same() -> None:
    found = layergcn(pruned=0.0)
    before = found.match(inputs((2, 4)))
    state = torch.get_rng_state()
    found.train().begin_epoch(0)
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(before, found.match(inputs((2, 4))), strict=True):
        assert torch.equal(one, other)


def inclusion(weights: Floats, size: int) -> Floats:
    """Probability that each of few is among the first ``size`` drawn one by one, none twice."""
    total = np.zeros(len(weights))
    for order in permutations(range(len(weights)), size):
        probability, left = 1.0, weights.sum()
        for place in order:
            probability *= weights[place] / left
            left -= weights[place]
        total[list(order)] += probability
    return total


def frequencies(found: LayerGCNNetwork, number: int, draws: int) -> Floats:
    counts = np.zeros(len(found.graph.users))
    for _ in range(draws):
        counts[kept(found, number)] += 1
    return counts / draws


def test_links_of_high_degree_are_kept_less_often_in_every_other_epoch() -> None:
    """Item 2 is in six compositions, in one of them with 3 and 4."""
    found = in_training(layergcn(((2,), (2, 3, 4), (2,), (2,), (2,), (2,)), pruned=0.5))
    users, items = found.graph.users.tolist(), found.graph.items.tolist()
    assert (users, items) == ([0, 1, 1, 1], [2, 2, 3, 4])
    weights = np.array([1 / np.sqrt(1 * 6), 1 / np.sqrt(3 * 6), 1 / np.sqrt(3), 1 / np.sqrt(3)])
    draws = 1500
    error = 4 * np.sqrt(0.25 / draws)
    torch.manual_seed(0)
    sensitive, uniform = frequencies(found, 4, draws), frequencies(found, 3, draws)
    np.testing.assert_allclose(sensitive, inclusion(weights, 2), atol=error)
    np.testing.assert_allclose(uniform, 0.5, atol=error)
    assert sensitive[1] < sensitive[0] < sensitive[2]


def test_there_may_be_more_links_than_torch_draws_from() -> None:
    """torch.multinomial ends at 2^24."""
    found = in_training(layergcn(pruned=0.9999))
    many = 2**24 + 5
    found.graph.users = torch.zeros(1, dtype=torch.int64).expand(many)
    found.graph.items = torch.full((1,), 2).expand(many)
    links = kept(found, 1)
    assert len(links) == many - int(0.9999 * many)
    assert links[0] < many / 100
    assert links[-1] > 0.99 * many


def test_training_prunes() -> None:
    data = everything().data
    whole, pruned = (
        create("layergcn", {"epochs": 3, "pruned": share}).fit(data) for share in (0.0, 0.4)
    )
    assert whole.history != pruned.history
