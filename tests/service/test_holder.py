from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from dagrec_service.holder import Holder

from dagrec.data.formats import read
from dagrec.errors import NumericalError, StoreError
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.recommend.check import self_check
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store

DATA = Path(__file__).parents[2] / "data" / "compositions.json"


def test_holder_has_no_bundle_before_load(small_store: Store) -> None:
    holder = Holder(small_store.root)
    with pytest.raises(StoreError, match="a bundle must be loaded, found none yet; try later"):
        _ = holder.bundle
    holder.load()
    assert holder.bundle.version == small_store.current()


def test_load_keeps_bundle_if_new_one_is_damaged(small_store: Store) -> None:
    holder = Holder(small_store.root)
    holder.load()
    loaded = holder.bundle
    train(read(DATA), small_store, load_config(models=["markov"]), measure=0)
    (small_store.bundles / small_store.current() / "graph.safetensors").unlink()
    with pytest.raises(StoreError, match=r"graph\.safetensors"):
        holder.load()
    assert holder.bundle is loaded


def test_check_runs_once_a_second_and_after_each_swap(
    small_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    holder = Holder(small_store.root)
    holder.load()
    assert holder.check() is holder.bundle
    set_scores_to_nan(holder.bundle)
    assert holder.check() is holder.bundle
    now = 1.5
    for _ in range(2):
        with pytest.raises(NumericalError):
            holder.check()
    train(read(DATA), small_store, load_config(models=["popularity"]), measure=0)
    holder.load()
    assert holder.check() is holder.bundle
    set_scores_to_nan(holder.bundle)
    train(read(DATA), small_store, load_config(models=["popularity"]), measure=0)
    holder.load()
    assert holder.check() is holder.bundle


def set_scores_to_nan(bundle: Bundle) -> None:
    scores = np.full(len(bundle.vocabulary.services), np.nan)
    popularity = bundle.models["popularity"].recommender
    popularity.restore({"prior": scores}, bundle.vocabulary, bundle.graph)


def test_self_check_accepts_bundle_of_all_recommenders(bundle: Bundle) -> None:
    self_check(bundle)
    assert bundle.models, "nothing was checked"


def test_self_check_rejects_nan_scores(small_store: Store) -> None:
    bundle = small_store.load()
    set_scores_to_nan(bundle)
    with pytest.raises(NumericalError, match="popularity: scores must be finite, found NaN"):
        self_check(bundle)
