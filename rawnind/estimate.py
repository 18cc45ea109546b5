"""Estimates what a run would do and need, from file headers alone."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rawnind.errors import ConfigError, SourceError
from rawnind.options import Options
from rawnind.outcomes import planned_pairs
from rawnind.planning import Plan, SceneFilter, make_plan
from rawnind.reasons import Reason
from rawnind.records import Cfa, Scene
from rawnind.source.decode import headers
from rawnind.source.index import load_index

_BYTES_PER_SITE = 34
"""Peak memory of a worker per site of the photo, measured on 6 to 100 megapixels (see benchmarks/bench_pair.py)."""
_PROCESS_BYTES = 350e6
"""Memory of a worker with its libraries and no photo."""
_CROP_BYTES_PER_SITE = 10.125
"""Bytes in a shard: noisy_raw 2, gt_raw 2, gt_rgb 6, and one bit of mask."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """An estimate of what a run would do and need.

    Attributes:
        pairs: planned pairs of the selected scenes.
        crops: the largest number of crops of these pairs.
        disk_bytes: size of these crops.
        worker_bytes: peak memory of one worker on the largest photo.
        workers: number of workers on this machine.
        missing: selected scenes without a photo that can be opened.
        too_small: selected scenes whose photos are smaller than a crop.
    """

    plan: Plan
    pairs: int
    crops: int
    disk_bytes: float
    worker_bytes: float
    workers: int
    missing: int
    too_small: int

    def lines(self) -> Iterator[str]:
        """The text that `rawnind plan` prints."""
        selected = self.plan.selected
        counts = ", ".join(f"{sum(scene.cfa is cfa for scene in selected)} {cfa}" for cfa in Cfa)
        left_out = Counter(self.plan.left_out.values())
        yield f"Scenes:  {len(selected)} to process ({counts})"
        for reason, count in sorted(left_out.items()):
            yield f"         {count} left out: {Reason(reason).sentence}"
        if self.missing:
            yield f"         {self.missing} without a photo that can be opened"
        if self.too_small:
            yield f"         {self.too_small} smaller than a crop of {self.plan.recipe.crop_size}"
        yield f"Pairs:   {self.pairs}"
        yield f"Crops:   at most {self.crops}, {self.disk_bytes / 1e9:.1f} GB"
        yield f"Workers: {self.workers} on this machine, at most {self.worker_bytes / 1e9:.1f} GB of memory each"


def estimate(source: str | Path, options: Options) -> Estimate:
    """Plans a run and reads one header for each selected scene.

    Raises:
        IndexInvalidError: The source is not a data set.
        ConfigError: The run would collect nothing: no scene is selected, no photo exists, every photo is too small,
            or one worker needs more memory or CPUs than this machine has.
    """
    cpus = os.cpu_count() or 1
    if options.address is None and options.cpus_per_scene > cpus:
        raise ConfigError(f"one worker would need {options.cpus_per_scene:g} CPUs, this machine has {cpus}")
    selection = SceneFilter(
        cfa=options.cfa, exclude_test_reserve=options.exclude_test_reserve, limit=options.limit
    )
    plan = make_plan(load_index(source, follow_links=options.follow_links).scenes, selection, options.recipe)
    pairs = crops = missing = too_small = largest = 0
    for scene in plan.selected:
        shape = _shape(scene)
        per_pair = _crops(shape, scene.cfa, plan) if shape else 0
        missing += shape is None
        too_small += shape is not None and not per_pair
        count = len(planned_pairs(scene, options.recipe.pairing))
        pairs += count
        crops += count * per_pair
        largest = max(largest, shape[0] * shape[1] if shape else 0)
    found = Estimate(
        plan=plan,
        pairs=pairs,
        crops=crops,
        disk_bytes=crops * options.recipe.crop_size**2 * _CROP_BYTES_PER_SITE,
        worker_bytes=_PROCESS_BYTES + largest * _BYTES_PER_SITE,
        workers=_workers(options, len(plan.selected)),
        missing=missing,
        too_small=too_small,
    )
    _refuse(found)
    return found


def _refuse(found: Estimate) -> None:
    selected = len(found.plan.selected)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if not selected:
        raise ConfigError("no scene is left: loosen --cfa, --limit or --exclude-test-reserve")
    if found.missing == selected:
        raise ConfigError("no photo of these scenes can be opened: are the files beside the index?")
    if found.missing + found.too_small == selected:
        raise ConfigError(
            f"every photo is smaller than a crop of {found.plan.recipe.crop_size}: lower --crop-size"
        )
    if found.worker_bytes > memory:
        raise ConfigError(
            f"one worker needs {found.worker_bytes / 1e9:.1f} GB, this machine has {memory / 1e9:.1f} GB"
        )


def _workers(options: Options, scenes: int) -> int:
    limit = int((os.cpu_count() or 1) // options.cpus_per_scene)
    return max(1, min(limit, options.max_scenes or limit, scenes))


def _shape(scene: Scene) -> tuple[int, int] | None:
    """(height, width) of the scene's first photo that can be opened; None where none can."""
    for ref in (*scene.noisy, *scene.ground_truths):
        try:
            size = headers(ref)
        except SourceError:
            continue
        return size.height, size.width
    return None


def _crops(shape: tuple[int, int], cfa: Cfa, plan: Plan) -> int:
    size = plan.recipe.crop_size
    step = -(-plan.recipe.stride // cfa.period) * cfa.period
    rows, columns = ((length - size) // step + 1 if length >= size else 0 for length in shape)
    return rows * columns
