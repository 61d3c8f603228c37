"""The interface of readers: their options, and the draft of a composition that they return."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field, field_validator

from dagrec.data.compositions import Link, Node, OnCycle
from dagrec.data.formats.documents import Document, Json, describe_value
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
    owner_column: str | None = Field(None, description="call logs: name of the owner column")
    service_column: str | None = Field(None, description="call logs: name of the service column")
    time_column: str | None = Field(None, description="call logs: name of the time column")
    session_gap: float | None = Field(
        None, gt=0, description="call logs: start a new session after a pause of this many minutes"
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
    links: Sequence[Link]
    owner: str | None = None
    time: float | None = None
    notes: Counter[str] = field(default_factory=Counter)
    """Number of things that the reader left out or repaired, by description."""


@dataclass(frozen=True)
class Format:
    """A format that can be read."""

    name: str
    description: str
    on_cycle: OnCycle
    """The default of ``ReadOptions.on_cycle``."""
    recognises: Callable[[str | dict[str, Json]], bool]
    """Whether a file has this format, given its first JSON object, or its text if it is not JSON."""
    draft: Callable[[Json, ReadOptions], Draft]
    """Converts a document to a draft."""
    rows: Callable[[str, ReadOptions, list[DataError] | None], Iterator[Document]] | None = None
    """Splits text that is not JSON into documents. Errors are handled as in ``json_documents``."""


def parse_time(value: Json, name: str) -> float | None:
    """Convert an ISO 8601 string (UTC if it has no zone) or a number to seconds since 1970."""
    if value is None or value == "":
        return None
    number = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            number = _number(value)
    if isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < 1e13:
        return float(number)
    raise DataError(
        f"{name} must be ISO 8601 or seconds since 1970, found {describe_value(value)}; correct it",
        rule="bad-time",
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
