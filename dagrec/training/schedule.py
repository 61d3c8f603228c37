"""Learning rate schedules."""

from __future__ import annotations

import math

from dagrec.training.options import TrainingOptions

FLOOR = 0.01
"""The final learning rate of a cosine schedule, as a share of the largest one."""


def learning_rate(options: TrainingOptions, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0. It is in (0, lr].

    constant: lr. warmup-cosine, with T epochs and W = min(warmup_epochs, T), for epoch t:

        lr (t + 1) / W                                                       t < W
        e + (lr - e) / 2 (1 + cos(pi (t - W) / (T - W))), e = 0.01 lr        t >= W

    (Loshchilov & Hutter 2017, without restarts.) If T <= W there is only the warmup, which ends at lr.
    Later epochs than the last have its learning rate.
    """
    if options.schedule == "constant":
        return options.learning_rate
    warmup = min(options.warmup_epochs, options.epochs)
    epoch = min(epoch, options.epochs - 1)
    if epoch < warmup:
        return options.learning_rate * ((epoch + 1) / warmup)
    done = (epoch - warmup) / (options.epochs - warmup)
    return options.learning_rate * (FLOOR + (1 - FLOOR) / 2 * (1 + math.cos(math.pi * done)))
