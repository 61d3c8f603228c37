"""SASRec: causal self-attention over the path (Kang and McAuley, ICDM 2018, arXiv 1808.09781).

    x_t = drop(sqrt(D) E[v_t] (+ P_t)),  h = LN(Blocks(x)),  s(y) = E_y . h_L + b_y

Three different blocks go by this name: that of the paper adds attention to its normed query, later code
is post-norm, or pre-norm. This one is pre-norm (``dagrec.models.sequence.attention``), with the paper's
ReLU net of the same width. The paper pads on the left and leaves padding visible to attention, so that
a state depends on how wide a row is; here rows are padded on the right, where causality hides the
padding, and a context has one state, alone or as the beginning of a longer path.

The default loss is the full softmax at every node that a service follows. That of the paper, binary
cross-entropy with one negative, is ``loss = "bce"``, ``negatives = 1``; gSASRec is ``loss = "gbce"``,
``tied = false``, for catalogues larger than the number of negatives (256 draws among 15 services ranked
below chance on the geoportal). With the full softmax SASRec is ahead of BERT4Rec in the comparison of
Klenitskiy and Vasilev (2023, arXiv 2309.07602).

In: padded paths. Out: scores [R, C].
"""

from __future__ import annotations

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.models.base import Traits
from dagrec.models.sequence.attention import AttentionRecommender, CausalTransformer, TransformerOptions
from dagrec.models.sequence.paths import PathRows
from dagrec.training.data import TrainingData


class SASRecConfig(TransformerOptions):
    """The blocks as they are; those of the optimisation come with them."""


class SASRec(AttentionRecommender):
    """Causal self-attention over the path, and a linear score for each service."""

    name = "sasrec"
    paper = "Kang and McAuley 2018, arXiv 1808.09781"
    Config = SASRecConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: SASRecConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> CausalTransformer:
        return CausalTransformer(self.config, len(vocabulary), len(vocabulary.services))

    def units(self, contexts: Contexts, *, training: bool) -> PathRows:
        return PathRows.of(contexts, shared=training)
