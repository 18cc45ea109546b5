"""Sample, plan, prepare, verify, load and train in one go, for `make demo` and the smoke test."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rawnind.errors import ConfigError, ManifestError
from rawnind.estimate import estimate
from rawnind.feed.dataset import CropDataset
from rawnind.feed.loader import CropLoader
from rawnind.options import Options
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.pipeline.run import run
from rawnind.progress.progress import Progress
from rawnind.records import Summary
from rawnind.sample import make_sample
from rawnind.training.log import TrainReport
from rawnind.training.loop import train

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """The results of a demo.

    Attributes:
        loaded_scenes: number of scenes of the crops that the loader returned.
        loaded_crops: number of crops that the loader returned.
    """

    summary: Summary
    report: TrainReport
    loaded_scenes: int
    loaded_crops: int


def run_demo(folder: Path, options: Options, *, steps: int, progress: Progress) -> DemoResult:
    """Makes the sample, prepares it, verifies it, loads every crop, and trains on it, all in `folder`. Logs each step.

    Args:
        folder: a new folder, or that of an earlier demo.
        options: of the run.
        steps: optimiser steps.
        progress: receives the progress events of the run.

    Raises:
        ManifestError: A counter is zero or differs from the manifest.
        RawnindError: A step failed.
    """
    source, output = folder / "pairs", folder / "prepared"
    with _step("sample"):
        truth = make_sample(source)
        log.info("  %d scenes, %d DNG files in %s", len(truth.scenes), len(truth.files), source)
    with _step("plan"):
        for line in estimate(source, options).lines():
            log.info("  %s", line)
    with _step("prepare"):
        summary = run(source, output, options, progress)
    with _step("verify"):
        problems = list(verify(Store(str(output))))
        if problems:
            raise ManifestError("; ".join(problems))
        log.info("  every count, hash and coordinate is as it was written")
    with _step("load"):
        scenes, crops = _load_everything(output)
        log.info("  DataLoader: %d scenes, %d crops", scenes, crops)
    _compare(summary, scenes, crops)
    with _step("train"):
        report = train(output, steps=steps)
    return DemoResult(summary=summary, report=report, loaded_scenes=scenes, loaded_crops=crops)


def _load_everything(output: Path) -> tuple[int, int]:
    """The numbers of scenes and crops that the loader returns for all splits together."""
    scenes: set[tuple[str, str]] = set()
    crops = 0
    splits: tuple[Literal["all", "test"], ...] = ("all", "test")
    for split in splits:
        try:
            dataset = CropDataset(output, split=split, crop_size=256, input="rgb", augment=False)
        except ConfigError:
            continue  # a split without a crop; a missing one shows in the sum
        loader = CropLoader(dataset, batch_size=4, shuffle=False)
        for batch in loader:
            crops += len(batch["gain"])
        pairs = dataset.rows.pairs
        scenes.update(zip(pairs["cfa"].to_pylist(), pairs["scene"].to_pylist(), strict=True))
    return len(scenes), crops


def _compare(summary: Summary, scenes: int, crops: int) -> None:
    if not summary.scenes.collected or not crops:
        raise ManifestError(f"a counter is zero: Bridge {summary.scenes.collected}, DataLoader {crops}")
    if (scenes, crops) != (summary.scenes.collected, summary.crops):
        raise ManifestError(
            f"the loader returned {crops} crops of {scenes} scenes, the manifest lists {summary.crops} of "
            f"{summary.scenes.collected}"
        )


@contextmanager
def _step(name: str) -> Iterator[None]:
    log.info("%s ...", name)
    start = time.monotonic()
    yield
    log.info("%s done in %.1f s", name, time.monotonic() - start)
