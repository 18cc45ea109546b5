"""The noise of a noisy photo beside its ground truth, which shows the same texture with less noise: variance = a * level + b.

Texture as fine as the noise cannot be told from it in one photo. But the noise of two photos is independent: the mean product of
their residuals at one place (see `photo_noise`) is the texture that both show. In each block

    mean squared residual of the noisy photo = a * level + b + k * mean product of the residuals

k is 1 where the ground truth shows the texture as sharp as the noisy photo does; interpolation between the sites of a colour makes
it differ. All three are fitted: blocks with texture determine k, the others the noise. Few blocks are dark: what
`pair_floor` finds of b is combined with it.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.noise import level_groups
from rawnind.imaging.coordinates import Rect
from rawnind.imaging.crops import AlignedPair
from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import site_lines, tile_colors
from rawnind.imaging.pair_floor import Floor, pair_floors
from rawnind.imaging.photo_noise import ColorNoise, residual
from rawnind.imaging.resample import warp_row
from rawnind.imaging.warp import Mesh
from rawnind.records import Cfa

_STEP, _TILE, _SIDE = (
    24,
    12,
    36,
)  # sites: between blocks; whole cells of both CFAs; of a block with its windows
_MOST_BLOCKS = 1200
_FEWEST = 24  # blocks
_SIDES = {Cfa.BAYER: (9, 9, 9, 9), Cfa.X_TRANS: (12, 9, 12)}  # sites: windows of each plane's residuals
_COUNTS = {Cfa.BAYER: (3, 3, 3, 3), Cfa.X_TRANS: (4, 8, 4)}  # residuals in a window; more show more texture
_BETWEEN = {Cfa.BAYER: 4, Cfa.X_TRANS: 6}  # sites between windows
_PLAINEST = 0.7  # share of the blocks of a level, by the texture that the ground truth shows
_SHARPNESS = 0.3  # by which k is taken to differ from 1 before it is fitted
_TEXTURE_ERRORS = (0.2, 0.1, 0.2)
"""Error of the texture's share in drawn pairs, for red, green and blue. Half of the sites are green: their texture is known best."""
_OUTLIER = 3.5  # times the median; edges and what moved
_ROUNDS, _FREE_ROUNDS = 8, 2  # of the fit; the first ones keep outliers
_RESIDUALS_OF_BLOCK = 16  # independent ones, about, for the weight of what is known of k
_SMALLEST = 1e-3  # of the mean variance, where the fit falls below zero
_RIDGE = 1e-9
_TINY = 1e-30  # no variance is 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PairNoise:
    """The noise of a pair's noisy photo in one colour, and the texture that both photos show.

    Attributes:
        noisy: of the noisy photo.
        level: mean level of the blocks, in the noisy photo.
        texture: mean product of the photos' residuals there, in levels squared of the noisy photo.
        texture_error: its standard error.
    """

    noisy: ColorNoise
    level: float
    texture: float
    texture_error: float


def pair_noise(pair: AlignedPair, usable: NDArray[np.bool_]) -> tuple[PairNoise, PairNoise, PairNoise] | None:
    """Of red, green and blue; None where the photos have too few blocks that are usable everywhere.

    Args:
        pair: the aligned photos.
        usable: (h, w) bool per cell of the pair's `rect`: not overexposed, hot or changed.
    """
    cfa, rect = pair.noisy.photo.cfa, pair.rect
    everywhere = _blocks(usable, cfa, rect)
    blocks = _of_all_levels(everywhere, pair)
    if len(blocks) < _FEWEST:
        return None
    places, weights, ends, planes = _residuals_of(cfa)
    rgb, starts = pair.truth.rgb, np.arange(0, _STEP, _BETWEEN[cfa])
    found = np.empty((4, len(ends), len(blocks)), np.float64)
    _measure(
        pair.noisy.photo.mosaic,
        site_lines(pair.noisy.photo.sensor),
        rgb.values,
        (np.float32(1 / rgb.scale / pair.gain), np.float32(-rgb.offset / rgb.scale / pair.gain)),
        pair.warp.mesh,
        tile_colors(cfa),
        blocks,
        np.stack(np.meshgrid(starts, starts, indexing="ij"), axis=-1).reshape(-1, 2),
        places,
        weights,
        ends,
        found,
    )
    found = found[:, :, np.isfinite(found[0, 0])]
    if found.shape[2] < _FEWEST:
        return None
    by_plane = [found[:, planes == plane].mean(axis=1) for plane in range(len(cfa.plane_colors))]
    red, green, blue = (
        _fit(*np.concatenate(by_plane[part], axis=1), texture_error=error)
        for part, error in zip((np.s_[:1], np.s_[1:-1], np.s_[-1:]), _TEXTURE_ERRORS, strict=True)
    )
    floors = pair_floors(pair, everywhere)
    red, green, blue = (
        _with_floor(found, floor) for found, floor in zip((red, green, blue), floors, strict=True)
    )
    return red, green, blue


def _with_floor(found: PairNoise, floor: Floor | None) -> PairNoise:
    """The noise with another measurement of the floor, which by the covariance of the line's errors corrects its slope, too.

    Both see the same noise: together they are taken to be no surer than the better one.
    """
    if floor is None:
        return found
    line, square = found.noisy, floor.error**2
    share = (floor.value - line.floor) / (line.floor_error**2 + square)
    own = replace(
        line,
        slope=line.slope + line.covariance * share,
        floor=line.floor + line.floor_error**2 * share,
        floor_error=min(line.floor_error, floor.error),
        covariance=line.covariance * square / (line.floor_error**2 + square),
    )
    return replace(found, noisy=own)


def _blocks(usable: NDArray[np.bool_], cfa: Cfa, rect: Rect) -> NDArray[np.int64]:
    """(N, 2) first sites (y, x) in the noisy frame of blocks of 36x36 sites that are usable everywhere."""
    cells = _TILE // cfa.cell
    rows, columns = (side // cells for side in usable.shape)
    across = usable[: rows * cells, : columns * cells].reshape(rows, cells, columns * cells).all(axis=1)
    tiles = across.reshape(rows, columns, cells).all(axis=2)
    if min(tiles.shape) < _SIDE // _TILE:
        return np.empty((0, 2), np.int64)
    view = np.lib.stride_tricks.sliding_window_view(tiles, (_SIDE // _TILE,) * 2)
    whole = np.asarray(view.all(axis=(2, 3)))
    step = _STEP // _TILE
    return (np.argwhere(whole[::step, ::step]) * _STEP + (rect.top, rect.left)).astype(np.int64)


def _of_all_levels(blocks: NDArray[np.int64], pair: AlignedPair) -> NDArray[np.int64]:
    """At most 1200 of the blocks, spread evenly over the frame and over levels: a line is determined by its ends.

    Args:
        blocks: (N, 2) first sites.
        pair: the aligned photos; the level of a block is that of the ground truth's green in its middle.
    """
    if len(blocks) <= _MOST_BLOCKS:
        return blocks
    rgb, middle = pair.truth.rgb, blocks + _SIDE // 2
    y, x = np.clip(middle + pair.warp.shift(middle), 0, np.array(rgb.values.shape[1:]) - 1).T
    groups = level_groups((rgb.values[1, y, x].astype(np.float32) - rgb.offset) / np.float32(rgb.scale))
    quota = _MOST_BLOCKS // len(groups)
    chosen = [
        np.sort(group)[np.linspace(0, len(group) - 1, min(quota, len(group))).astype(np.int64)]
        for group in groups
    ]
    return blocks[np.sort(np.concatenate(chosen))]


def _fit(
    level: NDArray[np.float64],
    own: NDArray[np.float64],
    both: NDArray[np.float64],
    truth: NDArray[np.float64],
    *,
    texture_error: float,
) -> PairNoise:
    """Slope, floor and k by weighted least squares, iterated: the standard error of a variance is a share of itself.

    What noise adds to a product of residuals by chance, it adds twice to the square of one: least squares would find k too
    large. So the ground truth's own residuals, which that noise is not in, are the instrument for the products.

    Args:
        level: (N,) mean level of each block.
        own: (N,) mean squared residual of the noisy photo, in levels squared.
        both: (N,) mean product of the residuals.
        truth: (N,) mean squared residual of the ground truth, whose noise is independent of the noisy photo's.
        texture_error: of the variance that texture adds, as a share of it.
    """
    chosen = np.concatenate(
        [
            group[np.argsort(truth[group], kind="stable")[: max(int(len(group) * _PLAINEST), 1)]]
            for group in level_groups(level.astype(np.float32))
        ]
    )
    level, own, both, truth = level[chosen], own[chosen], both[chosen], truth[chosen]
    design = np.stack([np.maximum(level, 0), np.ones_like(level), both], axis=1)
    instruments = np.concatenate([design[:, :2], truth[:, None]], axis=1)
    prior = np.diag([0, 0, _SHARPNESS**-2])
    typical = max(float(np.median(own - both)), _SMALLEST * float(own.mean()), _TINY)
    fitted: NDArray[Any] = np.full_like(level, typical)
    kept, scatter = np.ones(len(level), np.bool_), 2 / _RESIDUALS_OF_BLOCK
    line, covariance = np.zeros(3), np.eye(3)
    for turn in range(_ROUNDS):
        weighted, independent = design[kept] / fitted[kept, None], instruments[kept] / fitted[kept, None]
        normal = independent.T @ weighted / scatter + prior
        inverse = np.linalg.inv(normal + _RIDGE * np.diag(np.diag(normal) + 1))
        line = inverse @ (independent.T @ (own[kept] / fitted[kept]) / scatter + prior @ (0, 0, 1))
        covariance = inverse @ (independent.T @ independent / scatter + prior) @ inverse.T
        fitted = np.maximum(design @ line, _SMALLEST * typical)
        ratio = own / fitted
        if turn >= _FREE_ROUNDS:
            kept = ratio <= _OUTLIER * np.median(ratio)
        scatter = max(float(np.mean((ratio[kept] - 1) ** 2)), _TINY)
    errors = np.sqrt(np.diag(covariance))
    texture, noise = (
        float(both.mean()),
        max(float(np.mean(design[:, :2] @ line[:2])), _TINY),
    )
    of_texture = texture_error * abs(line[2] * texture) / noise
    in_floor = texture_error * abs((np.linalg.pinv(weighted[:, :2]) @ (line[2] * weighted[:, 2]))[1])
    return PairNoise(
        noisy=ColorNoise(
            slope=float(line[0]),
            slope_error=float(np.hypot(errors[0], of_texture * line[0])),
            floor=float(line[1]),
            floor_error=float(np.hypot(errors[1], in_floor)),
            covariance=float(covariance[0, 1]),
            texture=0.0,
        ),
        level=float(level.mean()),
        texture=texture,
        texture_error=float(both.std() / len(both) ** 0.5),
    )


@lru_cache
def _residuals_of(
    cfa: Cfa,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The residuals of all planes one after the other.

    Returns:
        (n, 2) sites, (n,) weights, (R,) the index behind each residual's last site, and (R,) each one's plane.
    """
    parts = [
        (places, line, plane)
        for plane, (side, count) in enumerate(zip(_SIDES[cfa], _COUNTS[cfa], strict=True))
        for places, weights in (residual(cfa, plane, side, count),)
        for line in weights
    ]
    return (
        np.concatenate([places for places, _, _ in parts]),
        np.concatenate([line for _, line, _ in parts]),
        np.cumsum([len(line) for _, line, _ in parts]),
        np.array([plane for _, _, plane in parts]),
    )


@kernel(fastmath={"contract"})
def _measure(  # noqa: PLR0917
    mosaic: NDArray[np.uint16],
    lines: NDArray[np.float32],
    values: NDArray[Any],
    encoding: tuple[np.float32, np.float32],
    mesh: Mesh,
    colors: NDArray[np.intp],
    blocks: NDArray[np.int64],
    at: NDArray[np.int64],
    places: NDArray[np.int64],
    weights: NDArray[np.float32],
    ends: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    """Mean level and mean products of the residuals of both photos in each block.

    Args:
        mosaic: (H, W) sensor values of the noisy photo.
        lines: (2, period, period) factors and biases from them to levels.
        values: (3, H, W) of the ground truth.
        encoding: factor and bias from these to the noisy photo's levels.
        mesh: of the warp.
        colors: (period, period) of the tile.
        blocks: (N, 2) first sites, on whole tiles.
        at: (n, 2) where in a block the windows begin.
        places: (k, 2) sites of all residuals.
        weights: (k,) their weights.
        ends: (R,) index behind each residual's last site.
        out: (4, R, N) mean level, noisy * noisy, noisy * truth, truth * truth, written; not a number where a sensor value is 0.
    """
    period = len(colors)
    rgb = np.empty((3, _SIDE), np.float32)
    noisy, truth = np.empty(_SIDE * _SIDE, np.float32), np.empty(_SIDE * _SIDE, np.float32)
    starts, steps = at[:, 0] * _SIDE + at[:, 1], places[:, 0] * _SIDE + places[:, 1]
    one, other, sums = (
        np.empty(len(at), np.float32),
        np.empty(len(at), np.float32),
        np.empty(len(at), np.float32),
    )
    for i in range(len(blocks)):
        top, left = blocks[i]
        cut_off = False
        for y in range(_SIDE):
            v = y % period
            warp_row(values, mesh, (top + y, left), (colors[v].min(), colors[v].max() + 1), rgb)
            for x in range(_SIDE):
                value, u = mosaic[top + y, left + x], x % period
                cut_off |= value == 0
                noisy[y * _SIDE + x] = value * lines[0, v, u] + lines[1, v, u]
                truth[y * _SIDE + x] = rgb[colors[v, u], x] * encoding[0] + encoding[1]
        if cut_off:
            out[:, :, i] = np.nan
            continue
        first = 0
        for k in range(len(ends)):
            one[:], other[:], sums[:] = 0, 0, 0
            for tap in range(first, ends[k]):
                step, weight = np.uintp(steps[tap]), weights[tap]
                for j in range(len(starts)):
                    place = np.uintp(starts[j]) + step
                    one[j] += weight * noisy[place]
                    other[j] += weight * truth[place]
                    sums[j] += noisy[place]
            level, own, both, their = 0.0, 0.0, 0.0, 0.0
            for j in range(len(starts)):
                level += sums[j]
                own += one[j] * one[j]
                both += one[j] * other[j]
                their += other[j] * other[j]
            out[0, k, i] = level / (len(starts) * (ends[k] - first))
            out[1, k, i], out[2, k, i], out[3, k, i] = (
                own / len(starts),
                both / len(starts),
                their / len(starts),
            )
            first = ends[k]
