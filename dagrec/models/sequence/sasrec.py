"""SASRec: causal self-attention over the path (Kang and McAuley, ICDM 2018, arXiv 1808.09781).

    x_t = drop(sqrt(D) E[v_t] (+ P_t)),  h = LN(Blocks(x)),  s(y) = E_y . h_L + b_y

Implementations of SASRec use three different blocks: the paper adds attention to its normed query,
later code is post-norm or pre-norm. This one is pre-norm (``dagrec.models.sequence.attention``), with
the paper's ReLU feed-forward network of the same width. The paper pads on the left and lets nodes
attend to padding, so a state depends on the width of its row. Here rows are padded on the right, where
the causal mask excludes padding; the state of a context is the same alone and as the prefix of a longer
path.

The default loss is the full softmax at every node that is followed by a service. The loss of the paper,
binary cross-entropy with one negative, is ``loss = "bce"``, ``negatives = 1``. The options of gSASRec
are ``loss = "gbce"``, ``tied = false``; it needs more services than negatives (256 draws among 15
services ranked below chance on the geoportal data). With the full softmax SASRec outperforms BERT4Rec
in the comparison of Klenitskiy and Vasilev (2023, arXiv 2309.07602).

In: padded paths. Out: scores [R, C].
"""

from __future__ import annotations

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.models.base import Traits
from dagrec.models.sequence.attention import AttentionRecommender, CausalTransformer, TransformerOptions
from dagrec.models.sequence.paths import PathRows
from dagrec.training.data import TrainingData


class SASRecConfig(TransformerOptions):
    """Hyperparameters of the network and of training, with the defaults of the transformer blocks."""


class SASRec(AttentionRecommender):
    """Causal self-attention over the path.

    Use it where services far back on the path matter, and where its attention weights are of interest.
    """

    name = "sasrec"
    paper = "Kang and McAuley 2018, arXiv 1808.09781"
    Config = SASRecConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: SASRecConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> CausalTransformer:
        return CausalTransformer(self.config, len(vocabulary), len(vocabulary.services))

    def units(self, contexts: Contexts, *, training: bool) -> PathRows:
        return PathRows.of(contexts, shared=training)
