"""The composition of the samples as graph, edge list, trace and path, and more of their documents."""

from __future__ import annotations

from typing import Any

Json = Any
NAMES = {1: "input", 2: "cut", 3: "join"}
NOON = "2024-05-01T12:00:00"
SECOND = 10**9
START = 1_714_564_800


def ends(back: bool) -> list[tuple[int, int]]:
    return [(1, 2), (2, 3), (1, 3)] + [(3, 2)] * back


def node_link(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    return {
        "directed": True,
        "multigraph": False,
        "graph": {"id": id_, "owner": "ann", "goal": "Join", "time": NOON},
        "nodes": [
            {"key": "input", "kind": "data", "id": number(1)},
            {"key": "cut", "text": "Cut it", "operation": "cut/all", "id": number(2)},
            {"key": "join", "label": "Join them", "time": NOON, "id": number(3)},
        ],
        "edges": [{"source": number(a), "target": number(b), "output": "out"} for a, b in ends(back)]
        + [{"source": "1", "target": "9"}] * broken,
    }


def graphml(id_: str, *, back: bool = False, broken: bool = False) -> str:
    time = "yesterday" if broken else NOON
    nodes = [f'<node id="{i}"><data key="key">{name}</data></node>' for i, name in NAMES.items()]
    links = [f'<edge source="{a}" target="{b}" sourceport="out"/>' for a, b in ends(back)]
    return (
        f'<graph id="{id_}" edgedefault="directed">\n<data key="time">{time}</data>'
        + "\n".join([*nodes, *links])
        + "\n</graph>\n"
    )


def dot(id_: str, *, back: bool = False, broken: bool = False) -> str:
    time = "yesterday" if broken else NOON
    nodes = [f'{i} [key={name}, label="My {name}"];' for i, name in NAMES.items()]
    links = [f"{a}:out -> {b};" for a, b in ends(back)]
    return "\n".join([f'digraph "{id_}" {{', f'time="{time}"', *nodes, *links, "}\n"])


def edges(id_: str, *, back: bool = False, broken: bool = False) -> str:
    time = "yesterday" if broken else NOON
    return "".join(f"{id_},{a},{b},{NAMES[a]},{NAMES[b]},{time}\n" for a, b in ends(back))


def traces(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    """A trace of Jaeger, whose spans can have several parents."""
    parents = {1: [], 2: [1] + [3] * back, 3: [2, 1]}
    spans: list[Json] = [
        {
            "traceID": id_,
            "spanID": number(i),
            "operationName": name,
            "references": [
                {"refType": "CHILD_OF", "traceID": id_, "spanID": number(parent)}
                for parent in parents[i]
            ],
            "startTime": (START + i) * 10**6,
            "duration": 5,
            "tags": [{"key": "enduser.id", "type": "string", "value": "ann"}],
            "processID": "p1",
        }
        for i, name in NAMES.items()
    ]
    if broken:
        spans.append({"traceID": id_, "spanID": None})
    process = {"serviceName": "geo", "tags": []}
    return {"data": [{"traceID": id_, "spans": spans, "processes": {"p1": process}}], "total": 0}


def paths(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    """A path, in which a key can come again; that is no cycle."""
    keys = [number(1), number(2), None if broken else number(3)] + [number(2)] * back
    return {"id": id_, "path": keys, "owner": "ann", "time": NOON, "goal": "Join"}


def otlp_span(id_: str, parent: str, name: str, **attributes: str) -> Json:
    return {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": id_,
        "parentSpanId": parent,
        "name": name,
        "kind": 2,
        "startTimeUnixNano": str((START + 1) * SECOND),
        "endTimeUnixNano": str((START + 2) * SECOND),
        "attributes": [
            {"key": key, "value": {"stringValue": value}} for key, value in attributes.items()
        ],
    }


def otlp(service: str, *spans: Json) -> Json:
    """Spans of a service, as a collector writes them."""
    return {
        "resource": {
            "attributes": [{"key": "service.name", "value": {"stringValue": service}}],
            "droppedAttributesCount": 0,
        },
        "scopeSpans": [{"scope": {"name": "lib", "version": "1"}, "spans": list(spans)}],
    }


DOCUMENTS = {
    "node-link-compositions": {
        "multigraph": True,
        "graph": {"owner": "ann"},
        "nodes": [{"id": "a", "composition": "x"}, {"id": "b", "composition": "y"}],
        "links": [{"source": "a", "target": "b", "key": 0}, {"source": "a", "target": "a", "key": 1}],
    },
    "traces-otlp": {
        "resourceSpans": [
            otlp("shop", otlp_span("a1", "", "GET /cart", **{"enduser.id": "ann"})),
            otlp("stock", otlp_span("b2", "a1", "SELECT"), otlp_span("c3", "gone", "UPDATE")),
        ]
    },
}
