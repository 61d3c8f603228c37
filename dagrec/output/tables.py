"""Tables as plain text for a terminal, and as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Table:
    """A table with a title and notes below it; the first ``texts`` columns are aligned left.

    >>> print(Table("services", ("service", "probability"), [("plot", "0.75"), ("clean", "0.2")]))
    services
    service  probability
    plot            0.75
    clean            0.2
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    texts: int = 1
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        cells = [list(self.columns), *([str(cell) for cell in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < self.texts else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        return "\n".join([self.title, *lines, *self.notes])

    def html(self) -> str:
        """The table as one HTML element; all text is escaped."""
        head = "".join(f"<th>{escape(column)}</th>" for column in self.columns)
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align: {self._alignment(i)}">{escape(str(cell))}</td>'
                for i, cell in enumerate(row)
            )
            + "</tr>"
            for row in self.rows
        )
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return (
            f"<div><table><caption>{escape(self.title)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}</div>"
        )

    def _alignment(self, column: int) -> str:
        return "left" if column < self.texts else "right"
