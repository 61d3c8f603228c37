"""What readers of visual editors share: texts of users, ports, and links through other nodes."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence

from dagrec.data.compositions import MAX_KEY_LENGTH, Wire
from dagrec.data.formats.documents import Json, plain_text
from dagrec.errors import DataError

MAX_JOINED = 100_000
"""The largest number of links that junctions may add to a composition."""


def name_of(value: Json) -> str:
    """Return an id or the name of a type as text, and nothing for other values, which are no names."""
    return str(value) if isinstance(value, str | int) else ""


def written_name(name: Json, *types: str) -> str | None:
    """Return the name of a node, or None if it only repeats one of its types, as editors suggest."""
    text = plain_text(name)
    suggested = {_letters(type_) for type_ in types}
    return None if text is None or _letters(text) in suggested else text


def _letters(text: str) -> str:
    return re.sub(r"[\W\d_]+", "", text).lower()


def port(*parts: Json) -> str | None:
    """Join the parts of the name of a port by slashes; None if there are none."""
    texts = [plain_text(name_of(part)) for part in parts]
    return "/".join(text for text in texts if text)[:MAX_KEY_LENGTH] or None


def known_links(
    wires: Iterable[Wire], ids: Collection[str], dropped: Collection[str], notes: Counter[str]
) -> list[Wire]:
    """Return the links between the nodes with these ids.

    Links of nodes that were dropped, such as comments, and links to nodes that are gone are counted in
    ``notes``.
    """
    known = []
    for wire in wires:
        unknown = [end for end in (wire.source, wire.target) if end not in ids]
        if not unknown:
            known.append(wire)
        elif all(end in dropped for end in unknown):
            notes["links of comment nodes dropped"] += 1
        else:
            notes["links to nodes that are gone dropped"] += 1
    return known


def join_links(wires: Sequence[Wire], through: Collection[str]) -> list[Wire]:
    """Replace each link into the nodes ``through`` by links to where it leads in the end.

    Such nodes only pass on what they get. A joined link has the output of its first part and the input
    of its last part. Raises :class:`DataError` if there are more joined links than ``MAX_JOINED``.
    """
    onward: dict[str, list[Wire]] = defaultdict(list)
    for wire in wires:
        if wire.source in through:
            onward[wire.source].append(wire)
    steps = itertools.count()
    joined: list[Wire] = []
    for wire in wires:
        if wire.target not in through and wire.source not in through:
            joined.append(wire)
        elif wire.source not in through:
            for end in _ends(wire.target, onward, through):
                if next(steps) > MAX_JOINED + len(wires):
                    raise DataError(
                        f"nodes that only pass on links may add {MAX_JOINED} links, found more; link "
                        "the other nodes directly",
                        rule="too-large",
                    )
                if end.target not in through:
                    joined.append(Wire(wire.source, end.target, wire.output, end.input))
    return joined


def _ends(start: str, onward: dict[str, list[Wire]], through: Collection[str]) -> Iterator[Wire]:
    """Yield the links of ``start`` and of all nodes ``through`` that follow it."""
    seen, pending = {start}, deque([start])
    while pending:
        for wire in onward[pending.popleft()]:
            yield wire
            if wire.target in through and wire.target not in seen:
                seen.add(wire.target)
                pending.append(wire.target)
