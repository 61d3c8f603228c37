from __future__ import annotations

import numpy as np
import pytest
import torch

from dagrec.data.examples import Context
from dagrec.data.vocabulary import Contexts
from dagrec.models.bipartite.svdgcn_b import SVDGCNB, SVDGCNBConfig, SVDGCNBNetwork
from dagrec.models.bipartite.svdgcn_s import SVDGCNS, SVDGCNSConfig
from dagrec.models.registry import create
from tests.models.bipartite.dense import numbers
from tests.worlds import everything

WORLD = everything()
SPECTRUM = {"rank": 6, "alpha": 2.0, "beta": 1.2}
SMALL = {**SPECTRUM, "epochs": 3, "width": 5}


def asked() -> Contexts:
    """Contexts of all lengths, one of them with an unknown last node and one with another unknown."""
    unknown = [Context(("table_a", "extract", "nobody")), Context(("nobody", "extract"))]
    return WORLD.data.vocabulary.encode([*WORLD.contexts, *unknown])


def trained(**options: object) -> tuple[SVDGCNB, SVDGCNBNetwork]:
    model = create("svdgcn_b", {**SMALL, **options}).fit(WORLD.data)
    assert isinstance(model, SVDGCNB)
    network = model._network
    assert isinstance(network, SVDGCNBNetwork)
    return model, network


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("read", ["path", "upstream"])
def test_with_the_identity_for_w_it_is_svdgcn_s(last: bool, read: str) -> None:
    closed = SVDGCNS(SVDGCNSConfig.model_validate({**SPECTRUM, "last": last, "read": read}))
    closed.fit(WORLD.data)
    rank = closed.state()["nodes"].shape[1]
    model, network = trained(last=last, read=read, width=rank)
    with torch.no_grad():
        network.weight.copy_(torch.eye(rank))
        network.last.bias.zero_()
        if last:
            network.last.weight.zero_()
    np.testing.assert_allclose(model.score(asked()), closed.score(asked()), rtol=1e-4, atol=1e-4)


def test_features_stay_as_they_are() -> None:
    closed = SVDGCNS(SVDGCNSConfig.model_validate(SPECTRUM)).fit(WORLD.data).state()
    _, network = trained()
    np.testing.assert_array_equal(numbers(network.nodes), closed["nodes"].astype(np.float32))
    np.testing.assert_array_equal(numbers(network.features), closed["services"].astype(np.float32))


def test_w_and_the_last_node_are_all_that_is_learned() -> None:
    _, network = trained()
    names = {name for name, _ in network.named_parameters()}
    assert names == {"weight", "last.bias", "last.embed.weight", "last.weight"}
    assert network.weight.shape == (network.features.shape[1], 5)
    _, without = trained(last=False)
    assert {name for name, _ in without.named_parameters()} == {"weight", "last.bias"}


def test_w_can_be_turned() -> None:
    model, network = trained()
    before = model.score(asked())
    q = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))[0]
    with torch.no_grad():
        network.weight.copy_(network.weight @ q)
    np.testing.assert_allclose(model.score(asked()), before, rtol=1e-4, atol=1e-4)


def test_the_l2_term_is_on_projected_vectors() -> None:
    model, network = trained(l2=0.1)
    inputs, _ = model.units(asked(), training=True).take(np.arange(3))
    rows, columns = torch.tensor([0, 2]), torch.tensor([4, 1])
    z, items = (numbers(side) for side in network.match(inputs))
    squares = (items**2).sum(axis=1)
    expected = 0.1 * ((z[[0, 2]] ** 2).sum(axis=1) + squares[[4, 1]] + squares.mean())
    penalty = network.penalty(inputs, network.states(inputs), rows, columns)
    assert penalty is not None
    np.testing.assert_allclose(numbers(penalty), expected, rtol=1e-5)


def test_both_lists_of_options_are_read() -> None:
    config = SVDGCNBConfig.model_validate({**SMALL, "last": False})
    assert (config.rank, config.alpha, config.beta, config.width, config.last) == (6, 2, 1.2, 5, False)
