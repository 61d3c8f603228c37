from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST, UNKNOWN
from dagrec.errors import ConfigError
from dagrec.models.hybrid.experts import GraphExpert
from dagrec.models.hybrid.ur4rec import FIRST_GATE, UR4Rec, UR4RecNetwork
from dagrec.models.registry import create
from dagrec.types import Floats
from tests.checks import says
from tests.models.hybrid.ur4recs import SMALL, WORLD, answered, new, untrained
from tests.models.sequence.rows import eight
from tests.worlds import branching


@pytest.fixture(scope="module")
def fitted() -> UR4Rec:
    return new(epochs=6).fit(WORLD.data)


# What the scores are


def experts(model: UR4Rec, h: Floats, last: list[int]) -> dict[str, Floats]:
    """Expert -> log-probabilities, by loops over what is stored and over the training graph."""
    w = {name: array.astype(np.float64) for name, array in model.state().items()}
    graph = model.graph
    services = len(graph.vocabulary.services)
    part = slice(FIRST, FIRST + services)
    logits = h @ w["encoder.embed.weight"][part].T + w["encoder.head.bias"]
    logits[:, graph.popularity == 0] = -np.inf
    texts = w["text.rows"]
    pi = (graph.popularity + 1) / (graph.popularity.sum() + services)
    by_text, by_graph = [], []
    for own, node in zip(h, last, strict=True):
        query = w["text.query.weight"] @ np.concatenate([own, texts[node] * texts.shape[1] ** 0.5])
        keys = texts[part] @ w["text.project.weight"].T
        cosines = keys @ query / np.linalg.norm(keys, axis=1) / np.linalg.norm(query)
        k = 20 / (1 + np.exp(-(w["text.sharp.weight"] @ own + w["text.sharp.bias"])))
        by_text.append(log_softmax(k * cosines))
        counts = graph.support(node)
        u = graph.unseen_mass[node] if counts.any() else 1.0
        by_graph.append(np.log((1 - u) * counts / max(counts.sum(), 1) + u * pi))
    return {
        "identity": log_softmax(logits, axis=1),
        "text": np.array(by_text),
        "graph": np.array(by_graph),
    }


def test_scores_follow_the_formula(fitted: UR4Rec) -> None:
    """``hub_source`` was never a target: identity says nothing of it."""
    data, network = WORLD.data, fitted._network
    assert isinstance(network, UR4RecNetwork)
    assert not data.graph.popularity.all()
    with torch.no_grad():
        h = answered(network, data)[1][:, :-1].numpy().astype(np.float64)
    last = data.contexts.last.tolist()
    state = fitted.state()
    support = [data.graph.support(node).sum() for node in last]
    written = [float(state["text.rows"][node].any()) for node in last]
    read = np.column_stack([h, np.log1p(support), written])
    gates = softmax(read @ state["gate.weight"].T.astype(np.float64) + state["gate.bias"], axis=1)
    said = experts(fitted, h, last)
    assert list(said) == list(network.experts)
    expected = logsumexp(
        [np.log(g)[:, None] + p for g, p in zip(gates.T, said.values(), strict=True)], axis=0
    )
    np.testing.assert_allclose(fitted.score(data.contexts), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.exp(expected).sum(axis=1), 1, rtol=1e-6)
    found = fitted.gates(data.contexts)
    np.testing.assert_allclose(np.array(list(found.values())).T, gates, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"tied": False}, {"read": "upstream"}], ids=str)
def test_with_identity_alone_it_is_sasrec(options: dict[str, Any]) -> None:
    shared = {**SMALL, "epochs": 4, **options}
    alone = new(seed=3, epochs=4, text=False, graph=False, **options).fit(WORLD.data)
    sasrec = create("sasrec", shared, seed=3).fit(WORLD.data)
    assert np.array_equal(alone.score(WORLD.data.contexts), sasrec.score(WORLD.data.contexts))
    assert alone.gates(WORLD.data.contexts)["identity"].tolist() == [1.0] * len(WORLD.data.contexts)


@pytest.mark.parametrize("expert", ["identity", "text", "graph"])
def test_a_gate_that_lets_one_expert_through_gives_its_scores(fitted: UR4Rec, expert: str) -> None:
    model = new().restore(fitted.state(), WORLD.data.vocabulary, WORLD.data.graph)
    network = model._network
    assert isinstance(network, UR4RecNetwork)
    assert network.gate is not None
    with torch.no_grad():
        network.gate.weight.zero_()
        network.gate.bias.fill_(-1e4)[network.experts.index(expert)] = 0
        h = answered(network, WORLD.data)[1][:, :-1].numpy().astype(np.float64)
    said = experts(model, h, WORLD.data.contexts.last.tolist())[expert]
    found = model.score(WORLD.data.contexts)
    seen = np.isfinite(said)
    np.testing.assert_allclose(found[seen], said[seen], rtol=1e-4, atol=1e-4)
    assert (found[~seen] < -1e3).all()


def test_gates_start_as_stated() -> None:
    network = untrained(WORLD.data)
    _, states, _, _ = answered(network, WORLD.data)
    gates = network.log_gates(states[:, :-1], states[:, -1].long()).exp()
    expected = softmax(list(FIRST_GATE.values()))
    np.testing.assert_allclose(gates.detach().numpy(), np.tile(expected, (len(gates), 1)), rtol=1e-5)
    assert expected[1] == pytest.approx(0.11, abs=0.01)


def test_the_graph_expert_by_hand() -> None:
    """After ``table_b``: three of four times ``often``, once ``rarely``, of which one is single."""
    data = branching().data
    expert = GraphExpert(data.graph).eval()
    table = data.vocabulary.ids["table_b"]
    u = (1 + (1 + 1) / (4 + 2)) / (4 + 1)
    found = expert(torch.tensor([table, UNKNOWN, data.vocabulary.ids["often"]])).exp()
    often = [(1 - u) * 3 / 4 + u * 4 / 6, (1 - u) / 4 + u * 2 / 6]
    np.testing.assert_allclose(found, [often, [4 / 6, 2 / 6], [4 / 6, 2 / 6]], rtol=1e-6)
    # In training two of three links are left of ``often``, and none of ``rarely``.
    kept = (1 - u) * 2 / 3
    found = expert.train()(torch.tensor([table])).exp()
    expected = [kept + (1 - kept) * 4 / 6, (1 - kept) * 2 / 6]
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_graph_expert_gives_probabilities(training: bool) -> None:
    expert = GraphExpert(WORLD.data.graph).train(training)
    found = expert(torch.arange(len(WORLD.data.vocabulary))).exp()
    np.testing.assert_allclose(found.sum(dim=1), 1, rtol=1e-5)
    assert (found > 0).all()


def taught(network: UR4RecNetwork, loss: torch.Tensor | None) -> set[str]:
    """The parameters that a loss has a gradient for; it reaches all others with 0."""
    assert loss is not None
    network.zero_grad()
    loss.sum().backward()
    return {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}


TEXT = {"text.query.weight", "text.project.weight", "text.sharp.weight", "text.sharp.bias"}


def test_each_expert_is_taught_by_its_own_loss_and_the_text_never_teaches_the_encoder() -> None:
    network = untrained(WORLD.data)
    encoder = {name for name, _ in network.named_parameters() if name.startswith("encoder.")}
    network.joint.fill_(0.0)
    assert taught(network, network.penalty(*answered(network, WORLD.data))) == TEXT
    network.teaches_text = False
    assert taught(network, network.penalty(*answered(network, WORLD.data))) == set()
    network.joint.fill_(1.0)
    assert taught(network, network.penalty(*answered(network, WORLD.data))) == encoder


@pytest.mark.parametrize("identity", [True, False])
def test_the_mixture_teaches_the_encoder_through_identity_or_else_through_text(identity: bool) -> None:
    network = untrained(WORLD.data, identity=identity, graph=identity)
    _, states, rows, columns = answered(network, WORLD.data)
    loss = torch.nn.functional.cross_entropy(network.scores(states)[rows], columns)
    found = taught(network, loss)
    assert {"encoder.embed.weight", *TEXT} <= found
    if network.gate is not None:
        assert "gate.weight" in found
        with torch.no_grad():
            network.gate.bias.copy_(torch.tensor([-1e4, 0.0, 0.0]))
        _, states, rows, columns = answered(network, WORLD.data)
        loss = torch.nn.functional.cross_entropy(network.scores(states)[rows], columns)
        assert not any(name.startswith("encoder.") for name in taught(network, loss))


def test_weight_and_evaluation_take_the_loss_away() -> None:
    one, two, none = (untrained(WORLD.data, identity=False, text_weight=w) for w in (1.0, 2.0, 0.0))
    assert none.penalty(*answered(none, WORLD.data)) is None
    network = one.eval()
    inputs, states, rows, columns = answered(network, WORLD.data)
    assert one.penalty(inputs, states, rows, columns) is None
    single, double = (net.train().penalty(inputs, states, rows, columns) for net in (one, two))
    assert single is not None
    assert double is not None
    torch.testing.assert_close(double, 2 * single)


def test_what_was_never_a_target_does_not_compete_in_training() -> None:
    """``hub_source`` was none: no gradient tells its score from that of another new service."""
    network = untrained(WORLD.data)
    _, states, _, _ = answered(network, WORLD.data)
    never = ~network.targets
    assert never.sum() == 1
    assert network.scores(states).isfinite().all()
    alone = network._text(states[:, :-1], states[:, -1].long()).exp()
    assert not alone[:, never].any()
    torch.testing.assert_close(alone.sum(dim=1), torch.ones(len(alone)))
    network.eval()
    assert (network._text(states[:, :-1], states[:, -1].long())[:, never].exp() > 0.01).all()


def test_a_share_of_the_services_is_taken_for_new_in_training_alone() -> None:
    network = untrained(WORLD.data, cold_share=0.3)
    torch.manual_seed(0)
    drawn = torch.stack([network._cold() for _ in range(2000)]).float().mean(dim=0)
    assert (abs(drawn - 0.3) < 5 * (0.3 * 0.7 / 2000) ** 0.5).all()
    assert not network.eval()._cold().any()
    assert not untrained(WORLD.data, cold_share=0.3, text=False)._cold().any()
    # Where nothing would be left to identity, nothing is taken.
    small = untrained(branching().data, cold_share=0.9)
    assert all((small.targets & ~small._cold()).any() for _ in range(200))


def test_only_the_text_answers_with_what_is_taken_for_new(monkeypatch: pytest.MonkeyPatch) -> None:
    network = untrained(WORLD.data)
    _, states, _, _ = answered(network, WORLD.data)
    cold = torch.zeros_like(network.targets)
    cold[:3] = True
    monkeypatch.setattr(network, "_cold", lambda: cold)
    h, last = states[:, :-1], states[:, -1].long()
    expected = network.log_gates(h, last)[:, [1]] + network._text(h, last)
    torch.testing.assert_close(network.scores(states)[:, :3], expected[:, :3])


# Stages


def test_until_the_joint_stage_the_sequence_learns_as_if_it_were_alone() -> None:
    """With steps that are not cut, since all gradients are cut together."""
    shared: dict[str, Any] = {"epochs": 4, "clip_norm": 1e6, "learning_rate": 1e-3, "dropout": 0.0}
    model = new(seed=1, sequence_share=0.5, text_share=0.5, **shared).fit(WORLD.data)
    sasrec = create("sasrec", {**SMALL, **shared}, seed=1).fit(WORLD.data)
    found, expected = model.state(), sasrec.state()
    for name, array in expected.items():
        if name != "prior":
            same = np.abs(found[f"encoder.{name}"].astype(float) - array.astype(float)) < 1e-4
            assert same.all(), name
    assert found["joint"].tolist() == [0.0]
    assert not found["gate.weight"].any()
    scores = log_softmax(sasrec.score(WORLD.data.contexts), axis=1)
    np.testing.assert_allclose(model.score(WORLD.data.contexts), scores, atol=1e-2)


def texts_after(**options: Any) -> tuple[Floats, Floats]:
    """The text's query and the gate after four epochs."""
    state = new(seed=1, epochs=4, **options).fit(WORLD.data).state()
    return state["text.query.weight"].astype(float), state["gate.weight"].astype(float)


def test_text_learns_from_its_stage_on_and_the_gate_from_the_joint_one() -> None:
    first, _ = texts_after(sequence_share=1.0, text_share=0.0)
    again, gate = texts_after(sequence_share=1.0, text_share=0.0, learning_rate=0.02)
    assert np.array_equal(first, again)
    assert not gate.any()
    second, gate = texts_after(sequence_share=0.5, text_share=0.5)
    assert not np.allclose(first, second)
    assert not gate.any()
    _, gate = texts_after(sequence_share=0.25, text_share=0.25)
    assert gate.any()


def test_stages_begin_at_their_shares() -> None:
    network = untrained(WORLD.data, epochs=10, sequence_share=0.3, text_share=0.2)
    found = []
    for number in range(10):
        network.begin_epoch(number)
        found.append((network.teaches_text, float(network.joint)))
    assert found == [(False, 0.0)] * 3 + [(True, 0.0)] * 2 + [(True, 1.0)] * 5


def test_without_identity_there_is_no_stage_of_its_own() -> None:
    network = untrained(WORLD.data, epochs=10, identity=False)
    network.begin_epoch(0)
    assert network.joint.tolist() == [1.0]


def test_losses_of_the_stages_compare() -> None:
    """The text's loss is counted from the first epoch on."""
    options: dict[str, Any] = {"epochs": 1, "sequence_share": 1.0, "text_share": 0.0}
    with_text = new(**options).fit(WORLD.data).history[0].loss
    without = new(text_weight=0.0, **options).fit(WORLD.data).history[0].loss
    services = len(WORLD.data.vocabulary.services)
    assert with_text - without == pytest.approx(np.log(services), abs=0.2)


# What it learns


@pytest.mark.parametrize(
    "options", [{}, {"graph": False}, {"identity": False, "graph": False}, {"text": False}], ids=str
)
def test_eight_examples_are_learned_by_heart(options: dict[str, Any]) -> None:
    data = eight()
    shared = {"epochs": 100, "width": 32, "dropout": 0.0, "learning_rate": 0.02}
    model = new(**{**shared, **options}).fit(data)
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"identity": False, "text": False}, ["identity or text", "use markov"]),
        ({"texts": "vectors.npz"}, ["texts", "vectors.npz", "safetensors"]),
        ({"sequence_share": 0.8, "text_share": 0.3}, ["add up to 1", "0.8 and 0.3"]),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        new(**options)
    assert says(error, "ur4rec", *parts)


def test_embeddings_are_those_of_identity_and_text(fitted: UR4Rec) -> None:
    vocabulary = WORLD.data.vocabulary
    found = fitted.embeddings()
    assert found["nodes"].shape == (len(vocabulary) - FIRST, 16)
    assert found["services"].shape == (len(vocabulary.services), 32)
    np.testing.assert_allclose(np.linalg.norm(found["services"][:, 16:], axis=1), 1, rtol=1e-5)


def test_attention_is_that_of_the_encoder(fitted: UR4Rec) -> None:
    found = fitted.attention(Context(("table_a", "extract")))
    assert found.weights.shape == (1, 2, 2, 2)
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1, rtol=1e-6)
