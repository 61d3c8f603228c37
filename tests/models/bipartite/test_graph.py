from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import StoreError
from dagrec.models.bipartite.graph import (
    BipartiteNetwork,
    BipartiteOptions,
    BipartiteRecommender,
    LayerInputs,
)
from dagrec.models.bipartite.lightgcn import LightGCN, LightGCNConfig, LightGCNNetwork
from dagrec.models.registry import MODELS, create, recommender_class
from dagrec.types import Floats
from tests.checks import says
from tests.models.bipartite.dense import (
    DETERMINISTIC,
    NODES,
    SETS,
    adjacency,
    adjacency_of,
    inputs,
    interactions,
    network,
    to_numpy,
)
from tests.worlds import chain, everything

RECOMMENDERS = [
    class_ for class_ in map(recommender_class, MODELS) if issubclass(class_, BipartiteRecommender)
]
WEIGHTS = np.array([3, 1, 1, 1])
"""Number of ``SETS`` that each merged row stands for."""
ISOLATED = 7


class SelfLoopNetwork(LightGCNNetwork):
    self_loops = True


def lightgcn(*, layers: int = 2, merged: bool = True, self_loops: bool = False) -> BipartiteNetwork:
    class_ = SelfLoopNetwork if self_loops else LightGCNNetwork
    config = LightGCNConfig(**DETERMINISTIC, layers=layers)
    return network(class_, config, interactions(merged=merged))


@pytest.fixture(params=RECOMMENDERS, ids=[class_.name for class_ in RECOMMENDERS])
def class_(request: pytest.FixtureRequest) -> type[BipartiteRecommender]:
    """Each recommender that propagates over the bipartite graph."""
    recommender: type[BipartiteRecommender] = request.param
    return recommender


def make(class_: type[BipartiteRecommender], *, merged: bool = True) -> BipartiteNetwork:
    config = class_.Config.model_validate(DETERMINISTIC)
    assert isinstance(config, BipartiteOptions)
    return network(class_.network, config, interactions(merged=merged))


# Adjacency


@pytest.mark.parametrize("self_loops", [False, True])
def test_adjacency_follows_definition(self_loops: bool) -> None:
    actual = adjacency_of(lightgcn(merged=False, self_loops=self_loops))
    np.testing.assert_allclose(actual, adjacency(self_loops=self_loops), rtol=1e-6)


def test_adjacency_of_some_links_has_degrees_of_the_subgraph() -> None:
    graph = lightgcn().graph
    removed = (graph.users == 1) & (graph.items == 4) | (graph.users == 2)
    sets = [*[(2, 3)] * 4, (2, 5, 6, 8)]
    config = LightGCNConfig(**DETERMINISTIC)
    subgraph = network(LightGCNNetwork, config, interactions(sets, merged=False)).graph
    a = graph.adjacency(torch.nonzero(~removed)[:, 0])
    expected = subgraph.adjacency().degrees[:NODES]
    torch.testing.assert_close(a.degrees[:NODES], expected)
    assert a.degrees[NODES:].tolist() == [2, 2, 0, 4]
    assert len(a.values) == 2 * int((~removed).sum())


def test_sqrt_degrees_are_eigenvectors_of_1_and_minus_1() -> None:
    """The eigenvector of -1 has the opposite sign for users; no eigenvalue is larger."""
    net = lightgcn()
    degrees = to_numpy(net.adjacency().degrees)
    roots = np.sqrt(degrees * np.concatenate([np.ones(NODES), WEIGHTS]))
    a = adjacency_of(net)
    np.testing.assert_allclose(a @ roots, roots, rtol=1e-6)
    signed = roots * np.repeat([1, -1], [NODES, len(WEIGHTS)])
    np.testing.assert_allclose(a @ signed, -signed, rtol=1e-6)
    values = np.linalg.eigvalsh(a)
    assert values.max() == pytest.approx(1)
    np.testing.assert_allclose(values, -values[::-1], atol=1e-6)


def test_merging_keeps_nonzero_eigenvalues() -> None:
    merged, separate = (
        np.linalg.eigvalsh(adjacency_of(lightgcn(merged=merged))) for merged in (True, False)
    )
    assert len(separate) == len(merged) + 2
    merged, separate = (v[np.abs(v) > 1e-6] for v in (merged, separate))
    np.testing.assert_allclose(merged, separate, rtol=1e-5)


def test_aggregate_converts_low_precision_rows() -> None:
    """Under autocast, a layer with weights returns bfloat16."""
    a = lightgcn().float().adjacency()
    rows = torch.ones(len(a.degrees), 2)
    torch.testing.assert_close(a.aggregate(rows.bfloat16()), a.aggregate(rows))


def test_merged_users_equal_separate_users(class_: type[BipartiteRecommender]) -> None:
    merged, separate = (make(class_, merged=m).propagate().layers for m in (True, False))
    rows = [SETS.index(items) for items in dict.fromkeys(SETS)]
    assert len(merged) > 1
    for actual, expected in zip(merged, separate, strict=True):
        torch.testing.assert_close(actual[:NODES], expected[:NODES], rtol=1e-5, atol=1e-8)
        scaled = to_numpy(expected[NODES:])[rows] * np.sqrt(WEIGHTS)[:, None]
        np.testing.assert_allclose(to_numpy(actual[NODES:]), scaled, rtol=1e-5, atol=1e-8)


def test_layers_are_homogeneous(class_: type[BipartiteRecommender]) -> None:
    net = make(class_)
    torch.manual_seed(1)
    vectors, aggregated, ego = torch.randn(3, 5, 8, dtype=torch.float64)
    roots = torch.rand(5, 1, dtype=torch.float64)
    summary = net.summary(aggregated, roots)
    torch.testing.assert_close(net.ego_layer(3 * vectors), 3 * net.ego_layer(vectors))
    for number in range(net.depth):
        rows = LayerInputs(aggregated, ego, roots)
        tripled = LayerInputs(*(3 * part for part in rows))
        expected = 3 * net.layer(number, rows, summary)
        torch.testing.assert_close(net.layer(number, tripled, summary), expected)


# Contexts


def test_fold_in_equals_manual_calculation() -> None:
    """Node 2 is in 5 compositions, node 4 in 2."""
    net = lightgcn(layers=1)
    e = to_numpy(net.embed.weight)
    layers = net.fold_in(net.propagate(), inputs((2, 4)))
    np.testing.assert_allclose(to_numpy(layers[0][0]), (e[2] + e[4]) / 2, rtol=1e-6)
    expected = e[2] / np.sqrt(2 * 5) + e[4] / np.sqrt(2 * 2)
    np.testing.assert_allclose(to_numpy(layers[1][0]), expected, rtol=1e-6)


def test_fold_in_with_self_loop_includes_the_context() -> None:
    net = lightgcn(layers=1, self_loops=True)
    e = to_numpy(net.embed.weight)
    ego = (e[2] + e[4]) / 2
    expected = e[2] / np.sqrt(3 * 6) + e[4] / np.sqrt(3 * 3) + ego / 3
    layers = net.fold_in(net.propagate(), inputs((2, 4)))
    np.testing.assert_allclose(to_numpy(layers[1][0]), expected, rtol=1e-6)


def test_fold_in_of_training_composition_equals_its_layers(
    class_: type[BipartiteRecommender],
) -> None:
    net = make(class_)
    graph = net.propagate()
    contexts = net.fold_in(graph, inputs(*dict.fromkeys(SETS)))
    for layer, folded in zip(graph.layers, contexts, strict=True):
        unscaled = to_numpy(layer[NODES:]) / np.sqrt(WEIGHTS)[:, None]
        np.testing.assert_allclose(to_numpy(folded), unscaled, rtol=1e-5, atol=1e-8)


def test_order_of_nodes_and_contexts_does_not_matter(class_: type[BipartiteRecommender]) -> None:
    net = make(class_)
    z_x = net.factors(inputs((2, 4, 5), (3, 6), (8,)))[0]
    permuted = net.factors(inputs((8,), (5, 2, 4), (6, 3)))[0]
    torch.testing.assert_close(z_x, permuted[[1, 2, 0]])


def test_isolated_item_has_finite_vectors_and_gradients(class_: type[BipartiteRecommender]) -> None:
    net = make(class_).train()
    z_x, z_y = net.factors(inputs((ISOLATED,), (2, ISOLATED)))
    assert torch.isfinite(z_x).all()
    assert torch.isfinite(z_y).all()
    (z_x @ z_y.T).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


def test_padding_and_unknown_do_not_affect_other_nodes() -> None:
    net = lightgcn(self_loops=True)
    before = net.factors(inputs((2, 4)))
    with torch.no_grad():
        net.embed.weight[:FIRST_SERVICE] = 100.0
    for expected, actual in zip(before, net.factors(inputs((2, 4))), strict=True):
        torch.testing.assert_close(actual, expected)


# Caching and gradients


def test_evaluation_propagates_once(class_: type[BipartiteRecommender]) -> None:
    net = make(class_)
    with torch.no_grad():
        first = net.propagate()
        assert net.propagate() is first
        net.train()
        net.embed.weight.mul_(2)
        net.eval()
        again = net.propagate()
    assert again is not first
    assert not torch.allclose(again.layers[0], first.layers[0])


def test_training_does_not_cache_propagation(class_: type[BipartiteRecommender]) -> None:
    net = make(class_).train()
    assert net.propagate() is not net.propagate()
    with torch.no_grad():
        assert net.propagate() is not net.propagate()
    assert net._propagation is None


def test_every_batch_trains_neighbours_outside_of_it(class_: type[BipartiteRecommender]) -> None:
    """With l2 = 0, their gradient comes only from propagation."""
    net = make(class_).train()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    outside = [5, 6, 8]
    for _ in range(4):
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        scores = net(inputs((2, 4)))
        optimiser.zero_grad()
        torch.nn.functional.softplus(scores[0, 0] - scores[0, 1]).backward()
        gradient = net.embed.weight.grad
        assert gradient is not None
        assert all(gradient[node].any() for node in outside), gradient
        assert not gradient[ISOLATED].any()
        optimiser.step()
        assert any(not torch.equal(p, before[n]) for n, p in net.named_parameters())


@pytest.mark.parametrize("merged", [True, False])
def test_gradients_match_finite_differences(class_: type[BipartiteRecommender], merged: bool) -> None:
    net = make(class_, merged=merged)

    def scores(vectors: torch.Tensor) -> torch.Tensor:
        result = torch.func.functional_call(net, {"embed.weight": vectors}, (inputs((2, 4), (8,)),))
        assert isinstance(result, torch.Tensor)
        return result

    assert torch.autograd.gradcheck(scores, net.embed.weight)


# Storing


@pytest.fixture(scope="module")
def fitted() -> LightGCN:
    model = create("lightgcn", {"epochs": 2, "min_steps": 0, "width": 8}).fit(everything().data)
    assert isinstance(model, LightGCN)
    return model


def test_restore_includes_the_graph(fitted: LightGCN) -> None:
    data = everything().data
    restored = LightGCN(fitted.config).restore(fitted.state(), data.vocabulary, data.graph)
    np.testing.assert_array_equal(restored.score(data.contexts), fitted.score(data.contexts))
    assert fitted.state()["graph.weights"].sum() == len(everything().compositions)


DAMAGES: list[tuple[str, Callable[[Floats], Floats]]] = [
    ("graph.users", lambda users: users[::-1].copy()),
    ("graph.users", lambda users: users + 1),
    ("graph.items", lambda items: items * 0),
    ("graph.items", lambda items: items + 10_000),
    ("graph.weights", lambda weights: -weights),
    ("graph.weights", lambda weights: weights * np.nan),
]


@pytest.mark.parametrize(("key", "damage"), DAMAGES)
def test_restore_rejects_damaged_graph(
    fitted: LightGCN, key: str, damage: Callable[[Floats], Floats]
) -> None:
    data, state = everything().data, fitted.state()
    damaged = state | {key: damage(state[key].astype(np.float64)).astype(state[key].dtype)}
    with pytest.raises(StoreError) as error:
        LightGCN(fitted.config).restore(damaged, data.vocabulary, data.graph)
    assert says(error, "lightgcn", "train it again")


def test_second_fit_replaces_the_graph() -> None:
    model = create("lightgcn", {"epochs": 1, "min_steps": 0, "width": 8})
    model.fit(everything().data).fit(chain().data)
    assert model.state()["graph.weights"].tolist() == [3.0]
