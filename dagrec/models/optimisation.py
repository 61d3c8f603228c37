"""What decides how the parameters of a gradient-trained recommender are found: one list for all.

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
OptimiserName = Literal["adam", "adamw", "adagrad"]
ScheduleName = Literal["constant", "warmup-cosine"]
MOST_NEGATIVES = 2048
LESS_IS_BETTER = ("loss", "nll")
"""Validation metrics of which a lower value is better."""


class Optimisation(Options):
    """Loss, negatives, optimiser, schedule, stopping; a recommender's own come on top."""

    epochs: int = Field(150, ge=1, description="passes over the training units, at most")
    least_steps: int = Field(
        0,
        ge=0,
        description="where the epochs have fewer steps, as on small data, there are more epochs",
    )
    batch_size: int = Field(64, ge=1, description="units a step: paths, DAGs or contexts")

    loss: LossName = Field("ce", description="what is minimised; ce is over all services")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="ce: share of the target spread over the services that compete"
    )
    score_penalty: float = Field(1.0, ge=0, description="bpr-max: weight of the squared scores")
    elu: float = Field(0.5, ge=0, description="bpr-max: scores are bounded below by minus this; 0: not")
    margin: float = Field(1.0, gt=0, description="hinge: by how much the target must lead")
    temperature: float = Field(0.1, gt=0, description="infonce: scores are divided by it")
    gbce_t: float = Field(0.75, ge=0, le=1, description="gbce: calibration; 0 is bce")
    mask_training: bool = Field(
        False, description="let only observed successors compete in the training loss"
    )

    negatives: int | None = Field(
        512,
        ge=0,
        le=MOST_NEGATIVES,
        description="services drawn against each target, for losses other than ce; null: all others; "
        "0: those of the batch alone",
    )
    sampling: Literal["rows", "shared", "batch"] = Field(
        "rows",
        description="rows: each pair draws its own; shared: one draw serves the batch; batch: the "
        "targets of the batch, and one draw",
    )
    sampler: Literal["inverse-cdf", "alias"] = Field(
        "inverse-cdf", description="how one service is drawn: a search, or a table of aliases"
    )
    sample_alpha: float = Field(
        0.75, ge=0, le=1, description="services are drawn by popularity to this power; 0: uniformly"
    )
    replacement: bool = Field(True, description="whether one service can be drawn twice for a pair")
    exclude: Literal["target", "successors"] = Field(
        "target", description="never drawn: the target, or all that followed this context in training"
    )

    optimiser: OptimiserName = Field("adam", description="adagrad is that of GRU4Rec, with momentum")
    learning_rate: float = Field(1e-3, gt=0, description="step size at its highest")
    weight_decay: float = Field(
        0.0, ge=0, description="adam and adagrad: of the squared weights; adamw: decoupled"
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="adagrad: share of the last step that goes on")
    schedule: ScheduleName = Field(
        "constant", description="warmup-cosine: linear rise, then half a cosine down to a hundredth"
    )
    warmup_epochs: int = Field(5, ge=1, description="warmup-cosine: epochs of the rise")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient of a step")
    init_scale: float = Field(1.0, gt=0, description="factor on the initial weights of every matrix")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: forward pass in bfloat16, where the device can"
    )

    curriculum: Literal["none", "length", "hardness"] = Field(
        "none", description="length: short units first; hardness: of the negatives, the hardest last"
    )
    curriculum_epochs: int = Field(10, ge=1, description="epochs until the curriculum is complete")
    hard_share: float = Field(
        0.1, gt=0, le=1, description="hardness: share of the drawn negatives that count in the end"
    )

    validation_share: float = Field(
        0.1, gt=0, lt=1, description="compositions held out when patience is set"
    )
    validation_metric: Literal["loss", "nll", "accuracy", "hr@10", "mrr", "ndcg@10"] = Field(
        "loss", description="what is watched on the held-out part"
    )
    validate_every: int = Field(1, ge=1, description="epochs from one look at it to the next")
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after so many epochs without a better value; null: no held-out part",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.curriculum == "hardness" and self.loss == "ce":
            raise ValueError("curriculum 'hardness' needs a loss with negatives, and ce has none")
        if self.label_smoothing and self.loss != "ce":
            raise ValueError(f"label_smoothing is of ce, and the loss is {self.loss}")
        if self.loss == "gbce" and self.mask_training:
            raise ValueError("gbce takes all services as competitors: it needs mask_training false")
        if self.negatives == 0 and self.sampling != "batch":
            raise ValueError("negatives 0 needs sampling 'batch', whose targets are then the negatives")
        if self.optimiser != "adagrad" and self.learning_rate > 3e37:
            raise ValueError(f"learning_rate may be 3e37 at most, found {self.learning_rate:g}")
        if self.momentum and self.optimiser != "adagrad":
            raise ValueError(f"momentum is of adagrad, and the optimiser is {self.optimiser}")
        if self.sampling == "batch" and not self.replacement:
            raise ValueError("the targets of a batch recur: sampling 'batch' needs replacement")
        return self


class PairwiseOptimisation(Optimisation):
    """The optimisation of recommenders that learn an order by pairs, where nothing else is said.

    Services are drawn uniformly: pairwise losses rank by p / q, so that popular negatives would take
    popularity out of the ranking.
    """

    loss: LossName = Field("bpr", description="what is minimised; bpr is that of the paper")
    negatives: int | None = Field(
        100,
        ge=0,
        le=MOST_NEGATIVES,
        description="services drawn against each target, for losses other than ce; null: all others; "
        "0: those of the batch alone",
    )
    sample_alpha: float = Field(
        0.0, ge=0, le=1, description="services are drawn by popularity to this power; 0: uniformly"
    )
    batch_size: int = Field(256, ge=1, description="units a step: paths or contexts")
    learning_rate: float = Field(3e-3, gt=0, description="step size at its highest")
    schedule: ScheduleName = Field(
        "warmup-cosine",
        description="warmup-cosine: linear rise, then half a cosine down to a hundredth",
    )
