"""What differs between two frames although the scene does not: a shift left over, a response, a drift of the light, rows."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.moments import Displacement, Moments, block_moments
from rawnind.imaging.change.noise import NoiseModel, robust_fit, sample_blocks
from rawnind.imaging.coordinates import BLOCK
from rawnind.imaging.jit import kernel

FLOOR = 0.02
"""Share of the level by which still content may differ: response and light that the smooth model misses."""

_BAND = 8  # block rows per band that the displacement is measured on
_CONVERGED = 0.01  # cells
_BANDS = 10
_SAMPLES = 2000  # blocks that a smooth model is fitted to
_SMOOTH = np.array([1, 2, 1], np.float32) / 4
# The derivative of what _SMOOTH passes: sine series of w (1 + cos w) / 2 to third order, per cell.
_SLOPE = np.array([-1, -10, 0, 10, 1], np.float32) / 24 / BLOCK
_LINES = 17  # block lines; noise of lines is what differs from their mean
_SAMPLED = 125  # blocks of a line whose median is the start of its mean
_MEDIAN_SQUARE = 0.455  # median of a squared normal deviate
_PRIOR = (0.005, 0.05, 0.02)  # expected size of the terms of the response: offset, factor, exponent
_DARK = np.float32(1e-3)  # level from which an exponent counts
_DRIFT = 5  # terms of a second-order surface without its constant
_EXPECTED_DRIFT = 0.05
_INDEPENDENT = 200  # blocks: how many a photo's content is worth when its response is fitted
_EXPECTED_SHIFT = 0.15  # cells, constant part: alignment leaves at most half a site
_EXPECTED_ROTATION = 1e-3  # cells per cell: 0.05 degrees are 0.9e-3, and the scale changes by as much


def measure_displacement(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> Displacement | None:
    """Where the noisy frame lies in the ground truth beyond the shift already applied.

    Robust regression of the difference of smoothed blocks on their gradient, over bands that sample the frame; up to three
    times, each with what was found applied, because blocks blur thin lines and make a shift look smaller than it is.
    """
    height, width = usable.shape
    size = _BAND * BLOCK
    if height <= _BANDS * size:
        starts = range(0, max(height - size // 2, 1), size // 2)
    else:
        starts = (np.linspace(0, height - size, _BANDS) // BLOCK * BLOCK).astype(int).tolist()
    planes = len(noisy)
    rotation = (_EXPECTED_ROTATION * height / 2, _EXPECTED_ROTATION * width / 2)
    prior = [*_PRIOR * planes, *(_EXPECTED_DRIFT,) * _DRIFT, *(_EXPECTED_SHIFT, *rotation) * 2]
    found = np.zeros(6)
    for _ in range(3):
        displacement = Displacement(
            dy=(found[0], found[1] * 2 / height, found[2] * 2 / width),
            dx=(found[3], found[4] * 2 / height, found[5] * 2 / width),
        )
        rows = []
        for top in starts:
            band = slice(top, top + size)
            moments = block_moments(
                np.ascontiguousarray(ground_truth[:, band]),
                np.ascontiguousarray(noisy[:, band]),
                usable[band],
                displacement,
                top=top,
                height=height,
            )
            rows.append(_gradient_rows(moments, (top / BLOCK, height / BLOCK / 2, width / BLOCK / 2)))
        design, target, scale = (np.concatenate([part[i] for part in rows]) for i in range(3))
        if len(target) < 200:
            return None
        step = max(1, len(target) // (3 * _SAMPLES))
        before, design = found, design[::step]
        # the whole of it, so that what is expected bounds the sum of the steps
        whole = target[::step] + design[:, -6:] @ before
        found = robust_fit(design, whole, scale[::step], np.array(prior))[-6:]
        if np.abs(found - before).max() < _CONVERGED:
            break
    return Displacement(
        dy=(found[0], found[1] * 2 / height, found[2] * 2 / width),
        dx=(found[3], found[4] * 2 / height, found[5] * 2 / width),
    )


def _gradient_rows(moments: Moments, place: tuple[float, float, float]) -> tuple[NDArray[np.float64], ...]:
    """Design rows, targets and scales of a band's blocks: response of each plane, slope of the light, displacement."""
    top, half_height, half_width = place
    planes, height, width = moments.g.shape
    if height < 5 or width < 5:
        return np.empty((0, len(_PRIOR) * planes + _DRIFT + 6)), np.empty(0), np.empty(0)
    inner = (slice(2, -2), slice(2, -2))
    there = cv2.erode(moments.n, np.ones((5, 5), np.uint8))[inner] >= 12
    chosen = sample_blocks(there, 3 * _SAMPLES // _BANDS)
    row, x = np.divmod(chosen, width - 4)
    first = np.flatnonzero(np.diff(row, prepend=-1))
    y, x = (row + 2.5 + top) / half_height - 1, (x + 2.5) / half_width - 1
    parts = []
    for plane in range(planes):
        d, level, gy, gx = (
            cv2.sepFilter2D(map_, -1, across, down)[inner].ravel()[chosen]
            for map_, across, down in (
                (moments.d[plane], _SMOOTH, _SMOOTH),
                (moments.g[plane], _SMOOTH, _SMOOTH),
                (moments.g[plane], _SMOOTH, _SLOPE),
                (moments.g[plane], _SLOPE, _SMOOTH),
            )
        )
        spread = cv2.blur(moments.dd[plane], (5, 5))[inner].ravel()[chosen]
        terms = len(_PRIOR)
        response = np.zeros((len(chosen), terms * planes))
        response[:, terms * plane : terms * plane + terms] = _powers(level)
        slopes = np.stack([-gy, -gy * y, -gy * x, -gx, -gx * y, -gx * x], axis=1)
        parts_ = np.concatenate([response, level[:, None] * _surface(y, x), slopes], axis=1)
        _subtract_rows(d, parts_, first)
        mean = spread / 15 * float((_SMOOTH**2).sum()) ** 2 / BLOCK**2  # 15: 16 cells less their mean
        scale = np.sqrt(mean + (0.25 * FLOOR * level) ** 2 + 0.05**2 * (gy**2 + gx**2) + 1e-10)
        parts.append((parts_, d, scale))
    return tuple(np.concatenate([part[i] for part in parts]).astype(np.float64) for i in range(3))


def _subtract_rows(target: NDArray[Any], design: NDArray[Any], first: NDArray[np.intp]) -> None:
    """Takes out, in place, what is common to a block row: its noise looks like a gradient wherever the scene has rows.

    Args:
        target: (N,); its median goes.
        design: (N, K); their means go.
        first: where each row begins.
    """
    count = np.diff(first, append=len(target))
    for start, length in zip(first, count, strict=True):
        target[start : start + length] -= np.median(target[start : start + length])
    if len(first):
        design -= np.repeat(np.add.reduceat(design, first) / count[:, None], count, axis=0)


def _powers(level: NDArray[Any]) -> NDArray[Any]:
    """The terms of a response, (..., 3): an offset, a factor, an exponent; no more, so that it holds where few blocks are."""
    return np.stack([np.ones_like(level), level, level * np.log(np.maximum(level, _DARK))], axis=-1)


def _surface(y: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """The terms of a drift of the light, (N, 5); y and x from -1 to 1."""
    return np.stack([y, x, y * y, y * x, x * x], axis=-1)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Smooth:
    """Response and drift: d = c0 + c1 g + c2 g ln(g) for each plane, plus g times a second-order surface.

    Attributes:
        response: (P, 3).
        drift: (5,) of y, x, y^2, yx, x^2, with y and x from -1 to 1.
    """

    response: NDArray[np.float32]
    drift: NDArray[np.float32]


def fit_smooth(moments: Moments, noise: NoiseModel) -> Smooth:
    """The response and the drift of the light that most blocks agree on."""
    planes, height, width = moments.g.shape
    chosen = sample_blocks(moments.n >= 12, _SAMPLES)
    y, x = np.divmod(chosen, width)
    y, x = (y + 0.5) * 2 / height - 1, (x + 0.5) * 2 / width - 1
    g = moments.g.reshape(planes, -1)[:, chosen].astype(np.float64)
    terms = len(_PRIOR)
    design = np.zeros((planes, len(chosen), terms * planes + _DRIFT))
    for plane in range(planes):
        design[plane, :, terms * plane : terms * plane + terms] = _powers(g[plane])
    design[:, :, terms * planes :] = g[:, :, None] * _surface(y, x)
    n, gradient = moments.n.ravel()[chosen], moments.gradient.reshape(planes, -1)[:, chosen]
    variance = noise.variance(g.astype(np.float32)) / n + (0.25 * FLOOR * g) ** 2 + 0.1**2 * gradient + 1e-10
    prior = np.concatenate([np.tile(_PRIOR, planes), np.full(_DRIFT, _EXPECTED_DRIFT)])
    prior *= min(1.0, (_INDEPENDENT / max(len(chosen), 1)) ** 0.5)
    target = moments.d.reshape(planes, -1)[:, chosen].astype(np.float64).ravel()
    result = robust_fit(design.reshape(-1, design.shape[2]), target, np.sqrt(variance).ravel(), prior).astype(
        np.float32
    )
    return Smooth(response=result[: terms * planes].reshape(planes, terms), drift=result[terms * planes :])


@kernel
def subtract_smooth(
    d: NDArray[np.float32],
    g: NDArray[np.float32],
    response: NDArray[np.float32],
    drift: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Writes d without response and drift to out; all (P, hb, wb)."""
    planes, height, width = d.shape
    for plane in range(planes):
        for row in range(height):
            y = np.float32((row + 0.5) * 2 / height - 1)
            for column in range(width):
                x = np.float32((column + 0.5) * 2 / width - 1)
                level = g[plane, row, column]
                surface = drift[0] * y + drift[1] * x + drift[2] * y * y + drift[3] * y * x + drift[4] * x * x
                curve = response[plane, 1] + response[plane, 2] * np.log(max(level, _DARK))
                smooth = response[plane, 0] + level * (curve + surface)
                out[plane, row, column] = d[plane, row, column] - smooth


def subtract_lines(
    residual: NDArray[np.float32],
    sigma: NDArray[np.float32],
    variance: NDArray[np.float32],
    n: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Takes row noise and column noise out of (P, hb, wb) residuals, in place: only what changes from line to line.

    Args:
        residual: mean differences.
        sigma: what a block may deviate by.
        variance: of a cell's noise.
        n: (hb, wb) usable cells.

    Returns:
        (P,) variance that the lines' slower part may have left in every block.
    """
    left = np.zeros(len(residual), np.float32)
    # where interpolation and light explain more than noise does, lines of the scene would pass for lines of the sensor
    some = np.s_[..., ::4, ::4]
    noisy = np.median(variance[some] / np.maximum(n[some], 1) / sigma[some] ** 2, axis=(1, 2))
    for axis in (2, 1):
        if residual.shape[3 - axis] < _LINES:
            continue
        every = max(1, residual.shape[axis] // _SAMPLED)
        sample = residual[:, :, ::every] if axis == 2 else residual[:, ::every]
        middle = np.median(sample, axis=axis, keepdims=True)
        first, second = np.zeros((2, len(residual), residual.shape[3 - axis]), np.float32)
        _huber_step(residual, sigma, n, middle.squeeze(axis), axis == 2, first, second)
        step = first / np.maximum(second, 1e-12)
        step += middle.squeeze(axis)
        step[n.sum(axis - 1) * np.ones_like(step) == 0] = 0
        error = np.median(n.mean(axis - 1) / np.maximum(second, 1e-12), axis=1)
        seen = (
            np.median(np.diff(step, axis=1) ** 2, axis=1) / _MEDIAN_SQUARE / 2
        )  # a jump has two lines' variance
        lines_own = np.maximum(seen - error, 0)
        share = (noisy * lines_own / np.maximum(seen, 1e-20)).astype(np.float32)[:, None]
        slow = cv2.blur(step, (_LINES, 1), borderType=cv2.BORDER_REFLECT)
        residual -= np.expand_dims(share * (step - slow), axis)
        left += lines_own.astype(np.float32) / _LINES
    return left


@kernel(fastmath={"contract"})
def _huber_step(  # noqa: PLR0917
    residual: NDArray[np.float32],
    sigma: NDArray[np.float32],
    n: NDArray[np.float32],
    middle: NDArray[np.float32],
    rows: bool,  # noqa: FBT001
    first: NDArray[np.float32],
    second: NDArray[np.float32],
) -> None:
    """Adds up one reweighted step of Huber's from each row's or column's median: (P, lines) sums of slope and of weights.

    Weights and not curvatures: where most blocks lie beyond the limit, these would leave next to nothing to divide by.
    """
    planes, height, width = residual.shape
    limit = np.float32(1.5)
    line = np.empty((2, width), np.float32)
    for p in range(planes):
        for y in range(height):
            a, b = (line[0], line[1]) if rows else (first[p], second[p])
            if rows:
                line[:] = 0
            for x in range(width):
                centre = middle[p, y] if rows else middle[p, x]
                one = np.float32(1) / sigma[p, y, x]
                z = (residual[p, y, x] - centre) * one
                weight = n[y, x] * one * min(np.float32(1), limit / abs(z))
                a[x] += weight * z
                b[x] += weight * one
            if rows:
                for x in range(width):
                    first[p, y] += a[x]
                    second[p, y] += b[x]
