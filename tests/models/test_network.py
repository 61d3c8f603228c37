from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dagrec.errors import StoreError
from dagrec.models import network as network_module
from dagrec.models.base import Recommender
from dagrec.models.registry import create
from dagrec.training.runtime import Epoch, Runtime, use_runtime
from tests.worlds import WORLDS, chain, everything

SMALL = {"epochs": 2, "embedding": 6, "hidden": 5, "layers": 1}


@pytest.fixture(scope="module")
def fitted() -> Recommender:
    return create("gru4rec", SMALL).fit(everything().data)


@pytest.mark.parametrize("rows", [1, 7, 25])
def test_score_in_several_passes_equals_single_pass(
    fitted: Recommender, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    contexts = everything().data.contexts
    expected = fitted.score(contexts)
    monkeypatch.setattr(network_module, "PAIRS_PER_PASS", rows)
    np.testing.assert_allclose(fitted.score(contexts), expected, rtol=1e-5, atol=1e-6)


def test_restore_preserves_global_random_state(fitted: Recommender) -> None:
    data = everything().data
    before = torch.get_rng_state()
    create("gru4rec", SMALL).restore(fitted.state(), data.vocabulary, data.graph)
    assert torch.equal(torch.get_rng_state(), before)


class StoppedError(Exception):
    """Raised by the progress callback to end a training."""


def stop(*_: object) -> None:
    raise StoppedError


def test_interrupted_fit_keeps_previous_model() -> None:
    small = chain().data
    model = create("gru4rec", SMALL).fit(small)
    before = model.score(small.contexts)
    with use_runtime(Runtime("cpu", progress=stop)), pytest.raises(StoppedError):
        model.fit(everything().data)
    assert np.array_equal(model.score(small.contexts), before)
    assert len(model.history) == 2


def test_restore_works_after_failed_restore() -> None:
    small, large = chain().data, everything().data
    model = create("gru4rec", SMALL).fit(small)
    state = model.state()
    del state["embed.weight"]
    with pytest.raises(StoreError):
        model.restore(state, large.vocabulary, large.graph)
    other = create("gru4rec", SMALL).fit(large)
    model.restore(other.state(), large.vocabulary, large.graph)
    assert np.array_equal(model.score(large.contexts), other.score(large.contexts))


def test_history_survives_save_and_load(tmp_path: Path) -> None:
    data = WORLDS["everything"].data
    model = create("gru4rec", {**SMALL, "epochs": 4, "patience": 3, "validate_every": 2})
    model.fit(data).save(tmp_path, data.vocabulary)
    metadata = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    loaded = type(model).load(tmp_path, metadata, data.vocabulary, data.graph)
    assert loaded.history == model.history
    assert [epoch.validation is None for epoch in loaded.history] == [True, False, True, False]
    assert all(isinstance(epoch, Epoch) for epoch in loaded.history)
