"""Several models, open ends and requests at once; the cache; limits; the `why` of an answer."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dagrec.errors import RequestError
from dagrec.models.registry import MODELS
from dagrec.recommend.answers import Answer, Answers
from dagrec.recommend.predictor import MAX_CACHED_LENGTH, MAX_QUERIES, Predictor
from dagrec.recommend.request import MAX_OPEN_ENDS, make_request
from dagrec.store.bundle import Bundle
from tests.recommend.requests import FORK, PATH, answers_of, ask, ask_all, chain, comparable


def assert_close(actual: Answer, expected: Answer) -> None:
    """Probabilities may differ in the last bits, because scores depend on the batch."""
    order = [(p.rank, p.service, p.support) for p in expected.predictions]
    assert [(p.rank, p.service, p.support) for p in actual.predictions] == order
    probabilities = [p.probability for p in expected.predictions]
    assert [p.probability for p in actual.predictions] == pytest.approx(probabilities, rel=1e-5)


def test_models_all_equals_single_answers(bundle: Bundle) -> None:
    answers = ask_all(bundle, path=PATH, models="all")
    assert [answer.model for answer in answers] == list(MODELS)
    for answer in answers:
        assert answer == ask(bundle, path=PATH, model=answer.model)


def test_models_keep_order_without_duplicates(bundle: Bundle) -> None:
    answers = ask_all(bundle, path=PATH, models=["popularity", "markov", "popularity"])
    assert [answer.model for answer in answers] == ["popularity", "markov"]
    (answer,) = ask_all(bundle, path=PATH, models=["markov"])
    assert answer == ask(bundle, path=PATH, model="markov")


def test_composition_without_at_answers_every_open_end(bundle: Bundle) -> None:
    answers = ask_all(bundle, composition=FORK, models=["markov", "dagset"])
    assert [(answer.at, answer.model) for answer in answers] == [
        ("a", "markov"),
        ("a", "dagset"),
        ("b", "markov"),
        ("b", "dagset"),
    ]
    for answer in answers:
        assert_close(
            comparable(answer), ask(bundle, composition=FORK, at=answer.at, model=answer.model)
        )


@pytest.mark.parametrize("model", MODELS)
def test_batch_equals_single_answers(model: str, bundle: Bundle) -> None:
    requests = [
        {"path": PATH, "model": model},
        {"path": ["new", "service_303"], "model": model, "mask": "soft", "k": 3},
        {"path": [], "model": model},
        {**chain(301, 303, 305), "model": model, "no_repeats": True},
        {"path": PATH, "model": model, "mask": "none", "deny": ["service_303"]},
    ]
    answers = Predictor(bundle).batch([make_request(values) for values in requests])
    for answer, values in zip(answers, requests, strict=True):
        assert isinstance(answer, Answer)
        assert_close(answer, ask(bundle, **values))


def test_batch_answers_valid_requests_beside_invalid_ones(bundle: Bundle) -> None:
    invalid = [{"path": PATH, "model": "unknown"}, {**chain(301), "at": "missing"}]
    valid = {"path": PATH}
    results = Predictor(bundle).batch([make_request(v) for v in (valid, *invalid, valid)])
    assert [type(result) for result in results] == [Answer, RequestError, RequestError, Answer]
    assert "model must be one of" in str(results[1])
    assert "found 'missing'" in str(results[2])


def test_cached_answers_equal_computed_ones(bundle: Bundle) -> None:
    predictor = Predictor(bundle, cache=100)
    requests = [
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
        for values in requests:
            answer = predictor.answer(make_request(values))
            assert isinstance(answer, Answer)
            assert comparable(answer) == ask(bundle, **values)
    # Six distinct contexts are cached; the one with a history is not, and misses in each round.
    assert (predictor.misses, predictor.hits) == (6 + 3, 3 * len(requests) - 6 - 3)


def test_cache_size_and_context_length_are_limited(bundle: Bundle) -> None:
    predictor = Predictor(bundle, cache=2)
    for path in (["service_301"], ["service_302"], ["service_301"], ["service_303"], ["service_302"]):
        predictor.answer(make_request({"path": path}))
    assert (predictor.hits, predictor.misses) == (1, 4)
    long = make_request({"path": ["x" * 1000] * (MAX_CACHED_LENGTH // 1000 + 1)})
    for _ in range(2):
        predictor.answer(long)
    assert (predictor.hits, predictor.misses) == (1, 6)
    assert len(predictor._cache) == 2


def test_predictor_is_thread_safe(bundle: Bundle) -> None:
    predictor = Predictor(bundle, cache=3)
    requests = [{"path": [f"service_{301 + i % 6}"], "k": 1 + i % 3} for i in range(60)]
    expected = [ask(bundle, **values) for values in requests]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            answers = pool.map(lambda values: predictor.answer(make_request(values)), requests)
            assert [answers_of(answer)[0] for answer in answers] == expected


def test_answer_raises_after_timeout(bundle: Bundle) -> None:
    request = make_request({"path": PATH, "models": "all"})
    start = time.perf_counter()
    with pytest.raises(RequestError, match=r"an answer must take at most 1e-06 s, found it unfinished"):
        Predictor(bundle).answer(request, timeout=1e-6)
    assert time.perf_counter() - start < 1
    assert isinstance(Predictor(bundle).answer(request, timeout=60), Answers)


def test_too_many_queries_are_rejected_before_scoring(bundle: Bundle) -> None:
    nodes = [{"id": i, "mid": 301} for i in range(MAX_OPEN_ENDS)]
    request = make_request({"composition": {"nodes": nodes, "links": []}, "models": "all"})
    assert MAX_OPEN_ENDS * len(MODELS) > MAX_QUERIES
    with pytest.raises(RequestError, match=f"at most {MAX_QUERIES} at once, found more"):
        Predictor(bundle).answer(request)
    request = make_request({"composition": {"nodes": nodes, "links": []}, "model": "markov"})
    with pytest.raises(RequestError, match=f"at most {MAX_QUERIES} at once, found more"):
        Predictor(bundle).batch([request] * (MAX_QUERIES // MAX_OPEN_ENDS + 1))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"path": PATH}, None),
        ({"path": ["x"]}, "no node occurs in the training data: services are ranked by frequency"),
        ({"path": ["x", *PATH]}, "1 unknown node was skipped"),
        ({"path": ["x", "y", *PATH]}, "2 unknown nodes were skipped"),
        ({"path": [*PATH, "x"]}, "the node to extend is unknown: the mask allows every service"),
        ({"path": PATH, "allow": []}, "allow, deny and no_repeats leave no service"),
    ],
)
def test_why_describes_fallbacks_and_empty_answers(
    values: dict[str, Any], why: str | None, bundle: Bundle
) -> None:
    actual = ask(bundle, **values).why
    assert actual is None if why is None else why in (actual or "")
    assert not (ask(bundle, **values, mask="none").why or "").endswith("allows every service")
