"""Augmentation of training contexts, which does not change their targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context
from dagrec.data.vocabulary import PADDING, UNKNOWN, Contexts, Vocabulary
from dagrec.graph.upstream import linear_extension
from dagrec.types import Ids, Options


class Augmentation(Options):
    """Probabilities of three changes to a training context.

    None of them changes the frontier, which determines the allowed services.
    """

    node_mask: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="probability of replacing a node before the frontier by the unknown node",
    )
    crop: float = Field(
        0.0, ge=0, le=1, description="probability of removing some of the oldest nodes of a context"
    )
    reorder: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability of reading the upstream DAG in a random topological order; for "
        "recommenders that read it as a sequence",
    )

    @property
    def active(self) -> bool:
        """Whether any probability is above 0."""
        return self.node_mask > 0 or self.crop > 0 or self.reorder > 0


def augment(contexts: Contexts, options: Augmentation, rng: np.random.Generator) -> Contexts:
    """Crop each context with probability ``crop``, then mask each node with probability ``node_mask``.

    A crop keeps the newest 1 .. n - 1 of n nodes; all these numbers are equally likely. A masked node
    is replaced by the unknown node, and the last node is never masked. Contexts with less than two
    nodes are not changed. The input is not modified, and the origins are the same. ``reorder`` is not
    applied; see :func:`reorder`.

    These are the crop and mask operations of CL4SRec (Xie et al. 2022), except that the last node is
    kept.
    """
    nodes, lengths = contexts.nodes, contexts.lengths
    if options.crop > 0:
        nodes, lengths = _crop(nodes, lengths, options.crop, rng)
    if options.node_mask > 0:
        before_last = np.arange(nodes.shape[1]) < lengths[:, None] - 1
        masked = before_last & (rng.random(nodes.shape) < options.node_mask)
        nodes = np.where(masked, UNKNOWN, nodes)
    return Contexts(nodes, lengths, contexts.origins)


def _crop(nodes: Ids, lengths: Ids, share: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Crop random rows, and return them left-aligned with the least possible padding."""
    chosen = (rng.random(len(lengths)) < share) & (lengths > 1)
    # The upper end is exclusive: 1 .. n - 1 of n nodes are removed.
    removed = np.where(chosen, rng.integers(1, np.maximum(lengths, 2)), 0)
    lengths = lengths - removed
    positions = np.arange(max(int(lengths.max(initial=0)), 1))
    inside = positions < lengths[:, None]
    shifted = np.take_along_axis(nodes, np.where(inside, positions + removed[:, None], 0), axis=1)
    return np.where(inside, shifted, PADDING), lengths


def reorder(
    contexts: Contexts, vocabulary: Vocabulary, share: float, rng: np.random.Generator
) -> Contexts:
    """Replace contexts, each with probability ``share``, by random orders of their upstream DAGs.

    The order is a random linear extension, see :func:`dagrec.graph.upstream.linear_extension`.
    Only nodes that are not ancestors of each other change their order, and the frontier stays last.
    Rows without a composition are not changed. If the upstream DAG has more nodes than a context may
    have, the last ones in the drawn order are kept. The input is not modified.

    This is meant for contexts that are read from the upstream DAG, because the row of a path is
    replaced by one of the whole DAG. ``vocabulary`` is the one that encoded the contexts.
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
    """The node ids of a context's upstream DAG in a random topological order."""
    composition = context.composition
    assert composition is not None
    position = {node: i for i, node in enumerate(upstream)}
    order = linear_extension([[position[p] for p in composition.parents[n]] for n in upstream], rng)
    keys = [composition.by_id[upstream[i]].key for i in order[-MAX_CONTEXT_LENGTH:]]
    return [vocabulary.ids.get(key, UNKNOWN) for key in keys]
