"""The content of a file, which readers look at as text, JSON, YAML or a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from dagrec.data.formats.documents import (
    Json,
    describe_value,
    is_json_lines,
    parse_json,
    parse_yaml,
)
from dagrec.errors import DataError


class Item(NamedTuple):
    """A value at a place in a file ("composition 3", "line 7"); an error if it cannot be parsed."""

    place: str
    value: Json
    error: DataError | None = None


@dataclass(frozen=True)
class Content:
    """The text of a file, and the value that it holds."""

    text: str
    name: str = ""
    """The name of the file, without its folder."""

    @classmethod
    def of_value(cls, value: Json) -> Content:
        """The content of a file with a parsed JSON value, such as the body of a request."""
        content = cls("{}" if isinstance(value, dict) else "[]")
        content.__dict__["value"] = value
        content.__dict__["is_json_lines"] = False
        return content

    @property
    def is_json(self) -> bool:
        """Whether the text starts as a JSON object or array."""
        return self.text.lstrip()[:1] in ("{", "[") and self.text.lstrip() != ""

    @property
    def is_yaml(self) -> bool:
        return self.name.lower().endswith((".yml", ".yaml"))

    @cached_property
    def is_json_lines(self) -> bool:
        return self.is_json and is_json_lines(self.text)

    @cached_property
    def value(self) -> Json:
        """The value of JSON (not of JSON lines) or YAML. Raises :class:`DataError` if it is neither."""
        return parse_yaml(self.text) if self.is_yaml else parse_json(self.text)

    @cached_property
    def head(self) -> Json:
        """The value of the file; the first one of JSON lines. None if the text is neither."""
        if self.is_json_lines:
            try:
                return parse_json(self.text.lstrip().partition("\n")[0])
            except DataError:
                return next((item.value for item in self.items() if item.error is None), None)
        return self.value if self.is_json or self.is_yaml else None

    @cached_property
    def first(self) -> dict[str, Json]:
        """The first object: the value itself, or the first object of an array; else an empty one."""
        for value in self.head if isinstance(self.head, list) else [self.head]:
            if isinstance(value, dict):
                return value
        return {}

    def items(self) -> Iterator[Item]:
        """The objects of a JSON array or of JSON lines, or the only value."""
        if self.is_json_lines:
            for number, line in enumerate(self.text.split("\n"), start=1):
                if not line.strip():
                    continue
                try:
                    yield Item(f"line {number}", parse_json(line))
                except DataError as error:
                    yield Item(f"line {number}", None, error)
            return
        values = self.value if isinstance(self.value, list) else [self.value]
        for number, value in enumerate(values, start=1):
            yield Item(f"composition {number}", value)

    def describe(self) -> str:
        """Describe the content for an error message."""
        if self.is_json or self.is_yaml:
            kind = "YAML" if self.is_yaml else "JSON"
            if self.first:
                names = ", ".join(describe_value(str(name)) for name in list(self.first)[:8])
                return f"{kind} whose first object has the fields {names}"
            value = self.head[0] if isinstance(self.head, list) and self.head else self.head
            return f"{kind} whose first composition is {describe_value(value)}"
        line = next((line for line in self.text.splitlines() if line.strip()), "")
        return f"text that is not JSON and begins with {describe_value(line.strip())}"
