"""The tests for a change: statistics of boxes of 1 to 17 blocks a side against what noise and systematic errors explain.

    mean        sum of the residuals of a box: an object or a shadow; as the sum over planes and as a chi-square
    shade       the same, each block weighted by its level: a shadow over stars, or half over a black wall
    energy      squared residuals of its blocks: texture that moved
    excess      variance within its blocks beyond noise: fine texture that appeared or vanished

Each is a normal deviate over its threshold. Boxes grow from small to large; what a size detects is dropped before the next,
so that a small strong change does not raise the statistic of every large box around it. Systematic errors: FLOOR times the
level and the slow part of line noise (`floor`, fully correlated within a box), and a residual displacement times the gradient
(`rough`, of one sign over some `_ALIKE` blocks: farther apart, the errors of stars or of both edges of a branch cancel).

The loops of the kernels run row by row and plane by plane over contiguous arrays, so that LLVM vectorises them.
"""

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.edges import color_leak, errors_between, errors_within, scene_gradient
from rawnind.imaging.change.moments import Moments
from rawnind.imaging.change.noise import FLOOR, NoiseModel, block_noise
from rawnind.imaging.change.nuisance import subtract_lines
from rawnind.imaging.change.region import Odds, changed_area, hysteresis
from rawnind.imaging.jit import kernel

# Thresholds and errors were set with benchmarks/bench_mask.py: 108 drawn pairs, ISO 100 to 65535, with known changes.
# standard deviations; above _MEAN: the tails of a sum of squares are heavier than normal
_ENERGY = np.float32(8.0)
_EXCESS = np.float32(5.0)  # standard deviations, on top of the two errors below
_TINY = np.float32(1e-20)  # keeps 0 / 0 out
_CAP = np.float32(40.0)  # largest contribution of one block to the energy of a box, in variances
_ALIKE = 3  # blocks over which errors along an edge keep their sign
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
    """Fills the maps of `_Maps`, except `shade`, from moments, residuals and noise.

    Args:
        n: (hb, wb) usable cells.
        residual: (P, hb, wb) mean differences without nuisance terms, in levels.
        variance: (P, hb, wb) noise variance of a cell about its block.
        wider: (P,) factor from it to that of block means, from `block_noise`.
        g: (P, hb, wb) levels.
        dd: (P, hb, wb) sums of squared deviations of the difference.
        coarse: (P, hb, wb) squared error of mean differences along edges, in levels squared.
        fine: (P, hb, wb) the same of variances within blocks.
        left: (P,) variance of the slow part of line noise.
        white: (P, hb, wb), written; this and the next five as in `_Maps`.
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
            between, within, out, lines = coarse[p, y], fine[p, y], white[p, y], left[p]
            factor = wider[p]
            for x in range(width):
                unit = np.sqrt(one / (factor * v[x]))
                out[x] = count[x] * d[x] * unit
                bright[x] += abs(size[x]) * unit
                root[x] += np.sqrt(share * size[x] * size[x] + lines) * unit
                edge[x] += np.sqrt(between[x]) * unit
            for x in range(width):
                still = share * size[x] * size[x] + lines + between[x]
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
    """Fills `shade` of `_Maps`.

    With the least variance, the share by which all levels of a box fell is a sum of residuals times levels over variances.

    Args:
        n: (hb, wb) usable cells.
        residual: (P, hb, wb) mean differences without nuisance terms, in levels.
        variance: (P, hb, wb) noise variance of a cell about its block.
        wider: (P,) factor from it to that of block means, from `block_noise`.
        g: (P, hb, wb) levels.
        coarse: (P, hb, wb) squared error of mean differences along edges, in levels squared.
        left: (P,) variance of the slow part of line noise.
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
            factor, lines = wider[p], left[p]
            for x in range(width):
                noise = factor * v[x] / max(count[x], one)
                square = level[x] * level[x]
                each = one / (noise + edges[x]) if square > least * noise and count[x] > 0 else zero
                weight = level[x] * each
                dim[x] += weight * d[x]
                spread[x] += weight * weight * (noise + all_planes * edges[x])
                # the ground truth's noise is in level and residual: their product is up to `noise` on average
                error[x] += abs(weight) * np.sqrt(share * square + lines) + noise * each
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
        usable: (hb, wb) box sums, see `_Maps`; as are the next six.
        white: (P, hb, wb) box sums.
        cells: (hb, wb) box sums.
        floor: (hb, wb) box sums.
        rough: (hb, wb) box sums times the side of the box, at most `_ALIKE`.
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


_BOXES = (1, 3, 5, 9, 17)  # blocks a side
# sizes that are tested for energy and excess: one block has too few degrees of freedom
_TEXTURE_BOXES = (3, 5, 9)
_MIN_CELLS = 6  # usable cells of a block's 16; with fewer the block is ignored
_MIN_SHARE = 0.25  # of a box's cells that must be usable
_MEAN = np.float32(6.0)  # standard deviations; half a million unchanged blocks stay below 5.3
_NEAR = 5  # blocks a side: boxes up to this show what belongs to a change that such boxes show
_RELAXATION = {
    1: 1.0,
    3: 0.9,
    5: 0.87,
    9: 0.85,
    17: 0.8,
}  # of the threshold: larger boxes are fewer independent tests
_WEAK = np.float32(0.5)  # of the threshold: smallest statistic of a block within the extent of a detection
# of the local maximum: a box filter's response falls to a half on the edge of an object
_EXTENT = np.float32(0.5)
_WEAK_BESIDE = np.float32(0.5)  # low threshold of the hysteresis, relative to the high one
_WEAK_BESIDE_LARGE = np.float32(
    0.7
)  # the same beside what only large boxes show: noise reaches a half over whole boxes
_QUIET = np.float32(0.25)  # of the threshold, below which no test indicates a change


def changed_blocks(
    moments: Moments, residual: NDArray[np.float32], noise: NoiseModel
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Blocks where the scene changed, with a margin, and each block's largest test statistic over its threshold.

    Args:
        moments: of the frame.
        residual: (P, hb, wb) mean differences without response and drift, in levels; line noise is subtracted in place.
        noise: variance of the difference.

    Returns:
        (hb, wb) bool, and (hb, wb) float32.
    """
    n = np.where(moments.n >= _MIN_CELLS, moments.n, 0).astype(np.float32)
    variance = noise.variance(moments.g)
    moments = replace(moments, gradient=scene_gradient(moments, variance))
    leak = color_leak(moments)
    shift, share = errors_within(moments, leak, variance)
    fine = np.float32(shift) * moments.gradient + share[:, None, None] * leak
    sigma = np.empty_like(residual)
    deviations(n, variance, moments.g, fine, sigma)
    left = subtract_lines(residual, sigma, variance, n)
    between, leaked = errors_between(moments, leak, variance, residual)
    # what moves a block's mean moves its cells
    shift, share = max(shift, between), np.maximum(share, leaked)
    fine = np.float32(shift) * moments.gradient + share[:, None, None] * leak
    coarse = np.float32(shift) * moments.gradient + leaked[:, None, None] * leak
    wider = block_noise(n, residual, variance, moments.g, coarse)
    maps = _Maps(n, len(residual))
    fill_maps(
        n, residual, variance, wider, moments.g, moments.dd, coarse, fine, left, maps.white, maps.cells, maps.level, maps.floor,
        maps.rough, maps.rest,
    )  # fmt: skip
    fill_shade(n, residual, variance, wider, moments.g, coarse, left, maps.shade)
    # elsewhere systematic errors dominate the noise, and a single block already separates a change from none
    noisy = maps.cells > maps.floor**2 + maps.rough
    rest = maps.copy()
    found, score, near, large = _search(maps)
    found = hysteresis(found, (near >= _WEAK_BESIDE) & noisy)
    found |= hysteresis(large, (score >= _WEAK_BESIDE_LARGE) & noisy)
    if found.any():
        rest.drop(found)
        odds = Odds(planes=len(residual), white=rest.white.sum(axis=0), cells=rest.cells, level=rest.level,
                    floor=rest.floor, rough=rest.rough)  # fmt: skip
        found = changed_area(found, odds, rest.scores(3) < _QUIET)
    return found, score


class _Maps:
    """Maps of blocks that add up over boxes; blocks that were detected are set to 0 in all of them.

    Each block has a weight, n / (n + r) with `n` its usable cells and `r` its error along edges in the same unit: a box is mostly
    judged by those of its blocks that can judge.

    Attributes:
        usable: (hb, wb) usable cells.
        white: (P, hb, wb) weighted sums of the residual over a block's cells, in standard deviations of a cell's noise.
        cells: (hb, wb) usable cells times the squared weight.
        level: (hb, wb) weighted cells times the level, in standard deviations of a cell, mean over planes.
        floor: (hb, wb) weighted cells times the systematic error by level and by line noise, in standard deviations of a cell,
            mean over planes; fully correlated within a box.
        rough: (hb, wb) squared weighted cells times the systematic error by gradient, in the same unit; of one
            sign over some `_ALIKE` blocks.
        shade: (3, hb, wb): sum over planes of residual times level over the variance of a block's mean, of blocks bright
            enough to show a shadow; its variance; its systematic error, fully correlated within a box.
        rest: (5, hb, wb): energy of the block; 1 where it is usable; variance beyond the noise's, in units of it; the part of
            that which a residual shift of the texture explains; degrees of freedom.
    """

    _NAMES = ("usable", "white", "cells", "level", "floor", "rough", "shade", "rest")

    def __init__(self, n: NDArray[np.float32], planes: int) -> None:
        self.usable = n
        self.white = np.empty((planes, *n.shape), np.float32)
        self.cells = np.empty_like(n)
        self.level = np.empty_like(n)
        self.floor = np.empty_like(n)
        self.rough = np.empty_like(n)
        self.shade = np.empty((3, *n.shape), np.float32)
        self.rest = np.empty((5, *n.shape), np.float32)

    def copy(self) -> "_Maps":
        """A deep copy: what is dropped here stays there."""
        out = _Maps(self.usable.copy(), len(self.white))
        for name in self._NAMES[1:]:
            np.copyto(getattr(out, name), getattr(self, name))
        return out

    def drop(self, blocks: NDArray[np.bool_]) -> None:
        """Sets blocks to 0 in every map, so that no later box contains them; `blocks` is (hb, wb) bool."""
        gone = np.flatnonzero(blocks)
        for map_ in (getattr(self, name) for name in self._NAMES):
            map_.reshape(-1, blocks.size)[:, gone] = 0

    def scores(self, size: int) -> NDArray[np.float32]:
        """(hb, wb) float32: largest test statistic over its threshold of the box of size x size blocks around each block."""
        texture = size in _TEXTURE_BOXES
        rest = _box(self.rest, size) if texture else self.rest
        least = max(_MIN_CELLS, _MIN_SHARE * 16 * size * size)
        z = np.empty_like(self.cells)
        box_scores(
            _box(self.usable, size), _box(self.white, size), _box(self.cells, size), _box(self.floor, size), min(size, _ALIKE) * _box(self.rough, size),
            _box(self.shade, size), rest, np.float32(least), _MEAN * np.float32(_RELAXATION[size]), texture, z,
        )  # fmt: skip
        return z


def _search(
    maps: _Maps,
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Tests boxes of growing size, dropping what each size detects.

    Returns:
        (hb, wb) bool detected blocks; (hb, wb) float32 largest statistic over its threshold, of all boxes and of those up to
        `_NEAR`; (hb, wb) bool blocks that only larger boxes detected.
    """
    found, large = np.zeros((2, *maps.cells.shape), np.bool_)
    score, near = np.zeros((2, *maps.cells.shape), np.float32)
    for size in _BOXES:
        z = maps.scores(size)
        np.maximum(score, z, out=score)
        new = _extent(z, size)
        if size <= _NEAR:
            np.maximum(near, z, out=near)
        else:
            large |= new
        if new.any():
            found |= new
            maps.drop(cv2.dilate(new.view(np.uint8), np.ones((3, 3), np.uint8)).view(np.bool_))
    return found, score, near, large


def _box(map_: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Sums over boxes of size x size blocks around each block, of an (hb, wb) map or of each of (K, hb, wb)."""
    if size == 1:
        return map_
    out = np.empty_like(map_)
    for source, target in zip(map_, out, strict=True) if map_.ndim == 3 else ((map_, out),):
        cv2.boxFilter(source, -1, (size, size), target, normalize=False, borderType=cv2.BORDER_CONSTANT)
    return out


def _extent(z: NDArray[np.float32], size: int) -> NDArray[np.bool_]:
    """(hb, wb) bool: the blocks that a detected change covers, from the response of its box near its local maximum."""
    if size == 1:
        return z >= 1
    peak = cv2.dilate(z, np.ones((size, size), np.uint8))
    out: NDArray[np.bool_] = (peak >= 1) & (z >= _EXTENT * peak) & (z >= _WEAK)
    return out
