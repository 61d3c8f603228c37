"""Augmentation: other readings of the contexts of training that have the same right answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context
from dagrec.data.vocabulary import PADDING, UNKNOWN, Contexts, Vocabulary
from dagrec.graph.upstream import linear_extension
from dagrec.types import Ids, Options


class Augmentation(Options):
    """Probabilities of three changes that leave the right answer as it is; all 0: no change.

    None of them touches the last node of a context, which decides what may follow.
    """

    node_mask: float = Field(
        0.0, ge=0, lt=1, description="that a node before the last is read as the unknown node"
    )
    crop: float = Field(
        0.0, ge=0, le=1, description="that a context loses some of its oldest nodes, not its last"
    )
    reorder: float = Field(
        0.0,
        ge=0,
        le=1,
        description="that the upstream DAG is read in another order of the nodes that no link orders; "
        "for contexts that are read from it",
    )

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return self.node_mask > 0 or self.crop > 0 or self.reorder > 0


def augment(contexts: Contexts, options: Augmentation, rng: np.random.Generator) -> Contexts:
    """Each context cropped with probability ``crop``, then its nodes masked with ``node_mask`` each.

    A crop keeps the newest 1 .. n - 1 of n nodes, each number as likely. A masked node becomes the
    unknown node; the last is never masked. A context of one node or none stays as it is. Origins stay,
    and what is given is not written to. ``reorder`` is left to :func:`reorder`.

    Source: crop and mask of CL4SRec (Xie et al. 2022), with the last node kept, for the same target.
    """
    nodes, lengths = contexts.nodes, contexts.lengths
    if options.crop > 0:
        nodes, lengths = _cropped(nodes, lengths, options.crop, rng)
    if options.node_mask > 0:
        before_last = np.arange(nodes.shape[1]) < lengths[:, None] - 1
        masked = before_last & (rng.random(nodes.shape) < options.node_mask)
        nodes = np.where(masked, UNKNOWN, nodes)
    return Contexts(nodes, lengths, contexts.origins)


def _cropped(nodes: Ids, lengths: Ids, share: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Rows moved to the left by what they lose, with no more padding than they need then."""
    chosen = (rng.random(len(lengths)) < share) & (lengths > 1)
    # The upper end is excluded: of n nodes 1 .. n - 1 are lost.
    lost = np.where(chosen, rng.integers(1, np.maximum(lengths, 2)), 0)
    lengths = lengths - lost
    places = np.arange(max(int(lengths.max(initial=0)), 1))
    inside = places < lengths[:, None]
    moved = np.take_along_axis(nodes, np.where(inside, places + lost[:, None], 0), axis=1)
    return np.where(inside, moved, PADDING), lengths


def reorder(
    contexts: Contexts, vocabulary: Vocabulary, share: float, rng: np.random.Generator
) -> Contexts:
    """Each context, with probability ``share``, as a random linear extension of its upstream DAG.

    Only nodes of which neither is upstream of the other change places, and the frontier stays last.
    A row without a composition behind it stays as it is. Of an upstream DAG with more nodes than a
    context may have, the newest of the drawn order are kept. What is given is not written to.

    For contexts that are read from the upstream DAG: a row that held one path holds the whole DAG
    afterwards. ``vocabulary`` is the one that encoded them.
    """
    chosen = rng.random(len(contexts)) < share
    rows: dict[int, list[int]] = {}
    for i in np.flatnonzero(chosen).tolist():
        upstream = contexts.origins[i].upstream()
        if upstream:
            rows[i] = _extension_ids(contexts.origins[i], upstream, vocabulary, rng)
    lengths = contexts.lengths.copy()
    for i, row in rows.items():
        lengths[i] = len(row)
    width = max(contexts.nodes.shape[1], int(lengths.max(initial=0)))
    nodes = np.full((len(contexts), width), PADDING, dtype=np.int64)
    nodes[:, : contexts.nodes.shape[1]] = contexts.nodes
    for i, row in rows.items():
        nodes[i] = PADDING
        nodes[i, : len(row)] = row
    return Contexts(nodes, lengths, contexts.origins)


def _extension_ids(
    context: Context, upstream: Sequence[str], vocabulary: Vocabulary, rng: np.random.Generator
) -> list[int]:
    """Node ids of a context's upstream DAG in a random order that its links allow."""
    composition = context.composition
    assert composition is not None
    place = {node: i for i, node in enumerate(upstream)}
    order = linear_extension([[place[p] for p in composition.parents[n]] for n in upstream], rng)
    keys = [composition.by_id[upstream[i]].key for i in order[-MAX_CONTEXT_LENGTH:]]
    return [vocabulary.ids.get(key, UNKNOWN) for key in keys]
