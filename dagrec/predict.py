"""Requests into ranked services: the same for the command line and for the service."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter

from dagrec.data.examples import Context
from dagrec.data.formats.documents import need_object, parse_json
from dagrec.data.vocabulary import UNKNOWN
from dagrec.errors import ConfigError, DataError, RequestError
from dagrec.explain import Explanation, explanation
from dagrec.graph.mask import MaskPolicy, apply_mask, successor_mask
from dagrec.request import PredictRequest, context_keys, make_request, present, request_contexts
from dagrec.rerank import filtered, ranked, restricted
from dagrec.store.bundle import Bundle
from dagrec.types import Floats, Mask, Options

MOST_QUESTIONS = 300
"""Contexts times models that are answered together."""
ROWS_AT_ONCE = 16
"""Contexts that a model scores in one pass; between passes the time is looked at."""
LARGEST_KEPT = 20_000
"""Characters of a context that is remembered, at most; a bound on memory."""
NOBODY = np.zeros(0, dtype=np.int64)

Strategy = Literal["model", "back-off", "popularity"]


class Prediction(Options):
    """One service of an answer."""

    rank: int
    service: str
    probability: float
    support: int = Field(description="training examples in which it followed this node")


PREDICTIONS = TypeAdapter(list[Prediction])


class Answer(Options):
    """Ranked services of one model after one node, and everything that one must know to read them."""

    model: str
    version: str
    at: str | None = Field(description="id of the composition's node that is extended; null: a path")
    mask: MaskPolicy
    candidates: int = Field(description="services that the mask and the filters let through")
    strategy: Strategy = Field(
        description="model: all of the context is known; back-off: unknown nodes were passed over; "
        "popularity: nothing of it is known"
    )
    why: str | None = Field(description="why it fell back, or the mask did; null: neither did")
    opened: bool = Field(
        description="the mask had nothing to let through after this node, and let every service through"
    )
    terminal: bool = Field(description="the node is known, and nothing ever followed it")
    unknown: list[str] = Field(description="keys that training never saw")
    predictions: list[Prediction]
    explanation: Explanation | None = Field(None, description="where the request asked for it")
    took_ms: float = Field(description="milliseconds from the request, parsed, to this answer")


class Answers(Options):
    """Answers side by side: of several models, or at several open ends (all models at the first)."""

    answers: list[Answer]
    took_ms: float = Field(description="milliseconds for all of them")


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
                values = need_object(parse_json(line), "a request")
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
class _Scored:
    """What a model says of a context after the mask, before a request's filters and order.

    log_probabilities, allowed: [C]; candidates: how many are allowed; last: node id of the frontier.
    """

    log_probabilities: Floats
    allowed: Mask
    candidates: int
    last: int
    terminal: bool
    unknown: list[str]
    strategy: Strategy
    plain: tuple[int, list[Prediction]] | None = None
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

    What models say of up to ``remember`` contexts is kept, and forgotten when it was not asked for the
    longest; ``hits`` and ``misses`` count what was found there. Answers are the same without.
    """

    def __init__(self, bundle: Bundle, *, remember: int = 0) -> None:
        self.bundle = bundle
        self.remember = remember
        self.hits = self.misses = 0
        self._kept: OrderedDict[tuple[str, MaskPolicy, Context], _Scored] = OrderedDict()
        self._lock = Lock()

    def answer(self, request: PredictRequest, *, timeout: float | None = None) -> Answer | Answers:
        """One answer; or several, where the request names ``models`` or leaves several ends open.

        Raises :class:`RequestError` for a composition, node, model or mask that does not exist or does
        not hold together, for too much at once, and for what takes longer than ``timeout`` seconds.
        """
        (found,) = self.batch([request], timeout=timeout)
        if isinstance(found, RequestError):
            raise found
        return found

    def batch(
        self, requests: Sequence[PredictRequest], *, timeout: float | None = None
    ) -> list[Answer | Answers | RequestError]:
        """What :meth:`answer` says of each, or the error in its place. Models score contexts together.

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
                questions += self._questions(request)
            except RequestError as error:
                errors[i] = error
            counts.append(len(questions) - before)
            if len(questions) > MOST_QUESTIONS:
                raise RequestError(
                    f"models times nodes to extend may be {MOST_QUESTIONS} at once, found more; name "
                    "fewer models, or `at`, or send fewer requests"
                )
        answers = iter(zip(questions, self._scored(questions, clock), strict=True))
        found: list[Answer | Answers | RequestError] = []
        for i, (request, count) in enumerate(zip(requests, counts, strict=True)):
            own = [self._answer(q, scored, clock) for q, scored in islice(answers, count)]
            if i in errors:
                found.append(errors[i])
            elif count == 1 and request.models is None:
                found.append(own[0])
            else:
                found.append(Answers(answers=own, took_ms=clock.took_ms()))
        return found

    def _questions(self, request: PredictRequest) -> list[_Question]:
        bundle = self.bundle
        wanted: Sequence[str | None] = [request.model]
        if request.models is not None:
            wanted = list(bundle.models) if request.models == "all" else request.models
        mask = bundle.mask if request.mask is None else request.mask
        try:
            labels = dict.fromkeys(bundle.model(label)[0] for label in wanted)
            if mask is MaskPolicy.CATALOGUE:
                successor_mask(NOBODY, bundle.graph, mask)  # raises where no link was declared
        except ConfigError as error:
            raise RequestError(str(error)) from None
        contexts = request_contexts(request, bundle.vocabulary)
        return [_Question(request, context, label, mask) for context in contexts for label in labels]

    def _scored(self, questions: Sequence[_Question], clock: _Clock) -> list[_Scored]:
        """What the models say, in the order of the questions."""
        found: dict[int, _Scored] = {}
        missing: dict[tuple[str, MaskPolicy], list[int]] = {}
        for i, q in enumerate(questions):
            kept = self._recall(q)
            if kept is None:
                missing.setdefault((q.label, q.mask), []).append(i)
            else:
                found[i] = kept
        for (label, mask), rows in missing.items():
            for start in range(0, len(rows), ROWS_AT_ONCE):
                clock.check()
                part = rows[start : start + ROWS_AT_ONCE]
                asked = [questions[i] for i in part]
                for i, scored in zip(part, self._score(label, mask, asked), strict=True):
                    found[i] = scored
                    self._keep(questions[i], scored)
        return [found[i] for i in range(len(questions))]

    def _score(self, label: str, mask: MaskPolicy, questions: Sequence[_Question]) -> Iterator[_Scored]:
        bundle = self.bundle
        encoded = bundle.vocabulary.encode([q.context for q in questions])
        scores = bundle.models[label].score(encoded) / np.float32(bundle.temperature(label))
        masked = apply_mask(scores, encoded.last, bundle.graph, mask)
        known = [any(node > UNKNOWN for node in row) for row in encoded.nodes.tolist()]
        last, terminal = encoded.last.tolist(), masked.terminal.tolist()
        for row, q in enumerate(questions):
            unknown = [key for key in context_keys(q.context) if key not in bundle.vocabulary.ids]
            yield _Scored(
                masked.log_probabilities[row],
                masked.allowed[row],
                int(masked.allowed[row].sum()),
                last[row],
                terminal[row],
                unknown,
                "back-off" if unknown and known[row] else "model" if known[row] else "popularity",
            )

    def _recall(self, question: _Question) -> _Scored | None:
        if not self.remember:
            return None
        key = (question.label, question.mask, question.context)
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
                self._kept.move_to_end(key)
        return found

    def _keep(self, question: _Question, scored: _Scored) -> None:
        if self.remember and _size(question.context) <= LARGEST_KEPT:
            with self._lock:
                self._kept[question.label, question.mask, question.context] = scored
                if len(self._kept) > self.remember:
                    self._kept.popitem(last=False)

    def _answer(self, question: _Question, scored: _Scored, clock: _Clock) -> Answer:
        clock.check()
        request = question.request
        candidates = scored.candidates
        opened = question.mask is not MaskPolicy.NONE and (scored.terminal or scored.last <= UNKNOWN)
        if request.filters or request.diversity or request.novelty:
            predictions, candidates = self._reranked(question, scored)
        elif scored.plain is not None and scored.plain[0] == request.k:
            predictions = scored.plain[1]
        else:
            predictions = self._ranked(request, scored.log_probabilities, scored.last)
            scored.plain = request.k, predictions
        return Answer(
            model=question.label,
            version=self.bundle.version,
            at=question.context.at,
            mask=question.mask,
            candidates=candidates,
            strategy=scored.strategy,
            why=_why(question, scored, opened, bool(predictions)),
            opened=opened,
            terminal=scored.terminal,
            unknown=scored.unknown,
            predictions=predictions,
            explanation=self._explanation(question, predictions) if request.explain else None,
            took_ms=clock.took_ms(),
        )

    def _reranked(self, question: _Question, scored: _Scored) -> tuple[list[Prediction], int]:
        """The ranking that the request's filters and order leave, and how many services."""
        request = question.request
        kept = filtered(
            self.bundle.vocabulary,
            allow=None if request.allow is None else frozenset(request.allow),
            deny=request.deny,
            used=present(question.context) if request.no_repeats else (),
        )
        log_p = restricted(scored.log_probabilities, kept)
        left = int((scored.allowed & kept).sum())
        return self._ranked(request, log_p, scored.last), left

    def _ranked(self, request: PredictRequest, log_p: Floats, last: int) -> list[Prediction]:
        graph, services = self.bundle.graph, self.bundle.vocabulary.services
        best = ranked(log_p, request.k, graph, diversity=request.diversity, novelty=request.novelty)
        support = graph.support(last)[best].astype(np.int64).tolist()
        rows = zip(best.tolist(), np.exp(log_p[best]).tolist(), support, strict=True)
        # One call of pydantic for all of them takes half the time of one for each.
        found: list[Prediction] = PREDICTIONS.validate_python(
            [
                {
                    "rank": rank,
                    "service": services[column],
                    "probability": p,
                    "support": count,
                }
                for rank, (column, p, count) in enumerate(rows, start=1)
            ]
        )
        return found

    def _explanation(self, question: _Question, predictions: Sequence[Prediction]) -> Explanation:
        model, services = self.bundle.models[question.label], [p.service for p in predictions]
        return explanation(self.bundle, model, question.context, services)


def _why(question: _Question, scored: _Scored, opened: bool, any_left: bool) -> str | None:
    """Why the answer is not the model's own ranking of what may follow, in words; None where it is."""
    reasons = []
    path = question.context.path
    if scored.strategy == "popularity":
        reasons.append("no node is known to training: services are ranked by how often they occur")
    elif scored.strategy == "back-off":
        count = len(scored.unknown)
        reasons.append(f"{count} unknown {'node was' if count == 1 else 'nodes were'} passed over")
    if opened:
        why = (
            f"nothing ever followed {path[-1]}" if scored.terminal else "the node to extend is unknown"
        )
        reasons.append(f"{why}: the mask lets every service through")
    if not any_left:
        reasons.append("allow, deny and no_repeats leave no service")
    return "; ".join(reasons) or None


def _size(context: Context) -> int:
    """Roughly, the characters that it takes to keep a context."""
    if context.history:
        return LARGEST_KEPT + 1  # hardly ever asked about twice
    total = sum(map(len, context.path))
    if context.composition is not None:
        for node in context.composition.nodes:
            total += 200 + len(node.id) + len(node.key) + len(node.text or "")
    return total
