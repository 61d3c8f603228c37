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
ASKED = [*DATA.contexts.origins, Context(("nobody",)), Context(()), Context(("nobody", "hub"))]
each_policy = pytest.mark.parametrize("policy", MaskPolicy)


class Equal(Popularity):
    """The same score for every service."""

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
def test_probabilities_are_those_of_scores_over_temperature_under_the_mask(
    policy: MaskPolicy, temperature: float
) -> None:
    contexts = DATA.vocabulary.encode(ASKED)
    found = fitted(policy, temperature).probabilities(contexts)
    scores = (MARKOV.score(contexts).astype(np.float64) / temperature).astype(np.float32)
    expected = apply_mask(scores, contexts.last, DATA.graph, policy)
    np.testing.assert_allclose(found.log_probabilities, expected.log_probabilities, rtol=1e-5)
    assert np.array_equal(found.allowed, expected.allowed)
    assert np.array_equal(found.unknown, expected.unknown)
    assert np.array_equal(found.terminal, expected.terminal)


def test_without_a_mask_they_are_a_softmax() -> None:
    contexts = DATA.vocabulary.encode(ASKED)
    found = fitted(MaskPolicy.NONE, 2.0).probabilities(contexts).log_probabilities
    expected = log_softmax(MARKOV.score(contexts).astype(np.float64) / 2, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@each_policy
def test_a_mask_of_the_call_replaces_its_own(policy: MaskPolicy) -> None:
    for own in MaskPolicy:
        found, expected = fitted(own).probabilities(ASKED, policy), fitted(policy).probabilities(ASKED)
        np.testing.assert_array_equal(found.log_probabilities, expected.log_probabilities)
        assert fitted(own).recommend(ASKED, 3, policy) == fitted(policy).recommend(ASKED, 3)


@each_policy
def test_contexts_may_be_encoded_or_not(policy: MaskPolicy) -> None:
    encoded = DATA.vocabulary.encode(ASKED)
    one, other = fitted(policy).probabilities(ASKED), fitted(policy).probabilities(encoded)
    np.testing.assert_array_equal(one.log_probabilities, other.log_probabilities)
    assert fitted(policy).recommend(ASKED) == fitted(policy).recommend(encoded)


def test_no_contexts_have_no_answers() -> None:
    assert fitted().probabilities([]).log_probabilities.shape == (0, len(SERVICES))
    assert fitted().recommend([]) == []


def test_the_catalogue_mask_needs_declared_links() -> None:
    data = branching().data
    model = Fitted(Markov().fit(data), data.graph)
    with pytest.raises(ConfigError) as error:
        model.recommend(data.contexts, mask=MaskPolicy.CATALOGUE)
    assert says(error, "'catalogue'", "found none")


# Recommendations


@each_policy
@pytest.mark.parametrize("k", [1, 3, 1000])
def test_services_are_recommended_by_probability(policy: MaskPolicy, k: int) -> None:
    """Against a plain sort of all services that the mask allows."""
    model = fitted(policy, 0.7)
    masked = model.probabilities(ASKED)
    for row, answer in enumerate(model.recommend(ASKED, k)):
        p = np.exp(masked.log_probabilities[row])
        allowed = np.flatnonzero(masked.allowed[row]).tolist()
        expected = sorted(allowed, key=lambda column: (-p[column], column))[:k]
        assert [service for service, _ in answer] == [SERVICES[column] for column in expected]
        assert [probability for _, probability in answer] == pytest.approx(p[expected])


def test_ten_services_are_recommended_where_no_number_is_given() -> None:
    assert {len(answer) for answer in fitted(MaskPolicy.NONE).recommend(ASKED)} == {10}


@pytest.mark.parametrize("k", [1, 4, len(SERVICES)])
def test_equal_probabilities_keep_the_order_of_the_vocabulary(k: int) -> None:
    model = fitted(MaskPolicy.NONE, recommender=Equal().fit(DATA))
    for answer in model.recommend(ASKED, k):
        assert [service for service, _ in answer] == list(SERVICES[:k])


def test_no_service_outside_the_mask_is_recommended() -> None:
    """However likely it is without the mask, and however many are asked for."""
    context = Context(("table_b",))
    (observed,) = fitted().recommend([context], 1000)
    (declared,) = fitted(MaskPolicy.CATALOGUE).recommend([context], 1000)
    (everywhere,) = fitted(MaskPolicy.NONE).recommend([context], 1000)
    assert [service for service, _ in observed] == ["often", "rarely"]
    assert declared == [("rarely", 1.0)]
    assert everywhere[0][0] == "often"
    assert len(everywhere) == len(SERVICES)


def test_where_the_mask_falls_back_all_services_are_recommended() -> None:
    unknown, terminal = fitted().recommend([Context(("nobody",)), Context(("plot",))], 1000)
    assert len(unknown) == len(terminal) == len(SERVICES)
