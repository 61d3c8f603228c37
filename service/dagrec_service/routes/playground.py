"""The playground: a page on which one draws a composition and sees what comes next."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from dagrec.store.bundle import Bundle
from dagrec.types import Floats
from dagrec_service.routes.common import Held

STATIC = Path(__file__).parents[1] / "static"
FILES = StaticFiles(directory=STATIC)
SERVED = frozenset({".html", ".css", ".js", ".svg"})
"""What is served; licences and lists of versions are for those who read the source."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked about by ETag: a new release is seen at once
}
MAX_STARTS = 50
"""Nodes that an example may start from: those that training continued most often."""
MAX_EXAMPLE_LENGTH = 4

# Not in the OpenAPI document: these serve the page, and change with it.
router = APIRouter(include_in_schema=False)


class Found(BaseModel):
    """Keys that match a search, services first, and how many more there are."""

    services: list[str]
    others: list[str]
    more: int


class PlaygroundExample(BaseModel):
    """A small composition that the live bundle knows, in native JSON."""

    name: str
    composition: dict[str, Any]


@router.api_route("/", methods=["GET", "HEAD"])
async def get_page(request: Request) -> Response:
    """The page."""
    return await _respond(request, "index.html")


@router.api_route("/static/{name:path}", methods=["GET", "HEAD"])
async def get_static(name: str, request: Request) -> Response:
    """A file of the page."""
    return await _respond(request, name)


@router.get("/playground/keys")
def get_keys(
    held: Held,
    search: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Found:
    """Keys of the live bundle that hold every word of the search, the shortest first."""
    words = search.casefold().split()
    vocabulary = held.bundle.vocabulary

    def matches(keys: Iterable[str]) -> list[str]:
        found = [key for key in keys if all(word in key.casefold() for word in words)]
        return sorted(found, key=len) if words else found

    services, others = matches(vocabulary.services), matches(vocabulary.others)
    # Tables are where compositions start: services leave them a part of the room.
    shown_others = others[: max(limit // 4, limit - len(services))]
    shown_services = services[: limit - len(shown_others)]
    more = len(services) + len(others) - len(shown_services) - len(shown_others)
    return Found(services=shown_services, others=shown_others, more=more)


@router.get("/playground/examples")
def get_examples(held: Held) -> list[PlaygroundExample]:
    """Small compositions to start from: the links that training saw most often."""
    return examples(held.bundle)


def examples(bundle: Bundle) -> list[PlaygroundExample]:
    """A path, a branching and a join along the most supported links; those that the bundle has."""
    graph, services = bundle.graph, bundle.vocabulary.services
    every_key = ("", "", *services, *bundle.vocabulary.others)
    often = np.argsort(-graph.frontier_counts, kind="stable")[:MAX_STARTS]
    keys = [every_key[node] for node in often if graph.frontier_counts[node]]
    if not keys:
        return []
    others = frozenset(bundle.vocabulary.others)
    found = {
        "A path": [_walk(bundle, next((k for k in keys if k in others), keys[0]), MAX_EXAMPLE_LENGTH)]
    }
    support = np.stack([_support(bundle, key, (key,)) for key in keys])
    if len(services) > 1:
        seconds = np.partition(support, -2, axis=1)[:, -2]
        if seconds.any():
            row = int(seconds.argmax())
            two = [services[column] for column in np.argsort(-support[row], kind="stable")[:2]]
            found["A branching"] = [[keys[row], *_walk(bundle, k, 2, (keys[row], *two))] for k in two]
    if len(keys) > 1:
        seconds = np.partition(support, -2, axis=0)[-2]
        if seconds.any():
            column = int(seconds.argmax())
            rows = np.argsort(-support[:, column], kind="stable")[:2]
            found["A join"] = [[keys[row], services[column]] for row in rows]
    return [
        PlaygroundExample(name=name, composition=_composition(paths, others))
        for name, paths in found.items()
    ]


def _support(bundle: Bundle, key: str, without: Iterable[str]) -> Floats:
    """[C] how often each service followed the key in training; 0 for those to do without."""
    vocabulary = bundle.vocabulary
    support = bundle.graph.support(vocabulary.ids[key])
    support[[vocabulary.columns[key] for key in without if key in vocabulary.columns]] = 0
    return support


def _walk(bundle: Bundle, start: str, most: int, avoid: Iterable[str] = ()) -> list[str]:
    """Keys from ``start`` along the links that training saw most often, each key once."""
    path = [start]
    while len(path) < most:
        support = _support(bundle, path[-1], (*path, *avoid))
        if not support.any():
            break
        path.append(bundle.vocabulary.services[int(support.argmax())])
    return path


def _composition(paths: list[list[str]], others: frozenset[str]) -> dict[str, Any]:
    """Native JSON of paths that share the nodes of a key."""
    ids = {key: f"n{i}" for i, key in enumerate(dict.fromkeys(k for path in paths for k in path), 1)}
    links = dict.fromkeys((ids[a], ids[b]) for path in paths for a, b in pairwise(path))
    return {
        "nodes": [
            {"id": id_, "key": key, "kind": "data" if key in others else "service"}
            for key, id_ in ids.items()
        ],
        "links": [{"source": source, "target": target} for source, target in links],
    }


async def _respond(request: Request, name: str) -> Response:
    if Path(name).suffix not in SERVED:
        raise _no_file(name)
    try:
        response = await FILES.get_response(name, request.scope)
    except HTTPException:
        raise _no_file(name) from None
    response.headers.update(HEADERS)
    return response


def _no_file(name: str) -> HTTPException:
    return HTTPException(404, f"static: there is no file {name[:200]!r}; the page is at /")
