"""Block moments: what the test for changes needs to know of two frames, gathered in one pass."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.kernels import kernel

BLOCK = 4
"""Cells that a block spans in each direction."""

_TILE = 64  # cells; a displacement is constant over a tile of this width: a turn by 0.05 degrees moves 0.06 cells there
_SUSPECT = np.float32(0.6)  # share of a block's squared difference that one cell must have to be looked at
_HOT = np.float32(
    64.0
)  # 8 deviations, squared: with 14 degrees of freedom noise alone reaches this in 1e-6 of the samples
_NAMES = ("g", "d", "dd", "gradient")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Moments:
    """Sums over blocks of 4x4 cells, of usable cells only; P planes, (hb, wb) blocks.

    `g` is the ground truth moved onto the noisy frame, `d` the ground truth so moved minus the noisy frame.

    Attributes:
        n: (hb, wb) usable cells, 0..16.
        g: (P, hb, wb) mean of the ground truth, in levels; 0 where no cell is usable. All others alike.
        d: mean of the difference.
        dd: sum of the difference's squared deviations from the block's mean.
        gradient: mean of the squared step from cell to cell of the ground truth, down plus across, in levels squared.
    """

    n: NDArray[np.float32]
    g: NDArray[np.float32]
    d: NDArray[np.float32]
    dd: NDArray[np.float32]
    gradient: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Displacement:
    """Where the noisy frame's cells lie in the ground truth: at (y + dy, x + dx), affine over the frame.

    Attributes:
        dy: (constant, per row, per column): cells, and cells per cell, about the frame's centre.
        dx: the same across.
    """

    dy: tuple[float, float, float] = (0.0, 0.0, 0.0)
    dx: tuple[float, float, float] = (0.0, 0.0, 0.0)


def block_moments(
    ground_truth: NDArray[np.float32],
    noisy: NDArray[np.float32],
    usable: NDArray[np.bool_],
    displacement: Displacement,
    *,
    top: int = 0,
    height: int | None = None,
) -> Moments:
    """Moments of every block, with the ground truth read where the displacement says (quadratic interpolation).

    Args:
        ground_truth: (P, h, w) levels, finite.
        noisy: (P, h, w) levels, gain-matched, finite.
        usable: (h, w).
        displacement: about the centre of the whole frame.
        top: the whole frame's row that the arrays begin with.
        height: rows of the whole frame; None where the arrays show all of it.
    """
    planes, rows, columns = noisy.shape
    blocks = (-(-rows // BLOCK), -(-columns // BLOCK))
    n = np.empty(blocks, np.float32)
    out = np.empty((len(_NAMES), planes, *blocks), np.float32)
    middle = ((rows if height is None else height) - 1) / 2 - top
    coefficients = np.array([displacement.dy, displacement.dx], np.float64)
    _moments(ground_truth, noisy, usable.view(np.uint8), coefficients, middle, (columns - 1) / 2, n, out)
    return Moments(n=n, **dict(zip(_NAMES, out, strict=True)))


@kernel
def _stencil(fraction: float, out: NDArray[np.float32]) -> None:
    # Lagrange's parabola through three samples
    out[0] = fraction * (fraction - 1) / 2
    out[1] = 1 - fraction * fraction
    out[2] = fraction * (fraction + 1) / 2


@kernel(fastmath={"contract"})
def _moments(  # noqa: PLR0917
    gt: NDArray[np.float32],
    noisy: NDArray[np.float32],
    usable: NDArray[np.uint8],
    coefficients: NDArray[np.float64],
    middle_y: float,
    middle_x: float,
    n: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    planes, height, width = noisy.shape
    count = np.empty(_TILE, np.float32)
    sums = np.empty((5, _TILE), np.float32)
    values = np.empty((2, BLOCK, _TILE), np.float32)  # what a block is made of, should it hold a hot pixel
    wy, wx = np.empty(3, np.float32), np.empty(3, np.float32)
    for block_y in range(n.shape[0]):
        top, bottom = block_y * BLOCK, min(block_y * BLOCK + BLOCK, height)
        for tile in range(0, width, _TILE):
            y, x = (top + bottom - 1) / 2 - middle_y, tile + _TILE / 2 - middle_x
            uy = coefficients[0, 0] + coefficients[0, 1] * y + coefficients[0, 2] * x
            ux = coefficients[1, 0] + coefficients[1, 1] * y + coefficients[1, 2] * x
            iy, ix = round(uy), round(ux)
            _stencil(uy - iy, wy)
            _stencil(ux - ix, wx)
            left, right = max(tile, 1 - ix, 0), min(tile + _TILE, width, width - 1 - ix)
            for plane in range(planes):
                count[:] = 0
                sums[:] = 0
                values[:] = 0
                for row in range(top, bottom):
                    source = row + iy
                    if 1 <= source < height - 1 and left < right:
                        _add_row(
                            gt[plane, source - 1, left + ix - 1 : right + ix + 1],
                            gt[plane, source, left + ix - 1 : right + ix + 1],
                            gt[plane, source + 1, left + ix - 1 : right + ix + 1],
                            noisy[plane, row, left:right],
                            usable[row, left:right],
                            wy,
                            wx,
                            count[left - tile : right - tile],
                            sums[:, left - tile : right - tile],
                            values[:, row - top, left - tile : right - tile],
                        )
                _cool(usable[top:bottom, tile : tile + _TILE], values, count, sums)
                _store(count, sums, plane, block_y, tile // BLOCK, n, out)


@kernel(fastmath={"contract"})
def _add_row(  # noqa: PLR0917
    above: NDArray[np.float32],
    row: NDArray[np.float32],
    below: NDArray[np.float32],
    noisy: NDArray[np.float32],
    usable: NDArray[np.uint8],
    wy: NDArray[np.float32],
    wx: NDArray[np.float32],
    count: NDArray[np.float32],
    sums: NDArray[np.float32],
    values: NDArray[np.float32],
) -> None:
    ya, yb, yc = wy[0], wy[1], wy[2]
    xa, xb, xc = wx[0], wx[1], wx[2]
    sg, sd, sdd, sgradient, largest = sums[0], sums[1], sums[2], sums[3], sums[4]
    gs, ds = values[0], values[1]
    for x in range(len(noisy)):
        use = np.float32(usable[x])
        g = (
            xa * (ya * above[x] + yb * row[x] + yc * below[x])
            + xb * (ya * above[x + 1] + yb * row[x + 1] + yc * below[x + 1])
            + xc * (ya * above[x + 2] + yb * row[x + 2] + yc * below[x + 2])
        )
        d = use * (g - noisy[x])
        g = use * g
        gy = use * (below[x + 1] - row[x + 1])
        gx = use * (row[x + 2] - row[x + 1])
        count[x] += use
        sg[x] += g
        sd[x] += d
        sdd[x] += d * d
        sgradient[x] += gy * gy + gx * gx
        largest[x] = max(largest[x], d * d)
        gs[x] = g
        ds[x] = d


@kernel
def _cool(
    usable: NDArray[np.uint8],
    values: NDArray[np.float32],
    count: NDArray[np.float32],
    sums: NDArray[np.float32],
) -> None:
    """Takes hot pixels out of the sums: one sample that stands out of the others of its block by 8 deviations."""
    rows, columns = usable.shape
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        cells, total, squares, peak = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for x in range(first, last):
            cells += count[x]
            total += sums[1, x]
            squares += sums[2, x]
            peak = max(peak, sums[4, x])
        if peak <= _SUSPECT * squares or cells < 8:
            continue
        for y in range(rows):
            for x in range(first, last):
                g, d = values[0, y, x], values[1, y, x]
                if d * d < peak or not usable[y, x]:
                    continue
                mean = (total - d) / (cells - 1)
                others = max(squares - d * d - (cells - 1) * mean * mean, np.float32(0)) / (cells - 2)
                if (d - mean) ** 2 > _HOT * others:
                    count[x] -= 1
                    sums[0, x] -= g
                    sums[1, x] -= d
                    sums[2, x] -= d * d
                break


@kernel
def _store(  # noqa: PLR0917
    count: NDArray[np.float32],
    sums: NDArray[np.float32],
    plane: int,
    block_y: int,
    first: int,
    n: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    zero = np.float32(0)
    for i in range(min(_TILE // BLOCK, n.shape[1] - first)):
        cells = count[4 * i] + count[4 * i + 1] + count[4 * i + 2] + count[4 * i + 3]
        one = np.float32(1) / max(cells, np.float32(1))
        g = (sums[0, 4 * i] + sums[0, 4 * i + 1] + sums[0, 4 * i + 2] + sums[0, 4 * i + 3]) * one
        d = (sums[1, 4 * i] + sums[1, 4 * i + 1] + sums[1, 4 * i + 2] + sums[1, 4 * i + 3]) * one
        dd = sums[2, 4 * i] + sums[2, 4 * i + 1] + sums[2, 4 * i + 2] + sums[2, 4 * i + 3]
        gradient = sums[3, 4 * i] + sums[3, 4 * i + 1] + sums[3, 4 * i + 2] + sums[3, 4 * i + 3]
        x = first + i
        n[block_y, x] = cells
        out[0, plane, block_y, x] = g
        out[1, plane, block_y, x] = d
        out[2, plane, block_y, x] = max(dd - cells * d * d, zero)
        out[3, plane, block_y, x] = gradient * one
