from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import ConfigError
from dagrec.models.bipartite.gcnii import GCNIIConfig, GCNIINetwork
from dagrec.models.bipartite.graph import Rows
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


def gcnii(
    sets: tuple[tuple[int, ...], ...] = SETS, *, merged: bool = True, **options: float
) -> GCNIINetwork:
    config = GCNIIConfig.model_validate({**STILL, **options})
    return network(GCNIINetwork, config, interactions(sets, merged=merged))


def entered(found: GCNIINetwork) -> Floats:
    """[V + U, D], H0 of a row a composition."""
    x = ego(numbers(found.embed.weight))
    return np.asarray(np.maximum(x @ numbers(found.enter.weight).T, 0))


def test_vectors_follow_the_formula() -> None:
    found = gcnii(layers=3, alpha=0.2, theta=0.7, merged=False)
    first = h = entered(found)
    p = adjacency(loops=True)
    for layer, weight in enumerate(found.weights, start=1):
        beta = log(0.7 / layer + 1)
        h = (0.8 * p @ h + 0.2 * first) @ ((1 - beta) * np.eye(8) + beta * numbers(weight))
        h = h if layer == 3 else np.maximum(h, 0)
    z, items = found.match(inputs(*SETS))
    np.testing.assert_allclose(numbers(items), h[FIRST_SERVICE : FIRST_SERVICE + SERVICES], rtol=1e-6)
    np.testing.assert_allclose(numbers(z), h[NODES:], rtol=1e-6)


def test_what_a_layer_may_transform_falls_with_its_depth() -> None:
    """beta is 0.405, 0.223, 0.154 .. for theta = 0.5: with W = 0, 1 - beta of a row is left."""
    found = gcnii(layers=4, alpha=1.0)
    ones = torch.ones(2, 8, dtype=torch.float64)
    with torch.no_grad():
        for weight in found.weights:
            weight.zero_()
    left = [
        found.layer(number, Rows(ones, ones, ones, ones[:, :1]), None)[0, 0].item()
        for number in range(4)
    ]
    np.testing.assert_allclose(1 - np.array(left), [0.405, 0.223, 0.154, 0.118], atol=5e-4)


def test_with_alpha_1_the_graph_says_nothing() -> None:
    """The last layer is H0 ((1 - beta) I + beta W), whatever came before."""
    found, other = gcnii(alpha=1.0), gcnii(((2, 7), (3, 4, 5)), alpha=1.0)
    beta = log(0.5 / 2 + 1)
    last = (1 - beta) * np.eye(8) + beta * numbers(found.weights[1])
    z, items = found.match(inputs(*SETS))
    np.testing.assert_allclose(numbers(z), (entered(found) @ last)[NODES:], rtol=1e-6)
    for one, same in zip((z, items), other.match(inputs(*SETS)), strict=True):
        torch.testing.assert_close(one, same)


@pytest.mark.parametrize("layers", [1, 3, 64])
def test_with_theta_0_it_is_personalised_pagerank(layers: int) -> None:
    """APPNP: what ReLU sees is nowhere negative. Deep, it is alpha (I - (1 - alpha) P)^-1 H0."""
    found = gcnii(layers=layers, alpha=0.3, theta=0.0, merged=False)
    first, p = entered(found), adjacency(loops=True)
    expected = first
    for _ in range(layers):
        expected = 0.7 * p @ expected + 0.3 * first
    z = numbers(found.match(inputs(*SETS))[0])
    np.testing.assert_allclose(z, expected[NODES:], rtol=1e-6)
    if layers == 64:
        limit = 0.3 * np.linalg.solve(np.eye(len(p)) - 0.7 * p, first)
        np.testing.assert_allclose(z, limit[NODES:], rtol=1e-6)


def test_identities_as_weights_are_no_weights() -> None:
    found, without = gcnii(layers=3), gcnii(layers=3, theta=0.0)
    with torch.no_grad():
        for weight in found.weights:
            weight.copy_(torch.eye(8))
    for one, other in zip(found.match(inputs((2, 4))), without.match(inputs((2, 4))), strict=True):
        torch.testing.assert_close(one, other)


def test_the_last_layer_alone_can_be_negative() -> None:
    found = gcnii(layers=4, theta=1.5)
    signs = [bool((layer < 0).any()) for layer in found.propagate().layers]
    assert signs == [False, False, False, False, True]


def test_first_layers_keep_the_length_of_vectors() -> None:
    """On average; with torch's own first weights it would be 0.4 of it."""
    config = GCNIIConfig(width=64)
    found = network(GCNIINetwork, config)
    x = torch.randn(500, 64, dtype=torch.float64)
    with torch.no_grad():
        ratio = found.first(x).norm(dim=1) / x.norm(dim=1)
    assert ratio.mean().item() == pytest.approx(1, abs=0.1)


def test_vectors_are_dropped_in_training_alone() -> None:
    found = gcnii(embedding_dropout=0.5)
    x = torch.ones(4, 8, dtype=torch.float64)
    torch.testing.assert_close(found.first(x), found.first(x))
    found.train()
    assert not torch.equal(found.first(x), found.first(x))


@pytest.mark.parametrize(("option", "value"), [("layers", 0), ("theta", 1.8), ("alpha", 1.1)])
def test_values_without_a_meaning_are_refused(option: str, value: float) -> None:
    with pytest.raises(ConfigError) as error:
        create("gcnii", {option: value})
    assert says(error, "gcnii", option, f"found {value}")
