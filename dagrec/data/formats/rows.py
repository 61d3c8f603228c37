"""Tables in text: rows of CSV and similar files, with their line numbers, and columns by name."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dagrec.data.formats.base import Reading, ReadOptions
from dagrec.data.formats.documents import describe_value
from dagrec.errors import DataError, did_you_mean

SEPARATORS = ("::", "\t", ";", ",", "|", " ")
"""The most frequent one in the first line separates cells; a space only if there is no other."""
Row = tuple[int, list[str]]
"""The number of the first line of a row, and its cells."""


def numbered_rows(text: str, separator: str, reading: Reading, *, quoted: bool = True) -> Iterator[Row]:
    """Yield the rows that are not blank, each with the number of its first line.

    A quoted cell can contain line breaks. If ``quoted`` is False, quotes have no special meaning. Rows
    that cannot be parsed are rejected.
    """
    if len(separator) > 1:
        lines = enumerate(text.split("\n"), start=1)
        yield from ((number, line.split(separator)) for number, line in lines if line.strip())
        return
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text), delimiter=separator, quoting=quoting, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            message = f"line {line}: a row must be well-formed, found {error}; correct it"
            reading.reject(DataError(message, rule="bad-row"))
            continue
        if separator.join(row).strip():
            yield line, row


@dataclass(frozen=True)
class Table:
    """Text with rows of cells, and the names of its columns.

    A file without a header has the names 1, 2, 3 ...
    """

    text: str
    separator: str
    names: Sequence[str]
    has_header: bool = True
    row_name: str = "line"
    """What the number of a row counts, for messages."""

    @classmethod
    def of(cls, text: str, options: Sequence[str | None] = ()) -> Table:
        """Return the table in a text.

        Columns that are named by ``options`` as numbers, none of which is a name in the first line,
        mean that it has no header.
        """
        reading = Reading(ReadOptions(on_error="skip"))
        first = text.lstrip("\n").partition("\n")[0]
        counts = {separator: first.count(separator) for separator in SEPARATORS[:-1]}
        separator = max(counts, key=lambda each: counts[each])
        if not counts[separator]:
            separator = SEPARATORS[-1]
        _, cells = next(numbered_rows(text, separator, reading), (0, []))
        names = [cell.strip() for cell in cells]
        given = [option for option in options if option is not None]
        if given and all(option.isdecimal() and option not in names for option in given):
            return cls(text, separator, [str(i) for i in range(1, len(names) + 1)], has_header=False)
        return cls(text, separator, names)

    def find(self, option: str | None, usual_names: Sequence[str]) -> int | None:
        """Return the index of a column, by the name in its option or by its usual names, or None."""
        if option is not None:
            return self.names.index(option) if option in self.names else None
        lower = [name.lower() for name in self.names]
        return next((lower.index(name) for name in usual_names if name in lower), None)

    def column(self, what: str, option: str | None, usual_names: Sequence[str], flag: str) -> int:
        """Return the index of a column that must exist; see :meth:`find`."""
        index = self.find(option, usual_names)
        if index is None:
            expected = option or "one of " + ", ".join(usual_names)
            hint = did_you_mean(option, self.names) if option else ""
            raise DataError(
                f"a table needs a column for the {what} ({expected}), found the columns "
                f"{', '.join(self.names)}; name it with {flag}{hint}",
                rule="missing-field",
            )
        return index

    def rows(self, reading: Reading) -> Iterator[Row]:
        """Yield the rows below the header, and reject those with a wrong number of cells.

        Raises :class:`DataError` for two columns of one name.
        """
        self.check_names()
        rows = numbered_rows(self.text, self.separator, reading)
        if self.has_header:
            next(rows, None)
        for line, row in rows:
            if len(row) == len(self.names):
                yield line, row
            else:
                message = f"a row needs {len(self.names)} columns, found {len(row)}; correct it"
                reading.reject(DataError(f"line {line}: {message}", rule="bad-row"))

    def check_names(self) -> None:
        """Raise :class:`DataError` for two columns of one name."""
        repeated = [name for name, count in Counter(self.names).items() if name and count > 1]
        if repeated:
            raise DataError(
                f"a table needs columns of different names, found {describe_value(repeated[0])} more "
                "than once; rename one of them",
                rule="duplicate-column",
            )
