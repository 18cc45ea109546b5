"""Training a small U-Net on an output folder: the shortest way to see that the data can be learned from."""

import contextlib
import math
import os
import pickle
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from rawnind.errors import ConfigError, RawnindError
from rawnind.feed.batch import Batch
from rawnind.feed.dataset import CropDataset
from rawnind.feed.loader import CropLoader
from rawnind.feed.selection import Input
from rawnind.training.log import TrainReport, ends_of
from rawnind.training.model import UNet, masked_l1

FORMAT = 1
_LEARNING_RATE = 2e-3


class TrainingError(RawnindError):
    """Training went wrong. Try a lower learning rate, or look at the data with `rawnind report`."""


def train(
    output: str | Path,
    *,
    steps: int,
    batch_size: int = 4,
    crop_size: int = 128,
    seed: int = 0,
    checkpoint: Path | None = None,
    workers: int = 1,
    device: str | None = None,
    cores: int = 1,
    width: int = 16,
    learning_rate: float = _LEARNING_RATE,
    save_every: int = 500,
    progress_every: int = 5,
    progress: Callable[[int, float], None] | None = None,
    **dataset: Any,
) -> TrainReport:
    """Trains until `steps` steps are done; a checkpoint of the same training is gone on with.

    Args:
        output: the folder that `rawnind prepare` wrote.
        steps: optimiser steps in all.
        batch_size: rows in a batch.
        crop_size: side of a sub-crop, a multiple of 32.
        seed: of weights, order and windows.
        checkpoint: where weights, optimiser and position go; None: `checkpoint.pt` in a local `output`.
        workers: threads that make batches ahead.
        device: as torch names it; None: "cuda" where there is one, else "cpu".
        cores: that torch uses for one operation on a CPU. With one, the result is the same on every machine; more help only
            where nothing else runs (two on a busy pair of cores were 30 times slower).
        width: of the U-Net's first level.
        learning_rate: Adam's.
        save_every: steps between two checkpoints; there is one at the end in any case.
        progress_every: steps between two calls of `progress`.
        progress: called with (step, mean loss since the last call); None prints a line.
        dataset: further options of `CropDataset`.

    Raises:
        ConfigError: An option is wrong, there are fewer crops than a batch needs, or the checkpoint is of another training.
        ManifestError: The folder, or a shard in it, cannot be read.
        TrainingError: The loss is no longer a number.
    """
    started = time.perf_counter()
    crops = CropDataset(output, crop_size=crop_size, seed=seed, **dataset)
    if len(crops) < batch_size:
        raise ConfigError(
            f"a batch of {batch_size} needs as many crops, {output} has {len(crops)} to train on"
        )
    place = place_of(output, checkpoint)
    found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    training = Training(CropLoader(crops, batch_size, workers=workers, device=found), width, learning_rate)
    training.load(place)
    resumed_at = len(training.losses)
    with cores_of_torch(cores):
        training.run(steps, place, save_every, progress_every, progress or say)
    return training.report(resumed_at, place, time.perf_counter() - started)


class Training:
    """Network, optimiser and feed, which are saved and loaded together.

    Args:
        loader: the feed.
        width: of the U-Net's first level.
        learning_rate: Adam's.

    Attributes:
        forward: what is called with the input: `model`, or a module around it.
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
        place: Path,
        save_every: int,
        progress_every: int,
        progress: Callable[[int, float], None],
    ) -> None:
        """Steps until `steps` are done in all."""
        told = len(self.losses)
        while (step := len(self.losses) + 1) <= steps:
            self.advance()
            if step % progress_every == 0 or step == steps:
                recent = self.losses[told:]
                progress(step, sum(recent) / len(recent))
                told = step
            if step % save_every == 0 or step == steps:
                self.save(place)

    def advance(self) -> None:
        """One optimiser step."""
        loss = masked_l1(*_prediction(self.forward, self._next()))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.losses.append(self.mean(loss.detach()))
        if not math.isfinite(self.losses[-1]):
            raise TrainingError(f"the loss is {self.losses[-1]} at step {len(self.losses)}")

    def mean(self, loss: Tensor) -> float:
        """The loss over everybody who takes part in the step."""
        return float(loss)

    def _next(self) -> Batch:
        while True:
            for batch in self._batches:
                return batch
            self._batches = iter(self.loader)

    def save(self, place: Path) -> None:
        """Writes beside and moves, so that a killed run leaves the old checkpoint."""
        beside = place.with_name(f".tmp-{uuid.uuid4().hex}-{place.name}")
        place.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "format": FORMAT,
            "kind": self._kind(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "feed": self.loader.state_dict(),
            "losses": self.losses,
        }
        try:
            with beside.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(place)
        finally:
            beside.unlink(missing_ok=True)

    def load(self, place: Path) -> None:
        """Goes on with a checkpoint where there is one."""
        if not place.exists():
            return
        if not zipfile.is_zipfile(place):  # torch.save's format; torch.load fails on other files in many ways
            raise ConfigError(f"{place} is not a checkpoint; choose another one or remove it")
        try:
            state = torch.load(place, map_location=self.loader.device, weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            raise ConfigError(f"{place} is not a checkpoint: {error}") from error
        if state.get("format") != FORMAT or state.get("kind") != self._kind():
            raise ConfigError(f"{place} is of another network; choose another checkpoint or remove it")
        try:
            self.loader.load_state_dict(state["feed"])
        except ConfigError as error:
            raise ConfigError(
                f"{place} is of another training; choose another checkpoint or remove it: {error}"
            ) from error
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = list(state["losses"])

    def _kind(self) -> dict[str, int]:
        return {"in_channels": self.model.in_channels, "width": self.model.width}

    def report(self, resumed_at: int, place: Path, seconds: float) -> TrainReport:
        """What this run came to."""
        first, last = ends_of(self.losses)
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
            checkpoint=str(place),
        )


@contextlib.contextmanager
def cores_of_torch(count: int) -> Iterator[None]:
    """Lets torch use so many cores for one operation within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prediction(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return model(batch["y_crops"]), batch["x_crops"], batch["mask_crops"]


def place_of(output: str | Path, checkpoint: Path | None) -> Path:
    """Where the checkpoint goes.

    Raises:
        ConfigError: The folder is remote, and nothing else was said.
    """
    if checkpoint is None and "://" in str(output):
        raise ConfigError(f"{output} is not a local folder; say where the checkpoint goes")
    return checkpoint or Path(output) / "checkpoint.pt"


def say(step: int, loss: float) -> None:
    """Prints a line of progress."""
    click.echo(f"step {step:6d}  loss {loss:.4f}")
