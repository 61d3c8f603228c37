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

CONTEXTS = inputs(*SETS, (3, 7), (8,))
SHAPES = [(8, 4), (8, 2), (12, 4), (9, 3), (8, 8), (6, 1)]
"""Widths and blocks."""


def random_matrix(width: int = 8, block: int = 4) -> GroupShuffleMatrix:
    """Return a matrix that is far from the identity."""
    torch.manual_seed(1)
    matrix = GroupShuffleMatrix(width, block).double()
    with torch.no_grad():
        matrix.skew.normal_()
    return matrix


def dense(matrix: GroupShuffleMatrix) -> Floats:
    """Return Q [D, D]."""
    width = matrix.skew.shape[1] * matrix.skew.shape[2]
    return to_numpy(matrix(torch.eye(width, dtype=torch.float64)))


def groupshuffle(*, merged: bool = True, **options: float) -> GroupShuffleNetwork:
    config = GroupShuffleConfig.model_validate({**DETERMINISTIC, "block": 4, "layers": 3, **options})
    return network(GroupShuffleNetwork, config, interactions(merged=merged))


def lightgcn(layers: int = 3) -> LightGCNNetwork:
    config = LightGCNConfig.model_validate({**DETERMINISTIC, "layers": layers})
    return network(LightGCNNetwork, config)


def with_identity(net: GroupShuffleNetwork) -> GroupShuffleNetwork:
    """Set all matrices of a network to the identity."""
    with torch.no_grad():
        for matrix in net.rotations:
            matrix.skew.zero_()
    return net


# The matrix


@pytest.mark.parametrize(("width", "block"), SHAPES)
def test_matrix_is_product_of_blocks_and_shuffles(width: int, block: int) -> None:
    matrix = random_matrix(width, block)
    groups = width // block
    r, l_ = (block_diag(*(expm(x - x.T) for x in blocks)) for blocks in to_numpy(matrix.skew))
    # The shuffle moves coordinate j of group g to position g of group j.
    shuffle = np.zeros((width, width))
    for g in range(groups):
        for j in range(block):
            shuffle[g * block + j, j * groups + g] = 1
    np.testing.assert_allclose(dense(matrix), r @ shuffle @ l_ @ shuffle.T, atol=1e-12)


@pytest.mark.parametrize(("width", "block"), SHAPES)
def test_matrix_is_a_rotation(width: int, block: int) -> None:
    matrix = random_matrix(width, block)
    q = dense(matrix)
    np.testing.assert_allclose(q.T @ q, np.eye(width), atol=1e-12)
    for factor in matrix.blocks():
        np.testing.assert_allclose(np.linalg.det(to_numpy(factor)), 1, atol=1e-12)
    rows = torch.randn(5, width, dtype=torch.float64)
    torch.testing.assert_close(matrix(rows).norm(dim=1), rows.norm(dim=1))
    q32 = to_numpy(matrix.float()(torch.eye(width)))
    np.testing.assert_allclose(q32.T @ q32, np.eye(width), atol=1e-5)


def test_matrix_is_dense_if_blocks_are_as_long_as_the_number_of_groups() -> None:
    assert (np.abs(dense(random_matrix(9, 3))) > 1e-9).all()
    assert (np.abs(dense(random_matrix(12, 4))) > 1e-9).all()
    assert (np.abs(dense(random_matrix(8, 2))) > 1e-9).mean() == 0.5


def test_matrix_with_zero_skew_is_identity() -> None:
    matrix = random_matrix()
    with torch.no_grad():
        matrix.skew.zero_()
    np.testing.assert_array_equal(dense(matrix), np.eye(8))


# The network


@pytest.mark.parametrize("merged", [True, False])
def test_factors_follow_formula(merged: bool) -> None:
    net = groupshuffle(residual=0.3, merged=merged)
    a = adjacency()
    layers = [ego_layer(to_numpy(net.embed.weight))]
    for matrix in net.rotations:
        assert isinstance(matrix, GroupShuffleMatrix)
        layers.append(0.7 * a @ layers[-1] @ dense(matrix) + 0.3 * layers[0])
    expected = np.mean(layers, axis=0)
    z_x, z_y = net.factors(inputs(*SETS))
    np.testing.assert_allclose(
        to_numpy(z_y), expected[FIRST_SERVICE : FIRST_SERVICE + SERVICES], rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(to_numpy(z_x), expected[NODES:], rtol=1e-6, atol=1e-8)


def test_identity_matrices_without_residual_equal_lightgcn() -> None:
    ours, theirs = with_identity(groupshuffle(residual=0.0)), lightgcn()
    with torch.no_grad():
        ours.embed.weight.copy_(theirs.embed.weight)
    for actual, expected in zip(ours.factors(CONTEXTS), theirs.factors(CONTEXTS), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-15)


def test_products_equal_lightgcn_within_layers_but_not_of_means() -> None:
    ours, theirs = groupshuffle(residual=0.0), lightgcn()
    with torch.no_grad():
        ours.embed.weight.copy_(theirs.embed.weight)

    def products(net: BipartiteNetwork) -> list[Floats]:
        layers = [to_numpy(layer) for layer in net.propagate().layers]
        return [layer @ layer.T for layer in [*layers, np.mean(layers, axis=0)]]

    *within, of_means = products(ours)
    *within_expected, of_means_expected = products(theirs)
    np.testing.assert_allclose(within, within_expected, atol=1e-12)
    assert not np.allclose(of_means, of_means_expected, rtol=0.01)


def test_graph_is_not_used_with_residual_1() -> None:
    net = groupshuffle(residual=1.0)
    z_x, z_y = net.factors(CONTEXTS)
    torch.testing.assert_close(z_x, net.context_vectors(CONTEXTS))
    torch.testing.assert_close(z_y, net.service_vectors())


@pytest.mark.parametrize("residual", [0.0, 0.1])
def test_skew_has_gradient_at_the_identity(residual: float) -> None:
    net = with_identity(groupshuffle(residual=residual))
    net.train()
    z_x, z_y = net.factors(CONTEXTS)
    (z_x @ z_y.T).square().sum().backward()
    for matrix in net.rotations:
        assert matrix.skew.grad is not None
        assert float(matrix.skew.grad.abs().max()) > 1e-9


def test_products_within_a_layer_give_no_gradient_to_skew() -> None:
    net = groupshuffle(residual=0.0).train()
    last = net.propagate().layers[-1]
    (last @ last.T).square().sum().backward()
    for matrix in net.rotations:
        assert matrix.skew.grad is not None
        assert float(matrix.skew.grad.abs().max()) < 1e-15


def test_config_rejects_block_that_does_not_divide_width() -> None:
    with pytest.raises(ConfigError) as error:
        create("groupshuffle", {"width": 60, "block": 8})
    assert says(error, "groupshuffle", "multiple of block", "found width 60 and block 8")
