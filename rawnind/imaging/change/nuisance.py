"""Nuisance parameters: what makes two frames differ although the scene does not change.

A different response and a drift of the light (`fit_smooth`), noise of rows and columns (`subtract_lines`). All are fitted
robustly, so that changes of the scene do not enter. What alignment leaves is not taken out: the stored pair has it too.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.moments import Moments
from rawnind.imaging.change.noise import FLOOR, NoiseModel, robust_fit
from rawnind.imaging.change.patches import Patches
from rawnind.imaging.coordinates import BLOCK
from rawnind.imaging.jit import kernel

_LINES = 17  # lines of blocks; line noise is the difference from their mean
_SAMPLED = 125  # blocks of a line, of which the median starts the M-estimator
_FAR = 8.0  # standard deviations from its line's median, beyond which a block has changed
_FEW = 0.25  # of the usual information, with which a line is not measured
_OBJECT = 5  # blocks a side of a box that is looked at for an object
_OBJECT_LIMIT = 4.0  # standard deviations from which it holds one
_MEDIAN_SQUARE = 0.455  # median of a chi-square with 1 degree of freedom
_PRIOR = (0.005, 0.05, 0.02)  # standard deviation of the terms of the response: offset, factor, exponent
_DARK = np.float32(1e-3)  # level below which ln(g) is held constant
_EDGE = 0.1**2  # cells squared: a displacement that leaves errors along edges
_LARGEST_FACTOR, _LARGEST_OFFSET = 0.6, 1e-4  # by which levels may differ without a change
_DRIFT = 5  # terms of a second-order surface without its constant
_EXPECTED_DRIFT = 0.05  # relative change of the light from the centre to the edge, standard deviation
_INDEPENDENT = 200  # effective number of independent patches: errors of neighbouring patches are correlated


def _curved(level: NDArray[np.float32]) -> NDArray[np.float32]:
    """The curved term of a response, g ln(g); the others are an offset and a factor.

    Three terms only, so that few patches determine them: g^(1 + e) = g + e g ln(g) + O(e^2).
    """
    curved: NDArray[np.float32] = level * np.log(np.maximum(level, _DARK))
    return curved


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
    """Fits the response and the drift of the light robustly to patches of blocks.

    In a patch, a change above the limit of detection stands out of the noise and loses its weight. In a single block it does
    not: a faint shadow over a twelfth of the frame bent the surface by a quarter of its own depth. Each patch counts twice:
    its even blocks, and its blocks with edges, so that the response is measured also where only stars are bright.

    Args:
        moments: of the frame.
        noise: variance of the difference.
    """
    planes, terms = len(moments.g), len(_PRIOR)
    trust = _trust(moments, noise)
    even, edged = (Patches.of(moments.n, share) for share in (trust, 1 - trust))
    parts = [_samples(patches, moments, noise) for patches in (even, edged)]
    design, target, scale = (np.concatenate(each) for each in zip(*parts, strict=True))
    prior = np.concatenate([np.tile(_PRIOR, planes), np.full(_DRIFT, _EXPECTED_DRIFT)])
    prior *= min(1.0, (_INDEPENDENT / max(len(even.cells), 1)) ** 0.5)
    result = robust_fit(design, target, scale, prior).astype(np.float32)
    return Smooth(response=result[: terms * planes].reshape(planes, terms), drift=result[terms * planes :])


def _samples(
    patches: Patches, moments: Moments, noise: NoiseModel
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What patches say of response and drift: (N, K) design, (N,) mean differences, (N,) their standard deviations.

    Args:
        patches: of the frame.
        moments: of the frame.
        noise: variance of the difference.
    """
    planes, terms, count = len(moments.g), len(_PRIOR), len(patches.cells)
    design = np.zeros((planes, count, terms * planes + _DRIFT))
    target, variance, most = np.empty((3, planes, count))
    alike = np.maximum(np.sqrt(patches.cells / BLOCK**2), 1)  # edges are partly of one sign
    for plane in range(planes):
        level = patches.means(moments.g[plane])
        curve = patches.means(_curved(moments.g[plane]))
        design[plane, :, terms * plane : terms * plane + terms] = np.stack(
            [np.ones_like(level), level, curve], axis=1
        )
        design[plane, :, terms * planes :] = level[:, None] * patches.surface
        target[plane] = patches.means(moments.d[plane])
        own = noise.slope[plane] * np.maximum(level, 0) + noise.floor[plane]
        edges = _EDGE * patches.means(moments.gradient[plane]) / alike
        most[plane] = _LARGEST_FACTOR * np.abs(level) + _LARGEST_OFFSET
        variance[plane] = own / patches.cells + (0.25 * FLOOR * level) ** 2 + edges + 1e-10
    scale = np.sqrt(variance)
    kept = np.tile(_plausible(patches, np.abs(target) > most + 5 * scale), planes)
    return design.reshape(-1, design.shape[2])[kept], target.ravel()[kept], scale.ravel()[kept]


def _trust(moments: Moments, noise: NoiseModel) -> NDArray[np.float32]:
    """(hb, wb) float32 share of noise in a block's error: between stars, the dark sky counts for the patch."""
    ratio = np.zeros_like(moments.n)
    for plane, gradient in enumerate(moments.gradient):
        level = np.maximum(moments.g[plane], 0)
        ratio += gradient / (noise.slope[plane] * level + noise.floor[plane])
    ratio *= moments.n * np.float32(_EDGE / len(moments.g))
    ratio += 1
    return np.reciprocal(ratio, out=ratio)


def _plausible(patches: Patches, changed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,) bool: patches that response and drift may explain, and that no other one is beside.

    A bright object that moved in a dark scene would determine the response, and so would the patches that it covers in part:
    what they show lies on one line through its levels.

    Args:
        patches: N of them.
        changed: (P, N) bool: more than a response or a drift explains.
    """
    seen = np.zeros(patches.there.shape, np.uint8)
    seen[patches.there] = changed.any(axis=0)
    kept: NDArray[np.bool_] = cv2.dilate(seen, np.ones((3, 3), np.uint8))[patches.there] == 0
    return kept if 2 * np.count_nonzero(kept) > len(kept) else np.ones_like(kept)


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
        (P, hb, wb) variance in levels squared that the lines' slow part may have left in a block.
    """
    left = np.zeros_like(residual)
    # where interpolation and light dominate the noise, lines of the scene would be taken for line noise
    some = np.s_[..., ::4, ::4]
    noisy = np.median(variance[some] / np.maximum(n[some], 1) / sigma[some] ** 2, axis=(1, 2))
    even = np.where(_objects(residual, sigma, n), np.float32(0), n)
    for axis in (2, 1):
        if residual.shape[3 - axis] < _LINES:
            continue
        step, second = _locations(residual, sigma, even, axis)
        usual = np.median(second, axis=1, keepdims=True)
        measured = (second > _FEW * usual) & ~_far_lines(step)
        error = np.median(even.mean(axis - 1) / np.maximum(second, 1e-12), axis=1)
        # a jump has two lines' variance
        observed = np.median(np.diff(step, axis=1) ** 2, axis=1) / _MEDIAN_SQUARE / 2
        lines_own = np.maximum(observed - error, 0)
        share = (noisy * lines_own / np.maximum(observed, 1e-20)).astype(np.float32)[:, None]
        around = cv2.blur(measured.astype(np.float32), (_LINES, 1), borderType=cv2.BORDER_REFLECT)
        slow = cv2.blur(np.where(measured, step, 0), (_LINES, 1), borderType=cv2.BORDER_REFLECT)
        fast = np.where(measured, step - slow / np.maximum(around, 1 / _LINES), 0)
        residual -= np.expand_dims(share * fast, axis)
        left += np.expand_dims(lines_own[:, None] * _slow_variance(step.shape[1]), axis).astype(np.float32)
    return left


def _slow_variance(lines: int) -> NDArray[np.float32]:
    """(lines,) variance of the mean of a line and those around it, of 1 each: at the border half of them count twice."""
    beyond = np.maximum(_LINES // 2 - np.arange(lines), 0)
    twice = beyond + beyond[::-1]
    return ((_LINES + 2 * twice) / _LINES**2).astype(np.float32)


def _locations(
    residual: NDArray[np.float32], sigma: NDArray[np.float32], n: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(P, lines) robust location of each line, and its weight."""
    every = max(1, residual.shape[axis] // _SAMPLED)
    some_blocks = np.s_[:, :, ::every] if axis == 2 else np.s_[:, ::every]
    middle = _weighted_median(residual[some_blocks], (n / sigma)[some_blocks], axis)
    first, second = np.zeros((2, len(residual), residual.shape[3 - axis]), np.float32)
    _huber_step(residual, sigma, n, middle, axis == 2, first, second)
    step = (first / np.maximum(second, 1e-12)).astype(np.float32)
    step += middle
    return step, second


def _objects(
    residual: NDArray[np.float32], sigma: NDArray[np.float32], n: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """(hb, wb) bool: blocks near which residuals stand out of their lines, and would shift the lines' locations.

    Args:
        residual: (P, hb, wb) mean differences in levels.
        sigma: (P, hb, wb) standard deviation of an unchanged block.
        n: (hb, wb) usable cells.
    """
    rest, box = residual.copy(), (_OBJECT, _OBJECT)
    for axis in (2, 1):
        step, _ = _locations(rest, sigma, n, axis)
        rest -= np.expand_dims(np.where(_far_lines(step), np.median(step, axis=1, keepdims=True), step), axis)
    there = n > 0
    count = cv2.boxFilter(there.astype(np.float32), -1, box, normalize=False)
    stands_out = np.zeros(n.shape, np.bool_)
    for plane, unit in zip(rest, sigma, strict=True):
        total = cv2.boxFilter(np.where(there, plane / unit, 0), -1, box, normalize=False)
        stands_out |= total**2 > _OBJECT_LIMIT**2 * count
    out: NDArray[np.bool_] = cv2.dilate(stands_out.view(np.uint8), np.ones(box, np.uint8)).view(np.bool_)
    return out


def _far_lines(step: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """(P, lines) bool: lines that an object determines, as one that crosses most of what is dark in them; no noise reaches so far.

    Args:
        step: (P, lines) location of each line.
    """
    far = np.abs(step - np.median(step, axis=1, keepdims=True))
    out: NDArray[np.bool_] = far > _FAR * np.median(far, axis=1, keepdims=True) / _MEDIAN_SQUARE**0.5
    return out


def _weighted_median(
    values: NDArray[np.float32], weights: NDArray[np.float32], axis: int
) -> NDArray[np.float32]:
    """Medians along an axis: where the weights below and above are equal."""
    order = np.argsort(values, axis=axis)
    total = np.cumsum(np.take_along_axis(weights, order, axis), axis=axis)
    half = np.take(total, [-1], axis) / 2
    at = np.expand_dims(np.argmax(total >= half, axis=axis), axis)
    middle: NDArray[np.float32] = np.take_along_axis(values, np.take_along_axis(order, at, axis), axis)
    return middle.squeeze(axis)


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
    limit, far = np.float32(1.5), np.float32(_FAR)
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
                if abs(z) > far:
                    weight = np.float32(0)
                a[x] += weight * z
                b[x] += weight * one
            if rows:
                for x in range(width):
                    first[p, y] += a[x]
                    second[p, y] += b[x]
