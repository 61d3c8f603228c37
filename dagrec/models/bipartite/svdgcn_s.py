"""SVD-GCN-S: the limit of graph convolutions in closed form, without training (Peng et al., CIKM 2022).

    s(y) = < p_x exp(beta s), V_y exp(beta s) >,   p_x = r~_x V S^-1

R~ = U S V^T is the normalised matrix whose rows are the training examples: the nodes of a context and
its target. The features of a row are its left singular vectors, weighted by exp(beta s) as by a large
number of layers, so that large singular values (smooth directions) weigh most. With beta = 0 the scores
are those of U V^T; weights sqrt(s) instead of exp(beta s) would reconstruct R~.

In the paper the users are rows of the matrix, and their features are rows of U. A context at serving
time is not a row: it is folded in, in the same way as each row of U follows from its row of R~.

A set has no order. With ``last`` each node has a second column, which marks it as the last node, in the
rows of the matrix and in contexts alike.

``dagrec.models.bipartite.spectrum`` defines the normalised matrix, its singular values and the fold-in.
In: multi-hot sets [B, V] or [B, 2 V]. Out: scores [B, C].
"""

from __future__ import annotations

import numpy as np

from dagrec.data.vocabulary import FIRST_SERVICE, Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State, Traits
from dagrec.models.bipartite.spectrum import Features, SpectrumOptions
from dagrec.models.interactions import Interactions, Sets
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Scores


class SVDGCNSConfig(SpectrumOptions):
    """SVD-GCN-S has only the hyperparameters of the spectrum."""


class SVDGCNS(Recommender):
    """Products of weighted singular vectors of the interaction matrix.

    Use it as a graph baseline without torch and without training.
    """

    name = "svdgcn_s"
    paper = "Peng et al. 2022, arXiv 2208.12689"
    Config = SVDGCNSConfig
    traits = Traits(graph_aware=True)
    config: SVDGCNSConfig

    _features: Features | None = None
    _vocabulary: Vocabulary | None = None

    def _fit(self, data: TrainingData) -> None:
        rows = Interactions.of_examples(data, self.config)
        self._features = Features.of(rows, self.config, len(data.vocabulary.services))
        self._vocabulary = data.vocabulary

    def _score(self, contexts: Contexts) -> Scores:
        features, vocabulary = self._fitted(self._features), self._fitted(self._vocabulary)
        sets = Sets.of(contexts, vocabulary, self.config.read)
        rows = sets.multi_hot(vocabulary, last=self.config.last)
        sizes = rows.sum(axis=1, keepdims=True)
        context_features = rows @ features.nodes / np.sqrt(sizes + self.config.alpha)
        scores: Scores = (context_features @ features.services.T).astype(np.float32)
        return scores

    def _embeddings(self) -> dict[str, Floats]:
        features, vocabulary = self._fitted(self._features), self._fitted(self._vocabulary)
        nodes = features.nodes[FIRST_SERVICE : len(vocabulary)]
        return {"nodes": nodes, "services": features.services}

    def _state(self) -> State:
        features = self._fitted(self._features)
        return {"nodes": features.nodes, "services": features.services}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        features = Features(state["nodes"].astype(np.float64), state["services"].astype(np.float64))
        size = len(vocabulary) * (1 + self.config.last)
        if not features.has_shape(size, len(vocabulary.services)):
            raise ValueError("features that do not belong to the vocabulary")
        self._features, self._vocabulary = features, vocabulary
