"""What differs between unchanged frames: noise whose variance depends on the level, and systematic errors; robust regression.

The noise model and the systematic errors are estimated on the pair itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.moments import Moments

Whole = Callable[[int, NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]

FLOOR = 0.02
"""Relative systematic error of unchanged content: response and light that the smooth model misses.

Without this floor and that of the gradient, 35 % of the unchanged area is masked in drawn pairs.
"""

_SAMPLES = 8000  # blocks, so that each median has several hundred
_LEVELS = 20  # groups that equally many blocks would be split into
_SMALLEST_GROUP = 24  # blocks
_BLACK = np.float32(1e-5)  # levels up to this are one group
_WIDTH = 1.5  # largest ratio of levels in a group with enough blocks
_ERROR_OF_MEDIAN = (
    0.46  # relative: 1.25 sqrt(2 / 15), of the median of chi-squares with 15 degrees of freedom
)
_MODEL_ERROR = 0.05  # relative deviation of a sensor from the line
_SMALLEST_VARIANCE = 1e-9  # about that of rounding to 14 bits: (1 / 16384)^2 / 12 = 3e-10 for each photo
_DOMINANT = 2.0  # times the systematic error: noise that can be measured between blocks
_FEWEST = 200  # steps from block to block
_MOST_CORRELATED = 6.0  # largest ratio of variances
_MEDIAN_SQUARE = 0.455  # median of a chi-square with 1 degree of freedom
# median over mean of a chi-square with 15 degrees of freedom, (1 - 2 / (9 * 15))^3 (Wilson and Hilferty 1931)
_MEDIAN_OF_VARIANCE = 0.956


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class NoiseModel:
    """Variance of the gain-matched difference of one plane sample: slope * level + floor (shot noise and read noise).

    Attributes:
        slope: (P,) float32 in levels, not negative.
        floor: (P,) float32 in levels squared, above zero.
    """

    slope: NDArray[np.float32]
    floor: NDArray[np.float32]

    def variance(self, level: NDArray[np.float32]) -> NDArray[np.float32]:
        """(P, ...) variance in levels squared at (P, ...) levels; constant below level 0."""
        axes = (slice(None),) + (None,) * (level.ndim - 1)
        return self.slope[axes] * np.maximum(level, 0) + self.floor[axes]

    def mean_absolute(self, moments: Moments) -> float:
        """Mean absolute noise over the usable cells of a frame and over planes, in levels; 0 where no cell is usable.

        A normal deviate has the mean absolute value sqrt(2 / pi) times its standard deviation.
        """
        chosen = sample_blocks(moments.n > 0, _SAMPLES)
        cells = moments.n.ravel()[chosen]
        deviation = np.sqrt(self.variance(moments.g.reshape(len(moments.g), -1)[:, chosen]))
        total = float(cells.sum()) * len(moments.g)
        return float(np.sqrt(2 / np.pi) * (deviation * cells).sum() / total) if total else 0.0


def sample_blocks(weight: NDArray[np.bool_], count: int) -> NDArray[np.intp]:
    """Flat indices of at most about `count` blocks, spread evenly over the frame.

    Args:
        weight: (hb, wb) bool: blocks to choose from.
        count: how many.
    """
    indices = np.flatnonzero(weight)
    return indices[:: max(1, len(indices) // count)]


def fit_noise(moments: Moments, whole: Whole | None = None) -> NoiseModel:
    """Fits the noise model to the smoother half of the blocks at each level.

    Medians of block variances, which moved objects and hot pixels do not shift; then a robust line through the medians.

    Args:
        moments: of the frame.
        whole: (plane, levels, variances) -> variances, where noise is cut off: what they would be without.
    """
    chosen = sample_blocks(moments.n >= 12, _SAMPLES)
    cells, lines = moments.n.ravel()[chosen], []
    for plane in range(len(moments.g)):
        level, dd, gradient = (
            map_[plane].ravel()[chosen] for map_ in (moments.g, moments.dd, moments.gradient)
        )
        levels, variances, errors = _variance_by_level(level, dd, gradient, cells)
        if whole is not None and len(levels):
            variances = whole(plane, levels, variances)
        lines.append(variance_line(levels, variances, errors))
    return NoiseModel(
        slope=np.array([slope for slope, _ in lines], np.float32),
        floor=np.array([floor for _, floor in lines], np.float32),
    )


def _variance_by_level(
    level: NDArray[np.float32], dd: NDArray[np.float32], gradient: NDArray[np.float32], n: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Median level and variance of the smoother half of blocks of similar level.

    Args:
        level: (N,) mean level of each block.
        dd: (N,) sum of squared deviations of the difference.
        gradient: (N,) mean squared gradient.
        n: (N,) usable cells.

    Returns:
        (G,) levels, (G,) variances of one cell, and (G,) relative standard errors of the variances.
    """
    levels, variances, errors = [], [], []
    for group in level_groups(level):
        smooth = group[gradient[group] <= np.median(gradient[group])]
        levels.append(np.median(level[smooth]))
        variances.append(np.median(dd[smooth] / (n[smooth] - 1)) / _MEDIAN_OF_VARIANCE)
        errors.append(np.hypot(_ERROR_OF_MEDIAN / np.sqrt(len(smooth)), _MODEL_ERROR))
    return np.array(levels, np.float64), np.array(variances, np.float64), np.array(errors, np.float64)


def level_groups(level: NDArray[np.float32]) -> list[NDArray[np.intp]]:
    """Indices of blocks of similar level, at least `_SMALLEST_GROUP` each.

    A group must not mix black with what is a little brighter: its median level and its median variance would then be of
    different blocks, and the floor would come out far too low. So groups begin where the level has grown by `_WIDTH`, and
    narrow ones with few blocks are joined; groups with many blocks are split into equal parts.
    """
    order = np.argsort(level, kind="stable")
    steps = np.floor(np.log(np.maximum(level[order], _BLACK) / _BLACK) / np.log(_WIDTH))
    starts = np.flatnonzero(np.diff(steps, prepend=-1))
    groups: list[NDArray[np.intp]] = []
    waiting = 0
    for end in [*starts[1:], len(order)]:
        if end - waiting >= _SMALLEST_GROUP:
            parts = max(1, int((end - waiting) * _LEVELS / len(order)))
            groups += np.array_split(order[waiting:end], parts)
            waiting = end
    if waiting < len(order) and len(order) - waiting >= _SMALLEST_GROUP // 2:
        groups.append(order[waiting:])
    return groups


def variance_line(
    levels: NDArray[np.float64], variances: NDArray[np.float64], errors: NDArray[np.float64]
) -> tuple[float, float]:
    """Slope and floor of a line through variances, neither negative.

    Least squares of relative errors over their standard errors, with weights 1 / max(1, |deviation| / 2): texture only adds
    variance, so points far above the line count less.

    Args:
        levels: (G,).
        variances: (G,).
        errors: (G,) relative standard errors of the variances.
    """
    if not len(levels):
        return 0.0, _SMALLEST_VARIANCE
    design = np.stack([np.maximum(levels, 0), np.ones_like(levels)], axis=1)
    variances = np.maximum(variances, _SMALLEST_VARIANCE)
    weights = 1 / variances / errors
    slope, floor = 0.0, float(np.median(variances))
    for _ in range(8):
        slope, floor = np.linalg.lstsq(design * weights[:, None], variances * weights, rcond=None)[0]
        if slope < 0:
            slope, floor = 0.0, np.average(variances, weights=weights**2)
        elif floor < 0:
            slope, floor = (
                np.average(variances / np.maximum(levels, 1e-6), weights=weights**2 * design[:, 0] ** 2),
                0.0,
            )
        fitted = np.maximum(design @ [slope, floor], _SMALLEST_VARIANCE)
        weights = 1 / fitted / errors / np.maximum(1, np.abs(variances / fitted - 1) / errors / 2)
    return float(slope), max(float(floor), _SMALLEST_VARIANCE)


def block_noise(
    n: NDArray[np.float32],
    residual: NDArray[np.float32],
    variance: NDArray[np.float32],
    g: NDArray[np.float32],
    error: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Variance of block means over that of as many independent cells, where noise dominates.

    Demosaicing and resampling spread the ground truth's noise over neighbours and colours: it varies less within a block and as
    much between blocks. Measured on steps from a block to the next one, of each plane and of their sum.

    Args:
        n: (hb, wb) usable cells.
        residual: (P, hb, wb) mean differences in levels.
        variance: (P, hb, wb) noise variance of a cell about its block.
        g: (P, hb, wb) levels.
        error: (P, hb, wb) squared error of a block's mean along edges.

    Returns:
        (P,) float32 factors, 1 where the noise is independent.
    """
    planes, _, width = residual.shape
    step = max(1, n.size // _SAMPLES)
    first = np.arange(0, n.size - width - 1, step)
    first = first[(first + 1) % width > 0]
    cells = n.ravel()
    mean, own, level, edges = (map_.reshape(planes, -1) for map_ in (residual, variance, g, error))
    steps = []
    for second in (first + 1, first + width):
        there = (cells[first] >= 12) & (cells[second] >= 12)
        a, b = first[there], second[there]
        noise = own[:, a] / cells[a] + own[:, b] / cells[b]
        still = edges[:, a] + edges[:, b] + FLOOR**2 * (level[:, a] ** 2 + level[:, b] ** 2)
        noisy = (noise > _DOMINANT * still).all(axis=0)
        steps.append(((mean[:, a] - mean[:, b]) / np.sqrt(noise))[:, noisy])
    unit = np.concatenate(steps, axis=1)
    if unit.shape[1] < _FEWEST:
        return np.ones(planes, np.float32)
    factors = np.median(unit**2, axis=1) / _MEDIAN_SQUARE
    factors = np.clip(factors, 1, _MOST_CORRELATED)
    total = (unit / np.sqrt(factors)[:, None]).sum(axis=0)
    together = float(np.median(total**2)) / _MEDIAN_SQUARE / planes
    out: NDArray[np.float32] = np.clip(factors * max(together, 1.0), 1, _MOST_CORRELATED).astype(np.float32)
    return out


def robust_fit(
    design: NDArray[np.float64],
    target: NDArray[np.float64],
    scale: NDArray[np.float64],
    prior: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Robust regression with a Gaussian prior: iteratively reweighted least squares, Huber's weights first, then Tukey's.

    Args:
        design: (N, K).
        target: (N,).
        scale: (N,) expected standard deviation of each row.
        prior: (K,) standard deviation of each coefficient about 0; coefficients that the rows do not determine stay near 0.

    Returns:
        (K,) coefficients.
    """
    if not len(target):
        return np.zeros(design.shape[1])
    design, target = design / scale[:, None], target / scale
    # start from zero: least squares would follow the moved objects where few other rows constrain it
    error = np.abs(target)
    weights = 1 / np.maximum(1, error / (1.345 * max(1.0, 1.4826 * float(np.median(error)))))
    result: NDArray[Any] = np.zeros(design.shape[1])
    for turn in range(6):
        weighted = design * weights[:, None]
        result = np.linalg.solve(weighted.T @ design + np.diag(1 / prior**2), weighted.T @ target)
        error = np.abs(target - design @ result)
        unit = max(1.0, 1.4826 * float(np.median(error)))  # 1.4826: median absolute deviation to sigma
        # 1.345 and 4.685: 95 % efficiency on Gaussian errors (Huber, Tukey)
        weights = (
            1 / np.maximum(1, error / (1.345 * unit)) if turn < 3
            else np.clip(1 - (error / (4.685 * unit)) ** 2, 0, None) ** 2
        )  # fmt: skip
    return result
