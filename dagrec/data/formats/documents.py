"""Parsing of files into JSON documents, with a :class:`DataError` for everything that is invalid."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

from dagrec.data.compositions import MAX_KEY_LENGTH, MAX_TEXT_LENGTH
from dagrec.errors import DataError

Json = Any


def parse_json(text: str) -> Json:
    """Parse strict JSON: no NaN, no infinity, no name twice, and depth and integers are bounded."""

    try:
        value = _DECODER.decode(text)
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


def _refuse(constant: str) -> NoReturn:
    raise DataError(f"a number must be finite, found {constant}; write null instead", rule="not-finite")


def _distinct(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """Return an object with these fields, whose names must be distinct."""
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    raise DataError(
        f"the fields of an object must have distinct names, found {describe_value(name)} twice; "
        "remove one",
        rule="duplicate-name",
    )


_DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_distinct)


def parse_yaml(text: str) -> Json:
    """Parse YAML as JSON values: no tags of Python, no aliases, no name twice; dates stay text."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                raise DataError(
                    "YAML must not have aliases (*name), which can multiply; write the values out",
                    rule="not-yaml",
                )
            return super().compose_node(parent, index)

        def construct_object_of(self, node: yaml.MappingNode) -> dict[str, Json]:
            pairs = [
                (str(self.construct_object(name, deep=True)), self.construct_object(value, deep=True))
                for name, value in node.value
            ]
            return _distinct(pairs)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_constructor("tag:yaml.org,2002:map", Loader.construct_object_of)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"not YAML: {reason}; correct the file", rule="not-yaml") from None
    except RecursionError:
        raise DataError(
            "YAML is nested too deeply (a composition needs about 5 levels); correct the file",
            rule="too-deep",
        ) from None


def is_json_lines(text: str) -> bool:
    """Whether ``text`` is JSON lines and not a pretty-printed object or array.

    Either the first line is a whole object and not the only line, or the second line starts with an
    object, where a pretty-printed object would have a name. Lines can also be arrays, if the first one
    is whole and the second line starts with an array.
    """
    first, _, rest = text.lstrip().partition("\n")
    if first.startswith("["):
        if not rest.lstrip().startswith("["):
            return False
    elif not first.startswith("{") or not rest.strip():
        return False
    elif rest.lstrip().startswith("{"):
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
    if type(value) is str and 0 < len(value) <= MAX_KEY_LENGTH and value.isascii():
        return value  # at once, as nearly all ids are
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        rule = "missing-id" if value is None or value == "" else "wrong-type"
        raise DataError(
            f"{name} must be a non-empty string or an integer, found {describe_value(value)}", rule=rule
        )
    return check_key(str(value), name)


def optional_id(value: Json, name: str) -> str | None:
    """Return an id as a string, or None for nothing or an empty string."""
    return None if value is None or value == "" else require_id(value, name)


def check_key(text: str, name: str) -> str:
    """Return a key or an id if it is valid Unicode and not longer than ``MAX_KEY_LENGTH``."""
    if len(text) > MAX_KEY_LENGTH:
        raise DataError(
            f"{name} may have {MAX_KEY_LENGTH} characters, found {len(text)}; shorten it",
            rule="long-key",
        )
    return check_unicode(text, name)


def plain_text(value: Json) -> str | None:
    """Return the text that a user wrote, stripped and cut to ``MAX_TEXT_LENGTH``; None if empty.

    Values that are no text, and characters that are no valid Unicode, are left out: what users write
    must not cost a composition.
    """
    if not isinstance(value, str):
        return None
    if not value.isascii():
        value = value.encode("utf-8", "ignore").decode()
    text = value.strip()
    return (text if len(text) <= MAX_TEXT_LENGTH else text[:MAX_TEXT_LENGTH].rstrip()) or None


def join_texts(*texts: Json) -> str | None:
    """Join different texts that a user wrote, a line each; see :func:`plain_text`."""
    lines = dict.fromkeys(map(plain_text, texts))
    text = "\n".join(line for line in lines if line)
    return text if 0 < len(text) <= MAX_TEXT_LENGTH else plain_text(text)


def optional_text(value: Json, name: str) -> str | None:
    """Return ``value`` if it is a string or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(f"{name} must be a string, found {describe_value(value)}", rule="wrong-type")
    if len(value) > MAX_TEXT_LENGTH:
        raise DataError(
            f"{name} may have {MAX_TEXT_LENGTH} characters, found {len(value)}; shorten it",
            rule="long-text",
        )
    return check_unicode(value, name)


def check_unicode(text: str, name: str) -> str:
    """Return ``text`` if it can be encoded as UTF-8, so that it can be stored and printed."""
    if text.isascii():
        return text
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
