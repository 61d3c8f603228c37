from __future__ import annotations

from itertools import permutations
from math import exp, log, sqrt

import numpy as np
import pytest
import torch

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import ConfigError
from dagrec.models.bipartite.dgr import DGRConfig, DGRNetwork, marginal, similarities, strongest
from dagrec.models.bipartite.graph import Rows
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

CONNECTED = ((2, 3), (2, 3), (3, 4, 5), (4, 5, 6, 7), (2, 8))
"""Compositions in which every node id occurs, and each is linked to each by some way."""


def dgr(
    sets: tuple[tuple[int, ...], ...] = SETS, *, merged: bool = True, **options: object
) -> DGRNetwork:
    config = DGRConfig.model_validate({**STILL, **options})
    return network(DGRNetwork, config, interactions(sets, merged=merged))


def roots(sets: tuple[tuple[int, ...], ...] = CONNECTED) -> Floats:
    """[V + U, 1], d of a row a composition."""
    degrees = [sum(item in own for own in sets) for item in range(NODES)]
    return np.sqrt([*degrees, *(len(own) for own in sets)])[:, None]


def projector(sets: tuple[tuple[int, ...], ...] = CONNECTED) -> Floats:
    d = roots(sets)
    return np.asarray(d @ d.T / (d**2).sum())


def step(found: DGRNetwork, x: Floats, sets: tuple[tuple[int, ...], ...] = CONNECTED) -> Floats:
    """Layer 0 of these rows, of a graph with a row a composition."""
    heard = torch.from_numpy(adjacency(sets) @ x)
    d = torch.from_numpy(roots(sets))
    return numbers(found.layer(0, Rows(heard, heard, heard, d), found.summary(heard, d)))


# From afar


def test_without_corrections_it_is_lightgcn() -> None:
    ours = dgr(alphas=0.0, layers=3)
    theirs = network(LightGCNNetwork, LightGCNConfig.model_validate({**STILL, "layers": 3}))
    asked = inputs(*SETS, (3, 7), (8,))
    for one, other in zip(ours.match(asked), theirs.match(asked), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("merged", [True, False])
def test_vectors_follow_the_formula_with_the_projector_as_a_matrix(merged: bool) -> None:
    alphas = (0.1, 1.1, 0.0, 0.6)
    found = dgr(alphas=alphas, layers=4, merged=merged)
    a, pi = adjacency(), projector(SETS)
    layers = [ego(numbers(found.embed.weight))]
    for alpha in alphas:
        heard = a @ layers[-1]
        layers.append((1 + alpha) * heard - alpha * pi @ heard)
    expected = np.mean(layers, axis=0)
    z, items = found.match(inputs(*SETS))
    np.testing.assert_allclose(
        numbers(items), expected[FIRST_SERVICE : FIRST_SERVICE + SERVICES], rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(numbers(z), expected[NODES:], rtol=1e-6, atol=1e-8)


def test_what_is_subtracted_is_a_projection_on_one_direction() -> None:
    d = torch.from_numpy(roots())
    eye = torch.eye(len(d), dtype=torch.float64)
    summary = dgr().summary(eye, d)
    pi = numbers(d * summary)
    np.testing.assert_allclose(pi @ pi, pi, atol=1e-12)
    assert np.trace(pi) == pytest.approx(1)
    np.testing.assert_allclose(pi, projector(), atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.1, 7.0])
def test_the_direction_of_infinite_propagation_is_a_fixed_point(alpha: float) -> None:
    x = roots() * np.array([[1.0, -3.0, 0.2]])
    far = sum(np.linalg.matrix_power(adjacency(CONNECTED), n) for n in (400, 401))
    np.testing.assert_allclose(far / 2, projector(), atol=1e-6)
    np.testing.assert_allclose(step(dgr(alphas=alpha), x), x, rtol=1e-6, atol=1e-9)


def test_all_other_directions_grow_by_1_and_alpha() -> None:
    """So does the second smooth direction of a bipartite graph, d with a sign by side: it stays."""
    values, vectors = np.linalg.eigh(adjacency(CONNECTED))
    found = step(dgr(alphas=0.7), vectors)
    expected = np.where(values > 1 - 1e-9, 1.0, 1.7 * values) * vectors
    np.testing.assert_allclose(found, expected, atol=1e-9)
    signed = roots() * np.where(np.arange(len(vectors)) < NODES, -1, 1)[:, None]
    assert values[0] == pytest.approx(-1)
    np.testing.assert_allclose(step(dgr(alphas=0.7), signed), -1.7 * signed, atol=1e-9)


def test_one_alpha_stands_for_all_layers() -> None:
    one, each = dgr(alphas=0.3, layers=2), dgr(alphas=(0.3, 0.3), layers=2)
    assert one.alphas == each.alphas
    assert dgr().alphas == (0.1, 1.1, 0.0)


def test_a_number_of_alphas_that_is_not_that_of_layers_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        create("dgr", {"layers": 2})
    assert says(error, "dgr", "alphas", "each of 2 layers", "found 3")


# Nearby


def weights(sets: tuple[tuple[int, ...], ...] = SETS) -> dict[tuple[int, int], float]:
    """w of each two services by a plain loop over compositions."""
    together = {
        (i, j): sum(i in s and j in s for s in sets) for i in range(NODES) for j in range(NODES)
    }
    g = {i: sum(together[i, j] for j in range(NODES)) for i in range(NODES)}
    return {
        (i, j): together[i, j] / sqrt((g[i] + 1) * (g[j] + 1))
        for i, j in permutations(range(FIRST_SERVICE, FIRST_SERVICE + SERVICES), 2)
    }


@pytest.mark.parametrize("merged", [True, False])
def test_similarities_count_compositions(merged: bool) -> None:
    found = similarities(interactions(merged=merged), SERVICES)
    assert found.shape == (SERVICES, SERVICES)
    assert not found.diagonal().any()
    for (i, j), weight in weights().items():
        assert found[i - FIRST_SERVICE, j - FIRST_SERVICE] == pytest.approx(weight)


def test_similarities_by_hand() -> None:
    """g_3 = 2 with itself, 2 with 4, 1 with 8; g_4 = 3 with itself, 2 with 3, 1 with 5, 1 with 8."""
    found = similarities(interactions(((3, 4), (3, 4, 8), (4, 5))), SERVICES)
    assert found[3 - FIRST_SERVICE, 4 - FIRST_SERVICE] == pytest.approx(2 / sqrt((5 + 1) * (7 + 1)))
    assert found[3 - FIRST_SERVICE, 5 - FIRST_SERVICE] == 0


def test_neighbours_by_hand() -> None:
    row = np.array([[0.0, 0.3, 0.1, 0.0, 0.5, 0.2]])
    columns, found = strongest(row, 2)
    assert (columns.tolist(), found.tolist()) == ([[4, 1]], [[0.5, 0.3]])
    columns, found = marginal(row, 1)
    assert (columns.tolist(), found.tolist()) == ([[2]], [[0.1]])


def test_marginal_neighbours_are_told_where_there_are_three_times_as_many() -> None:
    """So no service is among the strongest and the marginal."""
    row = np.array([[0.0, 0.3, 0.1, 0.0, 0.5]])
    assert marginal(row, 1)[1].tolist() == [[0.1]]
    assert marginal(row, 2)[1].tolist() == [[0.0, 0.0]]
    many = np.random.default_rng(0).random((20, 20))
    for near, far in zip(strongest(many, 6)[0], marginal(many, 6)[0], strict=True):
        assert not set(near) & set(far)


def test_fewer_neighbours_than_asked_for_have_no_weight() -> None:
    columns, found = strongest(np.array([[0.0, 0.4, 0.0], [0.4, 0.0, 0.0]]), 10)
    assert columns.shape == (2, 3)
    assert found.tolist() == [[0.4, 0.0, 0.0], [0.4, 0.0, 0.0]]


def test_the_penalty_of_a_pair_is_that_of_its_neighbours() -> None:
    found = dgr(neighbours=1, neighbour_weight=0.5, marginal_weight=0.25)
    asked = inputs((2, 3), (4,), (3, 5, 8))
    rows, columns = torch.tensor([0, 0, 2, 1]), torch.tensor([0, 3, 3, 5])
    states = found.states(asked)
    z, items = (numbers(side) for side in found.match(asked))
    w = weights()
    expected = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        y = column + FIRST_SERVICE
        others = sorted(
            (w[y, j], -j) for j in range(FIRST_SERVICE, FIRST_SERVICE + SERVICES) if j != y and w[y, j]
        )
        total = 0.0
        for sign, chosen in ((0.5, others[-1:]), (-0.25, others[:1] if len(others) >= 3 else [])):
            for weight, j in chosen:
                score = float(z[row] @ items[-j - FIRST_SERVICE])
                total += sign * weight * log(1 + exp(-score))
        expected.append(total)
    assert expected[3] == 0  # column 5 is node 7, in no composition
    penalty = found.penalty(asked, states, rows, columns)
    assert penalty is not None
    np.testing.assert_allclose(numbers(penalty), expected, rtol=1e-5)


def test_without_weights_no_neighbour_counts() -> None:
    asked, rows = inputs((2, 3), (4,)), torch.tensor([0, 1])
    options = {"neighbour_weight": 0.0, "marginal_weight": 0.0}
    none, l2 = dgr(**options), dgr(**options, l2=0.1)
    assert none.penalty(asked, none.states(asked), rows, rows) is None
    squares = l2.own(asked).square().sum(dim=1)
    service = l2.own_services().square().sum(dim=1)
    penalty = l2.penalty(asked, l2.states(asked), rows, rows)
    torch.testing.assert_close(penalty, 0.1 * (squares + service[rows] + service.mean()))


def test_neighbours_follow_from_the_graph_and_are_not_stored() -> None:
    found = dgr()
    assert not [name for name in found.state_dict() if "strongest" in name or "marginal" in name]
    assert int(found.strongest.max()) < SERVICES
