"""Exposure of a photo: cells that are overexposed or underexposed, and noise that is cut off at black."""

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import site_lines
from rawnind.records import Sensor

OVER = 0.99
"""Share of the sensor's overexposure bound from which a site counts as overexposed (as in the research code)."""

UNDER = 0.001
"""Level up to which a site counts as underexposed (as in the research code)."""

_CUT = 0.002  # share of sites at 0, or of overexposed cells; at ISO 65535 such a pair's red came out 18 % too low
_STEPS = 256  # of levels
_FEWEST = 100  # cells of a step
_BY_NOISE = 0.01  # share of them that noise overexposes


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


def unclipped_level(
    levels: NDArray[np.float32], overexposed: NDArray[np.bool_], usable: NDArray[np.bool_]
) -> float:
    """Level of a ground truth from which on noise overexposes cells of a noisy photo: those that it leaves are too dark in the mean.

    From there on, in 256 steps of at least 100 cells, it overexposes more than 1 % of them.

    Args:
        levels: (P, h, w) float32 of the ground truth, where the noisy photo stood.
        overexposed: (h, w) bool: of the noisy photo.
        usable: (h, w) bool: not overexposed in the ground truth.

    Returns:
        Infinity where hardly any cell is overexposed.
    """
    if np.count_nonzero(overexposed) <= _CUT * overexposed.size:
        return float("inf")
    brightest = levels.max(axis=0)
    steps = np.linspace(0.0, max(float(brightest.max()), 1e-6), _STEPS + 1)
    of_all, of_over = (
        cv2.calcHist([brightest], [0], cells.view(np.uint8), [_STEPS], [0.0, steps[-1]]).ravel()
        for cells in (usable, usable & overexposed)
    )
    few = np.flatnonzero((of_all >= _FEWEST) & (of_over <= _BY_NOISE * of_all))
    return float(steps[few[-1] + 1]) if len(few) else 0.0


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


def is_cut_at_black(mosaic: NDArray[np.uint16]) -> bool:
    """Whether noise below black is cut off at sensor value 0 so often that means of dark areas are biased upwards.

    Args:
        mosaic: (H, W) sensor values; every seventh row is counted, which meets all rows of both patterns.
    """
    rows = mosaic[::7]
    return bool(np.count_nonzero(rows == 0) > _CUT * rows.size)
