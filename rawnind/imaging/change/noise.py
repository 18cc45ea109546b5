"""What the noise of a pair explains, measured on the pair itself: variance by level, and what else differs smoothly."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.moments import Moments

_SAMPLES = 8000  # blocks; medians of some 200 each
_LEVELS = 10  # groups by level in which the variance is measured, twice
_SMALLEST_GROUP = 24  # blocks
_SMALLEST_VARIANCE = (
    1e-9  # a tenth of what rounding to 14 bits leaves: (1 / 16384)^2 / 12 is 3e-10 for each photo
)
_MEDIAN_OF_VARIANCE = 0.956  # median of a variance of 16 samples over its mean: 1 - 2 / (9 * 15), cubed


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class NoiseModel:
    """Variance of the gain-matched difference of one plane sample: slope * level + floor.

    Attributes:
        slope: (P,) levels, not negative.
        floor: (P,) levels squared, above zero.
    """

    slope: NDArray[np.float32]
    floor: NDArray[np.float32]

    def variance(self, level: NDArray[np.float32]) -> NDArray[np.float32]:
        """(P, ...) variance at each level; below zero as at zero."""
        axes = (slice(None),) + (None,) * (level.ndim - 1)
        return self.slope[axes] * np.maximum(level, 0) + self.floor[axes]


def sample_blocks(weight: NDArray[np.bool_], count: int) -> NDArray[np.intp]:
    """Flat indices of at most about `count` blocks where `weight` holds, spread evenly over the frame."""
    indices = np.flatnonzero(weight)
    return indices[:: max(1, len(indices) // count)]


def fit_noise(moments: Moments) -> NoiseModel:
    """The noise model of the blocks that the scene leaves alone: the smoother half of each group of like levels.

    Medians of block variances, so that moved objects and hot pixels do not count; then a line through the medians.
    """
    chosen = sample_blocks(moments.n >= 12, _SAMPLES)
    cells, lines = moments.n.ravel()[chosen], []
    for plane in range(len(moments.g)):
        level, dd, gradient = (
            map_[plane].ravel()[chosen] for map_ in (moments.g, moments.dd, moments.gradient)
        )
        lines.append(_line(*_variance_by_level(level, dd, gradient, cells)))
    return NoiseModel(
        slope=np.array([slope for slope, _ in lines], np.float32),
        floor=np.array([floor for _, floor in lines], np.float32),
    )


def _variance_by_level(
    level: NDArray[np.float32], dd: NDArray[np.float32], gradient: NDArray[np.float32], n: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median level and variance of the smoother half of groups of like levels.

    Half of the groups are equally large, half equally wide in the root of the level: where nearly all of a photo lies at one
    level, the few dark and bright blocks still say how the noise goes on there.
    """
    order = np.argsort(level, kind="stable")
    root = np.sqrt(np.maximum(level[order], 0))
    edges = np.linspace(root[0], root[-1], _LEVELS + 1)[1:-1] if len(root) else np.empty(0)
    groups = np.array_split(order, _LEVELS) + np.split(order, np.searchsorted(root, edges))
    levels, variances = [], []
    for group in groups:
        if len(group) < _SMALLEST_GROUP:
            continue
        smooth = group[gradient[group] <= np.median(gradient[group])]
        levels.append(np.median(level[smooth]))
        variances.append(np.median(dd[smooth] / (n[smooth] - 1)) / _MEDIAN_OF_VARIANCE)
    return np.array(levels, np.float64), np.array(variances, np.float64)


def _line(levels: NDArray[np.float64], variances: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and floor, neither negative, by relative errors; texture only adds, so points far above count less."""
    if not len(levels):
        return 0.0, _SMALLEST_VARIANCE
    design = np.stack([np.maximum(levels, 0), np.ones_like(levels)], axis=1)
    variances = np.maximum(variances, _SMALLEST_VARIANCE)
    weights = 1 / variances
    slope, floor = 0.0, float(np.median(variances))
    for _ in range(5):
        slope, floor = np.linalg.lstsq(design * weights[:, None], variances * weights, rcond=None)[0]
        if slope < 0:
            slope, floor = 0.0, np.average(variances, weights=weights**2)
        elif floor < 0:
            slope, floor = (
                np.average(variances / np.maximum(levels, 1e-6), weights=weights**2 * design[:, 0] ** 2),
                0.0,
            )
        fitted = np.maximum(design @ [slope, floor], _SMALLEST_VARIANCE)
        weights = 1 / fitted / np.maximum(1, np.abs(variances / fitted - 1) / 0.2)
    return float(slope), max(float(floor), _SMALLEST_VARIANCE)


def robust_fit(
    design: NDArray[np.float64],
    target: NDArray[np.float64],
    scale: NDArray[np.float64],
    prior: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Coefficients that explain most of the rows, whatever the others say: iterated least squares, Huber then Tukey.

    Args:
        design: (N, K).
        target: (N,).
        scale: (N,) expected deviation of each row.
        prior: (K,) expected size of each coefficient; what the rows do not decide stays near zero.
    """
    if not len(target):
        return np.zeros(design.shape[1])
    design, target = design / scale[:, None], target / scale
    # from zero: what moved must not draw the first fit where few other rows would hold it
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
