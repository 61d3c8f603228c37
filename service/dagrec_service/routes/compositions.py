"""Compositions, looked at before anybody asks about them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi.openapi.models import Example
from pydantic import BaseModel, Field

from dagrec.data.compositions import Composition, compose, faults
from dagrec.data.formats import ReadOptions, recognise_document
from dagrec.data.formats.draft import Draft, Format
from dagrec.data.paths import count_pairs, count_paths
from dagrec.data.vocabulary import Vocabulary
from dagrec.errors import DataError
from dagrec.recommend.request import MAX_LINKS, MAX_NODES
from dagrec_service.routes.common import WITH_BODY, Held, declared_json
from dagrec_service.routes.predict import aside

router = APIRouter()

MAX_PROBLEMS = 20
EXACT = 2**53
"""Larger integers are not exact where numbers of JSON are read as doubles."""
EXAMPLES: dict[str, Example] = {
    "native": {
        "summary": "nodes and links",
        "value": {
            "nodes": [{"id": "1002132"}, {"id": "n2", "mid": 308}],
            "links": [{"source": "1002132", "target": "n2"}],
        },
    },
    "n8n": {
        "summary": "an export of n8n",
        "value": {
            "nodes": [
                {"name": "Start", "type": "n8n-nodes-base.manualTrigger"},
                {"name": "Ask", "type": "n8n-nodes-base.httpRequest"},
            ],
            "connections": {"Start": {"main": [[{"node": "Ask", "type": "main", "index": 0}]]}},
        },
    },
}

EXACTLY = "exact; beyond 2^53, which not every reader of JSON can hold, its digits as text"
Count = int | Annotated[str, Field(pattern=r"^[0-9]+$")]


class Fault(BaseModel):
    """A rule that the composition breaks."""

    rule: str = Field(description="short and stable: duplicate-id, dangling-link, cycle, ...")
    message: str = Field(description="the node or link, the rule, the value found and the way out")


class Validation(BaseModel):
    """Whether a composition holds together, and what it then consists of: null where it does not."""

    valid: bool
    format: str | None = Field(None, description="in which it was read; null: in none that is known")
    problems: list[Fault] = Field(
        default_factory=list,
        description="every duplicate id and dangling link (20 at most), or the one thing that keeps it "
        "from being read further; empty where it is valid",
    )
    nodes: int | None = None
    links: int | None = None
    services: int | None = Field(None, description="nodes that are services")
    paths: Count | None = Field(None, description=f"paths from a source to a sink; {EXACTLY}")
    pairs: Count | None = Field(None, description=f"(context, target) pairs over them; {EXACTLY}")
    sources: list[str] | None = Field(None, description="ids of the nodes that nothing feeds")
    ends: list[str] | None = Field(None, description="ids of those that feed nothing: the open ends")
    unknown: list[str] | None = Field(None, description="keys that the live bundle never saw")
    dropped: dict[str, int] | None = Field(
        None, description="what the reader left out or repaired, counted by name"
    )


@router.post("/compositions/validate", responses=WITH_BODY, dependencies=[Depends(declared_json)])
async def validate(
    body: Annotated[dict[str, Any], Body(openapi_examples=EXAMPLES)], held: Held
) -> Validation:
    """Check a composition, and count it, without asking what comes next.

    It is in native JSON, or an export of n8n or Galaxy. Cycles are treated as `dagrec inspect` does: in
    n8n they are broken, which `dropped` tells; elsewhere they are a problem.
    """
    vocabulary = held.bundle.vocabulary
    return await aside(lambda: _validate(body, vocabulary))


def _validate(document: dict[str, Any], vocabulary: Vocabulary) -> Validation:
    format_ = None
    try:
        format_ = recognise_document(document)
        draft = format_.draft(document, ReadOptions())
        _need_bounded(draft)
        broken = list(islice(faults(draft.nodes, dict.fromkeys(draft.links)), MAX_PROBLEMS))
        if broken:
            return _invalid(format_, broken)
        composition, cut = compose(
            draft.id or "request", draft.nodes, draft.links, on_cycle=format_.on_cycle
        )
    except DataError as error:
        return _invalid(format_, [error])
    return _valid(format_, draft, composition, cut, vocabulary)


def _invalid(format_: Format | None, errors: Iterable[DataError]) -> Validation:
    problems = [Fault(rule=error.rule, message=str(error)) for error in errors]
    name = None if format_ is None else format_.name
    return Validation(valid=False, format=name, problems=problems)


def _need_bounded(draft: Draft) -> None:
    for name, items, most in (("nodes", draft.nodes, MAX_NODES), ("links", draft.links, MAX_LINKS)):
        if len(items) > most:
            raise DataError(
                f"{name} may be {most}, found {len(items)}; send fewer", rule=f"too-many-{name}"
            )


def _valid(
    format_: Format, draft: Draft, composition: Composition, cut: int, vocabulary: Vocabulary
) -> Validation:
    repeated = len(draft.links) - len(composition.links) - cut
    counts = {"links that closed a cycle": cut, "links given more than once": repeated}
    keys = dict.fromkeys(node.key for node in composition.nodes)
    return Validation(
        valid=True,
        format=format_.name,
        nodes=len(composition.nodes),
        links=len(composition.links),
        services=sum(node.is_service for node in composition.nodes),
        paths=_exact(count_paths(composition)),
        pairs=_exact(count_pairs(composition)),
        sources=list(composition.sources),
        ends=list(composition.sinks),
        unknown=[key for key in keys if key not in vocabulary.ids],
        dropped={**draft.notes, **{name: count for name, count in counts.items() if count}},
    )


def _exact(count: int) -> int | str:
    return count if count <= EXACT else str(count)
