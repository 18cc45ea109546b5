"""X-Trans: green along rows and columns, weighted by how much the image changes along each, then colour differences.

Every red and blue site lies on one line of G G R G G B (two greens on either side) and, across it, on one line of
B R G R B G (a green next to it, the same colour again behind that green).
"""

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.kernels import kernel
from rawnind.records import Cfa

_COLORS = np.array(Cfa.X_TRANS.tile, np.int64)

# 1 where a site's two neighbours in the row are green.
_IN_ROW = ((np.roll(_COLORS, 1, 1) == 1) & (np.roll(_COLORS, -1, 1) == 1)).astype(np.int64)
# Across that line: +1 where the green neighbour comes after the site, -1 where it comes before.
_AFTER = np.where(_IN_ROW, np.roll(_COLORS, -1, 0) == 1, np.roll(_COLORS, -1, 1) == 1) * 2 - 1


def _neighbours() -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """For each site of the tile and each colour: the sites of that colour within 5x5, their weights, and how many."""
    counts = np.zeros((6, 6, 3), np.int64)
    offsets, weights = np.zeros((6, 6, 3, 9, 2), np.int64), np.zeros((6, 6, 3, 9), np.float32)
    for y, x, dy, dx in np.ndindex(6, 6, 5, 5):
        color = _COLORS[(y + dy - 2) % 6, (x + dx - 2) % 6]
        if color == 1:
            continue
        k = counts[y, x, color]
        offsets[y, x, color, k] = dy - 2, dx - 2
        weights[y, x, color, k] = 1 / ((dy - 2) ** 2 + (dx - 2) ** 2 + 1.0)
        counts[y, x, color] += 1
    return offsets, weights, counts


_OFFSETS, _WEIGHTS, _COUNTS = _neighbours()
_FLOOR = np.float32(2e-3)
_EDGE = np.float32(1e-2)


@kernel(fastmath={"contract"})
def _difference(
    m: NDArray[np.float32], green: NDArray[np.float32], y: int, x: int, p: int, q: int, color: int
) -> np.float32:
    """Green minus a colour at a site, from that colour's sites within 5x5; those of like green and near weigh more."""
    total = weight = np.float32(0)
    for k in range(_COUNTS[p, q, color]):
        i, j = y + _OFFSETS[p, q, color, k, 0], x + _OFFSETS[p, q, color, k, 1]
        w = _WEIGHTS[p, q, color, k] / (_EDGE + abs(green[i, j] - green[y, x]))
        total += w * (green[i, j] - m[i, j])
        weight += w
    return total / weight


@kernel(fastmath={"contract"})
def xtrans_tile(m: NDArray[np.float32], scratch: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """All three colours of a tile.

    Args:
        m: (h, w) compressed, balanced levels; starts on the pattern's first site.
        scratch: (8, h, w) work space.
        out: (3, h, w); right from REACH sites inside.
    """
    height, width = m.shape
    row_step, column_step, green, refined = scratch[0], scratch[1], scratch[2], scratch[3]
    half = np.float32(0.5)
    # 1. Change along rows and columns, where two sites of one colour allow to see it.
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            p, q = y % 6, x % 6
            left, right = _COLORS[p, (q + 5) % 6], _COLORS[p, (q + 1) % 6]
            step = np.float32(0)
            if left == right:
                step = half * abs(m[y, x - 1] - m[y, x + 1])
            elif left == _COLORS[p, q]:
                step = abs(m[y, x - 1] - m[y, x])
            elif right == _COLORS[p, q]:
                step = abs(m[y, x + 1] - m[y, x])
            row_step[y, x] = step
            above, below = _COLORS[(p + 5) % 6, q], _COLORS[(p + 1) % 6, q]
            step = np.float32(0)
            if above == below:
                step = half * abs(m[y - 1, x] - m[y + 1, x])
            elif above == _COLORS[p, q]:
                step = abs(m[y - 1, x] - m[y, x])
            elif below == _COLORS[p, q]:
                step = abs(m[y + 1, x] - m[y, x])
            column_step[y, x] = step
    # 2. Green at red and blue sites.
    for y in range(4, height - 4):
        for x in range(4, width - 4):
            p, q = y % 6, x % 6
            green[y, x] = m[y, x]
            if _COLORS[p, q] == 1:
                continue
            a = d = _FLOOR
            for i in range(y - 2, y + 3):
                for j in range(x - 2, x + 3):
                    a += row_step[i, j]
                    d += column_step[i, j]
            wa, wd = np.float32(1) / (a * a * a), np.float32(1) / (d * d * d)
            s = _AFTER[p, q]
            if _IN_ROW[p, q]:
                line = np.float32(2 / 3) * (m[y, x - 1] + m[y, x + 1]) - np.float32(1 / 6) * (
                    m[y, x - 2] + m[y, x + 2]
                )
                beyond = m[y - 2 * s, x] + half * (m[y - s, x] - m[y - 3 * s, x])
                near = m[y + s, x] + half * (m[y, x] - m[y + 2 * s, x])
                cross = np.float32(2 / 3) * near + np.float32(1 / 3) * beyond
                green[y, x] = (wa * line + wd * cross) / (wa + wd)
            else:
                line = np.float32(2 / 3) * (m[y - 1, x] + m[y + 1, x]) - np.float32(1 / 6) * (
                    m[y - 2, x] + m[y + 2, x]
                )
                beyond = m[y, x - 2 * s] + half * (m[y, x - s] - m[y, x - 3 * s])
                near = m[y, x + s] + half * (m[y, x] - m[y, x + 2 * s])
                cross = np.float32(2 / 3) * near + np.float32(1 / 3) * beyond
                green[y, x] = (wd * line + wa * cross) / (wa + wd)
    # 3. Green again.
    for y in range(6, height - 6):
        for x in range(6, width - 6):
            p, q = y % 6, x % 6
            refined[y, x] = green[y, x]
            color = _COLORS[p, q]
            if color != 1:
                refined[y, x] = m[y, x] + _difference(m, green, y, x, p, q, color)
    # 4. Red and blue.
    for y in range(12, height - 12):
        for x in range(12, width - 12):
            p, q = y % 6, x % 6
            color = _COLORS[p, q]
            g = refined[y, x]
            out[1, y, x] = g
            for c in range(0, 3, 2):
                out[c, y, x] = m[y, x] if c == color else g - _difference(m, refined, y, x, p, q, c)
