"""x"""

from __future__ import annotations

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.models.base import Traits
from dagrec.models.sequence.attention import CausalTransformer, TransformerOptions
from dagrec.models.sequence.base import SequenceRecommender
from dagrec.models.sequence.paths import PathRows
from dagrec.models.training_data import TrainingData


class SASRecConfig(TransformerOptions):
    """x"""


class SASRec(SequenceRecommender):
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
