"""Estimates what a run would do and need, from file headers alone."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rawnind.capacity import Node, PhotoSize, Pool, find_pool, fits, photo_sizes, this_machine
from rawnind.chunks import chunks_of
from rawnind.errors import ConfigError, SourceError, first_of, printable
from rawnind.options import Options
from rawnind.outcomes import planned_pairs
from rawnind.planning import Plan, SceneFilter, make_plan
from rawnind.reasons import Reason
from rawnind.records import Cfa, ImageRef
from rawnind.source.exif import read_exif
from rawnind.source.index import Refused, load_index
from rawnind.source.storage import open_photo
from rawnind.words import counted

_CROP_BYTES_PER_SITE = 10.125
"""Bytes in a shard: noisy_raw 2, gt_raw 2, gt_rgb 6, and one bit of mask."""

_MOST_NAMED = 5
"""Photos that are too large and named; the others are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """An estimate of what a run would do and need.

    Attributes:
        pairs: planned pairs of the selected scenes.
        crops: the largest number of crops of these pairs.
        disk_bytes: size of these crops.
        pool: workers on this machine.
        missing: selected scenes without a photo that can be opened.
        without_truth: names of selected scenes with photos and no ground truth that can be opened; their pairs will be lost.
        without_noisy: the same for noisy photos.
        too_small: selected scenes whose photos are smaller than a crop.
        too_large: photos for which this machine has too little memory; they will fail.
        unusable: file names by what makes these files unusable, such as "an ordinary JPEG, not a RAW"; they will fail.
        other_iso: a sentence for each photo whose ISO in the index is not that of its file.
        refused: what the index has and a run leaves out, with the reason.
    """

    plan: Plan
    pairs: int
    crops: int
    disk_bytes: float
    pool: Pool
    missing: int
    without_truth: tuple[str, ...]
    without_noisy: tuple[str, ...]
    too_small: int
    too_large: tuple[PhotoSize, ...]
    unusable: Mapping[str, tuple[str, ...]]
    other_iso: tuple[str, ...]
    refused: tuple[Refused, ...]

    def lines(self) -> Iterator[str]:
        """The text that `rawnind plan` prints."""
        yield from self._scene_lines()
        yield f"Pairs:   {self.pairs}"
        yield f"Crops:   at most {self.crops}, {self.disk_bytes / 1e9:.1f} GB"
        yield f"Workers: {self.pool.workers} on this machine, at most {self.pool.needed / 1e9:.1f} GB of memory each"
        if self.pool.reduced:
            yield f"         {self.pool.reduced}"
        for size in self.too_large[:_MOST_NAMED]:
            yield f"         this machine has too little memory for {printable(str(size))}"
        if len(self.too_large) > _MOST_NAMED:
            yield f"         and for {counted(len(self.too_large) - _MOST_NAMED, 'other photo')}"
        for words, files in sorted(self.unusable.items()):
            yield f"Unusable: {len(files)} {words}: {_some(files)}"
        yield from first_of(f"Refused: {each.file}: {each.why}" for each in self.refused)
        if self.other_iso:
            yield f"ISO:     {len(self.other_iso)} contradict their files: {_some(self.other_iso)}"

    def _scene_lines(self) -> Iterator[str]:
        """How many scenes there are, and how many of them give nothing."""
        selected = self.plan.selected
        counts = ", ".join(f"{sum(scene.cfa is cfa for scene in selected)} {cfa}" for cfa in Cfa)
        left_out = Counter(self.plan.left_out.values())
        yield f"Scenes:  {len(selected)} to process ({counts})"
        for reason, count in sorted(left_out.items()):
            yield f"         {count} left out: {Reason(reason).sentence}"
        if self.missing:
            yield f"         {self.missing} without a photo that can be opened"
        for what, names in (("ground truth", self.without_truth), ("noisy photo", self.without_noisy)):
            if names:
                yield f"         {len(names)} without a {what} that can be opened: {_some(names)}"
        if self.too_small:
            yield f"         {self.too_small} smaller than a crop of {self.plan.recipe.crop_size}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:_MOST_NAMED])
    return shown + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")


class _Unusable:
    """Collects the files that cannot be used, by what is wrong with them."""

    def __init__(self) -> None:
        self.files: dict[str, list[str]] = defaultdict(list)

    def add(self, ref: ImageRef, error: SourceError) -> None:
        words = error.detail.removeprefix(f"{ref.filename}: ")
        if error.reason is not Reason.MISSING_FILE:
            self.files[words].append(ref.filename)


def _other_iso(photo: ImageRef) -> str | None:
    """A sentence where the file says another ISO than the index."""
    if photo.iso is None:
        return None
    with contextlib.suppress(OSError), open_photo(photo.path) as file:
        seen = read_exif(file)[0].iso
        return f"{photo.filename} (index {photo.iso}, file {seen})" if seen not in {None, photo.iso} else None
    return None


def estimate(source: str | Path, options: Options) -> Estimate:
    """Plans a run and reads the headers of all selected photos.

    Raises:
        IndexInvalidError: The source is not a data set.
        ConfigError: The run would collect nothing: no scene is selected, no photo exists, every photo is too small,
            every photo needs more memory than this machine has, or a worker more CPUs.
    """
    machine = this_machine()
    if options.address is None and options.cpus_per_scene > machine.cpus:
        raise ConfigError(
            f"one worker would need {options.cpus_per_scene:g} CPUs, this machine has {machine.cpus:g}"
        )
    selection = SceneFilter(
        cfa=options.cfa, exclude_test_reserve=options.exclude_test_reserve, limit=options.limit
    )
    index = load_index(source, follow_links=options.follow_links)
    plan = make_plan(index.scenes, selection, options.recipe)
    pairs = crops = missing = too_small = 0
    without: dict[bool, list[str]] = {True: [], False: []}
    sizes: list[PhotoSize] = []
    unusable = _Unusable()
    for scene in plan.selected:
        found = list(photo_sizes([scene], on_error=unusable.add))
        per_pair = max((_crops(size, plan) for size in found if fits(size, [machine])), default=0)
        missing += not found
        roles = {size.photo.ground_truth for size in found}
        if len(roles) == 1:
            without[not roles.pop()].append(scene.name)
            per_pair = 0
        too_small += bool(found) and not any(_crops(size, plan) for size in found)
        count = len(planned_pairs(scene, options.recipe.pairing))
        pairs += count
        crops += count * per_pair
        sizes += found
    estimated = Estimate(
        plan=plan,
        pairs=pairs,
        crops=crops,
        disk_bytes=crops * options.recipe.crop_size**2 * _CROP_BYTES_PER_SITE,
        pool=find_pool(
            [machine],
            options,
            scenes=sum(len(chunks_of(scene)) for scene in plan.selected),
            noisy=sum(len(scene.noisy) for scene in plan.selected),
            sizes=sizes,
        ),
        missing=missing,
        without_truth=tuple(without[True]),
        without_noisy=tuple(without[False]),
        too_small=too_small,
        too_large=tuple(size for size in sizes if not fits(size, [machine])),
        unusable={words: tuple(files) for words, files in unusable.files.items()},
        other_iso=tuple(text for size in sizes if (text := _other_iso(size.photo))),
        refused=index.refused,
    )
    _refuse(estimated, machine, all_too_large=bool(sizes) and len(estimated.too_large) == len(sizes))
    return estimated


def _refuse(found: Estimate, machine: Node, *, all_too_large: bool) -> None:
    selected = len(found.plan.selected)
    if not selected:
        raise ConfigError("no scene is left: loosen --cfa, --limit or --exclude-test-reserve")
    if found.missing == selected:
        raise ConfigError("no photo of these scenes can be opened: are the files beside the index?")
    if found.missing + found.too_small == selected:
        raise ConfigError(
            f"every photo is smaller than a crop of {found.plan.recipe.crop_size}: lower --crop-size"
        )
    if all_too_large:
        raise ConfigError(
            f"this machine has {machine.worker_memory / 1e9:.1f} GB for workers, too little for each of the photos, such as "
            f"{printable(str(found.too_large[0]))}"
        )


def _crops(size: PhotoSize, plan: Plan) -> int:
    """The largest number of crops of a photo."""
    side, period = plan.recipe.crop_size, size.photo.cfa.period
    step = -(-plan.recipe.stride // period) * period
    lengths = (size.size.height, size.size.width)
    rows, columns = ((length - side) // step + 1 if length >= side else 0 for length in lengths)
    return rows * columns
