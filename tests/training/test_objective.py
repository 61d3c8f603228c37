from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrec.data.examples import Context, Example
from dagrec.errors import ConfigError
from dagrec.models.network import NetworkRecommender
from dagrec.training.batches import Batch, Batches
from dagrec.training.data import TrainingData
from dagrec.training.losses import LOSSES, CandidateScores
from dagrec.training.objective import Objective
from dagrec.training.options import LossName
from dagrec.training.sampling import Sampler
from tests.checks import says
from tests.training.learners import (
    LastInputs,
    Table,
    TableConfig,
    TableNetwork,
    fitted,
    gru,
    network_of,
    table,
)
from tests.worlds import World, branching, chain, everything

PAIRWISE = tuple(LOSSES)
SAMPLING: list[dict[str, Any]] = [
    {"sampling": "rows"},
    {"sampling": "shared"},
    {"sampling": "batch"},
    {"sampling": "batch", "negatives": 0},
]
QUICK: dict[str, Any] = {"epochs": 60, "learning_rate": 0.02}


def top_services(model: NetworkRecommender, world: World) -> dict[tuple[str, ...], str]:
    """The top prediction for each path that only one service follows."""
    contexts = [context for context in world.contexts if context.path in world.certain]
    scores = model.score(world.data.vocabulary.encode(contexts))
    services = world.data.vocabulary.services
    return {c.path: services[int(row.argmax())] for c, row in zip(contexts, scores, strict=True)}


# All losses and sampling methods


@pytest.mark.parametrize("negatives", [None, 5])
@pytest.mark.parametrize("loss", get_args(LossName))
def test_every_loss_ranks_true_successor_first(loss: str, negatives: int | None) -> None:
    world = chain()
    assert top_services(fitted(gru(loss=loss, negatives=negatives, **QUICK), world.data), world) == (
        world.certain
    )


@pytest.mark.parametrize("options", SAMPLING, ids=lambda options: "-".join(map(str, options.values())))
def test_every_sampling_method_ranks_true_successor_first(options: dict[str, object]) -> None:
    world = everything()
    options = {"negatives": 4} | options
    model = fitted(table(loss="bce", sample_alpha=0.0, **QUICK, **options), chain().data)
    assert top_services(model, chain()) == chain().certain
    assert len(fitted(table(loss="bpr-max", epochs=1, **options), world.data).history) == 1


@pytest.mark.parametrize("loss", PAIRWISE)
def test_target_is_never_its_own_negative(loss: str) -> None:
    """With a single service there is no loss and no gradient."""
    data = TrainingData.of([Example(Context(("a",)), "y", "n", 0)])
    for options in ({"negatives": None}, *SAMPLING):
        model = fitted(table(loss=loss, epochs=3, start=0.5, **options), data)
        assert [epoch.loss for epoch in model.history] == [0.0] * 3
        assert (model.state()["weight"] == 0.5).all()


@pytest.mark.parametrize("loss", [loss for loss in PAIRWISE if loss != "gbce"])
def test_masked_training_ranks_only_observed_successors(loss: str) -> None:
    """There is no loss for a context with one successor, but for one with two."""
    data = chain().data
    for options in ({"negatives": None}, *SAMPLING):
        history = fitted(table(loss=loss, epochs=2, mask_training=True, **options), data).history
        assert [epoch.loss for epoch in history] == [0.0, 0.0]
    data = branching().data
    weight = fitted(table(loss=loss, epochs=2, mask_training=True), data).state()["weight"]
    assert weight[data.contexts.last[0]].all()


# Pairwise losses by hand


def objective_and_batch(learner: NetworkRecommender, data: TrainingData) -> tuple[Objective, Batch]:
    """The objective of a network with initial weights, and a batch of all units."""
    torch.manual_seed(0)
    options = learner.config
    network = learner.build(data.vocabulary, data).eval()
    sampler = Sampler.of(torch.from_numpy(data.graph.popularity), options.sample_alpha)
    batch = next(Batches.of(learner, data).in_order(1000))
    return Objective(network, options, sampler), batch


@pytest.fixture(autouse=True)
def _isolated_rng() -> object:
    with torch.random.fork_rng(devices=[]):
        yield


def test_initial_bpr_loss_is_log_2() -> None:
    options = {"epochs": 1, "batch_size": 1000, "loss": "bpr", "negatives": 2000}
    history = fitted(table(**options), everything().data).history
    assert history[0].loss == pytest.approx(math.log(2), rel=1e-5)


def mean_bpr(scores: Tensor, data: TrainingData, drawable: Tensor) -> float:
    """The sum over the examples of the mean loss over all other services that are drawable."""
    total = 0.0
    for row, target in zip(data.rows, data.targets, strict=True):
        others = drawable & (torch.arange(scores.shape[1]) != target)
        gaps = scores[row, target] - scores[row, others]
        total += nn.functional.softplus(-gaps).mean().item()
    return total


def all_scores(objective: Objective, learner: NetworkRecommender, data: TrainingData) -> Tensor:
    units = learner.units(data.contexts, training=False)
    inputs, contexts = units.take(np.arange(len(data.contexts)))
    assert (contexts == np.arange(len(data.contexts))).all()
    scores: Tensor = objective.network(inputs)
    return scores


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"negatives": 2000, "sampling": "rows"}, 1e-2),
        ({"negatives": 2048, "sampling": "shared"}, 2e-2),
    ],
    ids=str,
)
def test_loss_of_many_draws_approximates_loss_over_all_services(
    options: dict[str, Any], tolerance: float
) -> None:
    data = everything().data
    learner = gru(loss="bpr", sample_alpha=0.0, **options)
    objective, batch = objective_and_batch(learner, data)
    with torch.no_grad():
        total, examples = objective(batch)
        scores = all_scores(objective, learner, data)
    drawable = torch.from_numpy(data.graph.popularity > 0)
    assert examples == len(data.examples)
    assert total.item() == pytest.approx(mean_bpr(scores, data, drawable), rel=tolerance)


def test_negatives_none_uses_all_other_services() -> None:
    """Including services that are never a target, which are never drawn."""
    data = everything().data
    learner = gru(loss="bpr", negatives=None)
    objective, batch = objective_and_batch(learner, data)
    with torch.no_grad():
        total, _ = objective(batch)
        scores = all_scores(objective, learner, data)
    all_services = torch.ones(len(data.vocabulary.services), dtype=torch.bool)
    assert not (data.graph.popularity > 0).all()
    assert total.item() == pytest.approx(mean_bpr(scores, data, all_services), rel=1e-5)


@pytest.mark.parametrize("loss", PAIRWISE)
@pytest.mark.parametrize("sampling", ["rows", "shared", "batch"])
def test_loss_uses_scores_of_draws(sampling: str, loss: str) -> None:
    """Compared with a draw from a generator with the same seed."""
    data = everything().data
    learner = gru(loss=loss, sampling=sampling, negatives=7)
    objective, batch = objective_and_batch(learner, data)
    sampler = objective.sampler
    with torch.no_grad():
        torch.manual_seed(4)
        total, _ = objective(batch)
        torch.manual_seed(4)
        if sampling == "rows":
            draw = sampler.draw(batch.columns, 7)
        else:
            draw = sampler.draw_shared(batch.columns, 7, in_batch=sampling == "batch")
        scores = objective.network(batch.inputs)[batch.rows]
    candidates = CandidateScores(
        scores.gather(1, batch.columns[:, None])[:, 0],
        scores.gather(1, draw.columns),
        draw.valid,
        draw.log_expected,
        len(data.vocabulary.services),
    )
    expected = (LOSSES[loss](candidates, learner.config) * batch.counts).sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


# Scores of some columns


@pytest.mark.parametrize("options", [{}, {"tied": True}, {"tied": True, "hidden": 5}], ids=str)
def test_scores_of_some_columns_match_all_scores(options: dict[str, object]) -> None:
    data = everything().data
    model = fitted(gru(epochs=1, **options), data)
    network = network_of(model)
    inputs, _ = model.units(data.contexts, training=False).take(np.arange(3))
    columns = torch.tensor([4, 0, 4])
    with torch.no_grad():
        states = network.states(inputs)
        some, every = network.scores(states, columns), network.scores(states)
    torch.testing.assert_close(some, every[:, columns])


# Penalties


class Penalised(TableNetwork):
    def penalty(self, inputs: LastInputs, states: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        assert len(inputs.last) == len(states)
        assert len(rows) == len(columns)
        return torch.tensor(0.25)


class PenalisedByTarget(TableNetwork):
    def penalty(self, inputs: LastInputs, states: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        assert rows.max() < len(states) == len(inputs.last)
        return columns / 2.0


def first_loss(network: type[TableNetwork], loss: str) -> float:
    class_ = type("PenalisedTable", (Table,), {"network": network})
    options = {"epochs": 1, "loss": loss, "negatives": None}
    return fitted(class_(TableConfig(**options)), everything().data).history[0].loss


@pytest.mark.parametrize("loss", ["ce", "bpr"])
def test_scalar_penalty_is_added_for_every_example(loss: str) -> None:
    assert first_loss(Penalised, loss) == pytest.approx(first_loss(TableNetwork, loss) + 0.25)


@pytest.mark.parametrize("loss", ["ce", "bpr"])
def test_penalty_of_pairs_is_weighted_by_examples(loss: str) -> None:
    mean = everything().data.targets.mean() / 2
    assert first_loss(PenalisedByTarget, loss) == pytest.approx(first_loss(TableNetwork, loss) + mean)


# Hard negatives


class WithHard(TableNetwork):
    """The hard negatives of each context are services 0 and 3 and a missing one."""

    def hard_negatives(self, inputs: LastInputs) -> Tensor:
        return torch.tensor([[0, 3, -1]]).expand(len(inputs.last), -1)


class WithHardTable(Table):
    network = WithHard


def with_hard(**options: Any) -> WithHardTable:
    return WithHardTable(TableConfig(start=0.0, **options))


CORRECTED = ("gbce", "sampled-softmax")


@pytest.mark.parametrize("loss", [loss for loss in PAIRWISE if loss not in CORRECTED])
@pytest.mark.parametrize("sampling", ["rows", "shared", "batch"])
@pytest.mark.parametrize("masked", [False, True])
def test_hard_negatives_are_added_to_draws(sampling: str, loss: str, masked: bool) -> None:
    """They are not valid if they are missing, equal to the target or masked."""
    data = everything().data
    learner = with_hard(loss=loss, sampling=sampling, negatives=7, mask_training=masked)
    objective, batch = objective_and_batch(learner, data)
    pairs = len(batch.rows)
    with torch.no_grad():
        next(objective.network.parameters()).normal_()
        torch.manual_seed(4)
        total, _ = objective(batch)
        torch.manual_seed(4)
        draw = objective._draw(batch.columns, 7)
        scores = objective.network(batch.inputs)[batch.rows]
    size = draw.columns.shape[1]
    valid = torch.cat([draw.valid, torch.zeros(pairs, 3, dtype=torch.bool)], dim=1)
    columns = torch.cat([draw.columns, torch.zeros(pairs, 3, dtype=torch.int64)], dim=1)
    for i, target in enumerate(batch.columns.tolist()):
        for j, hard in enumerate((0, 3)):
            columns[i, size + j], valid[i, size + j] = hard, hard != target
        if masked:
            assert batch.mask is not None
            valid[i] &= batch.mask[batch.rows[i], columns[i]]
    positive = scores.gather(1, batch.columns[:, None])[:, 0]
    candidates = CandidateScores(
        positive, scores.gather(1, columns), valid, None, len(data.vocabulary.services)
    )
    expected = (LOSSES[loss](candidates, learner.config) * batch.counts).sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("loss", CORRECTED)
def test_hard_negatives_are_rejected_with_corrected_losses(loss: str) -> None:
    data = everything().data
    objective, batch = objective_and_batch(with_hard(loss=loss, negatives=7), data)
    with pytest.raises(ConfigError) as error:
        objective(batch)
    assert says(error, repr(loss), "hard negatives", "choose another loss")


@pytest.mark.parametrize(
    "options", [{"loss": "ce"}, *({"loss": x, "negatives": None} for x in PAIRWISE)]
)
def test_hard_negatives_are_not_used_with_all_services(options: dict[str, Any]) -> None:
    data = everything().data
    losses = []
    for learner in (with_hard(**options), table(**options)):
        objective, batch = objective_and_batch(learner, data)
        losses.append(objective(batch)[0].item())
    assert losses[0] == losses[1]
