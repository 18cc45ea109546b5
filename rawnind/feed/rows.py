"""The rows of the manifest, as the feed uses them: a crop, and what all crops of its pair have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rawnind.errors import ManifestError
from rawnind.imaging.color import camera_to_rec2020
from rawnind.records import Cfa

COLORS = ("red", "green", "blue")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """The values that all crops of one pair have in common.

    Attributes:
        folder: number of the output folder, where a data set joins several.
        size: side of the stored crops in sites.
        gain: factor that brings the noisy photo to the GT's level.
        black: black levels of the noisy photo, in plane order, sensor values.
        white: white level of the noisy photo.
        gt_black: black levels of the GT, in plane order.
        gt_white: white level of the GT.
        rgb_xyz_matrix: XYZ -> camera RGB, 9 numbers row by row.
        contrast: (red, blue) factors of the noisy photo's demosaicing; None in folders of earlier versions.
        gt_rgb_xyz_matrix: of the GT; None in folders of earlier versions.
        gt_contrast: (red, blue) factors of the GT's demosaicing; None in folders of earlier versions.
        noise_a: of the noisy photo's red, green and blue sites; None where it was not measured.
        noise_b: variance = noise_a * level + noise_b, in levels squared.
        iso: of the noisy photo; None where it is unknown.
        camera: of the noisy photo.
    """

    folder: int
    scene: str
    cfa: Cfa
    pair_id: str
    size: int
    gain: float
    black: tuple[float, ...]
    white: float
    gt_black: tuple[float, ...]
    gt_white: float
    rgb_xyz_matrix: tuple[float, ...]
    contrast: tuple[float, float] | None
    gt_rgb_xyz_matrix: tuple[float, ...] | None
    gt_contrast: tuple[float, float] | None
    noise_a: tuple[float | None, ...]
    noise_b: tuple[float | None, ...]
    iso: int | None
    camera: str
    shard: str
    shard_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of the manifest.

    Attributes:
        gt_tile: (y, x) in the stored GT crop of the first site of its first whole CFA tile.
    """

    crop_id: str
    pair: Pair
    row_group: int
    gt_tile: tuple[int, int]
    valid_fraction: float


def pair_of(value: Mapping[str, Any], folder: int = 0) -> Pair:
    """The pair of a row of the manifest, whose values are given by column name.

    Raises:
        ManifestError: Its colour matrix is none, or a white level is not above black.
    """
    for prefix in ("", "gt_"):
        black, white = value[f"{prefix}black_level"], value[f"{prefix}white_level"]
        if white <= max(black):
            raise ManifestError(
                f"pair {value['pair_id']} is damaged: white {white:g} is not above black {max(black):g}"
            )
    matrix = value["gt_rgb_xyz_matrix"]
    return Pair(
        folder=folder,
        scene=value["scene"],
        cfa=Cfa(value["cfa"]),
        pair_id=value["pair_id"],
        size=value["size"],
        gain=value["gain"],
        black=tuple(value["black_level"]),
        white=value["white_level"],
        gt_black=tuple(value["gt_black_level"]),
        gt_white=value["gt_white_level"],
        rgb_xyz_matrix=colour_matrix(value["rgb_xyz_matrix"], value["pair_id"]),
        contrast=_contrast(value["contrast_red"], value["contrast_blue"]),
        gt_rgb_xyz_matrix=None if matrix is None else tuple(matrix),
        gt_contrast=_contrast(value["gt_contrast_red"], value["gt_contrast_blue"]),
        noise_a=tuple(value[f"noise_a_{color}"] for color in COLORS),
        noise_b=tuple(value[f"noise_b_{color}"] for color in COLORS),
        iso=value["iso"],
        camera=value["camera"],
        shard=value["shard"],
        shard_sha256=value["shard_sha256"],
    )


def _contrast(red: float | None, blue: float | None) -> tuple[float, float] | None:
    return None if red is None or blue is None else (red, blue)


def colour_matrix(values: Sequence[float], pair: str) -> tuple[float, ...]:
    """The values, which must be a matrix that a camera can have.

    Args:
        values: XYZ -> camera RGB, 9 numbers row by row.
        pair: its name, for the error.

    Raises:
        ManifestError: They are not.
    """
    try:
        camera_to_rec2020(values)
    except ValueError as error:
        raise ManifestError(f"pair {pair} is damaged: {error}") from error
    return tuple(values)
