from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from scipy.special import log_softmax, logsumexp, softmax

from dagrec.data.compositions import Composition
from dagrec.data.examples import Context, extract
from dagrec.data.vocabulary import FIRST, UNKNOWN
from dagrec.errors import ConfigError, DataError
from dagrec.models.base import Trainer
from dagrec.models.hybrid.experts import GraphExpert, TextExpert, read_vectors
from dagrec.models.hybrid.ur4rec import FIRST_GATE, UR4Rec, UR4RecNetwork
from dagrec.models.registry import create
from dagrec.models.sequence.paths import RowInputs
from dagrec.models.training_data import TrainingData
from dagrec.types import Floats
from tests.checks import says
from tests.models.sequence.rows import eight
from tests.worlds import World, branching, composition, everything

SMALL = {"width": 16, "batch_size": 16, "learning_rate": 0.01, "schedule": "constant", "layers": 1}
WORLD = everything()


def new(seed: int = 0, **options: Any) -> UR4Rec:
    found = create("ur4rec", {**SMALL, **options}, seed=seed)
    assert isinstance(found, UR4Rec)
    return found


def untrained(data: TrainingData, seed: int = 0, **options: Any) -> UR4RecNetwork:
    """Its network with the first weights."""
    model = new(seed, **options)
    model._graph = data.graph
    torch.manual_seed(seed)
    return model.build(data.vocabulary, data)


def answered(
    network: UR4RecNetwork, data: TrainingData
) -> tuple[RowInputs, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, states, and rows and columns of the pairs of the data."""
    inputs, order = new().units(data.contexts, training=False).take(np.arange(len(data.contexts)))
    assert order.tolist() == list(range(len(order)))
    rows, columns, _ = data.pairs
    return inputs, network.states(inputs), torch.from_numpy(rows), torch.from_numpy(columns)


@pytest.fixture(scope="module")
def fitted(trainer: Trainer) -> UR4Rec:
    return new(epochs=6).fit(WORLD.data, trainer)


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
def test_with_identity_alone_it_is_sasrec(options: dict[str, Any], trainer: Trainer) -> None:
    shared = {**SMALL, "epochs": 4, **options}
    alone = new(seed=3, epochs=4, text=False, graph=False, **options).fit(WORLD.data, trainer)
    sasrec = create("sasrec", shared, seed=3).fit(WORLD.data, trainer)
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


# The text's loss


@pytest.mark.parametrize("seed", range(3))
def test_the_text_loss_starts_near_the_logarithm_of_the_number_of_services(
    seed: int, bundled_data: TrainingData
) -> None:
    for data in (WORLD.data, bundled_data):
        network = untrained(data, seed, width=64, identity=False)
        loss = network.penalty(*answered(network, data))
        assert loss is not None
        services = int((data.graph.popularity > 0).sum())
        assert loss.mean().item() == pytest.approx(np.log(services), abs=0.1)


@pytest.fixture(scope="module")
def bundled_data(bundled: Sequence[Composition]) -> TrainingData:
    return TrainingData.of(extract(bundled)[0])


def test_the_length_of_texts_changes_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 8))
    h, last = torch.randn(5, 16, generator=torch.manual_seed(1)), torch.arange(5) + FIRST
    found = []
    for scale in (1.0, 10.0):
        torch.manual_seed(0)
        found.append(TextExpert(rows * scale, 16, 7)(h, last))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_products_stay_within_the_sharpness() -> None:
    """However large states and weights are, two services differ by 2 k at most, and k starts at 1."""
    torch.manual_seed(0)
    expert = TextExpert(np.random.default_rng(0).normal(size=(12, 8)) * 384, 16, 9)
    h, last = torch.randn(6, 16), torch.arange(6) + FIRST
    np.testing.assert_allclose(expert.sharpness(h).detach(), 1, rtol=1e-5)
    spread = (lambda x: x.amax(dim=1) - x.amin(dim=1))(expert(h, last))
    assert (spread <= 2).all()
    with torch.no_grad():
        expert.query.weight *= 1e4
        expert.sharp.weight.fill_(100.0)
    assert (expert.sharpness(h * 100) <= 20).all()
    assert expert(h * 100, last).isfinite().all()


def test_the_projection_keeps_the_angles_of_texts() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 8))
    torch.manual_seed(0)
    expert = TextExpert(rows, 16, 10)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = expert.vectors().detach().numpy()
    np.testing.assert_allclose(found @ found.T, units[FIRST:] @ units[FIRST:].T, atol=1e-6)


def test_a_service_without_a_text_is_neither_near_nor_far() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 4))
    rows[FIRST + 1] = 0
    torch.manual_seed(0)
    expert = TextExpert(rows, 16, 6)
    h, last = torch.randn(3, 16), torch.full((3,), FIRST)
    said = expert(h, last)
    read = torch.cat([h, expert.rows[last] * 2], dim=1)  # of length sqrt(4)
    queries = torch.nn.functional.normalize(expert.query(read), dim=1)
    cosines = queries @ expert.vectors().T
    assert not cosines[:, 1].any()
    torch.testing.assert_close(said[:, 1], -cosines.logsumexp(dim=1))
    said.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in expert.parameters())


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


def test_until_the_joint_stage_the_sequence_learns_as_if_it_were_alone(trainer: Trainer) -> None:
    """With steps that are not cut, since all gradients are cut together."""
    shared: dict[str, Any] = {"epochs": 4, "clip_norm": 1e6, "learning_rate": 1e-3, "dropout": 0.0}
    model = new(seed=1, sequence_share=0.5, text_share=0.5, **shared).fit(WORLD.data, trainer)
    sasrec = create("sasrec", {**SMALL, **shared}, seed=1).fit(WORLD.data, trainer)
    found, expected = model.state(), sasrec.state()
    for name, array in expected.items():
        if name != "prior":
            same = np.abs(found[f"encoder.{name}"].astype(float) - array.astype(float)) < 1e-4
            assert same.all(), name
    assert found["joint"].tolist() == [0.0]
    assert not found["gate.weight"].any()
    scores = log_softmax(sasrec.score(WORLD.data.contexts), axis=1)
    np.testing.assert_allclose(model.score(WORLD.data.contexts), scores, atol=1e-2)


def texts_after(trainer: Trainer, **options: Any) -> tuple[Floats, Floats]:
    """The text's query and the gate after four epochs."""
    state = new(seed=1, epochs=4, **options).fit(WORLD.data, trainer).state()
    return state["text.query.weight"].astype(float), state["gate.weight"].astype(float)


def test_text_learns_from_its_stage_on_and_the_gate_from_the_joint_one(trainer: Trainer) -> None:
    first, _ = texts_after(trainer, sequence_share=1.0, text_share=0.0)
    again, gate = texts_after(trainer, sequence_share=1.0, text_share=0.0, learning_rate=0.02)
    assert np.array_equal(first, again)
    assert not gate.any()
    second, gate = texts_after(trainer, sequence_share=0.5, text_share=0.5)
    assert not np.allclose(first, second)
    assert not gate.any()
    _, gate = texts_after(trainer, sequence_share=0.25, text_share=0.25)
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


def test_losses_of_the_stages_compare(trainer: Trainer) -> None:
    """The text's loss is counted from the first epoch on."""
    options: dict[str, Any] = {"epochs": 1, "sequence_share": 1.0, "text_share": 0.0}
    with_text = new(**options).fit(WORLD.data, trainer).history[0].loss
    without = new(text_weight=0.0, **options).fit(WORLD.data, trainer).history[0].loss
    services = len(WORLD.data.vocabulary.services)
    assert with_text - without == pytest.approx(np.log(services), abs=0.2)


# What it learns


@pytest.mark.parametrize(
    "options", [{}, {"graph": False}, {"identity": False, "graph": False}, {"text": False}], ids=str
)
def test_eight_examples_are_learned_by_heart(options: dict[str, Any], trainer: Trainer) -> None:
    data = eight()
    shared = {"epochs": 100, "width": 32, "dropout": 0.0, "learning_rate": 0.02}
    model = new(**{**shared, **options}).fit(data, trainer)
    assert (model.score(data.contexts).argmax(axis=1) == data.targets).all()


DRAWN, READ = ("draw_lines", "draw_bars", "draw_points"), ("read_csv", "read_json", "read_excel")
COLD = {"draw_heatmap": "", "read_parquet": ""}


def kinds() -> World:
    """After one table come services that draw, after the other such that read."""
    paths = [("table_a", key) for key in DRAWN] + [("table_b", key) for key in READ]
    follows: dict[tuple[str, ...], dict[str, int]] = {
        (table,): dict.fromkeys(keys, 3) for table, keys in [("table_a", DRAWN), ("table_b", READ)]
    }
    return World(
        tuple(composition(f"{path[1]}-{i}", path) for i in range(3) for path in paths), follows
    )


def of_cold(model: UR4Rec) -> Floats:
    """[2, 2] scores of the two cold services after the two tables."""
    vocabulary = model.graph.vocabulary
    contexts = vocabulary.encode([Context(("table_a",)), Context(("table_b",))])
    return model.score(contexts)[:, [vocabulary.columns[key] for key in COLD]].astype(np.float64)


@pytest.mark.parametrize(
    "options", [{}, {"graph": False}, {"identity": False, "graph": False}], ids=str
)
def test_services_that_were_never_seen_are_ranked_by_their_text(
    options: dict[str, Any], trainer: Trainer
) -> None:
    data = TrainingData.of(kinds().examples, services=COLD)
    (ab, ac), (bb, bc) = of_cold(new(epochs=60, **options).fit(data, trainer))
    assert ab > ac + 0.5
    assert bc > bb + 0.5


def test_texts_of_declared_services_are_read_beside_their_keys() -> None:
    """Keys that say nothing, and texts that do."""
    services = {"s1": "draw heatmap", "s2": "read parquet"}
    data = TrainingData.of(kinds().examples, services=services)
    rows = new().text_rows(data)
    near = rows @ rows.T
    drawn, read = (data.vocabulary.ids[key] for key in ("draw_lines", "read_csv"))
    s1, s2 = (data.vocabulary.ids[key] for key in services)
    assert near[s1, drawn] > near[s1, read]
    assert near[s2, read] > near[s2, drawn]


def test_without_the_text_they_are_alike(trainer: Trainer) -> None:
    """Identity and counts cannot tell them apart."""
    data = TrainingData.of(kinds().examples, services=COLD)
    found = of_cold(new(epochs=60, text=False).fit(data, trainer))
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-6)


# Texts


def test_texts_are_frozen_centred_and_of_length_1(fitted: UR4Rec) -> None:
    stored, rows = fitted.state()["text.rows"].astype(float), fitted.text_rows(WORLD.data)
    np.testing.assert_allclose(stored, rows, atol=1e-6)
    assert not rows[:FIRST].any()
    np.testing.assert_allclose(np.linalg.norm(rows[FIRST:], axis=1), 1, rtol=1e-9)
    near = rows[FIRST:] @ rows[FIRST:].T
    assert abs(near.mean()) < 0.05


def test_shuffled_texts_are_those_of_other_services() -> None:
    data = WORLD.data
    plain, one, two = (
        new(seed, shuffled=s).text_rows(data) for seed, s in [(0, False), (0, True), (1, True)]
    )
    services = slice(FIRST, FIRST + len(data.vocabulary.services))
    others = slice(services.stop, None)
    assert np.array_equal(plain[others], one[others])
    for rows in (one, two):
        assert not np.allclose(plain[services], rows[services])
        assert sorted(map(tuple, plain[services])) == sorted(map(tuple, rows[services]))
    assert not np.allclose(one, two)
    assert np.array_equal(one, new(0, shuffled=True).text_rows(data))


def vectors(folder: Path, **found: object) -> Path:
    file = folder / "vectors.safetensors"
    save_file({key: np.asarray(vector, dtype=np.float32) for key, vector in found.items()}, file)
    return file


def test_vectors_of_a_file_take_the_place_of_words(tmp_path: Path, trainer: Trainer) -> None:
    """The cold services have vectors like those of the known ones, and keys that say nothing."""
    own = {key: [1, 0, 0.1 * i, 0] for i, key in enumerate((*DRAWN, "s1"))}
    own |= {key: [0, 1, 0, 0.1 * i] for i, key in enumerate((*READ, "s2"))}
    file = vectors(tmp_path, **own, nobody=[1, 1, 1, 1])
    data = TrainingData.of(kinds().examples, services={"s1": "", "s2": ""})
    rows = read_vectors(file, data.vocabulary)
    ids = data.vocabulary.ids
    np.testing.assert_allclose(
        rows[ids["draw_bars"]], np.array([1, 0, 0.1, 0]) / np.sqrt(1.01), rtol=1e-6
    )
    assert not rows[[0, 1, ids["table_a"]]].any()
    model = new(epochs=60, texts=str(file)).fit(data, trainer)
    contexts = data.vocabulary.encode([Context(("table_a",)), Context(("table_b",))])
    scores = model.score(contexts)
    first, second = (scores[:, data.vocabulary.columns[key]] for key in ("s1", "s2"))
    assert first[0] > second[0] + 0.5
    assert second[1] > first[1] + 0.5
    file.unlink()
    again = new(epochs=60, texts=str(file)).restore(model.state(), data.vocabulary, data.graph)
    assert np.array_equal(again.score(contexts), scores)


@pytest.mark.parametrize(
    ("found", "parts"),
    [
        ({"nobody": [1.0, 2.0]}, ["found 0 of"]),
        ({"join": [1.0, 2.0], "plot": [1.0]}, ["of one length", "(1,), (2,)"]),
        ({"join": [[1.0], [2.0]]}, ["of one length", "(2, 1)"]),
        ({"join": [1.0, np.nan]}, ["finite"]),
    ],
    ids=str,
)
def test_vectors_that_do_not_fit_are_refused(
    found: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    file = vectors(tmp_path, **found)
    with pytest.raises(DataError) as error:
        read_vectors(file, WORLD.data.vocabulary)
    assert says(error, str(file), *parts)


@pytest.mark.parametrize("content", [None, b"", b"keys,vectors\n"])
def test_another_kind_of_file_is_refused(
    content: bytes | None, tmp_path: Path, trainer: Trainer
) -> None:
    file = tmp_path / "vectors.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError) as error:
        new(texts=str(file)).fit(WORLD.data, trainer)
    assert str(file) in str(error.value)
    assert "must be a safetensors file with a vector for each key" in str(error.value)


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
