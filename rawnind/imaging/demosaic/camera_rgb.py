"""Demosaicing of mosaics to camera RGB."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging import exposure
from rawnind.imaging.clipping import data_white_level
from rawnind.imaging.demosaic.bayer import bayer_chunk
from rawnind.imaging.demosaic.xtrans import xtrans_chunk
from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import site_lines, tile_colors
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa

_CHUNK = (96, 768)
"""Rows and columns that are interpolated at a time, so that scratch memory stays in the cache; whole tiles of both CFAs."""

_REACH = 12
"""Sites around a chunk that its colours depend on, rounded up to whole tiles of both CFAs."""

_PATCH = 12  # sites: a multiple of the periods of both CFAs and of four cells
_UNSURE = 4.0  # standard errors of the energy of edges: with less, colours count as grey

# Levels are compressed to sqrt(level + soft) - sqrt(soft): the plain root has infinite slope at 0 and amplifies noise there.
_SOFT = np.float32(0.002)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class CameraRgb:
    """A demosaiced photo in 6 bytes per site: level = (value - offset) / scale.

    Negative levels and levels above 1 are kept. One step is at most 1.2 steps of the sensor.

    Attributes:
        values: (3, H, W) uint16, red, green, blue; site (y, x) is the mosaic's. float32 where it was resampled.
        offset: value at level 0.
        scale: values per level.
    """

    values: NDArray[Any]
    offset: int
    scale: float

    def levels(self) -> NDArray[np.float32]:
        """(3, H, W) float32 levels of the camera's own red, green and blue; no white balance."""
        out = self.values.astype(np.float32)
        out -= np.float32(self.offset)
        out /= np.float32(self.scale)
        return out


def demosaic(photo: Photo, gains: NDArray[np.float32] | None = None) -> CameraRgb:
    """Interpolates the two missing colours of each site; the measured one is kept.

    Measured values are exact where black levels are whole and equal and black and white lie below about 59,000; else to
    0.6 of a sensor step. With the frame's gains, a part of a frame is demosaiced to the frame's own values from 12 sites
    inside its edge on (where no sensor value exceeds white).

    Interpolation works on square roots of levels, with red and blue scaled to green's contrast: differences between
    colours are smoothest there. Negative levels stay negative.

    Args:
        photo: Bayer or X-Trans.
        gains: from `contrast_gains`; None: those of this photo.

    Returns:
        Camera RGB of the photo's size, without white balance.
    """
    offset, scale = _encoding(photo)
    lines, colors = site_lines(photo.sensor), tile_colors(photo.cfa)
    if gains is None:
        gains = contrast_gains(photo)
    values = np.empty((3, *photo.mosaic.shape), np.uint16)
    encoding = np.stack([scale / gains, np.full(3, offset)]).astype(np.float32)
    for rows, columns in _chunks(photo):
        compressed = np.empty((len(rows), len(columns)), np.float32)
        _compress(photo.mosaic, rows, columns, lines * gains[colors], compressed)
        interpolated, scratch = (
            np.empty((3, *compressed.shape), np.float32),
            np.empty((8, *compressed.shape), np.float32),
        )
        (bayer_chunk if photo.cfa is Cfa.BAYER else xtrans_chunk)(compressed, scratch, interpolated)
        _expand(interpolated, encoding, rows[_REACH], columns[_REACH], values)
    _store_measured(
        photo.mosaic,
        lines * np.float32(scale) + np.array([0, offset], np.float32)[:, None, None],
        colors,
        values,
    )
    return CameraRgb(values=values, offset=offset, scale=scale)


def _encoding(photo: Photo) -> tuple[int, float]:
    """Offset and scale that encode every level of the photo in 16 bits, with a margin for overshoots of the interpolation.

    They depend on the sensor alone, unless a value exceeds white: every part of a frame is encoded as the frame is.
    """
    black = np.array(photo.sensor.black_level)
    span = photo.sensor.white_level - black
    low = float(np.min(-black / span))
    high = float(np.max((photo.mosaic.max() - black) / span))
    low, high = min(low, 0.0), max(high, 1.0)
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    # an integer number of values per sensor step keeps measured values exact, where black levels are whole and equal
    per_step = 65535 / (high - low) / span.min()
    scale = float(span.min()) * (math.floor(per_step) if per_step >= 1 else per_step)
    return round(-low * scale), scale


def contrast_gains(photo: Photo, overexposed: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Factors that give red, green and blue equal contrast; 1 for green. The interpolation alone uses them.

    The grey-edge hypothesis (J. van de Weijer, T. Gevers and A. Gijsenij, "Edge-based color constancy", IEEE TIP 2007):
    the mean edge is achromatic. Edges are differences between patches of 12x12 sites, a multiple of both periods.

    A lamp is cut off at one value in all colours, so that its edges look grey: patches with overexposed cells, and those beside
    them, are left out. Noise is not grey either: each edge is measured on both halves of its patches, and the product of two
    independent measurements contains no noise on average. Only what rows or columns share remains. Where the sum of the
    products is within its error, the gain is near 1.

    Args:
        photo: Bayer or X-Trans.
        overexposed: (h, w) bool per cell; None: those of the photo, by where its data clip.

    Returns:
        (3,) float32, 1/8..8.
    """
    if min(photo.mosaic.shape) < _PATCH:
        return np.ones(3, np.float32)
    if overexposed is None:
        clipped_at = data_white_level(photo.mosaic, photo.sensor.white_level)
        overexposed = exposure.overexposed(photo.mosaic, photo.sensor, clipped_at)
    height, width = (side // _PATCH for side in photo.mosaic.shape)
    halves = np.zeros((2, 3, height, width), np.float32)
    _half_means(photo.mosaic, site_lines(photo.sensor), tile_colors(photo.cfa), photo.cfa.cell, halves)
    usable = _usable_patches(overexposed, photo.cfa.cell, height, width)
    energy, error, count = np.zeros(3), np.zeros(3), 0
    for axis, both in ((2, usable[1:] & usable[:-1]), (3, usable[:, 1:] & usable[:, :-1])):
        one, other = np.diff(halves, axis=axis) * both
        energy += (one * other).sum(axis=(1, 2), dtype=np.float64)
        error += np.square(one - other).sum(axis=(1, 2), dtype=np.float64) / 2
        count += int(both.sum())
    error /= math.sqrt(max(count, 1))  # of a sum of as many products
    grey = _UNSURE * np.maximum(error, error[1])
    own, green = np.hypot(np.maximum(energy, 0), grey), np.hypot(max(energy[1], 0.0), grey)
    if own.min() <= 0:
        return np.ones(3, np.float32)
    return np.asarray(np.clip(np.sqrt(green / own), 1 / 8, 8), np.float32)


def _usable_patches(overexposed: NDArray[np.bool_], cell: int, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) bool: patches without overexposed cells in them and in the eight around them.

    Args:
        overexposed: (h, w) bool per cell.
        cell: sites per cell in each direction.
        height: rows of patches.
        width: patches in a row.
    """
    cells = _PATCH // cell
    parts = overexposed[: height * cells, : width * cells].view(np.uint8)
    rows = parts.reshape(height, cells, -1).max(axis=1)
    near = cv2.dilate(rows.reshape(height, width, cells).max(axis=2), np.ones((3, 3), np.uint8))
    return np.asarray(near == 0)


def _chunks(photo: Photo) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Row and column indices of each chunk with its surroundings; those outside the frame are mirrored.

    Yields:
        (n,) and (m,) int64 site indices; chunks overlap by 2 * `_REACH`.
    """
    height, width = photo.mosaic.shape
    rows, columns = _mirrored(height, photo.cfa), _mirrored(width, photo.cfa)
    for top in range(0, height, _CHUNK[0]):
        for left in range(0, width, _CHUNK[1]):
            yield rows[top : top + _CHUNK[0] + 2 * _REACH], columns[left : left + _CHUNK[1] + 2 * _REACH]


def _mirrored(length: int, cfa: Cfa) -> NDArray[np.int64]:
    """(length + 2 * _REACH,) int64 site indices from -_REACH on, mirrored into the frame so that each keeps its colour.

    Bayer is symmetric about every site, X-Trans about sites 2 and 5 of its tile.
    """
    low = 0 if cfa is Cfa.BAYER else 2
    index = np.arange(-_REACH, length + _REACH)
    span = length - 1 - low
    folded = low + span - np.abs((index - low) % (2 * span) - span)
    return np.where((index >= 0) & (index < length), index, folded)


@kernel(fastmath={"contract"})
def _compress(
    mosaic: NDArray[np.uint16],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    lines: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Signed square roots of balanced levels: sign(l) (sqrt(|l| + _SOFT) - sqrt(_SOFT)).

    Args:
        mosaic: (H, W) sensor values.
        rows: (n,) site indices.
        columns: (m,) site indices.
        lines: (2, period, period) factors and biases of the balanced levels.
        out: (n, m), written.
    """
    period = lines.shape[1]
    soft, root = _SOFT, np.float32(np.sqrt(_SOFT))
    for y in range(out.shape[0]):
        source = mosaic[rows[y]]
        for i in range(period):
            factor, bias = lines[0, y % period, i], lines[1, y % period, i]
            for x in range(i, out.shape[1], period):
                level = np.float32(source[columns[x]]) * factor + bias
                size = np.sqrt(abs(level) + soft) - root
                out[y, x] = size if level >= 0 else -size


@kernel(fastmath={"contract"})
def _expand(
    colors: NDArray[np.float32], lines: NDArray[np.float32], top: int, left: int, out: NDArray[np.uint16]
) -> None:
    """Inverse of `_compress`, to encoded values; without the `_REACH` sites around the chunk.

    Args:
        colors: (3, n, m) compressed levels.
        lines: (2, 3) factor and offset from balanced levels to values.
        top: row of the frame that the chunk starts with.
        left: its first column.
        out: (3, H, W) values of the frame, written within the chunk.
    """
    soft, root = _SOFT, np.float32(np.sqrt(_SOFT))
    height = min(out.shape[1] - top, colors.shape[1] - 2 * _REACH)
    width = min(out.shape[2] - left, colors.shape[2] - 2 * _REACH)
    for color in range(3):
        factor, bias = lines[0, color], lines[1, color] + np.float32(0.5)
        for y in range(height):
            row, target = colors[color, y + _REACH], out[color, top + y, left : left + width]
            for x in range(width):
                size = abs(row[x + _REACH]) + root
                level = (size * size - soft) * factor
                value = (level if row[x + _REACH] >= 0 else -level) + bias
                target[x] = np.uint16(min(max(value, np.float32(0)), np.float32(65535)))


@kernel
def _store_measured(
    mosaic: NDArray[np.uint16], lines: NDArray[np.float32], colors: NDArray[np.intp], out: NDArray[np.uint16]
) -> None:
    """Overwrites each site's own colour with its measured value.

    Args:
        mosaic: (H, W) sensor values.
        lines: (2, period, period) factors and biases from sensor values to encoded values.
        colors: (period, period) colour index of each site of the CFA's tile.
        out: (3, H, W) values.
    """
    period = len(colors)
    for y in range(mosaic.shape[0]):
        p = y % period
        for i in range(period):
            row, factor, bias = out[colors[p, i], y], lines[0, p, i], lines[1, p, i] + np.float32(0.5)
            for x in range(i, mosaic.shape[1], period):
                value = np.float32(mosaic[y, x]) * factor + bias
                row[x] = np.uint16(min(max(value, np.float32(0)), np.float32(65535)))


@kernel
def _half_means(
    mosaic: NDArray[np.uint16],
    lines: NDArray[np.float32],
    colors: NDArray[np.intp],
    cell: int,
    out: NDArray[np.float32],
) -> None:
    """Mean level of each colour over two halves of patches of 12x12 sites, whose cells alternate like the squares of a chessboard.

    Rows that are alike are added up first, so that LLVM vectorises most of the work.

    Args:
        mosaic: (H, W) sensor values.
        lines: (2, period, period) factors and biases of the levels.
        colors: (period, period) colour index of each site of the CFA's tile.
        cell: sites per cell in each direction.
        out: (2, 3, H // 12, W // 12) levels, all 0; written.
    """
    period, rows = len(colors), _PATCH // (2 * cell)
    counts = np.zeros(3, np.float32)
    for i in range(period):
        for j in range(period):
            counts[colors[i, j]] += 1
    sums = np.empty((2 * cell, _PATCH * out.shape[3]), np.uint32)
    for patch in range(out.shape[2]):
        sums[:] = 0
        for y in range(_PATCH):
            row, total = mosaic[_PATCH * patch + y], sums[y % len(sums)]
            for x in range(len(total)):
                total[x] += row[x]
        for y in range(len(sums)):
            total = sums[y]
            for x in range(_PATCH):
                color = colors[y % period, x % period]
                share = np.float32(2 * period * period / _PATCH**2) / counts[color]
                factor = lines[0, y % period, x % period] * share
                bias = lines[1, y % period, x % period] * share * np.float32(rows)
                means = out[(y // cell + x // cell) % 2, color, patch]
                for i in range(len(means)):
                    means[i] += np.float32(total[_PATCH * i + x]) * factor + bias
