from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.training.options import TrainingOptions
from dagrec.training.schedule import learning_rate

WARM = TrainingOptions(schedule="warmup-cosine", learning_rate=0.02, epochs=200, warmup_epochs=5)
OPTIONS = st.builds(
    TrainingOptions,
    epochs=st.integers(1, 60),
    warmup_epochs=st.integers(1, 70),
    learning_rate=st.floats(1e-12, 10),
    schedule=st.sampled_from(["constant", "warmup-cosine"]),
)


def rates(options: TrainingOptions) -> list[float]:
    return [learning_rate(options, epoch) for epoch in range(options.epochs)]


def test_a_constant_rate_is_that_of_the_options() -> None:
    assert rates(TrainingOptions(learning_rate=0.3, epochs=7)) == [0.3] * 7


@pytest.mark.parametrize(
    ("epoch", "share"),
    [(0, 0.2), (1, 0.4), (3, 0.8), (4, 1.0), (5, 1.0), (9, 0.7525), (11, 0.505), (13, 0.2575)],
)
def test_the_rate_rises_in_a_line_and_falls_along_a_cosine(epoch: int, share: float) -> None:
    """In the middle of the fall it is half way from 1 to 0.01; after a third, a quarter of the way."""
    options = WARM.model_copy(update={"epochs": 5 + 12})
    assert learning_rate(options, epoch) == pytest.approx(0.02 * share, rel=1e-12)


def test_the_last_epoch_is_close_to_a_hundredth() -> None:
    last = learning_rate(WARM, WARM.epochs - 1)
    assert 0.01 * 0.02 < last < 0.0101 * 0.02


def test_the_rate_never_falls_in_the_rise_and_never_rises_in_the_fall() -> None:
    found = rates(WARM)
    assert all(a < b for a, b in pairwise(found[:5]))
    assert found[4] == found[5] == 0.02
    assert all(a > b for a, b in pairwise(found[5:]))


@pytest.mark.parametrize("epochs", [1, 3, 5])
def test_few_epochs_are_all_rise(epochs: int) -> None:
    options = WARM.model_copy(update={"epochs": epochs})
    expected = [0.02 * (i + 1) / epochs for i in range(epochs)]
    assert rates(options) == pytest.approx(expected)


def test_one_epoch_of_fall_has_the_highest_rate() -> None:
    options = WARM.model_copy(update={"epochs": 6})
    assert rates(options)[-2:] == [0.02, 0.02]


@given(options=OPTIONS, epoch=st.integers(0, 200))
def test_the_rate_is_above_0_and_never_above_that_of_the_options(
    options: TrainingOptions, epoch: int
) -> None:
    assert 0 < learning_rate(options, epoch) <= options.learning_rate
    assert max(rates(options)) == options.learning_rate
    assert learning_rate(options, options.epochs + epoch) == rates(options)[-1]
