"""Measurements of the noise of single photos, bursts and dark frames, from an output folder or from RAW files."""

import hashlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rawnind.errors import ConfigError, SourceError
from rawnind.imaging.photo import Photo
from rawnind.imaging.photo_noise import LARGEST_ERROR, photo_noise
from rawnind.noise.frames import FrameNoise, burst_noise, dark_noise
from rawnind.output.manifest import PAIRS
from rawnind.output.store import Store
from rawnind.output.tables import open_table, require_sealed, require_sound
from rawnind.records import Cfa, ImageRef, Scene
from rawnind.source.decode import decode
from rawnind.source.index import load_index

log = logging.getLogger(__name__)

COLORS = ("red", "green", "blue")
_MOST_DARK = 200  # files of a folder of dark frames
_MOST_LIGHT = 0.02  # median level of a dark frame


class Method(StrEnum):
    """What a value was measured on; a curve: on photos of other ISOs too."""

    PAIR = "pair"
    BURST = "burst"
    BORDER = "border"
    DARK = "dark"
    PHOTO = "photo"
    CURVE = "curve"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The noise of one colour as one photo, pair, burst or set of dark frames shows it; None where it was not measured.

    Attributes:
        photo: what it was measured on, for counting.
        a: variance = a * level + b of a single site, in levels squared.
        a_error: its standard error.
        b_error: of b.
        covariance: of both errors.
        row: standard deviation of a row's common offset, in levels.
        row_error: its standard error, where it is known.
        span: white level minus black level, in sensor values.
    """

    camera: str
    iso: int
    color: str
    method: Method
    photo: str = ""
    a: float | None = None
    b: float | None = None
    a_error: float | None = None
    b_error: float | None = None
    covariance: float = 0.0
    row: float | None = None
    row_error: float | None = None
    span: float | None = None


_COLUMNS = ("camera", "iso", "gt_iso", "noisy_sha1", "gt_sha1", "black_level", "white_level")
_LINES, _BORDER = "noise_lines", "border_noise"
_OWN = tuple(f"{prefix}noise_{part}_{color}" for prefix in ("", "gt_") for part in "ab" for color in COLORS)


def samples_of_output(store: Store) -> Iterator[Sample]:
    """What prepare measured: each noisy photo beside its ground truth, each ground truth alone, and the borders of all photos.

    A ground truth counts where none of its pairs shows more texture than its noise allows.

    Raises:
        ManifestError: The list of pairs cannot be read.
        OutputError: The storage reports an error.
    """
    require_sealed(store)
    with open_table(store, PAIRS, _COLUMNS[:-2]) as file:
        table = file.read(
            [
                name
                for name in (*_COLUMNS, _LINES, _BORDER, f"gt_{_BORDER}", *_OWN)
                if name in file.schema_arrow.names
            ]
        )
    require_sound(table, PAIRS, store.location)
    yield from samples_of_pairs(table.to_pylist())


def samples_of_pairs(pairs: Iterable[Mapping[str, Any]]) -> Iterator[Sample]:
    """As `samples_of_output`, from rows of pairs.parquet.

    Args:
        pairs: the rows; those of earlier versions may lack columns.
    """
    truths: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    borders: dict[str, list[Sample]] = {}
    rows = [row for row in pairs if row["camera"] is not None]
    measured_with = Counter(row["noisy_sha1"] for row in rows if row.get(_LINES))
    for row in rows:
        if row["iso"]:
            times = measured_with[row["noisy_sha1"]] or 1  # beside each of its ground truths the same noise
            for sample in _of_row(row, "", row["iso"], Method.PAIR):
                yield _less_sure(sample, times**0.5)
        if row["gt_sha1"] is not None and row["gt_iso"]:
            truths[row["gt_sha1"]].append(row)
        for sha1, iso, border in (
            (row["noisy_sha1"], row["iso"], row.get(_BORDER)),
            (row["gt_sha1"], row["gt_iso"], row.get(f"gt_{_BORDER}")),
        ):
            if iso and border:
                borders[sha1] = list(_of_border(row["camera"], iso, sha1, border, _span(row)))
    for found in borders.values():
        yield from found
    for of_truth in truths.values():
        measured = {
            name: min((row.get(name) for row in of_truth), key=lambda value: value is not None)
            for name in _OWN
        }
        yield from _of_row({**of_truth[0], **measured}, "gt_", of_truth[0]["gt_iso"], Method.PHOTO)


def _less_sure(sample: Sample, factor: float) -> Sample:
    """The sample with larger errors."""
    a_error, b_error = (error and error * factor for error in (sample.a_error, sample.b_error))
    return replace(sample, a_error=a_error, b_error=b_error, covariance=sample.covariance * factor**2)


def _span(row: Mapping[str, Any]) -> float | None:
    black, white = row.get("black_level"), row.get("white_level")
    return white - sum(black) / len(black) if black and white is not None else None


def _of_row(row: Mapping[str, Any], prefix: str, iso: int, method: Method) -> Iterator[Sample]:
    """The samples of one photo of a pair; of a folder of an earlier version, only what was sure by itself."""
    for number, color in enumerate(COLORS):
        lines = row.get(_LINES) if method is Method.PAIR else None
        if lines:
            a, b, a_error, b_error, covariance = lines[5 * number : 5 * number + 5]
        else:
            a, b = (row.get(f"{prefix}noise_{part}_{color}") for part in "ab")
            a_error, b_error = (None if value is None else LARGEST_ERROR * value for value in (a, b))
            covariance = 0.0
        if a is not None or b is not None:
            yield Sample(
                camera=row["camera"], iso=iso, color=color, method=method, photo=row[f"{prefix or 'noisy_'}sha1"], a=a, b=b,
                a_error=a_error, b_error=b_error, covariance=covariance, span=_span(row),
            )  # fmt: skip


def _of_border(
    camera: str, iso: int, photo: str, numbers: Sequence[float], span: float | None
) -> Iterator[Sample]:
    """The samples of one photo's borders, from `BorderNoise.numbers`."""
    row, row_error = numbers[6:] or (None, None)
    for color, b, error in zip(COLORS, numbers[:3], numbers[3:6], strict=True):
        yield Sample(
            camera=camera, iso=iso, color=color, method=Method.BORDER, photo=photo, b=b, b_error=error, row=row,
            row_error=row_error, span=span,
        )  # fmt: skip


Progress = Callable[[int, int], None]


def samples_of_source(source: str | Path, progress: Progress = lambda *_: None) -> Iterator[Sample]:
    """Noise of every photo that can be read, of its borders, and of bursts of ground truths of one scene and ISO.

    Args:
        source: as `load_index` takes it.
        progress: called with (scenes done, scenes in all).

    Raises:
        IndexInvalidError: The source names no scene.
    """
    scenes = load_index(source).scenes
    for number, scene in enumerate(scenes):
        progress(number, len(scenes))
        yield from _of_scene(scene)
    progress(len(scenes), len(scenes))


def _of_scene(scene: Scene) -> Iterator[Sample]:
    bursts: dict[tuple[str, int], list[tuple[str, Photo]]] = defaultdict(list)
    for ref in (*scene.ground_truths, *scene.noisy):
        photo = _decoded(ref)
        iso = ref.iso or (photo.sensor.capture.iso if photo and photo.sensor.capture else None)
        if photo is None or not iso:
            continue
        if border := photo.sensor.border_noise:
            yield from _of_border(photo.sensor.camera, iso, ref.sha1, border.numbers, _span_of(photo))
        for color, noise in zip(COLORS, photo_noise(photo) or (), strict=False):
            a, b = noise.measured
            yield Sample(
                camera=photo.sensor.camera, iso=iso, color=color, method=Method.PHOTO, photo=ref.sha1, a=a, b=b,
                a_error=noise.slope_error, b_error=noise.floor_error, span=_span_of(photo),
            )  # fmt: skip
        if ref.ground_truth:
            bursts[photo.sensor.camera, iso].append((ref.sha1, photo))
    for (_, iso), photos in bursts.items():
        for (name, one), (_, other) in pairwise(photos):
            yield from _of_frames(one, name, iso, Method.BURST, burst_noise(one, other) or ())


def samples_of_dark_frames(folder: Path) -> Iterator[Sample]:
    """Read noise and row noise from the RAW files of a folder: at least two of each camera and ISO, taken with the cap on.

    A file that shows light, or has the bytes of another one, is left out with a warning.

    Raises:
        ConfigError: It is no folder, holds too many files, or no two of its files are of one camera and ISO.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is not a folder; --dark takes one with RAW files that were taken with the cap on"
        )
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    if len(files) > _MOST_DARK:
        raise ConfigError(f"{folder} holds {len(files)} files; at most {_MOST_DARK} dark frames are read")
    frames: dict[tuple[str, int, tuple[int, ...]], list[Photo]] = defaultdict(list)
    seen: set[str] = set()
    for path in files:
        ref = _ref_of(path)
        photo = _decoded(ref)
        iso = photo.sensor.capture.iso if photo and photo.sensor.capture else None
        if not photo or not iso:
            continue
        if ref.sha1 in seen:
            log.warning("left out: %s has the bytes of another dark frame", path.name)
        elif (level := _median_level(photo)) > _MOST_LIGHT:
            log.warning(
                "left out: %s shows light (level %.2f); dark frames are taken with the cap on",
                path.name,
                level,
            )
        else:
            frames[photo.sensor.camera, iso, photo.mosaic.shape].append(photo)
        seen.add(ref.sha1)
    several = {key: photos for key, photos in frames.items() if len(photos) > 1}
    if not several:
        raise ConfigError(
            f"{folder} holds no two RAW files of one camera and ISO without light; dark frames are compared with each other"
        )
    for (_, iso, _), photos in several.items():
        yield from _of_frames(photos[0], "dark", iso, Method.DARK, dark_noise(photos))


def _median_level(photo: Photo) -> float:
    black = math.fsum(photo.sensor.black_level) / len(photo.sensor.black_level)
    return (float(np.median(photo.mosaic)) - black) / _span_of(photo)


def _ref_of(path: Path) -> ImageRef:
    with path.open("rb") as file:
        sha1 = hashlib.file_digest(file, "sha1").hexdigest()
    return ImageRef(
        cfa=Cfa.BAYER,
        scene="dark",
        ground_truth=False,
        iso=None,
        sha1=sha1,
        filename=path.name,
        path=str(path),
    )


def _decoded(ref: ImageRef) -> Photo | None:
    try:
        return Photo.from_visible(*decode(ref))
    except SourceError as error:
        log.warning("left out: %s", error)
        return None


def _of_frames(
    photo: Photo, name: str, iso: int, method: Method, noise: Iterable[FrameNoise]
) -> Iterator[Sample]:
    for color, found in zip(COLORS, noise, strict=False):
        yield Sample(
            camera=photo.sensor.camera, iso=iso, color=color, method=method, photo=name, a=found.a, b=found.b,
            a_error=found.a_error, b_error=found.b_error, row=found.row, span=_span_of(photo),
        )  # fmt: skip


def _span_of(photo: Photo) -> float:
    sensor = photo.sensor
    return sensor.white_level - math.fsum(sensor.black_level) / len(sensor.black_level)
