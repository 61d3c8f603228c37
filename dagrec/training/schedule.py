"""The learning rate, epoch by epoch."""

from __future__ import annotations

import math

from dagrec.training.options import TrainingOptions

FLOOR = 0.01
"""The share of the learning rate that a cosine ends at."""


def learning_rate(options: TrainingOptions, epoch: int) -> float:
    """The learning rate of an epoch, counted from 0; in (0, lr].

    constant: lr. warmup-cosine, with T epochs and W = min(warmup_epochs, T), for epoch t:

        lr (t + 1) / W                                                       t < W
        e + (lr - e) / 2 (1 + cos(pi (t - W) / (T - W))), e = 0.01 lr        t >= W

    (Loshchilov & Hutter 2017, without restarts.) With T <= W there is the rise alone, and its end is
    lr. Epochs after the last have the rate of the last.
    """
    if options.schedule == "constant":
        return options.learning_rate
    warmup = min(options.warmup_epochs, options.epochs)
    epoch = min(epoch, options.epochs - 1)
    if epoch < warmup:
        return options.learning_rate * ((epoch + 1) / warmup)
    done = (epoch - warmup) / (options.epochs - warmup)
    return options.learning_rate * (FLOOR + (1 - FLOOR) / 2 * (1 + math.cos(math.pi * done)))
