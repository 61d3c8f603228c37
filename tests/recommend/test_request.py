"""Validation and limits of requests, and the histories in them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagrec.data.history import MAX_HISTORY_LENGTH
from dagrec.errors import RequestError
from dagrec.graph.mask import MaskPolicy
from dagrec.models.registry import MODELS
from dagrec.recommend.predictor import predict, predict_lines
from dagrec.recommend.request import (
    MAX_K,
    MAX_LINKS,
    MAX_NODES,
    MAX_OPEN_ENDS,
    MAX_PATH_LENGTH,
    make_request,
    request_contexts,
)
from dagrec.store.bundle import Bundle
from tests.recommend.requests import TWO_OPEN_ENDS, answers_of, ask, ask_all, chain

LOOP = {"source": 1, "target": 1}


def test_node_ids_may_be_integers(bundle: Bundle) -> None:
    composition = {
        "nodes": [{"id": 1001002}, {"id": 7, "mid": 301}],
        "links": [{"source": "1001002", "target": 7}],
    }
    expected = ask(bundle, path=["table_1001002", "service_301"])
    assert ask(bundle, composition=composition, at=7) == expected
    assert ask(bundle, composition=composition, at="7") == expected


def test_composition_of_n8n_is_answered_and_its_cycle_is_reported(bundle: Bundle) -> None:
    def to(name: str) -> dict[str, Any]:
        return {"main": [[{"node": name, "type": "main", "index": 0}]]}

    workflow = {
        "nodes": [
            {"name": "a", "type": "table_1001002"},
            {"name": "b", "type": "service_301"},
            {"name": "c", "type": "service_303"},
        ],
        "connections": {"a": to("b"), "b": to("c"), "c": to("b")},
    }
    answer = ask(bundle, composition=workflow, at="b")
    assert answer.dropped == {"links that closed a cycle": 1}
    assert answer.unknown == []
    assert ask(bundle, composition={"data": workflow}, at="b").predictions == answer.predictions


def test_open_ends_are_limited(bundle: Bundle) -> None:
    nodes = [{"id": i, "mid": 1} for i in range(MAX_OPEN_ENDS + 1)]
    for count in (MAX_OPEN_ENDS, MAX_OPEN_ENDS + 1):
        answers = ask_all(bundle, composition={"nodes": nodes[:count], "links": []})
        assert [answer.at for answer in answers] == [str(i) for i in range(MAX_OPEN_ENDS)]
        left = {"open ends without an answer": 1} if count > MAX_OPEN_ENDS else {}
        assert all(answer.dropped == left for answer in answers)


def test_at_must_be_node_of_composition(bundle: Bundle) -> None:
    with pytest.raises(
        RequestError, match="at: must be the id of a node of the composition, found 'x'"
    ):
        ask(bundle, composition=TWO_OPEN_ENDS, at="x")
    with pytest.raises(RequestError, match="at needs a composition, found none"):
        ask(bundle, path=["service_301"], at="x")


def test_request_has_either_path_or_composition() -> None:
    for values in ({}, {"k": 3}, {"path": ["a"], "composition": TWO_OPEN_ENDS}):
        with pytest.raises(RequestError, match="either a path or a composition"):
            make_request(values)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"path": "a,b"}, ["path", "list", "'a,b'"]),
        ({"path": [""]}, ["path.0", "at least 1 character"]),
        ({"path": [3]}, ["path.0", "string", "3"]),
        ({"path": ["a"] * (MAX_PATH_LENGTH + 1)}, ["path", f"at most {MAX_PATH_LENGTH}"]),
        ({"path": ["\ud800"]}, ["path.0"]),
        ({"path": [], "k": 0}, ["k", "greater than or equal to 1", "0"]),
        ({"path": [], "k": MAX_K + 1}, ["k", f"less than or equal to {MAX_K}"]),
        ({"path": [], "k": math.nan}, ["k", "nan"]),
        ({"path": [], "mask": "hard"}, ["mask", "observed", "catalogue", "soft", "none", "'hard'"]),
        ({"path": [], "kk": 1}, ["kk", "Extra inputs are not permitted"]),
        ({"path": [], "\ud800": 1}, ["valid string"]),
        ({"composition": "a"}, ["composition", "dictionary", "list"]),
        ({"composition": []}, ["composition: ", "known format", "needs nodes and links"]),
        ({"composition": {}}, ["composition: ", "known format", "needs nodes and links"]),
        ({"composition": {"nodes": [{"id": 1}]}}, ["a composition needs 'links'"]),
        ({"composition": {"nodes": [], "links": []}}, ["at least one node"]),
        ({"composition": {"nodes": [{"id": 1}, {"id": "1"}], "links": []}}, ["'1'", "found it twice"]),
        (
            {"composition": {"nodes": [{"id": 1}], "links": [{"source": 1, "target": 2}]}},
            ["link '1' -> '2'", "target", "found '2', which does not exist"],
        ),
        (
            {"composition": {"nodes": [{"id": 1}], "links": [{"source": 1, "target": 1}]}},
            ["link '1' -> '1'", "closes a cycle"],
        ),
        ({"composition": {"nodes": [{"id": 1}] * (MAX_NODES + 1), "links": []}}, ["send fewer"]),
        (
            {"composition": {"composition": {"nodes": [{"id": 1}], "links": [LOOP] * (MAX_LINKS + 1)}}},
            [f"at most {MAX_LINKS} links are allowed, found {MAX_LINKS + 1}"],
        ),
    ],
)
def test_invalid_request_error_has_field_rule_and_value(
    values: dict[str, Any], texts: Sequence[str], bundle: Bundle
) -> None:
    with pytest.raises(RequestError) as caught:
        ask(bundle, **values)
    for text in texts:
        assert text in str(caught.value)
    assert str(caught.value).encode("utf-8"), "the message must be printable"


def test_composition_with_exponentially_many_paths(bundle: Bundle) -> None:
    path = ["table_1001002", *(f"service_{301 + i % 16}" for i in range(60) for _ in range(2))]
    assert ask(bundle, composition=diamonds(60)) == ask(bundle, path=path)


def diamonds(count: int) -> dict[str, Any]:
    """A chain of ``count`` diamonds, which has 2 ** count paths."""
    nodes: list[dict[str, Any]] = [{"id": "1001002"}]
    links = []
    for i in range(count):
        nodes += [{"id": f"{side}{i}", "mid": 301 + i % 16} for side in ("l", "r", "end")]
        before = nodes[-4]["id"]
        links += [{"source": before, "target": f"{side}{i}"} for side in "lr"]
        links += [{"source": f"{side}{i}", "target": f"end{i}"} for side in "lr"]
    return {"nodes": nodes, "links": links}


@pytest.mark.parametrize("field", ["k", "path", "composition", "at", "model", "mask", "other"])
def test_deeply_nested_request_is_rejected(field: str, bundle: Bundle) -> None:
    # At depths near the recursion limit, formatting the rejected value can fail, too.
    for depth in (100, *range(850, 1000), 5_000, 100_000):
        line = f'{{"{field}": {"[" * depth}1{"]" * depth}}}'
        (result,) = predict_lines(bundle, [line], {})
        assert isinstance(result, RequestError)
        assert str(result).startswith("line 1: ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
ids = st.sampled_from(["a", "b", "c", 1, "1", "", None, True, 1.5, "\ud800", 10**400]) | json_values
nodes = st.fixed_dictionaries(
    {"id": ids},
    optional={"mid": ids, "key": ids, "kind": ids, "owner": ids, "start_time": ids, "text": ids},
)
links = st.fixed_dictionaries({"source": ids, "target": ids})
compositions = st.fixed_dictionaries(
    {
        "nodes": st.lists(nodes | json_values, max_size=4) | json_values,
        "links": st.lists(links | json_values, max_size=4) | json_values,
    },
    optional={"id": ids, "owner": ids, "time": ids},
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "path": st.lists(st.sampled_from(["service_301", "table_1001002", "x"]) | ids, max_size=4)
        | json_values,
        "composition": compositions
        | st.fixed_dictionaries({"composition": compositions})
        | json_values,
        "at": ids,
        "k": st.integers(-1, 2000) | json_values,
        "model": st.sampled_from([*MODELS, "unknown"]) | json_values,
        "mask": st.sampled_from([*MaskPolicy, "unknown"]) | json_values,
    },
)


def check_request(bundle: Bundle, values: dict[str, Any]) -> None:
    """Check that the request gives valid probabilities or a printable RequestError."""
    (line_result,) = predict_lines(bundle, [json.dumps(values)], {})
    try:
        answer = predict(bundle, make_request(values))
    except RequestError as error:
        text = str(error)
    else:
        text = answer.model_dump_json()
        answers = answers_of(answer)
        assert answers
        assert answers == answers_of(line_result)
        for one in answers:
            assert 0 < math.fsum(p.probability for p in one.predictions) <= 1 + 1e-9
    assert text.encode("utf-8")
    assert str(line_result).encode("utf-8")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=requests | st.dictionaries(st.text(max_size=8), json_values, max_size=3))
def test_any_json_object_gives_answer_or_request_error(bundle: Bundle, values: dict[str, Any]) -> None:
    check_request(bundle, values)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=requests)
def test_many_json_objects_give_answer_or_request_error(bundle: Bundle, values: dict[str, Any]) -> None:
    check_request(bundle, values)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"diversity": 1.5}, ("diversity", "1.5")),
        ({"novelty": -1}, ("novelty", "-1")),
        ({"allow": [""]}, ("allow.0",)),
        ({"history": [{}]}, ("history.0", "either a path or a composition")),
        ({"history": [{"path": ["a"], "time": "yesterday"}]}, ("history.0.time", "yesterday")),
        ({"history": [{"path": ["a"]}] * 1001}, ("history", "1000")),
        ({"time": "soon"}, ("time", "soon")),
    ],
)
def test_out_of_range_option_is_named_in_error(values: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(RequestError) as caught:
        make_request({"path": ["a"], **values})
    assert all(part in str(caught.value) for part in parts)
    assert "Value error" not in str(caught.value)


def test_invalid_composition_in_history_is_named_in_error(bundle: Bundle) -> None:
    broken = {"nodes": [{"id": "a", "mid": 1}], "links": [{"source": "a", "target": "b"}]}
    with pytest.raises(RequestError, match=r"history\.0: .*b"):
        ask(bundle, path=["service_301"], history=[{"composition": broken}])


def history_calls(
    bundle: Bundle, *history: dict[str, Any]
) -> list[tuple[str, tuple[str, ...], float | None]]:
    request = make_request({"path": ["service_301"], "history": list(history)})
    (context,), _ = request_contexts(request, bundle.vocabulary)
    return [tuple(call) for call in context.history]  # type: ignore[misc]


def test_history_is_service_calls_of_paths_and_compositions(bundle: Bundle) -> None:
    path = {"path": ["table_1001002", "service_301", "service_302"], "time": "2020-01-01T00:00:00Z"}
    time = 1577836800.0
    assert history_calls(bundle, path) == [
        ("service_301", ("table_1001002",), time),
        ("service_302", ("table_1001002", "service_301"), time),
    ]
    composition = {"composition": chain(301, 303)["composition"], "time": time - 5}
    assert history_calls(bundle, path, composition) == [
        ("service_301", ("table_1001002",), time - 5),
        ("service_303", ("table_1001002", "service_301"), time - 5),
        *history_calls(bundle, path),
    ]


def test_history_without_times_keeps_order(bundle: Bundle) -> None:
    calls = history_calls(
        bundle, {"path": ["t", "service_302"]}, {"path": ["t", "service_301"], "time": 5}
    )
    assert calls == [("service_302", ("t",), None), ("service_301", ("t",), 5.0)]


def test_long_history_keeps_newest_calls(bundle: Bundle) -> None:
    many = [{"path": ["t", "service_301"], "time": i} for i in range(600)]
    calls = history_calls(bundle, *many)
    assert len(calls) == MAX_HISTORY_LENGTH
    assert calls[-1][2] == 599


def test_history_links_are_limited(bundle: Bundle) -> None:
    nodes = [{"id": i, "mid": 301 + i % 16} for i in range(400)]
    links = [{"source": i, "target": j} for i in range(130) for j in range(200, 400)]
    item = {"composition": {"nodes": nodes, "links": links}}
    with pytest.raises(RequestError, match=f"history: at most {MAX_LINKS} links are allowed in all"):
        ask(bundle, path=["service_301"], history=[item, item])
