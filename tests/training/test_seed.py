from __future__ import annotations

import pytest
import torch

from dagrec.training.seed import seeded

CPU = torch.device("cpu")


def test_one_seed_gives_one_sequence() -> None:
    drawn = []
    for seed in (1, 1, 2):
        with seeded(seed, CPU):
            drawn.append(torch.rand(5))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_state_outside_comes_back() -> None:
    before = torch.get_rng_state()
    with seeded(3, CPU):
        torch.rand(7)
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_state_outside_comes_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(3, CPU):
        torch.rand(7).reshape(2, 2)
    assert torch.equal(torch.get_rng_state(), before)
