"""EASE: each item as a linear function of all other items (Steck, WWW 2019).

    min_B  |X - X B|^2 + l2 |B|^2   with diag(B) = 0
    P = (X^T X + l2 I)^-1,   B_ij = -P_ij / P_jj for i != j
    s = x B

The rows of X are training examples: the nodes of the context, the mark of its last node (a separate
column, with ``last = true``) and the target; n equal examples count as n rows. x is the row of a
context without a target. The mark of a node implies the node, so its weight to this node is constrained
to 0 for the same reason as the diagonal. Column j is then, with S = {j, its mark},

    B_.j = e_j - P_.S (P_SS)^-1 e_j,   B_Sj = 0

which is the formula above if S = {j}. In the paper, items of x are not recommended again. Here a
service can occur twice, so it remains a candidate; its score depends on the other nodes of the set.

Pairs within a row have no direction: the order of the nodes matters only through the mark. Scores
estimate indicators and are mostly between 0 and 1, so their softmax is nearly uniform; only their order
is meaningful. The weights of a column that does not occur are 0.

In: sets of nodes and their last nodes. Out: scores [B, C].
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from dagrec.models.base import Traits
from dagrec.models.interactions import Interactions, SetOptions
from dagrec.models.linear.base import LinearRecommender, items_of_service
from dagrec.training.data import TrainingData
from dagrec.types import Floats


class EASEConfig(SetOptions):
    """Hyperparameters of EASE."""

    l2: float = Field(50.0, ge=1e-6, description="L2 regularisation of the weights, in examples")


class EASE(LinearRecommender):
    """Item-item weights in closed form.

    Use it as a linear baseline that scores services by their co-occurrence with all nodes of the
    context.
    """

    name = "ease"
    paper = "Steck 2019, arXiv 1905.03375"
    Config = EASEConfig
    traits = Traits()
    config: EASEConfig

    def weights(self, data: TrainingData) -> Floats:
        gram = Interactions.of_examples(data, self.config).gram()
        inverse = np.linalg.inv(gram + self.config.l2 * np.eye(len(gram)))
        weights = np.empty((len(gram), len(data.vocabulary.services)))
        for column in range(weights.shape[1]):
            s = items_of_service(column, data.vocabulary, last=self.config.last)
            weights[:, column] = -inverse[:, s] @ np.linalg.inv(inverse[np.ix_(s, s)])[:, 0]
            weights[s, column] = 0
        return weights
