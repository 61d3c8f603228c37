"""Times in files: ISO 8601 text, or numbers of seconds, milliseconds or microseconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from dagrec.data.formats.documents import describe_value
from dagrec.errors import DataError

Unit = Literal["seconds", "milliseconds", "microseconds"]
"""The unit of numbers. Each is a thousandth of the one before."""
END = 4_102_444_800.0
"""The start of the year 2100, in seconds since 1970."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def parse_time(value: Any, name: str) -> float | None:
    """Return a time in seconds since 1970, or None for nothing; see :func:`parse_time_and_unit`."""
    return parse_time_and_unit(value, name)[0]


def parse_time_and_unit(value: Any, name: str) -> tuple[float | None, Unit | None]:
    """Return a time in seconds since 1970, or None for nothing, and the unit if it is a number.

    Text is a number or ISO 8601 (UTC if it has no zone). A number has the largest unit in which it is
    a time before 2100. Raises :class:`DataError` for everything else, and for times before 1970 or
    after 2099.
    """
    if value is None or value == "":
        return None, None
    number: float | None = None
    if isinstance(value, str):
        text = value.strip()
        if NUMBER.fullmatch(text):
            number = float(text)
        else:
            seconds = _iso_seconds(text)
            if seconds is not None and 0 <= seconds < END:
                return seconds, None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) < 1e300 else None  # larger integers are no floats
    if number is not None and number >= 0:
        for power, unit in enumerate(get_args(Unit)):
            if number < END * 1000**power:
                return number / 1000**power, unit
    raise DataError(
        f"{name} must be ISO 8601, or seconds, milliseconds or microseconds since 1970, from 1970 to "
        f"2099, found {describe_value(value)}; correct it",
        rule="bad-time",
    )


def _iso_seconds(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
