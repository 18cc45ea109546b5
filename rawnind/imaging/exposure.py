"""Exposure of a photo and of a pair: what is clipped, what is black, and the gain between two photos."""

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import site_lines
from rawnind.records import Sensor

OVER = 0.99
"""Share of the sensor's overexposure bound from which a site counts as overexposed (as in the research code)."""

UNDER = 0.001
"""Level up to which a site counts as underexposed (as in the research code)."""

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
    out = np.empty((height // cell, width // cell), np.bool_)
    _mark(mosaic, np.tile(limits, -(-width // len(limits)))[:, :width], cell, out.view(np.uint8))
    return out


@kernel
def _mark(mosaic: NDArray[np.uint16], limits: NDArray[np.uint16], cell: int, out: NDArray[np.uint8]) -> None:
    # down first, on whole rows, then across: so LLVM works on vectors
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
