"""The base class of recommenders that read a context as a sequence of nodes."""

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
    """Which sequence of nodes represents a context, and how it is augmented in training."""

    read: Literal["path", "upstream"] = Field(
        "path",
        description="nodes to read; path: the path to the frontier; upstream: the frontier and all its "
        "ancestors, in topological order",
    )
    augmentation: Augmentation = Field(
        Augmentation(), description="random changes of the training contexts, drawn anew in every epoch"
    )

    @model_validator(mode="after")
    def _reorder_needs_upstream(self) -> Self:
        if self.augmentation.reorder and self.read == "path":
            raise ValueError("augmentation.reorder needs read='upstream': a path has one order only")
        return self


class SequenceRecommender(NetworkRecommender):
    """A network recommender whose input is a sequence of nodes."""

    config: SequenceOptions

    def key(self, context: Context) -> Hashable:
        return _upstream_keys(context) if self.config.read == "upstream" else context.path

    def read(self, contexts: Contexts, vocabulary: Vocabulary) -> Contexts:
        if self.config.read == "path":
            return contexts
        sequences = vocabulary.encode(
            [Context(_upstream_keys(context)) for context in contexts.origins]
        )
        return Contexts(sequences.nodes, sequences.lengths, contexts.origins)

    @property
    def augmentation(self) -> Augmentation | None:
        return self.config.augmentation if self.config.augmentation.active else None


def _upstream_keys(context: Context) -> tuple[str, ...]:
    """The keys of the frontier and its ancestors; those of the path if the composition is not given."""
    if context.composition is None or context.at is None:
        return context.path
    return tuple(context.composition.by_id[id_].key for id_ in context.upstream())
