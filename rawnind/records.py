"""Frozen records: what processes exchange, and what the manifest is made from.

Records carry no pixels. Values from outside (a file, a worker, another process) are validated against them by
`pydantic.TypeAdapter`, which reads the annotations below.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from rawnind.measurements import GROWING, Count, Crop, Fraction, Measurements, NonNegative
from rawnind.reasons import Outcome, Reason


def _short(name: str) -> str:
    """A scene names a folder, and file systems take 255 bytes; letters may have four."""
    if len(name.encode()) > 200:
        raise ValueError("it must have at most 200 bytes")
    return name


Sha1 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SceneName = Annotated[str, Field(pattern=r"^[^\W_][\w.+ -]*$"), AfterValidator(_short)]
# A pattern that counts to 199 takes 21 MB and 0.08 s in every process.

_strict = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


class Cfa(StrEnum):
    """Colour filter array."""

    BAYER = "bayer"
    X_TRANS = "x-trans"

    @property
    def tile(self) -> tuple[tuple[int, ...], ...]:
        """The repeating tile as colour indices (0 red, 1 green, 2 blue); a frame's first site is its first entry.

        >>> Cfa.BAYER.tile
        ((0, 1), (1, 2))
        """
        return _TILES[self]

    @property
    def period(self) -> int:
        """Sites after which the pattern repeats: 2 for Bayer, 6 for X-Trans."""
        return len(self.tile)

    @property
    def cell(self) -> int:
        """Sites that one sample of a plane spans in each direction: 2 for Bayer, 3 for X-Trans."""
        return {Cfa.BAYER: 2, Cfa.X_TRANS: 3}[self]

    @property
    def plane_colors(self) -> tuple[int, ...]:
        """Colour index of each plane: R, G, G, B for Bayer and R, G, B for X-Trans."""
        return {Cfa.BAYER: (0, 1, 1, 2), Cfa.X_TRANS: (0, 1, 2)}[self]


_TILES = {
    Cfa.BAYER: ((0, 1), (1, 2)),
    Cfa.X_TRANS: (
        (1, 1, 0, 1, 1, 2),
        (1, 1, 2, 1, 1, 0),
        (2, 0, 1, 0, 2, 1),
        (1, 1, 2, 1, 1, 0),
        (1, 1, 0, 1, 1, 2),
        (0, 2, 1, 2, 0, 1),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef:
    """A photo of the index; the file was not opened yet.

    Attributes:
        scene: the scene's name, without UNK_ and TEST_.
        ground_truth: True for a ground-truth photo, False for a noisy one.
        iso: of the index entry, or of the name; None where neither says. `Hi 3200` is 3200.
        filename: as the index has it; where it lies in a sub-folder, with that folder.
        path: local path, whether or not the file exists.
    """

    __pydantic_config__ = _strict

    cfa: Cfa
    scene: SceneName
    ground_truth: bool
    iso: int | None
    sha1: Sha1
    filename: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Photos of one motif from one camera position, sorted by SHA-1."""

    __pydantic_config__ = _strict

    name: SceneName
    cfa: Cfa
    test_reserve: bool
    unknown_sensor: bool
    ground_truths: tuple[ImageRef, ...]
    noisy: tuple[ImageRef, ...]

    @property
    def key(self) -> str:
        """What identifies the scene in one source: `bayer/kitchen`."""
        return f"{self.cfa}/{self.name}"


SeenFiles = tuple[tuple[str, int, int] | tuple[str], ...]
"""Of each photo of a scene, ground truths first: SHA-1, and size and time (ns) of its file where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capture:
    """How a photo was taken, as the camera wrote it into the file; None where the file does not say.

    Attributes:
        iso: as the camera shows it.
        exposure_time: seconds.
        aperture: f-number.
        focal_length: millimetres, of the lens itself.
        captured_at: the camera's own clock, `2026-05-01T12:30:05`.
        lens: model of the lens.
        orientation: Exif's number, 1 (upright) to 8.
    """

    __pydantic_config__ = GROWING

    iso: int | None = None
    exposure_time: float | None = None
    aperture: float | None = None
    focal_length: float | None = None
    captured_at: str | None = None
    lens: str | None = None
    orientation: int | None = None


Three = tuple[NonNegative, NonNegative, NonNegative]


@dataclass(frozen=True, kw_only=True, slots=True)
class BorderNoise:
    """The noise that borders of the sensor show, which no light reaches.

    Attributes:
        b: variance of a single red, green and blue site, in levels squared: read noise and rounding.
        b_error: standard errors.
        row: standard deviation of what all sites of a row have in common, in levels; below zero where rows scatter less than single
            sites explain; None where it was not measured.
        row_error: its standard error.
    """

    __pydantic_config__ = GROWING

    b: Three
    b_error: Three
    row: float | None
    row_error: NonNegative | None

    @property
    def numbers(self) -> tuple[float, ...]:
        """The variances, their errors, and the row noise with its error where it was measured."""
        row = () if self.row is None or self.row_error is None else (self.row, self.row_error)
        return *self.b, *self.b_error, *row


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensor:
    """Parameters of the sensor, from the RAW file.

    Attributes:
        origin: (y, x) in the visible area of the first site of `cfa.tile`; within one period of (0, 0).
        height: rows of the visible area.
        width: columns of the visible area.
        black_level: sensor values, in plane order (R, G, G, B or R, G, B).
        white_level: sensor value at which the sensor is full.
        overexposure_lb: level (0..1) at which the camera's own limit lies; 1.0 where the file does not say.
        rgb_xyz_matrix: XYZ -> camera RGB, 3x3 row by row, or None where the camera is not known.
        camera: make and model as the file spells them.
        capture: how the photo was taken; None in folders of earlier versions.
        border_noise: None where the file has no borders that show read noise alone.
    """

    __pydantic_config__ = GROWING

    cfa: Cfa
    origin: tuple[int, int]
    height: Count
    width: Count
    black_level: tuple[float, ...]
    white_level: float
    overexposure_lb: Fraction
    rgb_xyz_matrix: tuple[float, ...] | None
    camera: str
    capture: Capture | None = None
    border_noise: BorderNoise | None = None

    def first_tile_from(self, other: "Sensor") -> tuple[int, int]:
        """(y, x) of this photo's first tile less the other's, in sites: what a shift between the frames of two photos lacks to be that between their visible areas."""
        return self.origin[0] - other.origin[0], self.origin[1] - other.origin[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """The file that holds one pair's crops, in the order of the pair's crop list."""

    __pydantic_config__ = _strict

    path: str
    sha256: Sha256
    size: Count


@dataclass(frozen=True, kw_only=True, slots=True)
class PairResult:
    """What became of one planned pair.

    Attributes:
        ground_truth: None where the scene has no usable GT, or where none was chosen.
        noisy: the noisy photo.
        sensor: the noisy photo's sensor; None where it was not decoded.
        gt_sensor: the GT's sensor; None where it was not decoded.
        shard: None unless collected.
        crops: sorted by (y, x); empty unless collected.
        detail: the file it is about and what was seen, for people; empty when collected.
    """

    __pydantic_config__ = _strict

    ground_truth: ImageRef | None
    noisy: ImageRef
    outcome: Outcome
    reason: Reason | None
    detail: str
    measured: Measurements
    sensor: Sensor | None
    gt_sensor: Sensor | None
    shard: Shard | None
    crops: tuple[Crop, ...]

    @property
    def pair_id(self) -> str:
        """`<noisy_sha1[:12]>-<gt_sha1[:12]>`, with `none` for a GT that was never chosen."""
        return pair_id(self.noisy, self.ground_truth)


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedFile:
    """A photo that could not be used, whether or not a pair was lost with it."""

    __pydantic_config__ = _strict

    photo: ImageRef
    reason: Reason
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneResult:
    """What became of one planned scene: what a worker returns and the bridge commits.

    Attributes:
        pairs: one per planned pair, sorted by pair_id.
        failed_files: sorted by SHA-1.
    """

    __pydantic_config__ = _strict

    scene: Scene
    recipe: str
    outcome: Outcome
    reason: Reason | None
    detail: str
    pairs: tuple[PairResult, ...]
    failed_files: tuple[FailedFile, ...]


def pair_id(noisy: ImageRef, ground_truth: ImageRef | None) -> str:
    """Name of a pair, from the photos' hashes."""
    return f"{noisy.sha1[:12]}-{ground_truth.sha1[:12] if ground_truth else 'none'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How many were planned, and what became of them."""

    __pydantic_config__ = _strict

    planned: Count = 0
    collected: Count = 0
    filtered: Count = 0
    rejected: Count = 0
    failed: Count = 0

    @property
    def open(self) -> int:
        """Planned ones without an outcome yet."""
        return self.planned - self.collected - self.filtered - self.rejected - self.failed


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a run left behind.

    Attributes:
        reasons: how many pairs ended for each reason, sorted by reason.
        scene_reasons: how many scenes without a planned pair ended for each reason, sorted by reason; empty in a manifest
            of an earlier version.
        manifest_sha256: SHA-256 of manifest.parquet.
    """

    __pydantic_config__ = _strict

    recipe: str
    scenes: Counts
    pairs: Counts
    crops: Count
    reasons: tuple[tuple[Reason, int], ...]
    manifest_sha256: Sha256
    scene_reasons: tuple[tuple[Reason, int], ...] = ()

    @property
    def incomplete(self) -> str:
        """What the manifest of a run that was stopped lacks, as a sentence; empty where every scene has an outcome."""
        scenes = self.scenes
        if not scenes.open:
            return ""
        return (
            f"the manifest is incomplete: {scenes.open} of {scenes.planned} scenes have no outcome yet; run `rawnind prepare` "
            "again to resume"
        )
