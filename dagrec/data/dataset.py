"""A data set: compositions, where they come from, and what reading them met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from dagrec.data.compositions import Composition, fingerprint
from dagrec.data.examples import Example, ExampleOptions, ExampleReport, Form, extract
from dagrec.errors import DataError
from dagrec.output.tables import Table

MAX_PROBLEMS = 20


@dataclass
class ReadReport:
    """Counts of everything a reader met; nothing is dropped without being counted here."""

    files: int = 0
    ignored_files: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    """Compositions (or whole files) left out, by the rule they broke."""
    cycles: int = 0
    """Compositions that had at least one cycle."""
    broken_links: int = 0
    """Links dropped to break cycles."""
    notes: Counter[str] = field(default_factory=Counter)
    """What was repaired or left out within compositions."""
    problems: list[str] = field(default_factory=list)
    """The first messages, in full."""

    def skip(self, error: DataError) -> None:
        """Count what was left out because of an error."""
        self.skipped[error.rule] += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(str(error))


@dataclass(frozen=True)
class Dataset:
    """Compositions in their order, as :func:`dagrec.read` and its siblings return them.

    ``source`` says where they come from: a path, or what kind of object; ``report`` counts what
    reading met; ``fingerprint`` is a hash of everything in the compositions; ``form`` is the default
    form of their examples.

    Examples
    --------
    >>> import dagrec
    >>> data = dagrec.from_paths([["table_1", "service_2", "service_3"]])
    >>> len(data), [node.key for node in data[0].nodes]
    (1, ['table_1', 'service_2', 'service_3'])
    """

    compositions: tuple[Composition, ...]
    report: ReadReport
    fingerprint: str
    source: str
    form: Form = "paths"

    @classmethod
    def of(
        cls,
        compositions: Sequence[Composition],
        report: ReadReport,
        *,
        source: str,
        form: Form = "paths",
    ) -> Dataset:
        """A data set with the fingerprint of its compositions."""
        return cls(tuple(compositions), report, fingerprint(compositions), source, form)

    def __len__(self) -> int:
        return len(self.compositions)

    def __iter__(self) -> Iterator[Composition]:
        return iter(self.compositions)

    @overload
    def __getitem__(self, index: int) -> Composition: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Composition, ...]: ...

    def __getitem__(self, index: int | slice) -> Composition | tuple[Composition, ...]:
        return self.compositions[index]

    def examples(
        self, options: ExampleOptions | None = None
    ) -> tuple[tuple[Example, ...], ExampleReport]:
        """Return the examples of the compositions and a report, in the form of the options or the data.

        Raises :class:`DataError` if there are none.
        """
        options = options or ExampleOptions()
        if options.form is None:
            options = options.model_copy(update={"form": self.form})
        examples, report = extract(self.compositions, options)
        if not examples:
            raise DataError(
                f"training needs compositions in which a service follows a node, found none among "
                f"{len(self)}; see `dagrec inspect`",
                rule="no-examples",
            )
        return examples, report

    def about(self, report: ExampleReport) -> dict[str, Any]:
        """What a result or a manifest says of the data behind it, and of the examples."""
        return {
            "path": self.source,
            "fingerprint": self.fingerprint,
            "compositions": len(self.compositions),
            "form": report.form,
            "examples": report.examples,
            "skipped": dict(self.report.skipped),
        }

    def _table(self) -> Table:
        nodes = [node for composition in self.compositions for node in composition.nodes]
        owners = {composition.owner for composition in self.compositions} - {None}
        rows = [
            ("compositions", len(self.compositions)),
            ("nodes", len(nodes)),
            ("links", sum(len(composition.links) for composition in self.compositions)),
            ("distinct services", len({node.key for node in nodes if node.is_service})),
            ("owners", len(owners)),
            ("with a time", sum(c.time is not None for c in self.compositions)),
            ("skipped", sum(self.report.skipped.values())),
        ]
        notes = [f"skipped: {problem}" for problem in self.report.problems[:3]]
        notes += [f"note: {what}: {count:,}" for what, count in self.report.notes.items()]
        counts = [(name, f"{count:,}") for name, count in rows]
        return Table(f"data set of {self.source}", ("", "count"), counts, notes=notes)

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table().html()
