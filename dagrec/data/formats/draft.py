"""What a reader hands over, what it may ask for, and what it reports."""

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

    format: str = Field("auto", description="name of a format, or auto: told from the content")
    on_error: OnError = Field("fail", description="at a broken composition: fail, or skip and count")
    on_cycle: OnCycle | None = Field(
        None, description="at a cycle: fail, skip or break; unset: what the format says"
    )
    table_mid: str | None = Field(
        None, description="regular expression of the mids that are tables (native JSON)"
    )
    owner_column: str | None = Field(None, description="call logs: name of the owner's column")
    service_column: str | None = Field(None, description="call logs: name of the service's column")
    time_column: str | None = Field(None, description="call logs: name of the time's column")
    session_gap: float | None = Field(
        None, gt=0, description="call logs: minutes of pause that begin a new session"
    )
    max_mb: int = Field(64, ge=1, description="largest file that is read, in megabytes")

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
    """A composition as a file tells it, not yet checked."""

    id: str | None
    nodes: Sequence[Node]
    links: Sequence[Link]
    owner: str | None = None
    time: float | None = None
    notes: Counter[str] = field(default_factory=Counter)
    """What the reader left out or repaired, counted by name."""


@dataclass(frozen=True)
class Format:
    """One entry of the registry of formats."""

    name: str
    about: str
    on_cycle: OnCycle
    """What happens to a cycle when the user says nothing."""
    recognises: Callable[[str | dict[str, Json]], bool]
    """Given the first JSON object of the file, or the text of a file that is not JSON."""
    draft: Callable[[Json, ReadOptions], Draft]
    rows: Callable[[str, ReadOptions, list[DataError] | None], Iterator[Document]] | None = None
    """The documents of a file that is not JSON; broken rows are refused as in ``json_documents``."""


def parse_time(value: Json, what: str) -> float | None:
    """Seconds since 1970 from an ISO 8601 text (UTC where it names no zone) or a number."""
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
        f"{what} must be ISO 8601 or seconds since 1970, found {describe_value(value)}; correct it",
        rule="bad-time",
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
