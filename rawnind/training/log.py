"""The reports of a training: its summary, and the lines of metrics.jsonl."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rawnind.documents import json_object
from rawnind.output.store import Store
from rawnind.rules import is_whole
from rawnind.training.validation import Scores, verdict

if TYPE_CHECKING:
    from rawnind.training.trainer import Trainer

_SMOOTHED_OVER = 10
_WRITE_EVERY = 2.0  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainReport:
    """The result of a training.

    Attributes:
        steps: optimiser steps in total, including those before a resume.
        resumed_at: the step at which this run started; 0 without a checkpoint.
        first_loss: mean loss of the first steps (a quarter of all, at most ten).
        last_loss: mean loss of as many last steps.
        losses: the loss of every step.
        batches: batches that this run used.
        crops: sub-crops that this run used.
        skipped: crops in damaged shards, which were replaced.
        waited: seconds that training waited for batches.
        seconds: wall time of this run.
        device: device of the network.
        parameters: number of the network's parameters.
        checkpoint: file of the checkpoint.
        scores: of the last validation in this run; None where nothing is held out, or nothing was left to do.
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
    scores: Scores | None = None

    def __str__(self) -> str:
        before = f", of which {self.resumed_at} before this run" if self.resumed_at else ""
        change = 1 - self.last_loss / self.first_loss if self.first_loss else 0.0
        found = verdict(self.scores) if self.scores else "Nothing was validated: no crop is held out."
        return (
            f"Trained {self.steps} steps{before}, {self.crops} crops in {self.batches} batches, {self.seconds:.1f} s "
            f"(waited {self.waited:.1f} s for data) on {self.device}.\n"
            f"Loss {self.first_loss:.4f} -> {self.last_loss:.4f} ({-change:+.0%}); {self.parameters} parameters in "
            f"{self.checkpoint}\n{found}"
        )


def first_and_last_loss(losses: Sequence[float]) -> tuple[float, float]:
    """Means of the first and of the last losses: over a quarter of all steps, at most ten.

    >>> first_and_last_loss([4.0, 2.0, 2.0, 1.0])
    (4.0, 1.0)
    """
    count = max(1, min(_SMOOTHED_OVER, len(losses) // 4))
    return sum(losses[:count]) / count, sum(losses[-count:]) / count


METRICS = "metrics.jsonl"


class MetricsLog:
    """The lines of metrics.jsonl. Steps that are repeated after the death of a worker replace their lines.

    Args:
        storage: folder of the file.
        first: the step at which the training resumes.
    """

    def __init__(self, storage: str, first: int) -> None:
        self._storage = storage
        self.first = first
        self._logged = first
        self._lines = [line for line in read_metrics(storage) if line["step"] <= first]
        self._started = self._written = time.perf_counter()

    def add(self, trainer: "Trainer") -> float:
        """Adds a line with the current step and the mean loss since the last line, which it returns."""
        recent = trainer.losses[self._logged :]
        self._logged = trainer.step
        loss = sum(recent) / len(recent)
        self._lines.append(
            {
                "step": self._logged,
                "loss": loss,
                "learning_rate": trainer.rate,
                "epoch": trainer.loader.epoch,
                "seconds": round(time.perf_counter() - self._started, 3),
                "waited": round(trainer.loader.counters.waited, 3),
            }
        )
        return loss

    def add_scores(self, scores: Scores) -> None:
        """Adds a line with the scores of a validation."""
        self._lines.append({"step": scores.step, "validation": asdict(scores)})

    def write(self, *, at_once: bool = True) -> None:
        """Writes all lines to the file.

        Args:
            at_once: False: not within two seconds of the last time.
        """
        now = time.perf_counter()
        if not at_once and now - self._written < _WRITE_EVERY:
            return
        self._written = now
        data = "".join(json.dumps(line) + "\n" for line in self._lines)
        Store(self._storage).write(METRICS, data.encode(), replace=True)


def read_metrics(storage: str) -> list[dict[str, Any]]:
    """The lines of `storage/metrics.jsonl`; empty where the file does not exist; damaged lines are skipped.

    Raises:
        OutputError: The file cannot be read.
    """
    try:
        lines = Store(storage).read(METRICS).splitlines()
    except FileNotFoundError:
        return []
    found = (json_object(line) for line in lines)
    return [line for line in found if line and is_whole(line.get("step"))]
