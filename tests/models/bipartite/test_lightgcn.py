from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.bipartite.lightgcn import LightGCNConfig, LightGCNNetwork
from dagrec.models.interactions import Interactions
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
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

WORLD = everything()


def lightgcn(*, layers: int = 2, merged: bool = True) -> LightGCNNetwork:
    config = LightGCNConfig(**DETERMINISTIC, layers=layers)
    return network(LightGCNNetwork, config, interactions(merged=merged))


@pytest.mark.parametrize("last", [True, False])
def test_lightgcn_without_layers_trains_like_bprmf(last: bool) -> None:
    options: dict[str, object] = {"epochs": 20, "min_steps": 0, "batch_size": 8, "width": 8}
    bprmf = create("bprmf", {**options, "last": last}, seed=3).fit(WORLD.data)
    model = create("lightgcn", {**options, "last": last, "layers": 0}, seed=3).fit(WORLD.data)
    for epoch, expected in zip(model.history, bprmf.history, strict=True):
        assert epoch.loss == pytest.approx(expected.loss, rel=1e-6)
        assert epoch.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-5)
    assert model.history[0].loss != model.history[-1].loss
    weights = {key: value for key, value in model.state().items() if not key.startswith("graph.")}
    assert set(weights) == set(bprmf.state())
    for key, value in bprmf.state().items():
        # Gradients of the same vector are summed in a different order.
        close = np.isclose(weights[key].astype(float), value.astype(float), rtol=1e-4, atol=1e-7)
        assert close.all(), key
    contexts = WORLD.data.contexts
    np.testing.assert_allclose(model.score(contexts), bprmf.score(contexts), rtol=1e-4, atol=1e-6)


def test_lightgcn_with_layers_differs_from_bprmf() -> None:
    options = {"epochs": 2, "min_steps": 0}
    bprmf = create("bprmf", options).fit(WORLD.data)
    model = create("lightgcn", {**options, "layers": 1}).fit(WORLD.data)
    assert model.history != bprmf.history


@pytest.mark.parametrize("layers", [0, 1, 2, 5])
def test_factors_are_means_over_powers_of_adjacency(layers: int) -> None:
    net = lightgcn(layers=layers, merged=False)
    ego = ego_layer(to_numpy(net.embed.weight))
    powers = [np.linalg.matrix_power(adjacency(), k) @ ego for k in range(layers + 1)]
    expected = np.mean(powers, axis=0)
    z_x, z_y = net.factors(inputs(*SETS))
    np.testing.assert_allclose(
        to_numpy(z_y), expected[FIRST_SERVICE : FIRST_SERVICE + SERVICES], rtol=1e-6
    )
    np.testing.assert_allclose(to_numpy(z_x), expected[NODES:], rtol=1e-6)


def reference_lgconv(x: Tensor, edges: Tensor) -> Tensor:
    """Return LGConv as defined in torch_geometric."""
    source, target = edges
    degrees = torch.zeros(len(x), dtype=x.dtype).scatter_add(
        0, target, torch.ones(len(target)).double()
    )
    inverse = degrees.pow(-0.5)
    inverse[inverse.isinf()] = 0
    norm = inverse[source] * inverse[target]
    messages = norm[:, None] * x[source]
    return torch.zeros_like(x).scatter_add(0, target[:, None].expand_as(messages), messages)


def test_scores_equal_torch_geometric() -> None:
    net = lightgcn(layers=3)
    pairs = [(item, NODES + user) for user, items in enumerate(SETS) for item in items]
    edges = torch.tensor(pairs + [(user, item) for item, user in pairs]).T
    x = torch.from_numpy(ego_layer(to_numpy(net.embed.weight)))
    out = x / 4
    for _ in range(3):
        x = reference_lgconv(x, edges)
        out = out + x / 4
    expected = out[NODES:] @ out[FIRST_SERVICE : FIRST_SERVICE + SERVICES].T
    batch = inputs(*SETS)
    with torch.no_grad():
        scores = net(batch)
        last = net.last(net.last.states(batch.last), None)
    np.testing.assert_allclose(to_numpy(scores - last), to_numpy(expected), rtol=1e-6)


def test_squared_adjacency_connects_users_by_shared_items() -> None:
    """Entry (u, v) is 1 / sqrt(d_u d_v) times the sum of 1 / d_i over their common items."""
    degrees = {item: sum(item in items for items in SETS) for item in range(NODES)}
    squared = np.linalg.matrix_power(adjacency_of(lightgcn(merged=False)), 2)
    for u, first in enumerate(SETS):
        for v, second in enumerate(SETS):
            shared = sum(1 / degrees[item] for item in set(first) & set(second))
            expected = shared / np.sqrt(len(first) * len(second))
            assert squared[NODES + u, NODES + v] == pytest.approx(expected, rel=1e-6)


def test_factors_are_linear_in_the_embedding() -> None:
    def factors(vectors: Tensor) -> tuple[Tensor, Tensor]:
        net = lightgcn()
        with torch.no_grad():
            net.embed.weight.copy_(vectors)
        return net.factors(inputs((2, 4), (5, 8)))

    torch.manual_seed(0)
    a, b = torch.randn(2, NODES, 8, dtype=torch.float64)
    for z_a, z_b, z in zip(factors(a), factors(b), factors(2 * a - 3 * b), strict=True):
        torch.testing.assert_close(z, 2 * z_a - 3 * z_b)


def test_factor_of_isolated_item_is_share_of_its_embedding() -> None:
    net = lightgcn(layers=3)
    z_y = net.factors(inputs((2,)))[1]
    torch.testing.assert_close(z_y[7 - FIRST_SERVICE], net.embed.weight[7] / 4)


def test_permuted_items_permute_the_factors() -> None:
    order = np.array([0, 1, 6, 4, 7, 2, 5, 3, 8])
    sets = [tuple(sorted(int(order[item]) for item in items)) for items in SETS]
    net = lightgcn()
    permuted = network(LightGCNNetwork, LightGCNConfig(**DETERMINISTIC), interactions(sets))
    with torch.no_grad():
        permuted.embed.weight[order] = net.embed.weight
    z_x, z_y = net.factors(inputs((2, 4), (8,)))
    permuted_x, permuted_y = permuted.factors(inputs((6, 7), (8,)))
    torch.testing.assert_close(z_x, permuted_x)
    services = order[FIRST_SERVICE : FIRST_SERVICE + SERVICES] - FIRST_SERVICE
    torch.testing.assert_close(z_y, permuted_y[services])


def test_example_order_does_not_matter() -> None:
    backward = TrainingData.of(WORLD.examples[::-1])
    assert backward.vocabulary == WORLD.data.vocabulary
    config = LightGCNConfig(**DETERMINISTIC)
    factors = [
        network(LightGCNNetwork, config, Interactions.of_compositions(data)).factors(inputs((2, 4)))
        for data in (WORLD.data, backward)
    ]
    for expected, actual in zip(*factors, strict=True):
        torch.testing.assert_close(actual, expected)
