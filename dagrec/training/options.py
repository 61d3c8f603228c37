"""The hyperparameters of gradient descent, shared by every recommender that is trained by it.

A *pair* is a distinct (context, target) with the number of examples that have it. A *unit* is what a
network computes in one pass: a path with all its prefixes, a DAG with all its open nodes, or a context.
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
"""Validation metrics of which a lower value is better."""


class LossOptions(Options):
    """What is minimised."""

    loss: LossName = Field("ce", description="what is minimised; ce is over all services")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="ce: share of the target spread over the competing services"
    )
    margin: float = Field(1.0, gt=0, description="hinge: by how much the target must lead")
    mask_training: bool = Field(
        False, description="let only observed successors compete in the training loss"
    )


class SamplingOptions(Options):
    """Which services compete with a target, for losses other than ce."""

    negatives: int | None = Field(
        512,
        ge=0,
        le=MAX_NEGATIVES,
        description="services drawn against each target, for losses other than ce; null: all others; "
        "0: only the other targets of the batch",
    )
    sampling: Literal["rows", "shared", "batch"] = Field(
        "rows",
        description="rows: each pair draws its own negatives; shared: one draw serves the batch; "
        "batch: the other targets of the batch, and one shared draw",
    )
    sample_alpha: float = Field(
        0.75, ge=0, le=1, description="services are drawn by popularity to this power; 0: uniformly"
    )


class OptimiserOptions(Options):
    """How the parameters move."""

    batch_size: int = Field(64, ge=1, description="units per step: paths, DAGs or contexts")
    optimiser: Literal["adam", "adamw"] = Field("adam", description="adam or adamw")
    learning_rate: float = Field(1e-3, gt=0, le=3e37, description="step size at its highest")
    weight_decay: float = Field(
        0.0, ge=0, description="adam: added to the gradient; adamw: decoupled from it"
    )
    schedule: ScheduleName = Field(
        "constant", description="warmup-cosine: linear rise, then half a cosine down to a hundredth"
    )
    warmup_epochs: int = Field(5, ge=1, description="warmup-cosine: epochs of the rise")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient of a step")


class StoppingOptions(Options):
    """How long training lasts."""

    epochs: int = Field(150, ge=1, description="passes over the training units, at most")
    min_steps: int = Field(
        0, ge=0, description="on small data, epochs are added until there are this many steps"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after this many epochs without a better validation value, on a tenth of the "
        "compositions that is held out; null: nothing is held out",
    )
    validation_metric: Literal["loss", "nll", "accuracy", "hr@10", "mrr", "ndcg@10"] = Field(
        "loss", description="what is measured on the held-out part"
    )
    validate_every: int = Field(1, ge=1, description="epochs from one validation to the next")


class TrainingOptions(StoppingOptions, OptimiserOptions, LossOptions, SamplingOptions):
    """Loss, negatives, optimiser, schedule and stopping; a recommender adds its own hyperparameters."""

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
    """Defaults of recommenders that learn from pairs of a target and a negative.

    Services are drawn uniformly: pairwise losses rank by p / q, so that popular negatives would take
    popularity out of the ranking.
    """

    loss: LossName = Field("bpr", description="what is minimised; bpr is the loss of the paper")
    negatives: int | None = Field(
        100,
        ge=0,
        le=MAX_NEGATIVES,
        description="services drawn against each target, for losses other than ce; null: all others; "
        "0: only the other targets of the batch",
    )
    sample_alpha: float = Field(
        0.0, ge=0, le=1, description="services are drawn by popularity to this power; 0: uniformly"
    )
    batch_size: int = Field(256, ge=1, description="units per step: paths or contexts")
    learning_rate: float = Field(3e-3, gt=0, le=3e37, description="step size at its highest")
    schedule: ScheduleName = Field(
        "warmup-cosine",
        description="warmup-cosine: linear rise, then half a cosine down to a hundredth",
    )
