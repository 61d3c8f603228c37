"""Single values of Python, numpy and pandas as what compositions hold: keys, texts and times."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from dagrec.data.formats.documents import check_unicode, describe_value
from dagrec.data.formats.times import parse_time
from dagrec.errors import DataError, did_you_mean

MAX_SECONDS = 1e13
"""No calendar reaches so far."""
MAX_QUOTED = 80
MAX_BITS = 4096
"""Of an integer; Python writes none of many thousands of digits."""


def plain(value: Any) -> Any:
    """A value as a Python object: numpy's scalars unwrapped, missing values of any library as None.

    A float without a fraction becomes an integer: a column of integers with gaps is one of floats.
    """
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else value.astype("datetime64[us]").item()
    if isinstance(value, np.generic):
        value = value.item()
    if type(value).__name__ in ("NAType", "NaTType"):  # of pandas, which need not be installed
        return None
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer():
            return int(value)
    return value


def require_key(value: Any, what: str) -> str:
    """A key or an id as text; raises :class:`DataError` for what is neither text nor an integer."""
    value = plain(value)
    if value is None or (isinstance(value, str) and not value):
        raise DataError(
            f"{what} must be non-empty text or an integer, found {describe(value)}; fill it in",
            rule="missing-id",
        )
    if isinstance(value, bool) or not isinstance(value, str | int) or _is_huge(value):
        raise DataError(
            f"{what} must be non-empty text or an integer, found {describe(value)}; write it as text",
            rule="wrong-type",
        )
    return check_unicode(str(value), what)


def optional_key(value: Any, what: str) -> str | None:
    """:func:`require_key`, or None where the value is missing."""
    return None if plain(value) is None else require_key(value, what)


def optional_text(value: Any, what: str) -> str | None:
    """Text, or None where the value is missing."""
    value = plain(value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(
            f"{what} must be text, found {describe(value)}; write it as text", rule="wrong-type"
        )
    return check_unicode(value, what)


def parse_moment(value: Any, what: str) -> float | None:
    """Seconds since 1970 from what :func:`parse_time` reads, or from a date or datetime.

    A datetime that names no zone is taken as UTC, as ISO 8601 text is.
    """
    value = plain(value)
    if isinstance(value, date):
        if not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)
        return float((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    if value is None or isinstance(value, str):
        return parse_time(value, what)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= MAX_SECONDS:
        raise DataError(
            f"{what} must be ISO 8601, seconds since 1970 or a datetime, found {describe(value)}; "
            "correct it",
            rule="bad-time",
        )
    return float(value)


def describe(value: Any) -> str:
    """A value for an error message."""
    if _is_huge(value):
        return f"an integer of {value.bit_length():,} bits"
    return (
        describe_value(value) if isinstance(value, str | int | float | None) else type(value).__name__
    )


def quoted(value: Any) -> str:
    """A value for an error message as Python writes it, cut to a length that a person reads."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"{type(value).__name__} too long to write"
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 3]}..."


def nearest_to(value: Any, choices: Iterable[str]) -> str:
    """:func:`did_you_mean` of what may be no text."""
    return did_you_mean(value, choices) if isinstance(value, str) else ""


def _is_huge(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() > MAX_BITS
