from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dagrec.models.registry import MODELS
from dagrec.store.bundle import Bundle
from tests.recommend.requests import FORK, PATH, ask


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "values", [{"path": PATH}, {"composition": FORK, "at": "b"}, {"path": []}, {"path": ["x"]}]
)
def test_explanation_of_every_recommender(values: dict[str, Any], model: str, bundle: Bundle) -> None:
    answer = ask(bundle, **values, model=model, explain=True)
    explanation = answer.explanation
    assert explanation is not None
    assert [step.service for step in explanation.steps] == [p.service for p in answer.predictions]
    path = values.get("path", ["table_1001002", "service_303"])
    for step, prediction in zip(explanation.steps, answer.predictions, strict=True):
        assert step.after == path[len(path) - len(step.after) :]
        assert (step.compositions > 0) == bool(step.after) == bool(prediction.support)
        assert len(step.examples) == min(3, step.compositions)
    if explanation.weights is not None:
        assert np.isclose(sum(weight.weight for weight in explanation.weights), 1, atol=1e-5)
    assert answer.model_copy(update={"explanation": None}) == ask(bundle, **values, model=model)


def test_explanation_weights_name_nodes_or_components(bundle: Bundle) -> None:
    def weights(model: str) -> set[str]:
        explanation = ask(bundle, path=PATH, model=model, explain=True).explanation
        assert explanation is not None
        return {weight.of for weight in explanation.weights or ()}

    assert weights("markov") == set()
    assert weights("sasrec") == weights("deepdag") == set(PATH)
    assert "markov" in weights("cache")
    assert weights("blend") <= {"markov", "vsknn", "ridge", "dagset", "popularity"} | set(MODELS)
    assert weights("auto")
