from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.factorisation.bprmf import BPRMF, BPRMFConfig, BPRMFNetwork
from dagrec.models.registry import create
from dagrec.training.losses import CandidateScores, bpr
from dagrec.types import Floats, Scores
from tests.models.factorisation.sets import (
    NODES,
    PATHS,
    SERVICES,
    fill_bias,
    inputs,
    parameters_of,
)
from tests.worlds import everything

WORLD = everything()


def network(**options: object) -> BPRMFNetwork:
    config = BPRMFConfig.model_validate({"width": 5, **options})
    net = BPRMFNetwork(config, NODES, SERVICES).eval()
    fill_bias(net.last.bias)
    return net


def loss(net: BPRMFNetwork, path: list[int], target: int, *negatives: int) -> Tensor:
    """Return the BPR loss of a target and these negatives, without the penalty."""
    scores = net(inputs([path]))[0]
    negative_scores = scores[list(negatives)][None]
    valid = torch.ones_like(negative_scores, dtype=torch.bool)
    return bpr(CandidateScores(scores[[target]], negative_scores, valid, None, SERVICES)).sum()


def gradients(net: BPRMFNetwork, value: Tensor) -> dict[str, Floats]:
    """Return the gradient of each parameter; 0 if the value does not depend on it."""
    net.zero_grad()
    value.backward()
    return {
        name: np.zeros(p.shape) if p.grad is None else p.grad.double().numpy()
        for name, p in net.named_parameters()
    }


# Scores


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_scores_follow_formula(tied: bool, last: bool) -> None:
    """< u_x, E_y > + < L_f, T_y > + b_y"""
    net = network(tied=tied, last=last)
    w = parameters_of(net)
    first_services = w["embed.weight"][FIRST_SERVICE : FIRST_SERVICE + SERVICES]
    services = first_services if tied else w["items"]
    expected = np.array(
        [
            [
                sum(w["embed.weight"][node] @ services[y] for node in path) / len(path)
                + (w["last.embed.weight"][path[-1]] @ w["last.weight"][y] if last else 0)
                + w["last.bias"][y]
                for y in range(SERVICES)
            ]
            for path in PATHS
        ]
    )
    np.testing.assert_allclose(net(inputs()).detach(), expected, rtol=1e-5, atol=1e-6)


def test_product_is_symmetric_only_with_tied_tables() -> None:
    single_nodes = [[node] for node in range(FIRST_SERVICE, FIRST_SERVICE + SERVICES)]
    for tied in (True, False):
        net = network(tied=tied, last=False)
        product = net(inputs(single_nodes)) - net.last.bias
        assert torch.allclose(product, product.T, atol=1e-6) == tied


def fit(**options: object) -> BPRMF:
    small = {"epochs": 3, "min_steps": 0, "learning_rate": 0.02, "width": 8}
    model = create("bprmf", {**small, **options})
    assert isinstance(model, BPRMF)
    return model.fit(WORLD.data)


def score(model: BPRMF, *paths: tuple[str, ...]) -> Scores:
    return model.score(WORLD.data.vocabulary.encode([Context(path) for path in paths]))


def test_node_order_matters_only_for_the_last_node() -> None:
    a, b, c = WORLD.data.vocabulary.services[:3]
    scores = score(fit(), (a, b, c), (b, a, c), (b, a, a, b, c), (a, c, b))
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[2])
    assert np.abs(scores[0] - scores[3]).max() > 1e-3


def test_scores_without_last_depend_only_on_the_set() -> None:
    a, b, c = WORLD.data.vocabulary.services[:3]
    model = fit(last=False)
    scores = score(model, *itertools.permutations((a, b, c)))
    assert (scores == scores[0]).all()
    assert np.abs(scores[0] - score(model, (a, b))[0]).max() > 1e-4


# Loss


def test_gradient_of_a_pair_follows_the_paper() -> None:
    """With d = sigmoid(s_j - s_y): -d (E_y - E_j) at u, -d u at E_y, +d u at E_j; the same for L, T."""
    net, path, y, j = network(tied=False), PATHS[0], 1, 4
    w = parameters_of(net)
    s = net(inputs([path])).detach().double().numpy()[0]
    delta = expit(s[j] - s[y])
    u, last = w["embed.weight"][path].mean(axis=0), w["last.embed.weight"][path[-1]]
    expected = {name: np.zeros_like(array) for name, array in w.items()}
    expected["embed.weight"][path] = -delta * (w["items"][y] - w["items"][j]) / len(path)
    expected["last.embed.weight"][path[-1]] = -delta * (w["last.weight"][y] - w["last.weight"][j])
    for sign, column in ((-1, y), (1, j)):
        expected["items"][column] = sign * delta * u
        expected["last.weight"][column] = sign * delta * last
        expected["last.bias"][column] = sign * delta
    actual = gradients(net, loss(net, path, y, j))
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=1e-4, atol=1e-7, err_msg=name)


def test_gradient_of_the_penalty_is_twice_the_vectors() -> None:
    """2 l2 u at u, 2 l2 E_y at E_y, and 2 l2 E_j / C at each service j."""
    l2 = 0.3
    net, path, y = network(tied=False, l2=l2), PATHS[3], 2
    w, batch = parameters_of(net), inputs([path])
    u = w["embed.weight"][path].mean(axis=0)
    items = 2 * l2 * w["items"] / SERVICES
    items[y] += 2 * l2 * w["items"][y]
    embed = np.zeros_like(w["embed.weight"])
    embed[path] = 2 * l2 * u / len(path)
    penalty = net.penalty(batch, net.states(batch), torch.tensor([0]), torch.tensor([y]))
    assert penalty is not None
    grads = gradients(net, penalty.sum())
    np.testing.assert_allclose(grads["items"], items, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(grads["embed.weight"], embed, rtol=1e-4, atol=1e-7)
    assert not grads["last.embed.weight"].any()
    assert not grads["last.bias"].any()


def test_loss_of_a_tie_is_log_2() -> None:
    net = network(tied=False)
    with torch.no_grad():
        for parameter in (net.items, net.last.weight, net.last.bias):
            assert parameter is not None
            parameter[4] = parameter[1]
    for path in PATHS:
        assert float(loss(net, path, 1, 4).detach()) == pytest.approx(np.log(2), rel=1e-6)


def test_loss_of_a_wrong_order_is_above_log_2() -> None:
    """-log sigmoid is an upper bound of the step function of AUC, times log 2."""
    net = network()
    s = net(inputs([PATHS[0]]))[0]
    wrong = [(y, j) for y in range(SERVICES) for j in range(SERVICES) if s[y] < s[j]]
    assert len(wrong) == SERVICES * (SERVICES - 1) // 2
    assert all(float(loss(net, PATHS[0], y, j).detach()) > np.log(2) for y, j in wrong)


def test_loss_is_invariant_to_a_shift_of_all_biases() -> None:
    net = network()
    before = loss(net, PATHS[0], 1, 4, 5, 0)
    expected = gradients(net, before)
    with torch.no_grad():
        net.last.bias.add_(3)
    after = loss(net, PATHS[0], 1, 4, 5, 0)
    torch.testing.assert_close(after, before)
    for name, gradient in gradients(net, after).items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_gradients_of_the_biases_sum_to_zero() -> None:
    net = network()
    bias = gradients(net, loss(net, PATHS[2], 3, 0, 5))["last.bias"]
    assert np.flatnonzero(bias).tolist() == [0, 3, 5]
    assert bias[3] < 0
    assert bias.sum() == pytest.approx(0, abs=1e-7)


def test_defaults_are_those_of_the_paper() -> None:
    config = BPRMFConfig()
    assert config.loss == "bpr"
    assert config.sample_alpha == 0
    assert config.l2 > 0
