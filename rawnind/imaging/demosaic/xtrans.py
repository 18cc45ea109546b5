"""X-Trans: green along rows and columns, weighted by the activity along each, then colour differences.

Every red and blue site lies on one line of G G R G G B (two greens on either side) and, across it, on one line of
B R G R B G (green next to it, its own colour again behind that green). Both lines give an estimate of green. Then red and
blue are interpolated as differences from green: a bilateral filter averages them over sites with similar green
(C. Tomasi and R. Manduchi, "Bilateral filtering for gray and color images", ICCV 1998).
"""

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.jit import kernel
from rawnind.records import Cfa

# Best PSNR on scikit-image's photographs (benchmarks/bench_demosaic.py); compressed levels. The difference of green at which
# a neighbour has half its weight, and the activity (sum over 25 sites) below which both directions have the same.
_EDGE = np.float32(5e-2)
_FLOOR = np.float32(2e-3)

_Neighbours = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]
_COLORS = np.array(Cfa.X_TRANS.tile, np.int64)


def _steps(axis: int) -> NDArray[np.int64]:
    """Offsets to two sites of one colour among each site and its two neighbours along an axis.

    Returns:
        (6, 6, 2) int64 for each site of the tile; both 0 where the three sites have three colours.
    """
    before, after = np.roll(_COLORS, 1, axis), np.roll(_COLORS, -1, axis)
    table = np.zeros((6, 6, 2), np.int64)
    table[after == _COLORS] = 0, 1
    table[before == _COLORS] = -1, 0
    table[before == after] = -1, 1
    return table


def _neighbours(radius: int, sigma: float) -> _Neighbours:
    """For each site of the tile and each colour: the places of that colour's sites nearby, their weights, their number.

    Args:
        radius: sites.
        sigma: of the Gaussian weights in sites.

    Returns:
        (6, 6, 3, n, 3) int64 row offset, column within its tile, tiles to the right; (6, 6, 3, n) float32; (6, 6, 3) int64.
    """
    side = 2 * radius + 1
    places, weights = np.zeros((6, 6, 3, side**2, 3), np.int64), np.zeros((6, 6, 3, side**2), np.float32)
    counts = np.zeros((6, 6, 3), np.int64)
    for y, x, i, j in np.ndindex(6, 6, side, side):
        dy, dx = i - radius, j - radius
        color = _COLORS[(y + dy) % 6, (x + dx) % 6]
        k = counts[y, x, color]
        places[y, x, color, k] = dy, (x + dx) % 6, (x + dx) // 6
        weights[y, x, color, k] = np.exp(-(dy**2 + dx**2) / (2 * sigma**2))
        counts[y, x, color] += 1
    return places, weights, counts


_ROW_STEPS, _COLUMN_STEPS = _steps(1), _steps(0)
# 1 where the row is the line of G G R G G B; across it, +1 where green follows the site, -1 where it precedes it
_IN_ROW = ((np.roll(_COLORS, 1, 1) == 1) & (np.roll(_COLORS, -1, 1) == 1)).astype(np.int64)
_AFTER = np.where(_IN_ROW == 1, np.roll(_COLORS, -1, 0) == 1, np.roll(_COLORS, -1, 1) == 1) * 2 - 1
_WIDE, _NARROW = _neighbours(3, 3.0), _neighbours(2, 2.0)


def xtrans_chunk(m: NDArray[np.float32], scratch: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """All three colours of a chunk of an X-Trans mosaic.

    Args:
        m: (h, w) float32 compressed, balanced levels; starts on the CFA's first site; h and w are multiples of 6.
        scratch: (8, h, w) float32 scratch memory.
        out: (3, h, w) float32, written; valid from 12 sites inside.
    """
    rows, columns, share, green = scratch[0], scratch[1], scratch[2], scratch[3]
    _step_sizes(m, _ROW_STEPS, _COLUMN_STEPS, rows, columns)
    _row_share(rows, columns, share)
    _green(m, share, green)
    by_column, greens = _by_column(m), _by_column(green)
    refined = np.empty_like(greens)
    _refine(by_column, greens, _WIDE, refined)
    _fill(by_column, refined, _NARROW, out)


def _by_column(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w) as (h, 6, w/6): sites with the same column of their tile are contiguous, so that LLVM vectorises over them."""
    height, width = image.shape
    return np.ascontiguousarray(image.reshape(height, width // 6, 6).transpose(0, 2, 1))


@kernel(fastmath={"contract"})
def _step_sizes(
    m: NDArray[np.float32],
    row_steps: NDArray[np.int64],
    column_steps: NDArray[np.int64],
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
) -> None:
    """Absolute change per site along the row and along the column, where two sites of one colour are near; else 0.

    Args:
        m: (h, w) levels.
        row_steps: (6, 6, 2) from `_steps`.
        column_steps: (6, 6, 2) from `_steps`.
        rows: (h, w), written.
        columns: (h, w), written.
    """
    height, width = m.shape
    for y in range(1, height - 1):
        for q in range(6):
            (a, b), (c, d) = row_steps[y % 6, q], column_steps[y % 6, q]
            per_row, per_column = np.float32(1 / max(b - a, 1)), np.float32(1 / max(d - c, 1))
            for x in range(q or 6, width - 1, 6):
                rows[y, x] = abs(m[y, x + b] - m[y, x + a]) * per_row
                columns[y, x] = abs(m[y + d, x] - m[y + c, x]) * per_column


@kernel(fastmath={"contract"})
def _row_share(rows: NDArray[np.float32], columns: NDArray[np.float32], share: NDArray[np.float32]) -> None:
    """Weight of the row against the column, b^3 / (a^3 + b^3) with the activities a and b over 5x5 sites of row and column.

    Args:
        rows: (h, w) changes along rows.
        columns: (h, w) changes along columns.
        share: (h, w), written, 0..1.
    """
    height, width = rows.shape
    row_sums, column_sums = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(3, height - 3):
        for x in range(1, width - 1):
            row_sums[x] = rows[y - 2, x] + rows[y - 1, x] + rows[y, x] + rows[y + 1, x] + rows[y + 2, x]
            column_sums[x] = (
                columns[y - 2, x] + columns[y - 1, x] + columns[y, x] + columns[y + 1, x] + columns[y + 2, x]
            )
        for x in range(3, width - 3):
            a = row_sums[x - 2] + row_sums[x - 1] + row_sums[x] + row_sums[x + 1] + row_sums[x + 2] + _FLOOR
            b = column_sums[x - 2] + column_sums[x - 1] + column_sums[x] + column_sums[x + 1]
            b += column_sums[x + 2] + _FLOOR
            share[y, x] = b * b * b / (a * a * a + b * b * b)


@kernel(fastmath={"contract"})
def _green(m: NDArray[np.float32], share: NDArray[np.float32], green: NDArray[np.float32]) -> None:
    """First estimate of green at every site.

    Args:
        m: (h, w) levels.
        share: (h, w) weight of the row.
        green: (h, w), written.
    """
    height, width = m.shape
    third, sixth, half = np.float32(1 / 3), np.float32(1 / 6), np.float32(0.5)
    for y in range(4, height - 4):
        for q in range(6):
            in_row, s = _IN_ROW[y % 6, q], _AFTER[y % 6, q]
            ly, lx, cy, cx = (0, 1, s, 0) if in_row else (1, 0, 0, s)
            keep = _COLORS[y % 6, q] == 1
            for x in range(q if q >= 4 else q + 6, width - 4, 6):
                if keep:
                    green[y, x] = m[y, x]
                    continue
                line = 2 * third * (m[y - ly, x - lx] + m[y + ly, x + lx])
                line -= sixth * (m[y - 2 * ly, x - 2 * lx] + m[y + 2 * ly, x + 2 * lx])
                # the nearest green plus half the change of the other colour between there and here, from both sides
                near = m[y + cy, x + cx] + half * (m[y, x] - m[y + 2 * cy, x + 2 * cx])
                far = m[y - 2 * cy, x - 2 * cx] + half * (m[y - cy, x - cx] - m[y - 3 * cy, x - 3 * cx])
                cross = 2 * third * near + third * far
                weight = share[y, x] if in_row else np.float32(1) - share[y, x]
                green[y, x] = weight * line + (np.float32(1) - weight) * cross


@kernel(fastmath={"contract"})
def _difference(
    m: NDArray[np.float32],
    green: NDArray[np.float32],
    site: tuple[int, int, int],
    neighbours: _Neighbours,
    sums: NDArray[np.float32],
) -> None:
    """Green minus a colour along a row, averaged over that colour's sites nearby; sites with similar green have more weight.

    Args:
        m: (h, 6, n) levels.
        green: (h, 6, n) green.
        site: row, column within the tile, colour.
        neighbours: of every site of the tile.
        sums: (2, n) the result, except its first and last value; then the weights.
    """
    y, q, color = site
    places, weights, counts = neighbours
    last = sums.shape[1] - 1
    center, total, weight = green[y, q, 1:last], sums[0, 1:last], sums[1, 1:last]
    total[:], weight[:] = 0, 0
    for k in range(counts[y % 6, q, color]):
        dy, column, tiles = places[y % 6, q, color, k]
        near = m[y + dy, column, 1 + tiles : last + tiles]
        near_green = green[y + dy, column, 1 + tiles : last + tiles]
        spatial = weights[y % 6, q, color, k]
        for x in range(len(center)):
            share = spatial / (_EDGE + abs(near_green[x] - center[x]))
            total[x] += share * (near_green[x] - near[x])
            weight[x] += share
    for x in range(len(center)):
        total[x] /= weight[x]


@kernel(fastmath={"contract"})
def _refine(
    m: NDArray[np.float32], green: NDArray[np.float32], neighbours: _Neighbours, refined: NDArray[np.float32]
) -> None:
    """Second estimate of green at red and blue sites: the site's colour plus its neighbourhood's difference from green.

    Args:
        m: (h, 6, n) levels.
        green: (h, 6, n) first estimate.
        neighbours: of every site of the tile.
        refined: (h, 6, n), written.
    """
    sums = np.empty((2, m.shape[2]), np.float32)
    for y in range(7, m.shape[0] - 7):
        for q in range(6):
            color = _COLORS[y % 6, q]
            if color == 1:
                refined[y, q] = m[y, q]
            else:
                _difference(m, green, (y, q, color), neighbours, sums)
                refined[y, q] = m[y, q] + sums[0]


@kernel(fastmath={"contract"})
def _fill(
    m: NDArray[np.float32], green: NDArray[np.float32], neighbours: _Neighbours, out: NDArray[np.float32]
) -> None:
    """Red and blue at every site, from green; in the order of the sites.

    Args:
        m: (h, 6, n) levels.
        green: (h, 6, n) second estimate.
        neighbours: of every site of the tile.
        out: (3, h, 6 n), written.
    """
    sums = np.empty((2, m.shape[2]), np.float32)
    for y in range(12, m.shape[0] - 12):
        for q in range(6):
            out[1, y, q::6] = green[y, q]
            for color in (0, 2):
                if _COLORS[y % 6, q] == color:
                    out[color, y, q::6] = m[y, q]
                else:
                    _difference(m, green, (y, q, color), neighbours, sums)
                    out[color, y, q::6] = green[y, q] - sums[0]
