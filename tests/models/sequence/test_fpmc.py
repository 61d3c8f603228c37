from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dagrec.data.vocabulary import FIRST_SERVICE, PADDING, Vocabulary
from dagrec.models.registry import create
from dagrec.models.sequence.fpmc import FPMC, FPMCConfig, FPMCNetwork
from dagrec.training.data import TrainingData
from tests.models.sequence.rows import (
    NODES,
    SERVICES,
    assert_close,
    assert_scores_depend_on_every_node,
    eight_examples,
    mixed_paths,
    random_paths,
    rows,
    scores,
)
from tests.worlds import chain, everything


def network(**options: object) -> FPMCNetwork:
    config = FPMCConfig.model_validate({"width": 5, **options})
    return FPMCNetwork(config, NODES, SERVICES).eval()


def test_scores_match_formula() -> None:
    """< mean P_v, I_y > + < L_last, J_y > + b_y"""
    net, paths = network(), mixed_paths()
    weights = {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}
    i, j = np.split(weights["head.weight"], 2, axis=1)
    expected = [
        weights["user.weight"][path].mean(axis=0) @ i.T
        + weights["last.weight"][path[-1]] @ j.T
        + weights["head.bias"]
        for path in paths
    ]
    np.testing.assert_allclose(scores(net, paths).detach(), expected, rtol=1e-4, atol=1e-5)


def test_scores_without_user_vectors_depend_only_on_last_node() -> None:
    net = network()
    with torch.no_grad():
        net.user.weight.zero_()
    paths = [[a, b, c] for a, b, c in itertools.product(range(FIRST_SERVICE, 6), repeat=3)]
    by_last = scores(net, [[path[-1]] for path in paths])
    assert torch.equal(scores(net, paths), by_last)
    assert torch.unique(by_last, dim=0).shape[0] == 4


def test_scores_without_last_vectors_ignore_order() -> None:
    net = network()
    with torch.no_grad():
        net.last.weight.zero_()
    orders = [list(order) for order in itertools.permutations([3, 7, 5, 9])]
    result = scores(net, orders)
    assert_close(result, result[:1].expand_as(result))
    assert (scores(net, [[3, 7, 5, 8]]) - result[0]).abs().max() > 1e-3
    mean = net.user.weight[[3, 7, 5, 9]].mean(dim=0)
    assert_close(result[0], net.head.weight[:, :5] @ mean + net.head.bias)


def test_parameters_are_four_tables_and_a_bias() -> None:
    net = network()
    shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    assert shapes == {
        "user.weight": (NODES, 5),
        "last.weight": (NODES, 5),
        "head.weight": (SERVICES, 10),
        "head.bias": (SERVICES,),
    }


def test_wide_vectors_represent_any_transition_table() -> None:
    net = network(width=SERVICES)
    table = torch.randn(NODES, SERVICES)
    with torch.no_grad():
        net.user.weight.zero_()
        net.head.bias.zero_()
        net.last.weight.copy_(table)
        net.head.weight[:, SERVICES:] = torch.eye(SERVICES)
    paths = [[3, node] for node in range(FIRST_SERVICE, NODES)]
    assert_close(scores(net, paths), table[FIRST_SERVICE:])


def test_shared_rows_score_prefixes_as_separate_rows() -> None:
    net = network()
    paths = [path[:n] for path in random_paths(5, 6) for n in range(1, 7)]
    assert_close(scores(net, paths, shared=True), torch.cat([scores(net, [path]) for path in paths]))


def test_scores_do_not_depend_on_padding() -> None:
    net = network()
    assert not net.user.weight[PADDING].any()
    paths = mixed_paths()
    assert torch.equal(net(rows(paths, padding=4)), net(rows(paths)))


def test_scores_depend_on_every_node() -> None:
    assert_scores_depend_on_every_node(network())


def test_fit_supports_bpr_and_other_losses() -> None:
    assert FPMC.Config().loss == "bpr"
    world = chain()
    for loss in ("bpr", "ce", "bce", "hinge", "sampled-softmax"):
        options = {"epochs": 60, "learning_rate": 0.02, "loss": loss}
        model = create("fpmc", options).fit(world.data)
        columns = model.score(world.data.vocabulary.encode(world.contexts)).argmax(axis=1)
        predicted = [world.data.vocabulary.services[column] for column in columns]
        assert predicted == [world.certain[context.path] for context in world.contexts], loss


class SmallInitialWeights(FPMC):
    """Scales the initial weights by 0.1."""

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> FPMCNetwork:
        network = super().build(vocabulary, data)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(0.1)
        return network


def test_initial_bpr_loss_is_log_2() -> None:
    """BPR of equal scores is log 2; full-size initial weights would change it by a few tenths."""
    model = SmallInitialWeights(epochs=1, learning_rate=1e-9, schedule="constant").fit(
        everything().data
    )
    assert model.history[0].loss == pytest.approx(np.log(2), rel=0.05)


def test_fit_memorises_eight_examples() -> None:
    data = eight_examples()
    options = {"epochs": 150, "loss": "ce", "dropout": 0.0, "learning_rate": 0.03, "weight_decay": 0.0}
    model = create("fpmc", options).fit(data)
    assert model.history[-1].loss < 0.05
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()
