"""Stored crops as pictures: both photos in one brightness, their difference, and why pixels are not valid."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.color import camera_to_rec2020, to_rec2020
from rawnind.imaging.demosaic.camera_rgb import contrast_gains, demosaic
from rawnind.imaging.exposure import overexposed
from rawnind.imaging.levels import planes
from rawnind.imaging.photo import Photo
from rawnind.output.shard_reader import StoredCrop
from rawnind.records import Cfa, Sensor

Rgb = NDArray[np.uint8]
"""(h, w, 3) sRGB."""

_REC2020_TO_SRGB = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)  # ITU-R BT.2087
_REACH = 8
"""Cells a side up to which an invalid spot may be the trace of one hot pixel."""

DIFFERENCE_GAIN = 4
"""By which the difference of the displayed values is amplified about mid-grey."""


class Why(IntEnum):
    """Why a cell is not valid, as far as a shard shows it: it stores which pixels are valid, and not why."""

    VALID = 0
    OVEREXPOSED = 1
    HOT = 2
    CHANGED = 3
    MISALIGNED = 4
    CHANGED_OR_MISALIGNED = 5

    @property
    def label(self) -> str:
        """The name in a legend."""
        return self.name.lower().replace("_", " ")

    @property
    def color(self) -> tuple[int, int, int]:
        """Red, green, blue; of the palette of Okabe and Ito, which colour-blind people tell apart."""
        return _COLORS[self]


_COLORS = {
    Why.VALID: (128, 128, 128),
    Why.OVEREXPOSED: (240, 228, 66),
    Why.HOT: (86, 180, 233),
    Why.CHANGED: (213, 94, 0),
    Why.MISALIGNED: (0, 114, 178),
    Why.CHANGED_OR_MISALIGNED: (204, 121, 167),
}


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class CropView:
    """A crop in linear Rec.2020, both photos at the GT's brightness.

    Attributes:
        truth: (h, w, 3) float32, the ground truth.
        noisy: (h, w, 3) float32, the noisy photo times the pair's gain.
        why: (h, w) uint8 of `Why`.
    """

    truth: NDArray[np.float32]
    noisy: NDArray[np.float32]
    why: NDArray[np.uint8]


def view_small(crop: StoredCrop, row: dict[str, Any], side: int | None = None) -> CropView:
    """A crop with at most one pixel per cell of the CFA: 2x2 sites of a Bayer sensor, 3x3 of X-Trans.

    Args:
        crop: its pixels.
        row: its row of manifest.parquet.
        side: of the picture; None: one pixel per cell.
    """
    cell = Cfa(row["cfa"]).cell
    photo = Photo(mosaic=_whole_tiles(crop.noisy_raw, cell), sensor=_sensor(row))
    size, side = len(photo.mosaic), side or len(photo.mosaic) // cell
    levels = [_reduced(plane, side) for plane in planes(photo)]
    camera = np.stack([levels[0], np.mean(levels[1:-1], axis=0), levels[-1]], axis=-1)
    truth = [_reduced(plane.astype(np.float32), side) for plane in crop.gt_rgb[:, :size, :size]]
    matrix = camera_to_rec2020(row["rgb_xyz_matrix"]).T * row["gain"]
    return CropView(
        truth=np.stack(truth, axis=-1),
        noisy=camera @ matrix.astype(np.float32),
        why=_most_frequent(_why(crop, row, photo), side),
    )


def _reduced(plane: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(plane, (side, side), interpolation=cv2.INTER_AREA))


def _most_frequent(why: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The most frequent cause of the cells that a pixel shows, where a fifth of them is not valid."""
    if not why.any():
        return np.zeros((side, side), np.uint8)
    share = np.stack([_reduced((why == kind).astype(np.float32), side) for kind in Why if kind])
    most: NDArray[np.uint8] = (share.argmax(axis=0) + 1).astype(np.uint8)
    most[share.sum(axis=0) < 0.2] = Why.VALID
    return most


def view_sites(crop: StoredCrop, row: dict[str, Any]) -> CropView:
    """A crop with one pixel per site: the noisy photo is demosaiced. Arguments as of `view_small`."""
    cell = Cfa(row["cfa"]).cell
    photo = Photo(mosaic=_whole_tiles(crop.noisy_raw, cell), sensor=_sensor(row))
    contrast = row["contrast_red"], row["contrast_blue"]
    gains = contrast_gains(photo) if None in contrast else np.array([contrast[0], 1, contrast[1]], np.float32)
    noisy = to_rec2020(demosaic(photo, gains), camera_to_rec2020(row["rgb_xyz_matrix"])) * row["gain"]
    size = len(photo.mosaic)
    return CropView(
        truth=np.moveaxis(crop.gt_rgb[:, :size, :size].astype(np.float32), 0, -1),
        noisy=np.moveaxis(noisy, 0, -1),
        why=np.kron(_why(crop, row, photo), np.ones((cell, cell), np.uint8)),
    )


def exposure_of(truth: NDArray[np.float32]) -> float:
    """The factor with which one in two hundred values of a ground truth is displayed as white.

    >>> exposure_of(np.full((2, 2, 3), 0.25, np.float32))
    4.0
    """
    return 1 / max(float(np.quantile(truth, 0.995)), 1e-4)


def to_srgb(rgb: NDArray[np.float32], exposure: float) -> Rgb:
    """Linear Rec.2020 as sRGB.

    Args:
        rgb: (h, w, 3).
        exposure: from `exposure_of`.
    """
    linear = np.clip(rgb @ (_REC2020_TO_SRGB.T * np.float32(exposure)), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    out: Rgb = (encoded * 255 + 0.5).astype(np.uint8)
    return out


def difference(noisy: Rgb, truth: Rgb) -> Rgb:
    """What the noisy photo has more or less, amplified about mid-grey: grey is equal."""
    wide = (noisy.astype(np.int16) - truth) * DIFFERENCE_GAIN + 128
    out: Rgb = np.clip(wide, 0, 255).astype(np.uint8)
    return out


def over_picture(truth: Rgb, why: NDArray[np.uint8]) -> Rgb:
    """A picture in grey, with what is not valid in the colour of its cause."""
    grey = (truth.mean(axis=2, keepdims=True) * 0.6 + 60).astype(np.uint8)
    colors = np.array([kind.color for kind in Why], np.uint8)[why]
    out: Rgb = np.where((why == Why.VALID)[..., None], grey, colors)
    return out


def _whole_tiles(mosaic: NDArray[np.uint16], cell: int) -> NDArray[np.uint16]:
    """Without the last sites of a crop whose side is no multiple of the cell: 512 of X-Trans."""
    period = 2 * cell if cell == 3 else cell
    size = len(mosaic) // period * period
    return np.ascontiguousarray(mosaic[:size, :size])


def _sensor(row: dict[str, Any], photo: Literal["", "gt_"] = "") -> Sensor:
    return Sensor(
        cfa=Cfa(row["cfa"]),
        origin=(0, 0),
        height=row["size"],
        width=row["size"],
        black_level=tuple(row[f"{photo}black_level"]),
        white_level=row[f"{photo}white_level"],
        overexposure_lb=row["overexposure_lb"],
        rgb_xyz_matrix=tuple(row["rgb_xyz_matrix"]),
        camera=row["camera"],
    )


def _why(crop: StoredCrop, row: dict[str, Any], photo: Photo) -> NDArray[np.uint8]:
    """(h, w) of `Why` per cell: overexposed from the pixels, the rest from what was measured on the crop.

    Where one cause alone was measured on the crop, it is that one; spots of a few cells are hot pixels where there are any.
    """
    cell, size = photo.cfa.cell, len(photo.mosaic)
    if (crop.mask == 255).all():
        return np.zeros((size // cell, size // cell), np.uint8)
    valid = np.unpackbits(crop.mask, axis=1)[:size, :size].reshape(size // cell, cell, -1, cell)
    invalid = ~valid.any(axis=(1, 3))
    truth = np.ascontiguousarray(crop.gt_raw[:size, :size])
    over = invalid & (
        overexposed(photo.mosaic, photo.sensor, row["white_level_data"])
        | overexposed(truth, _sensor(row, "gt_"), row["gt_white_level_data"])
    )
    out = np.zeros(invalid.shape, np.uint8)
    out[over] = Why.OVEREXPOSED
    rest = invalid & ~over
    out[rest] = _other(row)
    if row["hot_fraction"]:
        _, labels, stats, _ = cv2.connectedComponentsWithStats(rest.astype(np.uint8))
        spots = (stats[:, cv2.CC_STAT_WIDTH] <= _REACH) & (stats[:, cv2.CC_STAT_HEIGHT] <= _REACH)
        spots[0] = False  # the background
        out[spots[labels]] = Why.HOT
    return out


def _other(row: dict[str, Any]) -> Why:
    changed, misaligned = bool(row["changed_fraction"]), bool(row["misaligned_fraction"])
    if changed and misaligned:
        return Why.CHANGED_OR_MISALIGNED
    if changed or misaligned:
        return Why.CHANGED if changed else Why.MISALIGNED
    return Why.HOT if row["hot_fraction"] else Why.OVEREXPOSED
