"""What may be asked: the request of the command line and of the service, checked and bounded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from dagrec.data.compositions import Composition
from dagrec.data.examples import MAX_CONTEXT_LENGTH, Call, Context, contexts_at
from dagrec.data.formats import read_composition
from dagrec.data.formats.draft import parse_time
from dagrec.data.history import MAX_HISTORY_LENGTH
from dagrec.data.vocabulary import Vocabulary
from dagrec.errors import ConfigError, DataError, RequestError
from dagrec.graph.mask import NO_CATALOGUE, MaskPolicy
from dagrec.store.bundle import Bundle
from dagrec.types import Options, validation_message

MAX_K = 1000
MAX_PATH_LENGTH = 10_000
MAX_NODES = 10_000
MAX_LINKS = 50_000
MAX_HISTORY_ITEMS = 1000
MAX_FILTERED = 10_000
MAX_OPEN_ENDS = 32
MAX_MODELS = 100

Key = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


def _moment(value: Any) -> Any:
    try:
        return parse_time(value, "time")
    except DataError as error:
        raise ValueError(str(error)) from None


def _number(value: Any) -> Any:
    if isinstance(value, str | bytes | bool):
        raise ValueError("a number must be one, and no text and no truth value")
    return value


Number = BeforeValidator(_number)
Time = Annotated[float, BeforeValidator(_moment)]


Labels = Annotated[list[Key], Field(min_length=1, max_length=MAX_MODELS)]


class Past(Options):
    """Something that the same person did before: a path that they made, or a composition."""

    path: Annotated[list[Key], Field(max_length=MAX_PATH_LENGTH)] | None = Field(
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

    path: Annotated[list[Key], Field(max_length=MAX_PATH_LENGTH)] | None = Field(
        None, description="node keys from a source to the node to extend"
    )
    composition: dict[str, Any] | None = Field(None, description="native JSON with nodes and links")
    at: Annotated[str | int, Field(union_mode="left_to_right")] | None = Field(
        None, description="id of its node to extend; every open end where none is named"
    )
    k: Annotated[int, Number] = Field(10, ge=1, le=MAX_K, description="services in the answer, at most")
    model: str | None = Field(None, description="label of a model; the champion where none is named")
    models: Literal["all"] | Labels | None = Field(
        None, description="labels of several models, or all: an answer of each, side by side"
    )
    mask: MaskPolicy | None = Field(None, description="the bundle's own where none is named")
    history: Annotated[list[Past], Field(max_length=MAX_HISTORY_ITEMS)] = Field(
        default_factory=list,
        description="what the same person did before, the oldest first where times are missing",
    )
    time: Time | None = Field(None, description="of the request: seconds since 1970, or ISO 8601")
    allow: Annotated[list[Key], Field(max_length=MAX_FILTERED)] | None = Field(
        None, description="answer with these services only"
    )
    deny: Annotated[list[Key], Field(max_length=MAX_FILTERED)] = Field(
        default_factory=list, description="never answer with these services"
    )
    no_repeats: bool = Field(
        False,
        strict=True,
        description="never answer with a service that the path or composition holds already",
    )
    diversity: Annotated[float, Number] = Field(
        0.0, ge=0, le=1, description="0: most probable first; towards 1: unlike those before it first"
    )
    novelty: Annotated[float, Number] = Field(
        0.0, ge=0, le=10, description="how much rare services move up, in nats a bit of rarity"
    )
    explain: bool = Field(
        False,
        strict=True,
        description="tell which training compositions made these steps, and what was weighed how",
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.path is None) == (self.composition is None):
            raise ValueError("a request has either a path or a composition")
        if self.at is not None and self.composition is None:
            raise ValueError("at names a node of a composition, and there is none")
        if self.model is not None and self.models is not None:
            raise ValueError("a request names one model or several models, not both")
        return self

    @property
    def has_filters(self) -> bool:
        """Whether any service may be removed from the answer."""
        return self.allow is not None or bool(self.deny) or self.no_repeats


def make_request(values: dict[str, Any]) -> PredictRequest:
    """A request from parsed values. Raises :class:`RequestError` naming field, rule and value."""
    try:
        return PredictRequest.model_validate(values)
    except ValidationError as error:
        raise RequestError(validation_message(error, PredictRequest)) from None
    except RecursionError:  # raised where a refused value is written out
        raise RequestError("a request is nested too deeply (it needs about 6 levels)") from None


class Resolved(NamedTuple):
    """What a request asks a bundle: contexts, labels of models, and the mask."""

    contexts: list[Context]
    labels: list[str]
    mask: MaskPolicy


def resolve(request: PredictRequest, bundle: Bundle) -> Resolved:
    """The contexts, models and mask that a request means in a bundle.

    There is one context; or that of each open end, where a composition is sent without ``at``. Their
    histories hold what the vocabulary calls services. Raises :class:`RequestError` for a composition,
    node, model or mask that does not exist or does not hold together.
    """
    names: Sequence[str | None] = [request.model]
    if request.models is not None:
        names = list(bundle.models) if request.models == "all" else request.models
    try:
        labels = list(dict.fromkeys(bundle.model(name)[0] for name in names))
    except ConfigError as error:
        raise RequestError(f"{error}; see /models") from None
    mask = bundle.mask if request.mask is None else request.mask
    if mask is MaskPolicy.CATALOGUE and bundle.graph.declared is None:
        raise RequestError(NO_CATALOGUE)
    return Resolved(request_contexts(request, bundle.vocabulary), labels, mask)


def request_contexts(request: PredictRequest, vocabulary: Vocabulary) -> list[Context]:
    """The contexts that a request asks about; see :func:`resolve`. Raises :class:`RequestError`."""
    history = tuple(_calls(request, vocabulary))[-MAX_HISTORY_LENGTH:] if request.history else ()
    if request.composition is None:
        return [Context(tuple(request.path or ()), time=request.time, history=history)]
    composition = _composition(request.composition, "composition")
    return [
        replace(
            context,
            time=context.time if request.time is None else request.time,
            history=history,
        )
        for context in contexts_at(composition, _ends(composition, request.at))
    ]


def _composition(document: dict[str, Any], what: str) -> Composition:
    inner = document.get("composition", document)
    for name, most in (("nodes", MAX_NODES), ("links", MAX_LINKS)):
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
    links = 0
    for i, past in enumerate(request.history):
        if past.path is not None:
            found += [
                Call(key, tuple(past.path[max(0, place - MAX_CONTEXT_LENGTH) : place]), past.time)
                for place, key in enumerate(past.path)
                if place and key in vocabulary.columns
            ]
            continue
        assert past.composition is not None
        composition = _composition(past.composition, f"history.{i}")
        links += len(composition.links)
        if links > MAX_LINKS:
            raise RequestError(f"history: its links may be {MAX_LINKS} in all, found more; send less")
        found += _made(composition, past.time)
    if all(call.time is not None for call in found):
        found.sort(key=lambda call: call.time or 0.0)
    return found


def _made(composition: Composition, time: float | None) -> list[Call]:
    """The calls of a composition's services, by the first link to each, in the order of the links."""
    first: dict[str, str] = {}
    for source, target in composition.links:
        if composition.by_id[target].is_service:
            first.setdefault(target, source)
    calls = []
    for target, context in zip(first, contexts_at(composition, list(first.values())), strict=True):
        node = composition.by_id[target]
        own = composition.time if node.time is None else node.time
        calls.append(Call(node.key, context.path, time if own is None else own))
    return calls


def _ends(composition: Composition, at: str | int | None) -> tuple[str, ...]:
    """The nodes to extend."""
    if at is not None:
        if str(at) not in composition.by_id:
            raise RequestError(
                f"at: must be the id of a node of the composition, found {at!r}, which is none; "
                "correct it"
            )
        return (str(at),)
    sinks = composition.sinks
    if len(sinks) > MAX_OPEN_ENDS:
        raise RequestError(
            f"composition: open ends answered at once may be {MAX_OPEN_ENDS}, found {len(sinks)}, "
            f'such as {", ".join(sinks[:5])}; name one with "at"'
        )
    return sinks


def context_keys(context: Context) -> Sequence[str]:
    """The distinct node keys that a context rests on: its path, and all that lies upstream."""
    keys = dict.fromkeys(context.path)
    if context.composition is not None:
        keys.update(dict.fromkeys(context.composition.by_id[id_].key for id_ in context.upstream()))
    return list(keys)


def present_keys(context: Context) -> Collection[str]:
    """The keys of all nodes that a request shows: those of its path, or of its whole composition."""
    if context.composition is None:
        return context.path
    return {node.key for node in context.composition.nodes}
