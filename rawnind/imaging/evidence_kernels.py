"""The loops of the tests for a changed scene: row by row and plane by plane, so that they run on vectors."""

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.difference import FLOOR
from rawnind.imaging.kernels import kernel

_ENERGY = np.float32(8.0)
_EXCESS = np.float32(5.0)
_CAP = np.float32(40.0)  # squared deviations that one block adds to the energy of a box
_VARIANCE_ERROR = np.float32(0.15)  # share by which the noise model may miss a variance
_TEXTURE_ERROR = np.float32(4.0)  # times the typical excess of textured blocks


@kernel(fastmath={"contract"})
def deviations(  # noqa: PLR0917
    n: NDArray[np.float32],
    variance: NDArray[np.float32],
    g: NDArray[np.float32],
    gradient: NDArray[np.float32],
    texture: np.float32,
    out: NDArray[np.float32],
) -> None:
    """Writes what the mean difference of a still block may deviate by: (P, hb, wb)."""
    floor = np.float32(FLOOR**2)
    for p in range(len(g)):
        for y in range(g.shape[1]):
            v, level, slope, cells, row = variance[p, y], g[p, y], gradient[p, y], n[y], out[p, y]
            for x in range(len(row)):
                still = floor * level[x] * level[x] + texture * slope[x]
                row[x] = np.sqrt(v[x] / max(cells[x], np.float32(1)) + still)


@kernel(fastmath={"contract"})
def prepare(  # noqa: PLR0917
    n: NDArray[np.float32],
    residual: NDArray[np.float32],
    variance: NDArray[np.float32],
    g: NDArray[np.float32],
    dd: NDArray[np.float32],
    gradient: NDArray[np.float32],
    factors: NDArray[np.float32],
    left: NDArray[np.float32],
    white: NDArray[np.float32],
    level: NDArray[np.float32],
    floor: NDArray[np.float32],
    rough: NDArray[np.float32],
    rest: NDArray[np.float32],
) -> None:
    """Fills the maps that boxes sum up: `white` and all after it."""
    planes, height, width = residual.shape
    one = np.float32(1)
    for y in range(height):
        cells = n[y]
        bright, root, edge = level[y], floor[y], rough[y]
        energy, known, excess, explained, freedom = rest[0, y], rest[1, y], rest[2, y], rest[3, y], rest[4, y]
        for sums in (bright, root, edge, energy, excess, explained):
            sums[:] = 0
        for p in range(planes):
            d, v, size, slope = residual[p, y], variance[p, y], g[p, y], gradient[p, y]
            spread, out, lines = dd[p, y], white[p, y], left[p]
            for x in range(width):
                unit = np.sqrt(one / v[x])
                out[x] = cells[x] * d[x] * unit
                bright[x] += abs(size[x]) * unit
                root[x] += np.sqrt(factors[0] * size[x] * size[x] + lines) * unit
                edge[x] += np.sqrt(slope[x]) * unit
            for x in range(width):
                still = factors[0] * size[x] * size[x] + lines + factors[1] * slope[x]
                energy[x] += d[x] * d[x] / (v[x] / max(cells[x], one) + still)
                excess[x] += spread[x] / v[x] - (cells[x] - one)
                explained[x] += factors[2] * slope[x] * cells[x] / v[x]
        for x in range(width):
            known[x] = one if cells[x] > 0 else np.float32(0)
            bright[x] *= cells[x] / planes
            root[x] *= cells[x] / planes
            edge[x] = factors[1] * (cells[x] * edge[x] / planes) ** 2
            energy[x] = known[x] * min(energy[x], _CAP)
            excess[x] *= known[x]
            explained[x] *= known[x]
            freedom[x] = known[x] * (cells[x] - one) * planes


@kernel(fastmath={"contract"})
def _cube_root(x: np.float32) -> np.float32:
    """Of 1 and more: Halley's steps from x^(5/16), without the branches that keep a library's root off vectors."""
    fourth = np.sqrt(np.sqrt(x))
    y: np.float32 = fourth * np.sqrt(np.sqrt(fourth))
    for _ in range(3):
        cube = y * y * y
        y *= (cube + x + x) / (cube + cube + x)
    return y


@kernel(fastmath={"contract"})
def judge(  # noqa: PLR0917
    white: NDArray[np.float32],
    cells: NDArray[np.float32],
    floor: NDArray[np.float32],
    rough: NDArray[np.float32],
    rest: NDArray[np.float32],
    least: np.float32,
    threshold: np.float32,
    texture: bool,  # noqa: FBT001
    out: NDArray[np.float32],
) -> None:
    """Writes the strongest test of each box over its threshold; 0 where too little of the box is known."""
    _, height, width = white.shape
    # integers would widen all to float64
    one, two, planes = np.float32(1), np.float32(2), np.float32(len(white))
    spread = np.float32(2 / (9 * len(white)))
    root = np.sqrt(spread)
    chi, total = np.empty((2, width), np.float32)
    for y in range(height):
        count, z = cells[y], out[y]
        chi[:], total[:] = 0, 0
        for p in range(len(white)):
            row = white[p, y]
            for x in range(width):
                chi[x] += row[x] * row[x]
                total[x] += row[x]
        for x in range(width):
            # the noise of the planes is independent, the floors are not
            noisy, still = planes * count[x], planes * (floor[y, x] * floor[y, x] + rough[y, x])
            z[x] = abs(total[x]) / np.sqrt(noisy + planes * still) / threshold
            chi[x] /= noisy + still
        if texture:
            energy, known, excess, explained = rest[0, y], rest[1, y], rest[2, y], rest[3, y]
            for x in range(width):
                freedom = planes * known[x]
                each = one / rest[4, y, x]
                share = explained[x] * each
                error = np.sqrt(two * each + _VARIANCE_ERROR**2 + (_TEXTURE_ERROR * share) ** 2)
                most = max(
                    (energy[x] - freedom) / np.sqrt(two * freedom) / _ENERGY,
                    (excess[x] * each - share) / error / _EXCESS,
                )
                z[x] = max(z[x], most)
        for x in range(width):
            # Wilson and Hilferty: a chi-square as a normal deviate
            mean = (_cube_root(max(chi[x], one)) - (one - spread)) / root / threshold
            z[x] = (max(z[x], mean) if chi[x] > one else z[x]) if count[x] >= least else np.float32(0)
