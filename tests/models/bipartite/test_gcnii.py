from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import ConfigError
from dagrec.models.bipartite.gcnii import GCNIIConfig, GCNIINetwork
from dagrec.models.bipartite.graph import LayerInputs
from dagrec.models.registry import create
from dagrec.types import Floats
from tests.checks import says
from tests.models.bipartite.dense import (
    DETERMINISTIC,
    NODES,
    SERVICES,
    SETS,
    adjacency,
    ego_layer,
    inputs,
    interactions,
    network,
    to_numpy,
)


def gcnii(
    sets: tuple[tuple[int, ...], ...] = SETS, *, merged: bool = True, **options: float
) -> GCNIINetwork:
    config = GCNIIConfig.model_validate({**DETERMINISTIC, **options})
    return network(GCNIINetwork, config, interactions(sets, merged=merged))


def reference_ego_layer(net: GCNIINetwork) -> Floats:
    """Return H^(0) [V + U, D], with one row per composition."""
    x = ego_layer(to_numpy(net.embed.weight))
    return np.asarray(np.maximum(x @ to_numpy(net.input_projection.weight).T, 0))


def test_factors_follow_formula() -> None:
    net = gcnii(layers=3, alpha=0.2, theta=0.7, merged=False)
    ego = h = reference_ego_layer(net)
    p = adjacency(self_loops=True)
    for layer, weight in enumerate(net.weights, start=1):
        beta = log(0.7 / layer + 1)
        h = (0.8 * p @ h + 0.2 * ego) @ ((1 - beta) * np.eye(8) + beta * to_numpy(weight))
        h = h if layer == 3 else np.maximum(h, 0)
    z_x, z_y = net.factors(inputs(*SETS))
    np.testing.assert_allclose(to_numpy(z_y), h[FIRST_SERVICE : FIRST_SERVICE + SERVICES], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(z_x), h[NODES:], rtol=1e-6)


def test_beta_decreases_with_depth() -> None:
    """beta is 0.405, 0.223, 0.154 .. for theta = 0.5; with W = 0 a layer multiplies by 1 - beta."""
    net = gcnii(layers=4, alpha=1.0)
    ones = torch.ones(2, 8, dtype=torch.float64)
    with torch.no_grad():
        for weight in net.weights:
            weight.zero_()
    outputs = [
        net.layer(number, LayerInputs(ones, ones, ones[:, :1]), None)[0, 0].item()
        for number in range(4)
    ]
    np.testing.assert_allclose(1 - np.array(outputs), [0.405, 0.223, 0.154, 0.118], atol=5e-4)


def test_graph_is_not_used_with_alpha_1() -> None:
    """The last layer is H^(0) ((1 - beta) I + beta W)."""
    net, other_graph = gcnii(alpha=1.0), gcnii(((2, 7), (3, 4, 5)), alpha=1.0)
    beta = log(0.5 / 2 + 1)
    last = (1 - beta) * np.eye(8) + beta * to_numpy(net.weights[1])
    z_x, z_y = net.factors(inputs(*SETS))
    np.testing.assert_allclose(to_numpy(z_x), (reference_ego_layer(net) @ last)[NODES:], rtol=1e-6)
    for actual, expected in zip(other_graph.factors(inputs(*SETS)), (z_x, z_y), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("layers", [1, 3, 64])
def test_theta_0_gives_personalised_pagerank(layers: int) -> None:
    """This is APPNP; the limit for many layers is alpha (I - (1 - alpha) P)^-1 H^(0)."""
    net = gcnii(layers=layers, alpha=0.3, theta=0.0, merged=False)
    ego, p = reference_ego_layer(net), adjacency(self_loops=True)
    expected = ego
    for _ in range(layers):
        expected = 0.7 * p @ expected + 0.3 * ego
    z_x = to_numpy(net.factors(inputs(*SETS))[0])
    np.testing.assert_allclose(z_x, expected[NODES:], rtol=1e-6)
    if layers == 64:
        limit = 0.3 * np.linalg.solve(np.eye(len(p)) - 0.7 * p, ego)
        np.testing.assert_allclose(z_x, limit[NODES:], rtol=1e-6)


def test_identity_weights_equal_theta_0() -> None:
    net, without_weights = gcnii(layers=3), gcnii(layers=3, theta=0.0)
    with torch.no_grad():
        for weight in net.weights:
            weight.copy_(torch.eye(8))
    batch = inputs((2, 4))
    for actual, expected in zip(net.factors(batch), without_weights.factors(batch), strict=True):
        torch.testing.assert_close(actual, expected)


def test_only_last_layer_can_be_negative() -> None:
    net = gcnii(layers=4, theta=1.5)
    negative = [bool((layer < 0).any()) for layer in net.propagate().layers]
    assert negative == [False, False, False, False, True]


def test_initial_ego_layer_preserves_length() -> None:
    """On average; with the default initialisation of torch the ratio would be 0.4."""
    net = network(GCNIINetwork, GCNIIConfig(width=64))
    x = torch.randn(500, 64, dtype=torch.float64)
    with torch.no_grad():
        ratio = net.ego_layer(x).norm(dim=1) / x.norm(dim=1)
    assert ratio.mean().item() == pytest.approx(1, abs=0.1)


def test_embedding_dropout_is_active_only_in_training() -> None:
    net = gcnii(embedding_dropout=0.5)
    x = torch.ones(4, 8, dtype=torch.float64)
    torch.testing.assert_close(net.ego_layer(x), net.ego_layer(x))
    net.train()
    assert not torch.equal(net.ego_layer(x), net.ego_layer(x))


@pytest.mark.parametrize(("option", "value"), [("layers", 0), ("theta", 1.8), ("alpha", 1.1)])
def test_config_rejects_values_out_of_range(option: str, value: float) -> None:
    with pytest.raises(ConfigError) as error:
        create("gcnii", {option: value})
    assert says(error, "gcnii", option, f"found {value}")
