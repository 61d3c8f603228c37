"""Requests into ranked services: the same function for the command line and for the service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
from pydantic import Field

from dagrec.data.formats.documents import need_object, parse_json
from dagrec.data.vocabulary import UNKNOWN
from dagrec.errors import ConfigError, DataError, RequestError
from dagrec.graph.mask import MaskPolicy, apply_mask
from dagrec.request import PredictRequest, context_keys, make_request, present, request_context
from dagrec.rerank import filtered, ranked, restricted
from dagrec.store.bundle import Bundle
from dagrec.types import Options

Strategy = Literal["model", "back-off", "popularity"]


class Prediction(Options):
    """One service of an answer."""

    rank: int
    service: str
    probability: float
    support: int = Field(description="training examples in which it followed this node")


class Answer(Options):
    """Ranked services, and everything that one must know to read them."""

    model: str
    version: str
    mask: MaskPolicy
    candidates: int = Field(description="services that the mask and the filters let through")
    strategy: Strategy = Field(
        description="model: all of the context is known; back-off: unknown nodes were passed over; "
        "popularity: nothing of it is known"
    )
    terminal: bool = Field(description="the node is known, and nothing ever followed it")
    unknown: list[str] = Field(description="keys that training never saw")
    predictions: list[Prediction]


def predict_lines(
    bundle: Bundle, lines: Iterable[str], defaults: dict[str, Any]
) -> Iterator[Answer | RequestError]:
    """An answer, or the error in its place, for each line of JSON that is not blank, in order.

    ``defaults`` are the fields that a line may leave out.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                values = need_object(parse_json(line), "a request")
                yield predict(bundle, make_request(defaults | values))
            except (RequestError, DataError) as error:
                yield RequestError(f"line {number}: {error}")


def predict(bundle: Bundle, request: PredictRequest) -> Answer:
    """The answer of one model of a bundle.

    Raises :class:`RequestError` for a composition, node, model or mask that does not exist or does
    not hold together.
    """
    context = request_context(request, bundle.vocabulary)
    try:
        label, model = bundle.model(request.model)
        mask = bundle.mask if request.mask is None else request.mask
        encoded = bundle.vocabulary.encode([context])
        scores = model.score(encoded) / np.float32(bundle.temperature(label))
        masked = apply_mask(scores, encoded.last, bundle.graph, mask)
    except ConfigError as error:
        raise RequestError(str(error)) from None
    log_p, allowed = masked.log_probabilities[0], masked.allowed[0]
    if request.filters:
        kept = filtered(
            bundle.vocabulary,
            allow=None if request.allow is None else frozenset(request.allow),
            deny=request.deny,
            used=present(context) if request.no_repeats else (),
        )
        log_p, allowed = restricted(log_p, kept), allowed & kept
    best = ranked(log_p, request.k, bundle.graph, diversity=request.diversity, novelty=request.novelty)
    support = bundle.graph.support(int(encoded.last[0]))
    unknown = [key for key in context_keys(context) if key not in bundle.vocabulary.ids]
    nothing = not (encoded.nodes > UNKNOWN).any()
    return Answer(
        model=label,
        version=bundle.version,
        mask=mask,
        candidates=int(allowed.sum()),
        strategy="popularity" if nothing else "back-off" if unknown else "model",
        terminal=bool(masked.terminal[0]),
        unknown=unknown,
        predictions=[
            Prediction(
                rank=rank,
                service=bundle.vocabulary.services[column],
                probability=float(np.exp(log_p[column])),
                support=int(support[column]),
            )
            for rank, column in enumerate(best, start=1)
        ],
    )
