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
    INITIAL_STD,
    FactorNetwork,
    FactorOptions,
    LastNodeTerm,
    SetInputs,
    SetUnits,
    small_embedding,
    sum_per_set,
)
from dagrec.models.interactions import Read, Sets
from tests.models.factorisation.sets import (
    NODES,
    PATHS,
    SERVICES,
    fill_bias,
    inputs,
    parameters_of,
)
from tests.worlds import everything

VOCABULARY = everything().data.vocabulary
IDS = VOCABULARY.ids
A, B, C = VOCABULARY.services[:3]


class MinimalNetwork(FactorNetwork):
    """A factorisation with only the method that a subclass must define."""

    def factors(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        return self.context_vectors(inputs), self.service_vectors()


def network(**options: object) -> MinimalNetwork:
    config = FactorOptions.model_validate({"width": 5, **options})
    return MinimalNetwork(config, NODES, SERVICES).eval()


def units(*contexts: Context, read: Read = "path") -> SetUnits:
    return SetUnits(Sets.of(VOCABULARY.encode(contexts), VOCABULARY, read))


def sets_of(inputs: SetInputs) -> list[list[int]]:
    return [inputs.nodes[inputs.rows == row].tolist() for row in range(len(inputs.last))]


# Units


def test_inputs_contain_each_known_node_once() -> None:
    contexts = Context((B, A, B, "unknown", A)), Context(("unknown", C))
    batch, context_rows = units(*contexts).take(np.arange(2))
    assert sets_of(batch) == [sorted((IDS[A], IDS[B])), [IDS[C]]]
    assert batch.sizes.tolist() == [2, 1]
    assert batch.last.tolist() == [IDS[A], IDS[C]]
    assert context_rows.tolist() == [0, 1]


def test_unknown_last_node_has_unknown_id() -> None:
    batch, _ = units(Context((A, "unknown"))).take(np.arange(1))
    assert sets_of(batch) == [[IDS[A]]]
    assert batch.last.tolist() == [UNKNOWN]


def test_only_upstream_inputs_contain_other_branches() -> None:
    nodes = [Node(key, key) for key in (A, B, C)]
    joined = compose("joined", nodes, [(A, C), (B, C)])[0]
    context = Context((A, C), joined, C)
    upstream, _ = units(context, read="upstream").take(np.arange(1))
    path, _ = units(context, read="path").take(np.arange(1))
    assert sets_of(upstream) == [sorted((IDS[A], IDS[B], IDS[C]))]
    assert sets_of(path) == [sorted((IDS[A], IDS[C]))]


def test_units_can_be_taken_in_any_order() -> None:
    all_units = units(Context((A,)), Context((A, B)), Context((C, B, A)))
    batch, context_rows = all_units.take(np.array([2, 0]))
    assert sets_of(batch) == [sorted((IDS[A], IDS[B], IDS[C])), [IDS[A]]]
    assert batch.last.tolist() == [IDS[A], IDS[A]]
    assert context_rows.tolist() == [2, 0]
    assert all_units.sizes.tolist() == [1, 2, 3]


def test_context_vector_of_empty_set_is_zero() -> None:
    batch, _ = units(Context(("unknown",)), Context((A,))).take(np.arange(2))
    assert batch.sizes.tolist() == [1, 1]
    net = MinimalNetwork(FactorOptions(width=5), len(VOCABULARY), len(VOCABULARY.services))
    vectors = net.context_vectors(batch)
    assert not vectors[0].any()
    assert torch.equal(vectors[1], net.embed.weight[IDS[A]])


def test_sum_per_set_equals_plain_loop() -> None:
    batch = inputs()
    values = torch.randn(len(batch.nodes), 3)
    positions = iter(range(len(values)))
    expected = [sum((values[next(positions)] for _ in path), torch.zeros(3)) for path in PATHS]
    torch.testing.assert_close(sum_per_set(values, batch), torch.stack(expected))


# Embedding


def test_initial_vectors_are_small_and_padding_is_zero() -> None:
    weight = small_embedding(2000, 20).weight
    assert not weight[PADDING].any()
    assert float(weight[1:].detach().std()) == pytest.approx(INITIAL_STD, rel=0.02)
    assert abs(float(weight[1:].detach().mean())) < INITIAL_STD / 50


# Last node


def test_last_node_term_follows_formula() -> None:
    term = LastNodeTerm(NODES, SERVICES, 4, last=True)
    fill_bias(term.bias)
    w, last = parameters_of(term), np.array([2, 5, 2])
    expected = w["embed.weight"][last] @ w["weight"].T + w["bias"]
    states = term.states(torch.from_numpy(last))
    np.testing.assert_allclose(term(states, None).detach(), expected, rtol=1e-5, atol=1e-6)
    columns = torch.tensor([6, 0, 6])
    np.testing.assert_allclose(
        term(states, columns).detach(), expected[:, columns], rtol=1e-5, atol=1e-6
    )


def test_last_node_term_without_last_is_bias() -> None:
    term = LastNodeTerm(NODES, SERVICES, 4, last=False)
    fill_bias(term.bias)
    assert list(parameters_of(term)) == ["bias"]
    states = term.states(torch.tensor([2, 5]))
    assert states.shape == (2, 0)
    columns = torch.tensor([3, 1])
    assert torch.equal(term(states, None), term.bias.expand(2, -1))
    assert torch.equal(term(states, columns), term.bias[columns].expand(2, -1))


# Network


@pytest.mark.parametrize("last", [True, False])
def test_scores_follow_formula(last: bool) -> None:
    net = network(last=last)
    fill_bias(net.last.bias)
    w = parameters_of(net)
    z_x = np.stack([w["embed.weight"][path].mean(axis=0) for path in PATHS])
    z_y = w["embed.weight"][FIRST_SERVICE : FIRST_SERVICE + SERVICES]
    expected = z_x @ z_y.T + w["last.bias"]
    if last:
        frontiers = [path[-1] for path in PATHS]
        expected += w["last.embed.weight"][frontiers] @ w["last.weight"].T
    np.testing.assert_allclose(net(inputs()).detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("l2", [0.01, 3.0])
def test_penalty_is_expected_penalty_of_bpr_triples(l2: float) -> None:
    """l2 (|E_x|^2 + |E_y|^2 + |E_j|^2), the last term averaged over all services j."""
    net, batch = network(l2=l2), inputs()
    w = parameters_of(net)["embed.weight"]
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
    penalty = net.penalty(batch, net.states(batch), rows, columns)
    assert penalty is not None
    np.testing.assert_allclose(penalty.detach(), l2 * np.mean(triples, axis=1), rtol=1e-5)


def test_penalty_without_l2_is_none() -> None:
    net, batch = network(l2=0.0), inputs()
    zero = torch.zeros(1, dtype=torch.int64)
    assert net.penalty(batch, net.states(batch), zero, zero) is None


def test_dropout_applies_to_states_only_in_training() -> None:
    net = network(dropout=0.5, width=400)
    expected = net.states(inputs())
    assert torch.equal(net.states(inputs()), expected)
    dropped = net.train().states(inputs())
    nonzero = dropped != 0
    assert 0.4 < float(nonzero.float().mean()) < 0.6
    torch.testing.assert_close(dropped[nonzero], 2 * expected[nonzero])
    assert torch.equal(net._service_factors[0], net.service_vectors())


def test_transient_attributes_are_neither_stored_nor_pickled() -> None:
    net = network()
    pickled, keys = pickle.dumps(net), list(net.state_dict())
    expected = net(inputs())
    assert net._service_factors
    assert pickle.dumps(net) == pickled
    assert list(net.state_dict()) == keys
    loaded = pickle.loads(pickled)
    assert loaded._service_factors == ()
    assert torch.equal(loaded(inputs()), expected)
