from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.registry import create
from dagrec.models.sequence.nextitnet import CausalConvolution, NextItNetConfig, NextItNetwork
from dagrec.types import Floats
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
from tests.worlds import memory

SHAPES = [{}, {"blocks": 1, "kernel": 2}, {"kernel": 1}, {"tied": True, "kernel": 4}]
NO_DROPOUT = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}


def network(**options: object) -> NextItNetwork:
    """Return a small network with perturbed parameters in evaluation mode."""
    config = NextItNetConfig.model_validate({"width": 6, "blocks": 2, "tied": False, **options})
    net = NextItNetwork(config, NODES, SERVICES).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        net.embed.weight[0] = 0
    return net


# Formula


def reference_scores(net: NextItNetwork, path: list[int]) -> Floats:
    """Return scores by the formula, with conv_d(x)_t = b + sum_i W_i x_{t - i d}."""
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
    result: Floats = head @ x[-1] + weights["head.bias"]
    return result


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_match_reference(shape: dict[str, object]) -> None:
    net = network(**shape)
    paths = [list(path)[:n] for path, n in zip(random_paths(4, 12), (12, 1, 7, 3), strict=True)]
    expected = [reference_scores(net, path) for path in paths]
    np.testing.assert_allclose(scores(net, paths).detach(), expected, rtol=1e-4, atol=1e-4)


def test_convolution_matches_torch_conv1d() -> None:
    width, kernel, dilation = 4, 3, 2
    convolution = CausalConvolution(width, kernel, dilation)
    reference = nn.Conv1d(width, width, kernel, dilation=dilation)
    with torch.no_grad():
        # The kernel of torch runs from the oldest to the newest node.
        weight = convolution.combine.weight.view(width, kernel, width)
        reference.weight.copy_(weight.flip(1).transpose(1, 2))
        assert reference.bias is not None
        reference.bias.copy_(convolution.combine.bias)
    x = torch.randn(9, width)
    padded = nn.functional.pad(x.T[None], ((kernel - 1) * dilation, 0))
    expected = nn.functional.relu(convolution.norm(reference(padded)[0].T))
    assert_close(convolution(x, torch.arange(9)), expected)


@pytest.mark.parametrize(
    ("blocks", "kernel", "reach"), [(1, 2, 4), (1, 3, 7), (2, 2, 16), (2, 3, 31), (2, 1, 1)]
)
def test_receptive_field_has_expected_length(blocks: int, kernel: int, reach: int) -> None:
    assert reach == 1 + (kernel - 1) * (4**blocks - 1)
    net = network(blocks=blocks, kernel=kernel).double()
    path = [FIRST_SERVICE + i % 5 for i in range(reach + 3)]
    before = scores(net, [path])
    for position in range(len(path)):
        changed = [*path[:position], NODES - 1, *path[position + 1 :]]
        inside = position >= len(path) - reach
        assert (not torch.equal(scores(net, [changed]), before)) is inside, f"node {position}"


# Causality and padding


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shared_rows_score_prefixes_as_separate_rows(shape: dict[str, object]) -> None:
    net = network(**shape)
    paths = [path[:n] for path in random_paths(5, 6) for n in range(1, 7)]
    shared = scores(net, paths, shared=True)
    assert_close(shared, torch.cat([scores(net, [path]) for path in paths]))


def test_states_do_not_depend_on_later_nodes() -> None:
    net = network()
    (path,) = random_paths(1, 6)
    inputs = rows([path] * 6)._replace(positions=torch.arange(6))
    before = net.states(inputs)
    for position in range(6):
        nodes = inputs.nodes.clone()
        nodes[:, position] = FIRST_SERVICE if path[position] > FIRST_SERVICE else FIRST_SERVICE + 1
        after = net.states(inputs._replace(nodes=nodes))
        assert torch.equal(after[:position], before[:position])
        assert (after[position:] != before[position:]).any(dim=1).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_do_not_depend_on_padding(shape: dict[str, object]) -> None:
    net, paths = network(**shape), mixed_paths()
    for padding in (1, 20):
        assert torch.equal(net(rows(paths, padding=padding)), net(rows(paths)))


def test_scores_depend_on_every_node() -> None:
    assert_scores_depend_on_every_node(network())


# Learning


@pytest.mark.parametrize("tied", [True, False])
def test_initial_loss_is_close_to_uniform(tied: bool) -> None:
    net = NextItNetwork(NextItNetConfig(tied=tied), 260, 200).eval()
    nodes = torch.randint(FIRST_SERVICE, 260, (300, 4)).tolist()
    loss = nn.functional.cross_entropy(scores(net, nodes), torch.randint(0, 200, (300,)))
    assert loss.item() == pytest.approx(math.log(200), abs=0.8)


def test_tied_weights_share_storage() -> None:
    net = network(tied=True)
    assert net.head.weights().data_ptr() == net.embed.weight[FIRST_SERVICE:].data_ptr()
    assert "head.weight" not in net.state_dict()


@pytest.mark.parametrize("dropout", NO_DROPOUT)
def test_dropout_is_active_only_in_training(dropout: str) -> None:
    net = network(**(NO_DROPOUT | {dropout: 0.5}))
    paths = random_paths(20, 3)
    assert torch.equal(scores(net, paths), scores(net, paths))
    net.train()
    assert not torch.equal(scores(net, paths), scores(net, paths))
    without_dropout = network(**NO_DROPOUT).train()
    assert torch.equal(scores(without_dropout, paths), scores(without_dropout, paths))


def test_fit_memorises_eight_examples() -> None:
    data = eight_examples()
    options = {"epochs": 100, "width": 32, "learning_rate": 0.01, **NO_DROPOUT}
    model = create("nextitnet", options).fit(data)
    assert model.history[-1].loss < 0.05
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()


def test_fit_learns_dependency_beyond_last_node() -> None:
    world = memory()
    model = create("nextitnet", {"epochs": 60, "width": 16, "learning_rate": 0.01})
    model.fit(world.data)
    columns = model.score(world.data.vocabulary.encode(world.contexts)).argmax(axis=1)
    predicted = [world.data.vocabulary.services[column] for column in columns]
    assert predicted == [world.certain[context.path] for context in world.contexts]
