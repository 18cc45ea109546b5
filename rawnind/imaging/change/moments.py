"""Block moments: sums over blocks of 4x4 cells, in one pass over two frames.

A chunk of 4 rows and 64 columns is loaded into a scratch array, compared, and reduced to its 16 blocks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.coordinates import BLOCK, block_shape
from rawnind.imaging.jit import kernel

_CHUNK = 64  # cells
_OUTLIER_SHARE = np.float32(0.6)  # of a block's sum of squares: a smaller peak is not tested
# 8 standard deviations, squared: Student's t with 14 degrees of freedom exceeds this in 1e-6 of the samples
_OUTLIER = np.float32(64.0)
_NAMES = ("g", "d", "dd", "gradient")

# The scratch array has lines of _LINE floats. With constant offsets in one array, LLVM proves that lines do not overlap and
# vectorises the loops; with an array for each line it does not, and the pass takes twice as long.
_LINE = 80
_USE = 0  # 4 rows: 1 where the cell counts
_GT = 4 * _LINE  # 5 rows of the ground truth, each one column longer than the chunk
_NOISY = 9 * _LINE  # 4 rows
_G = 13 * _LINE  # 4 rows: samples of g, needed again where a block has an outlier
_D = 17 * _LINE  # 4 rows: the same of d
_SUMS = 21 * _LINE  # of each column: cells, g, d, d squared, gradient, and the largest d squared
_BLOCKS = 27 * _LINE  # the same of each block
_SCRATCH = 33 * _LINE


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Moments:
    """Sums over blocks of 4x4 cells, usable cells only; P planes, (hb, wb) blocks, all float32.

    `g` is the ground truth, `d` the ground truth minus the noisy frame.

    Attributes:
        n: (hb, wb) usable cells, 0..16.
        g: (P, hb, wb) mean of the ground truth, in levels; 0 where no cell is usable, as are all others.
        d: (P, hb, wb) mean of the difference, in levels.
        dd: (P, hb, wb) sum of the difference's squared deviations from the block's mean, in levels squared.
        gradient: (P, hb, wb) mean of the squared step from cell to cell of the ground truth, down plus across, levels squared.
    """

    n: NDArray[np.float32]
    g: NDArray[np.float32]
    d: NDArray[np.float32]
    dd: NDArray[np.float32]
    gradient: NDArray[np.float32]


def block_moments(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> Moments:
    """Moments of every block. The last row and the last column have no gradient.

    Args:
        ground_truth: (P, h, w) float32 levels, finite.
        noisy: (P, h, w) float32 levels times the gain, finite.
        usable: (h, w) bool.
    """
    planes, rows, columns = noisy.shape
    blocks = block_shape((rows, columns))
    n = np.empty(blocks, np.float32)
    out = np.empty((len(_NAMES), planes, *blocks), np.float32)
    _moments(ground_truth, noisy, usable.view(np.uint8), n, out)
    return Moments(n=n, **dict(zip(_NAMES, out, strict=True)))


@kernel
def _moments(
    gt: NDArray[np.float32],
    noisy: NDArray[np.float32],
    usable: NDArray[np.uint8],
    n: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Block moments of whole frames.

    Args:
        gt: (P, h, w) levels.
        noisy: (P, h, w) levels.
        usable: (h, w) 0 or 1.
        n: (hb, wb), written.
        out: (4, P, hb, wb) g, d, dd, gradient, written.
    """
    planes, _, width = noisy.shape
    w = np.zeros(_SCRATCH, np.float32)
    for block_y in range(n.shape[0]):
        for plane in range(planes):  # outside of the chunks: memory is read in long lines
            for chunk in range(0, width, _CHUNK):
                _load(gt[plane], noisy[plane], usable, block_y * BLOCK, chunk, w)
                _compare(w)
                _add_blocks(w)
                if _reject_outliers(w):
                    _add_blocks(w)
                _store(w, plane, block_y, chunk // BLOCK, n, out)


@kernel
def _load(  # noqa: PLR0917
    gt: NDArray[np.float32],
    noisy: NDArray[np.float32],
    usable: NDArray[np.uint8],
    top: int,
    chunk: int,
    w: NDArray[np.float32],
) -> None:
    """Copies a chunk to the scratch array; the ground truth's last row and column are repeated.

    Args:
        gt: (h, w) levels of a plane.
        noisy: (h, w) levels of the same plane.
        usable: (h, w) 0 or 1.
        top: first row of the chunk.
        chunk: first column of the chunk.
        w: (_SCRATCH,) scratch array; rows _USE, _GT and _NOISY are written.
    """
    height, width = noisy.shape
    right = min(chunk + _CHUNK, width)
    if right - chunk < _CHUNK:
        w[_USE:_GT] = 0
    for i in range(BLOCK + 1):
        row = gt[min(top + i, height - 1)]
        _copy(row[chunk:right], w, _GT + i * _LINE)
        w[_GT + i * _LINE + right - chunk] = row[min(right, width - 1)]
    for i in range(BLOCK):
        if top + i < height:
            _copy(usable[top + i, chunk:right], w, _USE + i * _LINE)
            _copy(noisy[top + i, chunk:right], w, _NOISY + i * _LINE)
        else:
            w[_USE + i * _LINE : _USE + (i + 1) * _LINE] = 0


@kernel
def _copy(values: NDArray[Any], w: NDArray[np.float32], start: int) -> None:
    """Copies values into a line of the scratch array.

    Args:
        values: (n,).
        w: (_SCRATCH,) scratch array.
        start: index of the first value in it.
    """
    for x in range(len(values)):
        w[np.uintp(start + x)] = np.float32(values[x])  # unsigned: no check for a negative index


@kernel(fastmath={"contract"})
def _compare(w: NDArray[np.float32]) -> None:
    """Takes the difference and the gradient, and sums over each column's four rows.

    Args:
        w: (_SCRATCH,) scratch array; rows _G, _D and _SUMS are written.
    """
    zero = np.float32(0)
    for x in range(_CHUNK):
        cells, g, d, dd, gradient, largest = zero, zero, zero, zero, zero, zero
        for i in range(BLOCK):
            here = _GT + i * _LINE + x
            use = w[_USE + i * _LINE + x]
            delta = use * (w[here] - w[_NOISY + i * _LINE + x])
            value = use * w[here]
            gy, gx = use * (w[here + _LINE] - w[here]), use * (w[here + 1] - w[here])
            w[_G + i * _LINE + x], w[_D + i * _LINE + x] = value, delta
            cells += use
            g += value
            d += delta
            dd += delta * delta
            gradient += gy * gy + gx * gx
            largest = max(largest, delta * delta)
        w[_SUMS + x], w[_SUMS + _LINE + x], w[_SUMS + 2 * _LINE + x] = cells, g, d
        w[_SUMS + 3 * _LINE + x], w[_SUMS + 4 * _LINE + x], w[_SUMS + 5 * _LINE + x] = dd, gradient, largest


@kernel
def _add_blocks(w: NDArray[np.float32]) -> None:
    """Sums over blocks (_BLOCKS) from sums over columns (_SUMS)."""
    for line in range(5):
        for i in range(_CHUNK // BLOCK):
            j = _SUMS + line * _LINE + BLOCK * i
            w[_BLOCKS + line * _LINE + i] = w[j] + w[j + 1] + w[j + 2] + w[j + 3]
    for i in range(_CHUNK // BLOCK):
        j = _SUMS + 5 * _LINE + BLOCK * i
        w[_BLOCKS + 5 * _LINE + i] = max(w[j], w[j + 1], w[j + 2], w[j + 3])


@kernel
def _reject_outliers(w: NDArray[np.float32]) -> bool:
    """Removes hot pixels from the columns' sums: samples 8 standard deviations from the others of their block, one per block.

    Returns:
        Whether a sample was removed, so that the blocks must be added again.
    """
    changed = False
    for block in range(_CHUNK // BLOCK):
        at = _BLOCKS + block
        cells, squares, peak = w[at], w[at + 3 * _LINE], w[at + 5 * _LINE]
        if peak > _OUTLIER_SHARE * squares and cells >= 8:
            changed |= _reject_outlier(block * BLOCK, cells, w[at + 2 * _LINE], squares, peak, w)
    return changed


@kernel
def _reject_outlier(  # noqa: PLR0917
    left: int,
    cells: np.float32,
    total: np.float32,
    squares: np.float32,
    peak: np.float32,
    w: NDArray[np.float32],
) -> bool:
    """Removes the largest sample of a block from the sums of its column if it is an outlier.

    Args:
        left: first column of the block in the chunk.
        cells: usable cells of the block.
        total: sum of d over the block.
        squares: sum of d squared.
        peak: largest d squared.
        w: (_SCRATCH,) scratch array; row _SUMS is changed.

    Returns:
        Whether the sample was removed.
    """
    changed = False
    for i in range(BLOCK):
        for x in range(left, left + BLOCK):
            g, d = w[_G + i * _LINE + x], w[_D + i * _LINE + x]
            if d * d < peak or w[_USE + i * _LINE + x] == 0:
                continue
            mean = (total - d) / (cells - 1)
            others = max(squares - d * d - (cells - 1) * mean * mean, np.float32(0)) / (cells - 2)
            if (d - mean) ** 2 > _OUTLIER * others:
                w[_SUMS + x] -= 1
                w[_SUMS + _LINE + x] -= g
                w[_SUMS + 2 * _LINE + x] -= d
                w[_SUMS + 3 * _LINE + x] -= d * d
                changed = True
            break
    return changed


@kernel
def _store(  # noqa: PLR0917
    w: NDArray[np.float32],
    plane: int,
    block_y: int,
    first: int,
    n: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Turns a chunk's block sums into means and central moments, and stores them.

    Args:
        w: (_SCRATCH,) scratch array; row _BLOCKS is changed.
        plane: index of the plane.
        block_y: row of the blocks.
        first: column of the chunk's first block.
        n: (hb, wb), written.
        out: (4, P, hb, wb), written.
    """
    one, zero = np.float32(1), np.float32(0)
    for i in range(_CHUNK // BLOCK):
        at = _BLOCKS + i
        share = one / max(w[at], one)
        mean = w[at + 2 * _LINE] * share
        w[at + _LINE] *= share
        w[at + 2 * _LINE] = mean
        w[at + 3 * _LINE] = max(w[at + 3 * _LINE] - w[at] * mean * mean, zero)
        w[at + 4 * _LINE] *= share
    size = min(_CHUNK // BLOCK, n.shape[1] - first)
    line = n[block_y, first : first + size]
    for i in range(size):
        line[i] = w[_BLOCKS + i]
    for name in range(4):
        line = out[name, plane, block_y, first : first + size]
        for i in range(size):
            line[i] = w[_BLOCKS + (name + 1) * _LINE + i]
