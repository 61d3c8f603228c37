from __future__ import annotations

import numpy as np
import pytest
import torch

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.factorisation import mlp
from dagrec.models.factorisation.mlp import MLPConfig, MLPNetwork
from tests.models.factorisation.sets import (
    NODES,
    PATHS,
    SERVICES,
    inputs,
    set_biases,
    values,
)


def network(**options: object) -> MLPNetwork:
    """With vectors and biases large enough that every part of the formula shows."""
    net = MLPNetwork(MLPConfig.model_validate({"width": 8, **options}), NODES, SERVICES).eval()
    set_biases(net.last.bias)
    with torch.no_grad():
        for parameter in (net.embed.weight, net.items, net.frontier.weight if net.frontier else None):
            if parameter is not None:
                parameter.mul_(10)
        for layer in (net.first, *net.rest):
            layer.bias.uniform_(-0.5, 0.5)
    return net


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_scores_follow_the_formula(last: bool, layers: int) -> None:
    """A tower over [p ; l ; q], written out for each pair, whole first layer included."""
    net = network(last=last, layers=layers)
    w = values(net)
    expected = np.empty((len(PATHS), SERVICES))
    for x, path in enumerate(PATHS):
        for y in range(SERVICES):
            parts = [w["embed.weight"][path].mean(axis=0)]
            parts += [w["frontier.weight"][path[-1]]] if last else []
            a = np.concatenate([*parts, w["items"][y]])
            for name in ("first", *(f"rest.{i}" for i in range(layers - 1))):
                a = np.maximum(w[f"{name}.weight"] @ a + w[f"{name}.bias"], 0)
            expected[x, y] = w["out.weight"][0] @ a + w["last.bias"][y]
    np.testing.assert_allclose(net(inputs()).detach(), expected, rtol=1e-4, atol=1e-5)


def test_each_layer_is_half_as_wide_as_the_one_before() -> None:
    """With vectors of 32, no last node, and 3 layers: the 64-32-16-8 of the paper."""
    net = MLPNetwork(MLPConfig(width=32, layers=3, last=False), NODES, SERVICES)
    shapes = [tuple(layer.weight.shape) for layer in (net.first, *net.rest, net.out)]
    assert shapes == [(32, 64), (16, 32), (8, 16), (1, 8)]
    deep = MLPNetwork(MLPConfig(width=4, layers=5), NODES, SERVICES)
    assert [layer.out_features for layer in (deep.first, *deep.rest)] == [4, 2, 1, 1, 1]
    assert torch.isfinite(deep(inputs())).all()


def test_no_relu_at_the_end() -> None:
    """Without biases, a tower with the opposite output gives the opposite scores, below 0 too."""
    net = network()
    with torch.no_grad():
        net.last.bias.zero_()
        scores = net(inputs())
        net.out.weight.neg_()
        assert scores.abs().min() > 0
        assert torch.equal(net(inputs()), -scores)


def test_the_first_layer_has_a_relu() -> None:
    """Doubled inputs without biases double the scores, and opposite ones do not turn their sign."""
    net = network(layers=1)
    with torch.no_grad():
        net.last.bias.zero_()
        net.first.bias.zero_()
        scores = net(inputs())
        net.first.weight.mul_(2)
        torch.testing.assert_close(net(inputs()), 2 * scores)
        net.first.weight.neg_()
        assert not torch.allclose(net(inputs()), -2 * scores, atol=1e-2)


def test_more_rows_than_fit_at_once_are_scored_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    expected = net(inputs(PATHS * 5))
    for at_once in (1, 2 * SERVICES * 8, 3 * SERVICES * 8 + 1):
        monkeypatch.setattr(mlp, "AT_ONCE", at_once)
        torch.testing.assert_close(net(inputs(PATHS * 5)), expected)


def test_rows_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first layer of so many pairs as memory has room for, and no more."""
    net, sizes = network(), []
    whole = net.tower

    def tower(hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(hidden.numel())
        return whole(hidden)

    monkeypatch.setattr(net, "tower", tower)
    monkeypatch.setattr(mlp, "AT_ONCE", 2 * SERVICES * 8)
    net(inputs(PATHS * 5))
    assert sizes == [2 * SERVICES * 8] * 10


def test_no_columns_and_no_rows_have_no_scores() -> None:
    net = network()
    states = net.states(inputs())
    assert net.scores(states, torch.zeros(0, dtype=torch.int64)).shape == (len(PATHS), 0)
    assert net.scores(states[:0]).shape == (0, SERVICES)


def test_dropout_falls_on_the_context_alone() -> None:
    """All of it dropped, a service still has what its own half of the first layer says."""
    net = network(dropout=0.999999).train()
    with torch.no_grad():
        scores = net(inputs())
        own = net.tower(torch.relu(net.match(inputs())[1])[None])[0] + net.last.bias
    torch.testing.assert_close(scores, own.expand(len(PATHS), -1))
    assert not torch.allclose(net.eval()(inputs()), scores)


def test_without_the_last_node_a_set_is_all_that_is_seen() -> None:
    blind, seeing = network(last=False), network()
    turned = [[2, 3, 4], [4, 3, 2]]
    one, other = blind(inputs(turned))
    assert torch.equal(one, other)
    one, other = seeing(inputs(turned))
    assert float((one - other).detach().abs().max()) > 1e-3


def test_tables_of_contexts_of_last_nodes_and_of_services_are_apart() -> None:
    """A node that is also the first service: in a set, as the last, and as what may follow."""
    net = network()
    assert net.frontier is not None
    sets = inputs([[FIRST_SERVICE, 5], [5, FIRST_SERVICE], [5]])
    touched = {
        net.embed.weight: (FIRST_SERVICE, [True, True, False]),
        net.frontier.weight: (FIRST_SERVICE, [False, True, False]),
    }
    with torch.no_grad():
        for table, (row, expected) in touched.items():
            before = net(sets)
            table[row] += 1
            assert (net(sets) != before).any(dim=1).tolist() == expected
        before = net(sets)
        net.items[0] += 1
        assert (net(sets) != before).any(dim=0).tolist() == [True] + [False] * (SERVICES - 1)
