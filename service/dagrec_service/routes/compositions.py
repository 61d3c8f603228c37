"""Validation of compositions."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi.openapi.models import Example
from pydantic import BaseModel, Field

from dagrec.data.compositions import Composition, find_errors
from dagrec.data.formats import Format, read_draft
from dagrec.data.formats.base import compose_draft
from dagrec.data.formats.native import to_document
from dagrec.data.paths import count_pairs, count_paths
from dagrec.data.vocabulary import Vocabulary
from dagrec.errors import DataError
from dagrec.recommend.request import Document, check_size, drops
from dagrec_service.routes.common import BODY_PROBLEMS, HolderDep, require_json
from dagrec_service.routes.predict import run_in_thread

router = APIRouter()

MAX_PROBLEMS = 20
MAX_EXACT = 2**53
"""Larger integers lose precision in clients that read JSON numbers as doubles."""
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

EXACT = "exact; a string of digits above 2^53, where JSON numbers may lose precision"
Count = int | Annotated[str, Field(pattern=r"^[0-9]+$")]


class Fault(BaseModel):
    """A rule that the composition breaks."""

    rule: str = Field(description="a stable identifier: duplicate-id, dangling-link, cycle, ...")
    message: str = Field(description="the node or link, the rule, the value found and how to fix it")


class Validation(BaseModel):
    """Whether a composition is valid, and counts of its parts, which are null if it is not."""

    valid: bool
    format: str | None = Field(None, description="the format it was read in; null if unknown")
    problems: list[Fault] = Field(
        default_factory=list,
        description="all duplicate ids and dangling links (at most 20), or the one error that stopped "
        "the reader; empty if the composition is valid",
    )
    nodes: int | None = None
    links: int | None = None
    services: int | None = Field(None, description="number of nodes that are services")
    paths: Count | None = Field(None, description=f"number of paths from a source to a sink; {EXACT}")
    pairs: Count | None = Field(
        None, description=f"number of (context, target) pairs on these paths; {EXACT}"
    )
    sources: list[str] | None = Field(None, description="ids of the nodes without incoming links")
    ends: list[str] | None = Field(
        None, description="ids of the nodes without outgoing links: the open ends"
    )
    unknown: list[str] | None = Field(
        None, description="keys that are not in the training data of the live bundle"
    )
    composition: dict[str, Any] | None = Field(
        None, description="the composition as native JSON, whatever format it was read in"
    )
    dropped: dict[str, int] | None = Field(
        None, description="counts of what the reader dropped or repaired, by name"
    )


@router.post("/compositions/validate", responses=BODY_PROBLEMS, dependencies=[Depends(require_json)])
async def validate(
    body: Annotated[Document, Body(openapi_examples=EXAMPLES)], holder: HolderDep
) -> Validation:
    """Check a composition and count its parts, without a prediction.

    The composition can have any known format. Cycles are treated as in
    `dagrec inspect`: those of n8n are broken, which `dropped` reports; in other formats they are a
    problem.
    """
    vocabulary = holder.bundle.vocabulary
    return await run_in_thread(lambda: _validate(body, vocabulary))


def _validate(document: Document, vocabulary: Vocabulary) -> Validation:
    format_ = None
    try:
        format_, draft, reading = read_draft(document)
        check_size(draft)
        links = dict.fromkeys((link[0], link[1]) for link in draft.links)
        problems = list(islice(find_errors(draft.nodes, links), MAX_PROBLEMS))
        if problems:
            return _invalid(format_, problems)
        composition, cut = compose_draft(draft, "request", format_.on_cycle)
    except DataError as error:
        return _invalid(format_, [error])
    return _valid(format_, composition, drops(draft, reading, cut), vocabulary)


def _invalid(format_: Format | None, errors: Iterable[DataError]) -> Validation:
    problems = [Fault(rule=error.rule, message=str(error)) for error in errors]
    name = None if format_ is None else format_.name
    return Validation(valid=False, format=name, problems=problems)


def _valid(
    format_: Format, composition: Composition, dropped: dict[str, int], vocabulary: Vocabulary
) -> Validation:
    keys = dict.fromkeys(node.key for node in composition.nodes)
    return Validation(
        valid=True,
        format=format_.name,
        nodes=len(composition.nodes),
        links=len(composition.links),
        services=sum(node.is_service for node in composition.nodes),
        paths=_count(count_paths(composition)),
        pairs=_count(count_pairs(composition)),
        sources=list(composition.sources),
        ends=list(composition.sinks),
        unknown=[key for key in keys if key not in vocabulary.ids],
        composition=to_document(composition),
        dropped=dropped,
    )


def _count(count: int) -> int | str:
    return count if count <= MAX_EXACT else str(count)
