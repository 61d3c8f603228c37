"""Out-of-fold predictions: training examples scored by recommenders that did not see their composition.

A recommender that had seen the examples would look better than it is, and what is learned on top of it
would trust it too much (stacking; Wolpert 1992).
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
    """Examples of one part of the compositions, and the training data without that part.

    contexts: of the n examples; targets: [n] service columns.
    """

    rest: TrainingData
    examples: tuple[Example, ...]
    contexts: Contexts
    targets: Ids

    def take(self, rows: Ids) -> Fold:
        """The fold with these of its examples only."""
        examples = tuple(self.examples[int(row)] for row in rows)
        return Fold(self.rest, examples, self.contexts.take(rows), self.targets[rows])

    def scores(self, recommender: Recommender) -> Floats:
        """[n, C] of an unfitted recommender, which is fitted to the rest."""
        return recommender.fit(self.rest).score(self.contexts).astype(np.float64)


def out_of_fold(
    data: TrainingData,
    count: int,
    seed: int,
    *,
    keep: Callable[[TrainingData], Callable[[Example], bool]] | None = None,
) -> Iterator[Fold]:
    """The folds of training data, at most one per composition; none of fewer than two compositions.

    ``keep`` makes from the rest a predicate of the examples to keep; folds without any are left out.
    """
    compositions = len({example.composition for example in data.examples})
    if compositions < 2:
        return
    for rest, part in data.folds(min(count, compositions), seed):
        wanted = None if keep is None else keep(rest)
        kept = [i for i, e in enumerate(part.examples) if wanted is None or wanted(e)]
        if kept:
            examples = tuple(part.examples[i] for i in kept)
            contexts = data.vocabulary.encode([example.context for example in examples])
            yield Fold(rest, examples, contexts, part.targets[kept])
