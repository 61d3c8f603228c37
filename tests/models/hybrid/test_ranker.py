from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dagrec.errors import ConfigError, StoreError
from dagrec.models.hybrid.events import Past
from dagrec.models.hybrid.over_base import Question
from dagrec.models.hybrid.ranker import Ranker, RankerConfig, candidates, describe
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.checks import says
from tests.models.hybrid.owners import alternating, asked

SERVICES = ("a", "b", "c", "d")
DATA = alternating(services=SERVICES)


def fitted(data: TrainingData = DATA, **options: float) -> Ranker:
    return Ranker(RankerConfig.model_validate(options)).fit(data)


def probabilities(model: Ranker, *contexts: object, data: TrainingData = DATA) -> Floats:
    encoded = data.vocabulary.encode(list(contexts))  # type: ignore[arg-type]
    found: Floats = np.exp(model.score(encoded).astype(np.float64))
    return found


def test_the_first_tree_is_a_newton_step_of_the_softmax() -> None:
    """From equal scores p = 1 / C: a leaf of n rows, k of them targets, gets
    rate (k - n p) / (n 2 p (1 - p))."""
    model = fitted(rounds=1, learning_rate=0.5)
    _, questions = model._out_of_fold(DATA)
    columns = np.arange(len(SERVICES))
    rows = np.concatenate([describe(q.past, q.base, columns) for q in questions])
    wanted = np.concatenate([columns == q.target for q in questions])
    leaves = model._trees.predict(rows, pred_leaf=True).ravel()
    values = model._trees.predict(rows, raw_score=True)
    p = 1 / len(SERVICES)
    assert len(set(leaves)) > 2
    for leaf in set(leaves):
        own = leaves == leaf
        expected = 0.5 * (wanted[own].sum() - own.sum() * p) / (own.sum() * 2 * p * (1 - p))
        assert values[own] == pytest.approx(expected, rel=1e-5)


def test_more_trees_fit_the_training_examples_better() -> None:
    def loss(rounds: int) -> float:
        model = fitted(rounds=rounds)
        _, questions = model._out_of_fold(DATA)
        logs = model._correct([q.past for q in questions], np.stack([q.base for q in questions]))
        return -float(np.mean([row[q.target] for row, q in zip(logs, questions, strict=True)]))

    losses = [loss(rounds) for rounds in (1, 5, 20, 80)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] < np.log(len(SERVICES))
    assert losses[-1] < 0.2


def test_two_fits_are_the_same_bytes() -> None:
    states = [fitted().state() for _ in range(2)]
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])


def test_the_trees_are_stored_as_the_text_of_lightgbm() -> None:
    text = fitted().state()["trees"].tobytes()
    assert text.startswith(b"tree\n")
    assert b"Tree=0\n" in text


@pytest.mark.parametrize("place", [0, 100, -100])
def test_a_corrupted_text_is_refused(place: int) -> None:
    state = fitted().state()
    trees = state["trees"].copy()
    trees[place] ^= 1
    with pytest.raises(StoreError) as error:
        Ranker().restore(state | {"trees": trees}, DATA.vocabulary, DATA.graph)
    assert says(error, "ranker", "checksum", "train it again")


def test_a_text_that_is_no_model_is_refused() -> None:
    import zlib

    state = fitted().state()
    for text in (b"", b"no trees", b"\xff\xfe"):
        state["trees"] = np.frombuffer(text, dtype=np.uint8)
        state["trees_crc32"] = np.array([zlib.crc32(text)])
        with pytest.raises(StoreError) as error:
            Ranker().restore(state, DATA.vocabulary, DATA.graph)
        assert says(error, "ranker", "train it again")


# Large catalogues


def test_candidates_are_the_newest_calls_and_then_the_likeliest() -> None:
    columns = {name: i for i, name in enumerate("abcdef")}
    past = Past.of(asked("e", "b", "e", "d"), columns)
    base = np.log([0.3, 0.05, 0.4, 0.05, 0.1, 0.1])
    assert candidates(past, base, 2).tolist() == [3, 4]
    assert candidates(past, base, 4).tolist() == [1, 2, 3, 4]
    assert candidates(past, base, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_services_that_are_not_ranked_keep_the_probability_of_the_base() -> None:
    model = fitted(candidates=2)
    context = asked("a", "b", "c", "a")
    logs = create("markov").fit(DATA).score(DATA.vocabulary.encode([asked()]))[0].astype(np.float64)
    base = np.exp(logs / model._temperature)
    base /= base.sum()
    found = probabilities(model, context)[0]
    assert found.sum() == pytest.approx(1)
    assert found[[1, 3]] == pytest.approx(base[[1, 3]], rel=1e-5)
    assert found[[0, 2]].sum() == pytest.approx(base[[0, 2]].sum(), rel=1e-5)


def test_as_many_candidates_as_services_are_all_of_them() -> None:
    contexts = [asked("a", "b"), asked("d")]
    few, all_ = (probabilities(fitted(candidates=n), *contexts) for n in (len(SERVICES), 100))
    np.testing.assert_array_equal(few, all_)


def test_an_example_whose_target_is_not_ranked_teaches_nothing() -> None:
    past = Past.of(asked("a", "b"), DATA.vocabulary.columns)
    ranked, not_ranked = (Question(past, np.log(np.full(4, 0.25)), target) for target in (0, 3))
    model = Ranker(RankerConfig(candidates=2))
    assert model._learn([not_ranked]) == {}
    both, one = (model._learn(questions) for questions in ([ranked, not_ranked], [ranked]))
    assert np.array_equal(both["trees"], one["trees"])


# The package


def test_lightgbm_is_imported_only_when_trees_are_grown_or_read() -> None:
    code = (
        "import sys, dagrec.models.hybrid.ranker as r\n"
        "r.Ranker()\n"
        "sys.exit(3 if {'lightgbm', 'torch'} & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError) as error:
        fitted()
    assert says(error, "ranker", "'lightgbm'", "dagrec[train]")


def test_a_missing_system_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = "raise OSError('libgomp.so.1: cannot open shared object file')\n"
    (tmp_path / "lightgbm.py").write_text(broken, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lightgbm", raising=False)
    with pytest.raises(ConfigError) as error:
        fitted()
    assert says(error, "ranker", "libgomp.so.1", "apt-get install libgomp1")


def test_a_history_without_times_has_gaps_that_trees_can_read() -> None:
    timed, untimed = asked("a", "b", "c"), asked("a", "b", "c", timed=False)
    half = replace(untimed, time=0.0)
    p = probabilities(fitted(), timed, untimed, half)
    assert np.isfinite(p).all()
    assert (p.argmax(axis=1) == 3).all()
