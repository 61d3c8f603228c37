"""What all recommenders share that read a context as a sequence of nodes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal, Self

from pydantic import Field, model_validator

from dagrec.data.examples import Context
from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.models.network import NetworkRecommender
from dagrec.training.augmentation import Augmentation
from dagrec.training.options import TrainingOptions


class SequenceOptions(TrainingOptions):
    """Which sequence a context is, and how it is varied in training."""

    read: Literal["path", "upstream"] = Field(
        "path",
        description="path: the path to the frontier; upstream: all its ancestors, in topological order",
    )
    augmentation: Augmentation = Field(
        Augmentation(), description="how contexts are varied in training, anew in every epoch"
    )

    @model_validator(mode="after")
    def _reorders_what_it_reads(self) -> Self:
        if self.augmentation.reorder and self.read == "path":
            raise ValueError("augmentation.reorder needs read='upstream': a path has one order only")
        return self


class SequenceRecommender(NetworkRecommender):
    """A network recommender that reads sequences."""

    config: SequenceOptions

    def key(self, context: Context) -> Hashable:
        return _keys(context) if self.config.read == "upstream" else context.path

    def read(self, contexts: Contexts, vocabulary: Vocabulary) -> Contexts:
        if self.config.read == "path":
            return contexts
        sequences = vocabulary.encode([Context(_keys(context)) for context in contexts.origins])
        return Contexts(sequences.nodes, sequences.lengths, contexts.origins)

    @property
    def augmentation(self) -> Augmentation | None:
        return self.config.augmentation if self.config.augmentation.active else None


def _keys(context: Context) -> tuple[str, ...]:
    """Keys of the ancestors of the frontier and of itself; the path where no composition tells them."""
    if context.composition is None or context.at is None:
        return context.path
    return tuple(context.composition.by_id[id_].key for id_ in context.upstream())
