"""A photo at a fraction of its size that is a mosaic again, for looking at pairs quickly."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.exposure import OVER
from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import site_lines, tile_colors
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa

_WHITE = 60000
"""Sensor value of white in a reduced photo: means keep fractions of the original values."""

_BLACK = 4000
"""Sensor value of black: noise below it is kept."""


def reduction(cfa: Cfa, shorter_side: int, wanted: int) -> int:
    """The factor that brings a photo's shorter side to about `wanted` sites: 1, or whole cells of the pattern.

    >>> reduction(Cfa.BAYER, 4000, 1000), reduction(Cfa.X_TRANS, 4000, 1000), reduction(Cfa.BAYER, 800, 1000)
    (4, 3, 1)
    """
    return max(shorter_side // wanted // cfa.cell * cfa.cell, 1)


def reduced(photo: Photo, factor: int) -> Photo:
    """The photo with a side 1/`factor` as long, with the same pattern.

    A site is the mean level of its colour over a block of `factor` x `factor` sites; where one of these sites is overexposed, it
    is.

    Args:
        photo: Bayer or X-Trans.
        factor: from `reduction`.
    """
    if factor == 1:
        return photo
    period = photo.cfa.period
    height, width = (length // (factor * period) * period for length in photo.mosaic.shape)
    levels = np.empty((height, width), np.float32)
    limit = np.float32(OVER * photo.sensor.overexposure_lb)
    _block_means(photo.mosaic, factor, tile_colors(photo.cfa), site_lines(photo.sensor), limit, levels)
    values = np.clip(np.rint(_BLACK + levels * (_WHITE - _BLACK)), 0, 65535).astype(np.uint16)
    sensor = replace(
        photo.sensor,
        origin=(0, 0),
        height=height,
        width=width,
        black_level=(float(_BLACK),) * len(photo.sensor.black_level),
        white_level=float(_WHITE),
    )
    return Photo(mosaic=values, sensor=sensor)


@kernel
def _block_means(  # noqa: PLR0917
    mosaic: NDArray[np.uint16],
    factor: int,
    tile: NDArray[np.intp],
    lines: NDArray[np.float32],
    limit: np.float32,
    out: NDArray[np.float32],
) -> None:
    """The mean level of each reduced site's own colour over its block; 1 where that colour is overexposed in the block.

    Args:
        mosaic: (H, W) sensor values of the frame.
        factor: sites per side of a block, a multiple of the CFA's cell.
        tile: (period, period) colours.
        lines: `levels.site_lines`.
        limit: level from which a site is overexposed.
        out: (h, w) levels, written.
    """
    period = len(tile)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            color = tile[row % period, column % period]
            total, largest, count = np.float32(0), np.float32(0), 0
            for y in range(row * factor, (row + 1) * factor):
                for x in range(column * factor, (column + 1) * factor):
                    a, b = y % period, x % period
                    if tile[a, b] == color:
                        level = np.float32(mosaic[y, x]) * lines[0, a, b] + lines[1, a, b]
                        total += level
                        largest = max(largest, level)
                        count += 1
            out[row, column] = np.float32(1) if largest >= limit else total / np.float32(count)
