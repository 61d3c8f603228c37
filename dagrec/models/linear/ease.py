"""EASE: each item as a linear function of all the others (Steck, WWW 2019).

    min_B  |X - X B|^2 + l2 |B|^2   with diag(B) = 0
    P = (X^T X + l2 I)^-1,   B_ij = -P_ij / P_jj for i != j
    s = x B

Rows of X are training examples, each with the nodes of its context, the mark of its last node (a column
of its own, ``last = true``) and its target; n equal examples count as n rows. x is that of a context,
without a target. The mark of a node says that the node is there, so that no weight leads from it to
that node either, for the reason that the diagonal is 0; column j is then, with S = {j, its mark},

    B_.j = e_j - P_.S (P_SS)^-1 e_j,   B_Sj = 0

which is the formula above where S = {j}. In the paper, what x holds already is no answer. Here a
service can come twice, and stays one: its score is what the other nodes of the set say of it.

Pairs within a row have no direction: all that the order can change is which node is marked. Scores are
of the size of a share, mostly between 0 and 1, so that softmax of them is nearly uniform: their order
is what means something. A column that never occurs has no weights.

In: sets of nodes and their last. Out: scores [B, C].
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from dagrec.models.base import Traits
from dagrec.models.interactions import Interactions, SetOptions
from dagrec.models.linear.base import LinearRecommender, own_items
from dagrec.training.data import TrainingData
from dagrec.types import Floats


class EASEConfig(SetOptions):
    """Hyperparameters of EASE."""

    l2: float = Field(50.0, ge=1e-6, description="weight of the squared weights, in examples")


class EASE(LinearRecommender):
    """Weights between items, in closed form."""

    name = "ease"
    paper = "Steck 2019, arXiv 1905.03375"
    Config = EASEConfig
    traits = Traits()
    config: EASEConfig

    def weights(self, data: TrainingData) -> Floats:
        gram = Interactions.of_examples(data, self.config).gram()
        inverse = np.linalg.inv(gram + self.config.l2 * np.eye(len(gram)))
        found = np.empty((len(gram), len(data.vocabulary.services)))
        for column in range(found.shape[1]):
            own = own_items(column, data.vocabulary, last=self.config.last)
            found[:, column] = -inverse[:, own] @ np.linalg.inv(inverse[np.ix_(own, own)])[:, 0]
            found[own, column] = 0
        return found
