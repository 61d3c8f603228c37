from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from dagrec.data.compositions import Composition
from dagrec.data.examples import context_at
from dagrec.data.vocabulary import FIRST, PADDING
from dagrec.models.dag.graphs import GraphInputs
from dagrec.models.dag.srgnn import SRGNNConfig, SRGNNNetwork
from dagrec.types import Floats
from tests.data.dags import dags
from tests.models.dag.inputs import (
    CHAIN,
    DIAMOND,
    LETTERS,
    SKIP,
    at,
    close,
    context,
    inputs_of,
    own_generator,
    place,
    stirred,
)

_own_generator = pytest.fixture(autouse=True)(own_generator)


def network(**options: object) -> SRGNNNetwork:
    config = SRGNNConfig(**{"width": 5, **options})
    return SRGNNNetwork(config, len(LETTERS), len(LETTERS.services)).eval()


# Messages


def matrices(inputs: GraphInputs) -> tuple[Tensor, Tensor]:
    """A_in and A_out, [N, N] each: what one-hot states become on their way along links."""
    size = len(inputs.nodes)
    net = network(width=size)
    with torch.no_grad():
        for linear in (net.along, net.against):
            linear.weight.copy_(torch.eye(size))
            linear.bias.zero_()
        net.shift.zero_()
        along, against = net.messages(torch.eye(size), inputs).split(size, dim=1)
    return along, against


@settings(max_examples=25)
@given(dags())
def test_rows_of_both_matrices_sum_to_one_or_zero(composition: Composition) -> None:
    inputs = inputs_of(*(context_at(composition, node.id) for node in composition.nodes))
    along, against = matrices(inputs)
    assert close(along.sum(dim=1), torch.zeros(len(along)).index_fill(0, inputs.targets, 1))
    assert close(against.sum(dim=1), torch.zeros(len(along)).index_fill(0, inputs.sources, 1))
    assert torch.equal(along > 0, (against > 0).t())


def test_the_papers_session_as_a_dag() -> None:
    """Of the session a, b, a, c: what follows a shares its row; a second a is a node of its own."""
    inputs = at("a>b a>c b>d c>d", "d")
    along, against = matrices(inputs)
    a, b, c, d = (place(inputs, key) for key in "abcd")
    assert against[a, [b, c]].tolist() == [0.5, 0.5]
    assert along[b, a] == along[c, a] == 1
    assert along[d, [b, c]].tolist() == [0.5, 0.5]

    inputs = at("a>b b>a1 a1>c", "c")
    along, against = matrices(inputs)
    assert torch.equal(against, torch.diag(torch.ones(3), 1))
    assert torch.equal(along, torch.diag(torch.ones(3), -1))


@pytest.mark.parametrize(("links", "end", "start"), [(CHAIN, "d", "a"), (DIAMOND, "d", "t")])
def test_reversing_the_links_swaps_the_matrices(links: str, end: str, start: str) -> None:
    back = " ".join(">".join(reversed(link.split(">"))) for link in links.split())
    there, again = at(links, end), at(back, start)
    order = torch.tensor([int((again.nodes == node).nonzero()) for node in there.nodes])
    along, against = matrices(there)
    along_back, against_back = matrices(again)
    assert torch.equal(along, against_back[order][:, order])
    assert torch.equal(against, along_back[order][:, order])


def test_a_node_alone_gets_no_message_and_a_finite_state() -> None:
    net, inputs = network(), at("", "a")
    assert close(net.messages(net.embed(inputs.nodes), inputs), net.shift[None])
    assert torch.isfinite(net(inputs)).all()


# Update and readout


def by_hand(net: SRGNNNetwork, inputs: GraphInputs) -> Floats:
    """The scores of one DAG, node by node."""
    w = {name: array.double().numpy() for name, array in net.state_dict().items()}
    links = list(zip(inputs.sources.tolist(), inputs.targets.tolist(), strict=True))
    h = [w["embed.weight"][node] for node in inputs.nodes.tolist()]
    for _ in range(net.steps):
        new = []
        for v, own in enumerate(h):
            halves = []
            for name, near in (
                ("along", [a for a, b in links if b == v]),
                ("against", [b for a, b in links if a == v]),
            ):
                sent = [w[f"{name}.weight"] @ h[u] + w[f"{name}.bias"] for u in near]
                halves.append(np.mean(sent, axis=0) if sent else np.zeros(len(own)))
            a = np.concatenate(halves) + w["shift"]
            r_a, z_a, n_a = np.split(w["cell.weight_ih"] @ a + w["cell.bias_ih"], 3)
            r_h, z_h, n_h = np.split(w["cell.weight_hh"] @ own + w["cell.bias_hh"], 3)
            r, z = 1 / (1 + np.exp(-(r_a + r_h))), 1 / (1 + np.exp(-(z_a + z_h)))
            n = np.tanh(n_a + r * n_h)
            new.append(n + z * (own - n))
        h = new
    (f,) = inputs.frontiers.tolist()
    whole = np.zeros(len(h[f]))
    for own in h:
        inside = w["look.weight"] @ h[f] + w["seen.weight"] @ own + w["seen.bias"]
        whole += float(w["weigh.weight"][0] @ (1 / (1 + np.exp(-inside)))) * own
    beside = sum(w["readout.beside.weight"][child] for child in inputs.children.tolist())
    s = w["join.weight"] @ np.concatenate([whole, h[f] + beside])
    return np.asarray(w["embed.weight"][FIRST : FIRST + len(LETTERS.services)] @ s + w["head.bias"])


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    ("links", "node"), [("", "a"), (CHAIN, "d"), (DIAMOND, "d"), (SKIP, "d"), (DIAMOND, "t")]
)
def test_scores_follow_the_formula(links: str, node: str, steps: int) -> None:
    net = network(steps=steps)
    stirred(net)
    inputs = at(links, node)
    np.testing.assert_allclose(net(inputs)[0].detach(), by_hand(net, inputs), rtol=1e-4, atol=1e-5)


def test_a_saturated_gate_leaves_the_states_as_they_are() -> None:
    inputs = at(DIAMOND, "d")
    once, often = network(steps=1), network(steps=6)
    often.load_state_dict(once.state_dict())
    assert not torch.allclose(once(inputs), often(inputs))
    for net in (once, often):
        with torch.no_grad():
            net.cell.bias_ih[5:10] = 40  # reset, update, new: 5 each
    assert torch.equal(once(inputs), often(inputs))


def test_the_readout_has_no_softmax() -> None:
    """Twice the logits are twice the sum, and a node that is there twice counts twice."""
    net, inputs = network(), at(DIAMOND, "d")
    h = net.embed(inputs.nodes)
    before = net.pool(h, inputs)
    with torch.no_grad():
        net.weigh.weight *= 2
    assert close(net.pool(h, inputs), 2 * before)

    one, two = at("a>b", "b"), at("a>b a1>b", "b")
    b, twice = (net.pool(net.embed(i.nodes), i)[i.frontiers] for i in (one, two))
    alone = at("", "b")
    own = net.pool(net.embed(alone.nodes), alone)
    assert close(twice - own, 2 * (b - own))


def test_last_is_the_frontier_and_not_a_place_in_some_order() -> None:
    """Both nodes end their DAG; each is asked about by itself in a batch with the other."""
    net = network()
    both = net(inputs_of(context("a>b a>c", "b"), context("a>b a>c", "c")))
    assert close(both, torch.cat([net(at("a>b", "b")), net(at("a>c", "c"))]))
    assert not torch.allclose(both[0], both[1])


def test_one_step_brings_nodes_one_link_closer() -> None:
    """The frontier of a>b>c>d knows by messages alone what is ``steps`` links away."""
    inputs = at(CHAIN, "d")
    for steps in (1, 2, 3):
        net = network(steps=steps)
        h = net.embed(inputs.nodes)
        start = h.detach().requires_grad_()
        h = start
        for _ in range(steps):
            h = net.cell(net.messages(h, inputs), h)
        (gradient,) = torch.autograd.grad(h[inputs.frontiers].sum(), [start])
        reached = gradient.abs().sum(dim=1) > 0
        assert reached.tolist() == [False] * (3 - steps) + [True] * (steps + 1)


def test_first_weights_are_small_and_padding_is_zero() -> None:
    net = network(width=25)
    assert not net.embed.weight[PADDING].any()
    assert not net.readout.beside.weight.any()
    drawn = [p for name, p in net.named_parameters() if not name.startswith(("readout", "head"))]
    assert all(0.1 < parameter.abs().max() <= 0.2 for parameter in drawn)
