"""The tests for a changed scene: what the noise and the floors do not explain, over boxes of growing size."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.moments import Moments
from rawnind.imaging.change.noise import NoiseModel
from rawnind.imaging.change.nuisance import FLOOR, subtract_lines
from rawnind.imaging.change.region import Odds, changed_area, hysteresis
from rawnind.imaging.jit import kernel

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
def fill_maps(  # noqa: PLR0917
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
def box_scores(  # noqa: PLR0917
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


_BOXES = (
    1,
    3,
    5,
    9,
    17,
)  # blocks; from small to large, so that what is found does not bleed into larger boxes
_TEXTURE_BOXES = (3, 5, 9)
_MIN_CELLS = 6  # of a block's 16
_MIN_SHARE = 0.25  # of a box that must be known
_MEAN = np.float32(6.0)  # deviations; the false alarms of half a million blocks lie below 5.3
_RELAXATION = {1: 1.0, 3: 0.9, 5: 0.87, 9: 0.85, 17: 0.8}  # larger boxes are fewer independent tests
_WEAK = np.float32(0.5)  # of the threshold, beside something found
_EXTENT = np.float32(0.4)  # of the peak: a box filter's response to an edge falls to a half on the edge
_WEAK_BESIDE = np.float32(0.5)  # of a threshold, for blocks that touch something found
_QUIET = np.float32(0.25)  # of the threshold: a box of which no test tells anything
_TYPICAL = 0.05**2  # cells squared; smallest squared shift that texture is judged against
_LARGEST = 0.35**2
_TEXTURE_QUANTILE = 0.85  # of textured blocks, that are taken to be still
_MISFIT_QUANTILE = 0.9
_TEXTURED = 0.02  # share of samples: as much as a changed object may have


def changed_blocks(
    moments: Moments, residual: NDArray[np.float32], noise: NoiseModel
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Blocks where the scene changed, with a margin, and the strongest evidence of each block over its threshold.

    Args:
        moments: of the frame.
        residual: (P, hb, wb) mean differences without response and drift; row noise is taken out of them, in place.
        noise: what the sensor explains.
    """
    n = np.where(moments.n >= _MIN_CELLS, moments.n, 0).astype(np.float32)
    variance = noise.variance(moments.g)
    texture = _texture_shift(moments, variance)
    sigma = np.empty_like(residual)
    deviations(n, variance, moments.g, moments.gradient, np.float32(texture), sigma)
    left = subtract_lines(residual, sigma, variance, n)
    misfit = _misfit_shift(moments, variance, residual)
    maps = _Maps(n, len(residual))
    fill_maps(
        n, residual, variance, moments.g, moments.dd, moments.gradient,
        np.array([FLOOR**2, max(misfit, texture), texture], np.float32), left, maps.white, maps.level, maps.floor,
        maps.rough, maps.rest,
    )  # fmt: skip
    noisy = (
        maps.cells > maps.floor**2 + maps.rough
    )  # elsewhere even the smallest box tells a change from what is still
    rest = maps.copy()
    found, score = _search(maps)
    found = hysteresis(found, (score >= _WEAK_BESIDE) & noisy)
    if found.any():
        rest.drop(found)
        odds = Odds(planes=len(residual), white=rest.white.sum(axis=0), cells=rest.cells, level=rest.level,
                    floor=rest.floor, rough=rest.rough)  # fmt: skip
        found = changed_area(found, odds, rest.scores(3) < _QUIET)
    return found, score


class _Maps:
    """Block maps that boxes sum up; what has been found is set to zero in all of them.

    Attributes:
        white: (P, hb, wb) sums of the residual over its cells, in deviations of a cell.
        cells: (hb, wb) usable cells.
        level: (hb, wb) cells times the level, in deviations of a cell, mean over planes.
        floor: (hb, wb) cells times what still content may differ by, in deviations of a cell, mean over planes: by its
            level, and by what lines left. The same sign all over a box.
        rough: (hb, wb) the square of the same by its gradient: the same sign along an edge, not from edge to edge.
        rest: (5, hb, wb) energy of the block, 1 where it is known, variance above the noise's in units of it, the share of
            that which texture explains, degrees of freedom.
    """

    def __init__(self, n: NDArray[np.float32], planes: int) -> None:
        self.white = np.empty((planes, *n.shape), np.float32)
        self.cells = n
        self.level = np.empty_like(n)
        self.floor = np.empty_like(n)
        self.rough = np.empty_like(n)
        self.rest = np.empty((5, *n.shape), np.float32)

    def copy(self) -> "_Maps":
        """Maps of their own, so that what is dropped here stays there."""
        out = _Maps(self.cells.copy(), len(self.white))
        for name in ("white", "level", "floor", "rough", "rest"):
            np.copyto(getattr(out, name), getattr(self, name))
        return out

    def drop(self, blocks: NDArray[np.bool_]) -> None:
        """Takes blocks out of every later box."""
        gone = np.flatnonzero(blocks)
        for map_ in (self.white, self.cells, self.level, self.floor, self.rough, self.rest):
            map_.reshape(-1, blocks.size)[:, gone] = 0

    def scores(self, size: int) -> NDArray[np.float32]:
        """(hb, wb) strongest test of the box of size x size blocks about each block, over its threshold."""
        texture = size in _TEXTURE_BOXES
        rest = _box(self.rest, size) if texture else self.rest
        least = max(_MIN_CELLS, _MIN_SHARE * 16 * size * size)
        z = np.empty_like(self.cells)
        box_scores(
            _box(self.white, size), _box(self.cells, size), _box(self.floor, size), size * _box(self.rough, size), rest,
            np.float32(least), _MEAN * np.float32(_RELAXATION[size]), texture, z,
        )  # fmt: skip
        return z


def _search(maps: _Maps) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Blocks with evidence of a change, box size by box size, and the strongest evidence."""
    found, score = np.zeros(maps.cells.shape, np.bool_), np.zeros(maps.cells.shape, np.float32)
    for size in _BOXES:
        z = maps.scores(size)
        np.maximum(score, z, out=score)
        new = _extent(z, size)
        if new.any():
            found |= new
            maps.drop(cv2.dilate(new.view(np.uint8), np.ones((3, 3), np.uint8)).view(np.bool_))
    return found, score


def _texture_shift(moments: Moments, variance: NDArray[np.float32]) -> float:
    """What explains the spread within textured blocks."""
    n, gradient, dd, variance = _sampled(moments, moments.dd, variance)
    return _typical_shift(n, gradient, dd - np.maximum(n - 1, 0) * variance, n, variance, _TEXTURE_QUANTILE)


def _misfit_shift(moments: Moments, variance: NDArray[np.float32], residual: NDArray[np.float32]) -> float:
    """What explains the mean differences of textured blocks."""
    n, gradient, residual, level, variance = _sampled(moments, residual, moments.g, variance)
    noise = variance / 4 + (FLOOR * level) ** 2
    squared = residual**2 - variance / np.maximum(n, 1)
    return _typical_shift(n, gradient, squared, np.ones_like(n), noise, _MISFIT_QUANTILE)


def _sampled(moments: Moments, *maps: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Usable cells (N,), and (P, N) of gradient and maps, of some blocks spread evenly over the frame."""
    step = max(1, moments.n.size // 20000)
    planes = (map_.reshape(len(map_), -1)[:, ::step] for map_ in (moments.gradient, *maps))
    return [moments.n.ravel()[::step], *planes]


def _typical_shift(  # noqa: PLR0917
    n: NDArray[np.float32],
    gradient: NDArray[np.float32],
    excess: NDArray[Any],
    weight: NDArray[np.float32],
    variance: NDArray[Any],
    quantile: float,
) -> float:
    """Squared shift, in cells, that explains the excess of most textured blocks: interpolation, demosaicing, a local warp."""
    # textured: a shift by 0.1 cells would stand out of the noise
    textured = (n >= 12) & (gradient * 0.1**2 > 0.7 * variance)
    if np.count_nonzero(textured) < 50:
        return _TYPICAL
    # where little is textured, much of it may be what changed
    quantile *= min(1.0, float(textured.mean()) / _TEXTURED)
    ratio = float(np.quantile(excess[textured] / (gradient * weight)[textured], quantile))
    return min(max(ratio, _TYPICAL), _LARGEST)


def _box(map_: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Sums over boxes, of a map or of each of several."""
    if size == 1:
        return map_
    out = np.empty_like(map_)
    for source, target in zip(map_, out, strict=True) if map_.ndim == 3 else ((map_, out),):
        cv2.boxFilter(source, -1, (size, size), target, normalize=False, borderType=cv2.BORDER_CONSTANT)
    return out


def _extent(z: NDArray[np.float32], size: int) -> NDArray[np.bool_]:
    """Blocks that a change above the threshold covers: box responses near their local peak."""
    if size == 1:
        return z >= 1
    peak = cv2.dilate(z, np.ones((size, size), np.uint8))
    out: NDArray[np.bool_] = (peak >= 1) & (z >= _EXTENT * peak) & (z >= _WEAK)
    return out
