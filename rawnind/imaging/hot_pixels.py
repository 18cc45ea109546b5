"""Hot pixels: sites whose dark current lifts them above their surroundings."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import site_lines, tile_planes
from rawnind.records import Cfa, Sensor

_REACH = 4  # sites; X-Trans has 8 sites of each colour within it
_NEIGHBOURS = 8
_SAMPLE = 20000  # sites for the noise estimate
_HOT = 8.0  # standard deviations: no false alarm in 24 million sites of Gaussian noise, with room for heavier tails
_CHUNK = 192  # sites of a Bayer row that are pre-tested together, vectorised; few chunks have a candidate
_GLOW = 0.15  # a star blurred by sigma 0.7 sites lights adjacent sites with a third of its strength, a hot pixel with none


def hot_pixels(mosaic: NDArray[np.uint16], sensor: Sensor) -> NDArray[np.bool_]:
    """Cells with a site that far exceeds all of its nearest same-coloured sites.

    Conservative: the step must be 8 standard deviations of the noise at that level (median over the photo) and twice the range
    of the neighbours, and the adjacent sites of other colours must stay dark. Edges, fine texture, stars and the tails of the
    noise are not marked.

    Args:
        mosaic: (H, W) uint16 sensor values; whole cells, starts on the CFA's first site.
        sensor: black and white levels, CFA.

    Returns:
        (h, w) bool per cell.
    """
    offsets = _neighbours(sensor.cfa)
    factor, bias = site_lines(sensor)
    height, width = mosaic.shape
    cell = sensor.cfa.cell
    out = np.zeros((height // cell, width // cell), np.bool_)
    if min(height, width) > 2 * _REACH:
        noise = _noise_line(mosaic, factor, bias, offsets)
        chunk = _CHUNK if sensor.cfa is Cfa.BAYER else width
        _find_hot(mosaic, factor, bias, offsets, _beside(sensor.cfa), noise, chunk, cell, out)
    return out


@cache
def _neighbours(cfa: Cfa) -> NDArray[np.int64]:
    """(period, period, 8, 2) int64 offsets (dy, dx) from each site of the tile to its same-coloured sites, nearest first."""
    colors, period = tile_planes(cfa), cfa.period
    reach = range(-_REACH, _REACH + 1)
    out = np.empty((period, period, _NEIGHBOURS, 2), np.int64)
    for y in range(period):
        for x in range(period):
            same = [
                (dy * dy + dx * dx, dy, dx) for dy in reach for dx in reach
                if (dy or dx) and colors[(y + dy) % period, (x + dx) % period] == colors[y, x]
            ]  # fmt: skip
            out[y, x] = [(dy, dx) for _, dy, dx in sorted(same)[:_NEIGHBOURS]]
    return out


@cache
def _beside(cfa: Cfa) -> NDArray[np.int64]:
    """Offsets to the adjacent sites of each site of the tile, and to the surroundings of those.

    Returns:
        (period, period, 4, 5, 2) int64 (dy, dx): to an adjacent site, then to the four sites of its colour that are nearest to
        it and do not touch the site itself.
    """
    colors, period = tile_planes(cfa), cfa.period
    reach = range(-_REACH, _REACH + 1)
    out = np.empty((period, period, 4, 5, 2), np.int64)
    for y in range(period):
        for x in range(period):
            for i, (ay, ax) in enumerate(((0, 1), (1, 0), (0, -1), (-1, 0))):
                color = colors[(y + ay) % period, (x + ax) % period]
                apart = [
                    ((dy - ay) ** 2 + (dx - ax) ** 2, dy, dx) for dy in reach for dx in reach
                    if max(abs(dy), abs(dx)) > 1 and colors[(y + dy) % period, (x + dx) % period] == color
                ]  # fmt: skip
                out[y, x, i] = [(ay, ax), *((dy, dx) for _, dy, dx in sorted(apart)[:4])]
    return out


def _noise_line(
    mosaic: NDArray[np.uint16],
    factor: NDArray[np.float32],
    bias: NDArray[np.float32],
    offsets: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Noise variance of a site against its neighbours' mean, as slope * level + floor, from medians over a sample of sites.

    Args:
        mosaic: (H, W) sensor values.
        factor: (period, period) of the levels.
        bias: (period, period) of the levels.
        offsets: from `_neighbours`.

    Returns:
        (2,) float32 slope in levels, floor in levels squared.
    """
    height, width = mosaic.shape
    sites = np.random.default_rng(0).integers(_REACH, (height - _REACH, width - _REACH), (_SAMPLE, 2))
    period = len(factor)
    ty, tx = sites[:, 0] % period, sites[:, 1] % period
    value = mosaic[sites[:, 0], sites[:, 1]].astype(np.float32)
    around = sites[:, None, :] + offsets[ty, tx]
    mean = mosaic[around[..., 0], around[..., 1]].astype(np.float32).mean(axis=1)
    level = np.maximum(mean * factor[ty, tx] + bias[ty, tx], 0)
    squared = ((value - mean) * factor[ty, tx]) ** 2
    order = np.array_split(np.argsort(level), 8)
    levels = np.array([np.median(level[group]) for group in order])
    # 0.455: median of a chi-square with 1 degree of freedom
    variances = np.array([np.median(squared[group]) for group in order]) / 0.455
    floor = float(variances.min())
    slope = float(np.median((variances - floor) / np.maximum(levels, 1e-4)))
    return np.array([max(slope, 0.0), floor + 1e-9], np.float32)


@kernel
def _find_hot(  # noqa: PLR0917
    mosaic: NDArray[np.uint16],
    factor: NDArray[np.float32],
    bias: NDArray[np.float32],
    offsets: NDArray[np.int64],
    beside: NDArray[np.int64],
    noise: NDArray[np.float32],
    chunk: int,
    cell: int,
    out: NDArray[np.bool_],
) -> None:
    """Marks cells with a hot pixel.

    Args:
        mosaic: (H, W) sensor values.
        factor: (period, period) of the levels.
        bias: (period, period) of the levels.
        offsets: from `_neighbours`.
        beside: from `_beside`.
        noise: (2,) slope and floor.
        chunk: sites of a row that are pre-tested together; the width for no pre-test.
        cell: sites per cell in each direction.
        out: (h, w) bool, set where a hot pixel is found.
    """
    height, width = mosaic.shape
    period = factor.shape[0]
    # a hot pixel exceeds its neighbours by at least this many sensor values: the step at level 0
    least = int(_HOT * np.sqrt(noise[1]) / factor.max())
    for y in range(_REACH, height - _REACH):
        for left in range(period, width - period, chunk):
            right = min(left + chunk, width - period)
            if chunk < width and _steepest(mosaic, y, left, right, offsets[y % period, 0]) <= least:
                continue
            for tx in range(period):
                place, around = offsets[y % period, tx], beside[y % period, tx]
                row, first, second = mosaic[y], mosaic[y + place[0, 0]], mosaic[y + place[1, 0]]
                a, b = place[0, 1], place[1, 1]
                for x in range(left + tx, right, period):
                    value = np.int64(row[x])
                    if value > first[x + a] + least and value > second[x + b] + least:
                        hot = _is_hot(mosaic, y, x, factor, bias, place, around, noise)
                        out[y // cell, x // cell] |= hot


@kernel
def _steepest(mosaic: NDArray[np.uint16], y: int, left: int, right: int, place: NDArray[np.int64]) -> int:
    """Largest difference in sensor values between a site of a row and the largest of its four nearest neighbours.

    Args:
        mosaic: (H, W) sensor values.
        y: the row.
        left: first column.
        right: first column that does not count.
        place: (8, 2) offsets to the neighbours, the same for each site: only the first four count.
    """
    row = mosaic[y, left:right]
    a = mosaic[y + place[0, 0], left + place[0, 1] : right + place[0, 1]]
    b = mosaic[y + place[1, 0], left + place[1, 1] : right + place[1, 1]]
    c = mosaic[y + place[2, 0], left + place[2, 1] : right + place[2, 1]]
    d = mosaic[y + place[3, 0], left + place[3, 1] : right + place[3, 1]]
    steepest = np.int32(0)
    for x in range(len(row)):
        highest = max(np.int32(a[x]), np.int32(b[x]), np.int32(c[x]), np.int32(d[x]))
        steepest = max(steepest, np.int32(row[x]) - highest)
    return int(steepest)


@kernel
def _is_hot(  # noqa: PLR0917
    mosaic: NDArray[np.uint16],
    y: int,
    x: int,
    factor: NDArray[np.float32],
    bias: NDArray[np.float32],
    place: NDArray[np.int64],
    beside: NDArray[np.int64],
    noise: NDArray[np.float32],
) -> bool:
    """Whether a site is a hot pixel: step, neighbours' range and glow on the adjacent sites.

    Args:
        mosaic: (H, W) sensor values.
        y: row of the site.
        x: its column.
        factor: (period, period) of the levels.
        bias: (period, period) of the levels.
        place: (8, 2) offsets to the nearest same-coloured sites.
        beside: (4, 5, 2) offsets, see `_beside`.
        noise: (2,) slope and floor.
    """
    period, value = factor.shape[0], np.int64(mosaic[y, x])
    low, high = np.int64(65535), np.int64(0)
    for i in range(len(place)):
        other = np.int64(mosaic[y + place[i, 0], x + place[i, 1]])
        low, high = min(low, other), max(high, other)
    f = factor[y % period, x % period]
    level = max(high * f + bias[y % period, x % period], np.float32(0))
    step = (value - high) * f
    if step <= _HOT * np.sqrt(noise[0] * level + noise[1]) or value - high <= 2 * (high - low):
        return False
    glow = np.float32(0)  # blur spreads light to adjacent sites of any colour; dark current stays in its site
    for i in range(4):
        far = np.int64(0)
        for j in range(1, 5):
            far += mosaic[y + beside[i, j, 0], x + beside[i, j, 1]]
        ny, nx = y + beside[i, 0, 0], x + beside[i, 0, 1]
        glow += (np.int64(mosaic[ny, nx]) - np.float32(far) / 4) * factor[ny % period, nx % period] / 4
    return bool(glow < _GLOW * step)
