from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dagrec.data.vocabulary import FIRST, PADDING, Vocabulary
from dagrec.models.registry import create
from dagrec.models.sequence.fpmc import FPMC, FPMCConfig, FPMCNetwork
from dagrec.training.data import TrainingData
from tests.models.sequence.rows import (
    NODES,
    SERVICES,
    close,
    differ,
    eight,
    own_generator,
    paths,
    rows,
    scores,
)
from tests.worlds import chain, everything

__all__ = ["own_generator"]
pytestmark = pytest.mark.usefixtures("own_generator")


def network(**options: object) -> FPMCNetwork:
    config = FPMCConfig.model_validate({"width": 5, **options})
    return FPMCNetwork(config, NODES, SERVICES).eval()


def test_scores_follow_the_formula() -> None:
    """< mean P_v, I_y > + < L_last, J_y > + b_y"""
    net, of = network(), [list(path)[:n] for path, n in zip(paths(4, 5), (3, 1, 5, 2), strict=True)]
    weights = {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}
    i, j = np.split(weights["head.weight"], 2, axis=1)
    expected = [
        weights["user.weight"][path].mean(axis=0) @ i.T
        + weights["last.weight"][path[-1]] @ j.T
        + weights["head.bias"]
        for path in of
    ]
    np.testing.assert_allclose(scores(net, of).detach(), expected, rtol=1e-4, atol=1e-5)


def test_without_user_vectors_the_last_node_alone_decides() -> None:
    net = network()
    with torch.no_grad():
        net.user.weight.zero_()
    of = [[a, b, c] for a, b, c in itertools.product(range(FIRST, 6), repeat=3)]
    by_last = scores(net, [[path[-1]] for path in of])
    assert torch.equal(scores(net, of), by_last)
    assert torch.unique(by_last, dim=0).shape[0] == 4


def test_without_last_vectors_the_order_of_the_path_does_not_matter() -> None:
    net = network()
    with torch.no_grad():
        net.last.weight.zero_()
    orders = [list(order) for order in itertools.permutations([3, 7, 5, 9])]
    found = scores(net, orders)
    assert close(found, found[:1].expand_as(found))
    assert (scores(net, [[3, 7, 5, 8]]) - found[0]).abs().max() > 1e-3
    mean = net.user.weight[[3, 7, 5, 9]].mean(dim=0)
    factorised = net.head.weight[:, :5] @ mean + net.head.bias
    assert close(found[0], factorised)


def test_four_tables_are_four() -> None:
    net = network()
    shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    assert shapes == {
        "user.weight": (NODES, 5),
        "last.weight": (NODES, 5),
        "head.weight": (SERVICES, 10),
        "head.bias": (SERVICES,),
    }


def test_vectors_wide_enough_represent_any_table_of_transitions() -> None:
    net = network(width=SERVICES)
    table = torch.randn(NODES, SERVICES)
    with torch.no_grad():
        net.user.weight.zero_()
        net.head.bias.zero_()
        net.last.weight.copy_(table)
        net.head.weight[:, SERVICES:] = torch.eye(SERVICES)
    of = [[3, node] for node in range(FIRST, NODES)]
    assert close(scores(net, of), table[FIRST:])


def test_beginnings_in_the_row_of_a_path_are_as_alone() -> None:
    net = network()
    of = [path[:n] for path in paths(5, 6) for n in range(1, 7)]
    assert close(scores(net, of, shared=True), torch.cat([scores(net, [path]) for path in of]))


def test_padding_changes_nothing() -> None:
    net = network()
    assert not net.user.weight[PADDING].any()
    of = [path[:n] for path, n in zip(paths(4, 5), (3, 1, 5, 2), strict=True)]
    assert torch.equal(net(rows(of, padding=4)), net(rows(of)))


def test_every_node_counts() -> None:
    assert differ(network())


def test_its_loss_is_bpr_by_default_and_any_by_choice() -> None:
    assert FPMC.Config().loss == "bpr"
    world = chain()
    for loss in ("bpr", "ce", "bce", "hinge", "sampled-softmax"):
        options = {"epochs": 60, "learning_rate": 0.02, "loss": loss}
        model = create("fpmc", options).fit(world.data)
        found = model.score(world.data.vocabulary.encode(world.contexts)).argmax(axis=1)
        answers = [world.data.vocabulary.services[column] for column in found]
        assert answers == [world.certain[context.path] for context in world.contexts], loss


class Small(FPMC):
    """Starts from a tenth of the first weights."""

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> FPMCNetwork:
        found = super().build(vocabulary, data)
        with torch.no_grad():
            for parameter in found.parameters():
                parameter.mul_(0.1)
        return found


def test_the_first_loss_is_that_of_a_tie() -> None:
    """BPR at equal scores costs log 2; first scores of a width differ by a few tenths."""
    model = Small(epochs=1, learning_rate=1e-9, schedule="constant").fit(everything().data)
    assert model.history[0].loss == pytest.approx(np.log(2), rel=0.05)


def test_eight_examples_are_learned_by_heart() -> None:
    data = eight()
    options = {"epochs": 150, "loss": "ce", "dropout": 0.0, "learning_rate": 0.03, "weight_decay": 0.0}
    model = create("fpmc", options).fit(data)
    assert model.history[-1].loss < 0.05
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()
