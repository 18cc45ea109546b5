"""Bayer: colour differences, weighted by their smoothness in each of the four directions.

After I. Pekkucuksen and Y. Altunbasak, "Gradient based threshold free color filter array interpolation", ICIP 2010: the
difference between green and the other colour is estimated along rows and along columns, and each site averages those of its
four sides with weights that decrease with their gradients. Implemented from the paper; the weights are the inverse third
power instead of the second (0.1 dB better on photographs, benchmarks/bench_demosaic.py).
"""

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.jit import kernel

# Loops are split so that each reads and writes few rows: only then can LLVM prove that they do not overlap, and vectorise.

# Keeps the weights finite where the gradient is 0: compressed levels, below one step of a sensor.
_FLOOR = np.float32(1e-3)


def bayer_chunk(m: NDArray[np.float32], scratch: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """All three colours of a chunk of an RGGB mosaic.

    Args:
        m: (h, w) float32 compressed, balanced levels; starts on the CFA's first site; h and w are even.
        scratch: (8, h, w) float32 scratch memory.
        out: (3, h, w) float32, written; valid from 12 sites inside.
    """
    rows, columns = scratch[0:3], scratch[3:6]
    diff, other = scratch[6], scratch[7]
    _differences(m, rows[0], columns[0])
    _weights(rows, columns)
    _combine(rows, columns, diff)
    _opposite(diff, other)
    _fill(m, diff, other, out)


@kernel(fastmath={"contract"})
def _differences(m: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]) -> None:
    """Green minus the other colour, estimated along rows and along columns (Hamilton and Adams' second-order interpolation).

    Args:
        m: (h, w) levels.
        rows: (h, w), written.
        columns: (h, w), written.
    """
    height, width = m.shape
    half, quarter = np.float32(0.5), np.float32(0.25)
    signs = np.ones(width + 1, np.float32)
    signs[1::2] = -1
    for y in range(2, height - 2):
        sign = signs[y % 2 :]
        for x in range(2, width - 2):
            a = half * (m[y, x - 1] + m[y, x + 1] - m[y, x]) - quarter * (m[y, x - 2] + m[y, x + 2])
            rows[y, x] = a * sign[x]
        for x in range(2, width - 2):
            a = half * (m[y - 1, x] + m[y + 1, x] - m[y, x]) - quarter * (m[y - 2, x] + m[y + 2, x])
            columns[y, x] = a * sign[x]


@kernel(fastmath={"contract"})
def _weights(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> None:
    """Weights each estimate (index 0) by gradient^-3 over 5x5 sites (1); its mean over five sites times the weight (2).

    Args:
        rows: (3, h, w); index 0 read, 1 and 2 written.
        columns: (3, h, w); the same.
    """
    _, height, width = rows.shape
    fifth = np.float32(0.2)
    row_sums, column_sums = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(5, height - 5):
        for x in range(3, width - 3):
            a = b = np.float32(0)
            for i in range(y - 2, y + 3):
                a += abs(rows[0, i, x - 1] - rows[0, i, x + 1])
                b += abs(columns[0, i - 1, x] - columns[0, i + 1, x])
            row_sums[x], column_sums[x] = a, b
        for x in range(5, width - 5):
            a = b = _FLOOR
            row_mean = column_mean = np.float32(0)
            for i in range(-2, 3):
                a += row_sums[x + i]
                b += column_sums[x + i]
                row_mean += fifth * rows[0, y, x + i]
                column_mean += fifth * columns[0, y + i, x]
            rows[1, y, x], columns[1, y, x] = np.float32(1) / (a * a * a), np.float32(1) / (b * b * b)
            rows[2, y, x], columns[2, y, x] = row_mean * rows[1, y, x], column_mean * columns[1, y, x]


@kernel(fastmath={"contract"})
def _combine(rows: NDArray[np.float32], columns: NDArray[np.float32], diff: NDArray[np.float32]) -> None:
    """The difference at red and blue sites: weighted mean of the four sides.

    Args:
        rows: (3, h, w) from `_weights`.
        columns: (3, h, w) from `_weights`.
        diff: (h, w), written.
    """
    height, width = diff.shape
    total, weight = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(7, height - 7):
        for x in range(7, width - 7):
            total[x] = columns[2, y - 2, x] + columns[2, y + 2, x]
            weight[x] = columns[1, y - 2, x] + columns[1, y + 2, x]
        for x in range(7, width - 7):
            total[x] += rows[2, y, x - 2] + rows[2, y, x + 2]
            weight[x] += rows[1, y, x - 2] + rows[1, y, x + 2]
        for x in range(7, width - 7):
            diff[y, x] = total[x] / weight[x]


@kernel(fastmath={"contract"})
def _opposite(diff: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    """Green minus blue at red sites and the reverse, from the diagonals, with the paper's 7x7 filter.

    Args:
        diff: (h, w) differences at red and blue sites.
        other: (h, w), written.
    """
    height, width = diff.shape
    near, far = np.float32(10 / 32), np.float32(-1 / 32)
    inner, outer = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(10, height - 10):
        for x in range(7, width - 7):
            inner[x] = diff[y - 1, x] + diff[y + 1, x]
            outer[x] = diff[y - 3, x] + diff[y + 3, x]
        for x in range(10, width - 10):
            corners = outer[x - 1] + outer[x + 1] + inner[x - 3] + inner[x + 3]
            other[y, x] = near * (inner[x - 1] + inner[x + 1]) + far * corners


@kernel(fastmath={"contract"})
def _fill(
    m: NDArray[np.float32], diff: NDArray[np.float32], other: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Red, green and blue of every site.

    Args:
        m: (h, w) levels.
        diff: (h, w) green minus the site's own colour, at red and blue sites.
        other: (h, w) green minus the opposite colour, at red and blue sites.
        out: (3, h, w), written. `first` is the colour that shares the row with green, `second` the other.
    """
    height, width = m.shape
    quarter = np.float32(0.25)
    for y in range(12, height - 12):
        first, green, second = (
            (out[0, y], out[1, y], out[2, y]) if y % 2 == 0 else (out[2, y], out[1, y], out[0, y])
        )
        for x in range(12 + y % 2, width - 12, 2):
            first[x] = m[y, x]
            green[x] = m[y, x] + diff[y, x]
            second[x] = green[x] - other[y, x]
        for x in range(13 - y % 2, width - 12, 2):
            green[x] = m[y, x]
            beside = diff[y, x - 1] + diff[y, x + 1] + other[y - 1, x] + other[y + 1, x]
            across = other[y, x - 1] + other[y, x + 1] + diff[y - 1, x] + diff[y + 1, x]
            first[x], second[x] = green[x] - quarter * beside, green[x] - quarter * across
