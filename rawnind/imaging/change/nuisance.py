"""Nuisance parameters: what makes two frames differ although the scene does not change.

A residual shift and rotation (`measure_displacement`), a different response and a drift of the light (`fit_smooth`), noise
of rows and columns (`subtract_lines`). All are fitted robustly, so that changes of the scene do not enter.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.moments import Displacement, Moments, block_moments
from rawnind.imaging.change.noise import FLOOR, NoiseModel, robust_fit, sample_blocks
from rawnind.imaging.coordinates import BLOCK
from rawnind.imaging.jit import kernel

_BAND = 8  # block rows per band that the displacement is measured on
_CONVERGED = 0.01  # cells; far below the 0.05 cells that the tests allow for
_BANDS = 10
_SAMPLES = 2000  # blocks that a smooth model is fitted to
_SMOOTH = np.array([1, 2, 1], np.float32) / 4
# Derivative after _SMOOTH, per cell: a sine series that equals w (1 + cos w) / 2 to third order in the frequency w.
_SLOPE = np.array([-1, -10, 0, 10, 1], np.float32) / 24 / BLOCK
_LINES = 17  # lines of blocks; line noise is the difference from their mean
_SAMPLED = 125  # blocks of a line, of which the median starts the M-estimator
_MEDIAN_SQUARE = 0.455  # median of a chi-square with 1 degree of freedom
_PRIOR = (0.005, 0.05, 0.02)  # standard deviation of the terms of the response: offset, factor, exponent
_DARK = np.float32(1e-3)  # level below which ln(g) is held constant
_DRIFT = 5  # terms of a second-order surface without its constant
_EXPECTED_DRIFT = 0.05  # relative change of the light from the centre to the edge, standard deviation
_INDEPENDENT = 200  # effective number of independent blocks: errors of neighbouring blocks are correlated
_EXPECTED_SHIFT = 0.15  # cells, standard deviation: whole-site alignment leaves at most half a site
_EXPECTED_ROTATION = 1e-3  # cells per cell: 0.05 degrees are 0.9e-3; the same for the scale


def measure_displacement(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> Displacement | None:
    """Where the noisy frame's cells lie in the ground truth, beyond the shift that alignment applied.

    Robust regression of the difference of smoothed blocks on the ground truth's gradient, d = -(dy, dx) . gradient, over bands
    of rows that sample the frame. Up to three iterations, each with the previous result applied: blocks blur thin lines, which
    makes a single step too small.

    Args:
        ground_truth: (P, h, w) float32 levels, shifted onto the noisy frame.
        noisy: (P, h, w) float32 levels times the gain.
        usable: (h, w) bool.

    Returns:
        The displacement, or None where fewer than 200 blocks can be compared.
    """
    height, width = usable.shape
    planes, size = len(noisy), _BAND * BLOCK
    rotation = (_EXPECTED_ROTATION * height / 2, _EXPECTED_ROTATION * width / 2)
    prior = [*_PRIOR * planes, *(_EXPECTED_DRIFT,) * _DRIFT, *(_EXPECTED_SHIFT, *rotation) * 2]
    found = np.zeros(6)
    for _ in range(3):
        displacement = _per_cell(found, height, width)
        rows = []
        for top in _band_starts(height):
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
        # regress the total displacement, so that the prior bounds it and not each step
        whole = target[::step] + design[:, -6:] @ before
        found = robust_fit(design, whole, scale[::step], np.array(prior))[-6:]
        if np.abs(found - before).max() < _CONVERGED:
            break
    return _per_cell(found, height, width)


def _band_starts(height: int) -> list[int]:
    """First rows of the bands: overlapping by half where the frame is low, else `_BANDS` of them spread over it."""
    size = _BAND * BLOCK
    if height <= _BANDS * size:
        return list(range(0, max(height - size // 2, 1), size // 2))
    starts: list[int] = (np.linspace(0, height - size, _BANDS) // BLOCK * BLOCK).astype(int).tolist()
    return starts


def _per_cell(found: NDArray[np.float64], height: int, width: int) -> Displacement:
    """A displacement from its coefficients over positions from -1 to 1.

    Args:
        found: (6,) constant, down and across of dy, then of dx, in cells.
        height: of the frame in cells.
        width: of the frame in cells.
    """
    return Displacement(
        dy=(found[0], found[1] * 2 / height, found[2] * 2 / width),
        dx=(found[3], found[4] * 2 / height, found[5] * 2 / width),
    )


def _gradient_rows(moments: Moments, place: tuple[float, float, float]) -> tuple[NDArray[np.float64], ...]:
    """Regression rows of a band's blocks: response of each plane, drift of the light, displacement.

    Args:
        moments: of the band.
        place: the band's first row in blocks, half the frame's height and half its width in blocks.

    Returns:
        (N, 3 * P + 11) design, (N,) target, (N,) scale, float64.
    """
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
    """Subtracts, in place, what each block row has in common: row noise correlates with the gradient where the scene has rows.

    Args:
        target: (N,); its median per row is subtracted.
        design: (N, K); its means per row are subtracted.
        first: (R,) index of the first block of each row.
    """
    count = np.diff(first, append=len(target))
    for start, length in zip(first, count, strict=True):
        target[start : start + length] -= np.median(target[start : start + length])
    if len(first):
        design -= np.repeat(np.add.reduceat(design, first) / count[:, None], count, axis=0)


def _powers(level: NDArray[Any]) -> NDArray[Any]:
    """The terms of a response, (..., 3): 1, g, g ln(g); an offset, a factor, and a small change of exponent.

    Three terms only, so that few blocks determine them: g^(1 + e) = g + e g ln(g) + O(e^2).
    """
    return np.stack([np.ones_like(level), level, level * np.log(np.maximum(level, _DARK))], axis=-1)


def _surface(y: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """The terms of a drift of the light, (N, 5): a second-order surface without its constant; y and x from -1 to 1."""
    return np.stack([y, x, y * y, y * x, x * x], axis=-1)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Smooth:
    """Response and drift: d = c0 + c1 g + c2 g ln(g) for each plane, plus g times a second-order surface.

    Attributes:
        response: (P, 3) float32: c0, c1, c2.
        drift: (5,) float32 of y, x, y^2, yx, x^2, with y and x from -1 to 1.
    """

    response: NDArray[np.float32]
    drift: NDArray[np.float32]


def fit_smooth(moments: Moments, noise: NoiseModel) -> Smooth:
    """Fits the response and the drift of the light robustly to a sample of the blocks.

    Args:
        moments: of the frame.
        noise: variance of the difference.
    """
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
    """Subtracts response and drift.

    Args:
        d: (P, hb, wb) mean differences in levels.
        g: (P, hb, wb) mean levels of the ground truth.
        response: (P, 3), see `Smooth`.
        drift: (5,), see `Smooth`.
        out: (P, hb, wb), written.
    """
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
    """Subtracts row noise and column noise from the residuals, in place: only their differences from line to line.

    The part of a line that its neighbours share (a mean over 17 lines) may belong to the scene and stays.

    Args:
        residual: (P, hb, wb) mean differences in levels.
        sigma: (P, hb, wb) standard deviation of an unchanged block.
        variance: (P, hb, wb) noise variance of a cell.
        n: (hb, wb) usable cells.

    Returns:
        (P,) variance in levels squared that the lines' slow part may have left in every block.
    """
    left = np.zeros(len(residual), np.float32)
    # where interpolation and light dominate the noise, lines of the scene would be taken for line noise
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
        # a jump has two lines' variance
        observed = np.median(np.diff(step, axis=1) ** 2, axis=1) / _MEDIAN_SQUARE / 2
        lines_own = np.maximum(observed - error, 0)
        share = (noisy * lines_own / np.maximum(observed, 1e-20)).astype(np.float32)[:, None]
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
    """One reweighted step of Huber's M-estimator of each line's location, from its median.

    Weights instead of second derivatives: where most blocks lie beyond Huber's limit, the latter would be nearly 0.

    Args:
        residual: (P, hb, wb) in levels.
        sigma: (P, hb, wb) standard deviations.
        n: (hb, wb) usable cells.
        middle: (P, lines) medians.
        rows: lines are rows; else columns.
        first: (P, lines) sums of weighted residuals, added to.
        second: (P, lines) sums of weights, added to.
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
