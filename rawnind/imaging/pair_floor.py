"""The noise of a noisy photo at level 0, from all of its dark sites: what differs from the ground truth there is noise.

Few sites of a scene are dark enough to show read noise, so all of them count. From the difference of a site the mean difference of
its row in the block is taken off, with what the row's sites have in common. The mean square of what is left, over sites of similar
level and texture, is

    a * level + b + k * (variance of the ground truth around the site)

The last part is what interpolation makes of texture. b is sure where it is much larger; `a` has texture and the ground truth's
noise in it, and is not used. Noise that is cut off at sensor value 0 is added: photons are few there, so the noise is that of a
Poisson mixture of normal deviates.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr, xlogy

from rawnind.imaging.crops import AlignedPair
from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import site_lines, tile_colors
from rawnind.imaging.resample import warp_row
from rawnind.imaging.warp import Mesh

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]

_SIDE, _MARGIN = 24, 6  # sites: of a block, and around it of those that are usable with it
_MOST_BLOCKS = 1200
_AROUND = 2  # sites: the ground truth's variance is that of 3x3 sites so far apart
_FEWEST_OF_ROW = 4  # sites of a colour
_LEVELS, _FEWEST_LEVELS, _TEXTURES = 64, 3, 6  # groups of level, and in each of them of texture
_FEWEST = 40  # sites of a group
_PLAINEST = 0.7  # share of the sites of a level
_REACH = (
    40.0  # times the level at which photons make as much noise as reading: brighter sites say little of b
)
_DARKEST = 0.05  # share of the sites that is always used
_OUTLIER = 6.0  # standard deviations
_MOST_TEXTURE = 1.0  # of the noise's variance
_ROUNDS, _TURNS = 3, 6
_TEXTURE_ERROR = 0.5  # of what texture adds, in drawn pairs
_NEAR = 5.0  # standard deviations from sensor value 0
_MOST_PHOTONS = 400  # with more, nothing is cut off
_TINY = 1e-30


@dataclass(frozen=True, kw_only=True, slots=True)
class Floor:
    """Variance of a single site of one colour at level 0, in levels squared.

    Attributes:
        value: read noise and rounding; below 0 by chance.
        error: its standard error.
    """

    value: float
    error: float


def pair_floors(
    pair: AlignedPair, blocks: NDArray[np.int64]
) -> tuple[Floor | None, Floor | None, Floor | None]:
    """Of red, green and blue; None where too little is dark.

    Args:
        pair: the aligned photos.
        blocks: (N, 2) first sites (y, x) in the noisy frame of squares of 36x36 sites that are usable everywhere, on whole tiles.
    """
    blocks = _darkest(blocks, pair)
    sensor, rgb = pair.noisy.photo.sensor, pair.truth.rgb
    colors = tile_colors(sensor.cfa)
    found = np.empty((4, len(blocks), _SIDE, _SIDE), np.float32)
    _measure(
        pair.noisy.photo.mosaic,
        site_lines(sensor),
        rgb.values,
        (np.float32(1 / rgb.scale / pair.gain), np.float32(-rgb.offset / rgb.scale / pair.gain)),
        pair.warp.mesh,
        colors,
        blocks,
        found,
    )
    black = float(np.mean(sensor.black_level))
    cut = -black / (sensor.white_level - black)
    of_site = np.tile(colors, (_SIDE // len(colors),) * 2).ravel()
    sites = found.reshape(4, len(blocks), -1)
    red, green, blue = (
        _floor(sites[:, :, np.flatnonzero(of_site == color)].reshape(4, -1), cut) for color in range(3)
    )
    return red, green, blue


def _darkest(blocks: NDArray[np.int64], pair: AlignedPair) -> NDArray[np.int64]:
    """At most 1200 blocks, by the level of the ground truth's green in their middle."""
    if len(blocks) <= _MOST_BLOCKS:
        return blocks
    values, middle = pair.truth.rgb.values, blocks + _MARGIN + _SIDE // 2
    y, x = np.clip(middle + pair.warp.shift(middle), 0, np.array(values.shape[1:]) - 1).T
    return blocks[np.sort(np.argsort(values[1, y, x], kind="stable")[:_MOST_BLOCKS])]


def _floor(sites: Float32s, cut: float) -> Floor | None:
    """The floor of one colour.

    The first fit says which sites are dark enough to count, and how much noise the ground truth has. Sites that were chosen by its
    noise would have more of it in their differences: where its variance around a site is no larger than that noise, the level is
    the mean around.

    Args:
        sites: (4, n) level, squared difference (not a number where a row has too few sites of the colour), variance of the ground
            truth around, and its mean around less its own level.
        cut: level of sensor value 0.
    """
    missing = np.isnan(sites[1])
    if missing.any():
        sites = sites[:, ~missing]
    sites = np.take(sites, _order(sites[0]), axis=1)
    first = _fit(sites[:3], cut)
    if first is None:
        return None
    _, reach, of_truth = first
    sites = sites[:, : max(np.count_nonzero(sites[0] <= reach), int(_DARKEST * sites.shape[1]))]
    sites[0] += sites[3] * np.minimum(np.float32(of_truth) / np.maximum(sites[2], np.float32(_TINY)), 1)
    second = _fit(np.take(sites[:3], _order(sites[0]), axis=1), cut)
    return None if second is None else second[0]


def _fit(sites: Float32s, cut: float) -> tuple[Floor, float, float] | None:
    """The floor by weighted least squares, iterated; the level beyond which sites say little of it; the ground truth's variance.

    That variance is of the plainest level: noise, and texture where nothing is plain. Half of it is taken off.

    Args:
        sites: (3, n) as of `_floor`, in the order of their levels.
        cut: level of sensor value 0.
    """
    groups = _groups(sites)
    if groups is None:
        return None
    of_truth = float(groups[2].mean(axis=(1, 2)).min())
    level, square, around = groups.reshape(3, -1, groups.shape[3])
    kept = np.ones(square.shape, np.bool_)
    for _ in range(_ROUNDS):
        enough = kept.sum(axis=1) >= _FEWEST // 2
        if np.count_nonzero(enough) < _FEWEST_LEVELS * _TEXTURES:
            return None
        level, square, around, kept = (each[enough] for each in (level, square, around, kept))
        count = kept.sum(axis=1)
        levels, seen, textures = (
            np.sum(part, axis=1, where=kept) / count for part in (level, square, around)
        )
        design = np.stack([levels, np.ones_like(levels), textures], axis=1)
        fitted, whole = seen, seen
        for _ in range(_TURNS):
            weights = count**0.5 / fitted
            weighted = design * weights[:, None]
            covariance = np.linalg.pinv(weighted.T @ weighted)
            line = covariance @ (weighted.T @ (whole * weights))
            fitted = np.maximum(design @ line, seen / 4)
            whole = seen + _cut_off(levels, line[0], line[1], cut)
        limit = fitted[:, None]
        kept = (square <= _OUTLIER**2 * limit) & (around <= _MOST_TEXTURE * limit)
    scatter = float(np.mean((whole / fitted - 1) ** 2 * count)) / 2  # 1 for normal deviates
    error = (2 * covariance[1, 1] * max(scatter, 1.0)) ** 0.5
    of_texture = (np.linalg.pinv(weighted[:, :2]) @ (line[2] * textures * weights))[1]
    floor = Floor(
        value=float(line[1]) - of_truth / 2,
        error=float(np.linalg.norm([error, _TEXTURE_ERROR * of_texture, of_truth])),
    )
    return floor, _REACH * max(line[1], 0.0) / max(line[0], _TINY), of_truth


def _groups(sites: Float32s) -> Float64s | None:
    """(3, levels, textures, m) sites of similar level and texture, of each level the plainest; None where they are too few.

    Args:
        sites: (3, n), in the order of their levels.
    """
    levels = min(_LEVELS, int(sites.shape[1] * _PLAINEST) // (_TEXTURES * _FEWEST))
    if levels < _FEWEST_LEVELS:
        return None
    by_level = sites[:, : sites.shape[1] // levels * levels].reshape(3, levels, -1)
    each = int(by_level.shape[2] * _PLAINEST) // _TEXTURES
    plainest = _order(by_level[2])[None, :, : each * _TEXTURES]
    found = np.take_along_axis(by_level, plainest, axis=2)
    return found.reshape(3, levels, _TEXTURES, each).astype(np.float64)


def _order(values: Float32s) -> NDArray[np.intp]:
    """Indices that sort along the last axis, to 1 %; negative values count as 0. Radix sort: a third of the time of an exact one."""
    bits = np.maximum(values, np.float32(0)).view(np.uint32)  # of floats from 0 on, in their order
    return np.argsort((bits >> 16).astype(np.uint16), axis=-1, kind="stable")


def _cut_off(level: Float64s, slope: float, floor: float, cut: float) -> Float64s:
    """(n,) variance that sites of (n,) levels lose to what is cut off below the level `cut`.

    The photons of a site are Poisson's, reading adds a normal deviate of variance `floor` (for its moments see `cut_noise`).
    """
    lost = np.zeros_like(level)
    if slope <= 0 or floor <= 0:
        return lost
    light, sigma = np.maximum(level, 0), floor**0.5
    near = np.flatnonzero(light - cut < _NEAR * np.sqrt(slope * light + floor))
    photons = light[near] / slope
    if not len(near) or photons.max() > _MOST_PHOTONS:
        return lost
    number = np.arange(int(photons.max() + 8 * photons.max() ** 0.5) + 8)
    share = np.exp(xlogy(number, photons[:, None]) - photons[:, None] - gammaln(number + 1))
    z = (number * slope - cut) / sigma
    below, density = ndtr(z), np.exp(-z * z / 2) / (2 * np.pi) ** 0.5
    mean = share @ (sigma * (density + z * below))
    square = share @ (floor * ((1 + z * z) * below + z * density))
    lost[near] = slope * light[near] + floor - (square - mean**2)
    return lost


@kernel
def _measure(  # noqa: PLR0917
    mosaic: NDArray[np.uint16],
    lines: Float32s,
    values: NDArray[Any],
    encoding: tuple[np.float32, np.float32],
    mesh: Mesh,
    colors: NDArray[np.intp],
    blocks: NDArray[np.int64],
    out: Float32s,
) -> None:
    """What all sites of the blocks show.

    Args:
        mosaic: (H, W) sensor values of the noisy photo.
        lines: (2, period, period) factors and biases from them to levels.
        values: (3, H, W) of the ground truth.
        encoding: factor and bias from these to the noisy photo's levels.
        mesh: of the warp.
        colors: (period, period) of the tile.
        blocks: (N, 2) first sites, on whole tiles.
        out: (4, N, 24, 24), written: see `_floor`. Level and squared difference are such that the mean of the squares is the
            variance at that level though the row's mean was taken off.
    """
    period, high = len(colors), _SIDE + 2 * _AROUND
    rgb, row = np.empty((3, high, high), np.float32), np.empty((3, high), np.float32)
    for i in range(len(blocks)):
        top, left = blocks[i, 0] + _MARGIN, blocks[i, 1] + _MARGIN
        for y in range(high):
            warp_row(values, mesh, (top + y - _AROUND, left - _AROUND), (0, 3), row)
            for color in range(3):
                for x in range(high):
                    rgb[color, y, x] = row[color, x] * encoding[0] + encoding[1]
        for y in range(_SIDE):
            v = y % period
            _measure_row(
                mosaic[top + y, left : left + _SIDE],
                lines[:, v],
                rgb[:, y : y + 2 * _AROUND + 1],
                colors[v],
                out[:, i, y],
            )


@kernel
def _measure_row(
    values: NDArray[np.uint16], lines: Float32s, rgb: Float32s, colors: NDArray[np.intp], out: Float32s
) -> None:
    """What the sites of a block's row show.

    Args:
        values: (24,) sensor values.
        lines: (2, period) of the row.
        rgb: (3, 5, 28) levels of the ground truth around.
        colors: (period,) of the row.
        out: (4, 24), written.
    """
    period = len(colors)
    difference = np.empty(_SIDE, np.float32)
    count, mean, light = np.zeros(3, np.int64), np.zeros(3, np.float32), np.zeros(3, np.float32)
    for x in range(_SIDE):
        color = colors[x % period]
        level = rgb[color, _AROUND, x + _AROUND]
        difference[x] = values[x] * lines[0, x % period] + lines[1, x % period] - level
        count[color] += 1
        mean[color] += difference[x]
        light[color] += level
    for x in range(_SIDE):
        color = colors[x % period]
        n = count[color]
        if n < _FEWEST_OF_ROW:
            out[1, x] = np.nan
            continue
        level = rgb[color, _AROUND, x + _AROUND]
        free, left = 1 - 1 / n, difference[x] - mean[color] / n
        total, squares = np.float32(0), np.float32(0)
        for down in range(0, 2 * _AROUND + 1, _AROUND):
            for across in range(0, 2 * _AROUND + 1, _AROUND):
                away = rgb[color, down, x + across] - level
                total += away
                squares += away * away
        out[0, x] = ((1 - 2 / n) * level + light[color] / n / n) / free
        out[1, x] = left * left / free
        out[2, x] = (squares - total * total / 9) / 8
        out[3, x] = total / 9
