"""Errors of still content along edges and in texture that resampling and demosaicing of the ground truth leave.

Two errors grow with the ground truth's gradient. Resampling and small displacements leave a part of the gradient itself. And
demosaicing takes fine detail of a colour from the brighter ones, as if colours differed by smooth amounts only; where one of
them is dark beside another, as in saturated cloth, it gets that one's texture (`color_leak`). How much of either is left is
measured on the pair: after an even whole shift nothing leaks.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.moments import Moments
from rawnind.imaging.change.noise import FLOOR, level_groups, sample_blocks, variance_line
from rawnind.imaging.jit import kernel

_TYPICAL = 0.05**2  # cells squared; smallest squared residual shift that is allowed for
_LARGEST = 0.35**2  # cells squared; a larger one would hide moved texture
_WITHIN_QUANTILE = 0.85  # of textured blocks, taken to be unchanged, for the variance within blocks
_BETWEEN_QUANTILE = 0.9  # the same for mean differences
_TEXTURED = 0.02  # share of textured blocks below which a changed object may hold most of them
# of the squared steps down and across; fine texture has half of them as its variance
_WHOLE_LEAK = 0.5
_SATURATED = 0.2  # of the gradient: less achromatic detail is a block by which the share is measured
_FEWEST = 50  # samples
_SAMPLES = 8000  # blocks
_SMOOTHEST = 0.58  # 10 % quantile of the squared steps of a block of noise over their mean
_SOFT = 0.002  # level below which demosaicing's square roots are straight
_LARGEST_GAIN = 8.0  # of a colour's contrast


def scene_gradient(moments: Moments, variance: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P, hb, wb) float32 squared gradient of the scene in the ground truth, without what the ground truth's noise adds.

    Noise adds as much to all blocks of a level, so that the smoothest ones show it; where all are textured, it is at most what
    the noise of the difference would add.

    Args:
        moments: of the pair.
        variance: (P, hb, wb) noise variance of a cell.
    """
    chosen = sample_blocks(moments.n >= 12, _SAMPLES)
    out = np.empty_like(moments.gradient)
    for plane, gradient in enumerate(moments.gradient):
        level, steps = (map_.ravel()[chosen] for map_ in (moments.g[plane], gradient))
        groups = level_groups(level)
        levels = np.array([np.median(level[group]) for group in groups])
        smooth = np.array([np.quantile(steps[group], 0.1) for group in groups]) / _SMOOTHEST
        slope, floor = variance_line(levels, smooth, np.full(len(groups), 0.1))
        _subtract(
            gradient, moments.g[plane], variance[plane], np.float32(slope), np.float32(floor), out[plane]
        )
    return out


@kernel(fastmath={"contract"})
def _subtract(  # noqa: PLR0917
    gradient: NDArray[np.float32],
    g: NDArray[np.float32],
    variance: NDArray[np.float32],
    slope: np.float32,
    floor: np.float32,
    out: NDArray[np.float32],
) -> None:
    """Squared gradient less the noise's, slope * level + floor but at most twice the variance; all maps are (hb, wb)."""
    zero, two = np.float32(0), np.float32(2)
    for y in range(len(out)):
        steps, level, most, row = gradient[y], g[y], variance[y], out[y]
        for x in range(len(row)):
            noise = min(slope * max(level[x], zero) + floor, two * most[x])
            row[x] = max(steps[x] - noise, zero)


def color_leak(moments: Moments) -> NDArray[np.float32]:
    """(P, hb, wb) float32 squared steps of the ground truth that may be another colour's texture, in levels squared.

    Demosaicing works on roots sqrt(k g + s) of levels, with gains k that give the colours equal contrast. Texture of one light
    on one surface differs between two of them by the share 1 - sqrt(dark / bright), which demosaicing cannot tell from none.

    Args:
        moments: of the pair.
    """
    energy = moments.gradient[:, ::4, ::4].mean(axis=(1, 2), dtype=np.float64)
    gains = np.clip(np.sqrt(energy[1] / np.maximum(energy, 1e-20)), 1 / _LARGEST_GAIN, _LARGEST_GAIN)
    out = np.empty_like(moments.g)
    _leak(moments.g, moments.gradient, gains.astype(np.float32), out)
    return out


def errors_within(
    moments: Moments, leak: NDArray[np.float32], variance: NDArray[np.float32]
) -> tuple[float, NDArray[np.float32]]:
    """What explains the variance within textured blocks: factors of `Moments.gradient` and of `color_leak`.

    Args:
        moments: of the pair.
        leak: from `color_leak`.
        variance: (P, hb, wb) noise variance of a cell.

    Returns:
        A squared residual shift in cells squared, and a share of each plane, (P,).
    """
    n, gradient, other, dd, noise = _sampled(moments, leak, moments.dd, variance)
    excess = (dd - np.maximum(n - 1, 0) * noise) / np.maximum(n, 1)
    return _factors(n, (gradient, other), excess, noise, _WITHIN_QUANTILE)


def errors_between(
    moments: Moments, leak: NDArray[np.float32], variance: NDArray[np.float32], residual: NDArray[np.float32]
) -> tuple[float, NDArray[np.float32]]:
    """What explains the mean differences of textured blocks; returns as `errors_within`.

    Args:
        moments: of the pair.
        leak: from `color_leak`.
        variance: (P, hb, wb) noise variance of a cell.
        residual: (P, hb, wb) mean differences in levels.
    """
    n, gradient, other, found, level, noise = _sampled(moments, leak, residual, moments.g, variance)
    excess = found**2 - noise / np.maximum(n, 1)
    return _factors(n, (gradient, other), excess, noise / 4 + (FLOOR * level) ** 2, _BETWEEN_QUANTILE)


def _sampled(moments: Moments, *maps: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """(N,) usable cells, then (P, N) of the gradient and of each map, of some 20,000 blocks spread evenly over the frame."""
    step = max(1, moments.n.size // 20000)
    planes = (map_.reshape(len(map_), -1)[:, ::step] for map_ in (moments.gradient, *maps))
    return [moments.n.ravel()[::step], *planes]


def _factors(
    n: NDArray[np.float32],
    steps: tuple[NDArray[np.float32], NDArray[np.float32]],
    excess: NDArray[Any],
    noise: NDArray[Any],
    quantile: float,
) -> tuple[float, NDArray[np.float32]]:
    """Factors of both squared steps that explain the excess of most textured blocks.

    Args:
        n: (N,) usable cells.
        steps: (P, N) squared gradient, and what may leak.
        excess: (P, N) squared difference beyond the noise.
        noise: (P, N) variance below which nothing can be seen.
        quantile: share of the textured blocks that is taken to be unchanged.

    Returns:
        Within `_TYPICAL`..`_LARGEST`, and (P,) within 0..`_WHOLE_LEAK`.
    """
    gradient, leak = steps
    saturated = leak > _SATURATED * gradient
    # textured: a shift of 0.1 cells would exceed the noise
    textured = (n >= 12) & (gradient * 0.1**2 > 0.7 * noise)
    if np.count_nonzero(textured & ~saturated) >= _FEWEST:
        textured &= ~saturated
    shift = _quantile((excess / np.maximum(gradient, 1e-20))[textured], quantile, textured.mean())
    shift = min(max(shift, _TYPICAL), _LARGEST)
    saturated &= (n >= 12) & (leak * 0.1 > 0.7 * noise)
    ratios = (excess - shift * gradient) / np.maximum(leak, 1e-20)
    shares = [
        _quantile(row[there], quantile, there.mean()) for row, there in zip(ratios, saturated, strict=True)
    ]
    return shift, np.clip(np.array(shares, np.float32), 0, _WHOLE_LEAK)


def _quantile(ratios: NDArray[Any], quantile: float, share: float) -> float:
    """A quantile of ratios, lower where they are a small share of the frame; 0 for fewer than 50 of them.

    Where little is textured, much of it may belong to a change.
    """
    if len(ratios) < _FEWEST:
        return 0.0
    return float(np.quantile(ratios, quantile * min(1.0, float(share) / _TEXTURED)))


@kernel(fastmath={"contract"})
def _leak(
    g: NDArray[np.float32],
    gradient: NDArray[np.float32],
    gains: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """See `color_leak`.

    Args:
        g: (P, hb, wb) levels; the second plane is green, the first red, the last blue.
        gradient: (P, hb, wb) squared steps.
        gains: (P,) of each plane.
        out: (P, hb, wb), written.
    """
    planes, height, width = g.shape
    soft, one = np.float32(_SOFT), np.float32(1)
    out[:] = 0
    for y in range(height):
        for p in range(planes):
            if p not in {0, planes - 1}:
                continue
            green, red = gains[1], gains[p]
            for x in range(width):
                a, b = (
                    green * max(g[1, y, x], np.float32(0)) + soft,
                    red * max(g[p, y, x], np.float32(0)) + soft,
                )
                apart = one - np.sqrt(min(a, b) / max(a, b))
                out[p, y, x] = gradient[p, y, x] * apart * apart
                out[1, y, x] = max(out[1, y, x], gradient[1, y, x] * apart * apart)
        for p in range(2, planes - 1):
            out[p, y] = out[1, y]
