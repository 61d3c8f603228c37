"""Answer prediction requests from a bundle, for Python, the command line and the service."""

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
from dagrec.graph.mask import MaskPolicy, apply_mask
from dagrec.recommend.answers import PREDICTIONS, Answer, Answers, Prediction
from dagrec.recommend.explain import explain
from dagrec.recommend.known import Strategy, known_part
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

MAX_QUERIES = 300
"""Maximum number of contexts times models in one batch."""
ROWS_PER_PASS = 16
"""Contexts that a model scores in one pass; the timeout is checked between passes."""
MAX_CACHED_LENGTH = 20_000
"""Longer contexts (in characters) are not cached, which limits memory."""


def predict(bundle: Bundle, request: PredictRequest) -> Answer | Answers:
    """Answer a request from a bundle; see :meth:`Predictor.answer`."""
    return Predictor(bundle).answer(request)


def predict_lines(
    bundle: Bundle, lines: Iterable[str], defaults: dict[str, Any]
) -> Iterator[Answer | Answers | RequestError]:
    """Yield the answer or the error for each line of JSON, in order; blank lines are skipped.

    ``defaults`` are the values of fields that a line leaves out.
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
class _Query:
    """One context of a request, to be ranked by one model."""

    request: PredictRequest
    context: Context
    label: str
    mask: MaskPolicy
    dropped: dict[str, int]


@dataclass(slots=True)
class _Distribution:
    """A model's probabilities under the mask, before the filters and re-ranking of a request.

    log_probabilities, allowed: [C]; candidates: number of allowed services; last: node id of the
    frontier; ranked: the k of the last request without filters and re-ranking, and its ranking.
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


class _Timer:
    """The elapsed time of an answer, and its limit in seconds."""

    def __init__(self, timeout: float | None) -> None:
        self._start = time.perf_counter()
        self._timeout = timeout

    def elapsed_ms(self) -> float:
        return round((time.perf_counter() - self._start) * 1000, 3)

    def check(self) -> None:
        """Raise :class:`RequestError` if the time limit is exceeded."""
        if self._timeout is not None and time.perf_counter() - self._start > self._timeout:
            raise RequestError(
                f"an answer must take at most {self._timeout:g} s, found it unfinished after that; "
                "request fewer models, choose a node with `at`, or send smaller or fewer requests"
            )


class Predictor:
    """Answers requests from one bundle; it can be shared by threads.

    The distributions of the ``cache`` most recently used contexts are cached. ``hits`` and ``misses``
    count the look-ups. Answers are the same with and without the cache.
    """

    def __init__(self, bundle: Bundle, *, cache: int = 0) -> None:
        self.bundle = bundle
        self.cache = cache
        self.hits = self.misses = 0
        self._cache: OrderedDict[tuple[str, MaskPolicy, Context], _Distribution] = OrderedDict()
        self._lock = Lock()

    def answer(self, request: PredictRequest, *, timeout: float | None = None) -> Answer | Answers:
        """Return one answer, or several if the request has ``models`` or more than one open end.

        Raises :class:`RequestError` for an invalid composition, for a node, model or mask that does not
        exist, for too many queries, and if the answer takes longer than ``timeout`` seconds.
        """
        (answer,) = self.batch([request], timeout=timeout)
        if isinstance(answer, RequestError):
            raise answer
        return answer

    def batch(
        self, requests: Sequence[PredictRequest], *, timeout: float | None = None
    ) -> list[Answer | Answers | RequestError]:
        """Return the :meth:`answer` or the error of each request. Models score contexts in batches.

        Raises :class:`RequestError` if all requests together have too many queries or take too long.
        """
        timer = _Timer(timeout)
        queries: list[_Query] = []
        errors: dict[int, RequestError] = {}
        counts = []
        for i, request in enumerate(requests):
            timer.check()
            before = len(queries)
            try:
                contexts, labels, mask, dropped = resolve(request, self.bundle)
                queries += [
                    _Query(request, context, label, mask, dropped)
                    for context in contexts
                    for label in labels
                ]
            except RequestError as error:
                errors[i] = error
            counts.append(len(queries) - before)
            if len(queries) > MAX_QUERIES:
                raise RequestError(
                    f"models times nodes to extend must be at most {MAX_QUERIES} at once, found more; "
                    "request fewer models, choose a node with `at`, or send fewer requests"
                )
        pairs = iter(zip(queries, self._distributions(queries, timer), strict=True))
        results: list[Answer | Answers | RequestError] = []
        for i, (request, count) in enumerate(zip(requests, counts, strict=True)):
            answers = [self._answer(q, distribution, timer) for q, distribution in islice(pairs, count)]
            if i in errors:
                results.append(errors[i])
            elif count == 1 and request.models is None:
                results.append(answers[0])
            else:
                results.append(Answers(answers=answers, took_ms=timer.elapsed_ms()))
        return results

    def _distributions(self, queries: Sequence[_Query], timer: _Timer) -> list[_Distribution]:
        """The distribution of each query, from the cache or computed in batches by model and mask."""
        distributions: dict[int, _Distribution] = {}
        missing: dict[tuple[str, MaskPolicy], list[int]] = {}
        for i, query in enumerate(queries):
            cached = self._from_cache(query)
            if cached is None:
                missing.setdefault((query.label, query.mask), []).append(i)
            else:
                distributions[i] = cached
        for (label, mask), rows in missing.items():
            for start in range(0, len(rows), ROWS_PER_PASS):
                timer.check()
                batch = rows[start : start + ROWS_PER_PASS]
                contexts = [queries[i].context for i in batch]
                for i, computed in zip(batch, self._compute(label, mask, contexts), strict=True):
                    distributions[i] = computed
                    self._to_cache(queries[i], computed)
        return [distributions[i] for i in range(len(queries))]

    def _compute(
        self, label: str, mask: MaskPolicy, contexts: Sequence[Context]
    ) -> Iterator[_Distribution]:
        vocabulary, model = self.bundle.vocabulary, self.bundle.models[label]
        owner_aware = model.recommender.traits.owner_aware
        unknown = [[key for key in context_keys(c) if key not in vocabulary.ids] for c in contexts]
        parts = [
            known_part(context, keys, vocabulary, owner_aware=owner_aware)
            for context, keys in zip(contexts, unknown, strict=True)
        ]
        encoded = vocabulary.encode([part.context for part in parts])
        scores = model.scores(encoded)
        for row, part in enumerate(parts):
            if part.strategy == "popularity":
                scores[row] = np.log(self.bundle.graph.popularity + 1)
        # The mask is that of the node to extend, and not that of its ancestor.
        is_ancestor = np.array([part.strategy == "ancestor" for part in parts], dtype=np.bool_)
        last = np.where(is_ancestor, UNKNOWN, encoded.last)
        masked = apply_mask(scores, last, self.bundle.graph, mask)
        terminal = masked.terminal.tolist()
        for row, (keys, part) in enumerate(zip(unknown, parts, strict=True)):
            yield _Distribution(
                masked.log_probabilities[row],
                masked.allowed[row],
                int(masked.allowed[row].sum()),
                int(last[row]),
                mask is not MaskPolicy.NONE and (terminal[row] or bool(last[row] <= UNKNOWN)),
                terminal[row],
                keys,
                part.strategy,
            )

    def _from_cache(self, query: _Query) -> _Distribution | None:
        if not self.cache:
            return None
        key = (query.label, query.mask, query.context)
        with self._lock:
            cached = self._cache.get(key)
            if cached is None:
                self.misses += 1
            else:
                self.hits += 1
                self._cache.move_to_end(key)
        return cached

    def _to_cache(self, query: _Query, distribution: _Distribution) -> None:
        if self.cache and _length(query.context) <= MAX_CACHED_LENGTH:
            with self._lock:
                self._cache[query.label, query.mask, query.context] = distribution
                if len(self._cache) > self.cache:
                    self._cache.popitem(last=False)

    def _answer(self, query: _Query, distribution: _Distribution, timer: _Timer) -> Answer:
        timer.check()
        request = query.request
        candidates = distribution.candidates
        if request.has_filters or request.diversity or request.novelty:
            predictions, candidates = self._rerank(query, distribution)
        elif distribution.ranked is not None and distribution.ranked[0] == request.k:
            predictions = distribution.ranked[1]
        else:
            predictions = self._rank(request, distribution.log_probabilities, distribution.last)
            distribution.ranked = request.k, predictions
        explanation = None
        if request.explain:
            services = [prediction.service for prediction in predictions]
            explanation = explain(self.bundle, query.label, query.context, services)
        return Answer(
            model=query.label,
            version=self.bundle.version,
            at=query.context.at,
            mask=query.mask,
            candidates=candidates,
            strategy=distribution.strategy,
            why=_why(query, distribution, bool(predictions)),
            mask_fallback=distribution.mask_fallback,
            terminal=distribution.terminal,
            unknown=distribution.unknown,
            dropped=query.dropped,
            predictions=predictions,
            explanation=explanation,
            took_ms=timer.elapsed_ms(),
        )

    def _rerank(self, query: _Query, distribution: _Distribution) -> tuple[list[Prediction], int]:
        """Apply filters, diversity and novelty; return the ranking and the number of candidates."""
        request = query.request
        allowed = allowed_services(
            self.bundle.vocabulary,
            allow=None if request.allow is None else frozenset(request.allow),
            deny=request.deny,
            used=present_keys(query.context) if request.no_repeats else (),
        )
        log_p = restrict(distribution.log_probabilities, allowed)
        candidates = int((distribution.allowed & allowed).sum())
        return self._rank(request, log_p, distribution.last), candidates

    def _rank(self, request: PredictRequest, log_p: Floats, last: int) -> list[Prediction]:
        graph, services = self.bundle.graph, self.bundle.vocabulary.services
        best = rank(log_p, request.k, graph, diversity=request.diversity, novelty=request.novelty)
        support = self.bundle.evidence.support(last, best).tolist()
        rows = zip(best.tolist(), np.exp(log_p[best]).tolist(), support, strict=True)
        # Validating the whole list at once takes half the time of validating each prediction.
        predictions: list[Prediction] = PREDICTIONS.validate_python(
            [
                {"rank": rank_, "service": services[column], "probability": p, "support": count}
                for rank_, (column, p, count) in enumerate(rows, start=1)
            ]
        )
        return predictions


def _why(query: _Query, distribution: _Distribution, has_predictions: bool) -> str | None:
    """Describe why the model or the mask fell back, or why the answer is empty; None otherwise."""
    reasons = []
    if distribution.strategy == "popularity":
        reasons.append("no node occurs in the training data: services are ranked by frequency")
    elif distribution.strategy == "history":
        reasons.append("no node occurs in the training data: the owner's history was used")
    elif distribution.strategy == "ancestor":
        reasons.append("the nearest known ancestor of the node was extended")
    elif distribution.strategy == "back-off":
        count = len(distribution.unknown)
        reasons.append(f"{count} unknown {'node was' if count == 1 else 'nodes were'} skipped")
    if distribution.mask_fallback:
        reason = "the node to extend is unknown"
        if distribution.terminal:
            reason = f"no service ever followed {query.context.path[-1]}"
        reasons.append(f"{reason}: the mask allows every service")
    if not has_predictions:
        reasons.append("allow, deny and no_repeats leave no service")
    return "; ".join(reasons) or None


def _length(context: Context) -> int:
    """The approximate number of characters of a context."""
    if context.history:
        return MAX_CACHED_LENGTH + 1  # not cached: such contexts hardly ever recur
    total = sum(map(len, context.path))
    if context.composition is not None:
        for node in context.composition.nodes:
            total += 200 + len(node.id) + len(node.key) + len(node.text or "")
    return total
