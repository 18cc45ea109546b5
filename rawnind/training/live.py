"""Batches while `rawnind prepare` still makes the crops, then those of the finished folder."""

import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from rawnind.feed.batch import Batch
from rawnind.feed.crop_options import CropOptions, SampleOptions
from rawnind.feed.live.dataset import LiveCropDataset
from rawnind.feed.loader import Counters, CropLoader
from rawnind.training.crops import training_crops, wanted_crops
from rawnind.training.options import TrainOptions

log = logging.getLogger(__name__)


class LiveLoader:
    """What a `CropLoader` is to a trainer: the first epoch is the live feed, all others are of the finished folder.

    A checkpoint that is written before the run has ended resumes with the first epoch of the finished folder.

    Args:
        output: the folder that `rawnind prepare` fills.
        options: of the training.
        crops: which crops to read.
        workers: threads that prefetch batches.
        device: of the batches.
        ended: called when the run has ended and its last crop was returned.

    Attributes:
        options: how samples are made.
        counters: what was returned so far.
        seen: sub-crops that were returned until the run had ended; None while it goes on.
        epoch: number of the epoch; the live feed is none.
    """

    def __init__(
        self,
        output: str | Path,
        options: TrainOptions,
        crops: CropOptions,
        *,
        workers: int,
        device: torch.device,
        ended: Callable[[], None],
    ) -> None:
        self._output = output
        self._options = options
        self._crops = crops
        self._workers = workers
        self.device = device
        self._live = LiveCropDataset(
            output,
            batch_size=options.batch_size,
            workers=workers,
            device=device,
            feed=f"train-{uuid.uuid4().hex[:8]}",
            **wanted_crops(options, crops),
        )
        self.options: SampleOptions = self._live.options
        self.counters = Counters()
        self.seen: int | None = None
        self._finished: CropLoader | None = None
        self._ended = ended

    @property
    def epoch(self) -> int:
        """Number of the epoch of the finished folder, 0 before."""
        return self._finished.epoch if self._finished else 0

    def __iter__(self) -> Iterator[Batch]:
        if self._finished is None:
            yield from self._counted(self._live)
            self.seen = self.counters.crops
            log.info("the run has ended; the training had seen %d crops", self.seen)
            self._finished = self._loader()
            self._ended()
        else:
            yield from self._counted(self._finished)

    def _counted(self, batches: LiveCropDataset | CropLoader) -> Iterator[Batch]:
        for batch in batches:
            self.counters.batches += 1
            self.counters.crops += len(batch["x_crops"])
            yield batch

    def _loader(self) -> CropLoader:
        dataset = training_crops(self._output, self._options, self._crops)
        return CropLoader(dataset, self._options.batch_size, workers=self._workers, device=self.device)

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch starts; nothing while the run goes on."""
        return self._finished.state_dict() if self._finished else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes in the finished folder.

        Args:
            state: of a checkpoint.

        Raises:
            ConfigError: It is of another training, or the folder is not finished.
        """
        self._finished = self._loader()
        self._ended()
        if state:
            self._finished.load_state_dict(state)
