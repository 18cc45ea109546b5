"""What is true of a sample data set, as records; `truth.json` is these records."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rawnind.errors import ConfigError
from rawnind.measurements import Count, Fraction, NonNegative
from rawnind.reasons import Outcome, Reason
from rawnind.records import Cfa, SceneName, Sha1

TRUTH_FILE = "truth.json"

_strict = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")

SIGN = "GT site (y + dy, x + dx) shows what noisy site (y, x) shows; (0, 0) is the visible area's first site."


class Damage(StrEnum):
    """What was done to a file after it was made."""

    FLIPPED = "flipped"
    """Some bytes of the pixels are inverted: the file decodes, and its SHA-1 is not the one in its name."""
    TRUNCATED = "truncated"
    """The file ends after 60 % of its bytes; the SHA-1 in its name is that of the bytes that are left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ellipse:
    """A region of a photo, in rows and columns of its visible area; it may reach beyond the edges.

    Attributes:
        y: row of the centre.
        x: column of the centre.
        semi_y: half of its height in rows.
        semi_x: half of its width in columns.
    """

    __pydantic_config__ = _strict

    y: float
    x: float
    semi_y: NonNegative
    semi_x: NonNegative

    def covers(self, height: int, width: int, *, grow: float = 0.0) -> NDArray[np.bool_]:
        """(height, width), True inside; `grow` sites are added to both half axes.

        Args:
            height: rows of the frame.
            width: columns of the frame.
            grow: sites.
        """
        y = (np.arange(height)[:, None] - self.y) / (self.semi_y + grow)
        x = (np.arange(width)[None, :] - self.x) / (self.semi_x + grow)
        inside: NDArray[np.bool_] = y * y + x * x <= 1
        return inside


@dataclass(frozen=True, kw_only=True, slots=True)
class Motion:
    """An object at another place in the noisy photo than in the GT; in the noisy photo's coordinates.

    Attributes:
        was: its place in the GT.
        now: its place in the noisy photo.
        contrast: mean absolute difference between the photos inside both, without noise, in levels of the GT.
        noise: standard deviation of the gain-matched difference inside both that the sensor's noise causes, in
            levels of the GT.
    """

    __pydantic_config__ = _strict

    was: Ellipse
    now: Ellipse
    contrast: NonNegative
    noise: NonNegative

    def covers(self, height: int, width: int, *, grow: float = 0.0) -> NDArray[np.bool_]:
        """(height, width), True where the noisy photo differs from the GT.

        Args:
            height: rows of the frame.
            width: columns of the frame.
            grow: sites.
        """
        return self.was.covers(height, width, grow=grow) | self.now.covers(height, width, grow=grow)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileTruth:
    """One file of the set.

    Attributes:
        sha1: the SHA-1 in the file's name.
        bytes_sha1: the SHA-1 of the bytes on disk; differs only where `damage` is `flipped`.
        size: bytes on disk.
        photo: the photograph that it shows, a file of scikit-image's `data` folder.
        pattern: colour indices (0 red, 1 green, 2 blue) from the visible area's first site on.
        origin: (y, x) in the visible area of the first site of `cfa.tile`.
        margins: rows and columns around the visible area: top, left, bottom, right.
        height: rows of the visible area.
        width: columns of the visible area.
        black_level: in plane order, R, G, G, B or R, G, B.
        rgb_xyz_matrix: XYZ (D65, Y of white = 1) -> camera RGB, 3x3 row by row.
        exposure: the photo's levels (camera RGB), brought to linear Rec.2020 with `rgb_xyz_matrix` and without white
            balance, are `exposure` times the scene's linear Rec.2020.
        shot_variance: variance that photon noise adds per level, in levels.
        read_sigma: standard deviation of the read noise, in levels.
        row_sigma: standard deviation of the row noise, in levels.
        overexposed_fraction: share of the visible sites whose level reaches 1 before noise.
        lamp: where every colour is overexposed; None without a lamp.
    """

    __pydantic_config__ = _strict

    filename: str
    scene: SceneName
    cfa: Cfa
    ground_truth: bool
    iso: int
    sha1: Sha1
    bytes_sha1: Sha1
    size: Count
    damage: Damage | None
    photo: str
    camera: str
    pattern: tuple[tuple[int, ...], ...]
    origin: tuple[int, int]
    margins: tuple[int, int, int, int]
    height: Count
    width: Count
    black_level: tuple[int, ...]
    white_level: int
    rgb_xyz_matrix: tuple[float, ...]
    exposure: NonNegative
    shot_variance: NonNegative
    read_sigma: NonNegative
    row_sigma: NonNegative
    overexposed_fraction: Fraction
    lamp: Ellipse | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTruth:
    """One GT with one noisy photo of a scene; every combination is listed.

    Attributes:
        gt_sha1: as in the file's name; None where the scene has no GT.
        shift: (dy, dx) in whole sites: GT site (y + dy, x + dx) shows what noisy site (y, x) shows. None where there
            is no GT or where it shows something else.
        subpixel: what has to be added to `shift`, in [-0.5, 0.5).
        gain: factor that brings the noisy photo's signal to the GT's level.
        motion: the object that moved, if one did.
        outcome: what `prepare` makes of it, if it plans the pair and is not told to leave the scene out.
        reason: why it is not collected.
    """

    __pydantic_config__ = _strict

    scene: SceneName
    cfa: Cfa
    gt_sha1: Sha1 | None
    noisy_sha1: Sha1
    shift: tuple[int, int] | None
    subpixel: tuple[float, float] | None
    gain: NonNegative | None
    motion: Motion | None
    outcome: Outcome
    reason: Reason | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneTruth:
    """One scene; `outcome` and `reason` are those that `prepare` must give it unless it is filtered."""

    __pydantic_config__ = _strict

    name: SceneName
    cfa: Cfa
    test_reserve: bool
    unknown_sensor: bool
    outcome: Outcome
    reason: Reason | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """A whole sample set; files sorted by name.

    Attributes:
        version: raised whenever the same arguments give other files.
        seed: argument of `make_sample`.
        height: rows of every visible area.
        width: columns of every visible area.
        sign: what a shift means, for readers of the JSON.
    """

    __pydantic_config__ = _strict

    version: int
    seed: int
    height: Annotated[int, Field(gt=0)]
    width: Annotated[int, Field(gt=0)]
    sign: str
    scenes: tuple[SceneTruth, ...]
    files: tuple[FileTruth, ...]
    pairs: tuple[PairTruth, ...]

    def file(self, sha1: str) -> FileTruth:
        """The file whose name carries `sha1`.

        Raises:
            KeyError: There is none.
        """
        for file in self.files:
            if file.sha1 == sha1:
                return file
        raise KeyError(sha1)

    def pair(self, gt_sha1: str | None, noisy_sha1: str) -> PairTruth:
        """The pair of two files, by the SHA-1s in their names.

        Raises:
            KeyError: There is none.
        """
        for pair in self.pairs:
            if (pair.gt_sha1, pair.noisy_sha1) == (gt_sha1, noisy_sha1):
                return pair
        raise KeyError((gt_sha1, noisy_sha1))

    def to_json(self) -> bytes:
        """The text of `truth.json`; equal truths give equal bytes."""
        return _TRUTH.dump_json(self, indent=1) + b"\n"


_TRUTH = TypeAdapter(Truth)


def read_truth(folder: Path) -> Truth:
    """The truth of a sample set.

    Raises:
        ConfigError: The folder has no `truth.json`, or one that this version did not write.
    """
    path = folder / TRUTH_FILE
    try:
        return _TRUTH.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} is no sample data set: it has no {TRUTH_FILE}") from error
    except ValidationError as error:
        raise ConfigError(
            f"{path} was not written by this version of `rawnind sample`; choose another folder"
        ) from error
