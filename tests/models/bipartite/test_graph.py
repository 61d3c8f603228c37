from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import StoreError
from dagrec.models.bipartite.graph import BipartiteNetwork, BipartiteOptions, BipartiteRecommender, Rows
from dagrec.models.bipartite.lightgcn import LightGCN, LightGCNConfig, LightGCNNetwork
from dagrec.models.registry import MODELS, create, recommender_class
from dagrec.types import Floats
from tests.checks import says
from tests.models.bipartite.dense import (
    NODES,
    SETS,
    STILL,
    adjacency,
    inputs,
    interactions,
    matrix,
    network,
    numbers,
)
from tests.worlds import chain, everything

RECOMMENDERS = [
    class_ for class_ in map(recommender_class, MODELS) if issubclass(class_, BipartiteRecommender)
]
WEIGHTS = np.array([3, 1, 1, 1])
"""How many of ``SETS`` each row of the merged ones stands for."""
ISOLATED = 7


class Looped(LightGCNNetwork):
    loops = True


def lightgcn(*, layers: int = 2, merged: bool = True, loops: bool = False) -> BipartiteNetwork:
    class_ = Looped if loops else LightGCNNetwork
    config = LightGCNConfig(**STILL, layers=layers)
    return network(class_, config, interactions(merged=merged))


@pytest.fixture(params=RECOMMENDERS, ids=[class_.name for class_ in RECOMMENDERS])
def class_(request: pytest.FixtureRequest) -> type[BipartiteRecommender]:
    """Each recommender over this graph: they differ in what a layer does alone."""
    found: type[BipartiteRecommender] = request.param
    return found


def make(class_: type[BipartiteRecommender], *, merged: bool = True) -> BipartiteNetwork:
    config = class_.Config.model_validate(STILL)
    assert isinstance(config, BipartiteOptions)
    return network(class_.network, config, interactions(merged=merged))


# What is heard


@pytest.mark.parametrize("loops", [False, True])
def test_the_matrix_is_that_of_the_definition(loops: bool) -> None:
    found = matrix(lightgcn(merged=False, loops=loops))
    np.testing.assert_allclose(found, adjacency(loops=loops), rtol=1e-6)


def test_the_graph_of_some_links_is_that_of_the_sets_without_the_others() -> None:
    graph = lightgcn().graph
    gone = (graph.users == 1) & (graph.items == 4) | (graph.users == 2)
    sets = [*[(2, 3)] * 4, (2, 5, 6, 8)]
    found = network(LightGCNNetwork, LightGCNConfig(**STILL), interactions(sets, merged=False))
    links = graph.links(torch.nonzero(~gone)[:, 0])
    expected = found.graph.links().degrees[:NODES]
    torch.testing.assert_close(links.degrees[:NODES], expected)
    assert links.degrees[NODES:].tolist() == [2, 2, 0, 4]
    assert len(links.values) == 2 * int((~gone).sum())


def test_roots_of_degrees_are_heard_as_they_are() -> None:
    """The eigenvector of 1; with the users turned round, that of -1. Nothing is beyond these."""
    found = lightgcn()
    degrees = numbers(found.links().degrees)
    roots = np.sqrt(degrees * np.concatenate([np.ones(NODES), WEIGHTS]))
    a = matrix(found)
    np.testing.assert_allclose(a @ roots, roots, rtol=1e-6)
    turned = roots * np.repeat([1, -1], [NODES, len(WEIGHTS)])
    np.testing.assert_allclose(a @ turned, -turned, rtol=1e-6)
    values = np.linalg.eigvalsh(a)
    assert values.max() == pytest.approx(1)
    np.testing.assert_allclose(values, -values[::-1], atol=1e-6)


def test_merging_keeps_the_spectrum() -> None:
    """But for zeros, of differences between equal users."""
    merged, each = (np.linalg.eigvalsh(matrix(lightgcn(merged=m))) for m in (True, False))
    assert len(each) == len(merged) + 2
    merged, each = (v[np.abs(v) > 1e-6] for v in (merged, each))
    np.testing.assert_allclose(merged, each, rtol=1e-5)


def test_rows_of_less_precision_are_heard_in_full() -> None:
    """Under autocast, a layer with weights answers in bfloat16."""
    links = lightgcn().float().links()
    rows = torch.ones(len(links.degrees), 2)
    torch.testing.assert_close(links.hear(rows.bfloat16()), links.hear(rows))


def test_merged_users_say_what_as_many_equal_users_say(class_: type[BipartiteRecommender]) -> None:
    merged, each = (make(class_, merged=m).propagate().layers for m in (True, False))
    rows = [SETS.index(own) for own in dict.fromkeys(SETS)]
    assert len(merged) > 1
    for one, other in zip(merged, each, strict=True):
        torch.testing.assert_close(one[:NODES], other[:NODES], rtol=1e-5, atol=1e-8)
        scaled = numbers(other[NODES:])[rows] * np.sqrt(WEIGHTS)[:, None]
        np.testing.assert_allclose(numbers(one[NODES:]), scaled, rtol=1e-5, atol=1e-8)


def test_layers_keep_multiples_of_rows(class_: type[BipartiteRecommender]) -> None:
    found = make(class_)
    torch.manual_seed(1)
    own, heard, first = torch.randn(3, 5, 8, dtype=torch.float64)
    roots = torch.rand(5, 1, dtype=torch.float64)
    summary = found.summary(heard, roots)
    torch.testing.assert_close(found.first(3 * own), 3 * found.first(own))
    for number in range(found.depth):
        rows = Rows(own, heard, first, roots)
        thrice = Rows(*(3 * part for part in rows))
        expected = 3 * found.layer(number, rows, summary)
        torch.testing.assert_close(found.layer(number, thrice, summary), expected)


# Contexts


def test_a_context_hears_its_items_by_the_formula() -> None:
    """2 is in 5 compositions, 4 in 2."""
    found = lightgcn(layers=1)
    e = numbers(found.embed.weight)
    own = (e[2] + e[4]) / 2
    heard = e[2] / np.sqrt(2 * 5) + e[4] / np.sqrt(2 * 2)
    layers = found.fold(found.propagate(), inputs((2, 4)))
    np.testing.assert_allclose(numbers(layers[0][0]), own, rtol=1e-6)
    np.testing.assert_allclose(numbers(layers[1][0]), heard, rtol=1e-6)


def test_a_context_with_a_loop_hears_itself() -> None:
    found = lightgcn(layers=1, loops=True)
    e = numbers(found.embed.weight)
    own = (e[2] + e[4]) / 2
    heard = e[2] / np.sqrt(3 * 6) + e[4] / np.sqrt(3 * 3) + own / 3
    layers = found.fold(found.propagate(), inputs((2, 4)))
    np.testing.assert_allclose(numbers(layers[1][0]), heard, rtol=1e-6)


def test_a_context_that_is_a_training_composition_gets_its_layers(
    class_: type[BipartiteRecommender],
) -> None:
    found = make(class_)
    graph = found.propagate()
    contexts = found.fold(graph, inputs(*dict.fromkeys(SETS)))
    for users, folded in zip(graph.layers, contexts, strict=True):
        unscaled = numbers(users[NODES:]) / np.sqrt(WEIGHTS)[:, None]
        np.testing.assert_allclose(numbers(folded), unscaled, rtol=1e-5, atol=1e-8)


def test_the_order_of_nodes_and_contexts_changes_nothing(class_: type[BipartiteRecommender]) -> None:
    found = make(class_)
    one = found.match(inputs((2, 4, 5), (3, 6), (8,)))[0]
    other = found.match(inputs((8,), (5, 2, 4), (6, 3)))[0]
    torch.testing.assert_close(one, other[[1, 2, 0]])


def test_an_isolated_item_is_finite_and_teaches_finite_gradients(
    class_: type[BipartiteRecommender],
) -> None:
    found = make(class_).train()
    z, items = found.match(inputs((ISOLATED,), (2, ISOLATED)))
    assert torch.isfinite(z).all()
    assert torch.isfinite(items).all()
    (z @ items.T).square().sum().backward()
    for name, parameter in found.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


def test_padding_and_unknown_are_nobodys_neighbours() -> None:
    found = lightgcn(loops=True)
    before = found.match(inputs((2, 4)))
    with torch.no_grad():
        found.embed.weight[:FIRST_SERVICE] = 100.0
    for one, other in zip(before, found.match(inputs((2, 4))), strict=True):
        torch.testing.assert_close(one, other)


# What is computed, and when


def test_trained_networks_propagate_once(class_: type[BipartiteRecommender]) -> None:
    found = make(class_)
    with torch.no_grad():
        first = found.propagate()
        assert found.propagate() is first
        found.train()
        found.embed.weight.mul_(2)
        found.eval()
        again = found.propagate()
    assert again is not first
    assert not torch.allclose(again.layers[0], first.layers[0])


def test_in_training_nothing_is_kept(class_: type[BipartiteRecommender]) -> None:
    found = make(class_).train()
    assert found.propagate() is not found.propagate()
    with torch.no_grad():
        assert found.propagate() is not found.propagate()
    assert found._propagated is None


def test_every_batch_teaches_neighbours_that_are_not_in_it(
    class_: type[BipartiteRecommender],
) -> None:
    """With l2 = 0, all of it comes through the graph."""
    found = make(class_).train()
    steps = torch.optim.SGD(found.parameters(), lr=0.1)
    outside = [5, 6, 8]
    for _ in range(4):
        before = {n: p.detach().clone() for n, p in found.named_parameters()}
        scores = found(inputs((2, 4)))
        steps.zero_grad()
        torch.nn.functional.softplus(scores[0, 0] - scores[0, 1]).backward()
        gradient = found.embed.weight.grad
        assert gradient is not None
        assert all(gradient[node].any() for node in outside), gradient
        assert not gradient[ISOLATED].any()
        steps.step()
        assert any(not torch.equal(p, before[n]) for n, p in found.named_parameters())


@pytest.mark.parametrize("merged", [True, False])
def test_gradients_are_those_of_finite_differences(
    class_: type[BipartiteRecommender], merged: bool
) -> None:
    found = make(class_, merged=merged)

    def z(vectors: torch.Tensor) -> torch.Tensor:
        asked = torch.func.functional_call(found, {"embed.weight": vectors}, (inputs((2, 4), (8,)),))
        assert isinstance(asked, torch.Tensor)
        return asked

    assert torch.autograd.gradcheck(z, found.embed.weight)


# Storing


@pytest.fixture(scope="module")
def fitted() -> LightGCN:
    found = create("lightgcn", {"epochs": 2, "width": 8}).fit(everything().data)
    assert isinstance(found, LightGCN)
    return found


def test_the_graph_comes_back_with_the_state(fitted: LightGCN) -> None:
    data = everything().data
    contexts = data.contexts
    found = LightGCN(fitted.config).restore(fitted.state(), data.vocabulary, data.graph)
    np.testing.assert_array_equal(found.score(contexts), fitted.score(contexts))
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
def test_a_damaged_graph_is_refused(
    fitted: LightGCN, key: str, damage: Callable[[Floats], Floats]
) -> None:
    data, state = everything().data, fitted.state()
    damaged = state | {key: damage(state[key].astype(np.float64)).astype(state[key].dtype)}
    with pytest.raises(StoreError) as error:
        LightGCN(fitted.config).restore(damaged, data.vocabulary, data.graph)
    assert says(error, "lightgcn", "train it again")


def test_the_graph_is_that_of_the_newest_fit() -> None:
    model = create("lightgcn", {"epochs": 1, "width": 8})
    model.fit(everything().data).fit(chain().data)
    assert model.state()["graph.weights"].tolist() == [3.0]
