"""Several answers at once: side by side, in batches; what is remembered; limits; explanations."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dagrec.errors import RequestError
from dagrec.models.registry import MODELS
from dagrec.recommend.answers import Answer, Answers
from dagrec.recommend.predictor import MAX_CACHED_LENGTH, MAX_QUESTIONS, Predictor
from dagrec.recommend.request import MAX_OPEN_ENDS, make_request
from dagrec.store.bundle import Bundle
from tests.recommend.asking import all_of, ask, ask_all, chain, plain

PATH = ["table_1001002", "service_301"]
FORK: dict[str, Any] = {
    "nodes": [{"id": "1001002"}, {"id": "a", "mid": 301}, {"id": "b", "mid": 303}],
    "links": [{"source": "1001002", "target": "a"}, {"source": "1001002", "target": "b"}],
}


def check_close(one: Answer, other: Answer) -> None:
    """The same services in the same order; models that score together may differ in the last bits."""
    order = [(p.rank, p.service, p.support) for p in one.predictions]
    assert order == [(p.rank, p.service, p.support) for p in other.predictions]
    theirs = [p.probability for p in other.predictions]
    assert [p.probability for p in one.predictions] == pytest.approx(theirs, rel=1e-5)


def test_all_models_answer_side_by_side_as_each_does_alone(bundle: Bundle) -> None:
    found = ask_all(bundle, path=PATH, models="all")
    assert [answer.model for answer in found] == list(MODELS)
    for answer in found:
        assert answer == ask(bundle, path=PATH, model=answer.model)


def test_named_models_answer_in_their_order_each_once(bundle: Bundle) -> None:
    found = ask_all(bundle, path=PATH, models=["popularity", "markov", "popularity"])
    assert [answer.model for answer in found] == ["popularity", "markov"]
    (alone,) = ask_all(bundle, path=PATH, models=["markov"])
    assert alone == ask(bundle, path=PATH, model="markov")


def test_every_open_end_is_answered_where_none_is_named(bundle: Bundle) -> None:
    found = ask_all(bundle, composition=FORK, models=["markov", "dagset"])
    assert [(answer.at, answer.model) for answer in found] == [
        ("a", "markov"),
        ("a", "dagset"),
        ("b", "markov"),
        ("b", "dagset"),
    ]
    for answer in found:
        check_close(plain(answer), ask(bundle, composition=FORK, at=answer.at, model=answer.model))


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_answers_as_single_requests_do(model: str, bundle: Bundle) -> None:
    requests = [
        {"path": PATH, "model": model},
        {"path": ["new", "service_303"], "model": model, "mask": "soft", "k": 3},
        {"path": [], "model": model},
        {**chain(301, 303, 305), "model": model, "no_repeats": True},
        {"path": PATH, "model": model, "mask": "none", "deny": ["service_303"]},
    ]
    found = Predictor(bundle).batch([make_request(values) for values in requests])
    for answer, values in zip(found, requests, strict=True):
        assert isinstance(answer, Answer)
        check_close(answer, ask(bundle, **values))


def test_a_wrong_request_of_a_batch_leaves_the_others(bundle: Bundle) -> None:
    wrong = [{"path": PATH, "model": "nobody"}, {**chain(301), "at": "nowhere"}]
    right = {"path": PATH}
    found = Predictor(bundle).batch([make_request(v) for v in (right, *wrong, right)])
    assert [type(each) for each in found] == [Answer, RequestError, RequestError, Answer]
    assert "model must be one of" in str(found[1])
    assert "found 'nowhere'" in str(found[2])


def test_what_is_remembered_is_what_would_be_answered(bundle: Bundle) -> None:
    predictor = Predictor(bundle, cache=100)
    asked = [
        {"path": PATH, "k": 3},
        {"path": PATH},
        {"path": PATH, "mask": "soft"},
        {"path": PATH, "model": "gru4rec"},
        {"path": PATH, "deny": ["service_303"]},
        {"path": PATH, "novelty": 1.0},
        {"path": PATH, "diversity": 0.5},
        {"composition": FORK, "at": "a"},
        {"composition": FORK, "at": "b"},
        {"path": PATH, "time": 5},
        {"path": PATH, "history": [{"path": PATH}]},
    ]
    for _ in range(3):
        for values in asked:
            answer = predictor.answer(make_request(values))
            assert isinstance(answer, Answer)
            assert plain(answer) == ask(bundle, **values)
    # A history is not remembered; the first four of the path, filtered and re-ranked, are one context.
    distinct = 6
    assert (predictor.misses, predictor.hits) == (distinct + 3, 3 * len(asked) - distinct - 3)


def test_no_more_is_remembered_than_was_allowed(bundle: Bundle) -> None:
    predictor = Predictor(bundle, cache=2)
    for path in (["service_301"], ["service_302"], ["service_301"], ["service_303"], ["service_302"]):
        predictor.answer(make_request({"path": path}))
    assert (predictor.hits, predictor.misses) == (1, 4)
    long = make_request({"path": ["x" * 1000] * (MAX_CACHED_LENGTH // 1000 + 1)})
    for _ in range(2):
        predictor.answer(long)
    assert (predictor.hits, predictor.misses) == (1, 6)
    assert len(predictor._cached) == 2


def test_threads_share_a_predictor(bundle: Bundle) -> None:
    predictor = Predictor(bundle, cache=3)
    asked = [{"path": [f"service_{301 + i % 6}"], "k": 1 + i % 3} for i in range(60)]
    expected = [ask(bundle, **values) for values in asked]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            found = pool.map(lambda values: predictor.answer(make_request(values)), asked)
            assert [all_of(answer)[0] for answer in found] == expected


def test_the_time_is_limited(bundle: Bundle) -> None:
    request = make_request({"path": PATH, "models": "all"})
    start = time.perf_counter()
    with pytest.raises(RequestError, match=r"an answer may take 1e-06 s, found it unfinished then"):
        Predictor(bundle).answer(request, timeout=1e-6)
    assert time.perf_counter() - start < 1
    assert isinstance(Predictor(bundle).answer(request, timeout=60), Answers)


def test_questions_are_counted_before_any_is_answered(bundle: Bundle) -> None:
    nodes = [{"id": i, "mid": 301} for i in range(MAX_OPEN_ENDS)]
    request = make_request({"composition": {"nodes": nodes, "links": []}, "models": "all"})
    assert MAX_OPEN_ENDS * len(MODELS) > MAX_QUESTIONS
    with pytest.raises(RequestError, match=f"may be {MAX_QUESTIONS} at once, found more"):
        Predictor(bundle).answer(request)
    one = make_request({"composition": {"nodes": nodes, "links": []}, "model": "markov"})
    with pytest.raises(RequestError, match=f"may be {MAX_QUESTIONS} at once, found more"):
        Predictor(bundle).batch([one] * (MAX_QUESTIONS // MAX_OPEN_ENDS + 1))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"path": PATH}, None),
        ({"path": ["x"]}, "no node is known to training: services are ranked by how often they occur"),
        ({"path": ["x", *PATH]}, "1 unknown node was passed over"),
        ({"path": ["x", "y", *PATH]}, "2 unknown nodes were passed over"),
        ({"path": [*PATH, "x"]}, "the node to extend is unknown: the mask allows every service"),
        ({"path": PATH, "allow": []}, "allow, deny and no_repeats leave no service"),
    ],
)
def test_an_answer_says_why_it_is_not_the_models_own(
    values: dict[str, Any], why: str | None, bundle: Bundle
) -> None:
    found = ask(bundle, **values).why
    assert found is None if why is None else why in (found or "")
    assert not (ask(bundle, **values, mask="none").why or "").endswith("allows every service")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "values", [{"path": PATH}, {"composition": FORK, "at": "b"}, {"path": []}, {"path": ["x"]}]
)
def test_every_recommender_explains_itself(values: dict[str, Any], model: str, bundle: Bundle) -> None:
    answer = ask(bundle, **values, model=model, explain=True)
    found = answer.explanation
    assert found is not None
    assert [step.service for step in found.steps] == [p.service for p in answer.predictions]
    path = values.get("path", ["table_1001002", "service_303"])
    for step, prediction in zip(found.steps, answer.predictions, strict=True):
        assert step.after == path[len(path) - len(step.after) :]
        assert (step.compositions > 0) == bool(step.after) == bool(prediction.support)
        assert len(step.examples) == min(3, step.compositions)
    if found.weights is not None:
        assert np.isclose(sum(weight.weight for weight in found.weights), 1, atol=1e-5)
    assert answer.model_copy(update={"explanation": None}) == ask(bundle, **values, model=model)


def test_models_that_weigh_tell_their_weights(bundle: Bundle) -> None:
    def weights(model: str) -> set[str]:
        found = ask(bundle, path=PATH, model=model, explain=True).explanation
        assert found is not None
        return {weight.of for weight in found.weights or ()}

    assert weights("markov") == set()
    assert weights("sasrec") == weights("deepdag") == set(PATH)
    assert "markov" in weights("cache")
    assert weights("blend") <= {"markov", "vsknn", "ridge", "dagset", "popularity"} | set(MODELS)
    assert weights("auto")
