"""Item-kNN: the services that occur together with what is there (Sarwar et al., WWW 2001).

    sim_ij = n_ij / ( (n_i + shrinkage)^alpha (n_j + shrinkage)^(1 - alpha) )
    s(y) = sum over i in x, with y among the neighbours of i, of sim_iy

n_ij counts the training examples that hold both i and j, n_i those that hold i. An example holds the
nodes of its context, the mark of its last node (an item of its own, ``last = true``) and its target.
Without shrinkage and with alpha = 1/2 it is the cosine of two columns; with alpha = 1 the share of i's
examples that hold j. Shrinkage (the form is that of session-rec, Ludewig and Jannach 2018) keeps items
seen a few times from being certain of anything.

The neighbours of an item are the services most similar to it, never itself, nor a mark's node. Those
that tie for the last places share them, so that names do not decide. Pairs have no direction: all that
the order can change is which node is marked. Scores are sums of similarities below 1: softmax of them
is flat, and their order is what means something.

In: sets of nodes and their last. Out: scores [B, C].
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import FIRST
from dagrec.models.base import Traits
from dagrec.models.counting.neighbours import nearest
from dagrec.models.interactions import Interactions, SetOptions
from dagrec.models.linear.base import LinearRecommender, own_items
from dagrec.training.data import TrainingData
from dagrec.types import Floats


class ItemKNNConfig(SetOptions):
    """Hyperparameters of item-kNN."""

    neighbours: int = Field(100, ge=1, description="services that an item speaks for, the nearest ones")
    shrinkage: float = Field(20.0, ge=0, description="added to the count of each item")
    alpha: float = Field(
        1.0,
        ge=0,
        le=1,
        description="1: relative to the count of the item that is there; 0: to that of the service",
    )


class ItemKNN(LinearRecommender):
    """Similarities of items that occur together."""

    name = "itemknn"
    paper = "Sarwar et al. 2001, Item-based collaborative filtering recommendation algorithms"
    Config = ItemKNNConfig
    traits = Traits()
    config: ItemKNNConfig

    def weights(self, data: TrainingData) -> Floats:
        together = Interactions.of_examples(data, self.config).gram()
        services = slice(FIRST, FIRST + len(data.vocabulary.services))
        counts, together = np.diag(together) + self.config.shrinkage, together[:, services]
        scale = np.outer(counts**self.config.alpha, counts[services] ** (1 - self.config.alpha))
        # What never occurs is never together with anything: 0 of 0 is 0.
        similar = np.divide(together, scale, out=np.zeros_like(together), where=together > 0)
        for column in range(similar.shape[1]):
            similar[own_items(column, data.vocabulary, last=self.config.last), column] = 0
        rows, columns, shares = nearest(similar, self.config.neighbours)
        found = np.zeros_like(similar)
        found[rows, columns] = similar[rows, columns] * shares
        return found
