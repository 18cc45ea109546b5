"""What a training came to."""

from collections.abc import Sequence
from dataclasses import dataclass

_SMOOTHED_OVER = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainReport:
    """What training came to.

    Attributes:
        steps: optimiser steps in all, those before a resume included.
        resumed_at: the step at which this run began; 0 for a fresh start.
        first_loss: mean loss of the first steps (a quarter of all, at most ten).
        last_loss: mean loss of as many last steps.
        losses: the loss of every step.
        batches: given by the loader in this run.
        crops: sub-crops given by the loader in this run.
        skipped: crops in damaged shards for which others stood in.
        waited: seconds that training waited for batches.
        seconds: wall clock of this run.
        device: where it ran.
        parameters: numbers that the network learned.
        checkpoint: where they lie.
    """

    steps: int
    resumed_at: int
    first_loss: float
    last_loss: float
    losses: tuple[float, ...]
    batches: int
    crops: int
    skipped: int
    waited: float
    seconds: float
    device: str
    parameters: int
    checkpoint: str

    def __str__(self) -> str:
        went = f", of which {self.resumed_at} before this run" if self.resumed_at else ""
        change = 1 - self.last_loss / self.first_loss if self.first_loss else 0.0
        return (
            f"Trained {self.steps} steps{went}, {self.crops} crops in {self.batches} batches, {self.seconds:.1f} s "
            f"(waited {self.waited:.1f} s for data) on {self.device}.\n"
            f"Loss {self.first_loss:.4f} -> {self.last_loss:.4f} ({-change:+.0%}); {self.parameters} parameters in "
            f"{self.checkpoint}"
        )


def ends_of(losses: Sequence[float]) -> tuple[float, float]:
    """Means of the first and of the last losses: over a quarter of all steps, at most ten.

    >>> ends_of([4.0, 2.0, 2.0, 1.0])
    (4.0, 1.0)
    """
    count = max(1, min(_SMOOTHED_OVER, len(losses) // 4))
    return sum(losses[:count]) / count, sum(losses[-count:]) / count
