"""Item-kNN: services that co-occur with the nodes of the context (Sarwar et al., WWW 2001).

    sim_ij = n_ij / ( (n_i + shrinkage)^alpha (n_j + shrinkage)^(1 - alpha) )
    s(y) = sum over i in x, with y among the neighbours of i, of sim_iy

n_ij is the number of training examples that contain both i and j, n_i the number that contain i. An
example contains the nodes of its context, the mark of its last node (a separate item, with ``last =
true``) and its target. Without shrinkage, alpha = 1/2 gives the cosine of two columns, and alpha = 1
the share of the examples with i that contain j. Shrinkage (in the form of session-rec, Ludewig and
Jannach 2018) reduces the similarities of rare items.

The neighbours of an item are the services most similar to it, except for itself or, for a mark, its own
node. Services that tie for the last places share these places, so that names do not matter. Pairs have
no direction: the order of the nodes matters only through the mark. Scores are sums of similarities
below 1, so their softmax is flat; only their order is meaningful.

In: sets of nodes and their last nodes. Out: scores [B, C].
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.base import Traits
from dagrec.models.counting.neighbours import nearest
from dagrec.models.interactions import Interactions, SetOptions
from dagrec.models.linear.base import LinearRecommender, items_of_service
from dagrec.training.data import TrainingData
from dagrec.types import Floats


class ItemKNNConfig(SetOptions):
    """Hyperparameters of item-kNN."""

    neighbours: int = Field(
        100, ge=1, description="number of services with nonzero similarity to an item, the nearest"
    )
    shrinkage: float = Field(20.0, ge=0, description="added to the count of each item")
    alpha: float = Field(
        1.0,
        ge=0,
        le=1,
        description="normalisation; 1: by the count of the context's item; 0: by that of the service",
    )


class ItemKNN(LinearRecommender):
    """Similarities of items by their co-occurrence.

    Use it as a simple baseline whose scores are easy to trace back to counts.
    """

    name = "itemknn"
    paper = "Sarwar et al. 2001, Item-based collaborative filtering recommendation algorithms"
    Config = ItemKNNConfig
    traits = Traits()
    config: ItemKNNConfig

    def weights(self, data: TrainingData) -> Floats:
        gram = Interactions.of_examples(data, self.config).gram()
        services = slice(FIRST_SERVICE, FIRST_SERVICE + len(data.vocabulary.services))
        counts, pair_counts = np.diag(gram) + self.config.shrinkage, gram[:, services]
        scale = np.outer(counts**self.config.alpha, counts[services] ** (1 - self.config.alpha))
        # For items that do not occur, count and scale can both be 0; their similarity is 0.
        similarities = np.divide(
            pair_counts, scale, out=np.zeros_like(pair_counts), where=pair_counts > 0
        )
        for column in range(similarities.shape[1]):
            items = items_of_service(column, data.vocabulary, last=self.config.last)
            similarities[items, column] = 0
        rows, columns, shares = nearest(similarities, self.config.neighbours)
        weights = np.zeros_like(similarities)
        weights[rows, columns] = similarities[rows, columns] * shares
        return weights
