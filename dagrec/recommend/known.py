"""The part of a context that is known from training, when services or nodes are new."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Literal, NamedTuple

from dagrec.data.compositions import Composition
from dagrec.data.examples import Context, context_at
from dagrec.data.vocabulary import Vocabulary

Strategy = Literal["model", "back-off", "ancestor", "history", "popularity"]


class Known(NamedTuple):
    """The context that a model scores, and how it came about; see :class:`Answer`."""

    context: Context
    strategy: Strategy


def known_part(
    context: Context, unknown: list[str], vocabulary: Vocabulary, *, owner_aware: bool
) -> Known:
    """Return the part of a context that a model knows, given its unknown keys.

    If the frontier is unknown, this is the context of its nearest known ancestor. If no node is known,
    a model that is owner-aware can use the owner's history; all others know nothing.
    """
    ids = vocabulary.ids
    if context.path and context.path[-1] in ids:
        return Known(context, "back-off" if unknown else "model")
    if context.composition is None or context.at is None:
        known = max((i for i, key in enumerate(context.path, start=1) if key in ids), default=0)
        if known:
            return Known(replace(context, path=context.path[:known]), "ancestor")
    elif (ancestor := _nearest_known(context.composition, context.at, vocabulary)) is not None:
        earlier = context_at(context.composition, ancestor)
        return Known(replace(earlier, time=context.time, history=context.history), "ancestor")
    if owner_aware and context.history:
        return Known(context, "history")
    return Known(context, "popularity")


def _nearest_known(composition: Composition, at: str, vocabulary: Vocabulary) -> str | None:
    """The id of the known ancestor with the fewest links to a node, the first in document order."""
    visited, queue = {at}, deque([at])
    while queue:
        for parent in composition.parents[queue.popleft()]:
            if composition.by_id[parent].key in vocabulary.ids:
                return parent
            if parent not in visited:
                visited.add(parent)
                queue.append(parent)
    return None
