"""Exposure of a photo and of a pair: what is clipped, what is black, hot pixels, and the gain between two photos."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.cfa import tile_planes
from rawnind.imaging.kernels import kernel
from rawnind.imaging.levels import site_lines
from rawnind.records import Cfa, Sensor

OVER = 0.99
"""Share of the sensor's overexposure bound from which a site counts as overexposed (as in the research code)."""

UNDER = 0.001
"""Level up to which a site counts as underexposed (as in the research code)."""

_REACH = 4  # sites within which X-Trans has 8 sites of each colour
_NEIGHBOURS = 8
_SAMPLE = 20000
_HOT = 8.0  # deviations
_GLOW = 0.15  # a point of light blurred to 0.7 sites reaches the sites beside it with a third of its strength
_PATCH = 16  # cells
_PATCH_ROWS = 32  # rows of patches that the gain is measured on


def overexposed(mosaic: NDArray[np.uint16], sensor: Sensor) -> NDArray[np.bool_]:
    """(h, w) cells in which any site reaches 0.99 of the sensor's overexposure bound.

    Args:
        mosaic: (H, W) sensor values that start on the tile, whole cells.
        sensor: black and white levels, overexposure bound, CFA.
    """
    factor, bias = site_lines(sensor)
    limits = np.ceil((OVER * sensor.overexposure_lb - bias.astype(np.float64)) / factor)
    return _any_from(mosaic, np.clip(limits, 0, 65535).astype(np.uint16), sensor.cfa.cell)


def underexposed(mosaic: NDArray[np.uint16], sensor: Sensor) -> NDArray[np.bool_]:
    """(h, w) cells in which all sites lie at level 0.001 or below. Arguments as for `overexposed`."""
    factor, bias = site_lines(sensor)
    limits = np.floor((UNDER - bias.astype(np.float64)) / factor) + 1
    return ~_any_from(mosaic, np.clip(limits, 0, 65535).astype(np.uint16), sensor.cfa.cell)


def _any_from(mosaic: NDArray[np.uint16], limits: NDArray[np.uint16], cell: int) -> NDArray[np.bool_]:
    height, width = mosaic.shape
    out = np.zeros((height // cell, width // cell), np.bool_)
    _mark(mosaic, limits, cell, out)
    return out


@kernel
def _mark(mosaic: NDArray[np.uint16], limits: NDArray[np.uint16], cell: int, out: NDArray[np.bool_]) -> None:
    period = limits.shape[0]
    tiles = period // cell  # cells per tile, in each direction
    for y in range(out.shape[0]):
        marks = out[y]
        for i in range(cell):
            row, line = mosaic[y * cell + i], limits[(y * cell + i) % period]
            for j in range(period):
                limit = line[j]
                for x in range((len(marks) - j // cell + tiles - 1) // tiles):
                    marks[x * tiles + j // cell] |= row[x * period + j] >= limit


def hot_pixels(mosaic: NDArray[np.uint16], sensor: Sensor) -> NDArray[np.bool_]:
    """(h, w) cells with a site that far exceeds all of its nearest same-coloured sites.

    Conservative: the step up must be 8 times what noise does at that level (median over the photo) and twice the spread of
    the neighbours, and the sites beside it must stay dark, so edges, fine texture, stars and the noise's own tails stay.
    Arguments as for `overexposed`.
    """
    offsets = _neighbours(sensor.cfa)
    factor, bias = site_lines(sensor)
    height, width = mosaic.shape
    cell = sensor.cfa.cell
    out = np.zeros((height // cell, width // cell), np.bool_)
    if min(height, width) > 2 * _REACH:
        noise = _noise_line(mosaic, factor, bias, offsets)
        _find_hot(mosaic, factor, bias, offsets, _beside(sensor.cfa), noise, cell, out)
    return out


@cache
def _neighbours(cfa: Cfa) -> NDArray[np.int64]:
    """(period, period, 4, 2): the nearest same-coloured sites of each site of the tile, nearest first."""
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
    """(period, period, 4, 5, 2): each of the four sites that touch a site, and the nearest four of its colour that do not."""
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
    """Variance of a site against its neighbours' mean: (slope, floor) over level, from medians of a sample of sites."""
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
    variances = np.array([np.median(squared[group]) for group in order]) / 0.455  # median of a squared normal
    floor = float(variances.min())
    slope = float(np.median((variances - floor) / np.maximum(levels, 1e-4)))
    return np.array([max(slope, 0.0), floor + 1e-9], np.float32)


def gain(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> float | None:
    """Factor that brings the noisy photo to the ground truth's level: mean(GT) / mean(noisy) over what both show.

    Patches of 16x16 cells whose ratio the others do not share (moved objects, shadows) count less or not at all.

    Args:
        ground_truth: (P, h, w) levels, at the shift that lays it on the noisy frame.
        noisy: (P, h, w) levels.
        usable: (h, w) cells that are well exposed in both.

    Returns:
        The gain, or None where nothing is usable or the noisy photo is black.
    """
    height, width = usable.shape
    step = _PATCH * max(1, height // (_PATCH * _PATCH_ROWS))
    tops = np.arange(0, max(1, height - _PATCH + 1), step)
    sums = np.zeros((2, len(tops), -(-width // _PATCH)), np.float64)
    _patch_sums(ground_truth, noisy, usable.view(np.uint8), tops, sums)
    g, n = sums[0].ravel(), sums[1].ravel()
    weights, ratio = np.ones_like(g), 0.0
    for _ in range(12):
        total = float((weights * n).sum())
        if total <= 0 or (weights * g).sum() <= 0:
            return None
        ratio = float((weights * g).sum()) / total
        error = np.abs(g - ratio * n)
        scale = (
            np.sqrt(np.maximum(g, 0) * g.mean()) + 1e-3 * g.mean()
        )  # between even noise and noise that grows with the level
        relative = error / scale
        unit = (
            4.685 * 1.4826 * float(np.median(relative[g > 0])) + 1e-9
        )  # Tukey's biweight on the median deviation
        weights = np.clip(1 - (relative / unit) ** 2, 0, None) ** 2
    return ratio


def alignment_loss(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_], gain: float
) -> float | None:
    """Mean absolute difference of the aligned pair at one level, in levels, over usable cells; None where there are none."""
    count = int(np.count_nonzero(usable)) * len(noisy)
    if not count:
        return None
    return float(_absolute(ground_truth, noisy, usable.view(np.uint8), np.float32(gain))) / count


@kernel
def _find_hot(  # noqa: PLR0917
    mosaic: NDArray[np.uint16],
    factor: NDArray[np.float32],
    bias: NDArray[np.float32],
    offsets: NDArray[np.int64],
    beside: NDArray[np.int64],
    noise: NDArray[np.float32],
    cell: int,
    out: NDArray[np.bool_],
) -> None:
    height, width = mosaic.shape
    period, count = factor.shape[0], offsets.shape[2]
    least = int(
        _HOT * np.sqrt(noise[1]) / factor.max()
    )  # sensor values that no cool site exceeds its neighbours by
    for y in range(_REACH, height - _REACH):
        for tx in range(period):
            place = offsets[y % period, tx]
            first, second = mosaic[y + place[0, 0]], mosaic[y + place[1, 0]]
            a, b = place[0, 1], place[1, 1]
            row = mosaic[y]
            for x in range(period + tx, width - period, period):
                value = np.int64(row[x])
                if value <= first[x + a] + least or value <= second[x + b] + least:
                    continue
                low, high = np.int64(65535), np.int64(0)
                for i in range(count):
                    other = np.int64(mosaic[y + place[i, 0], x + place[i, 1]])
                    low, high = min(low, other), max(high, other)
                f = factor[y % period, tx]
                level = max(high * f + bias[y % period, tx], np.float32(0))
                step = (value - high) * f
                if step > _HOT * np.sqrt(noise[0] * level + noise[1]) and value - high > 2 * (high - low):
                    glow = np.float32(
                        0
                    )  # light spreads to the sites beside it, whatever their colour; charge does not
                    for i in range(4):
                        around = beside[y % period, tx, i]
                        far = np.int64(0)
                        for j in range(1, 5):
                            far += mosaic[y + around[j, 0], x + around[j, 1]]
                        near = np.int64(mosaic[y + around[0, 0], x + around[0, 1]])
                        fa = factor[(y + around[0, 0]) % period, (x + around[0, 1]) % period]
                        glow += (near - np.float32(far) / 4) * fa / 4
                    out[y // cell, x // cell] |= glow < _GLOW * step


@kernel(fastmath={"contract"})
def _patch_sums(
    ground_truth: NDArray[np.float32],
    noisy: NDArray[np.float32],
    usable: NDArray[np.uint8],
    tops: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    height, width = usable.shape
    columns = np.empty((2, width), np.float32)
    for i in range(len(tops)):
        columns[:] = 0
        gs, ns = columns[0], columns[1]
        for y in range(tops[i], min(tops[i] + _PATCH, height)):
            use = usable[y]
            for plane in range(len(noisy)):
                g, n = ground_truth[plane, y], noisy[plane, y]
                for x in range(width):
                    gs[x] += g[x] * np.float32(use[x])
                    ns[x] += n[x] * np.float32(use[x])
        for x in range(width):
            out[0, i, x // _PATCH] += gs[x]
            out[1, i, x // _PATCH] += ns[x]


@kernel(fastmath={"contract"})
def _absolute(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.uint8], gain: np.float32
) -> float:
    height, width = usable.shape
    columns = np.empty(width, np.float32)
    total = 0.0
    for plane in range(len(noisy)):
        for top in range(0, height, 64):  # float32 sums of few values, then float64
            columns[:] = 0
            for y in range(top, min(top + 64, height)):
                g, n, use = ground_truth[plane, y], noisy[plane, y], usable[y]
                for x in range(width):
                    columns[x] += abs(g[x] - gain * n[x]) * np.float32(use[x])
            for x in range(width):
                total += columns[x]
    return total
