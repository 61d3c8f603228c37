"""Reading of compositions from files and folders, and the registry of formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from dagrec.data.compositions import Composition, compose
from dagrec.data.dataset import Dataset, ReadReport
from dagrec.data.formats import calls, galaxy_ga, galaxy_tsv, n8n, native
from dagrec.data.formats.documents import (
    Document,
    Json,
    check_unicode,
    describe_value,
    json_documents,
    read_text,
)
from dagrec.data.formats.draft import Format, ReadOptions
from dagrec.errors import ConfigError, DataError, did_you_mean

FORMATS: dict[str, Format] = {
    f.name: f for f in (native.FORMAT, n8n.FORMAT, calls.FORMAT, galaxy_tsv.FORMAT, galaxy_ga.FORMAT)
}
"""The formats by name. They are tried in this order, because call logs have a header and rows of Galaxy
connections have none."""

SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".tsv", ".csv", ".ga"})
"""Files of a folder with other suffixes are ignored and counted."""

Advance = Callable[[int], None]
"""Called with the number of compositions that were read since the last call."""


def read(path: Path, options: ReadOptions | None = None, *, advance: Advance | None = None) -> Dataset:
    """Read all compositions of a file, or of all files in a folder and its subfolders, sorted by name.

    Raises :class:`DataError` if the path cannot be read, for the first invalid composition if
    ``on_error`` is ``fail``, and if there is no valid composition.
    """
    options = options or ReadOptions()
    if options.format not in ("auto", *FORMATS):
        nearest = did_you_mean(options.format, FORMATS) or f"; there are auto, {', '.join(FORMATS)}"
        raise ConfigError(f"no format {options.format!r}{nearest}")
    report = ReadReport()
    compositions: list[Composition] = []
    for file in _files(path, report):
        try:
            done = len(compositions) + sum(report.skipped.values())
            for composition in _read_file(file, options, report, start=done):
                compositions.append(composition)
                if advance:
                    advance(1)
        except DataError as error:
            if options.on_error == "fail" or path.is_file():
                raise error.at(str(file)) from None
            report.skip(error.at(str(file)))
    if not compositions:
        total = sum(report.skipped.values())
        reason = f"; {total} skipped, the first: {report.problems[0]}" if report.problems else ""
        raise DataError(
            f"{path}: at least one composition is needed, found none{reason}; check the file",
            rule="empty",
        )
    return Dataset.of(compositions, report, source=str(path))


def read_composition(document: Json, options: ReadOptions | None = None) -> Composition:
    """Return a composition from parsed native JSON, as in a request.

    Raises :class:`DataError`, which names the node or link, the rule and the value found.
    """
    options = options or ReadOptions()
    draft = native.draft(document, options)
    composition, _ = compose(
        draft.id or "request",
        draft.nodes,
        draft.links,
        owner=draft.owner,
        time=draft.time,
        on_cycle=options.on_cycle or "fail",
    )
    return composition


def recognise_document(document: Json) -> Format:
    """Return the format of a parsed JSON object. Raises :class:`DataError` if it has none of them."""
    candidates = [format_ for format_ in FORMATS.values() if not format_.rows]
    for format_ in candidates:
        if isinstance(document, dict) and format_.recognises(document):
            return format_
    names = ", ".join(format_.name for format_ in candidates)
    raise DataError(
        f"a composition must be in one of the formats {names}, found {describe_value(document)} in "
        "none; it needs nodes and links (native), nodes and connections (n8n) or steps (Galaxy)",
        rule="unknown-format",
    )


def _files(path: Path, report: ReadReport) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            if file.suffix.lower() in SUFFIXES:
                yield file
            else:
                report.ignored_files += 1
    else:
        raise DataError(
            f"{path}: must be a file or a folder, found neither; check the path", rule="no-file"
        )


def _read_file(
    file: Path, options: ReadOptions, report: ReadReport, *, start: int
) -> Iterator[Composition]:
    """Yield the compositions of one file. The errors that it raises do not name the file."""
    check_unicode(str(file), "the path of a file")
    text = read_text(file, options.max_mb)
    if not text.strip():
        raise DataError("a file must hold compositions, found it empty; check the file", rule="empty")
    skip = options.on_error == "skip"
    row_errors: list[DataError] | None = [] if skip else None
    format_, documents = _recognise(text, options, row_errors)
    report.files += 1
    report.formats[format_.name] += 1
    on_cycle = options.on_cycle or format_.on_cycle
    for number, (place, document) in enumerate(documents, start=start + 1):
        try:
            draft = format_.draft(document, options)
            composition, dropped = compose(
                draft.id or f"{file.stem}-{number}",
                draft.nodes,
                draft.links,
                owner=draft.owner,
                time=draft.time,
                on_cycle=on_cycle,
            )
        except DataError as error:
            report.cycles += error.rule == "cycle"
            if not skip and not (error.rule == "cycle" and on_cycle == "skip"):
                raise error.at(place) from None
            report.skip(error.at(f"{file}: {place}"))
            continue
        report.cycles += dropped > 0
        report.broken_links += dropped
        report.notes.update(draft.notes)
        if duplicates := len(draft.links) - len(composition.links) - dropped:
            report.notes["links given more than once"] += duplicates
        yield composition
    for row_error in row_errors or []:
        report.skip(row_error.at(str(file)))


def _recognise(
    text: str, options: ReadOptions, row_errors: list[DataError] | None
) -> tuple[Format, list[Document]]:
    """Return the format of a file, as given by the options or detected, and its documents."""
    name = options.format
    candidates = list(FORMATS.values()) if name == "auto" else [FORMATS[name]]
    if text.lstrip()[0] not in "{[":
        for format_ in candidates:
            if format_.rows and (name != "auto" or format_.recognises(text)):
                return format_, list(format_.rows(text, options, row_errors))
        content = "text that is not JSON"
    else:
        documents = list(json_documents(text, row_errors))
        first = next((value for _, value in documents if isinstance(value, dict)), None)
        if not documents or (name != "auto" and not candidates[0].rows):
            return candidates[0], documents
        for format_ in candidates:
            if first is not None and format_.recognises(first):
                return format_, documents
        content = f"JSON whose first composition is {describe_value(documents[0][1])}"
    raise DataError(
        f"its content must be that of a known format ({', '.join(FORMATS)}), found {content}; "
        "name the format with --format, or see `dagrec formats`",
        rule="unknown-format",
    )


__all__ = [
    "FORMATS",
    "Format",
    "ReadOptions",
    "read",
    "read_composition",
    "recognise_document",
]
