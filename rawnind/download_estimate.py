"""Estimates what a published data set would take: bytes, disk, memory and time, from the list of its files alone."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rawnind.capacity import PhotoSize, this_machine
from rawnind.errors import ConfigError
from rawnind.memory import worker_bytes
from rawnind.options import Options
from rawnind.outcomes import planned_pairs
from rawnind.planning import Plan, SceneFilter, make_plan
from rawnind.reasons import Reason
from rawnind.records import Cfa, ImageRef, Scene
from rawnind.source.catalog import Catalog, load_catalog
from rawnind.source.decode import FrameSize
from rawnind.source.http_client import HttpClient
from rawnind.source.names import MAKERS, bare
from rawnind.source.remote import RemoteFile
from rawnind.words import counted

_BYTES_PER_SITE = {"arw": 2.0, "raf": 1.25, "cr2": 1.25, "nef": 1.2, "crw": 1.0}
"""Bytes of a file per site of its sensor, the fewest that are usual: an ARW of RawNIND is not compressed, the others are."""

_OTHER_BYTES_PER_SITE = 1.0

_ASSUMED_SITES = 24_000_000
"""Of a photo whose file's length is not known."""

_LINE = 12.5e6
"""Bytes per second of a line of 100 Mbit/s."""

_PAIR_SECONDS, _PHOTO_SECONDS = 0.3e-6, 0.03e-6
"""CPU seconds per site of a pair, measured on 8 megapixels (Bayer 0.32, X-Trans 0.23 microseconds, on a busy machine), and of
decoding a photo, as LibRaw takes for lossless JPEG."""

_CROP_BYTES_PER_SITE = 10.125


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoGroup:
    """Photos of one kind of camera and ISO.

    Attributes:
        camera: what the file's extension says: the list of files has no model.
        iso: None where the names do not say.
        photos: how many.
        bytes: of their files.
        seconds: CPU time of decoding them and of the pairs of the noisy ones.
        memory: of a worker on the largest of them, in bytes.
    """

    camera: str
    iso: int | None
    photos: int
    bytes: int
    seconds: float
    memory: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadEstimate:
    """What fetching and preparing a published data set would do and need.

    Attributes:
        plan: of the run.
        notes: differences between what is published and the data set's own index.
        files: that are downloaded.
        unknown_lengths: how many of them have no length in the list of files.
        pairs: planned pairs of the selected scenes.
        crop_bytes: the most that their crops take.
        groups: by camera and ISO, sorted.
    """

    plan: Plan
    notes: tuple[str, ...]
    files: int
    unknown_lengths: int
    pairs: int
    crop_bytes: float
    groups: tuple[PhotoGroup, ...]

    @property
    def download_bytes(self) -> int:
        """Bytes of the files of the selected scenes."""
        return sum(group.bytes for group in self.groups)

    @property
    def seconds(self) -> float:
        """CPU time of the run."""
        return sum(group.seconds for group in self.groups)

    @property
    def memory(self) -> float:
        """Bytes that the largest scene needs."""
        return max(group.memory for group in self.groups)

    def lines(self) -> Iterator[str]:
        """The text that `rawnind plan` prints."""
        yield from (f"differs: {note}" for note in self.notes)
        selected = self.plan.selected
        counts = ", ".join(f"{sum(scene.cfa is cfa for scene in selected)} {cfa}" for cfa in Cfa)
        yield f"Scenes:   {len(selected)} to process ({counts})"
        for reason in sorted(set(self.plan.left_out.values())):
            count = sum(each is reason for each in self.plan.left_out.values())
            yield f"          {count} left out: {Reason(reason).sentence}"
        yield f"Pairs:    {self.pairs}"
        cpus = this_machine().cpus
        yield (
            f"Download: {counted(self.files, 'file')}, {_gb(self.download_bytes)}, about {_hours(self.download_bytes / _LINE)} at 100 Mbit/s"
        )
        if self.unknown_lengths:
            yield f"          {counted(self.unknown_lengths, 'file')} without a length in the list, taken for {_ASSUMED_SITES / 1e6:.0f} megapixels"
        yield f"Disk:     {_gb(self.download_bytes)} of photos, at most {_gb(self.crop_bytes)} of crops"
        yield f"Memory:   about {_gb(self.memory)} for each worker"
        yield f"Time:     about {_hours(self.seconds)} of CPU time, {_hours(self.seconds / cpus)} on this machine's {cpus:.0f} CPUs"
        yield f"{'camera':10}{'ISO':>9}{'photos':>8}{'GB':>9}{'download':>12}{'CPU time':>12}{'memory':>10}"
        for group in self.groups:
            yield (
                f"{group.camera:10}{group.iso or 'unknown':>9}{group.photos:>8}{group.bytes / 1e9:>9.2f}"
                f"{_hours(group.bytes / _LINE):>12}{_hours(group.seconds):>12}{_gb(group.memory):>10}"
            )


def estimate_download(source: str, options: Options, client: HttpClient | None = None) -> DownloadEstimate:
    """Plans a run over a published data set; no photo is read.

    Args:
        source: as `load_catalog` takes it.
        options: of the run.
        client: that the server is asked with.

    Raises:
        IndexInvalidError: The source lists no photo.
        DownloadError: The server cannot be reached.
        ConfigError: No scene is selected.
    """
    catalog = load_catalog(source, client)
    catalog.require_scenes()
    selection = SceneFilter(
        cfa=options.cfa, exclude_test_reserve=options.exclude_test_reserve, limit=options.limit
    )
    plan = make_plan(catalog.index.scenes, selection, options.recipe)
    if not plan.selected:
        raise ConfigError("no scene is left: loosen --cfa, --limit or --exclude-test-reserve")
    pairs = {scene.key: len(planned_pairs(scene, plan.recipe.pairing)) for scene in plan.selected}
    share = (options.recipe.crop_size / options.recipe.stride) ** 2 * _CROP_BYTES_PER_SITE
    sites = {scene.key: _largest(scene, catalog) for scene in plan.selected}
    files = catalog.photos(plan.selected)
    return DownloadEstimate(
        plan=plan,
        notes=catalog.notes,
        files=len(files),
        unknown_lengths=sum(file.size is None for file in files),
        pairs=sum(pairs.values()),
        crop_bytes=sum(pairs[key] * sites[key] * share for key in pairs),
        groups=_groups(plan.selected, catalog),
    )


def _groups(scenes: tuple[Scene, ...], catalog: Catalog) -> tuple[PhotoGroup, ...]:
    found: dict[tuple[str, int | None], PhotoGroup] = {}
    for scene in scenes:
        truths = len(scene.ground_truths)
        for ref in (*scene.ground_truths, *scene.noisy):
            sites = _sites(ref, catalog)
            key = _camera(ref.filename), ref.iso
            old = found.get(key)
            found[key] = PhotoGroup(
                camera=key[0],
                iso=ref.iso,
                photos=1 + (old.photos if old else 0),
                bytes=_size(ref, catalog) + (old.bytes if old else 0),
                seconds=sites * (_PHOTO_SECONDS + (0 if ref.ground_truth else _PAIR_SECONDS))
                + (old.seconds if old else 0),
                memory=max(worker_bytes(sites, truths), old.memory if old else 0),
            )
    return tuple(found[key] for key in sorted(found, key=lambda key: (key[0], key[1] or 0)))


def _largest(scene: Scene, catalog: Catalog) -> int:
    return max((_sites(ref, catalog) for ref in (*scene.ground_truths, *scene.noisy)), default=0)


def estimated_sizes(
    scenes: Iterable[Scene], files: Mapping[str, Sequence[RemoteFile]]
) -> Iterator[PhotoSize]:
    """About how large photos are that are not there yet.

    Args:
        scenes: whose photos.
        files: key of a scene -> its files on the server.
    """
    for scene in scenes:
        sizes = {file.filename: _length(file) for file in files[scene.key]}
        for ref in (*scene.ground_truths, *scene.noisy):
            sites = _estimated_sites(ref.filename, sizes.get(bare(ref.filename), 0))
            side = math.isqrt(sites)
            frame = FrameSize(height=side, width=side, raw_height=side, raw_width=side)
            yield PhotoSize(photo=ref, truths=len(scene.ground_truths), size=frame, is_estimated=True)


def _sites(ref: ImageRef, catalog: Catalog) -> int:
    return _estimated_sites(ref.filename, _size(ref, catalog))


def _estimated_sites(filename: str, size: int) -> int:
    """About how many sites a photo has, at most, by the length of its file."""
    return round(size / _BYTES_PER_SITE.get(_extension(filename), _OTHER_BYTES_PER_SITE))


def _size(ref: ImageRef, catalog: Catalog) -> int:
    file = catalog.file_of(ref)
    return _length(file) if file else 0


def _length(file: RemoteFile) -> int:
    if file.size is not None:
        return file.size
    return round(_ASSUMED_SITES * _BYTES_PER_SITE.get(_extension(file.filename), _OTHER_BYTES_PER_SITE))


def _camera(filename: str) -> str:
    extension = _extension(filename)
    return MAKERS.get(extension, extension.upper())


def _extension(filename: str) -> str:
    return filename.rpartition(".")[2].lower()


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _hours(seconds: float) -> str:
    """A duration: `40 s`, `12 min`, `5.3 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
