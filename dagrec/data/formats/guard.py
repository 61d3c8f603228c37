"""The readers of plug-ins, checked and guarded: their mistakes are errors of the file, with a name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import get_args

from dagrec.data.compositions import Node, OnCycle
from dagrec.data.examples import Form
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.errors import ConfigError, DagrecError, DataError
from dagrec.plugins import describe, warn


def checked_format(name: str, value: object) -> Format:
    """Return a guarded format. Raises :class:`ConfigError` if a plug-in is no valid format."""
    if not isinstance(value, Format):
        raise ConfigError(f"must be a dagrec.data.formats.Format, found {value!r:.80}")
    if value.name != name:
        raise ConfigError(f"its Format must have the name of the entry point, found {value.name!r:.80}")
    rules = {
        "description must be a text": isinstance(value.description, str),
        "recognises must be a function": callable(value.recognises),
        "documents must be a function": callable(value.documents),
        'suffixes must be endings in lower case, such as (".json",)': _are_endings(value.suffixes),
        "fields must be a list of names": _are_texts(value.fields),
        f"on_cycle must be one of {', '.join(get_args(OnCycle))}": value.on_cycle in get_args(OnCycle),
        f"examples must be one of {', '.join(get_args(Form))}": value.examples in get_args(Form),
    }
    for rule, holds in rules.items():
        if not holds:
            field = rule.partition(" ")[0]
            raise ConfigError(f"{rule}, found {getattr(value, field)!r:.80}")
    return replace(value, recognises=partial(_recognises, value), documents=partial(_documents, value))


def _are_texts(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(text, str) for text in value)
    )


def _are_endings(value: object) -> bool:
    return _are_texts(value) and all(
        ending.startswith(".") and ending == ending.lower()
        for ending in value  # type: ignore[attr-defined]
    )


def _recognises(format_: Format, content: Content, options: ReadOptions) -> bool:
    """Whether a format recognises a file; not if it raises an error."""
    try:
        return bool(format_.recognises(content, options))
    except DagrecError:
        return False
    except Exception as error:
        warn(
            f"format {format_.name!r}: recognises must not raise errors, found "
            f"{type(error).__name__}; report this to its authors"
        )
        return False


def _documents(format_: Format, content: Content, reading: Reading) -> Iterator[Document]:
    try:
        for document in format_.documents(content, reading):
            yield Document(document.place, partial(_draft, format_, document))
    except DagrecError:
        raise
    except Exception as error:
        raise _failure(format_, error) from error


def _draft(format_: Format, document: Document) -> Draft:
    try:
        draft = document.draft()
        _check_draft(draft)
    except DagrecError:
        raise
    except Exception as error:
        raise _failure(format_, error) from error
    return draft


def _check_draft(draft: object) -> None:
    if not isinstance(draft, Draft):
        raise TypeError(f"a document must give a Draft, found {draft!r:.80}")
    for node in draft.nodes:
        if not isinstance(node, Node):
            raise TypeError(f"nodes must be Nodes, found {node!r:.80}")
    for link in draft.links:
        if not isinstance(link, tuple) or len(link) not in (2, 4):
            raise TypeError(f"links must be Wires or pairs of ids, found {link!r:.80}")


def _failure(format_: Format, error: Exception) -> DataError:
    return DataError(
        f"the reader of the plug-in {format_.name!r} must read a file or name its fault, found "
        f"{describe(error)}; report this to its authors",
        rule="plug-in",
    )
