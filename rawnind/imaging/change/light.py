"""Light that drifted across the frame, and black levels that disagree.

The test for changes takes both out of the difference; the stored pair still has them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.moments import Moments
from rawnind.imaging.change.noise import NoiseModel, robust_fit
from rawnind.imaging.change.patches import Patches

_FEWEST = 24  # patches
_SYSTEMATIC = (
    0.01  # share of the level by which still patches differ for other reasons: edges, texture, response
)
_TERMS = 5  # of a second-order surface without its constant
_WIDE = 10.0  # prior that leaves the coefficients free


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Light:
    """How the noisy photo's levels depend on the ground truth's beyond one gain, and standard errors.

    Attributes:
        offset: (3,) float64 of red, green and blue: level of the gain-matched noisy photo where the ground truth has 0. A
            black level that is off gives one, and so does another response: its tangent misses 0.
        offset_error: (3,) float64.
        mean: (3,) float64 mean level of the ground truth.
        drift: largest relative deviation of the light from its mean over the frame.
        drift_error: of `drift`.
    """

    offset: NDArray[np.float64]
    offset_error: NDArray[np.float64]
    mean: NDArray[np.float64]
    drift: float
    drift_error: float


def measure_light(moments: Moments, noise: NoiseModel, changed: NDArray[np.bool_]) -> Light | None:
    """Fits offset, factor and drift to patches of the unchanged blocks; None where there are fewer than 24 patches.

    For each colour, with N the gain-matched noisy photo and y, x from -1 to 1:

        N - g = offset + factor g + g (s1 y + s2 x + s3 y^2 + s4 y x + s5 x^2)

    The ground truth is the regressor because it has less noise: noise in a regressor lowers slopes and adds offsets.

    Args:
        moments: of the pair.
        noise: variance of the difference.
        changed: (hb, wb) bool: blocks that show a change.
    """
    colors = [np.s_[:1], np.s_[1:-1], np.s_[-1:]]
    patches = Patches.of(moments.n * ~changed)
    cells, surface = patches.cells, patches.surface
    if len(cells) < _FEWEST:
        return None
    rows, targets, scales, means = [], [], [], []
    for number, planes in enumerate(colors):
        g, d = (
            np.mean([patches.means(map_) for map_ in maps[planes]], axis=0) for maps in (moments.g, moments.d)
        )
        design = np.zeros((len(g), 2 * len(colors) + _TERMS))
        design[:, 2 * number], design[:, 2 * number + 1] = 1, g
        design[:, -_TERMS:] = g[:, None] * surface
        slope, floor = (float(values[planes].mean()) for values in (noise.slope, noise.floor))
        variance = (slope * np.maximum(g, 0) + floor) / cells / len(noise.slope[planes])
        rows.append(design)
        targets.append(-d)
        scales.append(np.sqrt(variance + (_SYSTEMATIC * g) ** 2 + 1e-12))
        means.append(float(np.average(g, weights=cells)))
    lines = [np.tile(position, len(colors)) for position in np.nonzero(patches.there)]
    return _solve(
        np.concatenate(rows),
        np.concatenate(targets),
        np.concatenate(scales),
        surface,
        np.array(means),
        lines,
    )


def _solve(  # noqa: PLR0917
    design: NDArray[np.float64],
    target: NDArray[np.float64],
    scale: NDArray[np.float64],
    surface: NDArray[np.float64],
    mean: NDArray[np.float64],
    lines: list[NDArray[np.int64]],
) -> Light:
    """The robust fit and its standard errors.

    Args:
        design: (N, 11) offset and factor of each colour, then the surface.
        target: (N,) gain-matched noisy level minus the ground truth's.
        scale: (N,) expected standard deviations.
        surface: (n, 5) terms of the drift at the patches.
        mean: (3,) mean level of each colour.
        lines: (N,) the row, and (N,) the column of patches that each row of the design is from.
    """
    found = robust_fit(design, target, scale, np.full(design.shape[1], _WIDE))
    residual = (target - design @ found) / scale
    unit = 1.4826 * float(np.median(np.abs(residual)))  # median absolute deviation to sigma
    kept = np.abs(residual) < 4.685 * max(unit, 1.0)  # where Tukey's weights end
    weighted = design[kept] / scale[kept, None]
    inverse = np.linalg.pinv(weighted.T @ weighted)
    covariances: list[NDArray[Any]] = [inverse * float(np.mean(residual[kept] ** 2))]
    for line in lines:
        # noise of rows and columns is common to their patches and planes: a sum of squares over lines (Liang, Zeger 1986)
        scores = np.zeros((line.max() + 1, design.shape[1]))
        np.add.at(scores, line[kept], weighted * residual[kept, None])
        covariances.append(inverse @ scores.T @ scores @ inverse)
    centred = surface - surface.mean(axis=0)
    drift = np.abs(centred @ found[-_TERMS:])
    worst = centred[int(np.argmax(drift))]
    return Light(
        offset=found[:6:2],
        offset_error=np.sqrt(np.max([np.diag(each)[:6:2] for each in covariances], axis=0)),
        mean=mean,
        drift=float(drift.max()),
        drift_error=float(np.sqrt(max(worst @ each[-_TERMS:, -_TERMS:] @ worst for each in covariances))),
    )
