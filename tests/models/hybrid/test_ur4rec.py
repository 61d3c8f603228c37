from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE, UNKNOWN
from dagrec.errors import ConfigError
from dagrec.models.hybrid.experts import GraphExpert
from dagrec.models.hybrid.ur4rec import INITIAL_GATE, UR4Rec, UR4RecNetwork
from dagrec.models.registry import create
from dagrec.types import Floats
from tests.checks import says
from tests.models.hybrid.ur4recs import SMALL, WORLD, new, pair_inputs, untrained
from tests.models.sequence.rows import eight_examples
from tests.worlds import branching


@pytest.fixture(scope="module")
def fitted() -> UR4Rec:
    return new(epochs=6).fit(WORLD.data)


# Scores


def reference_experts(model: UR4Rec, h: Floats, last: list[int]) -> dict[str, Floats]:
    """Return the log-probabilities of each expert, computed by loops from state and training graph."""
    w = {name: array.astype(np.float64) for name, array in model.state().items()}
    graph = model.graph
    services = len(graph.vocabulary.services)
    part = slice(FIRST_SERVICE, FIRST_SERVICE + services)
    logits = h @ w["encoder.embed.weight"][part].T + w["encoder.head.bias"]
    logits[:, graph.popularity == 0] = -np.inf
    texts = w["text.rows"]
    pi = (graph.popularity + 1) / (graph.popularity.sum() + services)
    text_log_p, graph_log_p = [], []
    for state, node in zip(h, last, strict=True):
        query = w["text.query.weight"] @ np.concatenate([state, texts[node] * texts.shape[1] ** 0.5])
        keys = texts[part] @ w["text.project.weight"].T
        cosines = keys @ query / np.linalg.norm(keys, axis=1) / np.linalg.norm(query)
        k = 20 / (
            1 + np.exp(-(w["text.sharpness_logit.weight"] @ state + w["text.sharpness_logit.bias"]))
        )
        text_log_p.append(log_softmax(k * cosines))
        counts = graph.support(node)
        u = graph.unseen_mass[node] if counts.any() else 1.0
        graph_log_p.append(np.log((1 - u) * counts / max(counts.sum(), 1) + u * pi))
    return {
        "identity": log_softmax(logits, axis=1),
        "text": np.array(text_log_p),
        "graph": np.array(graph_log_p),
    }


def test_scores_match_formula(fitted: UR4Rec) -> None:
    """``hub_source`` is never a target, so its identity probability is 0."""
    data, network = WORLD.data, fitted._network
    assert isinstance(network, UR4RecNetwork)
    assert not data.graph.popularity.all()
    with torch.no_grad():
        h = pair_inputs(network, data)[1][:, :-1].numpy().astype(np.float64)
    last = data.contexts.last.tolist()
    state = fitted.state()
    support = [data.graph.support(node).sum() for node in last]
    has_text = [float(state["text.rows"][node].any()) for node in last]
    gate_inputs = np.column_stack([h, np.log1p(support), has_text])
    gates = softmax(
        gate_inputs @ state["gate.weight"].T.astype(np.float64) + state["gate.bias"], axis=1
    )
    by_expert = reference_experts(fitted, h, last)
    assert list(by_expert) == list(network.experts)
    expected = logsumexp(
        [np.log(g)[:, None] + p for g, p in zip(gates.T, by_expert.values(), strict=True)], axis=0
    )
    np.testing.assert_allclose(fitted.score(data.contexts), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.exp(expected).sum(axis=1), 1, rtol=1e-6)
    weights = fitted.gates(data.contexts)
    np.testing.assert_allclose(np.array(list(weights.values())).T, gates, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"tied": False}, {"read": "upstream"}], ids=str)
def test_identity_expert_alone_equals_sasrec(options: dict[str, Any]) -> None:
    shared = {**SMALL, "epochs": 4, **options}
    identity = new(seed=3, epochs=4, text=False, graph=False, **options).fit(WORLD.data)
    sasrec = create("sasrec", shared, seed=3).fit(WORLD.data)
    assert np.array_equal(identity.score(WORLD.data.contexts), sasrec.score(WORLD.data.contexts))
    assert identity.gates(WORLD.data.contexts)["identity"].tolist() == [1.0] * len(WORLD.data.contexts)


@pytest.mark.parametrize("expert", ["identity", "text", "graph"])
def test_one_hot_gate_selects_expert(fitted: UR4Rec, expert: str) -> None:
    model = new().restore(fitted.state(), WORLD.data.vocabulary, WORLD.data.graph)
    network = model._network
    assert isinstance(network, UR4RecNetwork)
    assert network.gate is not None
    with torch.no_grad():
        network.gate.weight.zero_()
        network.gate.bias.fill_(-1e4)[network.experts.index(expert)] = 0
        h = pair_inputs(network, WORLD.data)[1][:, :-1].numpy().astype(np.float64)
    expected = reference_experts(model, h, WORLD.data.contexts.last.tolist())[expert]
    scores = model.score(WORLD.data.contexts)
    finite = np.isfinite(expected)
    np.testing.assert_allclose(scores[finite], expected[finite], rtol=1e-4, atol=1e-4)
    assert (scores[~finite] < -1e3).all()


def test_initial_gates_match_constants() -> None:
    network = untrained(WORLD.data)
    _, states, _, _ = pair_inputs(network, WORLD.data)
    gates = network.log_gates(states[:, :-1], states[:, -1].long()).exp()
    expected = softmax(list(INITIAL_GATE.values()))
    np.testing.assert_allclose(gates.detach().numpy(), np.tile(expected, (len(gates), 1)), rtol=1e-5)
    assert expected[1] == pytest.approx(0.11, abs=0.01)


def test_graph_expert_matches_manual_computation() -> None:
    """After ``table_b`` came ``often`` three times and ``rarely`` once."""
    data = branching().data
    expert = GraphExpert(data.graph).eval()
    table = data.vocabulary.ids["table_b"]
    u = (1 + (1 + 1) / (4 + 2)) / (4 + 1)
    p = expert(torch.tensor([table, UNKNOWN, data.vocabulary.ids["often"]])).exp()
    after_table = [(1 - u) * 3 / 4 + u * 4 / 6, (1 - u) / 4 + u * 2 / 6]
    np.testing.assert_allclose(p, [after_table, [4 / 6, 2 / 6], [4 / 6, 2 / 6]], rtol=1e-6)
    # In training, two of the three links to ``often`` remain, and none to ``rarely``.
    share = (1 - u) * 2 / 3
    p = expert.train()(torch.tensor([table])).exp()
    expected = [share + (1 - share) * 4 / 6, (1 - share) * 2 / 6]
    np.testing.assert_allclose(p, [expected], rtol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_graph_expert_probabilities_sum_to_1(training: bool) -> None:
    expert = GraphExpert(WORLD.data.graph).train(training)
    p = expert(torch.arange(len(WORLD.data.vocabulary))).exp()
    np.testing.assert_allclose(p.sum(dim=1), 1, rtol=1e-5)
    assert (p > 0).all()


def trained_parameters(network: UR4RecNetwork, loss: torch.Tensor | None) -> set[str]:
    """Return the parameters whose gradient of the loss is not 0."""
    assert loss is not None
    network.zero_grad()
    loss.sum().backward()
    return {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}


TEXT = {
    "text.query.weight",
    "text.project.weight",
    "text.sharpness_logit.weight",
    "text.sharpness_logit.bias",
}


def test_penalty_trains_text_and_encoder_separately() -> None:
    network = untrained(WORLD.data)
    encoder = {name for name, _ in network.named_parameters() if name.startswith("encoder.")}
    network.joint.fill_(0.0)
    assert trained_parameters(network, network.penalty(*pair_inputs(network, WORLD.data))) == TEXT
    network.trains_text = False
    assert trained_parameters(network, network.penalty(*pair_inputs(network, WORLD.data))) == set()
    network.joint.fill_(1.0)
    assert trained_parameters(network, network.penalty(*pair_inputs(network, WORLD.data))) == encoder


@pytest.mark.parametrize("identity", [True, False])
def test_mixture_trains_encoder_through_identity_or_text(identity: bool) -> None:
    network = untrained(WORLD.data, identity=identity, graph=identity)
    _, states, rows, columns = pair_inputs(network, WORLD.data)
    loss = torch.nn.functional.cross_entropy(network.scores(states)[rows], columns)
    trained = trained_parameters(network, loss)
    assert {"encoder.embed.weight", *TEXT} <= trained
    if network.gate is not None:
        assert "gate.weight" in trained
        with torch.no_grad():
            network.gate.bias.copy_(torch.tensor([-1e4, 0.0, 0.0]))
        _, states, rows, columns = pair_inputs(network, WORLD.data)
        loss = torch.nn.functional.cross_entropy(network.scores(states)[rows], columns)
        assert not any(name.startswith("encoder.") for name in trained_parameters(network, loss))


def test_penalty_scales_with_text_weight_and_is_none_in_evaluation() -> None:
    one, two, none = (untrained(WORLD.data, identity=False, text_weight=w) for w in (1.0, 2.0, 0.0))
    assert none.penalty(*pair_inputs(none, WORLD.data)) is None
    network = one.eval()
    inputs, states, rows, columns = pair_inputs(network, WORLD.data)
    assert one.penalty(inputs, states, rows, columns) is None
    single, double = (net.train().penalty(inputs, states, rows, columns) for net in (one, two))
    assert single is not None
    assert double is not None
    torch.testing.assert_close(double, 2 * single)


def test_services_without_targets_do_not_compete_in_training() -> None:
    """``hub_source`` is never a target, so training must not lower its score."""
    network = untrained(WORLD.data)
    _, states, _, _ = pair_inputs(network, WORLD.data)
    never_targets = ~network.targets
    assert never_targets.sum() == 1
    assert network.scores(states).isfinite().all()
    text_p = network._text(states[:, :-1], states[:, -1].long()).exp()
    assert not text_p[:, never_targets].any()
    torch.testing.assert_close(text_p.sum(dim=1), torch.ones(len(text_p)))
    network.eval()
    assert (network._text(states[:, :-1], states[:, -1].long())[:, never_targets].exp() > 0.01).all()


def test_cold_share_is_drawn_only_in_training() -> None:
    network = untrained(WORLD.data, cold_share=0.3)
    torch.manual_seed(0)
    frequencies = torch.stack([network._cold() for _ in range(2000)]).float().mean(dim=0)
    assert (abs(frequencies - 0.3) < 5 * (0.3 * 0.7 / 2000) ** 0.5).all()
    assert not network.eval()._cold().any()
    assert not untrained(WORLD.data, cold_share=0.3, text=False)._cold().any()
    # If all targets would be treated as new, none are.
    small = untrained(branching().data, cold_share=0.9)
    assert all((small.targets & ~small._cold()).any() for _ in range(200))


def test_cold_services_are_scored_only_by_text(monkeypatch: pytest.MonkeyPatch) -> None:
    network = untrained(WORLD.data)
    _, states, _, _ = pair_inputs(network, WORLD.data)
    cold = torch.zeros_like(network.targets)
    cold[:3] = True
    monkeypatch.setattr(network, "_cold", lambda: cold)
    h, last = states[:, :-1], states[:, -1].long()
    expected = network.log_gates(h, last)[:, [1]] + network._text(h, last)
    torch.testing.assert_close(network.scores(states)[:, :3], expected[:, :3])


# Stages


def test_encoder_equals_sasrec_before_joint_stage() -> None:
    """Gradient clipping is disabled, because it would couple the parameters."""
    shared: dict[str, Any] = {"epochs": 4, "clip_norm": 1e6, "learning_rate": 1e-3, "dropout": 0.0}
    model = new(seed=1, sequence_share=0.5, text_share=0.5, **shared).fit(WORLD.data)
    sasrec = create("sasrec", {**SMALL, **shared}, seed=1).fit(WORLD.data)
    state, expected = model.state(), sasrec.state()
    for name, array in expected.items():
        if name != "prior":
            equal = np.abs(state[f"encoder.{name}"].astype(float) - array.astype(float)) < 1e-4
            assert equal.all(), name
    assert state["joint"].tolist() == [0.0]
    assert not state["gate.weight"].any()
    scores = log_softmax(sasrec.score(WORLD.data.contexts), axis=1)
    np.testing.assert_allclose(model.score(WORLD.data.contexts), scores, atol=1e-2)


def trained_text_and_gate(**options: Any) -> tuple[Floats, Floats]:
    """Return the query weights of the text expert and the gate weights after four epochs."""
    state = new(seed=1, epochs=4, **options).fit(WORLD.data).state()
    return state["text.query.weight"].astype(float), state["gate.weight"].astype(float)


def test_text_and_gate_train_from_their_stages_on() -> None:
    initial, _ = trained_text_and_gate(sequence_share=1.0, text_share=0.0)
    initial_again, gate = trained_text_and_gate(sequence_share=1.0, text_share=0.0, learning_rate=0.02)
    assert np.array_equal(initial, initial_again)
    assert not gate.any()
    trained, gate = trained_text_and_gate(sequence_share=0.5, text_share=0.5)
    assert not np.allclose(initial, trained)
    assert not gate.any()
    _, gate = trained_text_and_gate(sequence_share=0.25, text_share=0.25)
    assert gate.any()


def test_stages_begin_at_configured_shares() -> None:
    network = untrained(WORLD.data, epochs=10, sequence_share=0.3, text_share=0.2)
    stages = []
    for number in range(10):
        network.begin_epoch(number)
        stages.append((network.trains_text, float(network.joint)))
    assert stages == [(False, 0.0)] * 3 + [(True, 0.0)] * 2 + [(True, 1.0)] * 5


def test_network_without_identity_starts_in_joint_stage() -> None:
    network = untrained(WORLD.data, epochs=10, identity=False)
    network.begin_epoch(0)
    assert network.joint.tolist() == [1.0]


def test_reported_loss_includes_text_loss_in_all_stages() -> None:
    """The reported loss includes the text loss from the first epoch on."""
    options: dict[str, Any] = {"epochs": 1, "sequence_share": 1.0, "text_share": 0.0}
    with_text = new(**options).fit(WORLD.data).history[0].loss
    without_text = new(text_weight=0.0, **options).fit(WORLD.data).history[0].loss
    services = len(WORLD.data.vocabulary.services)
    assert with_text - without_text == pytest.approx(np.log(services), abs=0.2)


# Learning


@pytest.mark.parametrize(
    "options", [{}, {"graph": False}, {"identity": False, "graph": False}, {"text": False}], ids=str
)
def test_fit_memorises_eight_examples(options: dict[str, Any]) -> None:
    data = eight_examples()
    shared = {"epochs": 100, "width": 32, "dropout": 0.0, "learning_rate": 0.02}
    model = new(**{**shared, **options}).fit(data)
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"identity": False, "text": False}, ["identity or text", "use markov"]),
        ({"texts": "vectors.npz"}, ["texts", "vectors.npz", "safetensors"]),
        ({"sequence_share": 0.8, "text_share": 0.3}, ["sum to at most 1", "0.8 and 0.3"]),
    ],
    ids=str,
)
def test_create_rejects_inconsistent_options(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        new(**options)
    assert says(error, "ur4rec", *parts)


def test_embeddings_concatenate_identity_and_text(fitted: UR4Rec) -> None:
    vocabulary = WORLD.data.vocabulary
    embeddings = fitted.embeddings()
    assert embeddings["nodes"].shape == (len(vocabulary) - FIRST_SERVICE, 16)
    assert embeddings["services"].shape == (len(vocabulary.services), 32)
    np.testing.assert_allclose(np.linalg.norm(embeddings["services"][:, 16:], axis=1), 1, rtol=1e-5)


def test_attention_covers_path(fitted: UR4Rec) -> None:
    attention = fitted.attention(Context(("table_a", "extract")))
    assert attention.weights.shape == (1, 2, 2, 2)
    np.testing.assert_allclose(attention.weights.sum(axis=-1), 1, rtol=1e-6)
