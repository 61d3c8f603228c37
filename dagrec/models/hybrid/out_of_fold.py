"""Out-of-fold predictions: training examples scored by recommenders fitted without their composition.

Predictions for a recommender's own training examples are too good; a model that is learned on top of
them would trust the recommender too much (stacking; Wolpert 1992).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dagrec.data.examples import Example
from dagrec.data.vocabulary import Contexts
from dagrec.models.base import Recommender
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids


@dataclass(frozen=True)
class Fold:
    """The n examples of one part of the compositions, and the training data without that part.

    contexts: encoded contexts of the examples; targets: [n] service columns.
    """

    rest: TrainingData
    examples: tuple[Example, ...]
    contexts: Contexts
    targets: Ids

    def take(self, rows: Ids) -> Fold:
        """Return the fold with only these examples."""
        examples = tuple(self.examples[int(row)] for row in rows)
        return Fold(self.rest, examples, self.contexts.take(rows), self.targets[rows])

    def scores(self, recommender: Recommender) -> Floats:
        """Fit an unfitted recommender on the rest and return its scores [n, C] of the examples."""
        return recommender.fit(self.rest).score(self.contexts).astype(np.float64)


def out_of_fold(
    data: TrainingData,
    count: int,
    seed: int,
    *,
    keep: Callable[[TrainingData], Callable[[Example], bool]] | None = None,
) -> Iterator[Fold]:
    """Yield the folds of training data: at most one per composition, none for a single composition.

    ``keep`` maps the rest to a predicate of the examples to keep; folds without such examples are
    omitted.
    """
    compositions = len({example.composition for example in data.examples})
    if compositions < 2:
        return
    for rest, part in data.folds(min(count, compositions), seed):
        is_kept = None if keep is None else keep(rest)
        rows = [i for i, e in enumerate(part.examples) if is_kept is None or is_kept(e)]
        if rows:
            examples = tuple(part.examples[i] for i in rows)
            contexts = data.vocabulary.encode([example.context for example in examples])
            yield Fold(rest, examples, contexts, part.targets[rows])
