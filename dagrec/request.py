"""What may be asked: the request of the command line and of the service, checked and bounded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from dagrec.data.compositions import Composition
from dagrec.data.examples import LONGEST_CONTEXT, Call, Context, ExampleOptions, context_at, extract
from dagrec.data.formats import read_composition
from dagrec.data.formats.draft import parse_time
from dagrec.data.history import LONGEST_HISTORY
from dagrec.data.vocabulary import Vocabulary
from dagrec.errors import DataError, RequestError
from dagrec.graph.mask import MaskPolicy
from dagrec.models.registry import explain
from dagrec.types import Options

MOST_ANSWERS = 1000
LONGEST_PATH = 10_000
MOST_NODES = 10_000
MOST_LINKS = 50_000
MOST_PAST = 1000
MOST_FILTERED = 10_000

Key = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


def _moment(value: Any) -> Any:
    try:
        return parse_time(value, "time")
    except DataError as error:
        raise ValueError(str(error)) from None


Time = Annotated[float, BeforeValidator(_moment)]


class Past(Options):
    """Something that the same person did before: a path that they made, or a composition."""

    path: Annotated[list[Key], Field(max_length=LONGEST_PATH)] | None = Field(
        None, description="node keys from a source to the last service that was called"
    )
    composition: dict[str, Any] | None = Field(None, description="native JSON with nodes and links")
    time: Time | None = Field(
        None, description="when: seconds since 1970, or ISO 8601; a composition's own times come first"
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.path is None) == (self.composition is None):
            raise ValueError("an item of history has either a path or a composition")
        return self


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
    history: Annotated[list[Past], Field(max_length=MOST_PAST)] = Field(
        [], description="what the same person did before, the oldest first where times are missing"
    )
    time: Time | None = Field(None, description="of the request: seconds since 1970, or ISO 8601")
    allow: Annotated[list[Key], Field(max_length=MOST_FILTERED)] | None = Field(
        None, description="answer with these services only"
    )
    deny: Annotated[list[Key], Field(max_length=MOST_FILTERED)] = Field(
        [], description="never answer with these services"
    )
    no_repeats: bool = Field(
        False, description="never answer with a service that the path or composition holds already"
    )
    diversity: float = Field(
        0.0, ge=0, le=1, description="0: most probable first; towards 1: unlike those before it first"
    )
    novelty: float = Field(
        0.0, ge=0, le=10, description="how much rare services move up, in nats a bit of rarity"
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.path is None) == (self.composition is None):
            raise ValueError("a request has either a path or a composition")
        if self.at is not None and self.composition is None:
            raise ValueError("at names a node of a composition, and there is none")
        return self

    @property
    def filters(self) -> bool:
        """Whether any service may be removed from the answer."""
        return self.allow is not None or bool(self.deny) or self.no_repeats


def make_request(values: dict[str, Any]) -> PredictRequest:
    """A request from parsed values. Raises :class:`RequestError` naming field, rule and value."""
    try:
        return PredictRequest.model_validate(values)
    except ValidationError as error:
        raise RequestError(explain(error)) from None
    except RecursionError:  # raised where a refused value is written out
        raise RequestError("a request is nested too deeply (it needs about 6 levels)") from None


def request_context(request: PredictRequest, vocabulary: Vocabulary) -> Context:
    """The context that a request asks about; of the history, what the vocabulary calls services.

    Raises :class:`RequestError`.
    """
    history = tuple(_calls(request, vocabulary))[-LONGEST_HISTORY:]
    if request.composition is None:
        return Context(tuple(request.path or ()), time=request.time, history=history)
    composition = _composition(request.composition, "composition")
    context = context_at(composition, _frontier(composition, request.at))
    time = context.time if request.time is None else request.time
    return replace(context, time=time, history=history)


def _composition(document: dict[str, Any], what: str) -> Composition:
    inner = document.get("composition", document)
    for name, most in (("nodes", MOST_NODES), ("links", MOST_LINKS)):
        items = inner.get(name) if isinstance(inner, dict) else None
        if isinstance(items, list) and len(items) > most:
            raise RequestError(f"{what}: {name} may be {most}, found {len(items)}; send fewer")
    try:
        return read_composition(document)
    except DataError as error:
        raise RequestError(f"{what}: {error}") from None


def _calls(request: PredictRequest, vocabulary: Vocabulary) -> list[Call]:
    """The service calls of the history, the oldest first; those without a time keep their places."""
    found: list[Call] = []
    for i, past in enumerate(request.history):
        if past.path is not None:
            found += [
                Call(key, tuple(past.path[max(0, place - LONGEST_CONTEXT) : place]), past.time)
                for place, key in enumerate(past.path)
                if place and key in vocabulary.columns
            ]
            continue
        assert past.composition is not None
        composition = _composition(past.composition, f"history.{i}")
        examples, _ = extract([composition], ExampleOptions(form="links"))
        calls = {
            example.node: Call(
                example.target,
                example.context.path,
                past.time if example.context.time is None else example.context.time,
            )
            for example in reversed(examples)
        }
        found += reversed(calls.values())
    if all(call.time is not None for call in found):
        found.sort(key=lambda call: call.time or 0.0)
    return found


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


def present(context: Context) -> Collection[str]:
    """The keys of all nodes that a request shows: those of its path, or of its whole composition."""
    if context.composition is None:
        return context.path
    return {node.key for node in context.composition.nodes}
