"""Reading of compositions from files and folders, and the registry of formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dagrec.data.compositions import Composition
from dagrec.data.dataset import Dataset, ReadReport
from dagrec.data.examples import Form
from dagrec.data.formats import (
    calls,
    comfyui,
    dot,
    edges,
    galaxy_format2,
    galaxy_ga,
    galaxy_tsv,
    graphml,
    graphs,
    n8n,
    native,
    node_red,
    paths,
    react_flow,
    step_functions,
    traces,
)
from dagrec.data.formats.base import (
    Document,
    Draft,
    Format,
    Reading,
    ReadOptions,
    compose_draft,
)
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import Json, check_unicode, describe_value
from dagrec.data.formats.guard import checked_format
from dagrec.data.formats.sources import ARCHIVES, Source, sources
from dagrec.errors import ConfigError, DataError, did_you_mean
from dagrec.plugins import Plugins

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        comfyui.FORMAT,  # before native, which is any object with nodes
        node_red.FORMAT,
        graphs.FORMAT,
        native.FORMAT,
        n8n.FORMAT,
        react_flow.FORMAT,
        step_functions.FORMAT,
        galaxy_format2.FORMAT,
        galaxy_ga.FORMAT,
        traces.FORMAT,
        paths.FORMAT,
        graphml.FORMAT,
        dot.FORMAT,
        edges.FORMAT,  # before calls, which has its columns to tell them apart
        calls.FORMAT,
        galaxy_tsv.FORMAT,
    )
}
"""The formats of dagrec by name, in the order in which they are tried."""
PLUGINS: Plugins[Format] = Plugins("dagrec.formats", "format", FORMATS, checked_format)
"""The formats of other installed packages, which are tried after those of dagrec."""

Advance = Callable[[int], None]
"""Called with the number of compositions that were read since the last call."""


class Parsed(NamedTuple):
    """A composition, its format, the number of links that were dropped to break cycles, and notes."""

    composition: Composition
    format: Format
    dropped: int
    notes: dict[str, int]


def format_names() -> list[str]:
    """The names of all formats. Plug-ins are not imported, so some may not be usable."""
    return [*FORMATS, *PLUGINS.entries]


def all_formats() -> dict[str, Format]:
    """All formats by name, in the order in which they are tried. Plug-ins are imported."""
    return {**FORMATS, **PLUGINS.usable()}


def find_format(name: str) -> Format | None:
    """Return the format of a name, and None for ``auto``. Raises :class:`ConfigError`."""
    if name == "auto" or name in FORMATS:
        return FORMATS.get(name)
    if name in PLUGINS.entries:
        return PLUGINS.get(name)
    names = format_names()
    nearest = did_you_mean(name, names) or f"; there are auto, {', '.join(names)}"
    raise ConfigError(f"no format {name!r}{nearest}")


def suffixes() -> frozenset[str]:
    """The endings of files that are read in folders; others are ignored and counted."""
    return frozenset(suffix for f in all_formats().values() for suffix in f.suffixes) | set(ARCHIVES)


def read(path: Path, options: ReadOptions | None = None, *, advance: Advance | None = None) -> Dataset:
    """Read all compositions of a file, or of all files in a folder and its subfolders, sorted by name.

    Files can be compressed (.gz), and archives (.zip, .tar.gz) are read like folders; ``-`` is standard
    input. Raises :class:`DataError` if the path cannot be read, for the first invalid composition if
    ``on_error`` is ``fail``, and if there is no valid composition.
    """
    options = options or ReadOptions()
    find_format(options.format)
    report = ReadReport()
    compositions: list[Composition] = []
    seen: set[int] = set()
    ignored: Counter[str] = Counter()
    is_one_file = not path.is_dir() and not path.name.lower().endswith(ARCHIVES)
    endings = frozenset() if is_one_file else suffixes()
    for source in sources(path, endings, options.max_mb, ignored):
        try:
            done = len(compositions) + sum(report.skipped.values())
            for composition in _read_source(source, options, report, seen, start=done):
                compositions.append(composition)
                if advance:
                    advance(1)
        except DataError as error:
            if options.on_error == "fail" or is_one_file:
                raise error.at(source.name) from None
            report.skip(error.at(source.name))
    report.ignored_files = ignored.total()
    if not compositions:
        total = sum(report.skipped.values())
        reason = f"; {total} skipped, the first: {report.problems[0]}" if report.problems else ""
        if report.ignored_files:
            listed = ", ".join(sorted(endings))
            reason += f"; {report.ignored_files} files ignored, whose endings are none of {listed}"
        raise DataError(
            f"{path}: at least one composition is needed, found none{reason}; check the file",
            rule="empty",
        )
    _check_services(compositions, path)
    forms = {format_.examples for name in report.formats if (format_ := find_format(name))}
    form: Form = "paths" if "paths" in forms else "links"
    return Dataset.of(compositions, report, source=str(path), form=form)


def read_content(
    content: Content, reading: Reading, format_: Format | None = None
) -> tuple[Format, Iterator[Document]]:
    """Return the format of the content of a file, and its documents. Raises :class:`DataError`."""
    if format_ is None:
        format_ = recognise(content, reading.options)
    elif content.is_json and not any(
        "json" in suffix or suffix == ".ga" for suffix in format_.suffixes
    ):
        raise DataError(
            f"a file of the format {format_.name} must be text, found {content.describe()}; name "
            "another format with --format",
            rule="unknown-format",
        )
    return format_, format_.documents(content, reading)


def recognise(content: Content, options: ReadOptions | None = None) -> Format:
    """Return the format of a file. Raises :class:`DataError` if it has none of them."""
    options = options or ReadOptions()
    for format_ in _in_order():
        if format_.recognises(content, options):
            return format_
    names = set(content.first)
    formats = all_formats()
    nearest = max(formats.values(), key=lambda format_: len(names & set(format_.fields)))
    shared = sorted(names & set(nearest.fields))
    hint = "; native JSON needs nodes and links" if content.is_json else ""
    if shared:
        hint = f"; like {nearest.name} it has {', '.join(shared)}, but not what else that needs"
    raise DataError(
        f"its content must be that of a known format ({', '.join(formats)}), found "
        f"{content.describe()}{hint}; name the format with --format, or see `dagrec formats`",
        rule="unknown-format",
    )


def _in_order() -> Iterator[Format]:
    """All formats in the order in which they are tried. Plug-ins are imported when it is their turn."""
    yield from FORMATS.values()
    yield from PLUGINS.usable().values()


def read_document(value: Json, options: ReadOptions | None = None) -> Parsed:
    """Return the only composition of a parsed JSON value in any format, as in a request.

    Cycles are broken if that is the default of the format. Raises :class:`DataError`, which names the
    node or link, the rule and the value found.
    """
    format_, draft, reading = read_draft(value, options)
    on_cycle = reading.options.on_cycle or format_.on_cycle
    composition, dropped = compose_draft(draft, "request", on_cycle)
    return Parsed(composition, format_, dropped, dict(reading.notes))


def read_draft(value: Json, options: ReadOptions | None = None) -> tuple[Format, Draft, Reading]:
    """Return the format and the draft of the only composition of a parsed JSON value."""
    reading = Reading(options or ReadOptions())
    if not isinstance(value, dict | list):
        raise DataError(
            f"a composition must be an object, found {describe_value(value)}", rule="wrong-type"
        )
    chosen = find_format(reading.options.format)
    format_, documents = read_content(Content.of_value(value), reading, chosen)
    found = list(islice(documents, 2))
    if len(found) != 1:
        number = "several" if found else "none"
        raise DataError(
            f"a value must hold one composition ({format_.name}), found {number}; pass one at a time",
            rule="not-one",
        )
    return format_, found[0].draft(), reading


def read_composition(value: Json, options: ReadOptions | None = None) -> Composition:
    """Return the only composition of a parsed JSON value; see :func:`read_document`."""
    return read_document(value, options).composition


def _check_services(compositions: list[Composition], path: Path) -> None:
    if not any(node.is_service for c in compositions for node in c.nodes):
        kinds = sorted({node.kind for c in compositions for node in c.nodes})[:5]
        raise DataError(
            f"{path}: at least one node must be a service, found only nodes of kind "
            f'{", ".join(kinds)}; give services the kind "service" (or, in native JSON, a "mid" or a '
            '"key"), or name the format',
            rule="no-services",
        )


def _read_source(
    source: Source, options: ReadOptions, report: ReadReport, seen: set[int], *, start: int
) -> Iterator[Composition]:
    """Yield the compositions of one file. The errors that it raises do not name the file.

    ``seen`` has the hashes of all compositions that were read.
    """
    check_unicode(source.name, "the path of a file")
    text = source.read()
    if not text.strip():
        raise DataError("a file must hold compositions, found it empty; check the file", rule="empty")
    reading = Reading(options)
    content = Content(text, source.name.removesuffix(".gz"))
    if content.is_json and not content.is_json_lines and content.value == []:
        return
    format_, documents = read_content(content, reading, find_format(options.format))
    report.files += 1
    report.formats[format_.name] += 1
    on_cycle = options.on_cycle or format_.on_cycle
    for number, document in enumerate(documents, start=start + 1):
        notes = reading.notes.copy()
        try:
            draft = document.draft()
            composition, dropped = compose_draft(draft, f"{source.stem}-{number}", on_cycle)
        except DataError as error:
            reading.notes = notes
            report.cycles += error.rule == "cycle"
            if options.on_error == "fail" and not (error.rule == "cycle" and on_cycle == "skip"):
                raise error.at(document.place) from None
            report.skip(error.at(f"{source.name}: {document.place}"))
            continue
        report.cycles += dropped > 0
        report.broken_links += dropped
        if duplicates := len(draft.links) - len(set(draft.links)):
            reading.notes["links given more than once"] += duplicates
        c = composition
        content_hash = hash((draft.id, c.nodes, c.links, c.owner, c.time, c.goal, c.wires))
        if content_hash in seen:
            reading.notes["compositions given more than once"] += 1
        seen.add(content_hash)
        yield composition
    report.notes.update(reading.notes)
    for rejected in reading.rejected:
        report.skip(rejected.at(source.name))


__all__ = [
    "FORMATS",
    "PLUGINS",
    "Content",
    "Document",
    "Draft",
    "Format",
    "Parsed",
    "ReadOptions",
    "Reading",
    "all_formats",
    "compose_draft",
    "find_format",
    "format_names",
    "read",
    "read_composition",
    "read_content",
    "read_document",
    "read_draft",
    "recognise",
    "suffixes",
]
