"""Helpers that send requests to a bundle."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from dagrec.recommend.answers import Answer, Answers
from dagrec.recommend.predictor import predict
from dagrec.recommend.request import make_request
from dagrec.store.bundle import Bundle

TWO_OPEN_ENDS = {"nodes": [{"id": "a", "mid": 1}, {"id": "e", "mid": 2}], "links": []}
PATH = ["table_1001002", "service_301"]
FORK: dict[str, Any] = {
    "nodes": [{"id": "1001002"}, {"id": "a", "mid": 301}, {"id": "b", "mid": 303}],
    "links": [{"source": "1001002", "target": "a"}, {"source": "1001002", "target": "b"}],
}


def ask(bundle: Bundle, **values: Any) -> Answer:
    """The one answer to a request, without the node and the time; see :func:`comparable`."""
    answer = predict(bundle, make_request(values))
    assert isinstance(answer, Answer)
    return comparable(answer)


def ask_all(bundle: Bundle, **values: Any) -> list[Answer]:
    """All answers to a request, without their times."""
    answers = predict(bundle, make_request(values))
    assert isinstance(answers, Answers)
    return answers_of(answers)


def answers_of(response: object) -> list[Answer]:
    """The answer or answers in a response, without their times."""
    assert isinstance(response, Answer | Answers)
    answers = response.answers if isinstance(response, Answers) else [response]
    return [answer.model_copy(update={"took_ms": 0.0}) for answer in answers]


def comparable(answer: Answer) -> Answer:
    """An answer without the fields that depend on the form of the request: the node and the time."""
    return answer.model_copy(update={"took_ms": 0.0, "at": None})


def chain(*mids: int, table: str = "1001002", **fields: Any) -> dict[str, Any]:
    """A request for a composition that is a chain of a table and services."""
    nodes = [{"id": table}, *({"id": f"n{i}", "mid": mid} for i, mid in enumerate(mids))]
    links = [{"source": a["id"], "target": b["id"]} for a, b in pairwise(nodes)]
    return {"composition": {"nodes": nodes, "links": links}, **fields}
