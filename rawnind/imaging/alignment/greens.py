"""Green of a photo at every site, as the kernels of alignment take it."""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import tile_colors
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa

Float32s = NDArray[np.float32]

WELL_EXPOSED = 0.95  # share of the white level above which sensors may clip
XTRANS_PERIOD = Cfa.X_TRANS.period


class View(NamedTuple):
    """A photo as the kernels take it.

    Attributes:
        values: (h, w) float32 reduced green over black, or (H, W) uint16 mosaic.
        black: green's black level, to be subtracted from the mosaic.
        limit: green over black above which a sample is not well exposed.
        green: (period, period) bool: where the CFA's tile is green.
    """

    values: NDArray[Any]
    black: np.float32
    limit: np.float32
    green: NDArray[np.bool_]


def view(photo: Photo, values: NDArray[Any]) -> View:
    """A view of a photo's mosaic or of its reduced green.

    Args:
        photo: sensor levels and CFA.
        values: the mosaic or the reduced green.
    """
    black = photo.sensor.black_level[1]
    return View(
        values=values,
        black=np.float32(black),
        limit=np.float32(WELL_EXPOSED * (photo.sensor.white_level - black)),
        green=tile_colors(photo.cfa) == 1,
    )


def reduced_view(photo: Photo, green: Float32s) -> View:
    """A view of a photo's reduced green, raised to the limit beside what is not well exposed, as in `green_sites`.

    Args:
        photo: sensor levels and CFA.
        green: (h, w) green over black.
    """
    found = view(photo, green)
    if green.size and green.max() >= found.limit:
        beside = cv2.dilate(green, np.ones((3, 3), np.uint8)) >= found.limit
        found = found._replace(values=np.where(beside, np.maximum(green, found.limit), green))
    return found


@kernel
def green_sites(photo: View, top: int, left: int, out: Float32s) -> None:
    """Green at each site over black; for X-Trans averaged over 3x3 sites.

    In X-Trans the centroid of the greens among 3x3 sites lies up to 0.4 sites off the middle, in a pattern with a period of
    3 sites: the mean over the period removes it.

    Beside a site that is not well exposed, green is the limit at least: a photo that clips there has its edge elsewhere.

    Args:
        photo: its mosaic.
        top: first row.
        left: first column.
        out: (n, m) float32 sensor values over black, written.
    """
    height, width = out.shape
    around = np.empty((height + 2, width + 2), np.float32)
    _interpolate_green(photo, top - 1, left - 1, around)
    line = np.empty(width + 2, np.float32)
    brightest = np.float32(0)
    for y in range(height):
        for x in range(width + 2):
            line[x] = around[y, x] + around[y + 1, x] + around[y + 2, x]
            brightest = max(brightest, around[y, x], around[y + 1, x], around[y + 2, x])
        if photo.green.shape[0] == XTRANS_PERIOD:
            for x in range(width):
                out[y, x] = (line[x] + line[x + 1] + line[x + 2]) * np.float32(1 / 9)
        else:
            for x in range(width):
                out[y, x] = around[y + 1, x + 1]
    if brightest >= photo.limit:
        _raise_beside(around, photo.limit, out)


@kernel
def _raise_beside(around: Float32s, limit: np.float32, out: Float32s) -> None:
    """Raises samples to a limit where one of their 3x3 has reached it.

    Args:
        around: (n + 2, m + 2), one more sample than `out` on each side.
        limit: the least that they become.
        out: (n, m), changed.
    """
    line = np.empty(around.shape[1], np.float32)
    for y in range(out.shape[0]):
        for x in range(len(line)):
            line[x] = max(around[y, x], around[y + 1, x], around[y + 2, x])
        for x in range(out.shape[1]):
            if max(line[x], line[x + 1], line[x + 2]) >= limit:
                out[y, x] = max(out[y, x], limit)


@kernel
def _interpolate_green(photo: View, top: int, left: int, out: Float32s) -> None:
    """Green at each site over black: the mean of the greens among its 3x3 sites without the largest and smallest.

    There are 4 or 5 of them (Bayer) or 5 (X-Trans); a hot pixel is always left out.

    Args:
        photo: its mosaic.
        top: first row.
        left: first column.
        out: (n, m) float32 sensor values over black, written.
    """
    height, width = out.shape
    period, none = photo.green.shape[0], np.float32(1e6)
    is_green, share = _green_lines(photo.green, left, width)
    total, low, high = (
        np.empty(width + 2, np.float32),
        np.empty(width + 2, np.float32),
        np.empty(width + 2, np.float32),
    )
    for y in range(height):
        total[:], low[:], high[:] = 0, none, 0
        for i in range(top + y - 1, top + y + 2):
            line, here = photo.values[i, left - 1 : left + width + 1], is_green[i % period]
            for x in range(width + 2):
                value = np.float32(line[x]) * here[x]
                total[x] += value
                high[x] = max(high[x], value)
                low[x] = min(low[x], value + (np.float32(1) - here[x]) * none)
        portion = share[(top + y) % period]
        for x in range(width):
            most = max(high[x], high[x + 1], high[x + 2])
            least = min(low[x], low[x + 1], low[x + 2])
            out[y, x] = (total[x] + total[x + 1] + total[x + 2] - most - least) * portion[x] - photo.black


@kernel
def _green_lines(green: NDArray[np.bool_], left: int, width: int) -> tuple[Float32s, Float32s]:
    """Where sites are green, and the weight of each in the trimmed mean, for each row of the CFA's tile.

    Args:
        green: (period, period) bool.
        left: first column of the interpolated sites.
        width: their number m.

    Returns:
        (period, m + 2) float32, 1 where sites from `left - 1` on are green, else 0; (period, m) float32
        1 / (greens among 3x3 sites - 2).
    """
    period = green.shape[0]
    is_green = np.empty((period, width + 2), np.float32)
    share = np.zeros((period, width), np.float32)
    for r in range(period):
        for x in range(width + 2):
            is_green[r, x] = np.float32(green[r, (left - 1 + x) % period])
    for r in range(period):
        for x in range(width):
            for i in range(r + period - 1, r + period + 2):
                share[r, x] += (
                    is_green[i % period, x] + is_green[i % period, x + 1] + is_green[i % period, x + 2]
                )
            share[r, x] = np.float32(1) / (share[r, x] - np.float32(2))
    return is_green, share
