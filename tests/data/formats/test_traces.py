"""The reader of traces: OTLP JSON and the JSON of Jaeger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from dagrec.data.compositions import Composition
from dagrec.data.dataset import Dataset
from dagrec.data.formats import ReadOptions, read, read_composition
from dagrec.errors import DataError
from tests.checks import says
from tests.data.dags import dags

Json = Any
START = 1_714_564_800
"""Noon of 1 May 2024."""


def span(id_: str, parent: str = "", name: str = "get", at: float = 0, **more: Json) -> Json:
    """A span of OTLP ``at`` seconds after noon."""
    return {
        "traceId": "t1",
        "spanId": id_,
        "parentSpanId": parent,
        "name": name,
        "kind": 3,
        "startTimeUnixNano": str(START * 10**9 + int(at * 10**9)),
        "endTimeUnixNano": str((START + 100) * 10**9),
        "status": {},
    } | more


def attributes(**values: str) -> Json:
    return [
        {"key": name.replace("_", "."), "value": {"stringValue": value}}
        for name, value in values.items()
    ]


def otlp(*groups: tuple[str | None, list[Json]], scopes: str = "scopeSpans") -> Json:
    """Spans by service, as a collector writes them."""
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [] if service is None else attributes(service_name=service)},
                scopes: [{"scope": {"name": "lib"}, "spans": spans[:1]}, {"spans": spans[1:]}],
            }
            for service, spans in groups
        ]
    }


def jaeger_span(id_: str, *parents: str, process: str = "p1", at: float = 0, **more: Json) -> Json:
    return {
        "traceID": "t1",
        "spanID": id_,
        "operationName": f"do {id_}",
        "references": [
            {"refType": "CHILD_OF", "traceID": "t1", "spanID": parent} for parent in parents
        ],
        "startTime": START * 10**6 + int(at * 10**6),
        "duration": 5,
        "tags": [],
        "logs": [],
        "processID": process,
        "warnings": None,
    } | more


def jaeger(*spans: Json, **processes: str) -> Json:
    """One trace in an answer of Jaeger."""
    named = {id_: {"serviceName": name, "tags": []} for id_, name in processes.items()}
    trace = {"traceID": "t1", "spans": list(spans), "processes": named or {"p1": {"serviceName": "s"}}}
    return {"data": [trace], "total": 0, "limit": 0, "offset": 0, "errors": None}


def load(folder: Path, *values: Json, **options: str) -> Dataset:
    file = folder / "traces.json"
    file.write_text("\n".join(json.dumps(value) for value in values))
    return read(file, ReadOptions.model_validate(options))


def only(folder: Path, *values: Json) -> Composition:
    (composition,) = load(folder, *values)
    return composition


# OTLP


@pytest.mark.parametrize("scopes", ["scopeSpans", "instrumentationLibrarySpans"])
def test_trace_of_otlp_is_composition_in_order_of_time(scopes: str, tmp_path: Path) -> None:
    value = otlp(
        ("stock", [span("c", "a", "SELECT", at=2), span("b", "a", "GET", at=1.5)]),
        ("shop", [span("a", "", "GET /cart", at=0)]),
        scopes=scopes,
    )
    dataset = load(tmp_path, value)
    assert dict(dataset.report.formats) == {"traces": 1}
    (composition,) = dataset
    assert [(n.id, n.key, n.kind, n.time) for n in composition.nodes] == [
        ("a", "shop:GET /cart", "service", START),
        ("b", "stock:GET", "service", START + 1.5),
        ("c", "stock:SELECT", "service", START + 2),
    ]
    assert composition.links == (("a", "b"), ("a", "c"))
    assert (composition.id, composition.owner, composition.time) == ("t1", "shop", START + 2)


def test_examples_are_links_because_calls_count_once(tmp_path: Path) -> None:
    leaves = [span(f"c{i}", "b", "SELECT", at=i) for i in range(2, 6)]
    dataset = load(tmp_path, otlp(("s", [span("a"), span("b", "a", "list", at=1), *leaves])))
    assert dataset.form == "links"


def test_spans_of_trace_can_be_anywhere_in_file(tmp_path: Path) -> None:
    first = otlp(("shop", [span("b", "a", at=1), span("x", traceId="t2")]))
    second = otlp(("shop", [span("a")]))
    dataset = load(tmp_path, first, {"resourceMetrics": []}, second)
    assert [(c.id, c.links) for c in dataset] == [("t1", (("a", "b"),)), ("t2", ())]
    assert dataset.report.notes == {"objects of metrics, logs or profiles dropped": 1}


def test_user_is_owner(tmp_path: Path) -> None:
    child = span("b", "a", at=1, attributes=attributes(enduser_id="ann", user_id="other"))
    assert only(tmp_path, otlp(("shop", [child, span("a")]))).owner == "ann"
    numbered = span("a", attributes=[{"key": "user.id", "value": {"intValue": "7"}}])
    assert only(tmp_path, otlp(("shop", [numbered]))).owner == "7"
    listed = span("a", attributes=[{"key": "user.id", "value": {"arrayValue": {}}}])
    assert only(tmp_path, otlp(("shop", [listed]))).owner == "shop"


def test_missing_parents_and_services_and_repeated_spans_are_counted(tmp_path: Path) -> None:
    spans = [span("a", "gone"), span("b", "a", at=1), span("b", "a", at=1), span("c", "lost", at=2)]
    dataset = load(tmp_path, otlp((None, spans)))
    assert [n.key for n in dataset[0].nodes] == ["unknown_service:get"] * 3
    assert dataset[0].links == (("a", "b"),)
    assert dataset[0].owner == "unknown_service"
    assert dataset.report.notes == {
        "links to parent spans that are missing dropped": 2,
        "spans with the id of a span before them dropped": 1,
        "spans of services without a name": 3,
    }


def test_span_without_name_or_time_is_read(tmp_path: Path) -> None:
    composition = only(tmp_path, otlp(("shop", [span("a", name="", startTimeUnixNano="0")])))
    assert [(n.key, n.time) for n in composition.nodes] == [("shop", None)]
    assert composition.time is None


def test_parent_of_itself_is_broken_and_counted(tmp_path: Path) -> None:
    dataset = load(tmp_path, otlp(("shop", [span("a", "a")])))
    assert dataset[0].links == ()
    assert dataset.report.broken_links == 1


def test_trace_in_a_request_is_read() -> None:
    assert read_composition(otlp(("shop", [span("a"), span("b", "a")]))).links == (("a", "b"),)


# Jaeger


def test_trace_of_jaeger_is_composition_in_order_of_time(tmp_path: Path) -> None:
    value = jaeger(
        jaeger_span("b", "a", process="p2", at=0.25),
        jaeger_span("a"),
        jaeger_span("c", "a", "b", at=0.5),
        p1="shop",
        p2="stock",
    )
    (composition,) = load(tmp_path, value)
    assert [(n.id, n.key, n.time) for n in composition.nodes] == [
        ("a", "shop:do a", START),
        ("b", "stock:do b", START + 0.25),
        ("c", "shop:do c", START + 0.5),
    ]
    assert composition.links == (("a", "b"), ("a", "c"), ("b", "c"))
    assert (composition.id, composition.owner) == ("t1", "shop")


def test_parents_of_jaeger_can_be_fields_and_are_not_of_other_traces(tmp_path: Path) -> None:
    old = [jaeger_span("a", parentSpanID="0"), jaeger_span("b", parentSpanID="a", references=None)]
    assert only(tmp_path, jaeger(*old)).links == (("a", "b"),)
    elsewhere = [{"refType": "FOLLOWS_FROM", "traceID": "t0", "spanID": "a"}]
    dataset = load(tmp_path, jaeger(jaeger_span("a"), jaeger_span("b", references=elsewhere)))
    assert dataset[0].links == ()
    assert not dataset.report.notes


def test_user_of_jaeger_is_owner(tmp_path: Path) -> None:
    tags = [{"key": "http.url", "value": "/"}, {"key": "enduser.id", "type": "int64", "value": 7}]
    assert only(tmp_path, jaeger(jaeger_span("a", tags=tags))).owner == "7"


def test_traces_of_jaeger_can_be_bare(tmp_path: Path) -> None:
    trace = jaeger(jaeger_span("a"))["data"][0]
    other = trace | {"traceID": "t2", "spans": [jaeger_span("x", traceID="t2")]}
    for values in ([trace, other], [[trace, other]], [{"data": [trace, other]}]):
        assert [c.id for c in load(tmp_path, *values)] == ["t1", "t2"]


def test_answer_without_traces_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, {"data": [], "total": 0, "limit": 0, "offset": 0, "errors": None})
    assert says(error, "at least one composition is needed, found none")


# Errors


@pytest.mark.parametrize(
    ("value", "rule", "message"),
    [
        (otlp(("s", [span("")])), "missing-id", "trace t1: span: spanId must be"),
        (otlp(("s", [span("a", name=5.5)])), "wrong-type", "trace t1: span a: name must be"),
        (otlp(("s", [span("a", parentSpanId=[])])), "wrong-type", "span a: parentSpanId must be"),
        (
            otlp(("s", [span("a", startTimeUnixNano="soon")])),
            "bad-time",
            "span a: startTimeUnixNano must be a number of nanoseconds since 1970, before 2100, found",
        ),
        (otlp(("s", [span("a", startTimeUnixNano=-1)])), "bad-time", "found -1"),
        (otlp(("s", [span("a", startTimeUnixNano="9" * 20)])), "bad-time", "found"),
        (otlp(("s", [span("a", startTimeUnixNano=True)])), "bad-time", "found true"),
        (otlp(("s", [span("a", name="x" * 999)])), "long-key", "span a: key may have 1000 characters"),
        (otlp(("s", [span("a", attributes=[1])])), "wrong-type", "an attribute must be an object"),
        (otlp(("s", [span("a", traceId=None)])), "missing-id", "composition 1: span 1: traceId must"),
        ({"resourceSpans": 5}, "wrong-type", "composition 1: resourceSpans must be an array"),
        ({"resourceSpans": [5]}, "wrong-type", "composition 1: resourceSpans 1 must be an object"),
        (otlp(("s", [5])), "wrong-type", "composition 1: span 1 must be an object, found 5"),
        (
            jaeger(jaeger_span("a", process="p9")),
            "dangling-link",
            'trace t1: span a: processID must be one of the processes of the trace, found "p9"',
        ),
        (jaeger(jaeger_span("a", startTime="x")), "bad-time", "a number of microseconds since 1970"),
        (jaeger(jaeger_span("a", references=[1])), "wrong-type", "span a: a reference must be"),
        (jaeger(jaeger_span("a", tags={})), "wrong-type", "tags must be an array"),
        (
            [jaeger(jaeger_span("a"))["data"][0], {"traceID": "t2", "processes": {}}],
            "missing-field",
            "composition 2: a trace needs 'spans'",
        ),
    ],
)
def test_invalid_trace_is_named(value: Json, rule: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, value)
    assert error.value.rule == rule
    assert says(error, "traces.json: ", message)


def test_invalid_trace_is_skipped(tmp_path: Path) -> None:
    value = otlp(("s", [span("a"), span("", traceId="t2")]))
    dataset = load(tmp_path, value, {"resourceSpans": 5}, on_error="skip")
    assert [c.id for c in dataset] == ["t1"]
    assert dict(dataset.report.skipped) == {"missing-id": 1, "wrong-type": 1}


# Round trips


def topological(composition: Composition) -> list[tuple[int, str]]:
    return list(enumerate(composition.order))


@given(written=dags())
def test_written_trace_of_jaeger_is_read_again(written: Composition) -> None:
    parents = {id_: written.parents[id_] for id_ in written.order}
    spans = [
        jaeger_span(id_, *parents[id_], at=at, operationName=written.by_id[id_].key)
        for at, id_ in topological(written)
    ]
    again = read_composition(jaeger(*reversed(spans), p1="s"))
    assert [(n.id, n.key, n.time) for n in again.nodes] == [
        (id_, f"s:{written.by_id[id_].key}", START + at) for at, id_ in topological(written)
    ]
    assert set(again.links) == set(written.links)


@given(written=dags())
def test_written_trace_of_otlp_is_read_again(written: Composition) -> None:
    """A span of OTLP has one parent, so that only the first link to each node is written."""
    links = {(parents[0], id_) for id_, parents in written.parents.items() if parents}
    parent_of = {id_: parent for parent, id_ in links}
    spans = [
        span(id_, parent_of.get(id_, ""), written.by_id[id_].key, at=at)
        for at, id_ in topological(written)
    ]
    again = read_composition(otlp(("s", spans[::2]), ("s", spans[1::2])))
    assert [n.key for n in again.nodes] == [f"s:{written.by_id[id_].key}" for id_ in written.order]
    assert set(again.links) == links
