from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from dagrec.data.examples import Context
from dagrec.data.vocabulary import Contexts
from dagrec.errors import ConfigError, DataError, NumericalError, StoreError
from dagrec.models.counting.markov import Markov, MarkovConfig
from dagrec.models.counting.popularity import Popularity
from dagrec.types import Scores
from tests.checks import says
from tests.worlds import chain, everything


class Constant(Popularity):
    """Scores every service of a known context with the same value."""

    name = "constant"
    value: ClassVar[float] = 7.0

    def _score(self, contexts: Contexts) -> Scores:
        assert (contexts.lengths > 0).all(), "the base class must not pass empty contexts"
        return np.full_like(super()._score(contexts), self.value)


class Broken(Constant):
    value = float("nan")


def test_score_returns_prior_for_contexts_without_known_nodes() -> None:
    data = everything().data
    known, unknown, empty = Context(("table_a",)), Context(("nobody",)), Context(())
    contexts = data.vocabulary.encode([unknown, known, empty, known])
    scores = Constant().fit(data).score(contexts)
    prior = np.log((data.graph.popularity + 1) / (len(data.examples) + len(data.vocabulary.services)))
    np.testing.assert_allclose(scores[[0, 2]], np.stack([prior, prior]), rtol=1e-6)
    assert (scores[[1, 3]] == Constant.value).all()


def test_prior_sums_to_one() -> None:
    data = everything().data
    scores = Constant().fit(data).score(data.vocabulary.encode([Context(())]))
    assert np.exp(scores.astype(np.float64)).sum() == pytest.approx(1, abs=1e-6)


def test_score_rejects_scores_that_are_not_finite() -> None:
    data = chain().data
    model = Broken().fit(data)
    with pytest.raises(NumericalError) as error:
        model.score(data.contexts)
    assert says(error, "constant", "finite", "NaN", "train it again")


def test_repr_shows_configuration_and_seed() -> None:
    text = repr(Markov(MarkovConfig(order=3, mu=0.5), seed=9))
    assert text == "Markov(MarkovConfig(order=3, mu=0.5), seed=9)"


def test_constructor_accepts_hyperparameters_as_keywords() -> None:
    model = Markov(order=3, mu=0.5, seed=9)
    assert model.config == MarkovConfig(order=3, mu=0.5)
    assert model.seed == 9
    for options, parts in (({"ordre": 3}, ("ordre", "order")), ({"order": 0}, ("order", "found 0"))):
        with pytest.raises(ConfigError) as error:
            Markov(**options)
        assert says(error, "'markov'", *parts)


def test_fit_rejects_other_types_than_training_data() -> None:
    with pytest.raises(DataError) as error:
        Markov().fit(chain().examples)  # type: ignore[arg-type]
    assert says(error, "markov", "TrainingData", "found tuple")
    assert error.value.rule == "wrong-type"


def test_constructor_without_arguments_uses_defaults() -> None:
    assert Markov().config == MarkovConfig()
    assert Markov().seed == 0


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a saved Markov recommender fitted on the chain world."""
    Markov(MarkovConfig(order=2, mu=5.0), seed=3).fit(chain().data).save(
        tmp_path, chain().data.vocabulary
    )
    return tmp_path


def test_save_writes_metadata_to_model_json(saved: Path) -> None:
    metadata = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    assert metadata == {
        "recommender": "markov",
        "config": {"order": 2, "mu": 5.0},
        "seed": 3,
        "vocabulary": chain().data.vocabulary.fingerprint,
        "history": [],
    }
    assert next(iter(metadata)) == "recommender"


def load(folder: Path, **changes: object) -> Markov:
    """Load the saved model after changes to its model.json (None removes a field)."""
    metadata = json.loads((folder / "model.json").read_text(encoding="utf-8")) | changes
    metadata = {key: value for key, value in metadata.items() if value is not None}
    return Markov.load(folder, metadata, chain().data.vocabulary, chain().data.graph)


def test_load_restores_saved_model(saved: Path) -> None:
    model = load(saved)
    assert model.config == MarkovConfig(order=2, mu=5.0)
    assert model.seed == 3


def test_load_rejects_model_of_another_vocabulary(saved: Path) -> None:
    with pytest.raises(StoreError) as error:
        load(saved, vocabulary="something else")
    assert says(error, str(saved), "vocabulary", "publish the bundle again")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"order": 0}}, "order"),
        ({"config": {"older": 1}}, "older"),
        ({"config": None}, "config"),
        ({"seed": "x"}, "'x'"),
        ({"history": [[1]]}, "validation"),
    ],
)
def test_load_rejects_invalid_model_json(saved: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(StoreError) as error:
        load(saved, **changes)
    assert message in str(error.value)
    assert "publish the bundle again" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_load_rejects_damaged_tensors(saved: Path, content: bytes | None) -> None:
    file = saved / "tensors.safetensors"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(StoreError) as error:
        load(saved)
    assert says(error, str(saved), "must be readable", "publish the bundle again")


@pytest.mark.parametrize(("prior", "shape"), [(None, "none"), (np.zeros(99), "(99,)")])
def test_restore_rejects_prior_of_wrong_shape(prior: np.ndarray | None, shape: str) -> None:
    data = chain().data
    state = {key: value for key, value in Markov().fit(data).state().items() if key != "prior"}
    if prior is not None:
        state["prior"] = prior
    with pytest.raises(StoreError) as error:
        Markov().restore(state, data.vocabulary, data.graph)
    assert says(error, "markov", f"each of {len(data.vocabulary.services)} services", f"found {shape}")
