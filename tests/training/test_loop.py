from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dagrec.data.examples import Context, Example
from dagrec.errors import ConfigError, NumericalError
from dagrec.models.base import Epoch, Optimisation
from dagrec.models.sequence.gru4rec import GRU4RecConfig, Network
from dagrec.models.training_data import TrainingData
from dagrec.training.loop import NetworkTrainer, Rows, choose_device
from tests.checks import says
from tests.worlds import branching, chain, everything, memory

CPU = torch.device("cpu")
STILL = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
Build = Callable[[], nn.Module]


class Table(nn.Module):
    """One score for each service and last node: the simplest network that can learn transitions."""

    def __init__(self, data: TrainingData, start: float = 0.0) -> None:
        super().__init__()
        shape = len(data.vocabulary), len(data.vocabulary.services)
        self.weight = nn.Parameter(torch.full(shape, start))

    def scores(self, weight: Tensor) -> Tensor:
        return weight

    def forward(self, nodes: Tensor, lengths: Tensor) -> Tensor:
        return self.scores(self.weight)[nodes[torch.arange(len(nodes)), lengths - 1]]


class SteepTable(Table):
    """Finite scores whose gradient is infinite at 0."""

    def scores(self, weight: Tensor) -> Tensor:
        return weight.sqrt()


def gru(data: TrainingData, **options: object) -> Build:
    config = GRU4RecConfig(**{"embedding": 8, "hidden": 8, "layers": 1, **options})
    return lambda: Network(config, len(data.vocabulary), len(data.vocabulary.services))


def train(
    data: TrainingData, build: Build, *, seed: int = 0, **options: object
) -> tuple[nn.Module, list[Epoch]]:
    trainer = NetworkTrainer(device="cpu")
    return trainer.train(build, data, Optimisation(**options), name="model", seed=seed)


def mean_loss(network: nn.Module, data: TrainingData) -> float:
    """Mean negative log-likelihood of single examples, by PyTorch's own cross-entropy."""
    nodes, lengths = (torch.from_numpy(a) for a in (data.contexts.nodes, data.contexts.lengths))
    with torch.inference_mode():
        scores = network(nodes, lengths)[torch.from_numpy(data.rows)]
    return nn.functional.cross_entropy(scores, torch.from_numpy(data.targets)).item()


# Rows


def test_rows_hold_the_counts_of_the_pairs() -> None:
    data = everything().data
    rows = Rows.of(data, Optimisation(), CPU)
    expected = np.zeros((len(data.contexts), len(data.vocabulary.services)))
    for row, target in zip(data.rows, data.targets, strict=True):
        expected[row, target] += 1
    assert np.array_equal(rows.counts.numpy(), expected)
    assert len(rows) == len(data.contexts)
    assert rows.mask is None


def test_rows_hold_the_mask_when_training_is_masked() -> None:
    data = everything().data
    rows = Rows.of(data, Optimisation(mask_training=True), CPU)
    assert rows.mask is not None
    assert rows.mask[rows.counts > 0].all()
    degrees = data.graph.observed.degrees[data.contexts.last]
    assert rows.mask.sum(dim=1).tolist() == degrees.tolist()


# Learning


def test_the_first_loss_is_that_of_the_untrained_network() -> None:
    data = everything().data
    _, history = train(data, lambda: Table(data), epochs=1, batch_size=1000)
    assert history == [Epoch(1, pytest.approx(math.log(len(data.vocabulary.services))), None)]


def test_the_loss_of_an_epoch_is_a_mean_over_examples_not_batches() -> None:
    """At a learning rate of almost nothing every batching shows the loss of the same network."""
    data = everything().data
    losses = [
        train(
            data,
            gru(data, **STILL),
            epochs=1,
            batch_size=size,
            learning_rate=1e-12,
        )[1][0].loss
        for size in (1, 7, 1000)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_the_optimum_is_the_observed_shares() -> None:
    """Cross-entropy is least at the true shares, where it is their entropy."""
    data = branching().data
    network, history = train(data, lambda: Table(data), epochs=400, learning_rate=0.05)
    entropy = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    assert history[-1].loss == pytest.approx(entropy, abs=1e-4)
    assert mean_loss(network, data) == pytest.approx(entropy, abs=1e-4)


def test_the_loss_falls() -> None:
    data = everything().data
    _, history = train(data, gru(data, **STILL), epochs=30, learning_rate=0.02)
    assert [epoch.epoch for epoch in history] == list(range(1, 31))
    assert history[-1].loss < history[0].loss / 2


def test_the_network_comes_back_on_the_cpu_and_in_evaluation_mode() -> None:
    data = chain().data
    network, _ = train(data, gru(data), epochs=1)
    assert not network.training
    assert all(parameter.device == CPU for parameter in network.parameters())


def test_one_seed_gives_one_network() -> None:
    data = everything().data
    networks = [train(data, gru(data), epochs=3, batch_size=4, seed=seed)[0] for seed in (1, 1, 2)]
    first, again, other = (nn.utils.parameters_to_vector(net.parameters()) for net in networks)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "options", [{}, {"patience": 2}, {"mask_training": True}, {"loss": "bpr"}], ids=str
)
def test_random_numbers_outside_are_left_alone(options: dict[str, object]) -> None:
    data = everything().data
    before = torch.get_rng_state()
    train(data, gru(data), epochs=2, **options)
    assert torch.equal(torch.get_rng_state(), before)


# The mask in training


def test_masked_training_learns_nothing_from_a_single_successor() -> None:
    data = chain().data
    network, history = train(data, lambda: Table(data, 0.5), epochs=5, mask_training=True)
    assert [epoch.loss for epoch in history] == [0.0] * 5
    assert (next(network.parameters()) == 0.5).all()


def test_masked_training_normalises_over_observed_successors() -> None:
    data = everything().data
    _, history = train(data, lambda: Table(data), epochs=1, batch_size=1000, mask_training=True)
    degrees = data.graph.observed.degrees[data.contexts.last][data.rows]
    assert history[0].loss == pytest.approx(np.log(degrees).mean(), rel=1e-6)


# Pairwise ranking with sampled negatives


def test_bpr_starts_at_the_logarithm_of_two() -> None:
    data = everything().data
    _, history = train(data, lambda: Table(data), epochs=1, batch_size=1000, loss="bpr", negatives=2000)
    assert history[0].loss == pytest.approx(math.log(2), rel=1e-5)


def test_bpr_puts_the_true_successor_first() -> None:
    data = chain().data
    network, _ = train(data, gru(data), epochs=60, learning_rate=0.02, loss="bpr", negatives=5)
    scores = network(torch.from_numpy(data.contexts.nodes), torch.from_numpy(data.contexts.lengths))
    assert np.array_equal(scores.argmax(dim=1).numpy()[data.rows], data.targets)


def test_a_target_is_never_a_negative_of_itself() -> None:
    """With one service there is nothing to rank: no loss and no step."""
    data = TrainingData.of([Example(Context(("a",)), "y", "n", 0)])
    network, history = train(data, lambda: Table(data, 0.5), epochs=3, loss="bpr")
    assert [epoch.loss for epoch in history] == [0.0] * 3
    assert (next(network.parameters()) == 0.5).all()


def test_masked_bpr_ranks_observed_successors_alone() -> None:
    single, two = chain().data, branching().data
    _, history = train(single, lambda: Table(single), epochs=3, loss="bpr", mask_training=True)
    assert [epoch.loss for epoch in history] == [0.0] * 3
    _, history = train(two, lambda: Table(two), epochs=1, loss="bpr", mask_training=True)
    assert history[0].loss == pytest.approx(math.log(2))


def test_bpr_with_every_negative_is_the_loss_over_all_others() -> None:
    """Uniform draws in great number come near the mean over all other services."""
    data = everything().data
    options = {"loss": "bpr", "negatives": 20_000, "sample_alpha": 0.0}
    rows = Rows.of(data, Optimisation(**options), CPU)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = gru(data)().eval()
        found, examples = rows.loss(network, torch.arange(len(rows)))
        scores = network(rows.nodes, rows.lengths)
    drawable = torch.from_numpy(data.graph.popularity > 0)
    expected = 0.0
    for row, target in zip(data.rows, data.targets, strict=True):
        others = drawable & (torch.arange(scores.shape[1]) != target)
        gaps = scores[row, target] - scores[row, others]
        expected += nn.functional.softplus(-gaps).mean().item()
    assert examples == len(data.examples)
    assert found.item() == pytest.approx(expected, rel=1e-3)


# Early stopping


def test_early_stopping_restores_the_best_weights() -> None:
    data = everything().data
    build, options = gru(data), {"patience": 3, "validation_share": 0.3, "learning_rate": 0.05}
    network, history = train(data, build, epochs=200, seed=5, **options)
    losses = [epoch.validation for epoch in history if epoch.validation is not None]
    best = min(losses)
    assert len(losses) == len(history)
    assert len(history) == losses.index(best) + 1 + 3 < 200
    assert losses[-1] > best
    _, held_out = data.hold_out(0.3, seed=5)
    assert mean_loss(network, held_out) == pytest.approx(best, abs=1e-6)


def test_the_held_out_part_is_not_trained_on() -> None:
    """A table learns no node that occurs in held-out compositions alone."""
    data = memory(copies=1).data
    network, _ = train(data, lambda: Table(data), epochs=5, patience=5, validation_share=0.34, seed=1)
    kept, held_out = data.hold_out(0.34, seed=1)
    trained = set(kept.contexts.last.tolist())
    untrained = set(held_out.contexts.last.tolist()) - trained
    moved = {node for node, row in enumerate(network.weight) if row.any()}
    assert untrained
    assert moved == trained


def test_without_patience_all_data_are_trained_on() -> None:
    data = memory(copies=1).data
    network, history = train(data, lambda: Table(data), epochs=5)
    assert all(epoch.validation is None for epoch in history)
    moved = {node for node, row in enumerate(network.weight) if row.any()}
    assert moved == set(data.contexts.last.tolist())


def test_epochs_end_training_before_patience_does() -> None:
    data = everything().data
    network, history = train(data, gru(data), epochs=4, patience=50)
    assert len(history) == 4
    _, held_out = data.hold_out(Optimisation().validation_share, seed=0)
    best = min(epoch.validation for epoch in history if epoch.validation is not None)
    assert mean_loss(network, held_out) == pytest.approx(best, abs=1e-6)


# Steps


@pytest.fixture
def norms() -> Iterator[list[float]]:
    """The norm of the gradient at each step that any optimiser takes."""
    found: list[float] = []

    def note(optimiser: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for group in optimiser.param_groups for p in group["params"]]
        found.append(torch.cat([g.flatten() for g in gradients]).norm().item())

    hook = register_optimizer_step_pre_hook(note)
    yield found
    hook.remove()


def test_gradients_are_clipped(norms: list[float]) -> None:
    data = everything().data
    train(data, gru(data), epochs=2, batch_size=4, clip_norm=1e3)
    free = norms.copy()
    norms.clear()
    train(data, gru(data), epochs=2, batch_size=4, clip_norm=0.01)
    assert min(free) > 0.011
    assert max(norms) <= 0.01 * (1 + 1e-6)
    assert len(norms) == len(free) == 2 * math.ceil(len(data.contexts) / 4)


def test_a_gradient_is_that_of_the_mean_loss(norms: list[float]) -> None:
    """Of n examples of one context the table's gradient is p - share, whatever n is."""
    data = branching().data
    train(data, lambda: Table(data), epochs=1, clip_norm=1e3)
    assert norms == [pytest.approx(math.hypot(1 / 2 - 3 / 4, 1 / 2 - 1 / 4))]


def test_progress_is_told_after_every_epoch() -> None:
    data = everything().data
    told: list[tuple[str, int, int, float]] = []
    trainer = NetworkTrainer(device="cpu", progress=lambda *line: told.append(line))
    options = Optimisation(epochs=7, patience=2)
    _, history = trainer.train(gru(data), data, options, name="my model", seed=0)
    assert told == [("my model", epoch.epoch, 7, epoch.loss) for epoch in history]


# Failures


def test_a_loss_that_is_not_finite_is_refused() -> None:
    data = everything().data
    with pytest.raises(NumericalError) as error:
        train(data, lambda: Table(data, math.nan), epochs=3)
    assert says(error, "model, epoch 1", "the loss must be finite, found nan", "lower learning_rate")


def test_a_network_that_runs_away_is_refused_with_its_epoch() -> None:
    data = everything().data
    with pytest.raises(NumericalError) as error:
        train(data, gru(data), epochs=30, batch_size=1000, learning_rate=1e37)
    assert says(error, "model, epoch 2", "must be finite", "lower learning_rate")


@pytest.mark.parametrize("rate", [1e36, 1e37])
def test_no_history_holds_a_loss_that_is_not_finite(rate: float) -> None:
    """A difference of scores can overflow while all gradients, being probabilities, stay small."""
    data = everything().data
    with pytest.raises(NumericalError) as error:
        train(data, gru(data, layers=2, tied=True), epochs=10, learning_rate=rate)
    assert says(error, "model, epoch", "must be finite", "lower learning_rate")


def test_a_validation_loss_that_is_not_finite_is_refused() -> None:
    data = memory(copies=1).data
    kept, _ = data.hold_out(0.34, seed=1)
    table = Table(data)
    with torch.no_grad():
        table.weight[:, 0] = math.inf
        table.weight[kept.contexts.last] = 0.0
    with pytest.raises(NumericalError) as error:
        train(data, lambda: table, epochs=3, patience=1, validation_share=0.34, seed=1)
    assert says(error, "model, epoch 1", "the validation loss must be finite, found nan")


def test_a_gradient_that_is_not_finite_is_refused_by_name() -> None:
    data = everything().data
    with pytest.raises(NumericalError) as error:
        train(data, lambda: SteepTable(data), epochs=3)
    assert says(error, "model, epoch 1", "the gradient of weight", "lower learning_rate")


# Devices


def test_devices_by_name() -> None:
    assert choose_device("cpu") == CPU
    best = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == best


def test_cuda_is_refused_where_there_is_none() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU that torch can use")
    with pytest.raises(ConfigError) as error:
        choose_device("cuda")
    assert says(error, "'cuda'", "found none", "auto or cpu")


def test_training_on_the_gpu_equals_that_on_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU that torch can use")
    data = everything().data
    losses = []
    for device in ("cpu", "cuda"):
        trainer = NetworkTrainer(device=device)
        _, history = trainer.train(
            lambda: Table(data), data, Optimisation(epochs=5, batch_size=1000), name="t", seed=0
        )
        losses.append([epoch.loss for epoch in history])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_validation_draws_the_same_negatives_in_every_epoch() -> None:
    """With a learning rate that moves nothing, the sampled validation loss stays where it is."""
    data = everything().data
    still = {"epochs": 4, "learning_rate": 1e-30, "patience": 10, "negatives": 3}
    _, history = train(data, gru(data, **STILL), loss="bpr", **still)
    assert len({epoch.validation for epoch in history}) == 1
    assert len({epoch.loss for epoch in history}) > 1
