from __future__ import annotations

import pytest
import torch

from dagrec.training.seed import seeded

CPU = torch.device("cpu")


def test_seeded_random_numbers_depend_on_seed() -> None:
    numbers = []
    for seed in (1, 1, 2):
        with seeded(seed, CPU):
            numbers.append(torch.rand(5))
    assert torch.equal(numbers[0], numbers[1])
    assert not torch.equal(numbers[0], numbers[2])


def test_seeded_restores_state() -> None:
    before = torch.get_rng_state()
    with seeded(3, CPU):
        torch.rand(7)
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_restores_state_after_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(3, CPU):
        torch.rand(7).reshape(2, 2)
    assert torch.equal(torch.get_rng_state(), before)
