"""Requests into ranked services: the same function for the command line and for the service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, StringConstraints, ValidationError, model_validator

from dagrec.data.compositions import Composition
from dagrec.data.examples import Context, context_at
from dagrec.data.formats import read_composition
from dagrec.data.formats.documents import need_object, parse_json
from dagrec.data.vocabulary import UNKNOWN
from dagrec.errors import ConfigError, DataError, RequestError
from dagrec.graph.mask import MaskPolicy, apply_mask
from dagrec.models.registry import explain
from dagrec.store.bundle import Bundle
from dagrec.types import Options

MOST_ANSWERS = 1000
LONGEST_PATH = 10_000
MOST_NODES = 10_000
MOST_LINKS = 50_000

Key = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Strategy = Literal["model", "back-off", "popularity"]


class PredictRequest(Options):
    """Which service comes next: after a path of node keys, or at a node of a composition."""

    path: Annotated[list[Key], Field(max_length=LONGEST_PATH)] | None = Field(
        None, description="node keys from a source to the node to extend"
    )
    composition: dict[str, Any] | None = Field(
        None, description="native JSON with nodes and links; needs `at` where it has several ends"
    )
    at: Annotated[str | int, Field(union_mode="left_to_right")] | None = Field(
        None, description="id of the node of the composition to extend"
    )
    k: int = Field(10, ge=1, le=MOST_ANSWERS, description="services in the answer, at most")
    model: str | None = Field(None, description="label of a model; the champion where none is named")
    mask: MaskPolicy | None = Field(None, description="the bundle's own where none is named")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.path is None) == (self.composition is None):
            raise ValueError("a request has either a path or a composition")
        if self.at is not None and self.composition is None:
            raise ValueError("at names a node of a composition, and there is none")
        return self


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
    candidates: int = Field(description="services that the mask let through")
    strategy: Strategy = Field(
        description="model: all of the context is known; back-off: unknown nodes were passed over; "
        "popularity: nothing of it is known"
    )
    terminal: bool = Field(description="the node is known, and nothing ever followed it")
    unknown: list[str] = Field(description="keys that training never saw")
    predictions: list[Prediction]


def make_request(values: dict[str, Any]) -> PredictRequest:
    """A request from parsed values. Raises :class:`RequestError` naming field, rule and value."""
    try:
        return PredictRequest.model_validate(values)
    except ValidationError as error:
        raise RequestError(explain(error)) from None
    except RecursionError:  # raised where a refused value is written out
        raise RequestError("a request is nested too deeply (it needs about 6 levels)") from None


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
    context = request_context(request)
    try:
        label, model = bundle.model(request.model)
        mask = bundle.mask if request.mask is None else request.mask
        encoded = bundle.vocabulary.encode([context])
        masked = apply_mask(model.score(encoded), encoded.last, bundle.graph, mask)
    except ConfigError as error:
        raise RequestError(str(error)) from None
    log_p = masked.log_probabilities[0]
    candidates = int(masked.allowed[0].sum())
    # A stable sort: equal probabilities keep vocabulary order, so one request has one answer.
    best = np.argsort(-log_p, kind="stable")[: min(request.k, candidates)]
    support = bundle.graph.support(int(encoded.last[0]))
    unknown = [key for key in context_keys(context) if key not in bundle.vocabulary.ids]
    nothing = not (encoded.nodes > UNKNOWN).any()
    return Answer(
        model=label,
        version=bundle.version,
        mask=mask,
        candidates=candidates,
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


def request_context(request: PredictRequest) -> Context:
    """The context that a request asks about. Raises :class:`RequestError`."""
    if request.composition is None:
        return Context(tuple(request.path or ()))
    inner = request.composition.get("composition", request.composition)
    for name, most in (("nodes", MOST_NODES), ("links", MOST_LINKS)):
        items = inner.get(name) if isinstance(inner, dict) else None
        if isinstance(items, list) and len(items) > most:
            raise RequestError(f"composition: {name} may be {most}, found {len(items)}; send fewer")
    try:
        composition = read_composition(request.composition)
    except DataError as error:
        raise RequestError(f"composition: {error}") from None
    return context_at(composition, _frontier(composition, request.at))


def _frontier(composition: Composition, at: str | int | None) -> str:
    if at is None:
        sinks = composition.sinks
        if len(sinks) != 1:
            raise RequestError(
                f"at: must name the node to extend when several ends are open, found {len(sinks)} "
                f'ends: {", ".join(sinks[:5])}; add "at"'
            )
        return sinks[0]
    if str(at) not in composition.by_id:
        raise RequestError(
            f"at: must be the id of a node of the composition, found {at!r}, which is none; correct it"
        )
    return str(at)


def context_keys(context: Context) -> Sequence[str]:
    """The distinct node keys that a context rests on: its path, and all that lies upstream."""
    keys = dict.fromkeys(context.path)
    if context.composition is not None:
        keys.update(dict.fromkeys(context.composition.by_id[id_].key for id_ in context.upstream()))
    return list(keys)
