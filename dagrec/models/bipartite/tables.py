"""What PinSage knows of the nodes before it is trained: their features, neighbourhoods, and negatives.

Features are the text (``dagrec.models.text``) or one-hot, and beside it the logarithm of the number of
compositions and whether the node is a service, all centred on their mean. Neighbourhoods and hard
negatives are by personalised PageRank (``dagrec.models.bipartite.pagerank``) over the training
compositions: no other is known, and a service that none of them holds has features alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import FIRST_SERVICE, Vocabulary
from dagrec.models.base import State
from dagrec.models.bipartite.pagerank import hard_band, nearest, pageranks
from dagrec.models.interactions import Interactions
from dagrec.models.text import key_texts, text_features
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Options

BESIDE = 0.1
"""Root mean square of the two features beside the text, whose rows have length 1."""


class TableOptions(Options):
    """Features and neighbourhoods."""

    features: Literal["text", "one-hot"] = Field(
        "text", description="what a node is before training: its key and text, or itself"
    )
    dimensions: int = Field(128, ge=1, description="text: directions that are kept, at most")
    neighbours: int = Field(10, ge=1, description="nodes in a neighbourhood, at most")
    pooling: Literal["importance", "mean"] = Field(
        "importance", description="importance: neighbours weigh by PageRank; mean: the same"
    )
    restart: float = Field(0.5, ge=0.01, lt=1, description="that a walk ends at a step")
    exact_up_to: int = Field(
        2000, ge=0, description="nodes up to which PageRank is exact; beyond, it is of walks"
    )
    walks: int = Field(1000, ge=1, description="walks from each node, where it is of walks")


@dataclass(frozen=True)
class Tables:
    """What is known of nodes before training.

    features: [V, F]; neighbours, weights: [V, T]; hard: [V, M] service columns, -1 behind the last;
    training alone needs these.
    """

    features: Floats
    neighbours: Ids
    weights: Floats
    hard: Ids

    @classmethod
    def of(cls, data: TrainingData, config: TableOptions, seed: int) -> Tables:
        interactions = Interactions.of_compositions(data)
        nodes, services = len(data.vocabulary), len(data.vocabulary.services)
        walks = None if nodes <= config.exact_up_to else config.walks
        neighbours = np.zeros((nodes, config.neighbours), dtype=np.int64)
        weights = np.zeros((nodes, config.neighbours))
        bands: list[Ids] = []
        rng = np.random.default_rng(seed % 2**64)
        for some, ranks in pageranks(interactions, config.restart, walks, rng):
            neighbours[some], weights[some] = nearest(some, ranks, config.neighbours)
            for node, row in zip(some, ranks[:, FIRST_SERVICE : FIRST_SERVICE + services], strict=True):
                allowed = np.ones(services, dtype=np.bool_)
                allowed[data.graph.observed.row(int(node))[0]] = False
                bands.append(hard_band(row, allowed))
        if config.pooling == "mean":
            there = weights > 0
            weights = there / there.sum(axis=1, keepdims=True).clip(min=1)
        hard = np.full((nodes, max(map(len, bands))), -1, dtype=np.int64)
        for node, band in enumerate(bands):
            hard[node, : len(band)] = band
        return cls(features_of(data, interactions, config), neighbours, weights, hard)

    @classmethod
    def stored(cls, state: State, vocabulary: Vocabulary) -> Tables:
        """Those of a state. Raises :class:`ValueError` where they do not fit a vocabulary."""
        features, neighbours, weights = (state[f] for f in ("features", "neighbours", "weights"))
        found = cls(
            features.astype(np.float64),
            neighbours.astype(np.int64),
            weights.astype(np.float64),
            np.zeros((len(vocabulary), 0), dtype=np.int64),
        )
        shapes = found.features.shape[:1], found.neighbours.shape, found.weights.shape[:1]
        if shapes != ((len(vocabulary),), found.weights.shape, (len(vocabulary),)) or not (
            np.isfinite(found.features).all()
            and np.isfinite(found.weights).all()
            and ((found.neighbours >= 0) & (found.neighbours < len(vocabulary))).all()
        ):
            raise ValueError("features and neighbours that do not belong to the vocabulary")
        return found


def features_of(data: TrainingData, interactions: Interactions, config: TableOptions) -> Floats:
    """[V, F], of mean 0 over all known nodes; 0 for padding and the unknown node."""
    vocabulary = data.vocabulary
    if config.features == "text":
        own = text_features(vocabulary, key_texts(data), config.dimensions)
    else:
        own = np.eye(len(vocabulary))
    service = np.arange(len(vocabulary)) < FIRST_SERVICE + len(vocabulary.services)
    beside = np.stack([np.log1p(interactions.totals()), service], axis=1)
    for column in (own, beside):
        column[:FIRST_SERVICE] = 0
        column[FIRST_SERVICE:] -= column[FIRST_SERVICE:].mean(axis=0)
    spread = np.sqrt(np.square(beside[FIRST_SERVICE:]).mean(axis=0))
    return np.concatenate([own, BESIDE * beside / np.where(spread > 0, spread, 1)], axis=1)
