"""The noise of one photo: variance = a * level + b of a single site, for each colour, from the photo alone.

Flat parts of a photo still have texture, and at low ISO it exceeds the noise. So the noise is measured where texture is weakest:
on the flattest blocks of each level, by residuals that suppress what is smooth. A residual's weights minimise the variance of a
model texture on the sites of one colour, among all weights of unit norm: they are the eigenvector of the smallest eigenvalue of
the texture's covariance. For a square lattice that is close to a difference of sixth order along both axes; X-Trans has no
square lattice. A second residual, of a smaller window, has more texture: the difference of the two says how much is left.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.noise import level_groups
from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import level_lines, tile_planes
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa

_BLOCK = 24  # sites, whole tiles of both CFAs
_MOST_BLOCKS = 16000  # whose flatness is measured: more do not make it more accurate
_CHOSEN = 2400  # blocks whose residuals are measured
_FLATTEST = 0.2  # share of the blocks of a level
_CLIPPED = 2  # sites of a block; more bias its variance
_WINDOWS = {Cfa.BAYER: (9, 13), Cfa.X_TRANS: (12, 15)}  # sites: sides of the smaller and the larger window
_GREEN_WINDOWS = (9, 12)  # X-Trans has five greens in nine sites
_POWER, _BLUR = 4.0, 1.0  # the model texture: spectrum ~ frequency^-4 beyond a lens that blurs by one site
_LINE_WEIGHT = 1e-2  # keeps the noise that rows or columns share out of the residuals
_DECIMALS = 6  # of weights: eigenvectors differ in the last digits between processors
_LEFT = (
    0.25  # texture in the larger window, as a share of the difference between the windows, in drawn photos
)
_BRIGHTEST = 0.9  # of the white level
_FEWEST = 24  # blocks
_OUTLIER = (
    3.5  # times the median of a level: hot pixels and edges; noise alone reaches it in 1e-4 of the blocks
)
LARGEST_ERROR = 0.025
"""Standard error of a measured value as a share of it, at most: 95 % of the values are within 5 % of the truth."""
_SMALLEST_VARIANCE = 1e-12  # far below rounding to 16 bits, 2e-11
_RIDGE = 1e-9  # blocks of one level have no line: its errors become large, not infinite
_SMALLEST = 1e-3  # of the mean variance, where a line falls below zero
_MOST_TEXTURE = (
    0.06  # share of the noise; with a larger difference between the windows the noise is not measured
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ColorNoise:
    """Variance of a single site of one colour: slope * level + floor. Photon noise, and read noise with rounding.

    Attributes:
        slope: in levels.
        slope_error: its standard error.
        floor: in levels squared.
        floor_error: its standard error.
        covariance: of the errors of slope and floor.
        texture: how much more variance a smaller window's residuals show, as a share of the noise: about four times the texture
            that the slope and the floor still contain.
    """

    slope: float
    slope_error: float
    floor: float
    floor_error: float
    covariance: float
    texture: float

    @property
    def measured(self) -> tuple[float | None, float | None]:
        """Slope and floor; None where texture or too small a range of levels keeps the error above about 5 %."""
        if abs(self.texture) > _MOST_TEXTURE:
            return None, None
        return (
            self.slope if self.slope_error <= LARGEST_ERROR * self.slope else None,
            self.floor if self.floor_error <= LARGEST_ERROR * self.floor else None,
        )

    @property
    def line(self) -> tuple[float, ...]:
        """Slope, floor, their standard errors, and the errors' covariance."""
        return self.slope, self.floor, self.slope_error, self.floor_error, self.covariance

    def variance(self, level: float) -> float:
        """Of one site at a level, in levels squared; where texture is strong, an upper bound."""
        return self.slope * max(level, 0.0) + self.floor

    def error(self, level: float) -> float:
        """Standard error of `variance`, at most: the errors of slope and floor partly cancel."""
        return float(np.hypot(self.slope_error * max(level, 0.0), self.floor_error))


def photo_noise(photo: Photo) -> tuple[ColorNoise, ColorNoise, ColorNoise] | None:
    """The noise of red, green and blue; None where the photo has too few blocks that are not clipped."""
    flat = _flat_blocks(photo)
    if len(flat) < _FEWEST:
        return None
    places, weights, ends = _residuals_of(photo.cfa)
    mean, variance = np.empty((2, len(ends), len(flat)), np.float64)
    _measure(photo.mosaic, flat, _STARTS, places, weights, ends, mean, variance)
    factor, bias = (line.astype(np.float64)[:, None] for line in level_lines(photo.sensor))
    level = mean[1::2] * factor + bias
    small, large = variance[::2] * factor**2, variance[1::2] * factor**2
    red, green, blue = (
        _fit(*(np.concatenate(values[planes]) for values in (level, small, large)))
        for planes in (np.s_[:1], np.s_[1:-1], np.s_[-1:])
    )
    return red, green, blue


def _fit(level: NDArray[np.float64], small: NDArray[np.float64], large: NDArray[np.float64]) -> ColorNoise:
    """The line through the variances of one colour's blocks.

    Weighted least squares, iterated: the standard error of a variance is a share of itself.

    Args:
        level: (N,) mean level of each block.
        small: (N,) variance of a site from the smaller window's residuals, in levels squared.
        large: (N,) the same of the larger window's.
    """
    variance = np.maximum(large - _LEFT * (small - large), _SMALLEST_VARIANCE)
    kept = np.concatenate(
        [
            group[large[group] <= _OUTLIER * np.median(large[group])]
            for group in level_groups(level.astype(np.float32))
        ]
    )
    level, variance, excess = level[kept], variance[kept], (small - large)[kept]
    design = np.stack([np.maximum(level, 0), np.ones_like(level)], axis=1)
    fitted: NDArray[Any] = np.full_like(level, variance.mean())
    line, covariance = np.zeros(2), np.eye(2)
    for _ in range(6):
        weighted = design / fitted[:, None]
        normal = weighted.T @ weighted
        covariance = np.linalg.inv(normal + _RIDGE * np.diag(np.diag(normal) + 1))
        line = covariance @ (weighted.T @ (variance / fitted))
        fitted = np.maximum(design @ line, _SMALLEST * variance.mean())
    scatter = float(np.mean((variance / fitted - 1) ** 2))
    errors = np.sqrt(np.diag(covariance) * scatter)
    return ColorNoise(
        slope=float(line[0]),
        slope_error=float(errors[0]),
        floor=float(line[1]),
        floor_error=float(errors[1]),
        covariance=float(covariance[0, 1] * scatter),
        texture=float(np.mean(excess / fitted)),
    )


def _flat_blocks(photo: Photo) -> NDArray[np.int64]:
    """(N, 2) first sites (y, x) of blocks of 24x24 sites: of each level those that vary least from tile to tile.

    The means of tiles do not depend on the residuals' noise: a choice by them does not favour blocks that show little of it.
    """
    height, width = (side // _BLOCK - 1 for side in photo.mosaic.shape)  # the windows extend beyond the block
    if min(height, width) < 1:
        return np.empty((0, 2), np.int64)
    tops = np.arange(0, height, max(1, height * width // _MOST_BLOCKS)) * _BLOCK
    mean, spread = np.empty((2, len(tops), width), np.float32)
    clipped = np.empty((len(tops), width), np.int32)
    tile = {Cfa.BAYER: 4, Cfa.X_TRANS: 6}[photo.cfa]
    limit = np.uint16(min(_BRIGHTEST * photo.sensor.white_level, 65535))
    _block_spreads(photo.mosaic, tops, tile, limit, mean, spread, clipped)
    usable = np.flatnonzero(clipped <= _CLIPPED)
    level = mean.ravel()[usable] - np.float32(np.mean(photo.sensor.black_level))
    level /= np.float32(photo.sensor.white_level)
    groups = level_groups(level)
    quota = _CHOSEN / max(len(groups), 1)
    chosen = []
    for group in groups:  # a line is determined by its ends: levels that are rare give a larger share
        share = min(max(quota / len(group), _FLATTEST / 2), 2 * _FLATTEST)
        flatness = spread.ravel()[usable[group]]
        chosen.append(group[flatness <= np.quantile(flatness, share)])
    if not chosen:
        return np.empty((0, 2), np.int64)
    blocks = usable[np.sort(np.concatenate(chosen))]
    return np.stack([tops[blocks // width], blocks % width * _BLOCK], axis=1)


# where in a block the windows begin: closer ones would overlap so far that they add little
_STARTS = np.stack(np.meshgrid(*[np.arange(0, _BLOCK, 6)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)


@lru_cache
def residual(cfa: Cfa, plane: int, side: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Residuals of unit noise, from the one with the least texture on.

    Args:
        cfa: Bayer or X-Trans.
        plane: index of the plane.
        side: of the window, in sites.
        count: how many.

    Returns:
        (n, 2) sites from the window's first one on, and (count, n) weights, whose squares add up to 1.
    """
    tile = tile_planes(cfa)
    y, x = np.nonzero(np.tile(tile, (-(-side // len(tile)),) * 2)[:side, :side] == plane)
    down, across = np.abs(y[:, None] - y), np.abs(x[:, None] - x)
    texture = _texture_covariance()[down, across] + _LINE_WEIGHT * ((down == 0) * 1.0 + (across == 0))
    weights = np.linalg.eigh(texture)[1][:, :count].T.round(_DECIMALS)
    norms = np.sqrt(np.sum(weights**2, axis=1, keepdims=True))
    return np.stack([y, x], axis=1), (weights / norms).astype(np.float32)


@lru_cache
def _texture_covariance() -> NDArray[np.float64]:
    """(128, 128) covariance of the model texture at (y, x) sites apart, from its spectrum (Wiener and Khinchin)."""
    frequency = np.fft.fftfreq(256)
    squared = frequency[:, None] ** 2 + frequency**2
    squared[0, 0] = squared[0, 1]
    spectrum = squared ** (-_POWER / 2) * np.exp(-4 * np.pi**2 * _BLUR**2 * squared)
    covariance: NDArray[np.float64] = np.fft.ifft2(spectrum).real[:128, :128]
    covariance /= covariance[0, 0]
    return covariance


@lru_cache
def _residuals_of(cfa: Cfa) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """The residuals of all planes one after the other, of each the smaller and the larger window.

    Returns:
        (n, 2) sites, (n,) weights, and (2 P,) the index behind each residual's last site.
    """
    both = [
        residual(
            cfa, plane, (_GREEN_WINDOWS if (cfa, plane) == (Cfa.X_TRANS, 1) else _WINDOWS[cfa])[window], 1
        )
        for plane in range(len(cfa.plane_colors))
        for window in (0, 1)
    ]
    return (
        np.concatenate([places for places, _ in both]),
        np.concatenate([weights[0] for _, weights in both]),
        np.cumsum([len(places) for places, _ in both]),
    )


@kernel
def _block_spreads(  # noqa: PLR0917
    mosaic: NDArray[np.uint16],
    tops: NDArray[np.int64],
    tile: int,
    limit: np.uint16,
    mean: NDArray[np.float32],
    spread: NDArray[np.float32],
    clipped: NDArray[np.int32],
) -> None:
    """How much the means of tiles vary within each block.

    Args:
        mosaic: (H, W) sensor values.
        tops: (n,) first rows of the blocks.
        tile: sites of a tile in each direction.
        limit: sensor value from which a site counts as clipped; 0 counts too.
        mean: (n, wb) mean sensor value, written.
        spread: (n, wb) variance of the means of tiles, written.
        clipped: (n, wb) clipped sites, written.
    """
    width = mean.shape[1] * _BLOCK
    sums, bad = np.empty(width, np.uint32), np.empty(width, np.uint8)
    totals = np.empty((3, mean.shape[1]), np.float64)
    per_block = _BLOCK // tile
    for i in range(len(tops)):
        totals[:] = 0
        for part in range(per_block):
            sums[:] = 0
            bad[:] = 0
            for y in range(tops[i] + part * tile, tops[i] + (part + 1) * tile):
                row = mosaic[y, :width]
                for x in range(width):
                    sums[x] += row[x]
                    bad[x] += np.uint8((row[x] == 0) | (row[x] >= limit))
            for block in range(mean.shape[1]):
                for j in range(per_block):
                    total = np.uint32(0)
                    for x in range(block * _BLOCK + j * tile, block * _BLOCK + (j + 1) * tile):
                        total += sums[x]
                        totals[2, block] += bad[x]
                    value = np.float64(total) / (tile * tile)
                    totals[0, block] += value
                    totals[1, block] += value * value
        for block in range(mean.shape[1]):
            middle = totals[0, block] / per_block**2
            mean[i, block] = middle
            spread[i, block] = max(totals[1, block] / per_block**2 - middle * middle, 0.0)
            clipped[i, block] = totals[2, block]


@kernel(fastmath={"contract"})
def _measure(  # noqa: PLR0917
    mosaic: NDArray[np.uint16],
    blocks: NDArray[np.int64],
    at: NDArray[np.int64],
    places: NDArray[np.int64],
    weights: NDArray[np.float32],
    ends: NDArray[np.int64],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> None:
    """Mean of a residual's sites and mean squared residual in each block, in sensor values.

    Args:
        mosaic: (H, W) sensor values.
        blocks: (N, 2) first sites.
        at: (n, 2) where in a block the windows begin.
        places: (k, 2) sites of all residuals.
        weights: (k,) their weights.
        ends: (R,) index behind each residual's last site.
        mean: (R, N), written.
        variance: (R, N), written.
    """
    side = 2 * _BLOCK
    local = np.empty(side * side, np.float32)
    starts, steps = at[:, 0] * side + at[:, 1], places[:, 0] * side + places[:, 1]
    residuals, sums = np.empty(len(at), np.float32), np.empty(len(at), np.float32)
    for i in range(len(blocks)):
        top, left = blocks[i]
        for y in range(side):
            row = mosaic[top + y, left : left + side]
            line = local[y * side : (y + 1) * side]
            for x in range(side):
                line[x] = row[x]
        first = 0
        for k in range(len(ends)):
            residuals[:] = 0
            sums[:] = 0
            for tap in range(first, ends[k]):
                step, weight = np.uintp(steps[tap]), weights[tap]
                for j in range(len(starts)):
                    value = local[np.uintp(starts[j]) + step]
                    residuals[j] += weight * value
                    sums[j] += value
            total, level = 0.0, 0.0
            for j in range(len(starts)):
                total += residuals[j] * residuals[j]
                level += sums[j]
            mean[k, i] = level / (len(starts) * (ends[k] - first))
            variance[k, i] = total / len(starts)
            first = ends[k]
