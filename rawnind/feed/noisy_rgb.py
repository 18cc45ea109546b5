"""Demosaics a window of a stored noisy mosaic to linear Rec.2020.

A module of its own, because demosaicing imports numba, which takes a second, and `input="raw"` does not need it.
"""

import numpy as np
from numpy.typing import NDArray

from rawnind.feed.manifest_view import Pair
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
    rows, y = _around(top, size, len(mosaic), pair.cfa)
    columns, x = _around(left, size, len(mosaic), pair.cfa)
    rgb = to_rec2020(
        demosaic(_photo(pair, mosaic[rows[:, None], columns]), _contrast(pair, mosaic)),
        camera_to_rec2020(pair.rgb_xyz_matrix),
    )
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


def _contrast(pair: Pair, mosaic: NDArray[np.uint16]) -> NDArray[np.float32]:
    """(3,) float32 contrast gains of the frame; of the whole stored crop where those are not known."""
    if pair.contrast is None:
        return contrast_gains(_photo(pair, mosaic))
    return np.array([pair.contrast[0], 1, pair.contrast[1]], np.float32)


def _photo(pair: Pair, mosaic: NDArray[np.uint16]) -> Photo:
    sensor = Sensor(
        cfa=pair.cfa,
        origin=(0, 0),
        height=mosaic.shape[0],
        width=mosaic.shape[1],
        black_level=pair.black,
        white_level=pair.white,
        overexposure_lb=1.0,
        rgb_xyz_matrix=pair.rgb_xyz_matrix,
        camera="",
    )
    return Photo(mosaic=mosaic, sensor=sensor)
