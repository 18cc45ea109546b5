"""Trains a small U-Net on an output folder, as a check that the data can be learned from."""

import contextlib
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor, nn

from rawnind.errors import ConfigError, RawnindError, redacted
from rawnind.feed.batch import Batch
from rawnind.feed.crop_options import CropOptions, Input
from rawnind.feed.dataset import CropDataset
from rawnind.feed.loader import CropLoader
from rawnind.output.versions import VERSIONS
from rawnind.training.checkpoint import fits, read_checkpoint
from rawnind.training.log import TrainReport, first_and_last_loss
from rawnind.training.model import UNet, masked_l1

log = logging.getLogger(__name__)

CROP_SIZE = 128
"""Default of both trainers: small, so that a step is fast without a GPU."""
_LEARNING_RATE = 2e-3


class TrainingError(RawnindError):
    """Training failed. Try a lower learning rate, or look at the data with `rawnind report`."""


def train(
    output: str | Path,
    *,
    steps: int,
    batch_size: int = 4,
    checkpoint: Path | None = None,
    workers: int = 1,
    device: str | None = None,
    cores: int = 1,
    width: int = 16,
    learning_rate: float = _LEARNING_RATE,
    save_every: int = 500,
    progress_every: int = 5,
    progress: Callable[[int, float], None] | None = None,
    **options: Unpack[CropOptions],
) -> TrainReport:
    """Trains until `steps` steps are done, resuming from a checkpoint of the same training.

    Args:
        output: the folder that `rawnind prepare` wrote.
        steps: optimiser steps in total, including those before a resume.
        batch_size: rows in a batch.
        checkpoint: file for weights, optimiser and position; None: `checkpoint.pt` in a local `output`.
        workers: threads that prefetch batches.
        device: torch's name of the device; None: "cuda" where there is one, else "cpu".
        cores: number of cores that torch uses for one operation on a CPU. With one, the result is the same on every
            machine. More are faster only on an idle machine (on two busy cores, two were 30 times slower).
        width: channels of the U-Net's first level.
        learning_rate: that of Adam.
        save_every: steps between two checkpoints; the last step is always saved.
        progress_every: steps between two calls of `progress`.
        progress: called with (step, mean loss since the last call); None: a line is logged.
        options: see `CropOptions`; `crop_size` is 128 by default, and `seed` also initialises the weights.

    Returns:
        Losses, counts and times.

    Raises:
        ConfigError: An option is wrong, there are fewer crops than a batch needs, or the checkpoint is of another training.
        NotPreparedError: The folder has no manifest.
        ManifestError: The manifest or a shard cannot be read.
        TrainingError: The loss is not finite.

    Examples:
        >>> report = train("out", steps=200, batch_size=8, iso=(800, 12800))  # doctest: +SKIP
    """
    started = time.perf_counter()
    options.setdefault("crop_size", CROP_SIZE)
    crops = CropDataset(output, **options)
    if len(crops) < batch_size:
        raise ConfigError(
            f"a batch of {batch_size} needs as many crops, {redacted(str(output))} has {len(crops)} to train on"
        )
    path = checkpoint_path(output, checkpoint)
    found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    training = Training(CropLoader(crops, batch_size, workers=workers, device=found), width, learning_rate)
    training.load(path)
    resumed_at = len(training.losses)
    with torch_cores(cores):
        training.run(steps, path, save_every, progress_every, progress or log_progress)
    return training.report(resumed_at, path, time.perf_counter() - started)


class Training:
    """Network, optimiser and loader, which are saved and loaded together.

    Args:
        loader: the loader of the batches.
        width: channels of the U-Net's first level.
        learning_rate: that of Adam.

    Attributes:
        forward: the module that is called with the input: `model`, or a wrapper of it.
        losses: the loss of every step so far.
    """

    def __init__(self, loader: CropLoader, width: int, learning_rate: float) -> None:
        options = loader.dataset.options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.model = UNet(4 if options.input is Input.RAW else 3, width)
        self.model.to(loader.device)
        self.forward: nn.Module = self.model
        self.optimizer = torch.optim.Adam(self.model.parameters(), learning_rate)
        self.losses: list[float] = []
        self.loader = loader
        self._batches = iter(loader)

    def run(
        self,
        steps: int,
        path: Path,
        save_every: int,
        progress_every: int,
        progress: Callable[[int, float], None],
    ) -> None:
        """Takes steps until `steps` are done in total.

        Args:
            steps: see `train`, as are the others.
            path: file of the checkpoint.
            save_every: steps between two checkpoints.
            progress_every: steps between two calls of `progress`.
            progress: called with (step, mean loss since the last call).
        """
        reported = len(self.losses)
        while (step := len(self.losses) + 1) <= steps:
            self.advance()
            if step % progress_every == 0 or step == steps:
                recent = self.losses[reported:]
                progress(step, sum(recent) / len(recent))
                reported = step
            if step % save_every == 0 or step == steps:
                self.save(path)

    def advance(self) -> None:
        """Takes one optimiser step."""
        loss = masked_l1(*_prediction(self.forward, self._next()))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.losses.append(self.mean(loss.detach()))
        if not math.isfinite(self.losses[-1]):
            raise TrainingError(f"the loss is {self.losses[-1]} at step {len(self.losses)}")

    def mean(self, loss: Tensor) -> float:
        """The mean loss of the step over all ranks."""
        return float(loss)

    def _next(self) -> Batch:
        while True:
            for batch in self._batches:
                return batch
            self._batches = iter(self.loader)

    def save(self, path: Path) -> None:
        """Writes a checkpoint atomically: a killed run leaves the previous one."""
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "format": VERSIONS["checkpoint"],
            "kind": self._kind(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "feed": self.loader.state_dict(),
            "losses": self.losses,
        }
        try:
            with temporary.open("xb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, path: Path) -> None:
        """Resumes from a checkpoint, if the file exists."""
        if not path.exists():
            return
        state = read_checkpoint(path, self.loader.device)
        if state.format != VERSIONS["checkpoint"] or state.kind != self._kind():
            raise ConfigError(f"{path} is of another network; choose another checkpoint or remove it")
        own = self.model.state_dict()
        shapes = {name: value.shape for name, value in own.items()}
        if {name: value.shape for name, value in state.model.items()} != shapes or not fits(
            state.optimizer, self.optimizer.state_dict(), own
        ):
            raise ConfigError(f"{path} does not fit the network; choose another checkpoint or remove it")
        try:
            self.loader.load_state_dict(state.feed)
        except ConfigError as error:
            raise ConfigError(
                f"{path} is of another training; choose another checkpoint or remove it: {error}"
            ) from error
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        self.losses = list(state.losses)

    def _kind(self) -> dict[str, int]:
        return {"in_channels": self.model.in_channels, "width": self.model.width}

    def report(self, resumed_at: int, path: Path, seconds: float) -> TrainReport:
        """The result of this run.

        Args:
            resumed_at: the step at which it started.
            path: file of the checkpoint.
            seconds: wall time of the run.
        """
        first, last = first_and_last_loss(self.losses)
        counters = self.loader.counters
        return TrainReport(
            steps=len(self.losses),
            resumed_at=resumed_at,
            first_loss=first,
            last_loss=last,
            losses=tuple(self.losses),
            batches=counters.batches,
            crops=counters.crops,
            skipped=counters.skipped,
            waited=counters.waited,
            seconds=seconds,
            device=str(self.loader.device),
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            checkpoint=str(path),
        )


@contextlib.contextmanager
def torch_cores(count: int) -> Iterator[None]:
    """Within the block, torch uses `count` cores for one operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prediction(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return model(batch["y_crops"]), batch["x_crops"], batch["mask_crops"]


def checkpoint_path(output: str | Path, checkpoint: Path | None) -> Path:
    """The file of the checkpoint.

    Raises:
        ConfigError: `output` is remote, and `checkpoint` is None.
    """
    if checkpoint is None and "://" in str(output):
        raise ConfigError(
            f"{redacted(str(output))} is not a local folder; name a local file with checkpoint (--checkpoint)"
        )
    return checkpoint or Path(output) / "checkpoint.pt"


def log_progress(step: int, loss: float) -> None:
    """Logs the progress of a training."""
    log.info("step %6d  loss %.4f", step, loss)
