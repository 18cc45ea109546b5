"""Exposure: overexposed and underexposed cells of a photo; gain and alignment loss of a pair."""

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import site_lines
from rawnind.records import Sensor

OVER = 0.99
"""Share of the sensor's overexposure bound from which a site counts as overexposed (as in the research code)."""

UNDER = 0.001
"""Level up to which a site counts as underexposed (as in the research code)."""

_CUT = 0.002  # share of sites at 0; at ISO 65535 such a pair's red came out 18 % too low
_PATCH = 16  # cells a side: noise averages out, and most patches show one object
_FEWEST_PATCHES = 24
_PATCH_ROWS = 32  # rows of patches that are sampled from a large photo


def overexposed(
    mosaic: NDArray[np.uint16], sensor: Sensor, clipped_at: float | None = None
) -> NDArray[np.bool_]:
    """Cells in which any site reaches 0.99 of the sensor's overexposure bound, or of the level at which the data clip.

    Args:
        mosaic: (H, W) uint16 sensor values; whole cells, starts on the CFA's first site.
        sensor: black and white levels, overexposure bound, CFA.
        clipped_at: sensor value at which the data clip, which counts in place of the bound; None where nothing clips.

    Returns:
        (h, w) bool per cell.
    """
    factor, bias = site_lines(sensor)
    bound = sensor.overexposure_lb if clipped_at is None else clipped_at * factor + bias.astype(np.float64)
    limits = np.ceil((OVER * bound - bias.astype(np.float64)) / factor)
    return _any_from(mosaic, np.clip(limits, 0, 65535).astype(np.uint16), sensor.cfa.cell)


def underexposed(mosaic: NDArray[np.uint16], sensor: Sensor) -> NDArray[np.bool_]:
    """Cells in which all sites lie at level 0.001 or below.

    Args:
        mosaic: (H, W) uint16 sensor values; whole cells, starts on the CFA's first site.
        sensor: black and white levels, CFA.

    Returns:
        (h, w) bool per cell.
    """
    factor, bias = site_lines(sensor)
    limits = np.floor((UNDER - bias.astype(np.float64)) / factor) + 1
    return ~_any_from(mosaic, np.clip(limits, 0, 65535).astype(np.uint16), sensor.cfa.cell)


def _any_from(mosaic: NDArray[np.uint16], limits: NDArray[np.uint16], cell: int) -> NDArray[np.bool_]:
    """Cells in which any site reaches its limit.

    Args:
        mosaic: (H, W) uint16 sensor values.
        limits: (period, period) uint16 limits of the sites of the CFA's tile.
        cell: sites per cell in each direction.

    Returns:
        (h, w) bool per cell.
    """
    height, width = mosaic.shape
    out = np.empty((height // cell, width // cell), np.bool_)
    _mark(mosaic, np.tile(limits, -(-width // len(limits)))[:, :width], cell, out.view(np.uint8))
    return out


@kernel
def _mark(mosaic: NDArray[np.uint16], limits: NDArray[np.uint16], cell: int, out: NDArray[np.uint8]) -> None:
    """Kernel of `_any_from`: down the rows of a cell first, on whole rows, then across, so that LLVM vectorises both loops.

    Args:
        mosaic: (H, W) sensor values.
        limits: (period, W) limits of a row of tiles.
        cell: sites per cell in each direction.
        out: (h, w) 0 or 1, written.
    """
    marks = np.empty(mosaic.shape[1], np.uint8)
    for y in range(out.shape[0]):
        for i in range(cell):
            row, line = mosaic[y * cell + i], limits[(y * cell + i) % len(limits)]
            if i == 0:
                marks[:] = 0
            for x in range(len(marks)):
                marks[x] |= np.uint8(row[x] >= line[x])
        target = out[y]
        if cell == 2:
            for x in range(len(target)):
                target[x] = marks[2 * x] | marks[2 * x + 1]
        else:
            for x in range(len(target)):
                target[x] = marks[3 * x] | marks[3 * x + 1] | marks[3 * x + 2]


def gain(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> float | None:
    """Factor that brings the noisy photo to the ground truth's level: mean(GT) / mean(noisy) over what both show.

    Iteratively reweighted over patches of 16x16 cells with Tukey's biweight, so that patches with another ratio (moved
    objects, shadows) have little or no weight.

    Args:
        ground_truth: (P, h, w) float32 levels, shifted onto the noisy frame.
        noisy: (P, h, w) float32 levels.
        usable: (h, w) bool: well exposed in both.

    Returns:
        The gain, or None where no cell is usable or the noisy photo is black.
    """
    found = _ratio(ground_truth, noisy, usable)
    return None if found is None else found[0]


def is_cut_at_black(mosaic: NDArray[np.uint16]) -> bool:
    """Whether noise below black is cut off at sensor value 0 so often that means of dark areas are biased upwards.

    Args:
        mosaic: (H, W) sensor values; every seventh row is counted, which meets all rows of both patterns.
    """
    rows = mosaic[::7]
    return bool(np.count_nonzero(rows == 0) > _CUT * rows.size)


def channel_gains(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> tuple[tuple[float, float], ...] | None:
    """`gain` of red, green and blue by itself, each with its standard error.

    Args:
        ground_truth: (P, h, w) float32 levels, shifted onto the noisy frame; R, G, G, B or R, G, B.
        noisy: (P, h, w) float32 levels.
        usable: (h, w) bool: well exposed in both.

    Returns:
        (gain, standard error) of red, green and blue; None where one of them is not measurable.
    """
    last = len(ground_truth) - 1
    colors = (slice(0, 1), slice(1, last), slice(last, None))
    found = [_ratio(ground_truth[planes], noisy[planes], usable) for planes in colors]
    measured = tuple(each for each in found if each is not None)
    return measured if len(measured) == len(found) else None


def channel_lines(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> tuple[tuple[float, float], ...] | None:
    """For each colour the line GT = factor * noisy + offset through patches of both photos.

    The GT is the regressor, because it has less noise: noise in a regressor lowers slopes.

    Args:
        ground_truth: (P, h, w) float32 levels, shifted onto the noisy frame; R, G, G, B or R, G, B.
        noisy: (P, h, w) float32 levels.
        usable: (h, w) bool: well exposed in both.

    Returns:
        (factor, offset in the GT's levels) of red, green and blue; None where a colour has no range of levels.
    """
    last = len(ground_truth) - 1
    whole = _patch_means(usable[None].astype(np.float32))[0] == 1
    found = []
    for planes in (slice(0, 1), slice(1, last), slice(last, None)):
        g, n = (_patch_means(photo[planes])[:, whole].mean(axis=0) for photo in (ground_truth, noisy))
        if len(g) < _FEWEST_PATCHES or np.ptp(g) == 0:
            return None
        design = np.stack([g, np.ones_like(g)], axis=1).astype(np.float64)
        weights = np.ones(len(g))
        for _ in range(12):
            slope, offset = np.linalg.lstsq(design * weights[:, None], n * weights, rcond=None)[0]
            error = np.abs(n - design @ [slope, offset])
            weights = 1 / np.sqrt(np.maximum(error, 1e-3 * n.mean() + 1e-9))  # least absolute deviations
        if slope <= 0:
            return None
        found.append((1 / float(slope), -float(offset / slope)))
    return tuple(found)


def _patch_means(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P, n, m) means of whole patches of (P, h, w)."""
    planes = planes[:, : planes.shape[1] // _PATCH * _PATCH, : planes.shape[2] // _PATCH * _PATCH]
    rows = planes.reshape(len(planes), -1, _PATCH, planes.shape[2] // _PATCH, _PATCH)
    means: NDArray[np.float32] = rows.mean(axis=(2, 4))
    return means


def _ratio(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> tuple[float, float] | None:
    """The ratio of `gain` and its standard error, from the scatter of the patches; None where there is none."""
    height, width = usable.shape
    step = _PATCH * max(1, height // (_PATCH * _PATCH_ROWS))
    tops = np.arange(0, max(1, height - _PATCH + 1), step)
    sums = np.zeros((2, len(tops), -(-width // _PATCH)), np.float64)
    _patch_sums(ground_truth, noisy, usable.view(np.uint8), tops, sums)
    g, n = sums[0].ravel(), sums[1].ravel()
    weights, ratio, total = np.ones_like(g), 0.0, 0.0
    for _ in range(12):
        total = float((weights * n).sum())
        if total <= 0 or (weights * g).sum() <= 0:
            return None
        ratio = float((weights * g).sum()) / total
        error = np.abs(g - ratio * n)
        # shot noise, and a floor for dark patches
        scale = np.sqrt(np.maximum(g, 0) * g.mean()) + 1e-3 * g.mean()
        relative = error / scale
        # Tukey's constant for 95 % efficiency on Gaussian errors; 1.4826: median absolute deviation to sigma
        unit = 4.685 * 1.4826 * float(np.median(relative[g > 0])) + 1e-9
        weights = np.clip(1 - (relative / unit) ** 2, 0, None) ** 2
    return ratio, float(np.sqrt((weights**2 * (g - ratio * n) ** 2).sum())) / total


def alignment_loss(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_], gain: float
) -> float | None:
    """Mean absolute difference of the aligned, gain-matched pair, as in the research code: mean |gt - gain * noisy|.

    Args:
        ground_truth: (P, h, w) float32 levels, shifted onto the noisy frame.
        noisy: (P, h, w) float32 levels.
        usable: (h, w) bool: cells that count.
        gain: factor of the noisy levels.

    Returns:
        Levels; None where no cell is usable.
    """
    count = int(np.count_nonzero(usable)) * len(noisy)
    if not count:
        return None
    return float(_absolute(ground_truth, noisy, usable.view(np.uint8), np.float32(gain))) / count


@kernel(fastmath={"contract"})
def _patch_sums(
    ground_truth: NDArray[np.float32],
    noisy: NDArray[np.float32],
    usable: NDArray[np.uint8],
    tops: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    """Sums over usable cells and planes of each patch.

    Args:
        ground_truth: (P, h, w) levels.
        noisy: (P, h, w) levels.
        usable: (h, w) 0 or 1.
        tops: (n,) first rows of the patches.
        out: (2, n, patches across) float64 sums of GT and noisy, added to.
    """
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
    """Sum of |gt - gain * noisy| over usable cells and planes; float32 over 64 rows, then float64.

    Args:
        ground_truth: (P, h, w) levels.
        noisy: (P, h, w) levels.
        usable: (h, w) 0 or 1.
        gain: factor of the noisy levels.
    """
    height, width = usable.shape
    columns = np.empty(width, np.float32)
    total = 0.0
    for plane in range(len(noisy)):
        for top in range(0, height, 64):
            columns[:] = 0
            for y in range(top, min(top + 64, height)):
                g, n, use = ground_truth[plane, y], noisy[plane, y], usable[y]
                for x in range(width):
                    columns[x] += abs(g[x] - gain * n[x]) * np.float32(use[x])
            for x in range(width):
                total += columns[x]
    return total
