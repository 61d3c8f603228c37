"""What changes from epoch to epoch: the learning rate, and how much a curriculum lets through."""

from __future__ import annotations

import math

from dagrec.models.optimisation import Optimisation

FLOOR = 0.01
"""The share of the learning rate that a cosine ends at."""


def learning_rate(options: Optimisation, epoch: int) -> float:
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


def curriculum_share(options: Optimisation, epoch: int) -> float:
    """The share of the training units, shortest first, that an epoch passes over; in (0, 1].

        min(1, (t + 1) / curriculum_epochs)

    for epoch t, counted from 0 (Bengio et al. 2009). 1 unless ``curriculum`` is ``length``.
    """
    if options.curriculum != "length":
        return 1.0
    return min(1.0, (epoch + 1) / options.curriculum_epochs)


def hard_share(options: Optimisation, epoch: int) -> float:
    """The share of the drawn negatives, hardest first, that count in an epoch; in (0, 1].

        1 - x + x hard_share, x = min(1, t / (curriculum_epochs - 1))

    for epoch t, counted from 0: all of them at first, ``hard_share`` of them from the last epoch of
    the curriculum on, which is the first where it has one. 1 unless ``curriculum`` is ``hardness``.
    """
    if options.curriculum != "hardness":
        return 1.0
    last = options.curriculum_epochs - 1
    done = 1.0 if epoch >= last else epoch / last
    return 1 - done + done * options.hard_share
