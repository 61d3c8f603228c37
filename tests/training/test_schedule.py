from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.training.options import TrainingOptions
from dagrec.training.schedule import learning_rate

WARMUP_COSINE = TrainingOptions(
    schedule="warmup-cosine", learning_rate=0.02, epochs=200, warmup_epochs=5
)
OPTIONS = st.builds(
    TrainingOptions,
    epochs=st.integers(1, 60),
    warmup_epochs=st.integers(1, 70),
    learning_rate=st.floats(1e-12, 10),
    schedule=st.sampled_from(["constant", "warmup-cosine"]),
)


def rates(options: TrainingOptions) -> list[float]:
    return [learning_rate(options, epoch) for epoch in range(options.epochs)]


def test_constant_schedule() -> None:
    assert rates(TrainingOptions(learning_rate=0.3, epochs=7)) == [0.3] * 7


@pytest.mark.parametrize(
    ("epoch", "share"),
    [(0, 0.2), (1, 0.4), (3, 0.8), (4, 1.0), (5, 1.0), (9, 0.7525), (11, 0.505), (13, 0.2575)],
)
def test_warmup_cosine_schedule_by_hand(epoch: int, share: float) -> None:
    """Half of the decay is reached after half of the epochs, and a quarter of it after a third."""
    options = WARMUP_COSINE.model_copy(update={"epochs": 5 + 12})
    assert learning_rate(options, epoch) == pytest.approx(0.02 * share, rel=1e-12)


def test_last_learning_rate_is_close_to_one_percent() -> None:
    last = learning_rate(WARMUP_COSINE, WARMUP_COSINE.epochs - 1)
    assert 0.01 * 0.02 < last < 0.0101 * 0.02


def test_learning_rate_increases_in_warmup_and_then_decreases() -> None:
    values = rates(WARMUP_COSINE)
    assert all(a < b for a, b in pairwise(values[:5]))
    assert values[4] == values[5] == 0.02
    assert all(a > b for a, b in pairwise(values[5:]))


@pytest.mark.parametrize("epochs", [1, 3, 5])
def test_schedule_of_few_epochs_is_only_warmup(epochs: int) -> None:
    options = WARMUP_COSINE.model_copy(update={"epochs": epochs})
    expected = [0.02 * (i + 1) / epochs for i in range(epochs)]
    assert rates(options) == pytest.approx(expected)


def test_single_epoch_after_warmup_has_largest_learning_rate() -> None:
    options = WARMUP_COSINE.model_copy(update={"epochs": 6})
    assert rates(options)[-2:] == [0.02, 0.02]


@given(options=OPTIONS, epoch=st.integers(0, 200))
def test_learning_rate_is_positive_and_bounded(options: TrainingOptions, epoch: int) -> None:
    assert 0 < learning_rate(options, epoch) <= options.learning_rate
    assert max(rates(options)) == options.learning_rate
    assert learning_rate(options, options.epochs + epoch) == rates(options)[-1]
