"""What training reports: its summary, and the lines of metrics.jsonl."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rawnind.output.store import Store

if TYPE_CHECKING:
    from rawnind.training.loop import Training

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


METRICS = "metrics.jsonl"


class Numbers:
    """Lines of metrics.jsonl; those of steps that are done again after a death are written again.

    Args:
        storage: where the file lies.
        first: the step at which the training goes on.
    """

    def __init__(self, storage: str, first: int) -> None:
        self._storage = storage
        self.first = first
        self._told = first
        self._lines = [line for line in read_metrics(storage) if line["step"] <= first]

    def add(self, training: "Training", seconds: float) -> None:
        """Remembers where the training stands."""
        recent = training.losses[self._told :]
        self._told = len(training.losses)
        self._lines.append(
            {
                "step": self._told,
                "loss": sum(recent) / len(recent),
                "epoch": training.loader.epoch,
                "seconds": round(seconds, 3),
                "waited": round(training.loader.counters.waited, 3),
            }
        )

    def write(self) -> None:
        """Writes all lines."""
        data = "".join(json.dumps(line) + "\n" for line in self._lines)
        Store(self._storage).write(METRICS, data.encode(), replace=True)


def read_metrics(storage: str) -> list[dict[str, Any]]:
    """The lines of `storage/metrics.jsonl`; none where there is no such file.

    Raises:
        OutputError: The storage refuses.
    """
    try:
        return [json.loads(line) for line in Store(storage).read(METRICS).decode().splitlines()]
    except FileNotFoundError:
        return []
