from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import ConfigError, StoreError
from dagrec.graph.mask import MaskPolicy, apply_mask
from dagrec.metrics.ranking import METRICS, Outcome
from dagrec.models.bipartite.pinsage import PinSage, PinSageConfig, PinSageNetwork
from dagrec.models.bipartite.tables import Tables
from dagrec.models.factorisation.base import SetInputs, SetUnits
from dagrec.models.interactions import Sets
from dagrec.training.data import TrainingData
from dagrec.training.losses import CandidateScores, hinge
from dagrec.training.seed import seeded
from dagrec.training.trainer import VALIDATION_SHARE
from dagrec.types import Floats
from tests.checks import says
from tests.models.bipartite.pinsage_models import (
    COLUMNS,
    DATA,
    IDS,
    NODES,
    PATHS,
    SERVICES,
    SMALL,
    WORLD,
    make_pinsage,
    make_tables,
)

CPU = torch.device("cpu")
EARLY_STOPPING = {"patience": 4, "validation_metric": "mrr"}


def network(
    tables: Tables | None = None, *, randomised: bool = False, **options: Any
) -> PinSageNetwork:
    """Return an untrained network; if randomised, parameters that are initially 0 are random."""
    config = PinSageConfig(**{**SMALL, **options})
    with seeded(0, CPU):
        net = PinSageNetwork(config, tables or make_tables(**options), SERVICES)
        for parameter in net.parameters():
            if randomised and not parameter.any():
                nn.init.normal_(parameter, std=0.3)
    return net.eval()


def inputs(*paths: tuple[str, ...]) -> SetInputs:
    contexts = DATA.vocabulary.encode([Context(path) for path in paths])
    units = SetUnits(Sets.of(contexts, DATA.vocabulary, "upstream"))
    return units.take(np.arange(len(paths)))[0]


def node_vectors(net: PinSageNetwork) -> Floats:
    with torch.no_grad():
        return net.node_vectors().numpy().astype(np.float64)


def normalised(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


@pytest.fixture(scope="module")
def model() -> PinSage:
    return make_pinsage(layers=2, epochs=6).fit(DATA)


# Vectors


def reference_vectors(state: dict[str, Floats], layers: int) -> Floats:
    """Return z of all nodes, computed node by node."""
    x = state["features"]
    h, relu = x, lambda a: np.maximum(a, 0)
    neighbours, alpha = state["neighbours"].astype(int), state["weights"]
    for i in range(layers):
        message, update = (
            (state[f"layers.{i}.{part}.weight"], state[f"layers.{i}.{part}.bias"])
            for part in ("message", "update")
        )
        messages = [relu(message[0] @ row + message[1]) for row in h]
        pooled = [
            sum((a * messages[u] for u, a in zip(us, row, strict=True)), np.zeros(len(message[1])))
            for us, row in zip(neighbours, alpha, strict=True)
        ]
        h = np.stack(
            [normalised(relu(update[0] @ np.r_[h[v], pooled[v]] + update[1])) for v in range(len(h))]
        )
    hidden = relu(h @ state["inner.weight"].T + state["inner.bias"])
    convolution = hidden @ state["outer.weight"].T
    convolution[~alpha.any(axis=1)] = 0
    return normalised(x + x @ state["node_projection"] + state["gate"] * convolution)


def test_scores_follow_formula(model: PinSage) -> None:
    state = {name: array.astype(np.float64) for name, array in model.state().items()}
    assert state["gate"] != 0
    z = reference_vectors(state, layers=2)
    scores = model.score(DATA.vocabulary.encode([Context(path) for path in PATHS]))
    for path, row in zip(PATHS, scores, strict=True):
        vectors = z[[IDS[key] for key in path]]
        m, f = vectors.mean(axis=0), vectors[-1]
        z_c = normalised(m + m @ state["set_projection"] + f + f @ state["last_projection"])
        expected = 10 * z[FIRST_SERVICE : FIRST_SERVICE + SERVICES] @ z_c + state["bias"]
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_vectors_have_length_1(model: PinSage) -> None:
    embeddings = model.embeddings()
    np.testing.assert_allclose(np.linalg.norm(embeddings["nodes"], axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(embeddings["services"], embeddings["nodes"][:SERVICES])
    with torch.no_grad():
        states = network(randomised=True).states(inputs(*PATHS))
    np.testing.assert_allclose(states.norm(dim=1), 10, rtol=1e-5)


def test_neighbour_order_does_not_matter() -> None:
    tables = make_tables()
    order = np.random.default_rng(0).permutation(4)
    permuted = replace(tables, neighbours=tables.neighbours[:, order], weights=tables.weights[:, order])
    np.testing.assert_allclose(
        node_vectors(network(tables, randomised=True)),
        node_vectors(network(permuted, randomised=True)),
        atol=1e-6,
    )


def test_mean_pooling_is_mean_of_messages() -> None:
    net = network(randomised=True, pooling="mean")
    layer: Any = net.layers[0]
    with torch.no_grad():
        pooled = layer.pool(net.features, net.neighbours, net.weights)
        messages = torch.relu(layer.message(net.features))
    v = IDS["clean"]
    neighbours = make_tables().neighbours[v][make_tables().weights[v] > 0]
    torch.testing.assert_close(pooled[v], messages[neighbours].mean(dim=0))


def test_node_without_neighbours_depends_only_on_its_features() -> None:
    tables = make_tables()
    v = IDS["clean"]
    weights = tables.weights.copy()
    weights[v] = 0
    net = network(replace(tables, weights=weights), randomised=True)
    x = tables.features[v]
    expected = normalised(x + x @ net.node_projection.detach().numpy())
    np.testing.assert_allclose(node_vectors(net)[v], expected, rtol=1e-4, atol=1e-6)
    with_neighbours = node_vectors(network(tables, randomised=True))[v]
    assert not np.allclose(with_neighbours, expected, atol=1e-3)
    assert np.isfinite(node_vectors(net)).all()


def test_removed_link_changes_only_vectors_with_changed_neighbourhood() -> None:
    """The last link of the chain is removed; the features are unchanged."""
    examples = [e for e in DATA.examples if (e.context.path[-1], e.target) != ("join", "plot")]
    full = make_tables()
    reduced = make_tables(DATA._with(examples, DATA.vocabulary, DATA.graph, {}))
    reduced = replace(reduced, features=full.features)
    differs = (full.neighbours != reduced.neighbours) | (full.weights != reduced.weights)
    changed = differs.any(axis=1)
    networks = [network(tables, randomised=True) for tables in (full, reduced)]
    for net in networks:
        for module in net.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.constant_(module.bias, 3.0)  # a unit that is never active hides differences
    before, after = map(node_vectors, networks)
    difference = np.abs(before - after).max(axis=1)
    assert changed[IDS["join"]]
    assert changed[IDS["plot"]]
    assert not changed[IDS["split"]]
    assert (difference[changed] > 1e-5).all()
    assert (difference[~changed] < 1e-6).all()


def test_second_layer_uses_neighbours_of_neighbours() -> None:
    tables = make_tables(neighbours=1)
    v = IDS["report"]
    near = tables.neighbours[v, 0]
    far = tables.neighbours[near, 0]
    if far == v:  # the nodes are each other's nearest: give the neighbour another one
        far = IDS["often"]
        neighbours = tables.neighbours.copy()
        neighbours[near] = far
        tables = replace(tables, neighbours=neighbours)
    features = tables.features.copy()
    features[far] = -features[far]
    for layers, depends in ((1, False), (2, True)):
        options = {"layers": layers, "neighbours": 1}
        before = node_vectors(network(tables, randomised=True, **options))[v]
        changed = replace(tables, features=features)
        after = node_vectors(network(changed, randomised=True, **options))[v]
        assert (np.abs(before - after).max() > 1e-5) == depends


def test_neighbour_dropout_is_active_only_in_training() -> None:
    net = network(randomised=True, neighbour_dropout=0.5)
    with torch.no_grad(), seeded(0, CPU):
        assert torch.equal(net.convolution(), net.convolution())
        net.train()
        assert not torch.equal(net.convolution(), net.convolution())


# Ranking by raw features


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("features", ["text", "one-hot"])
def test_0_epochs_rank_by_cosine_of_raw_features(features: str, last: bool) -> None:
    model = make_pinsage(epochs=0, features=features, last=last).fit(DATA)
    scores = model.score(DATA.vocabulary.encode([Context(path) for path in PATHS]))
    z = normalised(make_tables(features=features).features)
    assert model.history == []
    for path, row in zip(PATHS, scores, strict=True):
        vectors = z[[IDS[key] for key in path]]
        z_c = normalised(vectors.mean(axis=0) + last * vectors[-1])
        expected = 10 * z[FIRST_SERVICE : FIRST_SERVICE + SERVICES] @ z_c
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_model_with_0_epochs_can_be_restored() -> None:
    model = make_pinsage(epochs=0).fit(DATA)
    restored = make_pinsage(epochs=0).restore(model.state(), DATA.vocabulary, DATA.graph)
    np.testing.assert_array_equal(restored.score(DATA.contexts), model.score(DATA.contexts))


def test_min_steps_do_not_add_epochs_to_0() -> None:
    assert make_pinsage(epochs=0, min_steps=50).fit(DATA).history == []


def mrr(model: PinSage, part: TrainingData) -> float:
    log_p = apply_mask(
        model.score(part.contexts), part.contexts.last, part.graph, MaskPolicy.NONE
    ).log_probabilities[part.rows]
    weights = np.full(len(part.examples), 1 / len(part.examples))
    return METRICS["mrr"](Outcome(log_p, part.targets, weights))


@pytest.mark.parametrize("rate", [1e-3, 0.02, 5.0])
def test_early_stopping_is_never_worse_than_raw_features(rate: float) -> None:
    model = make_pinsage(epochs=12, **{**EARLY_STOPPING, "learning_rate": rate}).fit(DATA)
    training, held_out = DATA.hold_out(VALIDATION_SHARE, seed=0)
    raw = mrr(make_pinsage(epochs=0).fit(training), held_out)
    validated = [epoch.validation for epoch in model.history if epoch.validation is not None]
    assert mrr(model, held_out) == pytest.approx(max(raw, *validated), abs=1e-5)


def test_early_stopping_without_improvement_keeps_raw_features() -> None:
    model = make_pinsage(epochs=50, **{**EARLY_STOPPING, "learning_rate": 1e-30}).fit(DATA)
    training, held_out = DATA.hold_out(VALIDATION_SHARE, seed=0)
    raw = make_pinsage(epochs=0).fit(training)
    assert [epoch.validation for epoch in model.history] == [pytest.approx(mrr(raw, held_out))] * 4
    zeros = ("gate", "node_projection", "set_projection", "last_projection")
    assert not any(model.state()[name].any() for name in zeros)
    np.testing.assert_array_equal(model.score(DATA.contexts), raw.score(DATA.contexts))


def test_service_without_compositions_is_ranked_by_its_text() -> None:
    declared = {"often_2": "often", "unrelated": "quite another thing"}
    data = TrainingData.of(WORLD.examples, services=declared)
    model = make_pinsage(epochs=30).fit(data)
    columns = data.vocabulary.columns
    scores = model.score(data.vocabulary.encode([Context(("table_b",))]))[0]
    assert np.isfinite(scores).all()
    assert scores[columns["often_2"]] > scores[columns["unrelated"]]


# Loss and hard negatives


def test_hinge_gradient_is_0_beyond_the_margin() -> None:
    positive = torch.tensor([5.0, 1.0], requires_grad=True)
    negatives = torch.tensor([[2.9, 1.0], [0.5, -2.0]], requires_grad=True)
    valid = torch.ones(2, 2, dtype=torch.bool)
    candidates = CandidateScores(positive, negatives, valid, None, 9)
    losses = hinge(candidates, margin=PinSageConfig().margin)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 0.75]  # (2 - 1 + 0.5) / 2
    assert positive.grad is not None
    assert negatives.grad is not None
    assert positive.grad.tolist() == [0.0, -0.5]
    assert negatives.grad.tolist() == [[0.0, 0.0], [0.5, 0.0]]


def test_number_of_hard_negatives_increases_with_each_epoch() -> None:
    net = network(hard_negatives=3).train()
    batch = inputs(*PATHS)
    counts = []
    for epoch in range(6):
        net.begin_epoch(epoch)
        drawn = net.hard_negatives(batch)
        counts.append(0 if drawn is None else drawn.shape[1])
    assert counts == [0, 1, 2, 3, 3, 3]
    net.eval()
    assert net.hard_negatives(batch) is None


def test_hard_negatives_are_in_the_band_of_the_last_node() -> None:
    net = network(hard_negatives=200).train()
    net.begin_epoch(200)
    drawn = net.hard_negatives(inputs(*((key,) for key in IDS)))
    assert drawn is not None
    for last, row in zip(IDS, drawn.tolist(), strict=True):
        band = net.hard[IDS[last]]
        assert set(row) == set(band[band >= 0].tolist() or [-1])
        assert not {COLUMNS[y] for y in followers(last)} & set(row)
    assert {len(set(row)) for row in drawn.tolist()} == {1, 2}


def followers(last: str) -> set[str]:
    return {e.target for e in DATA.examples if e.context.path[-1] == last}


def test_0_hard_negatives_disable_them() -> None:
    net = network(hard_negatives=0).train()
    net.begin_epoch(7)
    assert net.hard_negatives(inputs(*PATHS)) is None


@pytest.mark.parametrize("loss", ["gbce", "sampled-softmax"])
def test_config_rejects_hard_negatives_with_corrected_losses(loss: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_pinsage(loss=loss)
    assert says(error, "pinsage", loss, "hard_negatives 0", "found 5")
    assert make_pinsage(loss=loss, hard_negatives=0)
    assert make_pinsage(loss=loss, negatives=None)


def test_penalty_is_on_the_projections() -> None:
    net = network(randomised=True, l2=0.5)
    projections = [p for name, p in net.named_parameters() if name.endswith("_projection")]
    unused = torch.zeros(0)
    with torch.no_grad():
        penalty = net.penalty(inputs(*PATHS), unused, unused, unused)
        squares = sum(float(p.square().sum()) for p in projections)
    assert len(projections) == 3
    assert penalty is not None
    assert float(penalty) == pytest.approx(squares / 2, rel=1e-5)
    assert network(l2=0).penalty(inputs(*PATHS), unused, unused, unused) is None


# Restoring


@pytest.mark.parametrize(
    ("name", "value"),
    [("neighbours", NODES), ("neighbours", -1), ("weights", np.nan), ("features", np.inf)],
)
def test_restore_rejects_invalid_tables(model: PinSage, name: str, value: float) -> None:
    state = dict(model.state())
    array = state[name].copy()
    array[3, 0] = value
    with pytest.raises(StoreError) as error:
        make_pinsage(layers=2).restore(state | {name: array}, DATA.vocabulary, DATA.graph)
    assert says(error, "pinsage", "do not belong to the vocabulary", "train it again")
