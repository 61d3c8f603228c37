"""The playground: a page to draw a composition on, with suggestions for the next service."""

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
from dagrec_service.routes.common import HolderDep

STATIC = Path(__file__).parents[1] / "static"
FILES = StaticFiles(directory=STATIC)
SERVED_SUFFIXES = frozenset({".html", ".css", ".js", ".svg"})
"""Other files, such as licences, are not served."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # revalidated by ETag, so that a new release takes effect at once
}
MAX_STARTS = 50
"""Number of nodes that an example may start from: those with the most training examples."""
MAX_EXAMPLE_LENGTH = 4

# These endpoints are part of the page and may change with it: they are not in the OpenAPI document.
router = APIRouter(include_in_schema=False)


class KeyMatches(BaseModel):
    """Keys that match a search, and the number of matches beyond the limit."""

    services: list[str]
    others: list[str]
    more: int


class PlaygroundExample(BaseModel):
    """A small composition of nodes in the live bundle, in native JSON."""

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
    holder: HolderDep,
    search: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> KeyMatches:
    """Keys of the live bundle that contain all words of the search, the shortest first."""
    words = search.casefold().split()
    vocabulary = holder.bundle.vocabulary

    def matches(keys: Iterable[str]) -> list[str]:
        matching = [key for key in keys if all(word in key.casefold() for word in words)]
        return sorted(matching, key=len) if words else matching

    services, others = matches(vocabulary.services), matches(vocabulary.others)
    # Compositions start at tables: a quarter of the matches is reserved for them.
    shown_others = others[: max(limit // 4, limit - len(services))]
    shown_services = services[: limit - len(shown_others)]
    more = len(services) + len(others) - len(shown_services) - len(shown_others)
    return KeyMatches(services=shown_services, others=shown_others, more=more)


@router.get("/playground/examples")
def get_examples(holder: HolderDep) -> list[PlaygroundExample]:
    """Small compositions to start from, made of the most frequent links of the training data."""
    return examples(holder.bundle)


def examples(bundle: Bundle) -> list[PlaygroundExample]:
    """Return a path, a branching and a join along the best supported links, if the bundle has them."""
    graph, services = bundle.graph, bundle.vocabulary.services
    all_keys = ("", "", *services, *bundle.vocabulary.others)
    starts = np.argsort(-graph.frontier_counts, kind="stable")[:MAX_STARTS]
    keys = [all_keys[node] for node in starts if graph.frontier_counts[node]]
    if not keys:
        return []
    others = frozenset(bundle.vocabulary.others)
    paths_by_name = {
        "A path": [_walk(bundle, next((k for k in keys if k in others), keys[0]), MAX_EXAMPLE_LENGTH)]
    }
    support = np.stack([_support(bundle, key, (key,)) for key in keys])
    if len(services) > 1:
        seconds = np.partition(support, -2, axis=1)[:, -2]
        if seconds.any():
            row = int(seconds.argmax())
            targets = [services[column] for column in np.argsort(-support[row], kind="stable")[:2]]
            paths_by_name["A branching"] = [
                [keys[row], *_walk(bundle, k, 2, (keys[row], *targets))] for k in targets
            ]
    if len(keys) > 1:
        seconds = np.partition(support, -2, axis=0)[-2]
        if seconds.any():
            column = int(seconds.argmax())
            rows = np.argsort(-support[:, column], kind="stable")[:2]
            paths_by_name["A join"] = [[keys[row], services[column]] for row in rows]
    return [
        PlaygroundExample(name=name, composition=_composition(paths, others))
        for name, paths in paths_by_name.items()
    ]


def _support(bundle: Bundle, key: str, excluded: Iterable[str]) -> Floats:
    """[C] how often each service followed the key in training; 0 for the excluded services."""
    vocabulary = bundle.vocabulary
    support = bundle.graph.support(vocabulary.ids[key])
    support[[vocabulary.columns[key] for key in excluded if key in vocabulary.columns]] = 0
    return support


def _walk(bundle: Bundle, start: str, length: int, excluded: Iterable[str] = ()) -> list[str]:
    """Return up to ``length`` distinct keys from ``start`` along the most frequent training links."""
    path = [start]
    while len(path) < length:
        support = _support(bundle, path[-1], (*path, *excluded))
        if not support.any():
            break
        path.append(bundle.vocabulary.services[int(support.argmax())])
    return path


def _composition(paths: list[list[str]], others: frozenset[str]) -> dict[str, Any]:
    """Return native JSON of the paths; nodes with the same key are one node."""
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
    if Path(name).suffix not in SERVED_SUFFIXES:
        raise _not_found(name)
    try:
        response = await FILES.get_response(name, request.scope)
    except HTTPException:
        raise _not_found(name) from None
    response.headers.update(HEADERS)
    return response


def _not_found(name: str) -> HTTPException:
    return HTTPException(404, f"static: there is no file {name[:200]!r}; the page is at /")
