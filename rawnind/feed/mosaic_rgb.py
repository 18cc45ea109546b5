"""Demosaics a window of a stored mosaic to linear Rec.2020.

A module of its own, because demosaicing imports numba, which takes a second, and `input="raw"` does not need it.
"""

import numpy as np
from numpy.typing import NDArray

from rawnind.feed.rows import Pair, Row
from rawnind.imaging.color import camera_to_rec2020, to_rec2020
from rawnind.imaging.demosaic.camera_rgb import contrast_gains, demosaic
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa, Sensor

_MARGIN = 12  # sites that a site's colours depend on, in each direction; whole tiles of both CFAs


def noisy_rgb(mosaic: NDArray[np.uint16], pair: Pair, top: int, left: int, size: int) -> NDArray[np.float32]:
    """A window of the noisy photo in linear Rec.2020, not gain-matched.

    All windows of a photo agree: they are demosaiced with the frame's contrast gains. Within 12 sites of the stored crop's
    edge, where its surroundings are mirrored, they differ from the frame. Folders of earlier versions do not have the gains;
    there all windows of a crop agree.

    Args:
        mosaic: (stored, stored) uint16 sensor values that start on the CFA's first site.
        pair: levels and colour matrix of the photo.
        top: first row of the window.
        left: first column of the window.
        size: side of the window.

    Returns:
        (3, size, size) float32.
    """
    sensor = _sensor(pair, pair.black, pair.white, pair.rgb_xyz_matrix, mosaic.shape)
    return _window(mosaic, sensor, pair.contrast, tile=(0, 0), corner=(top, left), size=size)


def truth_rgb(mosaic: NDArray[np.uint16], row: Row, top: int, left: int, size: int) -> NDArray[np.float32]:
    """A window of the GT of a Bayer pair in linear Rec.2020, where its mosaic lies.

    Args:
        mosaic: (stored, stored) uint16 sensor values of the GT; red starts at `row.gt_tile`.
        row: where its tiles start; levels, colour matrix and contrast gains of the GT.
        top: first row of the window.
        left: first column of the window.
        size: side of the window.

    Returns:
        (3, size, size) float32.
    """
    pair = row.pair
    matrix = pair.gt_rgb_xyz_matrix or pair.rgb_xyz_matrix
    sensor = _sensor(pair, pair.gt_black, pair.gt_white, matrix, mosaic.shape)
    return _window(mosaic, sensor, pair.gt_contrast, tile=row.gt_tile, corner=(top, left), size=size)


def _window(
    mosaic: NDArray[np.uint16],
    sensor: Sensor,
    contrast: tuple[float, float] | None,
    *,
    tile: tuple[int, int],
    corner: tuple[int, int],
    size: int,
) -> NDArray[np.float32]:
    """A window of a mosaic.

    Args:
        mosaic: (h, w) uint16 sensor values.
        sensor: its levels, CFA and colour matrix.
        contrast: (red, blue) gains of the frame; None: those of the whole mosaic, whose first tile is whole.
        tile: (y, x) of the mosaic's first whole CFA tile; (0, 0) for X-Trans.
        corner: first (y, x) of the window.
        size: its side.
    """
    rows, y = _around(corner[0], size, mosaic.shape[0], tile[0], sensor.cfa)
    columns, x = _around(corner[1], size, mosaic.shape[1], tile[1], sensor.cfa)
    if contrast is None:
        gains = contrast_gains(Photo(mosaic=mosaic, sensor=sensor))
    else:
        gains = np.array([contrast[0], 1, contrast[1]], np.float32)
    rgb = to_rec2020(
        demosaic(Photo(mosaic=mosaic[rows[:, None], columns], sensor=sensor), gains),
        camera_to_rec2020(sensor.rgb_xyz_matrix or ()),
    )
    return rgb[:, y : y + size, x : x + size]


def _around(start: int, size: int, stored: int, tile: int, cfa: Cfa) -> tuple[NDArray[np.intp], int]:
    """Indices of whole CFA tiles around a window, mirrored at the crop's edges, and the window's start among them.

    Mirroring keeps the CFA: about any site for Bayer, about every third site (2, 5, 8, ...) for X-Trans.
    """
    period = cfa.period
    first = (max(start - _MARGIN, 0) - tile) // period * period + tile
    last = first - (first - min(start + size + _MARGIN, stored)) // period * period
    index = np.abs(np.arange(first, last))  # a tile of which the crop has a part starts before the crop
    axis = stored - 1 if cfa is Cfa.BAYER else (stored - 3) // 3 * 3 + 2
    return np.where(index < stored, index, 2 * axis - index), start - first


def _sensor(
    pair: Pair,
    black: tuple[float, ...],
    white: float,
    matrix: tuple[float, ...],
    shape: tuple[int, ...],
) -> Sensor:
    return Sensor(
        cfa=pair.cfa,
        origin=(0, 0),
        height=shape[0],
        width=shape[1],
        black_level=black,
        white_level=white,
        overexposure_lb=1.0,
        rgb_xyz_matrix=matrix,
        camera="",
    )
