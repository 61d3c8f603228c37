"""A gradient-boosted ranker over what the owner did before, and a base.

    P(y | c, H) = softmax_y F(x_y),    F = sum of trees

x_y describes the candidate y: its shares in the caches of the owner's calls, decayed and not, how many
calls and seconds ago it was last called (here, or anywhere), its log-probability by the base; and what
is the same for all candidates: how much each cache keeps, and how long the last pauses were. Nothing in
it names a service, a node or an owner: the trees learn how histories go on. What is told of an owner
changes the features and not the trees, so new calls count at once; a new fit takes about a second on a
thousand examples, and starts from nothing.

All candidates of an example compete in one softmax (the conditional logit of McFadden 1974), whose
gradient is p - [y is the target]; 2 p (1 - p) bounds its curvature, the rest of the Hessian included.
Pairwise objectives (LambdaMART; Burges 2010) ranked no better in our measurements, and leave scores
that are not log-probabilities. The trees are LightGBM's (Ke et al. 2017), grown from all rows and
features on one thread: nothing is drawn at random.

Of a large catalogue, the services of the history, the newest first, and the base's likeliest after them
are ranked, ``candidates`` in all; they divide among themselves what the base leaves to them, and all
others keep the base's probability. Training leaves out examples whose target would not be ranked.

In: contexts with histories. Out: log P [B, C]; without a history, the scores of the base.
"""

from __future__ import annotations

import zlib
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dagrec.errors import ConfigError, missing_package
from dagrec.metrics.temperature import MIN_PROBABILITY, log_softmax
from dagrec.models.base import State
from dagrec.models.hybrid.events import Past
from dagrec.models.hybrid.over_base import OverBase, OverBaseOptions, Question
from dagrec.types import Floats, Ids

if TYPE_CHECKING:
    from lightgbm import Booster, Dataset

Features = NDArray[np.float32]
FIXED = {
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "feature_pre_filter": False,
    "verbosity": -1,
}
"""Settings of LightGBM that make one training data set give one model, and no output."""


class RankerConfig(OverBaseOptions):
    """Hyperparameters of the ranker."""

    rounds: int = Field(50, ge=1, le=10_000, description="trees")
    learning_rate: float = Field(0.08, gt=0, le=1, description="share of each tree that is added")
    leaves: int = Field(7, ge=2, le=1024, description="leaves of a tree, at most")
    min_rows: int = Field(20, ge=1, description="rows (candidates of examples) in a leaf, at least")
    candidates: int = Field(100, ge=2, description="services that are ranked for a question, at most")


class Ranker(OverBase):
    """Trees that have seen how histories go on."""

    name = "ranker"
    paper = "Ke et al. 2017, LightGBM; McFadden 1974, Conditional logit analysis"
    Config = RankerConfig
    config: RankerConfig

    _trees: Booster

    def missing(self) -> str | None:
        try:
            load_lightgbm()
        except ConfigError as error:
            return str(error)
        return None

    def _learn(self, questions: list[Question]) -> State:
        lightgbm = load_lightgbm()
        rows, places = [], []
        for past, base, target in questions:
            columns = candidates(past, base, self.config.candidates)
            place = np.flatnonzero(columns == target)
            if len(place):
                rows.append(describe(past, base, columns))
                places.append(int(place[0]))
        if not rows:
            return {}
        wanted = np.zeros((len(rows), len(rows[0])))
        wanted[np.arange(len(rows)), places] = 1

        def gradient(scores: Floats, _data: Dataset) -> tuple[Floats, Floats]:
            p = np.exp(log_softmax(scores.reshape(wanted.shape)))
            return (p - wanted).ravel(), np.maximum(2 * p * (1 - p), MIN_PROBABILITY).ravel()

        options = FIXED | {
            "objective": gradient,
            "learning_rate": self.config.learning_rate,
            "num_leaves": self.config.leaves,
            "min_data_in_leaf": self.config.min_rows,
            "seed": self.seed,
        }
        data = lightgbm.Dataset(np.concatenate(rows), label=wanted.ravel(), params=FIXED)
        text = lightgbm.train(options, data, self.config.rounds).model_to_string().encode()
        return {
            "trees": np.frombuffer(text, dtype=np.uint8),
            "trees_crc32": np.array([zlib.crc32(text)]),
        }

    def _take(self, learned: State, services: int) -> None:
        lightgbm = load_lightgbm()
        text, sums = learned["trees"].tobytes(), learned["trees_crc32"]
        # LightGBM reads a damaged text without complaint, or ends the process.
        if sums.shape != (1,) or zlib.crc32(text) != sums[0]:
            raise ValueError("trees whose checksum differs")
        try:
            self._trees = lightgbm.Booster(model_str=text.decode())
        except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
            raise ValueError(f"trees that LightGBM does not read: {error}") from error

    def _correct(self, pasts: list[Past], base: Floats) -> Floats:
        columns = np.stack(
            [
                candidates(past, own, self.config.candidates)
                for past, own in zip(pasts, base, strict=True)
            ]
        )
        rows = [describe(*each) for each in zip(pasts, base, columns, strict=True)]
        values = self._trees.predict(np.concatenate(rows), raw_score=True, num_threads=1)
        scores = np.asarray(values, dtype=np.float64).reshape(columns.shape)
        if columns.shape == base.shape:
            share = np.zeros((len(base), 1))
        else:
            ranked = np.take_along_axis(np.exp(base), columns, axis=1).sum(axis=1, keepdims=True)
            share = np.log(np.maximum(ranked, MIN_PROBABILITY))
        found = np.maximum(base, np.log(MIN_PROBABILITY))
        np.put_along_axis(found, columns, log_softmax(scores) + share, axis=1)
        return found


def candidates(past: Past, base: Floats, most: int) -> Ids:
    """[min(C, most)] columns to rank, ascending: the newest of the history, the base's likeliest."""
    if len(base) <= most:
        return np.arange(len(base))
    newest = past.recency(len(base))[0]
    order = np.lexsort((-base, np.where(np.isnan(newest), np.inf, newest)))
    return np.sort(order[:most])


def describe(past: Past, base: Floats, columns: Ids) -> Features:
    """[K, F] what the trees read of these candidates."""
    count = len(base)
    shares = past.shares(count).reshape(-1, count)
    of_each = np.concatenate([shares, past.recency(count), base[None]])[:, columns].T
    of_all = np.tile(past.summary(), (len(columns), 1))
    return np.concatenate([of_each, of_all], axis=1).astype(np.float32)


def load_lightgbm() -> ModuleType:
    """The package, imported when it is needed. Raises :class:`ConfigError` where it cannot be."""
    try:
        import lightgbm
    except ModuleNotFoundError as error:
        raise missing_package("recommender 'ranker'", error, "train") from error
    except OSError as error:
        raise ConfigError(
            f"recommender 'ranker' needs LightGBM's library, found that it does not load: {error}; "
            "install libgomp (apt-get install libgomp1)"
        ) from error
    return lightgbm
