"""Rows of CSV and TSV text, with their line numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Literal

from dagrec.data.formats.documents import raise_or_collect
from dagrec.errors import DataError


def numbered_rows(
    text: str, separator: str, skipped: list[DataError] | None, *, quoted: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the number of its first line.

    A quoted cell can contain line breaks. If ``quoted`` is False, quotes have no special meaning. The
    errors of rows that cannot be parsed are passed to :func:`raise_or_collect`.
    """
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
            raise_or_collect(DataError(message, rule="bad-row"), skipped)
            continue
        if separator.join(row).strip():
            yield line, row
