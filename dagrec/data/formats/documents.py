"""Parsing of files into JSON documents, with a :class:`DataError` for everything that is invalid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from dagrec.errors import DataError

Json = Any
Document = tuple[str, Json]
"""The position of a document in its file ("composition 3", "line 7"), and the parsed document."""


def read_text(path: Path, max_mb: int) -> str:
    """Return the content of a file. Raises :class:`DataError` if it is too large or not UTF-8."""
    try:
        size = path.stat().st_size
        if size > max_mb * 1_000_000:
            raise DataError(
                f"a file may have {max_mb} MB, found {size / 1e6:.1f} MB; "
                "split it, or raise the limit with --max-mb",
                rule="too-large",
            )
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"a file must be UTF-8 text, found byte 0x{error.object[error.start]:02x} "
            f"at offset {error.start}; convert it",
            rule="not-utf8",
        ) from None
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}; check the path and its permissions",
            rule="unreadable",
        ) from None


def parse_json(text: str) -> Json:
    """Parse strict JSON: NaN and infinity are rejected, and depth and integers are bounded."""

    def refuse(constant: str) -> NoReturn:
        raise DataError(
            f"a number must be finite, found {constant}; write null instead", rule="not-finite"
        )

    try:
        value = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise DataError(
            f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}; correct the file",
            rule="not-json",
        ) from None
    except RecursionError:
        raise DataError(
            "JSON is nested too deeply (a composition needs about 5 levels); correct the file",
            rule="too-deep",
        ) from None
    except ValueError as error:  # an integer with thousands of digits
        raise DataError(f"not readable JSON: {error}; correct the file", rule="not-json") from None
    return value


def raise_or_collect(error: DataError, skipped: list[DataError] | None) -> None:
    """Append the error to ``skipped`` if that is a list, else raise it."""
    if skipped is None:
        raise error from None
    skipped.append(error)


def json_documents(text: str, skipped: list[DataError] | None) -> Iterator[Document]:
    """Yield the documents of a JSON array, a single JSON object, or JSON lines.

    The error of an invalid line of JSON lines is passed to :func:`raise_or_collect`.
    """
    if _is_json_lines(text):
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", parse_json(line)
            except DataError as error:
                raise_or_collect(error.at(f"line {number}"), skipped)
        return
    value = parse_json(text)
    for position, item in enumerate(value if isinstance(value, list) else [value], start=1):
        yield f"composition {position}", item


def _is_json_lines(text: str) -> bool:
    """Whether ``text`` is JSON lines and not a pretty-printed object.

    Either the first line is a whole object and not the only line, or the second line starts with an
    object, where a pretty-printed object would have a name.
    """
    first, _, rest = text.lstrip().partition("\n")
    if not first.startswith("{") or not rest.strip():
        return False
    if rest.lstrip().startswith("{"):
        return True
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


# The functions below raise errors with the ``name`` of the value, the rule and the value found.


def require_object(value: Json, name: str) -> dict[str, Json]:
    """Return ``value`` if it is an object."""
    if not isinstance(value, dict):
        raise DataError(f"{name} must be an object, found {describe_value(value)}", rule="wrong-type")
    return value


def require_list(value: Json, name: str) -> list[Json]:
    """Return ``value`` if it is an array."""
    if not isinstance(value, list):
        raise DataError(f"{name} must be an array, found {describe_value(value)}", rule="wrong-type")
    return value


def require_id(value: Json, name: str) -> str:
    """Return an id, which must be a non-empty string or an integer, as a string."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        rule = "missing-id" if value is None or value == "" else "wrong-type"
        raise DataError(
            f"{name} must be a non-empty string or an integer, found {describe_value(value)}", rule=rule
        )
    return check_unicode(str(value), name)


def optional_text(value: Json, name: str) -> str | None:
    """Return ``value`` if it is a string or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(f"{name} must be a string, found {describe_value(value)}", rule="wrong-type")
    return check_unicode(value, name)


def check_unicode(text: str, name: str) -> str:
    """Return ``text`` if it can be encoded as UTF-8, so that it can be stored and printed."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{name} must be valid Unicode, found a lone surrogate in {describe_value(text)}",
            rule="surrogate",
        ) from None
    return text


def describe_value(value: Json) -> str:
    """Describe a value for an error message, shortened to 60 characters."""
    if value is None:
        return "nothing"
    text = json.dumps(value, default=repr) if not isinstance(value, dict | list) else ""
    if isinstance(value, dict | list):
        text = f"{'an object' if isinstance(value, dict) else 'an array'} of {len(value)}"
    return text if len(text) <= 60 else text[:57] + "..."
