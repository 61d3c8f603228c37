"""Traces of calls between services: OTLP JSON of OpenTelemetry, and the JSON of Jaeger.

A trace is one composition, and its spans are the nodes, in the order of their start. The key of a span
is ``<service>:<operation>``, from ``service.name`` and the name of the span. A parent is linked to its
children; with several references (Jaeger), a span has several parents. The owner is the user
(``enduser.id``) of the first span that has one, or else the service that began the trace, the caller.
Spans of a trace can be anywhere in the file.

The examples are links by default: each call counts once. Along paths, a call would count once for each
leaf below it, so that services that call many others would outweigh all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from dagrec.data.compositions import Node
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import (
    Json,
    describe_value,
    optional_id,
    require_id,
    require_list,
    require_object,
)
from dagrec.data.formats.times import END
from dagrec.errors import DataError

UNKNOWN = "unknown_service"
"""The name of a service that has none, by the conventions of OpenTelemetry."""
USERS = ("enduser.id", "user.id", "enduser.pseudo.id")
"""The attributes that name a user, the most telling first."""
OTHER_SIGNALS = ("resourceMetrics", "resourceLogs", "resourceProfiles")


class Span(NamedTuple):
    """A call of a service. ``parents`` are the ids of the spans that caused it."""

    id: str
    service: str
    operation: str | None
    parents: tuple[str, ...]
    time: float | None
    owner: str | None

    @property
    def key(self) -> str:
        return f"{self.service}:{self.operation}" if self.operation else self.service


Make = Callable[[], Span]
"""Returns a span, or raises :class:`DataError`."""


def _recognises(content: Content, options: ReadOptions) -> bool:
    first = content.first
    if any(name in first for name in ("resourceSpans", *OTHER_SIGNALS)) or _is_trace(first):
        return True
    data = first.get("data")
    if isinstance(data, list) and not data:  # an answer of Jaeger without traces
        return {"total", "limit", "errors"} <= first.keys()
    return isinstance(data, list) and all(map(_is_trace, data))


def _is_trace(value: Json) -> bool:
    return isinstance(value, dict) and "spans" in value and "processes" in value


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    traces: dict[str, list[Make]] = {}
    for item in content.items():
        try:
            if item.error is not None:
                raise item.error
            for trace, make in list(_spans(item.value, reading)):
                traces.setdefault(trace, []).append(make)
        except DataError as error:
            reading.reject(error.at(item.place))
    for trace, spans in traces.items():
        yield Document(f"trace {trace}", partial(draft, trace, spans, reading))


def _spans(document: Json, reading: Reading) -> Iterator[tuple[str, Make]]:
    """Yield the id of its trace and each span of an object of the file."""
    value = require_object(document, "an object with traces")
    if "resourceSpans" in value:
        for i, resource in enumerate(require_list(value["resourceSpans"], "resourceSpans"), start=1):
            yield from _otlp_spans(require_object(resource, f"resourceSpans {i}"))
    elif any(name in value for name in OTHER_SIGNALS):
        reading.notes["objects of metrics, logs or profiles dropped"] += 1
    elif "data" in value:
        for i, trace in enumerate(require_list(value["data"], "data"), start=1):
            yield from _jaeger_spans(require_object(trace, f"data {i}"))
    else:
        yield from _jaeger_spans(value)


# OTLP


def _otlp_spans(group: dict[str, Json]) -> Iterator[tuple[str, Make]]:
    resource = require_object(group.get("resource") or {}, "resource")
    attributes = _otlp_attributes(resource)
    # Collectors before 2022 write instrumentation libraries.
    name = "scopeSpans" if "scopeSpans" in group else "instrumentationLibrarySpans"
    for scope in _list(group, name):
        for i, item in enumerate(_list(require_object(scope, name), "spans"), start=1):
            span = require_object(item, f"span {i}")
            yield (
                require_id(span.get("traceId"), f"span {i}: traceId"),
                partial(_otlp, span, attributes),
            )


def _otlp(span: dict[str, Json], resource: dict[str, Json]) -> Span:
    id_ = require_id(span.get("spanId"), "span: spanId")
    what = f"span {id_}"
    parent = optional_id(span.get("parentSpanId"), f"{what}: parentSpanId")
    return Span(
        id=id_,
        service=optional_id(resource.get("service.name"), "service.name") or UNKNOWN,
        operation=optional_id(span.get("name"), f"{what}: name"),
        parents=() if parent is None else (parent,),
        time=_seconds(span.get("startTimeUnixNano"), 10**9, f"{what}: startTimeUnixNano"),
        owner=_user(_otlp_attributes(span)) or _user(resource),
    )


def _otlp_attributes(holder: dict[str, Json]) -> dict[str, Json]:
    """The attributes that are read; a value is an object of its type, such as ``stringValue``."""
    found = {}
    for item in _list(holder, "attributes"):
        attribute = require_object(item, "an attribute")
        name, value = attribute.get("key"), attribute.get("value")
        if name in ("service.name", *USERS):
            found[str(name)] = next(iter(value.values()), None) if isinstance(value, dict) else value
    return found


# Jaeger


def _jaeger_spans(trace: dict[str, Json]) -> Iterator[tuple[str, Make]]:
    if "spans" not in trace:
        raise DataError("a trace needs 'spans', an array; add it", rule="missing-field")
    processes = require_object(trace.get("processes") or {}, "processes")
    for i, item in enumerate(require_list(trace["spans"], "spans"), start=1):
        span = require_object(item, f"span {i}")
        id_ = span["traceID"] if "traceID" in span else trace.get("traceID")
        yield require_id(id_, f"span {i}: traceID"), partial(_jaeger, span, processes)


def _jaeger(span: dict[str, Json], processes: dict[str, Json]) -> Span:
    id_ = require_id(span.get("spanID"), "span: spanID")
    what = f"span {id_}"
    name = require_id(span.get("processID"), f"{what}: processID")
    if name not in processes:
        raise DataError(
            f"{what}: processID must be one of the processes of the trace, found "
            f"{describe_value(name)}; add the process",
            rule="dangling-link",
        )
    process = require_object(processes[name], f"process {name}")
    return Span(
        id=id_,
        service=optional_id(process.get("serviceName"), f"process {name}: serviceName") or UNKNOWN,
        operation=optional_id(span.get("operationName"), f"{what}: operationName"),
        parents=tuple(_jaeger_parents(span, what)),
        time=_seconds(span.get("startTime"), 10**6, f"{what}: startTime"),
        owner=_user(_jaeger_tags(span)) or _user(_jaeger_tags(process)),
    )


def _jaeger_parents(span: dict[str, Json], what: str) -> Iterator[str]:
    """Yield the parents of a span. References to other traces do not make a composition."""
    for item in _list(span, "references"):
        reference = require_object(item, f"{what}: a reference")
        if reference.get("traceID") in (None, span.get("traceID")):
            yield require_id(reference.get("spanID"), f"{what}: spanID of a reference")
    parent = optional_id(span.get("parentSpanID"), f"{what}: parentSpanID")
    if parent is not None and parent.strip("0"):  # older versions write zeros
        yield parent


def _jaeger_tags(holder: dict[str, Json]) -> dict[str, Json]:
    tags = (require_object(tag, "a tag") for tag in _list(holder, "tags"))
    return {str(tag["key"]): tag.get("value") for tag in tags if tag.get("key") in USERS}


# Both


def draft(id_: str, makes: Sequence[Make], reading: Reading) -> Draft:
    """Return the draft of a trace. Raises :class:`DataError`, which names the span."""
    spans: dict[str, Span] = {}
    for make in makes:
        span = make()
        if span.id in spans:
            reading.notes["spans with the id of a span before them dropped"] += 1
        else:
            spans[span.id] = span
    ordered = sorted(spans.values(), key=lambda span: span.time or 0.0)
    links = [(parent, span.id) for span in ordered for parent in span.parents if parent in spans]
    missing = sum(parent not in spans for span in ordered for parent in span.parents)
    if missing:
        reading.notes["links to parent spans that are missing dropped"] += missing
    if unknown := sum(span.service == UNKNOWN for span in ordered):
        reading.notes["spans of services without a name"] += unknown
    targets = {target for _, target in links}
    roots = [span for span in ordered if span.id not in targets] or ordered
    owners = [span.owner for span in ordered if span.owner is not None]
    return Draft(
        id=id_,
        nodes=[
            Node(span.id, require_id(span.key, f"span {span.id}: key"), time=span.time)
            for span in ordered
        ],
        links=links,
        owner=owners[0] if owners else roots[0].service,
        time=max((span.time for span in ordered if span.time is not None), default=None),
    )


def _list(holder: dict[str, Json], name: str) -> list[Json]:
    """An array that may be missing or null."""
    value = holder.get(name)
    return [] if value is None else require_list(value, name)


def _user(attributes: dict[str, Json]) -> str | None:
    """The user that attributes name; values that are no names are left out."""
    for name in USERS:
        value = attributes.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return require_id(value, name)
    return None


def _seconds(value: Json, per_second: int, name: str) -> float | None:
    """Return seconds since 1970 from a number of another unit, or its text; None for zero."""
    if value is None or value == "":
        return None
    # Numbers of more than 20 digits are no times, and may be too many to convert.
    is_text = isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20
    if is_text or (isinstance(value, int) and not isinstance(value, bool)):
        number = int(value)
        if number == 0:
            return None
        if 0 < number < END * per_second:
            return number / per_second
    unit = {10**9: "nanoseconds", 10**6: "microseconds"}[per_second]
    raise DataError(
        f"{name} must be a number of {unit} since 1970, before 2100, found {describe_value(value)}; "
        "correct it",
        rule="bad-time",
    )


FORMAT = Format(
    name="traces",
    description="traces: OTLP JSON (resourceSpans) and JSON lines of it, or JSON of Jaeger",
    on_cycle="break",  # only mistakes of instrumentation close a cycle
    recognises=_recognises,
    documents=_documents,
    fields=("resourceSpans", "spans", "processes", "traceID", "data", "total", "limit", "errors"),
)
