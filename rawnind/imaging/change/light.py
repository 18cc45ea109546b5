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
        offset_freedom: (3,) float64 degrees of freedom of `offset_error`.
        mean: (3,) float64 mean level of the ground truth.
        drift: largest relative deviation of the light from its mean over the frame.
        drift_error: of `drift`.
        drift_freedom: degrees of freedom of `drift_error`.
    """

    offset: NDArray[np.float64]
    offset_error: NDArray[np.float64]
    offset_freedom: NDArray[np.float64]
    mean: NDArray[np.float64]
    drift: float
    drift_error: float
    drift_freedom: float


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
    centred = surface - surface.mean(axis=0)
    drift = np.abs(centred @ found[-_TERMS:])
    wanted = np.zeros((4, design.shape[1]))
    wanted[range(3), range(0, 6, 2)] = 1
    wanted[3, -_TERMS:] = centred[int(np.argmax(drift))]
    error, freedom = _errors(
        design[kept] / scale[kept, None], residual[kept], [line[kept] for line in lines], wanted
    )
    return Light(
        offset=found[:6:2],
        offset_error=error[:3],
        offset_freedom=freedom[:3],
        mean=mean,
        drift=float(drift.max()),
        drift_error=float(error[3]),
        drift_freedom=float(freedom[3]),
    )


def _errors(
    design: NDArray[np.float64],
    residual: NDArray[np.float64],
    lines: list[NDArray[np.int64]],
    wanted: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard errors of combinations of the coefficients, the largest of three, and their degrees of freedom.

    Of independent patches; and with one row, or one column of patches left out at a time (jackknife), because noise of rows and
    columns is common to their patches and colours. Few lines decide where the others have one level: the error is then itself
    uncertain, with as many degrees of freedom as lines that count (Satterthwaite 1946).

    Args:
        design: (N, K) over the expected standard deviations.
        residual: (N,) over the same.
        lines: (N,) the row, and (N,) the column of patches of each.
        wanted: (J, K).

    Returns:
        (J,) standard errors, (J,) degrees of freedom.
    """
    information = design.T @ design
    held = information + np.eye(len(information)) / _WIDE**2
    spread: NDArray[Any] = wanted @ np.linalg.inv(held)
    whole = float(len(residual) - design.shape[1])
    variances = [np.einsum("jk,kl,jl->j", spread, information, spread) * np.mean(residual**2)]
    freedoms = [np.full(len(wanted), max(whole, 1.0))]
    for line in lines:
        moved, shares = [], []
        for mine in (line == number for number in np.unique(line)):
            part = design[mine]
            own = part.T @ part
            moved.append(wanted @ np.linalg.solve(held - own, part.T @ residual[mine]))
            shares.append(np.einsum("jk,kl,jl->j", spread, own, spread))
        count, share = len(moved), np.array(shares)
        variances.append((count - 1) / count * ((moved - np.mean(moved, axis=0)) ** 2).sum(axis=0))
        freedoms.append(np.maximum(share.sum(axis=0) ** 2 / (share**2).sum(axis=0) - 1, 1.0))
    largest = np.argmax(variances, axis=0), np.arange(len(wanted))
    return np.sqrt(np.array(variances)[largest]), np.array(freedoms)[largest]
