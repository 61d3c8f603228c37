from __future__ import annotations

import numpy as np
import pytest
import torch

from dagrec.data.examples import Context
from dagrec.data.vocabulary import Contexts
from dagrec.models.bipartite.svdgcn_b import SVDGCNB, SVDGCNBConfig, SVDGCNBNetwork
from dagrec.models.bipartite.svdgcn_s import SVDGCNS, SVDGCNSConfig
from dagrec.models.registry import create
from tests.models.bipartite.dense import to_numpy
from tests.worlds import everything

WORLD = everything()
SPECTRUM = {"rank": 6, "alpha": 2.0, "beta": 1.2}
SMALL = {**SPECTRUM, "epochs": 3, "min_steps": 0, "width": 5}


def contexts() -> Contexts:
    """Return contexts of all lengths, two of them with unknown nodes."""
    unknown = [Context(("table_a", "extract", "unknown")), Context(("unknown", "extract"))]
    return WORLD.data.vocabulary.encode([*WORLD.contexts, *unknown])


def fit(**options: object) -> tuple[SVDGCNB, SVDGCNBNetwork]:
    model = create("svdgcn_b", {**SMALL, **options}).fit(WORLD.data)
    assert isinstance(model, SVDGCNB)
    network = model._network
    assert isinstance(network, SVDGCNBNetwork)
    return model, network


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("read", ["path", "upstream"])
def test_identity_projection_equals_svdgcn_s(last: bool, read: str) -> None:
    config = SVDGCNSConfig.model_validate({**SPECTRUM, "last": last, "read": read})
    svdgcn_s = SVDGCNS(config).fit(WORLD.data)
    rank = svdgcn_s.state()["nodes"].shape[1]
    model, network = fit(last=last, read=read, width=rank)
    with torch.no_grad():
        network.weight.copy_(torch.eye(rank))
        network.last.bias.zero_()
        if last:
            network.last.weight.zero_()
    np.testing.assert_allclose(
        model.score(contexts()), svdgcn_s.score(contexts()), rtol=1e-4, atol=1e-4
    )


def test_training_does_not_change_features() -> None:
    expected = SVDGCNS(SVDGCNSConfig.model_validate(SPECTRUM)).fit(WORLD.data).state()
    _, network = fit()
    np.testing.assert_array_equal(to_numpy(network.nodes), expected["nodes"].astype(np.float32))
    np.testing.assert_array_equal(to_numpy(network.features), expected["services"].astype(np.float32))


def test_parameters_are_projection_and_last_node_term() -> None:
    _, network = fit()
    names = {name for name, _ in network.named_parameters()}
    assert names == {"weight", "last.bias", "last.embed.weight", "last.weight"}
    assert network.weight.shape == (network.features.shape[1], 5)
    _, without_last = fit(last=False)
    assert {name for name, _ in without_last.named_parameters()} == {"weight", "last.bias"}


def test_scores_are_invariant_to_rotation_of_projection() -> None:
    model, network = fit()
    before = model.score(contexts())
    q = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))[0]
    with torch.no_grad():
        network.weight.copy_(network.weight @ q)
    np.testing.assert_allclose(model.score(contexts()), before, rtol=1e-4, atol=1e-4)


def test_penalty_is_on_projected_vectors() -> None:
    model, network = fit(l2=0.1)
    batch, _ = model.units(contexts(), training=True).take(np.arange(3))
    rows, columns = torch.tensor([0, 2]), torch.tensor([4, 1])
    z_x, z_y = (to_numpy(part) for part in network.factors(batch))
    squares = (z_y**2).sum(axis=1)
    expected = 0.1 * ((z_x[[0, 2]] ** 2).sum(axis=1) + squares[[4, 1]] + squares.mean())
    penalty = network.penalty(batch, network.states(batch), rows, columns)
    assert penalty is not None
    np.testing.assert_allclose(to_numpy(penalty), expected, rtol=1e-5)


def test_config_has_options_of_spectrum_and_factorisation() -> None:
    config = SVDGCNBConfig.model_validate({**SMALL, "last": False})
    assert (config.rank, config.alpha, config.beta, config.width, config.last) == (6, 2, 1.2, 5, False)
