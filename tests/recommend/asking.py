"""Requests to a bundle, and their answers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from dagrec.recommend.answers import Answer, Answers
from dagrec.recommend.predictor import predict
from dagrec.recommend.request import make_request
from dagrec.store.bundle import Bundle

ENDS = {"nodes": [{"id": "a", "mid": 1}, {"id": "e", "mid": 2}], "links": []}


def ask(bundle: Bundle, **values: Any) -> Answer:
    """The one answer, without what says how it was asked, and not what was answered: node and time."""
    answer = predict(bundle, make_request(values))
    assert isinstance(answer, Answer)
    return plain(answer)


def ask_all(bundle: Bundle, **values: Any) -> list[Answer]:
    """Several answers, as they are but for their times."""
    answers = predict(bundle, make_request(values))
    assert isinstance(answers, Answers)
    return all_of(answers)


def all_of(found: object) -> list[Answer]:
    """What was answered, one or several, but for their times."""
    assert isinstance(found, Answer | Answers)
    answers = found.answers if isinstance(found, Answers) else [found]
    return [answer.model_copy(update={"took_ms": 0.0}) for answer in answers]


def plain(answer: Answer) -> Answer:
    """An answer that compares equal to that of the same question in another form."""
    return answer.model_copy(update={"took_ms": 0.0, "at": None})


def chain(*mids: int, table: str = "1001002", **at: Any) -> dict[str, Any]:
    """A request for a composition: a table, and services one after another."""
    nodes = [{"id": table}, *({"id": f"n{i}", "mid": mid} for i, mid in enumerate(mids))]
    links = [{"source": a["id"], "target": b["id"]} for a, b in pairwise(nodes)]
    return {"composition": {"nodes": nodes, "links": links}, **at}
