"""Requests to a bundle, and their answers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from dagrec.predict import Answer, predict
from dagrec.request import (
    make_request,
)
from dagrec.store.bundle import Bundle

ENDS = {"nodes": [{"id": "a", "mid": 1}, {"id": "e", "mid": 2}], "links": []}


def ask(bundle: Bundle, **values: Any) -> Answer:
    return predict(bundle, make_request(values))


def chain(*mids: int, table: str = "1001002", **at: Any) -> dict[str, Any]:
    """A request for a composition: a table, and services one after another."""
    nodes = [{"id": table}, *({"id": f"n{i}", "mid": mid} for i, mid in enumerate(mids))]
    links = [{"source": a["id"], "target": b["id"]} for a, b in pairwise(nodes)]
    return {"composition": {"nodes": nodes, "links": links}, **at}
