"""Events for TensorBoard, which `tensorboard --logdir OUT/train` shows; tensorboardX writes them without TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboardX import SummaryWriter

from rawnind.training.validation import Means, Scores


class Board:
    """Writes events into a local folder.

    Args:
        folder: of the events.
        first: the step at which the training resumes; later events of an earlier run are hidden.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first, write_to_disk=True)

    def add_loss(self, step: int, loss: float, learning_rate: float) -> None:
        """The mean loss since the last call.

        Args:
            step: of the training.
            loss: mean over steps.
            learning_rate: of the next step.
        """
        self._writer.add_scalar("loss", loss, step)
        self._writer.add_scalar("learning rate", learning_rate, step)

    def add_scores(self, scores: Scores) -> None:
        """PSNR and MS-SSIM of input and output, in all, by ISO and by camera."""
        self._add("linear", scores.total, scores.step)
        self._add("display", scores.display, scores.step)
        for row in scores.by_iso:
            self._add(f"ISO {row['iso'] or 'unknown'}", row, scores.step)
        for row in scores.by_camera:
            self._add(row["camera"], row, scores.step)

    def _add(self, name: str, means: Means, step: int) -> None:
        for measure in ("psnr", "msssim"):
            values = {side: means[f"{side}_{measure}"] for side in ("input", "output")}  # type: ignore[literal-required]
            for side, value in values.items():
                self._writer.add_scalar(f"{measure} {name}/{side}", value, step)

    def add_pictures(self, step: int, pictures: Sequence[NDArray[np.uint8]]) -> None:
        """(h, w, 3) pictures."""
        for number, picture in enumerate(pictures):
            self._writer.add_image(f"crop {number}", picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Writes what is buffered."""
        self._writer.flush()

    def close(self) -> None:
        """Writes what is buffered, and ends the writer's thread."""
        self._writer.close()
