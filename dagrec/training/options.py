"""The hyperparameters of gradient descent, which all networks share.

A *pair* is a distinct (context, target) with the number of examples that have it. A *unit* is what a
network computes in one pass: a path with all its prefixes, a DAG with all its frontiers, or a context.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dagrec.types import Options

LossName = Literal[
    "ce", "bce", "gbce", "bpr", "bpr-max", "top1", "top1-max", "hinge", "infonce", "sampled-softmax"
]
ScheduleName = Literal["constant", "warmup-cosine"]
MAX_NEGATIVES = 2048
LOWER_IS_BETTER = ("loss", "nll")
"""Validation metrics for which lower values are better."""


class LossOptions(Options):
    """The loss and its parameters."""

    loss: LossName = Field("ce", description="training loss; ce is the cross-entropy over all services")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="ce: share of the target spread over the competing services"
    )
    margin: float = Field(1.0, gt=0, description="hinge: margin between target and negatives")
    mask_training: bool = Field(
        False, description="restrict the training loss to observed successors of the frontier"
    )


class SamplingOptions(Options):
    """Sampling of negatives, for losses other than ce."""

    negatives: int | None = Field(
        512,
        ge=0,
        le=MAX_NEGATIVES,
        description="number of negatives drawn per target, for losses other than ce; null: all other "
        "services; 0: only the other targets of the batch",
    )
    sampling: Literal["rows", "shared", "batch"] = Field(
        "rows",
        description="rows: negatives are drawn for each pair; shared: one draw is used for the whole "
        "batch; batch: one shared draw and the other targets of the batch",
    )
    sample_alpha: float = Field(
        0.75,
        ge=0,
        le=1,
        description="negatives are drawn in proportion to popularity to this power; 0: uniformly",
    )


class OptimiserOptions(Options):
    """The optimiser and the learning rate schedule."""

    batch_size: int = Field(64, ge=1, description="number of units per step: paths, DAGs or contexts")
    optimiser: Literal["adam", "adamw"] = Field("adam", description="adam or adamw")
    learning_rate: float = Field(1e-3, gt=0, le=3e37, description="largest learning rate")
    weight_decay: float = Field(
        0.0, ge=0, description="adam: added to the gradient; adamw: decoupled from it"
    )
    schedule: ScheduleName = Field(
        "constant",
        description="constant, or warmup-cosine: linear warmup, then cosine decay to 1 % of "
        "learning_rate",
    )
    warmup_epochs: int = Field(5, ge=1, description="warmup-cosine: number of warmup epochs")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm; larger ones are clipped")


class StoppingOptions(Options):
    """The number of epochs, and early stopping."""

    epochs: int = Field(150, ge=1, description="largest number of passes over the training units")
    min_steps: int = Field(
        0, ge=0, description="smallest number of steps; more epochs are run on small data to reach it"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after this many epochs without a better validation value, on 10 % of the "
        "compositions, which are held out; null: hold out nothing and run all epochs",
    )
    validation_metric: Literal["loss", "nll", "accuracy", "hr@10", "mrr", "ndcg@10"] = Field(
        "loss", description="metric on the held-out part"
    )
    validate_every: int = Field(1, ge=1, description="number of epochs between validations")


class TrainingOptions(StoppingOptions, OptimiserOptions, LossOptions, SamplingOptions):
    """All options of training. Recommenders add their own hyperparameters."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.label_smoothing and self.loss != "ce":
            raise ValueError(f"label_smoothing is an option of ce, and the loss is {self.loss}")
        if self.loss == "gbce" and self.mask_training:
            raise ValueError("gbce takes all services as competitors: it needs mask_training false")
        if self.negatives == 0 and self.sampling != "batch":
            raise ValueError("negatives 0 needs sampling 'batch', whose targets are then the negatives")
        return self


class PairwiseOptions(TrainingOptions):
    """Defaults of recommenders with a pairwise loss.

    Negatives are drawn uniformly. Pairwise losses rank by p / q, where q is the probability of being
    drawn, so negatives drawn by popularity would remove popularity from the ranking.
    """

    loss: LossName = Field("bpr", description="training loss; bpr is the loss of the paper")
    negatives: int | None = Field(
        100,
        ge=0,
        le=MAX_NEGATIVES,
        description="number of negatives drawn per target, for losses other than ce; null: all other "
        "services; 0: only the other targets of the batch",
    )
    sample_alpha: float = Field(
        0.0,
        ge=0,
        le=1,
        description="negatives are drawn in proportion to popularity to this power; 0: uniformly",
    )
    batch_size: int = Field(256, ge=1, description="number of units per step: paths or contexts")
    learning_rate: float = Field(3e-3, gt=0, le=3e37, description="largest learning rate")
    schedule: ScheduleName = Field(
        "warmup-cosine",
        description="constant, or warmup-cosine: linear warmup, then cosine decay to 1 % of "
        "learning_rate",
    )
