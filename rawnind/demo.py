"""The whole way on the built-in sample: what `make demo` and the smoke test run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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

Echo = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tour:
    """What came of it.

    Attributes:
        loaded_scenes: scenes of which the loader gave at least one crop.
        loaded_crops: crops that the loader gave.
    """

    summary: Summary
    report: TrainReport
    loaded_scenes: int
    loaded_crops: int


def tour(folder: Path, options: Options, *, steps: int, progress: Progress, echo: Echo) -> Tour:
    """Sample -> plan -> prepare -> verify -> every crop through the loader -> training, in `folder`.

    Raises:
        ManifestError: Something does not add up: a counter is zero, or differs from the manifest.
        RawnindError: A step failed.
    """
    source, output = folder / "pairs", folder / "prepared"
    with _step("sample", echo):
        truth = make_sample(source)
        echo(f"  {len(truth.scenes)} scenes, {len(truth.files)} DNG files in {source}")
    with _step("plan", echo):
        for line in estimate(source, options).lines():
            echo(f"  {line}")
    with _step("prepare", echo):
        summary = run(source, output, options, progress)
    with _step("verify", echo):
        problems = list(verify(Store(str(output))))
        if problems:
            raise ManifestError("; ".join(problems))
        echo("  every count, hash and coordinate is as it was written")
    with _step("load", echo):
        scenes, crops = _load_everything(output)
        echo(f"  DataLoader: {scenes} scenes, {crops} crops")
    _compare(summary, scenes, crops)
    with _step("train", echo):
        report = train(
            output, steps=steps, progress=lambda step, loss: echo(f"  step {step:3d}  loss {loss:.4f}")
        )
    return Tour(summary=summary, report=report, loaded_scenes=scenes, loaded_crops=crops)


def _load_everything(output: Path) -> tuple[int, int]:
    """Scenes and crops that the loader gives when it goes through every split once."""
    scenes: set[tuple[str, str]] = set()
    crops = 0
    for split in ("all", "test"):
        try:
            dataset = CropDataset(output, split=split, crop_size=256, input="rgb", augment=False)
        except ConfigError:
            continue  # a split without a crop, e.g. when test-reserve scenes were left out; the sum shows it
        loader = CropLoader(dataset, batch_size=4, shuffle=False)
        for batch in loader:
            crops += len(batch["gain"])
        pairs = dataset.rows.pairs
        scenes.update(zip(pairs["cfa"].to_pylist(), pairs["scene"].to_pylist(), strict=True))
    return len(scenes), crops


def _compare(summary: Summary, scenes: int, crops: int) -> None:
    if not summary.scenes.collected or not crops:
        raise ManifestError(
            f"a counter stands at zero: Bridge {summary.scenes.collected}, DataLoader {crops}"
        )
    if (scenes, crops) != (summary.scenes.collected, summary.crops):
        raise ManifestError(
            f"the loader gave {crops} crops of {scenes} scenes, the manifest lists {summary.crops} of "
            f"{summary.scenes.collected}"
        )


@contextmanager
def _step(name: str, echo: Echo) -> Iterator[None]:
    echo(f"{name} ...")
    start = time.monotonic()
    yield
    echo(f"{name} done in {time.monotonic() - start:.1f} s")
