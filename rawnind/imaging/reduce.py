"""A photo at a fraction of its size that is a mosaic again, for looking at pairs quickly."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.exposure import OVER
from rawnind.imaging.levels import mosaic, site_lines, tile_colors
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

    A site is the mean level of its colour over a block of `factor` x `factor` sites; where one of these is overexposed, the
    site is.

    Args:
        photo: Bayer or X-Trans.
        factor: from `reduction`.
    """
    if factor == 1:
        return photo
    height, width = (
        length // (factor * photo.cfa.period) * photo.cfa.period for length in photo.mosaic.shape
    )
    rgb = np.stack([_means(photo, color, factor, (height, width)) for color in range(3)])
    small = mosaic(rgb, photo.cfa)
    values = np.clip(np.rint(_BLACK + small * (_WHITE - _BLACK)), 0, 65535).astype(np.uint16)
    sensor = replace(
        photo.sensor,
        origin=(0, 0),
        height=height,
        width=width,
        black_level=(float(_BLACK),) * len(photo.sensor.black_level),
        white_level=float(_WHITE),
    )
    return Photo(mosaic=values, sensor=sensor)


def _means(photo: Photo, color: int, factor: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w) mean level of one colour over each block; 1 where the block is overexposed.

    Args:
        photo: Bayer or X-Trans.
        color: 0 red, 1 green, 2 blue.
        factor: sites per side of a block, a multiple of the CFA's cell.
        shape: of the result.
    """
    height, width = shape
    period = photo.cfa.period
    blocks = np.zeros((height, width), np.float32)
    largest = np.zeros((height, width), np.float32)
    count = np.zeros((height, width), np.float32)
    lines = site_lines(photo.sensor)
    tile = tile_colors(photo.cfa)
    for y in range(factor):
        for x in range(factor):
            sites = photo.mosaic[y : height * factor : factor, x : width * factor : factor].astype(np.float32)
            rows, columns = (
                (np.arange(height) * factor + y) % period,
                (np.arange(width) * factor + x) % period,
            )
            at = np.ix_(rows, columns)
            levels = sites * lines[0][at] + lines[1][at]
            mask = tile[at] == color
            blocks += np.where(mask, levels, 0)
            count += mask
            np.maximum(largest, levels, out=largest)
    limit = np.float32(OVER * photo.sensor.overexposure_lb)
    return np.where(largest >= limit, np.float32(1), blocks / count)
