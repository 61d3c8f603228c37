from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag, expm

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import ConfigError
from dagrec.models.bipartite.graph import BipartiteNetwork
from dagrec.models.bipartite.groupshuffle import (
    GroupShuffleConfig,
    GroupShuffleMatrix,
    GroupShuffleNetwork,
)
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

ASKED = inputs(*SETS, (3, 7), (8,))
SHAPES = [(8, 4), (8, 2), (12, 4), (9, 3), (8, 8), (6, 1)]
"""Widths and blocks."""


def turn(width: int = 8, block: int = 4) -> GroupShuffleMatrix:
    """Turned far from where it starts."""
    torch.manual_seed(1)
    found = GroupShuffleMatrix(width, block).double()
    with torch.no_grad():
        found.skew.normal_()
    return found


def matrix(found: GroupShuffleMatrix) -> Floats:
    return numbers(found(torch.eye(found.skew.shape[1] * found.skew.shape[2], dtype=torch.float64)))


def groupshuffle(*, merged: bool = True, **options: float) -> GroupShuffleNetwork:
    config = GroupShuffleConfig.model_validate({**STILL, "block": 4, "layers": 3, **options})
    return network(GroupShuffleNetwork, config, interactions(merged=merged))


def lightgcn(layers: int = 3) -> LightGCNNetwork:
    return network(LightGCNNetwork, LightGCNConfig.model_validate({**STILL, "layers": layers}))


def still(found: GroupShuffleNetwork) -> GroupShuffleNetwork:
    with torch.no_grad():
        for part in found.turns:
            part.skew.zero_()
    return found


# The matrix


@pytest.mark.parametrize(("width", "block"), SHAPES)
def test_it_is_the_product_of_blocks_and_shuffles(width: int, block: int) -> None:
    found = turn(width, block)
    groups = width // block
    first, second = (block_diag(*(expm(x - x.T) for x in blocks)) for blocks in numbers(found.skew))
    # Coordinate j of group g goes to place g of the j-th hand that is dealt.
    shuffle = np.zeros((width, width))
    for g in range(groups):
        for j in range(block):
            shuffle[g * block + j, j * groups + g] = 1
    np.testing.assert_allclose(matrix(found), first @ shuffle @ second @ shuffle.T, atol=1e-12)


@pytest.mark.parametrize(("width", "block"), SHAPES)
def test_it_is_a_rotation(width: int, block: int) -> None:
    found = turn(width, block)
    q = matrix(found)
    np.testing.assert_allclose(q.T @ q, np.eye(width), atol=1e-12)
    for factor in found.blocks():
        np.testing.assert_allclose(np.linalg.det(numbers(factor)), 1, atol=1e-12)
    rows = torch.randn(5, width, dtype=torch.float64)
    torch.testing.assert_close(found(rows).norm(dim=1), rows.norm(dim=1))
    q32 = numbers(found.float()(torch.eye(width)))
    np.testing.assert_allclose(q32.T @ q32, np.eye(width), atol=1e-5)


def test_every_coordinate_reaches_every_other_where_blocks_are_as_long_as_there_are_groups() -> None:
    assert (np.abs(matrix(turn(9, 3))) > 1e-9).all()
    assert (np.abs(matrix(turn(12, 4))) > 1e-9).all()
    assert (np.abs(matrix(turn(8, 2))) > 1e-9).mean() == 0.5


def test_without_skew_it_changes_nothing() -> None:
    found = turn()
    with torch.no_grad():
        found.skew.zero_()
    np.testing.assert_array_equal(matrix(found), np.eye(8))


# The network


@pytest.mark.parametrize("merged", [True, False])
def test_vectors_follow_the_formula(merged: bool) -> None:
    found = groupshuffle(residual=0.3, merged=merged)
    a = adjacency()
    layers = [ego(numbers(found.embed.weight))]
    for part in found.turns:
        assert isinstance(part, GroupShuffleMatrix)
        layers.append(0.7 * a @ layers[-1] @ matrix(part) + 0.3 * layers[0])
    expected = np.mean(layers, axis=0)
    z, items = found.match(inputs(*SETS))
    np.testing.assert_allclose(
        numbers(items), expected[FIRST_SERVICE : FIRST_SERVICE + SERVICES], rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(numbers(z), expected[NODES:], rtol=1e-6, atol=1e-8)


def test_still_and_without_residual_it_is_lightgcn() -> None:
    ours, theirs = still(groupshuffle(residual=0.0)), lightgcn()
    with torch.no_grad():
        ours.embed.weight.copy_(theirs.embed.weight)
    for one, other in zip(ours.match(ASKED), theirs.match(ASKED), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_products_within_a_layer_are_those_of_lightgcn_and_of_their_means_not() -> None:
    ours, theirs = groupshuffle(residual=0.0), lightgcn()
    with torch.no_grad():
        ours.embed.weight.copy_(theirs.embed.weight)

    def products(found: BipartiteNetwork) -> list[Floats]:
        layers = [numbers(layer) for layer in found.propagate().layers]
        return [layer @ layer.T for layer in [*layers, np.mean(layers, axis=0)]]

    *within, of_means = products(ours)
    *within_theirs, of_means_theirs = products(theirs)
    np.testing.assert_allclose(within, within_theirs, atol=1e-12)
    assert not np.allclose(of_means, of_means_theirs, rtol=0.01)


def test_with_a_residual_of_1_the_graph_says_nothing() -> None:
    found = groupshuffle(residual=1.0)
    z, items = found.match(ASKED)
    torch.testing.assert_close(z, found.own(ASKED))
    torch.testing.assert_close(items, found.own_services())


@pytest.mark.parametrize("residual", [0.0, 0.1])
def test_a_still_network_is_told_which_way_to_turn(residual: float) -> None:
    found = still(groupshuffle(residual=residual))
    found.train()
    z, items = found.match(ASKED)
    (z @ items.T).square().sum().backward()
    for part in found.turns:
        assert part.skew.grad is not None
        assert float(part.skew.grad.abs().max()) > 1e-9


def test_the_products_of_one_layer_say_nothing_about_turning() -> None:
    found = groupshuffle(residual=0.0).train()
    last = found.propagate().layers[-1]
    (last @ last.T).square().sum().backward()
    for part in found.turns:
        assert part.skew.grad is not None
        assert float(part.skew.grad.abs().max()) < 1e-15


def test_blocks_that_do_not_fill_the_width_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        create("groupshuffle", {"width": 60, "block": 8})
    assert says(error, "groupshuffle", "multiple of block", "found width 60 and block 8")
