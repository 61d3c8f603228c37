from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.bipartite.lightgcn import LightGCNConfig, LightGCNNetwork
from dagrec.models.interactions import Interactions
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from tests.models.bipartite.dense import (
    NODES,
    SERVICES,
    SETS,
    STILL,
    adjacency,
    ego,
    inputs,
    interactions,
    matrix,
    network,
    numbers,
)
from tests.worlds import everything

WORLD = everything()


def lightgcn(*, layers: int = 2, merged: bool = True) -> LightGCNNetwork:
    return network(LightGCNNetwork, LightGCNConfig(**STILL, layers=layers), interactions(merged=merged))


@pytest.mark.parametrize("last", [True, False])
def test_without_layers_it_is_bprmf_step_by_step(last: bool) -> None:
    options: dict[str, object] = {"epochs": 6, "batch_size": 8, "width": 8, "last": last}
    plain = create("bprmf", options, seed=3).fit(WORLD.data)
    found = create("lightgcn", {**options, "layers": 0}, seed=3).fit(WORLD.data)
    for epoch, other in zip(found.history, plain.history, strict=True):
        assert epoch.loss == pytest.approx(other.loss, rel=1e-6)
        assert epoch.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-5)
    assert found.history[0].loss != found.history[-1].loss
    weights = {key: value for key, value in found.state().items() if not key.startswith("graph.")}
    assert set(weights) == set(plain.state())
    for key, value in plain.state().items():
        # Gradients that meet at a vector are added up in another order.
        same = np.isclose(weights[key].astype(float), value.astype(float), rtol=1e-4, atol=1e-7)
        assert same.all(), key
    contexts = WORLD.data.contexts
    np.testing.assert_allclose(found.score(contexts), plain.score(contexts), rtol=1e-4, atol=1e-6)


def test_with_layers_it_is_not() -> None:
    plain = create("bprmf", {"epochs": 2}).fit(WORLD.data)
    found = create("lightgcn", {"epochs": 2, "layers": 1}).fit(WORLD.data)
    assert found.history != plain.history


@pytest.mark.parametrize("layers", [0, 1, 2, 5])
def test_vectors_are_means_of_powers_of_the_matrix(layers: int) -> None:
    found = lightgcn(layers=layers, merged=False)
    first = ego(numbers(found.embed.weight))
    powers = [np.linalg.matrix_power(adjacency(), k) @ first for k in range(layers + 1)]
    expected = np.mean(powers, axis=0)
    z, items = found.match(inputs(*SETS))
    np.testing.assert_allclose(
        numbers(items), expected[FIRST_SERVICE : FIRST_SERVICE + SERVICES], rtol=1e-6
    )
    # Contexts that are training compositions get their vectors.
    np.testing.assert_allclose(numbers(z), expected[NODES:], rtol=1e-6)


def propagated(x: Tensor, edges: Tensor) -> Tensor:
    """LGConv as torch_geometric has it: degrees of the targets, messages along the edges, summed."""
    source, target = edges
    degrees = torch.zeros(len(x), dtype=x.dtype).scatter_add(
        0, target, torch.ones(len(target)).double()
    )
    inverse = degrees.pow(-0.5)
    inverse[inverse.isinf()] = 0
    norm = inverse[source] * inverse[target]
    messages = norm[:, None] * x[source]
    return torch.zeros_like(x).scatter_add(0, target[:, None].expand_as(messages), messages)


def test_scores_are_those_of_lgconv() -> None:
    found = lightgcn(layers=3)
    pairs = [(item, NODES + user) for user, own in enumerate(SETS) for item in own]
    edges = torch.tensor(pairs + [(user, item) for item, user in pairs]).T
    x = torch.from_numpy(ego(numbers(found.embed.weight)))
    out = x / 4
    for _ in range(3):
        x = propagated(x, edges)
        out = out + x / 4
    expected = out[NODES:] @ out[FIRST_SERVICE : FIRST_SERVICE + SERVICES].T
    asked = inputs(*SETS)
    with torch.no_grad():
        scores = found(asked)
        last = found.last(found.last.states(asked.last), None)
    np.testing.assert_allclose(numbers(scores - last), numbers(expected), rtol=1e-6)


def test_two_users_are_two_steps_apart_by_what_they_share() -> None:
    """u hears v by 1 / sqrt(d_u d_v) times the sum of 1 / d_i over their common items."""
    degrees = {item: sum(item in own for own in SETS) for item in range(NODES)}
    twice = np.linalg.matrix_power(matrix(lightgcn(merged=False)), 2)
    for u, one in enumerate(SETS):
        for v, other in enumerate(SETS):
            shared = sum(1 / degrees[item] for item in set(one) & set(other))
            expected = shared / np.sqrt(len(one) * len(other))
            assert twice[NODES + u, NODES + v] == pytest.approx(expected, rel=1e-6)


def test_vectors_are_linear_in_the_first_ones() -> None:
    def z(vectors: Tensor) -> tuple[Tensor, Tensor]:
        found = lightgcn()
        with torch.no_grad():
            found.embed.weight.copy_(vectors)
        return found.match(inputs((2, 4), (5, 8)))

    torch.manual_seed(0)
    a, b = torch.randn(2, NODES, 8, dtype=torch.float64)
    for one, other, both in zip(z(a), z(b), z(2 * a - 3 * b), strict=True):
        torch.testing.assert_close(both, 2 * one - 3 * other)


def test_an_isolated_item_keeps_its_share_of_the_first_layer() -> None:
    found = lightgcn(layers=3)
    items = found.match(inputs((2,)))[1]
    torch.testing.assert_close(items[7 - FIRST_SERVICE], found.embed.weight[7] / 4)


def test_renaming_items_renames_the_scores() -> None:
    order = np.array([0, 1, 6, 4, 7, 2, 5, 3, 8])
    sets = [tuple(sorted(int(order[item]) for item in own)) for own in SETS]
    found = lightgcn()
    other = network(LightGCNNetwork, LightGCNConfig(**STILL), interactions(sets))
    with torch.no_grad():
        other.embed.weight[order] = found.embed.weight
    z, items = found.match(inputs((2, 4), (8,)))
    z2, items2 = other.match(inputs((6, 7), (8,)))
    torch.testing.assert_close(z, z2)
    torch.testing.assert_close(
        items, items2[order[FIRST_SERVICE : FIRST_SERVICE + SERVICES] - FIRST_SERVICE]
    )


def test_the_order_of_the_examples_gives_the_same_graph() -> None:
    """The order of compositions is that of rows alone."""
    backwards = TrainingData.of(WORLD.examples[::-1])
    assert backwards.vocabulary == WORLD.data.vocabulary
    config = LightGCNConfig(**STILL)
    z = [
        network(LightGCNNetwork, config, Interactions.of_compositions(data)).match(inputs((2, 4)))
        for data in (WORLD.data, backwards)
    ]
    for one, other in zip(*z, strict=True):
        torch.testing.assert_close(one, other)
