"""Text of a file into JSON documents, with every way JSON can go wrong turned into one error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from dagrec.errors import DataError

Json = Any
Document = tuple[str, Json]
"""Where a document stands in its file ("composition 3", "line 7"), and the parsed document."""


def read_text(path: Path, max_mb: int) -> str:
    """The whole file as text. Raises :class:`DataError` when it is too large or not UTF-8."""
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
    """Strict JSON: no NaN or infinity, no lone surrogates; depth and integers bounded."""

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
    except ValueError as error:  # integers of thousands of digits
        raise DataError(f"not readable JSON: {error}; correct the file", rule="not-json") from None
    return value


def raise_or_collect(error: DataError, skipped: list[DataError] | None) -> None:
    """Raise the error of a part of a file, or add it to the list of errors if there is one."""
    if skipped is None:
        raise error from None
    skipped.append(error)


def json_documents(text: str, skipped: list[DataError] | None) -> Iterator[Document]:
    """The documents of a file: a JSON array, a single object, or one object a line (JSON lines).

    A broken line of JSON lines is refused (see :func:`raise_or_collect`).
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
    """A first line that is a whole object, with more to come, or two lines that begin an object.

    Inside one pretty-printed object, a name must come second.
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


# The field readers below raise errors that name the field, the rule and the value found.


def require_object(value: Json, what: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise DataError(f"{what} must be an object, found {describe_value(value)}", rule="wrong-type")
    return value


def require_list(value: Json, what: str) -> list[Json]:
    if not isinstance(value, list):
        raise DataError(f"{what} must be an array, found {describe_value(value)}", rule="wrong-type")
    return value


def require_id(value: Json, what: str) -> str:
    """An id: a string that is not empty, or an integer, as a string that UTF-8 can hold."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        rule = "missing-id" if value is None or value == "" else "wrong-type"
        raise DataError(
            f"{what} must be a non-empty string or an integer, found {describe_value(value)}", rule=rule
        )
    return check_unicode(str(value), what)


def optional_text(value: Json, what: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(f"{what} must be a string, found {describe_value(value)}", rule="wrong-type")
    return check_unicode(value, what)


def check_unicode(text: str, what: str) -> str:
    """``text``, if UTF-8 can hold it: a lone surrogate could be stored nowhere and shown nowhere."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{what} must be valid Unicode, found a lone surrogate in {describe_value(text)}",
            rule="surrogate",
        ) from None
    return text


def describe_value(value: Json) -> str:
    """A value for an error message, cut to a length that a person reads."""
    if value is None:
        return "nothing"
    text = json.dumps(value, default=repr) if not isinstance(value, dict | list) else ""
    if isinstance(value, dict | list):
        text = f"{'an object' if isinstance(value, dict) else 'an array'} of {len(value)}"
    return text if len(text) <= 60 else text[:57] + "..."
