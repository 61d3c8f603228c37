"""The interface of readers: a format turns the content of a file into drafts of compositions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from dagrec.data.compositions import Composition, Link, Node, OnCycle, Wire, compose
from dagrec.data.examples import Form
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import Json
from dagrec.data.formats.times import Unit, parse_time_and_unit
from dagrec.errors import DataError
from dagrec.types import Options

OnError = Literal["fail", "skip"]


class ReadOptions(Options):
    """How files are read."""

    format: str = Field("auto", description="name of a format; auto: detect it from the content")
    on_error: OnError = Field("fail", description="invalid compositions: fail, or skip and count them")
    on_cycle: OnCycle | None = Field(
        None,
        description="compositions with a cycle: fail, skip them, or break the cycle; null: the default "
        "of the format",
    )
    table_mid: str | None = Field(
        None, description="native JSON: regular expression for the mids of tables"
    )
    owner_column: str | None = Field(
        None, description="call logs and edge lists: name of the owner column"
    )
    service_column: str | None = Field(None, description="call logs: name of the service column")
    time_column: str | None = Field(
        None, description="call logs and edge lists: name of the time column"
    )
    session_gap: float | None = Field(
        None, gt=0, description="call logs: start a new session after a pause of this many minutes"
    )
    source_column: str | None = Field(None, description="edge lists: name of the source column")
    target_column: str | None = Field(None, description="edge lists: name of the target column")
    composition_column: str | None = Field(
        None, description="edge lists: name of the column that tells compositions apart"
    )
    max_mb: int = Field(64, ge=1, description="largest allowed file size, in megabytes")

    @field_validator("table_mid")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return value


@dataclass
class Draft:
    """A composition as read from a file, before validation."""

    id: str | None
    nodes: Sequence[Node]
    links: Sequence[Link | Wire]
    owner: str | None = None
    time: float | None = None
    goal: str | None = None


class Document(NamedTuple):
    """A composition at a place in a file ("composition 3", "workflow 7").

    ``draft`` converts it. It raises :class:`DataError` if the composition is invalid.
    """

    place: str
    draft: Callable[[], Draft]


@dataclass
class Reading:
    """The reading of one file: its options, and what was met.

    Readers count in ``notes`` what they left out or repaired, by description.
    """

    options: ReadOptions = field(default_factory=ReadOptions)
    notes: Counter[str] = field(default_factory=Counter)
    rejected: list[DataError] = field(default_factory=list)
    """Errors of rows and lines that were left out, which belong to no composition."""
    unit: Unit | None = None
    """The unit of all numbers that are times."""

    def reject(self, error: DataError) -> None:
        """Leave a row or line out if invalid compositions are skipped, else raise its error."""
        if self.options.on_error == "fail":
            raise error from None
        self.rejected.append(error)

    def time(self, value: Json, name: str) -> float | None:
        """Return a time in seconds since 1970, or None for nothing.

        All numbers of a file must have the same unit. Raises :class:`DataError`.
        """
        seconds, unit = parse_time_and_unit(value, name)
        if unit is not None:
            if self.unit is None:
                self.unit = unit
                if unit != "seconds":
                    self.notes[f"files with times in {unit}"] += 1
            elif self.unit != unit:
                raise DataError(
                    f"{name} must be in {self.unit} since 1970 like the times before it, found "
                    f"{value!r}, which would be in {unit}; use one unit in a file",
                    rule="mixed-times",
                )
        return seconds


@dataclass(frozen=True)
class Format:
    """A format that can be read.

    ``documents`` yields the compositions of a file, which may be any number. It may raise
    :class:`DataError` for the file as a whole.
    """

    name: str
    description: str
    recognises: Callable[[Content, ReadOptions], bool]
    """Whether a file has this format. It must not raise errors for other formats."""
    documents: Callable[[Content, Reading], Iterator[Document]]
    suffixes: Sequence[str] = (".json", ".jsonl", ".ndjson")
    """The endings of its files in a folder, in lower case."""
    on_cycle: OnCycle = "fail"
    """The default of ``ReadOptions.on_cycle``."""
    examples: Form = "links"
    """The default form of the examples: links for editors, paths for logs of calls."""
    fields: Sequence[str] = ()
    """Names of fields or columns that are typical for it, for messages about unknown files."""


def documents_of_items(
    content: Content, reading: Reading, draft: Callable[[Json, Reading], Draft]
) -> Iterator[Document]:
    """One document for each object of a JSON array or of JSON lines, or for the only one."""
    for item in content.items():
        if item.error is not None:
            reading.reject(item.error.at(item.place))
            continue
        yield Document(item.place, partial(draft, item.value, reading))


def compose_draft(draft: Draft, id: str, on_cycle: OnCycle) -> tuple[Composition, int]:
    """Call :func:`compose` with a draft; ``id`` is for drafts without one."""
    return compose(
        draft.id or id,
        draft.nodes,
        draft.links,
        owner=draft.owner,
        time=draft.time,
        goal=draft.goal,
        on_cycle=on_cycle,
    )
