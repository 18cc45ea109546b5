"""The reports of a training: its summary, and the lines of metrics.jsonl."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rawnind.documents import json_object
from rawnind.output.store import Store
from rawnind.rules import is_whole
from rawnind.training.board import Board
from rawnind.training.pictures import png
from rawnind.training.validation import Scores, verdict
from rawnind.words import counted

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
        seen_live: with `live`, crops that were used until production ended; None where it had not.
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
    seen_live: int | None = None

    def __str__(self) -> str:
        before = f", of which {self.resumed_at} before this run" if self.resumed_at else ""
        change = 1 - self.last_loss / self.first_loss if self.first_loss else 0.0
        none = "no crop is held out (see validation_share and hold_out_camera), or not yet"
        nothing = "no step was left" if self.resumed_at == self.steps else none
        found = verdict(self.scores) if self.scores else f"Nothing was validated: {nothing}."
        live = (
            ""
            if self.seen_live is None
            else f"It had seen {counted(self.seen_live, 'crop')} when production ended.\n"
        )
        return (
            f"Trained {counted(self.steps, 'step')}{before}, {counted(self.crops, 'crop')} in {self.batches} batch{'es' * (self.batches != 1)}, {self.seconds:.1f} s "
            f"(waited {self.waited:.1f} s for data) on {self.device}.\n"
            f"Loss {self.first_loss:.4f} -> {self.last_loss:.4f} ({-change:+.0%}); {self.parameters} parameters in "
            f"{self.checkpoint}\n{live}{found}"
        )


def first_and_last_loss(losses: Sequence[float]) -> tuple[float, float]:
    """Means of the first and of the last losses: over a quarter of all steps, at most ten.

    >>> first_and_last_loss([4.0, 2.0, 2.0, 1.0])
    (4.0, 1.0)
    """
    count = max(1, min(_SMOOTHED_OVER, len(losses) // 4))
    return sum(losses[:count]) / count, sum(losses[-count:]) / count


METRICS = "metrics.jsonl"
PICTURES = "pictures"
EVENTS = "tensorboard"


class MetricsLog:
    """What a training writes while it runs: metrics.jsonl, pictures, and, in a local folder, events for TensorBoard.

    Steps that are repeated after the death of a worker replace their lines.

    Args:
        storage: folder of the files.
        first: the step at which the training resumes.
        active: False: nothing is written; of several ranks, only one writes.
    """

    def __init__(self, storage: str, first: int, *, active: bool = True) -> None:
        self._store = Store(storage)
        self.first = first
        self.active = active
        self._logged = first
        self._lines = [line for line in read_metrics(storage) if line["step"] <= first]
        self._started = self._written = time.perf_counter()
        folder = self._store.local(EVENTS)
        self._board = Board(folder, first) if active and folder else None

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
        if self._board:
            self._board.add_loss(self._logged, loss, trainer.rate)
        self.write(at_once=False)
        return loss

    def add_scores(self, scores: Scores, pictures: Sequence[NDArray[np.uint8]]) -> None:
        """Adds a line with the scores of a validation, and writes its pictures.

        Args:
            scores: of the validation.
            pictures: (h, w, 3) each.
        """
        self._lines.append({"step": scores.step, "validation": asdict(scores)})
        if self.active:
            for number, picture in enumerate(pictures):
                name = f"{PICTURES}/step-{scores.step:07d}-{number}.png"
                self._store.write(name, png(picture), replace=True)
        if self._board:
            self._board.add_scores(scores)
            self._board.add_pictures(scores.step, pictures)
        self.write()

    def write(self, *, at_once: bool = True) -> None:
        """Writes all lines to the file.

        Args:
            at_once: False: not within two seconds of the last time.
        """
        now = time.perf_counter()
        if not self.active or (not at_once and now - self._written < _WRITE_EVERY):
            return
        self._written = now
        data = "".join(json.dumps(line) + "\n" for line in self._lines)
        self._store.write(METRICS, data.encode(), replace=True)
        if self._board:
            self._board.flush()

    def close(self) -> None:
        """Ends the thread that writes events; nothing is added afterwards."""
        if self._board:
            self._board.close()


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
