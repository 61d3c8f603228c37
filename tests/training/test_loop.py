from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dagrec.data.vocabulary import FIRST_SERVICE, UNKNOWN
from dagrec.errors import ConfigError
from dagrec.training.loop import choose_device, train
from dagrec.training.runtime import Epoch
from dagrec.training.schedule import learning_rate
from tests.checks import says
from tests.training.learners import (
    NO_DROPOUT,
    fitted,
    gru,
    mean_loss,
    network_of,
    on_cpu,
    table,
    weight_vector,
)
from tests.worlds import branching, chain, everything

CPU = torch.device("cpu")


# Learning


def test_first_loss_is_that_of_untrained_network() -> None:
    data = everything().data
    history = fitted(table(epochs=1, batch_size=1000), data).history
    assert [(epoch.epoch, epoch.validation) for epoch in history] == [(1, None)]
    assert history[0].loss == pytest.approx(math.log(len(data.vocabulary.services)))


def test_loss_of_epoch_is_mean_over_examples() -> None:
    """With a very small learning rate, the loss does not depend on the batch size."""
    data = everything().data
    losses = [
        fitted(gru(epochs=1, batch_size=size, learning_rate=1e-12, **NO_DROPOUT), data).history[0].loss
        for size in (1, 7, 1000)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_training_converges_to_observed_shares() -> None:
    """The minimum of the cross-entropy is the entropy of the shares."""
    data = branching().data
    model = fitted(table(epochs=400, learning_rate=0.05), data)
    entropy = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    assert model.history[-1].loss == pytest.approx(entropy, abs=1e-4)
    assert mean_loss(model, data) == pytest.approx(entropy, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [{}, {"optimiser": "adamw"}, {"optimiser": "adamw", "weight_decay": 0.1}],
    ids=str,
)
def test_training_reduces_loss(options: dict[str, object]) -> None:
    data = everything().data
    history = fitted(gru(epochs=30, **{"learning_rate": 0.02, **NO_DROPOUT, **options}), data).history
    assert [epoch.epoch for epoch in history] == list(range(1, 31))
    assert history[-1].loss < history[0].loss / 2


def test_trained_network_is_on_cpu_and_in_evaluation_mode() -> None:
    network, history = train(gru(epochs=1), chain().data)
    assert len(history) == 1
    assert not network.training
    assert all(parameter.device == CPU for parameter in network.parameters())


@pytest.mark.parametrize("seed", [1, -1, 2**63 - 1])
def test_training_depends_on_seed(seed: int) -> None:
    data = everything().data
    first, second, other = (
        weight_vector(fitted(gru(seed=number, epochs=3, batch_size=4), data))
        for number in (seed, seed, 2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patience": 2},
        {"mask_training": True},
        {"loss": "bpr"},
        {"loss": "bpr", "patience": 2, "sampling": "batch"},
        {"augmentation": {"node_mask": 0.5, "crop": 0.5}},
    ],
    ids=str,
)
def test_training_does_not_change_global_random_state(options: dict[str, object]) -> None:
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()
    fitted(gru(epochs=2, **options), everything().data)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numbers


# Masked training


def test_masked_training_has_no_loss_with_single_successor() -> None:
    model = fitted(table(epochs=5, mask_training=True, start=0.5), chain().data)
    assert [epoch.loss for epoch in model.history] == [0.0] * 5
    assert (model.state()["weight"] == 0.5).all()


def test_masked_training_normalises_over_observed_successors() -> None:
    data = everything().data
    history = fitted(table(epochs=1, batch_size=1000, mask_training=True), data).history
    degrees = data.graph.observed.degrees[data.contexts.last][data.rows]
    assert history[0].loss == pytest.approx(np.log(degrees).mean(), rel=1e-6)


# Steps


@pytest.fixture
def steps() -> Iterator[list[tuple[float, float]]]:
    """The learning rate and the gradient norm of each optimiser step."""
    recorded: list[tuple[float, float]] = []

    def record(optimiser: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for group in optimiser.param_groups for p in group["params"]]
        norm = torch.cat([g.flatten() for g in gradients]).norm().item()
        recorded.append((optimiser.param_groups[0]["lr"], norm))

    hook = register_optimizer_step_pre_hook(record)
    yield recorded
    hook.remove()


def test_gradients_are_clipped(steps: list[tuple[float, float]]) -> None:
    data = everything().data
    unclipped_history = fitted(table(epochs=2, batch_size=4, clip_norm=1e3), data).history
    unclipped = [norm for _, norm in steps]
    steps.clear()
    clipped_history = fitted(table(epochs=2, batch_size=4, clip_norm=0.01), data).history
    clipped = [norm for _, norm in steps]
    assert min(unclipped) > 0.011
    assert max(clipped) <= 0.01 * (1 + 1e-6)
    assert len(clipped) == len(unclipped) == 2 * math.ceil(len(data.contexts) / 4)
    half = len(clipped) // 2
    assert [epoch.gradient_norm for epoch in unclipped_history] == pytest.approx(
        [max(unclipped[:half]), max(unclipped[half:])]
    )
    assert clipped_history[0].gradient_norm > 0.011


def test_gradient_is_that_of_mean_loss(steps: list[tuple[float, float]]) -> None:
    """The gradient of the table for n examples of one context is p - share, for every n."""
    data = branching().data
    history = fitted(table(epochs=1, clip_norm=1e3), data).history
    assert [norm for _, norm in steps] == [pytest.approx(math.hypot(1 / 2 - 3 / 4, 1 / 2 - 1 / 4))]
    assert history[0].gradient_norm == pytest.approx(steps[0][1])


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_steps_have_learning_rate_of_their_epoch(
    optimiser: str, steps: list[tuple[float, float]]
) -> None:
    options = {"epochs": 9, "learning_rate": 0.3, "schedule": "warmup-cosine", "warmup_epochs": 3}
    model = table(batch_size=2, optimiser=optimiser, **options)
    rates = [epoch.learning_rate for epoch in fitted(model, chain().data).history]
    assert rates == [learning_rate(model.config, number) for number in range(9)]
    assert [rate for rate, _ in steps] == [rate for rate in rates for _ in range(2)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[2] == pytest.approx(0.3)


# The unknown node


def unknown_and_mean(model: object) -> tuple[np.ndarray, np.ndarray]:
    """The embedding of the unknown node, and the mean of all others."""
    embedding = model.state()["embed.weight"]  # type: ignore[attr-defined]
    return embedding[UNKNOWN], embedding[FIRST_SERVICE:].mean(axis=0)


@pytest.mark.parametrize("augmentation", [{}, {"crop": 0.5}], ids=str)
def test_embedding_of_unknown_node_is_mean(augmentation: dict[str, float]) -> None:
    unknown, others = unknown_and_mean(
        fitted(gru(epochs=3, augmentation=augmentation), everything().data)
    )
    np.testing.assert_allclose(unknown, others, rtol=1e-5, atol=1e-7)


def test_embedding_of_unknown_node_is_trained_with_node_mask() -> None:
    data = everything().data
    untrained, _ = unknown_and_mean(fitted(gru(epochs=1, augmentation={"node_mask": 1e-9}), data))
    unknown, others = unknown_and_mean(fitted(gru(epochs=3, augmentation={"node_mask": 0.9}), data))
    assert not np.allclose(unknown, others, atol=1e-3)
    assert not np.allclose(unknown, untrained, atol=1e-4)


# Epochs


@pytest.mark.parametrize(
    ("min_steps", "size", "expected"), [(0, 1, 3), (12, 1, 3), (13, 1, 4), (10, 3, 5), (10, 1000, 10)]
)
def test_min_steps_increases_number_of_epochs(
    min_steps: int, size: int, expected: int, steps: list[tuple[float, float]], tmp_path: Path
) -> None:
    """The chain has four contexts, so there are four, two or one steps per epoch."""
    reported: list[int] = []
    log = tmp_path / "log"
    options = {"batch_size": size, "schedule": "warmup-cosine", "warmup_epochs": 1}
    model = table(epochs=3, min_steps=min_steps, **options)
    with on_cpu(progress=lambda _name, _epoch, epochs: reported.append(epochs), log=log):
        model.fit(chain().data)
    assert reported == [expected] * expected
    assert len(model.history) == expected
    assert len(steps) == expected * math.ceil(4 / size) >= min_steps
    assert [json.loads(line)["epochs"] for line in log.read_text("utf-8").splitlines()] == reported
    # The schedule has the increased number of epochs, too.
    planned = model.config.model_copy(update={"epochs": expected})
    rates = [epoch.learning_rate for epoch in model.history]
    assert rates == [learning_rate(planned, number) for number in range(expected)]


# Progress


def test_progress_is_called_after_every_epoch() -> None:
    calls: list[tuple[str, Epoch, int]] = []
    model = gru(epochs=7, patience=2)
    with on_cpu(progress=lambda *args: calls.append(args)):
        model.fit(everything().data)
    assert calls == [("gru4rec", epoch, 7) for epoch in model.history]
    assert calls


# Devices


def test_choose_device_by_name() -> None:
    assert choose_device("cpu") == CPU
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected


def test_choose_device_rejects_cuda_without_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU that torch can use")
    with pytest.raises(ConfigError) as error:
        choose_device("cuda")
    assert says(error, "'cuda'", "found none", "auto or cpu")


def test_runtime_sets_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            with on_cpu(threads=threads):
                fitted(table(epochs=1), chain().data)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("loss", ["ce", "bpr"])
def test_training_on_gpu_matches_cpu(loss: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU that torch can use")
    data = everything().data
    losses = []
    for device in ("cpu", "cuda"):
        model = table(epochs=5, batch_size=1000, loss=loss, negatives=None)
        with on_cpu(device=device):
            model.fit(data)
        assert all(parameter.device == CPU for parameter in network_of(model).parameters())
        losses.append([epoch.loss for epoch in model.history])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
