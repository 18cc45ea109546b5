"""Demosaics a window of a stored noisy mosaic to linear Rec.2020.

A module of its own, because demosaicing imports numba, which takes a second, and `input="raw"` does not need it.
"""

import numpy as np
from numpy.typing import NDArray

from rawnind.feed.manifest_view import Pair
from rawnind.imaging.color import camera_to_rec2020, to_rec2020
from rawnind.imaging.demosaic.camera_rgb import demosaic
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa, Sensor

_MARGIN = (
    6  # sites around the window: whole CFA tiles, so that the window's edge is demosaiced like its middle
)


def noisy_rgb(mosaic: NDArray[np.uint16], pair: Pair, top: int, left: int, size: int) -> NDArray[np.float32]:
    """A window of the noisy photo in linear Rec.2020, not gain-matched.

    Args:
        mosaic: (stored, stored) uint16 sensor values that start on the CFA's first site.
        pair: levels and colour matrix of the photo.
        top: first row of the window.
        left: first column of the window.
        size: side of the window.

    Returns:
        (3, size, size) float32.
    """
    rows, y = _around(top, size, len(mosaic), pair.cfa)
    columns, x = _around(left, size, len(mosaic), pair.cfa)
    part = mosaic[rows[:, None], columns]
    photo = Photo(mosaic=part, sensor=_sensor(pair, part.shape[0], part.shape[1]))
    rgb = to_rec2020(demosaic(photo), camera_to_rec2020(pair.rgb_xyz_matrix))
    return rgb[:, y : y + size, x : x + size]


def _around(start: int, size: int, stored: int, cfa: Cfa) -> tuple[NDArray[np.intp], int]:
    """Indices of whole CFA tiles around a window, mirrored at the crop's edge, and the window's start among them.

    Mirroring keeps the CFA: about any site for Bayer, about every third site (2, 5, 8, ...) for X-Trans.
    """
    period = cfa.period
    first = max(start - _MARGIN, 0) // period * period
    last = -(-min(start + size + _MARGIN, stored) // period) * period
    index = np.arange(first, last)
    axis = stored - 1 if cfa is Cfa.BAYER else (stored - 3) // 3 * 3 + 2
    return np.where(index < stored, index, 2 * axis - index), start - first


def _sensor(pair: Pair, height: int, width: int) -> Sensor:
    return Sensor(
        cfa=pair.cfa,
        origin=(0, 0),
        height=height,
        width=width,
        black_level=pair.black,
        white_level=pair.white,
        overexposure_lb=1.0,
        rgb_xyz_matrix=pair.rgb_xyz_matrix,
        camera="",
    )
