"""The statistics of boxes of blocks against what noise and systematic errors explain.

    mean        sum of the residuals of a box: an object or a shadow; as the sum over planes and as a chi-square
    shade       the same, each block weighted by its level: a shadow over stars, or half over a black wall
    energy      squared residuals of its blocks: texture that moved
    excess      variance within its blocks beyond noise: fine texture that appeared or vanished

Each is a normal deviate over its threshold. Systematic errors: FLOOR times the level and the slow part of line noise (`floor`,
fully correlated within a box), and a residual displacement times the gradient (`rough`, of one sign over some blocks: farther
apart, the errors of stars or of both edges of a branch cancel).

The loops of the kernels run row by row and plane by plane over contiguous arrays, so that LLVM vectorises them.
"""

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.noise import FLOOR
from rawnind.imaging.jit import kernel

# Thresholds and errors were set with benchmarks/bench_mask.py: 108 drawn pairs, ISO 100 to 65535, with known changes.
# standard deviations; above `evidence._MEAN`: the tails of a sum of squares are heavier than normal
_ENERGY = np.float32(8.0)
_EXCESS = np.float32(5.0)  # standard deviations, on top of the two errors below
_TINY = np.float32(1e-20)  # keeps 0 / 0 out
_CAP = np.float32(40.0)  # largest contribution of one block to the energy of a box, in variances
_STANDS_OUT = np.float32(4.0)  # deviations of a block's mean: the least level by which a block shows shade
# FLOOR for shade: it sums stars, whose levels are less certain than even ones
_SHADE_FLOOR = np.float32(0.03)
_MOST_SHADE = np.float32(3.0)  # deviations that one block adds: a single wrong star is no shadow
_VARIANCE_ERROR = np.float32(0.15)  # relative error of the noise model's variance
_TEXTURE_ERROR = np.float32(4.0)  # error of the excess of textured blocks, relative to its typical value


@kernel(fastmath={"contract"})
def deviations(
    n: NDArray[np.float32],
    variance: NDArray[np.float32],
    g: NDArray[np.float32],
    fine: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Standard deviation of the mean difference of an unchanged block: sqrt(variance / n + (FLOOR g)^2 + fine).

    Args:
        n: (hb, wb) usable cells.
        variance: (P, hb, wb) noise variance of a cell, in levels squared.
        g: (P, hb, wb) levels.
        fine: (P, hb, wb) squared error along edges, in levels squared.
        out: (P, hb, wb), written, in levels.
    """
    floor = np.float32(FLOOR**2)
    for p in range(len(g)):
        for y in range(g.shape[1]):
            v, level, error, cells, row = variance[p, y], g[p, y], fine[p, y], n[y], out[p, y]
            for x in range(len(row)):
                still = floor * level[x] * level[x] + error[x]
                row[x] = np.sqrt(v[x] / max(cells[x], np.float32(1)) + still)


@kernel(fastmath={"contract"})
def fill_maps(  # noqa: PLR0917
    n: NDArray[np.float32],
    residual: NDArray[np.float32],
    variance: NDArray[np.float32],
    wider: NDArray[np.float32],
    g: NDArray[np.float32],
    dd: NDArray[np.float32],
    coarse: NDArray[np.float32],
    fine: NDArray[np.float32],
    left: NDArray[np.float32],
    white: NDArray[np.float32],
    cells: NDArray[np.float32],
    level: NDArray[np.float32],
    floor: NDArray[np.float32],
    rough: NDArray[np.float32],
    rest: NDArray[np.float32],
) -> None:
    """Fills the maps of `evidence._Maps`, except `shade`, from moments, residuals and noise.

    Args:
        n: (hb, wb) usable cells.
        residual: (P, hb, wb) mean differences without nuisance terms, in levels.
        variance: (P, hb, wb) noise variance of a cell about its block.
        wider: (P,) factor from it to that of block means, from `block_noise`.
        g: (P, hb, wb) levels.
        dd: (P, hb, wb) sums of squared deviations of the difference.
        coarse: (P, hb, wb) squared error of mean differences along edges, in levels squared.
        fine: (P, hb, wb) the same of variances within blocks.
        left: (P, hb, wb) variance of the slow part of line noise.
        white: (P, hb, wb), written; this and the next five as in `evidence._Maps`.
        cells: (hb, wb), written.
        level: (hb, wb), written.
        floor: (hb, wb), written.
        rough: (hb, wb), written.
        rest: (5, hb, wb), written.
    """
    planes, height, width = residual.shape
    one, share = np.float32(1), np.float32(FLOOR**2)
    for y in range(height):
        count, weights = n[y], cells[y]
        bright, root, edge = level[y], floor[y], rough[y]
        energy, known, excess, explained, freedom = rest[0, y], rest[1, y], rest[2, y], rest[3, y], rest[4, y]
        for sums in (bright, root, edge, energy, excess, explained):
            sums[:] = 0
        for p in range(planes):
            d, v, size, spread = residual[p, y], variance[p, y], g[p, y], dd[p, y]
            between, within, out, lines = coarse[p, y], fine[p, y], white[p, y], left[p, y]
            factor = wider[p]
            for x in range(width):
                unit = np.sqrt(one / (factor * v[x]))
                out[x] = count[x] * d[x] * unit
                bright[x] += abs(size[x]) * unit
                root[x] += np.sqrt(share * size[x] * size[x] + lines[x]) * unit
                edge[x] += np.sqrt(between[x]) * unit
            for x in range(width):
                still = share * size[x] * size[x] + lines[x] + between[x]
                energy[x] += d[x] * d[x] / (factor * v[x] / max(count[x], one) + still)
                excess[x] += spread[x] / v[x] - (count[x] - one)
                explained[x] += within[x] * count[x] / v[x]
        for x in range(width):
            known[x] = one if count[x] > 0 else np.float32(0)
            bright[x] *= count[x] / planes
            root[x] *= count[x] / planes
            edge[x] = (count[x] * edge[x] / planes) ** 2
            # a sum with these weights has the least variance
            weights[x] = count[x] / max(count[x] + edge[x], one)
            bright[x] *= weights[x]
            root[x] *= weights[x]
            edge[x] *= weights[x] * weights[x]
            energy[x] = known[x] * min(energy[x], _CAP)
            excess[x] *= known[x]
            explained[x] *= known[x]
            freedom[x] = known[x] * (count[x] - one) * planes
        for p in range(planes):
            out = white[p, y]
            for x in range(width):
                out[x] *= weights[x]
        for x in range(width):
            weights[x] *= weights[x] * count[x]


@kernel(fastmath={"contract"})
def fill_shade(  # noqa: PLR0917
    n: NDArray[np.float32],
    residual: NDArray[np.float32],
    variance: NDArray[np.float32],
    wider: NDArray[np.float32],
    g: NDArray[np.float32],
    coarse: NDArray[np.float32],
    left: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Fills `shade` of `evidence._Maps`.

    With the least variance, the share by which all levels of a box fell is a sum of residuals times levels over variances.

    Args:
        n: (hb, wb) usable cells.
        residual: (P, hb, wb) mean differences without nuisance terms, in levels.
        variance: (P, hb, wb) noise variance of a cell about its block.
        wider: (P,) factor from it to that of block means, from `block_noise`.
        g: (P, hb, wb) levels.
        coarse: (P, hb, wb) squared error of mean differences along edges, in levels squared.
        left: (P, hb, wb) variance of the slow part of line noise.
        out: (3, hb, wb), written.
    """
    planes, height, width = residual.shape
    zero, one, all_planes = np.float32(0), np.float32(1), np.float32(planes)
    least, share = _STANDS_OUT**2, _SHADE_FLOOR**2
    out[:] = 0
    for y in range(height):
        count, dim, spread, error = n[y], out[0, y], out[1, y], out[2, y]
        for p in range(planes):
            d, v, level, edges = residual[p, y], variance[p, y], g[p, y], coarse[p, y]
            factor, lines = wider[p], left[p, y]
            for x in range(width):
                noise = factor * v[x] / max(count[x], one)
                square = level[x] * level[x]
                each = one / (noise + edges[x]) if square > least * noise and count[x] > 0 else zero
                weight = level[x] * each
                dim[x] += weight * d[x]
                spread[x] += weight * weight * (noise + all_planes * edges[x])
                # the ground truth's noise is in level and residual: their product is up to `noise` on average
                error[x] += abs(weight) * np.sqrt(share * square + lines[x]) + noise * each
        for x in range(width):
            most = _MOST_SHADE * np.sqrt(spread[x])
            dim[x] = min(max(dim[x], -most), most)


@kernel(fastmath={"contract"})
def _cube_root(x: np.float32) -> np.float32:
    """Cube root of x >= 1 by Halley's iteration from x^(5/16); unlike the library's it has no branches, so LLVM vectorises it."""
    fourth = np.sqrt(np.sqrt(x))
    y: np.float32 = fourth * np.sqrt(np.sqrt(fourth))
    for _ in range(3):
        cube = y * y * y
        y *= (cube + x + x) / (cube + cube + x)
    return y


@kernel(fastmath={"contract"})
def box_scores(  # noqa: PLR0917
    usable: NDArray[np.float32],
    white: NDArray[np.float32],
    cells: NDArray[np.float32],
    floor: NDArray[np.float32],
    rough: NDArray[np.float32],
    shade: NDArray[np.float32],
    rest: NDArray[np.float32],
    least: np.float32,
    threshold: np.float32,
    texture: bool,  # noqa: FBT001
    out: NDArray[np.float32],
) -> None:
    """The largest test statistic of each box over its threshold; 0 where too few cells of the box are usable.

    With w_p = white, n = cells, P planes and the variances N = P n of noise and S = P (floor^2 + rough) of systematic errors:

        mean, one sign     |sum_p w_p| / sqrt(N + P S)
        shade              |H| / sqrt(Q + R^2), the sums of `shade`
        mean, any signs    chi^2 = sum_p w_p^2 / (n + S / P) with P degrees of freedom, as a normal deviate
        energy             (E - f) / sqrt(2 f) of the f squared normalised residuals of blocks and planes, E their sum
        excess             (V - X) / v / sqrt(2 / v + _VARIANCE_ERROR^2 + (_TEXTURE_ERROR X / v)^2)

    V is the excess of the variance within blocks in units of the noise's, v its degrees of freedom, X what a residual shift
    of the texture explains. The planes' noise is independent, their systematic errors are not. A chi-square becomes a normal deviate by
    its cube root (E. B. Wilson and M. M. Hilferty 1931): ((chi^2 / P)^(1/3) - (1 - 2 / (9 P))) / sqrt(2 / (9 P)).

    Args:
        usable: (hb, wb) box sums, see `evidence._Maps`; as are the next six.
        white: (P, hb, wb) box sums.
        cells: (hb, wb) box sums.
        floor: (hb, wb) box sums.
        rough: (hb, wb) box sums times the side of the box, at most `evidence._ALIKE`.
        shade: (3, hb, wb) box sums.
        rest: (5, hb, wb) box sums.
        least: smallest number of usable cells.
        threshold: of the means, in standard deviations.
        texture: whether energy and excess are tested too.
        out: (hb, wb), written.
    """
    _, height, width = white.shape
    # integers would widen all to float64
    one, two, planes = np.float32(1), np.float32(2), np.float32(len(white))
    spread = np.float32(2 / (9 * len(white)))
    root = np.sqrt(spread)
    chi, total = np.empty((2, width), np.float32)
    for y in range(height):
        count, enough, z = cells[y], usable[y], out[y]
        chi[:], total[:] = 0, 0
        for p in range(len(white)):
            row = white[p, y]
            for x in range(width):
                chi[x] += row[x] * row[x]
                total[x] += row[x]
        for x in range(width):
            # the planes' noise is independent, their systematic errors are not
            noisy, still = planes * count[x], planes * (floor[y, x] * floor[y, x] + rough[y, x])
            z[x] = abs(total[x]) / np.sqrt(noisy + planes * still) / threshold
            error = np.sqrt(max(shade[1, y, x] + shade[2, y, x] ** 2, _TINY))
            z[x] = max(z[x], abs(shade[0, y, x]) / error / threshold)
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
            # a chi-square as a normal deviate (Wilson and Hilferty)
            mean = (_cube_root(max(chi[x], one)) - (one - spread)) / root / threshold
            z[x] = (max(z[x], mean) if chi[x] > one else z[x]) if enough[x] >= least else np.float32(0)
