"""A similarity transform, with or without a smooth surface on top of it, and its fit to local shifts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.alignment.local_field import Field
from rawnind.imaging.alignment.lucas_kanade import LocalShifts, weighted_median

Float64s = NDArray[np.float64]

MIN_PATCHES_FOR_SIMILARITY = 6  # with fewer, only the displacement is fitted
PRIOR = (0.01, 0.01)  # rotation in radians and scale minus one: expected size, standard deviation
IRLS_ITERATIONS = 20  # of the iteratively reweighted least squares


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Model:
    """A fitted similarity transform, and the smooth surface on top of it.

    Attributes:
        values: (4,) float64: dy, dx in sites, rotation in radians, scale minus one.
        errors: (4,) float64 standard errors of `values`; infinite where not fitted.
        field: None where no surface was fitted.
    """

    values: Float64s
    errors: Float64s
    field: Field | None = None

    def at(self, positions: Float64s) -> Float64s:
        """(n, 2) displacements at (n, 2) positions in sites from the middle of the noisy photo."""
        similarity: Float64s = _design(positions) @ self.values
        return similarity if self.field is None else similarity + self.field(positions)


def _design(at: Float64s) -> Float64s:
    """Derivatives of the local shift at positions from the middle of the photo.

        GT minus noisy = (dy, dx) + rotation * (x, -y) - scale * (y, x)

    with y downwards: content that is rotated counter-clockwise and enlarged in the noisy photo lies clockwise and closer
    to the middle in the GT.

    Args:
        at: (N, 2) float64 (y, x) in sites from the middle.

    Returns:
        (N, 2, 4) float64: by dy, dx, rotation and scale.
    """
    design = np.zeros((len(at), 2, 4))
    design[:, 0, 0] = design[:, 1, 1] = 1
    design[:, 0, 2], design[:, 1, 2] = at[:, 1], -at[:, 0]
    design[:, :, 3] = -at
    return design


def fit_similarity(local: LocalShifts) -> Model | None:
    """Fits a similarity transform by iteratively reweighted least squares; None without patches.

    Cauchy's weights 1 / (1 + distance / 4), with the squared Mahalanobis distance: a patch two standard deviations off
    has half the weight, so that patches on moved objects have little influence.
    """
    if not len(local.at):
        return None
    free = 4 if len(local.at) >= MIN_PATCHES_FOR_SIMILARITY else 2
    design = _design(local.at)[:, :, :free]
    information = np.linalg.inv(local.covariance)
    trust = np.sqrt(np.linalg.det(information))
    prior = np.diag([0, 0, PRIOR[0] ** -2, PRIOR[1] ** -2][:free])
    values = np.zeros(free)
    values[:2] = [weighted_median(local.shift[:, axis], trust) for axis in (0, 1)]
    for _ in range(IRLS_ITERATIONS):
        rest = local.shift - design @ values
        distance = np.einsum("ni,nij,nj->n", rest, information, rest)
        weights = 1 / (1 + distance / 4)
        weighted = design.transpose(0, 2, 1) @ (weights[:, None, None] * information)
        normal = (weighted @ design).sum(axis=0) + prior
        values = np.linalg.solve(normal, (weighted @ local.shift[:, :, None]).sum(axis=0)[:, 0])
    excess = max(1.0, float((weights * distance).sum() / (2 * weights.sum())))
    missing = 4 - free
    return Model(
        values=np.concatenate([values, np.zeros(missing)]),
        errors=np.concatenate([np.sqrt(excess * np.diag(np.linalg.inv(normal))), np.full(missing, np.inf)]),
    )
