from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from dagrec.data.compositions import Composition
from dagrec.data.examples import context_at
from dagrec.data.vocabulary import FIRST_SERVICE, PADDING
from dagrec.models.dag.graphs import GraphInputs
from dagrec.models.dag.srgnn import SRGNNConfig, SRGNNNetwork
from dagrec.types import Floats
from tests.data.dags import dags
from tests.models.dag.inputs import (
    CHAIN,
    DIAMOND,
    LETTERS,
    SKIP,
    assert_close,
    context,
    index_of,
    inputs_at,
    inputs_of,
    randomise_zero_parameters,
)


def network(**options: object) -> SRGNNNetwork:
    config = SRGNNConfig(**{"width": 5, **options})
    return SRGNNNetwork(config, len(LETTERS), len(LETTERS.services)).eval()


# Messages


def matrices(inputs: GraphInputs) -> tuple[Tensor, Tensor]:
    """Return A_in and A_out [N, N]: the messages for one-hot states and identity weights."""
    size = len(inputs.nodes)
    net = network(width=size)
    with torch.no_grad():
        for linear in (net.linear_in, net.linear_out):
            linear.weight.copy_(torch.eye(size))
            linear.bias.zero_()
        net.message_bias.zero_()
        a_in, a_out = net.messages(torch.eye(size), inputs).split(size, dim=1)
    return a_in, a_out


@settings(max_examples=25)
@given(dags())
def test_matrix_rows_sum_to_1_or_0(composition: Composition) -> None:
    inputs = inputs_of(*(context_at(composition, node.id) for node in composition.nodes))
    a_in, a_out = matrices(inputs)
    assert_close(a_in.sum(dim=1), torch.zeros(len(a_in)).index_fill(0, inputs.targets, 1))
    assert_close(a_out.sum(dim=1), torch.zeros(len(a_in)).index_fill(0, inputs.sources, 1))
    assert torch.equal(a_in > 0, (a_out > 0).t())


def test_matrices_of_session_in_paper() -> None:
    """The session a, b, a, c of the paper, in which a repeated service is a separate node here."""
    inputs = inputs_at("a>b a>c b>d c>d", "d")
    a_in, a_out = matrices(inputs)
    a, b, c, d = (index_of(inputs, key) for key in "abcd")
    assert a_out[a, [b, c]].tolist() == [0.5, 0.5]
    assert a_in[b, a] == a_in[c, a] == 1
    assert a_in[d, [b, c]].tolist() == [0.5, 0.5]

    inputs = inputs_at("a>b b>a1 a1>c", "c")
    a_in, a_out = matrices(inputs)
    assert torch.equal(a_out, torch.diag(torch.ones(3), 1))
    assert torch.equal(a_in, torch.diag(torch.ones(3), -1))


@pytest.mark.parametrize(("links", "end", "start"), [(CHAIN, "d", "a"), (DIAMOND, "d", "t")])
def test_reversing_links_swaps_matrices(links: str, end: str, start: str) -> None:
    reversed_links = " ".join(">".join(reversed(link.split(">"))) for link in links.split())
    inputs, reversed_inputs = inputs_at(links, end), inputs_at(reversed_links, start)
    order = torch.tensor([int((reversed_inputs.nodes == node).nonzero()) for node in inputs.nodes])
    a_in, a_out = matrices(inputs)
    reversed_a_in, reversed_a_out = matrices(reversed_inputs)
    assert torch.equal(a_in, reversed_a_out[order][:, order])
    assert torch.equal(a_out, reversed_a_in[order][:, order])


def test_single_node_has_no_messages_and_finite_scores() -> None:
    net, inputs = network(), inputs_at("", "a")
    assert_close(net.messages(net.embed(inputs.nodes), inputs), net.message_bias[None])
    assert torch.isfinite(net(inputs)).all()


# Update and readout


def reference_scores(net: SRGNNNetwork, inputs: GraphInputs) -> Floats:
    """Return the scores of one DAG, computed node by node."""
    w = {name: array.double().numpy() for name, array in net.state_dict().items()}
    links = list(zip(inputs.sources.tolist(), inputs.targets.tolist(), strict=True))
    h = [w["embed.weight"][node] for node in inputs.nodes.tolist()]
    for _ in range(net.rounds):
        new_h = []
        for v, state in enumerate(h):
            halves = []
            for name, neighbours in (
                ("linear_in", [a for a, b in links if b == v]),
                ("linear_out", [b for a, b in links if a == v]),
            ):
                messages = [w[f"{name}.weight"] @ h[u] + w[f"{name}.bias"] for u in neighbours]
                halves.append(np.mean(messages, axis=0) if messages else np.zeros(len(state)))
            a = np.concatenate(halves) + w["message_bias"]
            r_a, z_a, n_a = np.split(w["cell.weight_ih"] @ a + w["cell.bias_ih"], 3)
            r_h, z_h, n_h = np.split(w["cell.weight_hh"] @ state + w["cell.bias_hh"], 3)
            r, z = 1 / (1 + np.exp(-(r_a + r_h))), 1 / (1 + np.exp(-(z_a + z_h)))
            n = np.tanh(n_a + r * n_h)
            new_h.append(n + z * (state - n))
        h = new_h
    (f,) = inputs.frontiers.tolist()
    pooled = np.zeros(len(h[f]))
    for state in h:
        inside = (
            w["attention_query.weight"] @ h[f]
            + w["attention_key.weight"] @ state
            + w["attention_key.bias"]
        )
        pooled += float(w["attention_score.weight"][0] @ (1 / (1 + np.exp(-inside)))) * state
    children = sum(w["readout.embed_children.weight"][child] for child in inputs.children.tolist())
    s = w["combine.weight"] @ np.concatenate([pooled, h[f] + children])
    return np.asarray(
        w["embed.weight"][FIRST_SERVICE : FIRST_SERVICE + len(LETTERS.services)] @ s + w["head.bias"]
    )


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(
    ("links", "node"), [("", "a"), (CHAIN, "d"), (DIAMOND, "d"), (SKIP, "d"), (DIAMOND, "t")]
)
def test_scores_match_reference(links: str, node: str, rounds: int) -> None:
    net = network(rounds=rounds)
    randomise_zero_parameters(net)
    inputs = inputs_at(links, node)
    np.testing.assert_allclose(
        net(inputs)[0].detach(), reference_scores(net, inputs), rtol=1e-4, atol=1e-5
    )


def test_saturated_update_gate_keeps_states() -> None:
    inputs = inputs_at(DIAMOND, "d")
    once, several = network(rounds=1), network(rounds=6)
    several.load_state_dict(once.state_dict())
    assert not torch.allclose(once(inputs), several(inputs))
    for net in (once, several):
        with torch.no_grad():
            net.cell.bias_ih[5:10] = 40  # reset, update, new: 5 each
    assert torch.equal(once(inputs), several(inputs))


def test_readout_has_no_softmax() -> None:
    """Doubled logits double the sum, and a repeated node counts twice."""
    net, inputs = network(), inputs_at(DIAMOND, "d")
    h = net.embed(inputs.nodes)
    before = net.pool(h, inputs)
    with torch.no_grad():
        net.attention_score.weight *= 2
    assert_close(net.pool(h, inputs), 2 * before)

    one, two = inputs_at("a>b", "b"), inputs_at("a>b a1>b", "b")
    b, twice = (net.pool(net.embed(i.nodes), i)[i.frontiers] for i in (one, two))
    single = inputs_at("", "b")
    self_term = net.pool(net.embed(single.nodes), single)
    assert_close(twice - self_term, 2 * (b - self_term))


def test_last_node_is_frontier_of_each_dag() -> None:
    """The frontiers of a batch of two DAGs are scored separately."""
    net = network()
    scores = net(inputs_of(context("a>b a>c", "b"), context("a>b a>c", "c")))
    assert_close(scores, torch.cat([net(inputs_at("a>b", "b")), net(inputs_at("a>c", "c"))]))
    assert not torch.allclose(scores[0], scores[1])


def test_rounds_limit_distance_of_messages() -> None:
    """Without the readout, the frontier of a>b>c>d depends on nodes up to ``rounds`` links away."""
    inputs = inputs_at(CHAIN, "d")
    for rounds in (1, 2, 3):
        net = network(rounds=rounds)
        h = net.embed(inputs.nodes)
        start = h.detach().requires_grad_()
        h = start
        for _ in range(rounds):
            h = net.cell(net.messages(h, inputs), h)
        (gradient,) = torch.autograd.grad(h[inputs.frontiers].sum(), [start])
        reached = gradient.abs().sum(dim=1) > 0
        assert reached.tolist() == [False] * (3 - rounds) + [True] * (rounds + 1)


def test_initial_weights_are_small_and_padding_is_zero() -> None:
    net = network(width=25)
    assert not net.embed.weight[PADDING].any()
    assert not net.readout.embed_children.weight.any()
    parameters = [p for name, p in net.named_parameters() if not name.startswith(("readout", "head"))]
    assert all(0.1 < parameter.abs().max() <= 0.2 for parameter in parameters)
