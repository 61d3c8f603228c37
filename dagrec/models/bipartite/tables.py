"""Inputs of PinSage that are computed before training: features, neighbourhoods and hard negatives.

Features are text vectors (``dagrec.models.text``) or one-hot vectors, followed by the logarithm of the
number of compositions and an indicator of services, all centred. Neighbourhoods and hard negatives are
computed by personalised PageRank (``dagrec.models.bipartite.pagerank``) on the training compositions. A
service that is in none of them has only features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import FIRST_SERVICE, Vocabulary
from dagrec.models.base import State
from dagrec.models.bipartite.pagerank import hard_band, neighbourhoods, pageranks
from dagrec.models.interactions import Interactions
from dagrec.models.text import key_texts, text_features
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Options

SCALAR_FEATURES_RMS = 0.1
"""Root mean square of the two scalar features; text vectors have length 1."""


class TableOptions(Options):
    """Hyperparameters of features and neighbourhoods."""

    features: Literal["text", "one-hot"] = Field(
        "text",
        description="features of a node; text: the vector of its key and text; one-hot: its identity",
    )
    dimensions: int = Field(128, ge=1, description="text: number of dimensions, at most")
    neighbours: int = Field(10, ge=1, description="number of nodes in a neighbourhood, at most")
    pooling: Literal["importance", "mean"] = Field(
        "importance",
        description="importance: neighbours are weighted by PageRank; mean: they have equal weights",
    )
    restart: float = Field(
        0.5, ge=0.01, lt=1, description="probability that a random walk ends at a step"
    )
    max_exact_nodes: int = Field(
        2000,
        ge=0,
        description="number of nodes up to which PageRank is exact; with more nodes it is estimated "
        "from random walks",
    )
    walks: int = Field(1000, ge=1, description="random walks per node, if PageRank is estimated")


@dataclass(frozen=True)
class Tables:
    """Features, neighbourhoods and hard negatives of all nodes.

    features: [V, F]; neighbours, weights: [V, T]; hard: [V, M] service columns, padded with -1; they
    are used only in training.
    """

    features: Floats
    neighbours: Ids
    weights: Floats
    hard: Ids

    @classmethod
    def of(cls, data: TrainingData, config: TableOptions, seed: int) -> Tables:
        """Return the tables of training data."""
        interactions = Interactions.of_compositions(data)
        nodes, services = len(data.vocabulary), len(data.vocabulary.services)
        walks = None if nodes <= config.max_exact_nodes else config.walks
        neighbours = np.zeros((nodes, config.neighbours), dtype=np.int64)
        weights = np.zeros((nodes, config.neighbours))
        bands: list[Ids] = []
        rng = np.random.default_rng(seed % 2**64)
        for block, ranks in pageranks(interactions, config.restart, walks, rng):
            neighbours[block], weights[block] = neighbourhoods(block, ranks, config.neighbours)
            service_ranks = ranks[:, FIRST_SERVICE : FIRST_SERVICE + services]
            for node, row in zip(block, service_ranks, strict=True):
                allowed = np.ones(services, dtype=np.bool_)
                allowed[data.graph.observed.row(int(node))[0]] = False
                bands.append(hard_band(row, allowed))
        if config.pooling == "mean":
            present = weights > 0
            weights = present / present.sum(axis=1, keepdims=True).clip(min=1)
        hard = np.full((nodes, max(map(len, bands))), -1, dtype=np.int64)
        for node, band in enumerate(bands):
            hard[node, : len(band)] = band
        return cls(node_features(data, interactions, config), neighbours, weights, hard)

    @classmethod
    def of_state(cls, state: State, vocabulary: Vocabulary) -> Tables:
        """Return the tables of a state. Raises ValueError if they do not fit the vocabulary."""
        features, neighbours, weights = (state[f] for f in ("features", "neighbours", "weights"))
        tables = cls(
            features.astype(np.float64),
            neighbours.astype(np.int64),
            weights.astype(np.float64),
            np.zeros((len(vocabulary), 0), dtype=np.int64),
        )
        shapes = tables.features.shape[:1], tables.neighbours.shape, tables.weights.shape[:1]
        if shapes != ((len(vocabulary),), tables.weights.shape, (len(vocabulary),)) or not (
            np.isfinite(tables.features).all()
            and np.isfinite(tables.weights).all()
            and ((tables.neighbours >= 0) & (tables.neighbours < len(vocabulary))).all()
        ):
            raise ValueError("features and neighbours that do not belong to the vocabulary")
        return tables


def node_features(data: TrainingData, interactions: Interactions, config: TableOptions) -> Floats:
    """Return the features [V, F], centred over all known nodes; 0 for padding and the unknown node."""
    vocabulary = data.vocabulary
    if config.features == "text":
        vectors = text_features(vocabulary, key_texts(data), config.dimensions)
    else:
        vectors = np.eye(len(vocabulary))
    is_service = np.arange(len(vocabulary)) < FIRST_SERVICE + len(vocabulary.services)
    scalars = np.stack([np.log1p(interactions.totals()), is_service], axis=1)
    for part in (vectors, scalars):
        part[:FIRST_SERVICE] = 0
        part[FIRST_SERVICE:] -= part[FIRST_SERVICE:].mean(axis=0)
    rms = np.sqrt(np.square(scalars[FIRST_SERVICE:]).mean(axis=0))
    scaled = SCALAR_FEATURES_RMS * scalars / np.where(rms > 0, rms, 1)
    return np.concatenate([vectors, scaled], axis=1)
