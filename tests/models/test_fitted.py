from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

from dagrec.data.examples import Context
from dagrec.data.vocabulary import Contexts
from dagrec.errors import ConfigError
from dagrec.graph.mask import MaskPolicy, apply_mask
from dagrec.models.base import Recommender
from dagrec.models.counting.markov import Markov
from dagrec.models.counting.popularity import Popularity
from dagrec.models.fitted import Fitted
from dagrec.training.data import TrainingData
from dagrec.types import Scores
from tests.checks import says
from tests.worlds import branching, everything

CATALOGUE = [("table_b", "rarely"), ("split", "left"), ("split", "merge"), ("hub", "north")]
DATA = TrainingData.of(everything().examples, catalogue=CATALOGUE)
SERVICES = DATA.vocabulary.services
MARKOV = Markov().fit(DATA)
CONTEXTS = [*DATA.contexts.origins, Context(("nobody",)), Context(()), Context(("nobody", "hub"))]
each_policy = pytest.mark.parametrize("policy", MaskPolicy)


class Equal(Popularity):
    """Scores all services equally."""

    def score(self, contexts: Contexts) -> Scores:
        return np.zeros_like(super().score(contexts))


def fitted(
    policy: MaskPolicy = MaskPolicy.OBSERVED,
    temperature: float = 1.0,
    recommender: Recommender = MARKOV,
) -> Fitted:
    return Fitted(recommender, DATA.graph, policy, temperature)


# Probabilities


@each_policy
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_probabilities_equal_masked_softmax_of_scaled_scores(
    policy: MaskPolicy, temperature: float
) -> None:
    contexts = DATA.vocabulary.encode(CONTEXTS)
    masked = fitted(policy, temperature).probabilities(contexts)
    scores = (MARKOV.score(contexts).astype(np.float64) / temperature).astype(np.float32)
    expected = apply_mask(scores, contexts.last, DATA.graph, policy)
    np.testing.assert_allclose(masked.log_probabilities, expected.log_probabilities, rtol=1e-5)
    assert np.array_equal(masked.allowed, expected.allowed)
    assert np.array_equal(masked.unknown, expected.unknown)
    assert np.array_equal(masked.terminal, expected.terminal)


def test_probabilities_without_mask_equal_softmax() -> None:
    contexts = DATA.vocabulary.encode(CONTEXTS)
    log_p = fitted(MaskPolicy.NONE, 2.0).probabilities(contexts).log_probabilities
    expected = log_softmax(MARKOV.score(contexts).astype(np.float64) / 2, axis=1)
    np.testing.assert_allclose(log_p, expected, rtol=1e-5)


@each_policy
def test_mask_argument_overrides_default_mask(policy: MaskPolicy) -> None:
    expected = fitted(policy)
    for default in MaskPolicy:
        model = fitted(default)
        np.testing.assert_array_equal(
            model.probabilities(CONTEXTS, policy).log_probabilities,
            expected.probabilities(CONTEXTS).log_probabilities,
        )
        assert model.recommend(CONTEXTS, 3, policy) == expected.recommend(CONTEXTS, 3)


@each_policy
def test_contexts_may_be_encoded_or_raw(policy: MaskPolicy) -> None:
    encoded = DATA.vocabulary.encode(CONTEXTS)
    model = fitted(policy)
    np.testing.assert_array_equal(
        model.probabilities(CONTEXTS).log_probabilities, model.probabilities(encoded).log_probabilities
    )
    assert model.recommend(CONTEXTS) == model.recommend(encoded)


def test_empty_input_returns_empty_output() -> None:
    assert fitted().probabilities([]).log_probabilities.shape == (0, len(SERVICES))
    assert fitted().recommend([]) == []


def test_catalogue_mask_requires_declared_links() -> None:
    data = branching().data
    model = Fitted(Markov().fit(data), data.graph)
    with pytest.raises(ConfigError) as error:
        model.recommend(data.contexts, mask=MaskPolicy.CATALOGUE)
    assert says(error, "'catalogue'", "found none")


# Recommendations


@each_policy
@pytest.mark.parametrize("k", [1, 3, 1000])
def test_recommend_returns_top_k_allowed_services(policy: MaskPolicy, k: int) -> None:
    model = fitted(policy, 0.7)
    masked = model.probabilities(CONTEXTS)
    for row, recommended in enumerate(model.recommend(CONTEXTS, k)):
        p = np.exp(masked.log_probabilities[row])
        allowed = np.flatnonzero(masked.allowed[row]).tolist()
        expected = sorted(allowed, key=lambda column: (-p[column], column))[:k]
        assert [service for service, _ in recommended] == [SERVICES[column] for column in expected]
        assert [probability for _, probability in recommended] == pytest.approx(p[expected])


def test_recommend_returns_ten_services_by_default() -> None:
    assert {len(services) for services in fitted(MaskPolicy.NONE).recommend(CONTEXTS)} == {10}


@pytest.mark.parametrize("k", [1, 4, len(SERVICES)])
def test_recommend_breaks_ties_by_vocabulary_order(k: int) -> None:
    model = fitted(MaskPolicy.NONE, recommender=Equal().fit(DATA))
    for recommended in model.recommend(CONTEXTS, k):
        assert [service for service, _ in recommended] == list(SERVICES[:k])


def test_recommend_excludes_services_outside_the_mask() -> None:
    context = Context(("table_b",))
    (observed,) = fitted().recommend([context], 1000)
    (declared,) = fitted(MaskPolicy.CATALOGUE).recommend([context], 1000)
    (unmasked,) = fitted(MaskPolicy.NONE).recommend([context], 1000)
    assert [service for service, _ in observed] == ["often", "rarely"]
    assert declared == [("rarely", 1.0)]
    assert unmasked[0][0] == "often"
    assert len(unmasked) == len(SERVICES)


def test_recommend_returns_all_services_if_mask_falls_back() -> None:
    unknown, terminal = fitted().recommend([Context(("nobody",)), Context(("plot",))], 1000)
    assert len(unknown) == len(terminal) == len(SERVICES)
