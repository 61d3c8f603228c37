"""STAN"""

from __future__ import annotations
import numpy as np
from pydantic import Field
from dagrec.models.base import Traits
from dagrec.models.counting.neighbours import NeighbourOptions, NeighbourRecommender
from dagrec.types import Floats, Ids


class STANConfig(NeighbourOptions):
    """x"""

    l1: float = 1.02
    l3: float = 2.05
    norm: float = 0.5
    spow: float = 0.0


class STAN(NeighbourRecommender):
    name = "stan"
    paper = "Garg et al. 2019"
    Config = STANConfig
    traits = Traits(order_aware=True)
    config: STANConfig

    def weights(self, steps, lengths):
        return np.exp(-(steps - 1) / self.config.l1)

    def similarities(self, shared, sums, squares, sizes):
        return shared / (np.sqrt(squares[:, None]) * sizes**self.config.norm)

    def decay(self, steps, distances):
        return np.exp(-(distances - 1) / self.config.l3) / steps**self.config.spow
