from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dagrec.errors import ConfigError, StoreError
from dagrec.models.hybrid.events import OwnerHistory
from dagrec.models.hybrid.history_corrector import HistoryExample
from dagrec.models.hybrid.ranker import Ranker, RankerConfig, candidate_features, select_candidates
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.checks import says
from tests.models.hybrid.owners import alternating, context_after

SERVICES = ("a", "b", "c", "d")
DATA = alternating(services=SERVICES)


def fitted(data: TrainingData = DATA, **options: float) -> Ranker:
    return Ranker(RankerConfig.model_validate(options)).fit(data)


def probabilities(model: Ranker, *contexts: object, data: TrainingData = DATA) -> Floats:
    encoded = data.vocabulary.encode(list(contexts))  # type: ignore[arg-type]
    p: Floats = np.exp(model.score(encoded).astype(np.float64))
    return p


def test_first_tree_is_newton_step_of_softmax() -> None:
    """With p = 1 / C, a leaf with n rows and k targets has value rate (k - n p) / (n 2 p (1 - p))."""
    model = fitted(rounds=1, learning_rate=0.5)
    _, examples = model._out_of_fold(DATA)
    columns = np.arange(len(SERVICES))
    rows = np.concatenate([candidate_features(e.history, e.base, columns) for e in examples])
    labels = np.concatenate([columns == e.target for e in examples])
    leaves = model._trees.predict(rows, pred_leaf=True).ravel()
    values = model._trees.predict(rows, raw_score=True)
    p = 1 / len(SERVICES)
    assert len(set(leaves)) > 2
    for leaf in set(leaves):
        in_leaf = leaves == leaf
        expected = 0.5 * (labels[in_leaf].sum() - in_leaf.sum() * p) / (in_leaf.sum() * 2 * p * (1 - p))
        assert values[in_leaf] == pytest.approx(expected, rel=1e-5)


def test_training_loss_decreases_with_rounds() -> None:
    def loss(rounds: int) -> float:
        model = fitted(rounds=rounds)
        _, examples = model._out_of_fold(DATA)
        log_p = model._correct([e.history for e in examples], np.stack([e.base for e in examples]))
        return -float(np.mean([row[e.target] for row, e in zip(log_p, examples, strict=True)]))

    losses = [loss(rounds) for rounds in (1, 5, 20, 80)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] < np.log(len(SERVICES))
    assert losses[-1] < 0.2


def test_fit_is_deterministic() -> None:
    states = [fitted().state() for _ in range(2)]
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])


def test_state_holds_lightgbm_text() -> None:
    text = fitted().state()["trees"].tobytes()
    assert text.startswith(b"tree\n")
    assert b"Tree=0\n" in text


@pytest.mark.parametrize("index", [0, 100, -100])
def test_restore_rejects_corrupted_trees(index: int) -> None:
    state = fitted().state()
    trees = state["trees"].copy()
    trees[index] ^= 1
    with pytest.raises(StoreError) as error:
        Ranker().restore(state | {"trees": trees}, DATA.vocabulary, DATA.graph)
    assert says(error, "ranker", "checksum", "train it again")


def test_restore_rejects_text_that_is_no_model() -> None:
    import zlib

    state = fitted().state()
    for text in (b"", b"no trees", b"\xff\xfe"):
        state["trees"] = np.frombuffer(text, dtype=np.uint8)
        state["trees_crc32"] = np.array([zlib.crc32(text)])
        with pytest.raises(StoreError) as error:
            Ranker().restore(state, DATA.vocabulary, DATA.graph)
        assert says(error, "ranker", "train it again")


# Candidates


def test_candidates_are_newest_calls_then_most_probable_services() -> None:
    columns = {name: i for i, name in enumerate("abcdef")}
    history = OwnerHistory.of(context_after("e", "b", "e", "d"), columns)
    base = np.log([0.3, 0.05, 0.4, 0.05, 0.1, 0.1])
    assert select_candidates(history, base, 2).tolist() == [3, 4]
    assert select_candidates(history, base, 4).tolist() == [1, 2, 3, 4]
    assert select_candidates(history, base, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_other_services_keep_probability_of_base() -> None:
    model = fitted(candidates=2)
    context = context_after("a", "b", "c", "a")
    log_p = (
        create("markov")
        .fit(DATA)
        .score(DATA.vocabulary.encode([context_after()]))[0]
        .astype(np.float64)
    )
    base = np.exp(log_p / model._temperature)
    base /= base.sum()
    p = probabilities(model, context)[0]
    assert p.sum() == pytest.approx(1)
    assert p[[1, 3]] == pytest.approx(base[[1, 3]], rel=1e-5)
    assert p[[0, 2]].sum() == pytest.approx(base[[0, 2]].sum(), rel=1e-5)


def test_more_candidates_than_services_has_no_effect() -> None:
    contexts = [context_after("a", "b"), context_after("d")]
    exact, more = (probabilities(fitted(candidates=n), *contexts) for n in (len(SERVICES), 100))
    np.testing.assert_array_equal(exact, more)


def test_examples_without_candidate_target_are_skipped() -> None:
    history = OwnerHistory.of(context_after("a", "b"), DATA.vocabulary.columns)
    ranked, skipped = (HistoryExample(history, np.log(np.full(4, 0.25)), target) for target in (0, 3))
    model = Ranker(RankerConfig(candidates=2))
    assert model._learn([skipped]) == {}
    both, one = (model._learn(examples) for examples in ([ranked, skipped], [ranked]))
    assert np.array_equal(both["trees"], one["trees"])


# The package


def test_lightgbm_is_imported_only_when_needed() -> None:
    code = (
        "import sys, dagrec.models.hybrid.ranker as r\n"
        "r.Ranker()\n"
        "sys.exit(3 if {'lightgbm', 'torch'} & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_package_error_names_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError) as error:
        fitted()
    assert says(error, "ranker", "'lightgbm'", "dagrec[train]")


def test_missing_system_library_error_names_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = "raise OSError('libgomp.so.1: cannot open shared object file')\n"
    (tmp_path / "lightgbm.py").write_text(broken, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lightgbm", raising=False)
    with pytest.raises(ConfigError) as error:
        fitted()
    assert says(error, "ranker", "libgomp.so.1", "apt-get install libgomp1")


def test_history_without_times_is_ranked() -> None:
    timed, untimed = context_after("a", "b", "c"), context_after("a", "b", "c", timed=False)
    without_call_times = replace(untimed, time=0.0)
    p = probabilities(fitted(), timed, untimed, without_call_times)
    assert np.isfinite(p).all()
    assert (p.argmax(axis=1) == 3).all()
