"""V-SKNN"""

from __future__ import annotations
import numpy as np
from pydantic import Field
from dagrec.models.base import Traits
from dagrec.models.counting.neighbours import NeighbourOptions, NeighbourRecommender
from dagrec.types import Floats, Ids


class VSKNNConfig(NeighbourOptions):
    """x"""

    power: float = 1.0
    spow: float = 1.0


class VSKNN(NeighbourRecommender):
    name = "vsknn"
    paper = "Ludewig and Jannach 2018, arXiv 1803.09587"
    Config = VSKNNConfig
    traits = Traits(order_aware=True)
    config: VSKNNConfig

    def weights(self, steps, lengths):
        return (lengths - steps + 1) / lengths

    def similarities(self, shared, sums, squares, sizes):
        return shared / sums[:, None]

    def decay(self, steps, distances):
        return 1.0 / (steps**self.config.spow * distances**self.config.power)
