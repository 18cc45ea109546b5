"""Registration: the small displacement, turn and change of size that remain between two photos, from local shifts.

In each tile of a grid, least squares explain the noisy photo by the GT and the GT's gradient,

    noisy(p) = a * gt(p + offset) + b . gradient(gt)(p + offset) + c,        local shift = offset + b / a

(Lucas and Kanade 1981, with brightness gain and offset as unknowns). The regressors come from the clean photo alone, so
noise does not bias them. A similarity is then fitted to the tiles' shifts so that tiles with something that moved, or
with nothing to see, do not count. This is done twice: on blocks of sites over the whole photo, then on the sites.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.cfa import tile_colors
from rawnind.imaging.kernels import kernel
from rawnind.imaging.photo import Photo

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]

COARSE_TILE = 32  # samples
FINE_TILE = 128  # sites
FINE_TILES = (10, 14)  # at most, down and across
WELL_EXPOSED = 0.95  # of the white level: above it, what is measured is the sensor's limit
MODEL_ERROR = 0.03  # sites that a tile's shift is off without noise: interpolation, parallax
FINE_CORRELATION = 4.0  # neighbouring interpolated greens share their sites: variance of the means against that of white noise
MIN_TILES = 6  # for rotation and scale
ROTATION_ERROR = 0.0125  # degrees: the largest standard error with which 0.05 degrees are still clear
SCALE_ERROR = 0.00025  # the same for 0.1 %


@dataclass(frozen=True, kw_only=True, slots=True)
class Similarity:
    """How the noisy photo's points lie in the GT.

    Attributes:
        displacement: (dy, dx) in sites, at the middle of the noisy photo; GT minus noisy.
        rotation: degrees, noisy against GT, counter-clockwise; None where not measurable.
        scale: noisy against GT, minus one; None where not measurable.
    """

    displacement: tuple[float, float]
    rotation: float | None
    scale: float | None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Locals:
    """Local shifts: (N, 2) positions (y, x) from the photo's middle, (N, 2) shifts, (N, 2, 2) covariances, in sites."""

    at: Float64s
    shift: Float64s
    covariance: Float64s


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Model:
    """(4,) parameters dy, dx, turn (radians), scale; (4,) standard errors, infinite where not fitted."""

    values: Float64s
    errors: Float64s

    def at(self, points: Float64s) -> Float64s:
        """(N, 2) shifts at (N, 2) points from the middle."""
        return np.einsum("nij,j->ni", _design(points), self.values)


def register(
    ground_truth: Photo, noisy: Photo, gt_green: Float32s, noisy_green: Float32s, start: tuple[float, float]
) -> Similarity:
    """Refines a displacement that is right to about one sample.

    Args:
        ground_truth: the clean photo.
        noisy: of the same size and CFA.
        gt_green: (h, w) green of blocks of sites, over black.
        noisy_green: the same for the noisy photo.
        start: (dy, dx) in sites: GT (y + dy, x + dx) shows noisy (y, x).

    Returns:
        The refined displacement, or `start` itself where refinement fails or leads away from it.
    """
    block = noisy.mosaic.shape[0] // noisy_green.shape[0]
    model = _Model(values=np.array([*start, 0, 0]), errors=np.full(4, np.inf))
    for measured in (
        lambda model: _coarse(ground_truth, noisy, gt_green, noisy_green, model, block),
        lambda model: _fine(ground_truth, noisy, model),
    ):
        found = _fit(measured(model))
        if found is None or np.abs(found.values[:2] - start).max() > 1.5 * block:
            return Similarity(displacement=start, rotation=None, scale=None)
        model = found
    return _similarity(model)


def _similarity(model: _Model) -> Similarity:
    turn, size = np.rad2deg(model.values[2]), model.values[3]
    return Similarity(
        displacement=(float(model.values[0]), float(model.values[1])),
        rotation=float(turn) if np.rad2deg(model.errors[2]) <= ROTATION_ERROR else None,
        scale=float(size) if model.errors[3] <= SCALE_ERROR else None,
    )


def _coarse(
    ground_truth: Photo, noisy: Photo, gt_green: Float32s, noisy_green: Float32s, model: _Model, block: int
) -> _Locals:
    """Local shifts of all tiles of the blocks' greens."""
    offset = np.rint(model.values[:2] / block).astype(np.int64)
    tile = min(
        COARSE_TILE, *(max(8, (n - 2 - abs(d)) // 3) for n, d in zip(noisy_green.shape, offset, strict=True))
    )
    corners = _grid(noisy_green.shape, offset, tile, margin=1, most=(1000, 1000))
    offsets = np.broadcast_to(offset, corners.shape)
    sums = _coarse_sums(gt_green, noisy_green, corners, offsets, tile, _limit(ground_truth), _limit(noisy))
    middle = (corners + (tile - 1) / 2 + 0.5) * block - 0.5
    return _solve(sums, middle - _middle(noisy), offsets * block, block, 1.0)


def _fine(ground_truth: Photo, noisy: Photo, model: _Model) -> _Locals:
    """Local shifts of a grid of tiles of sites; each tile starts where the model puts it."""
    turns = np.abs(model.values[2:]) > 3 * model.errors[2:]
    model = _Model(values=model.values * np.array([1, 1, *turns]), errors=model.errors)
    reach = np.rint(model.values[:2]).astype(np.int64)
    slack = int(np.ceil(np.abs(model.values[2:]).sum() * max(noisy.mosaic.shape) / 2)) + 3
    tile = min(
        FINE_TILE, *((n - 2 * slack - abs(d)) // 3 for n, d in zip(noisy.mosaic.shape, reach, strict=True))
    )
    corners = _grid(noisy.mosaic.shape, reach, tile, margin=slack, most=FINE_TILES)
    at = corners + (tile - 1) / 2 - _middle(noisy)
    offsets = np.rint(model.at(at)).astype(np.int64)
    green = tile_colors(noisy.cfa) == 1
    sums = _fine_sums(
        ground_truth.mosaic, noisy.mosaic, corners, offsets, tile, green, _blacks(ground_truth), _blacks(noisy),
        _limit(ground_truth), _limit(noisy),
    )  # fmt: skip
    return _solve(sums, at, offsets, 1, FINE_CORRELATION)


def _middle(photo: Photo) -> Float64s:
    return (np.array(photo.mosaic.shape) - 1) / 2


def _blacks(photo: Photo) -> np.float32:
    return np.float32(photo.sensor.black_level[1])


def _limit(photo: Photo) -> np.float32:
    """Greatest green over black that is not close to the sensor's limit."""
    return np.float32(WELL_EXPOSED * (photo.sensor.white_level - photo.sensor.black_level[1]))


def _grid(
    shape: tuple[int, ...], offset: NDArray[np.int64], tile: int, *, margin: int, most: tuple[int, int]
) -> NDArray[np.int64]:
    """(N, 2) corners of tiles spread over the part of the noisy photo that the GT shows too."""
    lines = []
    for size, shift, limit in zip(shape, offset, most, strict=True):
        first, last = max(0, -shift) + margin, min(size, size - shift) - margin - tile
        count = min(limit, max(0, (last - first) // tile + 1)) if tile > 0 else 0
        lines.append(np.rint(np.linspace(first, last, count)).astype(np.int64))
    return np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 2)


def _solve(
    sums: Float64s, at: Float64s, offsets: NDArray[np.int64], block: int, correlation: float
) -> _Locals:
    """Local shifts from each tile's sums of products; tiles that say nothing are left out.

    Args:
        sums: (N, 16): count, and the products of (gt, gt_y, gt_x, 1, noisy) with each other, upper triangle.
        at: (N, 2) middles of the tiles, in sites.
        offsets: (N, 2) where the GT's tile was taken, in sites.
        block: sites per sample.
        correlation: how much larger the variance is than that of independent samples.
    """
    full = np.zeros((len(sums), 5, 5))
    rows, columns = np.triu_indices(5)
    full[:, rows, columns] = full[:, columns, rows] = sums
    count = full[:, 3, 3]
    normal, right = full[:, :4, :4], full[:, :4, 4]
    solvable = (count > 32) & (np.linalg.cond(normal) < 1e12)
    normal, right, full, count = normal[solvable], right[solvable], full[solvable], count[solvable]
    inverse = np.linalg.inv(normal)
    fitted = np.einsum("nij,nj->ni", inverse, right)
    residual = np.maximum(full[:, 4, 4] - np.einsum("ni,ni->n", fitted, right), 0) / (count - 4)
    spread = correlation * residual[:, None, None] * inverse
    gain_error = np.sqrt(spread[:, 0, 0])
    gain = _weighted_median(fitted[:, 0], np.abs(fitted[:, 0]) / np.maximum(gain_error, 1e-12))
    plausible = np.abs(fitted[:, 0] - gain) < 0.25 * np.abs(gain) + 3 * gain_error
    if gain <= 0:
        plausible[:] = False
    return _Locals(
        at=at[solvable][plausible],
        shift=offsets[solvable][plausible] + block * fitted[plausible, 1:3] / max(gain, 1e-12),
        covariance=block**2 * spread[plausible, 1:3, 1:3] / max(gain, 1e-12) ** 2
        + MODEL_ERROR**2 * np.eye(2),
    )


def _weighted_median(values: Float64s, weights: Float64s) -> float:
    if not len(values):
        return 0.0
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])


def _design(at: Float64s) -> Float64s:
    """(N, 2, 4): the local shift's derivatives by dy, dx, turn and scale.

    GT - noisy = d - scale * (y, x) + turn * (x, -y): content that is larger or turned counter-clockwise in the noisy
    photo lies closer to the middle, or clockwise, in the GT.
    """
    design = np.zeros((len(at), 2, 4))
    design[:, 0, 0] = design[:, 1, 1] = 1
    design[:, 0, 2], design[:, 1, 2] = at[:, 1], -at[:, 0]
    design[:, :, 3] = -at
    return design


def _fit(local: _Locals) -> _Model | None:
    """Robust fit of a similarity to the local shifts (iterated least squares, Cauchy weights); None without tiles."""
    if not len(local.at):
        return None
    free = 4 if len(local.at) >= MIN_TILES else 2
    design = _design(local.at)[:, :, :free]
    information = np.linalg.inv(local.covariance)
    trust = np.sqrt(np.linalg.det(information))
    values = np.zeros(free)
    values[:2] = [_weighted_median(local.shift[:, axis], trust) for axis in (0, 1)]
    for _ in range(20):
        rest = local.shift - design @ values
        distance = np.einsum("ni,nij,nj->n", rest, information, rest)
        weights = 1 / (1 + distance / 4)  # a tile two standard deviations off counts half
        weighted = weights[:, None, None] * information
        normal = np.einsum("nki,nkl,nlj->ij", design, weighted, design)
        values = np.linalg.solve(normal, np.einsum("nki,nkl,nl->i", design, weighted, local.shift))
    excess = max(1.0, float((weights * distance).sum() / (2 * weights.sum())))
    errors = np.sqrt(excess * np.diag(np.linalg.inv(normal)))
    return _Model(
        values=np.concatenate([values, np.zeros(4 - free)]),
        errors=np.concatenate([errors, np.full(4 - free, np.inf)]),
    )


@kernel(fastmath={"reassoc", "contract", "nsz"})
def _tile_sums(
    gt: Float32s, noisy: Float32s, gt_limit: np.float32, noisy_limit: np.float32, out: Float64s
) -> None:
    """Sums of products of (gt, gt_y, gt_x, 1, noisy), centred; `gt` has one more sample than `noisy` on each side."""
    height, width = noisy.shape
    total_gt, total_noisy = 0.0, 0.0
    for y in range(height):
        row_gt, row_noisy = np.float32(0), np.float32(0)
        for x in range(width):
            row_gt += gt[y + 1, x + 1]
            row_noisy += noisy[y, x]
        total_gt += row_gt
        total_noisy += row_noisy
    mean_gt = np.float32(total_gt / (height * width))
    mean_noisy = np.float32(total_noisy / (height * width))
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    out[:] = 0
    for y in range(height):
        gg = gy = gx = g1 = gn = yy = yx = y1 = yn = xx = x1 = xn = n1 = nn = ones = zero
        above, here, below, line = gt[y], gt[y + 1], gt[y + 2], noisy[y]
        for x in range(width):
            use = one if here[x + 1] < gt_limit and line[x] < noisy_limit else zero
            g, n = (here[x + 1] - mean_gt) * use, (line[x] - mean_noisy) * use
            v, h = (below[x + 1] - above[x + 1]) * half * use, (here[x + 2] - here[x]) * half * use
            ones += use
            gg += g * g
            gy += g * v
            gx += g * h
            g1 += g
            gn += g * n
            yy += v * v
            yx += v * h
            y1 += v
            yn += v * n
            xx += h * h
            x1 += h
            xn += h * n
            n1 += n
            nn += n * n
        for i, value in enumerate((gg, gy, gx, g1, gn, yy, yx, y1, yn, xx, x1, xn, ones, n1, nn)):
            out[i] += value


@kernel
def _coarse_sums(
    gt: Float32s, noisy: Float32s, corners: NDArray[np.int64], offsets: NDArray[np.int64], tile: int,
    gt_limit: np.float32, noisy_limit: np.float32,
) -> Float64s:  # fmt: skip
    out = np.zeros((len(corners), 15))
    for i in range(len(corners)):
        y, x = corners[i]
        v, u = y + offsets[i, 0], x + offsets[i, 1]
        _tile_sums(
            gt[v - 1 : v + tile + 1, u - 1 : u + tile + 1], noisy[y : y + tile, x : x + tile], gt_limit, noisy_limit,
            out[i],
        )  # fmt: skip
    return out


@kernel
def _fine_sums(
    gt: NDArray[np.uint16], noisy: NDArray[np.uint16], corners: NDArray[np.int64], offsets: NDArray[np.int64],
    tile: int, green: NDArray[np.bool_], gt_black: np.float32, noisy_black: np.float32, gt_limit: np.float32,
    noisy_limit: np.float32,
) -> Float64s:  # fmt: skip
    out = np.zeros((len(corners), 15))
    gt_tile, noisy_tile = np.empty((tile + 2, tile + 2), np.float32), np.empty((tile, tile), np.float32)
    for i in range(len(corners)):
        y, x = corners[i]
        _green_sites(gt, y + offsets[i, 0] - 1, x + offsets[i, 1] - 1, green, gt_black, gt_tile)
        _green_sites(noisy, y, x, green, noisy_black, noisy_tile)
        _tile_sums(gt_tile, noisy_tile, gt_limit, noisy_limit, out[i])
    return out


@kernel
def _green_sites(
    mosaic: NDArray[np.uint16],
    top: int,
    left: int,
    green: NDArray[np.bool_],
    black: np.float32,
    out: Float32s,
) -> None:
    """Green at each site over black: mean of the greens of its 3x3 sites without the largest and the smallest."""
    height, width = out.shape
    period = green.shape[0]
    is_green = np.empty((period, width + 2), np.float32)
    share = np.empty((period, width), np.float32)
    for r in range(period):
        for x in range(width + 2):
            is_green[r, x] = np.float32(1) if green[r, (left - 1 + x) % period] else np.float32(0)
    for r in range(period):
        for x in range(width):
            count = np.float32(0)
            for i in range(-1, 2):
                for j in range(3):
                    count += is_green[(r + i) % period, x + j]
            share[r, x] = np.float32(1) / (count - np.float32(2))
    total = np.empty(width + 2, np.float32)
    low = np.empty(width + 2, np.float32)
    high = np.empty(width + 2, np.float32)
    for y in range(height):
        for x in range(width + 2):
            total[x], low[x], high[x] = np.float32(0), np.float32(1e6), np.float32(0)
        for i in range(top + y - 1, top + y + 2):
            line, here = mosaic[i, left - 1 : left + width + 1], is_green[i % period]
            for x in range(width + 2):
                value = np.float32(line[x]) * here[x]
                total[x] += value
                high[x] = max(high[x], value)
                low[x] = min(low[x], value + (np.float32(1) - here[x]) * np.float32(1e6))
        portion = share[(top + y) % period]
        for x in range(width):
            most = max(max(high[x], high[x + 1]), high[x + 2])
            least = min(min(low[x], low[x + 1]), low[x + 2])
            out[y, x] = (total[x] + total[x + 1] + total[x + 2] - most - least) * portion[x] - black
