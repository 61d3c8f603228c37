"""Ranker: gradient-boosted trees over the owner's history and the predictions of a base recommender.

    P(y | c, H) = softmax_y F(x_y),    F = sum of trees

x_y are the features of candidate y: its shares in the caches of the owner's calls with and without
decay, the number of calls and seconds since its last call (after the same path, or anywhere), its
log-probability by the base; and features that all candidates of an example share: the size of each
cache and the time between the last calls. No feature identifies a service, a node or an owner, so the
trees learn how histories continue in general. New calls change the features and not the trees, so they
take effect immediately. A fit takes about a second for a thousand examples.

All candidates of an example compete in one softmax (the conditional logit of McFadden 1974), whose
gradient is p - [y is the target]; 2 p (1 - p) is an upper bound of its curvature that includes the
off-diagonal terms of the Hessian. Pairwise objectives (LambdaMART; Burges 2010) ranked no better in our
measurements, and their scores are not log-probabilities. The trees are grown by LightGBM (Ke et al.
2017) from all rows and features on one thread, without randomness.

If there are many services, ``candidates`` of them are ranked: those of the history, newest first, then
the most probable ones by the base. They share the total probability that the base gives them, and all
other services keep the probability by the base. Training skips examples whose target is not a
candidate.

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
from dagrec.models.hybrid.events import OwnerHistory
from dagrec.models.hybrid.history_corrector import (
    HistoryCorrector,
    HistoryCorrectorOptions,
    HistoryExample,
)
from dagrec.types import Floats, Ids

if TYPE_CHECKING:
    from lightgbm import Booster, Dataset

Features = NDArray[np.float32]
FIXED_OPTIONS = {
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "feature_pre_filter": False,
    "verbosity": -1,
}
"""Options of LightGBM that make training deterministic and silent."""


class RankerConfig(HistoryCorrectorOptions):
    """Hyperparameters of the ranker."""

    rounds: int = Field(50, ge=1, le=10_000, description="number of trees")
    learning_rate: float = Field(0.08, gt=0, le=1, description="shrinkage of the output of each tree")
    leaves: int = Field(7, ge=2, le=1024, description="maximum number of leaves per tree")
    min_rows: int = Field(
        20, ge=1, description="minimum number of rows (candidates of examples) per leaf"
    )
    candidates: int = Field(
        100, ge=2, description="maximum number of services that are ranked for a context"
    )


class Ranker(HistoryCorrector):
    """Gradient-boosted trees that rerank the services of a base recommender by the owner's history.

    Use it if requests have an owner's history and there are enough training examples with histories. It
    needs the package LightGBM.
    """

    name = "ranker"
    paper = "Ke et al. 2017, LightGBM; McFadden 1974, Conditional logit analysis"
    Config = RankerConfig
    config: RankerConfig

    _trees: Booster

    def unavailable(self) -> str | None:
        try:
            load_lightgbm()
        except ConfigError as error:
            return str(error)
        return None

    def _learn(self, examples: list[HistoryExample]) -> State:
        lightgbm = load_lightgbm()
        rows, target_indices = [], []
        for history, base, target in examples:
            columns = select_candidates(history, base, self.config.candidates)
            index = np.flatnonzero(columns == target)
            if len(index):
                rows.append(candidate_features(history, base, columns))
                target_indices.append(int(index[0]))
        if not rows:
            return {}
        labels = np.zeros((len(rows), len(rows[0])))
        labels[np.arange(len(rows)), target_indices] = 1

        def gradient(scores: Floats, _data: Dataset) -> tuple[Floats, Floats]:
            p = np.exp(log_softmax(scores.reshape(labels.shape)))
            return (p - labels).ravel(), np.maximum(2 * p * (1 - p), MIN_PROBABILITY).ravel()

        options = FIXED_OPTIONS | {
            "objective": gradient,
            "learning_rate": self.config.learning_rate,
            "num_leaves": self.config.leaves,
            "min_data_in_leaf": self.config.min_rows,
            "seed": self.seed,
        }
        data = lightgbm.Dataset(np.concatenate(rows), label=labels.ravel(), params=FIXED_OPTIONS)
        text = lightgbm.train(options, data, self.config.rounds).model_to_string().encode()
        return {
            "trees": np.frombuffer(text, dtype=np.uint8),
            "trees_crc32": np.array([zlib.crc32(text)]),
        }

    def _load(self, learned: State, services: int) -> None:
        lightgbm = load_lightgbm()
        text, checksum = learned["trees"].tobytes(), learned["trees_crc32"]
        # LightGBM reads corrupted text without an error, or ends the process.
        if checksum.shape != (1,) or zlib.crc32(text) != checksum[0]:
            raise ValueError("trees with another checksum")
        try:
            self._trees = lightgbm.Booster(model_str=text.decode())
        except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
            raise ValueError(f"trees that LightGBM cannot read: {error}") from error

    def _correct(self, histories: list[OwnerHistory], base: Floats) -> Floats:
        columns = np.stack(
            [
                select_candidates(history, base_log_p, self.config.candidates)
                for history, base_log_p in zip(histories, base, strict=True)
            ]
        )
        rows = [candidate_features(*args) for args in zip(histories, base, columns, strict=True)]
        values = self._trees.predict(np.concatenate(rows), raw_score=True, num_threads=1)
        scores = np.asarray(values, dtype=np.float64).reshape(columns.shape)
        if columns.shape == base.shape:
            log_total = np.zeros((len(base), 1))
        else:
            total = np.take_along_axis(np.exp(base), columns, axis=1).sum(axis=1, keepdims=True)
            log_total = np.log(np.maximum(total, MIN_PROBABILITY))
        log_p = np.maximum(base, np.log(MIN_PROBABILITY))
        np.put_along_axis(log_p, columns, log_softmax(scores) + log_total, axis=1)
        return log_p


def select_candidates(history: OwnerHistory, base: Floats, max_candidates: int) -> Ids:
    """Return the columns [min(C, max_candidates)] of the services to rank, ascending.

    These are the services of the history, newest first, then the most probable ones by the base.
    """
    if len(base) <= max_candidates:
        return np.arange(len(base))
    ages = history.recency(len(base))[0]
    order = np.lexsort((-base, np.where(np.isnan(ages), np.inf, ages)))
    return np.sort(order[:max_candidates])


def candidate_features(history: OwnerHistory, base: Floats, columns: Ids) -> Features:
    """Return the features [K, F] of the candidates ``columns`` [K]."""
    count = len(base)
    shares = history.shares(count).reshape(-1, count)
    by_candidate = np.concatenate([shares, history.recency(count), base[None]])[:, columns].T
    common = np.tile(history.summary(), (len(columns), 1))
    return np.concatenate([by_candidate, common], axis=1).astype(np.float32)


def load_lightgbm() -> ModuleType:
    """Import and return LightGBM. Raises :class:`ConfigError` if it cannot be imported."""
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
