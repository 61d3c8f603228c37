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
    fill_bias,
    inputs,
    parameters_of,
)


def network(**options: object) -> MLPNetwork:
    """Return a network whose vectors and biases are large enough that all terms matter."""
    net = MLPNetwork(MLPConfig.model_validate({"width": 8, **options}), NODES, SERVICES).eval()
    fill_bias(net.last.bias)
    with torch.no_grad():
        for parameter in (net.embed.weight, net.items, net.frontier.weight if net.frontier else None):
            if parameter is not None:
                parameter.mul_(10)
        for layer in (net.first, *net.rest):
            layer.bias.uniform_(-0.5, 0.5)
    return net


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_scores_follow_formula(last: bool, layers: int) -> None:
    """The reference computes all layers for each pair, from the concatenation [p ; l ; q]."""
    net = network(last=last, layers=layers)
    w = parameters_of(net)
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


def test_each_layer_has_half_the_width_of_the_one_before() -> None:
    """With width 32, 3 layers and no last node: the 64-32-16-8 of the paper."""
    net = MLPNetwork(MLPConfig(width=32, layers=3, last=False), NODES, SERVICES)
    shapes = [tuple(layer.weight.shape) for layer in (net.first, *net.rest, net.out)]
    assert shapes == [(32, 64), (16, 32), (8, 16), (1, 8)]
    deep = MLPNetwork(MLPConfig(width=4, layers=5), NODES, SERVICES)
    assert [layer.out_features for layer in (deep.first, *deep.rest)] == [4, 2, 1, 1, 1]
    assert torch.isfinite(deep(inputs())).all()


def test_output_has_no_relu() -> None:
    """Without biases, the negated output weights give the negated scores."""
    net = network()
    with torch.no_grad():
        net.last.bias.zero_()
        scores = net(inputs())
        net.out.weight.neg_()
        assert scores.abs().min() > 0
        assert torch.equal(net(inputs()), -scores)


def test_first_layer_has_relu() -> None:
    """Without biases, doubled weights double the scores, but negated weights do not negate them."""
    net = network(layers=1)
    with torch.no_grad():
        net.last.bias.zero_()
        net.first.bias.zero_()
        scores = net(inputs())
        net.first.weight.mul_(2)
        torch.testing.assert_close(net(inputs()), 2 * scores)
        net.first.weight.neg_()
        assert not torch.allclose(net(inputs()), -2 * scores, atol=1e-2)


def test_scores_do_not_depend_on_pass_size(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    expected = net(inputs(PATHS * 5))
    for entries in (1, 2 * SERVICES * 8, 3 * SERVICES * 8 + 1):
        monkeypatch.setattr(mlp, "ENTRIES_PER_PASS", entries)
        torch.testing.assert_close(net(inputs(PATHS * 5)), expected)


def test_pass_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    net, sizes = network(), []
    original = net.output

    def output(hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(hidden.numel())
        return original(hidden)

    monkeypatch.setattr(net, "output", output)
    monkeypatch.setattr(mlp, "ENTRIES_PER_PASS", 2 * SERVICES * 8)
    net(inputs(PATHS * 5))
    assert sizes == [2 * SERVICES * 8] * 10


def test_empty_rows_and_columns_give_empty_scores() -> None:
    net = network()
    states = net.states(inputs())
    assert net.scores(states, torch.zeros(0, dtype=torch.int64)).shape == (len(PATHS), 0)
    assert net.scores(states[:0]).shape == (0, SERVICES)


def test_dropout_applies_only_to_the_context() -> None:
    """If everything is dropped, the scores depend only on the service."""
    net = network(dropout=0.999999).train()
    with torch.no_grad():
        scores = net(inputs())
        service_scores = net.output(torch.relu(net.factors(inputs())[1])[None])[0] + net.last.bias
    torch.testing.assert_close(scores, service_scores.expand(len(PATHS), -1))
    assert not torch.allclose(net.eval()(inputs()), scores)


def test_scores_without_last_depend_only_on_the_set() -> None:
    permuted = [[2, 3, 4], [4, 3, 2]]
    first, second = network(last=False)(inputs(permuted))
    assert torch.equal(first, second)
    first, second = network()(inputs(permuted))
    assert float((first - second).detach().abs().max()) > 1e-3


def test_contexts_last_nodes_and_services_have_separate_tables() -> None:
    """The same node in a set, as the last node, and as a candidate service."""
    net = network()
    assert net.frontier is not None
    sets = inputs([[FIRST_SERVICE, 5], [5, FIRST_SERVICE], [5]])
    changed_rows = {
        net.embed.weight: [True, True, False],
        net.frontier.weight: [False, True, False],
    }
    with torch.no_grad():
        for table, expected in changed_rows.items():
            before = net(sets)
            table[FIRST_SERVICE] += 1
            assert (net(sets) != before).any(dim=1).tolist() == expected
        before = net(sets)
        net.items[0] += 1
        assert (net(sets) != before).any(dim=0).tolist() == [True] + [False] * (SERVICES - 1)
