"""Prediction requests of the command line and the service: validation, limits and contexts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from dagrec.data.compositions import MAX_KEY_LENGTH, Composition
from dagrec.data.examples import MAX_CONTEXT_LENGTH, Call, Context, contexts_at
from dagrec.data.formats import Draft, Reading, read_draft
from dagrec.data.formats.base import compose_draft
from dagrec.data.formats.times import parse_time
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
MAX_FILTER_KEYS = 10_000
MAX_OPEN_ENDS = 32
"""The largest number of open ends that are answered; others are counted as dropped."""
MAX_MODELS = 100

Key = Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY_LENGTH)]
Document = dict[str, Any] | list[Any]
"""A composition as the JSON of any format."""


def _parse_time(value: Any) -> Any:
    try:
        return parse_time(value, "time")
    except DataError as error:
        raise ValueError(str(error)) from None


def _require_number(value: Any) -> Any:
    if isinstance(value, str | bytes | bool):
        raise ValueError("must be a number, not a string or a Boolean")
    return value


Number = BeforeValidator(_require_number)
Time = Annotated[float, BeforeValidator(_parse_time)]
Labels = Annotated[list[Key], Field(min_length=1, max_length=MAX_MODELS)]


class HistoryItem(Options):
    """An earlier path or composition of the same owner."""

    path: Annotated[list[Key], Field(max_length=MAX_PATH_LENGTH)] | None = Field(
        None, description="node keys from a source to the last service that was called"
    )
    composition: Document | None = Field(
        None, description="the JSON of a composition in any known format, such as nodes and links"
    )
    time: Time | None = Field(
        None, description="seconds since 1970, or ISO 8601; times inside a composition take precedence"
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.path is None) == (self.composition is None):
            raise ValueError("a history item must have either a path or a composition")
        return self


class PredictRequest(Options):
    """A request for the services that come next after a path, or at a node of a composition."""

    path: Annotated[list[Key], Field(max_length=MAX_PATH_LENGTH)] | None = Field(
        None, description="node keys from a source to the node to extend"
    )
    composition: Document | None = Field(
        None, description="the JSON of a composition in any known format, such as nodes and links"
    )
    at: Annotated[str | int, Field(union_mode="left_to_right")] | None = Field(
        None,
        description=f"id of the node to extend; the first {MAX_OPEN_ENDS} open ends if omitted",
    )
    k: Annotated[int, Number] = Field(
        10, ge=1, le=MAX_K, description="maximum number of services in the answer"
    )
    model: str | None = Field(None, description="label of a model; the champion if omitted")
    models: Literal["all"] | Labels | None = Field(
        None, description="labels of several models, or `all`, for one answer of each model"
    )
    mask: MaskPolicy | None = Field(
        None, description="mask of the answer; the default of the bundle if omitted"
    )
    history: Annotated[list[HistoryItem], Field(max_length=MAX_HISTORY_ITEMS)] = Field(
        default_factory=list,
        description="earlier work of the same owner, the oldest first if times are missing",
    )
    time: Time | None = Field(None, description="time of the request: seconds since 1970, or ISO 8601")
    allow: Annotated[list[Key], Field(max_length=MAX_FILTER_KEYS)] | None = Field(
        None, description="recommend only these services"
    )
    deny: Annotated[list[Key], Field(max_length=MAX_FILTER_KEYS)] = Field(
        default_factory=list, description="never recommend these services"
    )
    no_repeats: bool = Field(
        False,
        strict=True,
        description="never recommend a service that the path or composition already contains",
    )
    diversity: Annotated[float, Number] = Field(
        0.0,
        ge=0,
        le=1,
        description="0 ranks by probability alone; higher values rank similar services lower",
    )
    novelty: Annotated[float, Number] = Field(
        0.0, ge=0, le=10, description="boost of rare services, in nats per bit of self-information"
    )
    explain: bool = Field(
        False,
        strict=True,
        description="add the supporting training compositions and the weights of the model",
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.path is None) == (self.composition is None):
            raise ValueError("a request must have either a path or a composition")
        if self.at is not None and self.composition is None:
            raise ValueError("at needs a composition, found none")
        if self.model is not None and self.models is not None:
            raise ValueError("a request must have model or models, not both")
        return self

    @property
    def has_filters(self) -> bool:
        """Whether services may be removed from the answer."""
        return self.allow is not None or bool(self.deny) or self.no_repeats


def make_request(values: dict[str, Any]) -> PredictRequest:
    """Validate a request. Raises :class:`RequestError` with the field, the rule and the value."""
    try:
        return PredictRequest.model_validate(values)
    except ValidationError as error:
        raise RequestError(validation_message(error, PredictRequest)) from None
    except RecursionError:  # pydantic formats the rejected value
        raise RequestError("a request may be nested about 6 levels deep, found more") from None


class Resolved(NamedTuple):
    """The contexts, model labels and mask of a request.

    ``dropped`` counts what reading the composition dropped or repaired, by description.
    """

    contexts: list[Context]
    labels: list[str]
    mask: MaskPolicy
    dropped: dict[str, int]


def resolve(request: PredictRequest, bundle: Bundle) -> Resolved:
    """Resolve a request against a bundle.

    There is one context, or one for each open end if a composition has no ``at``. Histories contain
    only services of the vocabulary. Raises :class:`RequestError` for an invalid composition and for a
    node, model or mask that does not exist.
    """
    requested: Sequence[str | None] = [request.model]
    if request.models is not None:
        requested = list(bundle.models) if request.models == "all" else request.models
    try:
        labels = list(dict.fromkeys(bundle.model(label)[0] for label in requested))
    except ConfigError as error:
        raise RequestError(f"{error}; see /models") from None
    mask = bundle.mask if request.mask is None else request.mask
    if mask is MaskPolicy.CATALOGUE and bundle.graph.declared is None:
        raise RequestError(NO_CATALOGUE)
    contexts, dropped = request_contexts(request, bundle.vocabulary)
    return Resolved(contexts, labels, mask, dropped)


def request_contexts(
    request: PredictRequest, vocabulary: Vocabulary
) -> tuple[list[Context], dict[str, int]]:
    """The contexts of a request, and what was dropped; see :class:`Resolved` and :func:`resolve`."""
    history = tuple(_history_calls(request, vocabulary)[-MAX_HISTORY_LENGTH:])
    if request.composition is None:
        return [Context(tuple(request.path or ()), time=request.time, history=history)], {}
    composition, dropped = _read_composition(request.composition, "composition")
    if request.at is None and len(composition.sinks) > MAX_OPEN_ENDS:
        dropped["open ends without an answer"] = len(composition.sinks) - MAX_OPEN_ENDS
    contexts = [
        replace(
            context,
            time=context.time if request.time is None else request.time,
            history=history,
        )
        for context in contexts_at(composition, _frontiers(composition, request.at))
    ]
    return contexts, dropped


def _read_composition(document: Document, field: str) -> tuple[Composition, dict[str, int]]:
    try:
        format_, draft, reading = read_draft(document)
        check_size(draft)
        composition, dropped = compose_draft(draft, "request", format_.on_cycle)
    except DataError as error:
        raise RequestError(f"{field}: {error}") from None
    return composition, drops(draft, reading, dropped)


def check_size(draft: Draft) -> None:
    """Raise :class:`DataError` if a composition of a request has too many nodes or links."""
    for name, items, limit in (("nodes", draft.nodes, MAX_NODES), ("links", draft.links, MAX_LINKS)):
        if len(items) > limit:
            raise DataError(
                f"at most {limit} {name} are allowed, found {len(items)}; send fewer",
                rule=f"too-many-{name}",
            )


def drops(draft: Draft, reading: Reading, broken_links: int) -> dict[str, int]:
    """Count what reading a composition dropped or repaired, by description."""
    counts = dict(reading.notes)
    repeated = len(draft.links) - len(set(draft.links))
    counts |= {"links that closed a cycle": broken_links, "links given more than once": repeated}
    return {name: count for name, count in counts.items() if count}


def _history_calls(request: PredictRequest, vocabulary: Vocabulary) -> list[Call]:
    """The service calls of the history, sorted by time if every call has one."""
    calls: list[Call] = []
    num_links = 0
    for i, item in enumerate(request.history):
        if item.path is not None:
            calls += [
                Call(key, tuple(item.path[max(0, end - MAX_CONTEXT_LENGTH) : end]), item.time)
                for end, key in enumerate(item.path)
                if end > 0 and key in vocabulary.columns
            ]
            continue
        assert item.composition is not None
        composition, _ = _read_composition(item.composition, f"history.{i}")
        num_links += len(composition.links)
        if num_links > MAX_LINKS:
            raise RequestError(
                f"history: at most {MAX_LINKS} links are allowed in all, found more; send fewer"
            )
        calls += _composition_calls(composition, item.time)
    if all(call.time is not None for call in calls):
        calls.sort(key=lambda call: call.time or 0.0)
    return calls


def _composition_calls(composition: Composition, default_time: float | None) -> list[Call]:
    """One call for each service node, by the first link to it, in the order of the links."""
    sources: dict[str, str] = {}
    for source, target in composition.links:
        if composition.by_id[target].is_service:
            sources.setdefault(target, source)
    calls = []
    for target, context in zip(sources, contexts_at(composition, list(sources.values())), strict=True):
        node = composition.by_id[target]
        time = composition.time if node.time is None else node.time
        calls.append(Call(node.key, context.path, default_time if time is None else time))
    return calls


def _frontiers(composition: Composition, at: str | int | None) -> tuple[str, ...]:
    """The ids of the nodes to extend."""
    if at is not None:
        if str(at) not in composition.by_id:
            raise RequestError(f"at: must be the id of a node of the composition, found {at!r}")
        return (str(at),)
    return composition.sinks[:MAX_OPEN_ENDS]


def context_keys(context: Context) -> Sequence[str]:
    """The distinct keys of all nodes of a context: those of its path, and of all upstream nodes."""
    keys = dict.fromkeys(context.path)
    if context.composition is not None:
        keys.update(dict.fromkeys(context.composition.by_id[id_].key for id_ in context.upstream()))
    return list(keys)


def present_keys(context: Context) -> Collection[str]:
    """The keys of all nodes of the path or of the whole composition."""
    if context.composition is None:
        return context.path
    return {node.key for node in context.composition.nodes}
