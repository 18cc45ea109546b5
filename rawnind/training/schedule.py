"""The learning rate of each step."""

import math
from collections.abc import Sequence

from rawnind.training.options import Schedule, TrainOptions

_PATIENCE = 2  # validations without a new best after which "plateau" halves the rate


def learning_rate(options: TrainOptions, step: int, scores: Sequence[float]) -> float:
    """The rate of a step.

    Args:
        options: of the training.
        step: from 0.
        scores: of the validations so far, higher is better; only "plateau" depends on them.

    >>> options = TrainOptions(steps=100, warmup=10, learning_rate=1e-3)
    >>> [round(1e3 * learning_rate(options, step, []), 3) for step in (0, 9, 55, 100)]
    [0.1, 1.0, 0.5, 0.0]
    """
    warmup = min(options.warmup, options.steps // 2)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    match options.schedule:
        case Schedule.CONSTANT:
            return options.learning_rate
        case Schedule.PLATEAU:
            return options.learning_rate * 0.5 ** _plateaus(scores)
        case Schedule.COSINE:
            done = min((step - warmup) / max(options.steps - warmup, 1), 1)
            return options.learning_rate * (1 + math.cos(math.pi * done)) / 2


def _plateaus(scores: Sequence[float]) -> int:
    """How often the rate is halved.

    >>> _plateaus([30, 31, 30, 31, 30, 30, 32])
    2
    """
    halved = waited = 0
    best = -math.inf
    for score in scores:
        waited = 0 if score > best else waited + 1
        best = max(best, score)
        if waited == _PATIENCE:
            halved, waited = halved + 1, 0
    return halved


def since_best(scores: Sequence[float]) -> int:
    """How many validations have followed the best one.

    >>> since_best([30, 32, 31, 32])
    2
    """
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0
