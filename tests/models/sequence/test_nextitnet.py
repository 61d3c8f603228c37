from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from dagrec.data.vocabulary import FIRST
from dagrec.models.registry import create
from dagrec.models.sequence.nextitnet import CausalConvolution, NextItNetConfig, NextItNetwork
from dagrec.types import Floats
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
from tests.worlds import memory

__all__ = ["own_generator"]
pytestmark = pytest.mark.usefixtures("own_generator")

SHAPES = [{}, {"blocks": 1, "kernel": 2}, {"kernel": 1}, {"tied": True, "kernel": 4}]
STILL = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}


def network(**options: object) -> NextItNetwork:
    """A small network whose every parameter has been moved from its start, in evaluation mode."""
    config = NextItNetConfig.model_validate({"width": 6, "blocks": 2, "tied": False, **options})
    net = NextItNetwork(config, NODES, SERVICES).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        net.embed.weight[0] = 0
    return net


# The formula


def by_hand(net: NextItNetwork, path: list[int]) -> Floats:
    """x_t = E[v_t]; conv_d(x)_t = b + sum_i W_i x_{t - i d}; two a block, dilations 1, 2, 4, 8."""
    weights = {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}
    x = weights["embed.weight"][path]
    width = x.shape[1]

    def layer(x: Floats, number: int) -> Floats:
        name, dilation = f"layers.{number}", 2**number
        w = weights[f"{name}.combine.weight"]
        out = np.tile(weights[f"{name}.combine.bias"], (len(x), 1))
        for t in range(len(x)):
            for i in range(w.shape[1] // width):
                if t - i * dilation >= 0:
                    out[t] += w[:, i * width : (i + 1) * width] @ x[t - i * dilation]
        scaled = (out - out.mean(1, keepdims=True)) / np.sqrt(out.var(1, keepdims=True) + 1e-5)
        return np.maximum(scaled * weights[f"{name}.norm.weight"] + weights[f"{name}.norm.bias"], 0)

    for block in range(len(net.layers) // 2):
        x = x + layer(layer(x, 2 * block), 2 * block + 1)
    head = net.head.weights().detach().double().numpy()
    found: Floats = head @ x[-1] + weights["head.bias"]
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_follow_the_formula(shape: dict[str, object]) -> None:
    net = network(**shape)
    of = [list(path)[:n] for path, n in zip(paths(4, 12), (12, 1, 7, 3), strict=True)]
    expected = [by_hand(net, path) for path in of]
    np.testing.assert_allclose(scores(net, of).detach(), expected, rtol=1e-4, atol=1e-4)


def test_a_convolution_is_that_of_torch_with_padding_before() -> None:
    width, kernel, dilation = 4, 3, 2
    ours = CausalConvolution(width, kernel, dilation)
    theirs = nn.Conv1d(width, width, kernel, dilation=dilation)
    with torch.no_grad():
        # Theirs has the kernel's places from the oldest to the newest.
        weight = ours.combine.weight.view(width, kernel, width)
        theirs.weight.copy_(weight.flip(1).transpose(1, 2))
        assert theirs.bias is not None
        theirs.bias.copy_(ours.combine.bias)
    x = torch.randn(9, width)
    before = nn.functional.pad(x.T[None], ((kernel - 1) * dilation, 0))
    expected = nn.functional.relu(ours.norm(theirs(before)[0].T))
    assert close(ours(x, torch.arange(9)), expected)


@pytest.mark.parametrize(
    ("blocks", "kernel", "reach"), [(1, 2, 4), (1, 3, 7), (2, 2, 16), (2, 3, 31), (2, 1, 1)]
)
def test_a_state_sees_so_many_nodes_and_no_more(blocks: int, kernel: int, reach: int) -> None:
    assert reach == 1 + (kernel - 1) * (4**blocks - 1)
    net = network(blocks=blocks, kernel=kernel).double()
    path = [FIRST + i % 5 for i in range(reach + 3)]
    before = scores(net, [path])
    for place in range(len(path)):
        changed = [*path[:place], NODES - 1, *path[place + 1 :]]
        seen = place >= len(path) - reach
        assert (not torch.equal(scores(net, [changed]), before)) is seen, f"node {place}"


# Causality and padding


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_later_nodes_and_other_rows_never_reach_a_score(shape: dict[str, object]) -> None:
    net = network(**shape)
    of = [path[:n] for path in paths(5, 6) for n in range(1, 7)]
    together = scores(net, of, shared=True)
    assert close(together, torch.cat([scores(net, [path]) for path in of]))


def test_a_later_node_leaves_earlier_states_exactly() -> None:
    net = network()
    (path,) = paths(1, 6)
    inputs = rows([path] * 6)._replace(places=torch.arange(6))
    before = net.states(inputs)
    for place in range(6):
        nodes = inputs.nodes.clone()
        nodes[:, place] = FIRST if path[place] > FIRST else FIRST + 1
        after = net.states(inputs._replace(nodes=nodes))
        assert torch.equal(after[:place], before[:place])
        assert (after[place:] != before[place:]).any(dim=1).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_more_padding_changes_nothing(shape: dict[str, object]) -> None:
    net, of = network(**shape), [path[:n] for path, n in zip(paths(4, 5), (3, 1, 5, 2), strict=True)]
    for padding in (1, 20):
        assert torch.equal(net(rows(of, padding=padding)), net(rows(of)))


def test_every_node_counts() -> None:
    assert differ(network())


# Learning


@pytest.mark.parametrize("tied", [True, False])
def test_the_first_loss_is_about_that_of_a_uniform_guess(tied: bool) -> None:
    net = NextItNetwork(NextItNetConfig(tied=tied), 260, 200).eval()
    nodes = torch.randint(FIRST, 260, (300, 4)).tolist()
    loss = nn.functional.cross_entropy(scores(net, nodes), torch.randint(0, 200, (300,)))
    assert loss.item() == pytest.approx(math.log(200), abs=0.8)


def test_tied_weights_are_one_storage() -> None:
    net = network(tied=True)
    assert net.head.weights().data_ptr() == net.embed.weight[FIRST:].data_ptr()
    assert "head.weight" not in net.state_dict()


@pytest.mark.parametrize("dropout", STILL)
def test_each_dropout_acts_in_training_alone(dropout: str) -> None:
    net = network(**(STILL | {dropout: 0.5}))
    of = paths(20, 3)
    assert torch.equal(scores(net, of), scores(net, of))
    net.train()
    assert not torch.equal(scores(net, of), scores(net, of))
    still = network(**STILL).train()
    assert torch.equal(scores(still, of), scores(still, of))


def test_eight_examples_are_learned_by_heart() -> None:
    data = eight()
    options = {"epochs": 100, "width": 32, "learning_rate": 0.01, **STILL}
    model = create("nextitnet", options).fit(data)
    assert model.history[-1].loss < 0.05
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()


def test_the_memory_reaches_behind_the_last_node() -> None:
    world = memory()
    model = create("nextitnet", {"epochs": 60, "width": 16, "learning_rate": 0.01})
    model.fit(world.data)
    found = model.score(world.data.vocabulary.encode(world.contexts)).argmax(axis=1)
    answers = [world.data.vocabulary.services[column] for column in found]
    assert answers == [world.certain[context.path] for context in world.contexts]
