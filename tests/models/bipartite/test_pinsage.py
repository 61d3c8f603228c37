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
from tests.models.bipartite.pinsages import (
    COLUMNS,
    DATA,
    IDS,
    NODES,
    PATHS,
    SERVICES,
    SMALL,
    WORLD,
    new,
    tables,
)


def network(known: Tables | None = None, *, opened: bool = False, **options: Any) -> PinSageNetwork:
    """With its first weights; ``opened``: with random ones in place of those that are 0."""
    config = PinSageConfig(**{**SMALL, **options})
    with seeded(0, torch.device("cpu")):
        found = PinSageNetwork(config, known or tables(**options), SERVICES)
        for parameter in found.parameters():
            if opened and not parameter.any():
                nn.init.normal_(parameter, std=0.3)
    return found.eval()


def inputs(*paths: tuple[str, ...]) -> SetInputs:
    contexts = DATA.vocabulary.encode([Context(path) for path in paths])
    units = SetUnits(Sets.of(contexts, DATA.vocabulary, "upstream"))
    return units.take(np.arange(len(paths)))[0]


def z_of(of: PinSageNetwork) -> Floats:
    with torch.no_grad():
        return of.nodes().numpy().astype(np.float64)


def unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


@pytest.fixture(scope="module")
def model() -> PinSage:
    return new(layers=2, epochs=6).fit(DATA)


# The vectors


def by_hand(state: dict[str, Floats], layers: int) -> Floats:
    """z of all nodes, node by node."""
    x = state["features"]
    h, relu = x, lambda a: np.maximum(a, 0)
    for i in range(layers):
        say, join = (
            (state[f"layers.{i}.{part}.weight"], state[f"layers.{i}.{part}.bias"])
            for part in ("say", "join")
        )
        said = [relu(say[0] @ row + say[1]) for row in h]
        heard = [
            sum((a * said[u] for u, a in zip(us, own, strict=True)), np.zeros(len(say[1])))
            for us, own in zip(state["neighbours"].astype(int), state["weights"], strict=True)
        ]
        h = np.stack([unit(relu(join[0] @ np.r_[h[v], heard[v]] + join[1])) for v in range(len(h))])
    hidden = relu(h @ state["inner.weight"].T + state["inner.bias"])
    conv = hidden @ state["outer.weight"].T
    conv[~state["weights"].any(axis=1)] = 0
    return unit(x + x @ state["of_node"] + state["gate"] * conv)


def test_scores_follow_the_formula(model: PinSage) -> None:
    state = {name: array.astype(np.float64) for name, array in model.state().items()}
    assert state["gate"] != 0
    z = by_hand(state, layers=2)
    scores = model.score(DATA.vocabulary.encode([Context(path) for path in PATHS]))
    for path, row in zip(PATHS, scores, strict=True):
        own = z[[IDS[key] for key in path]]
        m, f = own.mean(axis=0), own[-1]
        context = unit(m + m @ state["of_set"] + f + f @ state["of_last"])
        expected = 10 * z[FIRST_SERVICE : FIRST_SERVICE + SERVICES] @ context + state["bias"]
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_vectors_have_length_one(model: PinSage) -> None:
    found = model.embeddings()
    np.testing.assert_allclose(np.linalg.norm(found["nodes"], axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found["services"], found["nodes"][:SERVICES])
    with torch.no_grad():
        states = network(opened=True).states(inputs(*PATHS))
    np.testing.assert_allclose(states.norm(dim=1), 10, rtol=1e-5)


def test_the_order_of_neighbours_does_not_matter() -> None:
    known = tables()
    order = np.random.default_rng(0).permutation(4)
    turned = replace(known, neighbours=known.neighbours[:, order], weights=known.weights[:, order])
    np.testing.assert_allclose(
        z_of(network(known, opened=True)), z_of(network(turned, opened=True)), atol=1e-6
    )


def test_equal_weights_pool_to_the_mean() -> None:
    found = network(opened=True, pooling="mean")
    layer: Any = found.layers[0]
    with torch.no_grad():
        heard = layer.heard(found.features, found.neighbours, found.weights)
        said = torch.relu(layer.say(found.features))
    v = IDS["clean"]
    others = tables().neighbours[v][tables().weights[v] > 0]
    torch.testing.assert_close(heard[v], said[others].mean(dim=0))


def test_a_node_that_nobody_is_near_to_is_what_its_features_say() -> None:
    known = tables()
    v = IDS["clean"]
    weights = known.weights.copy()
    weights[v] = 0
    found = network(replace(known, weights=weights), opened=True)
    x = known.features[v]
    alone = unit(x + x @ found.of_node.detach().numpy())
    np.testing.assert_allclose(z_of(found)[v], alone, rtol=1e-4, atol=1e-6)
    assert not np.allclose(z_of(network(known, opened=True))[v], alone, atol=1e-3)
    assert np.isfinite(z_of(found)).all()


def test_a_link_changes_vectors_through_neighbourhoods_alone() -> None:
    """Without the last link of the chain: with the same features, z is another where N(v) is."""
    examples = [e for e in DATA.examples if (e.context.path[-1], e.target) != ("join", "plot")]
    whole, less = tables(), tables(DATA._with(examples, DATA.vocabulary, DATA.graph, {}))
    less = replace(less, features=whole.features)
    changed = ((whole.neighbours != less.neighbours) | (whole.weights != less.weights)).any(axis=1)
    apart = np.abs(z_of(network(whole, opened=True)) - z_of(network(less, opened=True))).max(axis=1)
    assert changed[IDS["join"]]
    assert changed[IDS["plot"]]
    assert not changed[IDS["split"]]
    assert (apart[changed] > 1e-5).all()
    assert (apart[~changed] < 1e-6).all()


def test_a_second_layer_hears_two_steps_away() -> None:
    known = tables(neighbours=1)
    v = IDS["report"]
    near = known.neighbours[v, 0]
    far = known.neighbours[near, 0]
    if far == v:  # each other's nearest: send the neighbour elsewhere
        far = IDS["often"]
        neighbours = known.neighbours.copy()
        neighbours[near] = far
        known = replace(known, neighbours=neighbours)
    other = known.features.copy()
    other[far] = -other[far]
    for layers, hears in ((1, False), (2, True)):
        options = {"layers": layers, "neighbours": 1}
        one = z_of(network(known, opened=True, **options))[v]
        two = z_of(network(replace(known, features=other), opened=True, **options))[v]
        assert (np.abs(one - two).max() > 1e-5) == hears


def test_neighbours_are_dropped_in_training_alone() -> None:
    found = network(opened=True, neighbour_dropout=0.5)
    with torch.no_grad(), seeded(0, torch.device("cpu")):
        assert torch.equal(found.convolved(), found.convolved())
        found.train()
        assert not torch.equal(found.convolved(), found.convolved())


# What it starts from


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("features", ["text", "one-hot"])
def test_with_no_training_services_rank_by_the_cosine_of_raw_features(
    features: str, last: bool
) -> None:
    model = new(epochs=0, features=features, last=last).fit(DATA)
    scores = model.score(DATA.vocabulary.encode([Context(path) for path in PATHS]))
    z = unit(tables(features=features).features)
    assert model.history == []
    for path, row in zip(PATHS, scores, strict=True):
        own = z[[IDS[key] for key in path]]
        context = unit(own.mean(axis=0) + last * own[-1])
        np.testing.assert_allclose(
            row, 10 * z[FIRST_SERVICE : FIRST_SERVICE + SERVICES] @ context, atol=1e-5
        )


def test_raw_features_can_be_saved() -> None:
    model = new(epochs=0).fit(DATA)
    again = new(epochs=0).restore(model.state(), DATA.vocabulary, DATA.graph)
    np.testing.assert_array_equal(again.score(DATA.contexts), model.score(DATA.contexts))


def test_no_epochs_are_none_however_many_steps_are_wanted() -> None:
    assert new(epochs=0, min_steps=50).fit(DATA).history == []


def mrr(model: PinSage, part: TrainingData) -> float:
    answers = apply_mask(
        model.score(part.contexts), part.contexts.last, part.graph, MaskPolicy.NONE
    ).log_probabilities[part.rows]
    weights = np.full(len(part.examples), 1 / len(part.examples))
    return METRICS["mrr"](Outcome(answers, part.targets, weights))


STOPPED = {"patience": 4, "validation_metric": "mrr"}


@pytest.mark.parametrize("rate", [1e-3, 0.02, 5.0])
def test_trained_it_is_not_worse_than_raw_features_on_held_out_compositions(rate: float) -> None:
    """By the metric that decides, whatever the step size."""
    model = new(epochs=12, **{**STOPPED, "learning_rate": rate}).fit(DATA)
    kept, held_out = DATA.hold_out(VALIDATION_SHARE, seed=0)
    raw = mrr(new(epochs=0).fit(kept), held_out)
    found = [epoch.validation for epoch in model.history if epoch.validation is not None]
    assert mrr(model, held_out) == pytest.approx(max(raw, *found), abs=1e-5)


def test_raw_features_are_what_training_has_to_beat() -> None:
    """Where no epoch is better, they are served after as many epochs as patience has."""
    model = new(epochs=50, **{**STOPPED, "learning_rate": 1e-30}).fit(DATA)
    kept, held_out = DATA.hold_out(VALIDATION_SHARE, seed=0)
    raw = new(epochs=0).fit(kept)
    assert [epoch.validation for epoch in model.history] == [pytest.approx(mrr(raw, held_out))] * 4
    assert not any(model.state()[name].any() for name in ("gate", "of_node", "of_set", "of_last"))
    np.testing.assert_array_equal(model.score(DATA.contexts), raw.score(DATA.contexts))


def test_a_service_without_compositions_is_ranked_by_its_text() -> None:
    declared = {"often_2": "often", "unheard": "quite another thing"}
    data = TrainingData.of(WORLD.examples, services=declared)
    model = new(epochs=30).fit(data)
    columns = data.vocabulary.columns
    scores = model.score(data.vocabulary.encode([Context(("table_b",))]))[0]
    assert np.isfinite(scores).all()
    assert scores[columns["often_2"]] > scores[columns["unheard"]]


# The loss, and hard negatives


def test_the_margin_has_no_gradient_beyond_it_and_slope_one_before() -> None:
    positive = torch.tensor([5.0, 1.0], requires_grad=True)
    others = torch.tensor([[2.9, 1.0], [0.5, -2.0]], requires_grad=True)
    valid = torch.ones(2, 2, dtype=torch.bool)
    losses = hinge(CandidateScores(positive, others, valid, None, 9), margin=PinSageConfig().margin)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 0.75]  # (2 - 1 + 0.5) / 2
    assert positive.grad is not None
    assert others.grad is not None
    assert positive.grad.tolist() == [0.0, -0.5]
    assert others.grad.tolist() == [[0.0, 0.0], [0.5, 0.0]]


def test_each_epoch_has_one_hard_negative_more_up_to_the_most() -> None:
    found = network(hard_negatives=3).train()
    asked = inputs(*PATHS)
    numbers = []
    for epoch in range(6):
        found.begin_epoch(epoch)
        drawn = found.hard_negatives(asked)
        numbers.append(0 if drawn is None else drawn.shape[1])
    assert numbers == [0, 1, 2, 3, 3, 3]
    found.eval()
    assert found.hard_negatives(asked) is None


def test_hard_negatives_are_from_the_band_of_the_last_node() -> None:
    found = network(hard_negatives=200).train()
    found.begin_epoch(200)
    drawn = found.hard_negatives(inputs(*((key,) for key in IDS)))
    assert drawn is not None
    for last, row in zip(IDS, drawn.tolist(), strict=True):
        band = found.hard[IDS[last]]
        assert set(row) == set(band[band >= 0].tolist() or [-1])
        assert not {COLUMNS[y] for y in followers(last)} & set(row)
    assert {len(set(row)) for row in drawn.tolist()} == {1, 2}


def followers(last: str) -> set[str]:
    return {e.target for e in DATA.examples if e.context.path[-1] == last}


def test_without_hard_negatives_there_are_none() -> None:
    found = network(hard_negatives=0).train()
    found.begin_epoch(7)
    assert found.hard_negatives(inputs(*PATHS)) is None


@pytest.mark.parametrize("loss", ["gbce", "sampled-softmax"])
def test_losses_that_need_probabilities_are_refused(loss: str) -> None:
    with pytest.raises(ConfigError) as error:
        new(loss=loss)
    assert says(error, "pinsage", loss, "hard_negatives 0", "found 5")
    assert new(loss=loss, hard_negatives=0)
    assert new(loss=loss, negatives=None)


def test_leaving_the_features_costs() -> None:
    found = network(opened=True, l2=0.5)
    projections = [p for name, p in found.named_parameters() if name.startswith("of_")]
    nothing = torch.zeros(0)
    with torch.no_grad():
        cost = found.penalty(inputs(*PATHS), nothing, nothing, nothing)
        squares = sum(float(p.square().sum()) for p in projections)
    assert len(projections) == 3
    assert cost is not None
    assert float(cost) == pytest.approx(squares / 2, rel=1e-5)
    assert network(l2=0).penalty(inputs(*PATHS), nothing, nothing, nothing) is None


# Stored values


@pytest.mark.parametrize(
    ("name", "value"),
    [("neighbours", NODES), ("neighbours", -1), ("weights", np.nan), ("features", np.inf)],
)
def test_stored_tables_that_do_not_fit_are_refused(model: PinSage, name: str, value: float) -> None:
    state = dict(model.state())
    array = state[name].copy()
    array[3, 0] = value
    with pytest.raises(StoreError) as error:
        new(layers=2).restore(state | {name: array}, DATA.vocabulary, DATA.graph)
    assert says(error, "pinsage", "do not belong to the vocabulary", "train it again")
