from __future__ import annotations

from itertools import permutations
from math import exp, log, sqrt

import numpy as np
import pytest
import torch

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import ConfigError
from dagrec.models.bipartite.dgr import DGRConfig, DGRNetwork, marginal, similarities, strongest
from dagrec.models.bipartite.graph import LayerInputs
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
    ego_layer,
    inputs,
    interactions,
    network,
    to_numpy,
)

CONNECTED = ((2, 3), (2, 3), (3, 4, 5), (4, 5, 6, 7), (2, 8))
"""Compositions with all node ids, which form a connected graph."""


def dgr(
    sets: tuple[tuple[int, ...], ...] = SETS, *, merged: bool = True, **options: object
) -> DGRNetwork:
    config = DGRConfig.model_validate({**DETERMINISTIC, **options})
    return network(DGRNetwork, config, interactions(sets, merged=merged))


def sqrt_degrees(sets: tuple[tuple[int, ...], ...] = CONNECTED) -> Floats:
    """Return d [V + U, 1], with one row per composition."""
    degrees = [sum(item in items for items in sets) for item in range(NODES)]
    return np.sqrt([*degrees, *(len(items) for items in sets)])[:, None]


def projector(sets: tuple[tuple[int, ...], ...] = CONNECTED) -> Floats:
    d = sqrt_degrees(sets)
    return np.asarray(d @ d.T / (d**2).sum())


def first_layer(net: DGRNetwork, x: Floats, sets: tuple[tuple[int, ...], ...] = CONNECTED) -> Floats:
    """Return layer 1 for layer 0 ``x``, on a graph with one row per composition."""
    aggregated = torch.from_numpy(adjacency(sets) @ x)
    d = torch.from_numpy(sqrt_degrees(sets))
    rows = LayerInputs(aggregated, aggregated, d)
    return to_numpy(net.layer(0, rows, net.summary(aggregated, d)))


# Global correction


def test_zero_alphas_equal_lightgcn() -> None:
    ours = dgr(alphas=0.0, layers=3)
    config = LightGCNConfig.model_validate({**DETERMINISTIC, "layers": 3})
    lightgcn = network(LightGCNNetwork, config)
    batch = inputs(*SETS, (3, 7), (8,))
    for actual, expected in zip(ours.factors(batch), lightgcn.factors(batch), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("merged", [True, False])
def test_factors_follow_formula_with_dense_projector(merged: bool) -> None:
    alphas = (0.1, 1.1, 0.0, 0.6)
    net = dgr(alphas=alphas, layers=4, merged=merged)
    a, pi = adjacency(), projector(SETS)
    layers = [ego_layer(to_numpy(net.embed.weight))]
    for alpha in alphas:
        aggregated = a @ layers[-1]
        layers.append((1 + alpha) * aggregated - alpha * pi @ aggregated)
    expected = np.mean(layers, axis=0)
    z_x, z_y = net.factors(inputs(*SETS))
    np.testing.assert_allclose(
        to_numpy(z_y), expected[FIRST_SERVICE : FIRST_SERVICE + SERVICES], rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(to_numpy(z_x), expected[NODES:], rtol=1e-6, atol=1e-8)


def test_summary_gives_projection_on_one_direction() -> None:
    d = torch.from_numpy(sqrt_degrees())
    eye = torch.eye(len(d), dtype=torch.float64)
    pi = to_numpy(d * dgr().summary(eye, d))
    np.testing.assert_allclose(pi @ pi, pi, atol=1e-12)
    assert np.trace(pi) == pytest.approx(1)
    np.testing.assert_allclose(pi, projector(), atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.1, 7.0])
def test_layer_does_not_change_limit_of_propagation(alpha: float) -> None:
    x = sqrt_degrees() * np.array([[1.0, -3.0, 0.2]])
    powers = sum(np.linalg.matrix_power(adjacency(CONNECTED), n) for n in (400, 401))
    np.testing.assert_allclose(powers / 2, projector(), atol=1e-6)
    np.testing.assert_allclose(first_layer(dgr(alphas=alpha), x), x, rtol=1e-6, atol=1e-9)


def test_layer_amplifies_all_other_directions() -> None:
    """This includes the second direction that does not decay, with eigenvalue -1."""
    values, vectors = np.linalg.eigh(adjacency(CONNECTED))
    actual = first_layer(dgr(alphas=0.7), vectors)
    expected = np.where(values > 1 - 1e-9, 1.0, 1.7 * values) * vectors
    np.testing.assert_allclose(actual, expected, atol=1e-9)
    signed = sqrt_degrees() * np.where(np.arange(len(vectors)) < NODES, -1, 1)[:, None]
    assert values[0] == pytest.approx(-1)
    np.testing.assert_allclose(first_layer(dgr(alphas=0.7), signed), -1.7 * signed, atol=1e-9)


def test_single_alpha_applies_to_all_layers() -> None:
    one, per_layer = dgr(alphas=0.3, layers=2), dgr(alphas=(0.3, 0.3), layers=2)
    assert one.alphas == per_layer.alphas
    assert dgr().alphas == (0.1, 1.1, 0.0)


def test_config_rejects_wrong_number_of_alphas() -> None:
    with pytest.raises(ConfigError) as error:
        create("dgr", {"layers": 2})
    assert says(error, "dgr", "alphas", "each of 2 layers", "found 3")


# Local correction


def reference_weights(sets: tuple[tuple[int, ...], ...] = SETS) -> dict[tuple[int, int], float]:
    """Return w of each pair of services, by a plain loop over compositions."""
    counts = {(i, j): sum(i in s and j in s for s in sets) for i in range(NODES) for j in range(NODES)}
    g = {i: sum(counts[i, j] for j in range(NODES)) for i in range(NODES)}
    return {
        (i, j): counts[i, j] / sqrt((g[i] + 1) * (g[j] + 1))
        for i, j in permutations(range(FIRST_SERVICE, FIRST_SERVICE + SERVICES), 2)
    }


@pytest.mark.parametrize("merged", [True, False])
def test_similarities_count_compositions(merged: bool) -> None:
    w = similarities(interactions(merged=merged), SERVICES)
    assert w.shape == (SERVICES, SERVICES)
    assert not w.diagonal().any()
    for (i, j), weight in reference_weights().items():
        assert w[i - FIRST_SERVICE, j - FIRST_SERVICE] == pytest.approx(weight)


def test_similarities_equal_manual_calculation() -> None:
    """g_3 = 2 with itself, 2 with 4, 1 with 8; g_4 = 3 with itself, 2 with 3, 1 with 5, 1 with 8."""
    w = similarities(interactions(((3, 4), (3, 4, 8), (4, 5))), SERVICES)
    assert w[3 - FIRST_SERVICE, 4 - FIRST_SERVICE] == pytest.approx(2 / sqrt((5 + 1) * (7 + 1)))
    assert w[3 - FIRST_SERVICE, 5 - FIRST_SERVICE] == 0


def test_strongest_and_marginal_return_extreme_entries() -> None:
    row = np.array([[0.0, 0.3, 0.1, 0.0, 0.5, 0.2]])
    columns, values = strongest(row, 2)
    assert (columns.tolist(), values.tolist()) == ([[4, 1]], [[0.5, 0.3]])
    columns, values = marginal(row, 1)
    assert (columns.tolist(), values.tolist()) == ([[2]], [[0.1]])


def test_marginal_requires_three_times_as_many_positive_entries() -> None:
    """So no service is among both the strongest and the marginal neighbours."""
    row = np.array([[0.0, 0.3, 0.1, 0.0, 0.5]])
    assert marginal(row, 1)[1].tolist() == [[0.1]]
    assert marginal(row, 2)[1].tolist() == [[0.0, 0.0]]
    random = np.random.default_rng(0).random((20, 20))
    for near, far in zip(strongest(random, 6)[0], marginal(random, 6)[0], strict=True):
        assert not set(near) & set(far)


def test_strongest_pads_missing_neighbours_with_weight_0() -> None:
    columns, values = strongest(np.array([[0.0, 0.4, 0.0], [0.4, 0.0, 0.0]]), 10)
    assert columns.shape == (2, 3)
    assert values.tolist() == [[0.4, 0.0, 0.0], [0.4, 0.0, 0.0]]


def test_penalty_of_a_pair_is_that_of_its_neighbours() -> None:
    net = dgr(neighbours=1, neighbour_weight=0.5, marginal_weight=0.25)
    batch = inputs((2, 3), (4,), (3, 5, 8))
    rows, columns = torch.tensor([0, 0, 2, 1]), torch.tensor([0, 3, 3, 5])
    states = net.states(batch)
    z_x, z_y = (to_numpy(part) for part in net.factors(batch))
    w = reference_weights()
    services = range(FIRST_SERVICE, FIRST_SERVICE + SERVICES)
    expected = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        y = column + FIRST_SERVICE
        neighbours = sorted((w[y, j], -j) for j in services if j != y and w[y, j])
        least = neighbours[:1] if len(neighbours) >= 3 else []
        total = 0.0
        for sign, selected in ((0.5, neighbours[-1:]), (-0.25, least)):
            for weight, j in selected:
                score = float(z_x[row] @ z_y[-j - FIRST_SERVICE])
                total += sign * weight * log(1 + exp(-score))
        expected.append(total)
    assert expected[3] == 0  # column 5 is node 7, which is in no composition
    penalty = net.penalty(batch, states, rows, columns)
    assert penalty is not None
    np.testing.assert_allclose(to_numpy(penalty), expected, rtol=1e-5)


def test_penalty_without_neighbour_weights_is_l2_only() -> None:
    batch, rows = inputs((2, 3), (4,)), torch.tensor([0, 1])
    options = {"neighbour_weight": 0.0, "marginal_weight": 0.0}
    without_l2, with_l2 = dgr(**options), dgr(**options, l2=0.1)
    assert without_l2.penalty(batch, without_l2.states(batch), rows, rows) is None
    context = with_l2.context_vectors(batch).square().sum(dim=1)
    service = with_l2.service_vectors().square().sum(dim=1)
    penalty = with_l2.penalty(batch, with_l2.states(batch), rows, rows)
    torch.testing.assert_close(penalty, 0.1 * (context + service[rows] + service.mean()))


def test_neighbours_are_not_stored() -> None:
    net = dgr()
    assert not [name for name in net.state_dict() if "strongest" in name or "marginal" in name]
    assert int(net.strongest.max()) < SERVICES
