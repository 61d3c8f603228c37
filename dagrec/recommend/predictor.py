"""Requests into ranked services: the same for Python, the command line and the service."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Any

import numpy as np

from dagrec.data.examples import Context
from dagrec.data.formats.documents import parse_json, require_object
from dagrec.data.vocabulary import UNKNOWN
from dagrec.errors import DataError, RequestError
from dagrec.graph.mask import MaskPolicy
from dagrec.recommend.answers import PREDICTIONS, Answer, Answers, Prediction, Strategy
from dagrec.recommend.explain import explain
from dagrec.recommend.request import (
    PredictRequest,
    context_keys,
    make_request,
    present_keys,
    resolve,
)
from dagrec.recommend.rerank import allowed_services, rank, restrict
from dagrec.store.bundle import Bundle
from dagrec.types import Floats, Mask

MAX_QUESTIONS = 300
"""Contexts times models that are answered together."""
ROWS_PER_PASS = 16
"""Contexts that a model scores in one pass; between passes the time is checked."""
MAX_CACHED_LENGTH = 20_000
"""Characters of a context that is cached, at most; a bound on memory."""


def predict(bundle: Bundle, request: PredictRequest) -> Answer | Answers:
    """The answer of a bundle; see :meth:`Predictor.answer`."""
    return Predictor(bundle).answer(request)


def predict_lines(
    bundle: Bundle, lines: Iterable[str], defaults: dict[str, Any]
) -> Iterator[Answer | Answers | RequestError]:
    """An answer, or the error in its place, for each line of JSON that is not blank, in order.

    ``defaults`` are the fields that a line may leave out.
    """
    predictor = Predictor(bundle)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                values = require_object(parse_json(line), "a request")
                yield predictor.answer(make_request(defaults | values))
            except (RequestError, DataError) as error:
                yield RequestError(f"line {number}: {error}")


@dataclass(frozen=True, slots=True)
class _Question:
    """One model asked about one context."""

    request: PredictRequest
    context: Context
    label: str
    mask: MaskPolicy


@dataclass(slots=True)
class _Distribution:
    """A model's probabilities after the mask, before a request's filters and order.

    log_probabilities, allowed: [C]; candidates: how many are allowed; last: node id of the frontier.
    """

    log_probabilities: Floats
    allowed: Mask
    candidates: int
    last: int
    mask_fallback: bool
    terminal: bool
    unknown: list[str]
    strategy: Strategy
    ranked: tuple[int, list[Prediction]] | None = None
    """The ranking without filters and re-ranking, for the last k that was asked for."""


class _Clock:
    """How long an answer took, and whether that is too long."""

    def __init__(self, timeout: float | None) -> None:
        self._start = time.perf_counter()
        self._timeout = timeout

    def took_ms(self) -> float:
        return round((time.perf_counter() - self._start) * 1000, 3)

    def check(self) -> None:
        """Raise :class:`RequestError` when the time is over."""
        if self._timeout is not None and time.perf_counter() - self._start > self._timeout:
            raise RequestError(
                f"an answer may take {self._timeout:g} s, found it unfinished then; name fewer models, "
                "or `at`, or send smaller or fewer requests"
            )


class Predictor:
    """Answers from one bundle. Threads may share it.

    The distributions of up to ``cache`` contexts are kept, and the least recently used are dropped;
    ``hits`` and ``misses`` count how often one was found there. Answers are the same without a cache.
    """

    def __init__(self, bundle: Bundle, *, cache: int = 0) -> None:
        self.bundle = bundle
        self.cache = cache
        self.hits = self.misses = 0
        self._cached: OrderedDict[tuple[str, MaskPolicy, Context], _Distribution] = OrderedDict()
        self._lock = Lock()

    def answer(self, request: PredictRequest, *, timeout: float | None = None) -> Answer | Answers:
        """One answer; or several, where the request names ``models`` or leaves several ends open.

        Raises :class:`RequestError` for a composition, node, model or mask that does not exist or does
        not hold together, for too much at once, and for what takes longer than ``timeout`` seconds.
        """
        (answer,) = self.batch([request], timeout=timeout)
        if isinstance(answer, RequestError):
            raise answer
        return answer

    def batch(
        self, requests: Sequence[PredictRequest], *, timeout: float | None = None
    ) -> list[Answer | Answers | RequestError]:
        """The :meth:`answer` to each, or the error in its place. Models score contexts together.

        Raises :class:`RequestError` where all together are too much, or take too long.
        """
        clock = _Clock(timeout)
        questions: list[_Question] = []
        errors: dict[int, RequestError] = {}
        counts = []
        for i, request in enumerate(requests):
            clock.check()
            before = len(questions)
            try:
                contexts, labels, mask = resolve(request, self.bundle)
                questions += [_Question(request, c, label, mask) for c in contexts for label in labels]
            except RequestError as error:
                errors[i] = error
            counts.append(len(questions) - before)
            if len(questions) > MAX_QUESTIONS:
                raise RequestError(
                    f"models times nodes to extend may be {MAX_QUESTIONS} at once, found more; name "
                    "fewer models, or `at`, or send fewer requests"
                )
        pairs = iter(zip(questions, self._distributions(questions, clock), strict=True))
        results: list[Answer | Answers | RequestError] = []
        for i, (request, count) in enumerate(zip(requests, counts, strict=True)):
            answers = [self._answer(q, distribution, clock) for q, distribution in islice(pairs, count)]
            if i in errors:
                results.append(errors[i])
            elif count == 1 and request.models is None:
                results.append(answers[0])
            else:
                results.append(Answers(answers=answers, took_ms=clock.took_ms()))
        return results

    def _distributions(self, questions: Sequence[_Question], clock: _Clock) -> list[_Distribution]:
        """The models' distributions, in the order of the questions."""
        distributions: dict[int, _Distribution] = {}
        missing: dict[tuple[str, MaskPolicy], list[int]] = {}
        for i, q in enumerate(questions):
            cached = self._from_cache(q)
            if cached is None:
                missing.setdefault((q.label, q.mask), []).append(i)
            else:
                distributions[i] = cached
        for (label, mask), rows in missing.items():
            for start in range(0, len(rows), ROWS_PER_PASS):
                clock.check()
                part = rows[start : start + ROWS_PER_PASS]
                contexts = [questions[i].context for i in part]
                for i, computed in zip(part, self._compute(label, mask, contexts), strict=True):
                    distributions[i] = computed
                    self._to_cache(questions[i], computed)
        return [distributions[i] for i in range(len(questions))]

    def _compute(
        self, label: str, mask: MaskPolicy, contexts: Sequence[Context]
    ) -> Iterator[_Distribution]:
        vocabulary = self.bundle.vocabulary
        encoded = vocabulary.encode(contexts)
        masked = self.bundle.models[label].probabilities(encoded, mask)
        known = [any(node > UNKNOWN for node in row) for row in encoded.nodes.tolist()]
        last, terminal = encoded.last.tolist(), masked.terminal.tolist()
        for row, context in enumerate(contexts):
            unknown = [key for key in context_keys(context) if key not in vocabulary.ids]
            yield _Distribution(
                masked.log_probabilities[row],
                masked.allowed[row],
                int(masked.allowed[row].sum()),
                last[row],
                mask is not MaskPolicy.NONE and (terminal[row] or last[row] <= UNKNOWN),
                terminal[row],
                unknown,
                "back-off" if unknown and known[row] else "model" if known[row] else "popularity",
            )

    def _from_cache(self, question: _Question) -> _Distribution | None:
        if not self.cache:
            return None
        key = (question.label, question.mask, question.context)
        with self._lock:
            cached = self._cached.get(key)
            if cached is None:
                self.misses += 1
            else:
                self.hits += 1
                self._cached.move_to_end(key)
        return cached

    def _to_cache(self, question: _Question, distribution: _Distribution) -> None:
        if self.cache and _length(question.context) <= MAX_CACHED_LENGTH:
            with self._lock:
                self._cached[question.label, question.mask, question.context] = distribution
                if len(self._cached) > self.cache:
                    self._cached.popitem(last=False)

    def _answer(self, question: _Question, distribution: _Distribution, clock: _Clock) -> Answer:
        clock.check()
        request = question.request
        candidates = distribution.candidates
        if request.has_filters or request.diversity or request.novelty:
            predictions, candidates = self._reranked(question, distribution)
        elif distribution.ranked is not None and distribution.ranked[0] == request.k:
            predictions = distribution.ranked[1]
        else:
            predictions = self._ranked(request, distribution.log_probabilities, distribution.last)
            distribution.ranked = request.k, predictions
        explanation = None
        if request.explain:
            services = [prediction.service for prediction in predictions]
            explanation = explain(self.bundle, question.label, question.context, services)
        return Answer(
            model=question.label,
            version=self.bundle.version,
            at=question.context.at,
            mask=question.mask,
            candidates=candidates,
            strategy=distribution.strategy,
            why=_why(question, distribution, bool(predictions)),
            mask_fallback=distribution.mask_fallback,
            terminal=distribution.terminal,
            unknown=distribution.unknown,
            predictions=predictions,
            explanation=explanation,
            took_ms=clock.took_ms(),
        )

    def _reranked(
        self, question: _Question, distribution: _Distribution
    ) -> tuple[list[Prediction], int]:
        """The ranking under the request's filters and order, and the number of services left."""
        request = question.request
        allowed = allowed_services(
            self.bundle.vocabulary,
            allow=None if request.allow is None else frozenset(request.allow),
            deny=request.deny,
            used=present_keys(question.context) if request.no_repeats else (),
        )
        log_p = restrict(distribution.log_probabilities, allowed)
        left = int((distribution.allowed & allowed).sum())
        return self._ranked(request, log_p, distribution.last), left

    def _ranked(self, request: PredictRequest, log_p: Floats, last: int) -> list[Prediction]:
        graph, services = self.bundle.graph, self.bundle.vocabulary.services
        best = rank(log_p, request.k, graph, diversity=request.diversity, novelty=request.novelty)
        support = graph.support(last)[best].astype(np.int64).tolist()
        rows = zip(best.tolist(), np.exp(log_p[best]).tolist(), support, strict=True)
        # One call of pydantic for all of them takes half the time of one for each.
        predictions: list[Prediction] = PREDICTIONS.validate_python(
            [
                {"rank": number, "service": services[column], "probability": p, "support": count}
                for number, (column, p, count) in enumerate(rows, start=1)
            ]
        )
        return predictions


def _why(question: _Question, distribution: _Distribution, any_left: bool) -> str | None:
    """Why the answer is not the model's own ranking of what may follow, in words; None where it is."""
    reasons = []
    path = question.context.path
    if distribution.strategy == "popularity":
        reasons.append("no node is known to training: services are ranked by how often they occur")
    elif distribution.strategy == "back-off":
        count = len(distribution.unknown)
        reasons.append(f"{count} unknown {'node was' if count == 1 else 'nodes were'} passed over")
    if distribution.mask_fallback:
        known = distribution.terminal
        why = f"nothing ever followed {path[-1]}" if known else "the node to extend is unknown"
        reasons.append(f"{why}: the mask allows every service")
    if not any_left:
        reasons.append("allow, deny and no_repeats leave no service")
    return "; ".join(reasons) or None


def _length(context: Context) -> int:
    """Roughly, the characters of a context."""
    if context.history:
        return MAX_CACHED_LENGTH + 1  # hardly ever asked about twice
    total = sum(map(len, context.path))
    if context.composition is not None:
        for node in context.composition.nodes:
            total += 200 + len(node.id) + len(node.key) + len(node.text or "")
    return total
