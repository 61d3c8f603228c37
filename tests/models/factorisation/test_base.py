from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from dagrec.data.compositions import Node, compose
from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE, PADDING, UNKNOWN
from dagrec.models.factorisation.base import (
    INIT,
    FactorNetwork,
    FactorOptions,
    LastNode,
    SetInputs,
    SetUnits,
    set_sums,
    vectors,
)
from dagrec.models.interactions import Read, Sets
from tests.models.factorisation.sets import (
    NODES,
    PATHS,
    SERVICES,
    inputs,
    set_biases,
    values,
)
from tests.worlds import everything

VOCABULARY = everything().data.vocabulary
IDS = VOCABULARY.ids
A, B, C = VOCABULARY.services[:3]


class Product(FactorNetwork):
    """The least that a subclass can say."""

    def match(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        return self.own(inputs), self.own_services()


def product(**options: object) -> Product:
    config = FactorOptions.model_validate({"width": 5, **options})
    return Product(config, NODES, SERVICES).eval()


def units(*contexts: Context, read: Read = "path") -> SetUnits:
    return SetUnits(Sets.of(VOCABULARY.encode(contexts), VOCABULARY, read))


def sets_of(found: SetInputs) -> list[list[int]]:
    return [found.nodes[found.rows == row].tolist() for row in range(len(found.last))]


# Units


def test_a_set_has_each_known_node_once() -> None:
    contexts = Context((B, A, B, "nobody", A)), Context(("nobody", C))
    found, answered = units(*contexts).take(np.arange(2))
    assert sets_of(found) == [sorted((IDS[A], IDS[B])), [IDS[C]]]
    assert found.sizes.tolist() == [2, 1]
    assert found.last.tolist() == [IDS[A], IDS[C]]
    assert answered.tolist() == [0, 1]


def test_a_last_node_that_is_not_known_is_told_as_such() -> None:
    found, _ = units(Context((A, "nobody"))).take(np.arange(1))
    assert sets_of(found) == [[IDS[A]]]
    assert found.last.tolist() == [UNKNOWN]


def test_upstream_reads_other_branches_and_path_does_not() -> None:
    nodes = [Node(key, key) for key in (A, B, C)]
    joined = compose("joined", nodes, [(A, C), (B, C)])[0]
    context = Context((A, C), joined, C)
    upstream, _ = units(context, read="upstream").take(np.arange(1))
    path, _ = units(context, read="path").take(np.arange(1))
    assert sets_of(upstream) == [sorted((IDS[A], IDS[B], IDS[C]))]
    assert sets_of(path) == [sorted((IDS[A], IDS[C]))]


def test_units_are_taken_in_any_order_and_number() -> None:
    all_of_them = units(Context((A,)), Context((A, B)), Context((C, B, A)))
    found, answered = all_of_them.take(np.array([2, 0]))
    assert sets_of(found) == [sorted((IDS[A], IDS[B], IDS[C])), [IDS[A]]]
    assert found.last.tolist() == [IDS[A], IDS[A]]
    assert answered.tolist() == [2, 0]
    assert all_of_them.sizes.tolist() == [1, 2, 3]


def test_a_set_without_nodes_has_mean_zero() -> None:
    found, _ = units(Context(("nobody",)), Context((A,))).take(np.arange(2))
    assert found.sizes.tolist() == [1, 1]
    net = Product(FactorOptions(width=5), len(VOCABULARY), len(VOCABULARY.services))
    own = net.own(found)
    assert not own[0].any()
    assert torch.equal(own[1], net.embed.weight[IDS[A]])


def test_sums_are_those_of_a_plain_loop() -> None:
    found = inputs()
    rows = torch.randn(len(found.nodes), 3)
    places = iter(range(len(rows)))
    expected = [sum((rows[next(places)] for _ in path), torch.zeros(3)) for path in PATHS]
    torch.testing.assert_close(set_sums(rows, found), torch.stack(expected))


# Vectors


def test_first_vectors_are_small_and_padding_is_zero() -> None:
    weight = vectors(2000, 20).weight
    assert not weight[PADDING].any()
    assert float(weight[1:].detach().std()) == pytest.approx(INIT, rel=0.02)
    assert abs(float(weight[1:].detach().mean())) < INIT / 50


# Last node


def test_the_last_node_scores_by_its_own_tables() -> None:
    part = LastNode(NODES, SERVICES, 4, last=True)
    set_biases(part.bias)
    w, last = values(part), np.array([2, 5, 2])
    expected = w["embed.weight"][last] @ w["weight"].T + w["bias"]
    states = part.states(torch.from_numpy(last))
    np.testing.assert_allclose(part(states, None).detach(), expected, rtol=1e-5, atol=1e-6)
    columns = torch.tensor([6, 0, 6])
    np.testing.assert_allclose(
        part(states, columns).detach(), expected[:, columns], rtol=1e-5, atol=1e-6
    )


def test_without_a_last_node_there_is_the_bias_alone() -> None:
    part = LastNode(NODES, SERVICES, 4, last=False)
    set_biases(part.bias)
    assert list(values(part)) == ["bias"]
    states = part.states(torch.tensor([2, 5]))
    assert states.shape == (2, 0)
    columns = torch.tensor([3, 1])
    assert torch.equal(part(states, None), part.bias.expand(2, -1))
    assert torch.equal(part(states, columns), part.bias[columns].expand(2, -1))


# Network


@pytest.mark.parametrize("last", [True, False])
def test_scores_follow_the_formula(last: bool) -> None:
    net = product(last=last)
    set_biases(net.last.bias)
    w = values(net)
    own = np.stack([w["embed.weight"][path].mean(axis=0) for path in PATHS])
    expected = own @ w["embed.weight"][FIRST_SERVICE : FIRST_SERVICE + SERVICES].T + w["last.bias"]
    if last:
        at = [path[-1] for path in PATHS]
        expected += w["last.embed.weight"][at] @ w["last.weight"].T
    np.testing.assert_allclose(net(inputs()).detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("l2", [0.01, 3.0])
def test_the_penalty_is_that_of_the_triples_in_expectation(l2: float) -> None:
    """l2 (|E_x|^2 + |E_y|^2 + |E_j|^2), the last as its mean over all services j."""
    net, found = product(l2=l2), inputs()
    w = values(net)["embed.weight"]
    rows, columns = torch.tensor([0, 0, 2, 3]), torch.tensor([6, 1, 1, 0])
    triples = [
        [
            (w[PATHS[x]].mean(axis=0) ** 2).sum()
            + (w[FIRST_SERVICE + y] ** 2).sum()
            + (w[FIRST_SERVICE + j] ** 2).sum()
            for j in range(SERVICES)
        ]
        for x, y in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    penalty = net.penalty(found, net.states(found), rows, columns)
    assert penalty is not None
    np.testing.assert_allclose(penalty.detach(), l2 * np.mean(triples, axis=1), rtol=1e-5)


def test_without_l2_there_is_no_penalty() -> None:
    net, found = product(l2=0.0), inputs()
    one = torch.zeros(1, dtype=torch.int64)
    assert net.penalty(found, net.states(found), one, one) is None


def test_dropout_falls_on_the_context_in_training_alone() -> None:
    net = product(dropout=0.5, width=400)
    whole = net.states(inputs())
    assert torch.equal(net.states(inputs()), whole)
    dropped = net.train().states(inputs())
    kept = dropped != 0
    assert 0.4 < float(kept.float().mean()) < 0.6
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])
    assert torch.equal(net._items[0], net.own_services())


def test_what_was_computed_is_neither_stored_nor_pickled() -> None:
    net = product()
    fresh, keys = pickle.dumps(net), list(net.state_dict())
    expected = net(inputs())
    assert net._items
    assert pickle.dumps(net) == fresh
    assert list(net.state_dict()) == keys
    loaded = pickle.loads(fresh)
    assert loaded._items == ()
    assert torch.equal(loaded(inputs()), expected)
