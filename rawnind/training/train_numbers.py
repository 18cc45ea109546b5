"""The numbers of a training, as lines of a file."""

import json
from typing import Any

from rawnind.storage.store import Store
from rawnind.training.loop import Training

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

    def add(self, training: Training, seconds: float) -> None:
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
