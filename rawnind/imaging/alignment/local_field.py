"""The smooth part of local shifts that a similarity transform does not explain: parallax, lens breathing, rolling shutter.

A surface of uniform cubic B-splines per axis, fitted by penalised, iteratively reweighted least squares. It is used only
where it explains the shifts much better than the similarity alone, so that the errors of patches do not bend still pairs.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.alignment.lucas_kanade import LocalShifts

Float64s = NDArray[np.float64]
Field = Callable[[Float64s], Float64s]
"""(n, 2) positions in sites from the middle of the noisy photo to (n, 2) displacements in sites."""

MIN_PATCHES = 24  # with fewer, a surface is hardly determined
PATCHES_PER_KNOT = 2.0  # along each axis
BENDING = 0.7  # sites: expected second difference between the coefficients of neighbouring knots, standard deviation
EXTENT = 3.0  # sites: expected size of the coefficients, standard deviation
WORTHWHILE = 3.0  # typical squared residual, in variances of a patch, above which a surface is fitted at all
VISIBLE = 0.1  # sites: and the typical residual
MOST_KNOTS = 7  # along each axis
MAY_LEAVE = 0.4  # and the share of it that the surface may leave at patches that it was not fitted to
ITERATIONS = 6


def squared_distance(shift: Float64s, covariance: Float64s) -> Float64s:
    """(n,) squared Mahalanobis distances of (n, 2) shifts with (n, 2, 2) covariances from 0."""
    distances: Float64s = np.einsum("ni,nij,nj->n", shift, np.linalg.inv(covariance), shift)
    return distances


def fit_field(local: LocalShifts, rest: Float64s, shape: tuple[int, int]) -> Field | None:
    """Fits a smooth surface to what is left of local shifts.

    Args:
        local: the patches.
        rest: (n, 2) their shifts less those of the similarity, in sites.
        shape: (H, W) of the photo in sites.

    Returns:
        None where there are too few patches, or where the surface does not pay.
    """
    if len(local.at) < MIN_PATCHES:
        return None
    before = _typical(squared_distance(rest, local.covariance))
    if before < WORTHWHILE or np.median(np.hypot(*rest.T)) < VISIBLE:
        return None
    knots = _Knots.spread(local.at, shape)
    basis, information = knots.basis(local.at), np.linalg.inv(local.covariance).astype(np.float64)
    penalty = knots.penalty()
    predicted = np.empty_like(rest)
    for fold in (0, 1):  # a surface that is real predicts the patches that it was not fitted to
        test = np.arange(len(rest)) % 2 == fold
        values = _fit_robust(basis[~test], information[~test], rest[~test], penalty)
        predicted[test] = basis[test] @ values.T
    after = _typical(squared_distance(rest - predicted, local.covariance))
    if after > MAY_LEAVE * before:
        return None
    values = _fit_robust(basis, information, rest, penalty)
    return lambda at: knots.basis(at) @ values.T


def _fit_robust(basis: Float64s, information: Float64s, rest: Float64s, penalty: Float64s) -> Float64s:
    """Coefficients by iteratively reweighted least squares with Cauchy's weights.

    Args:
        basis: (n, k) values of the splines at the patches.
        information: (n, 2, 2) inverse covariances.
        rest: (n, 2) shifts in sites.
        penalty: (k, k), the same for both axes.

    Returns:
        (2, k).
    """
    values = np.zeros((2, basis.shape[1]))
    for _ in range(ITERATIONS):
        left = rest - basis @ values.T
        weights = 1 / (1 + np.einsum("ni,nij,nj->n", left, information, left) / 4)
        values = _solve(basis, weights[:, None, None] * information, rest, penalty)
    return values


def _typical(distance: Float64s) -> float:
    """Typical squared distance per axis: the median over its expected value for errors of the stated covariance.

    The median of a chi-square with two degrees of freedom is 2 ln 2.
    """
    return float(np.median(distance) / (2 * np.log(2)))


def _solve(basis: Float64s, information: Float64s, rest: Float64s, penalty: Float64s) -> Float64s:
    """Weighted, penalised least squares of both axes together.

    Args:
        basis: (n, k).
        information: (n, 2, 2) inverse covariances times weights.
        rest: (n, 2) shifts in sites.
        penalty: (k, k), the same for both axes.

    Returns:
        (2, k) coefficients.
    """
    count = basis.shape[1]
    blocks = [[basis.T @ (information[:, i, j, None] * basis) for j in (0, 1)] for i in (0, 1)]
    normal = np.block(blocks) + np.kron(np.eye(2), penalty)
    right = np.einsum("nk,nij,nj->ik", basis, information, rest).ravel()
    return np.linalg.solve(normal, right).reshape(2, count)


class _Knots:
    """Uniform cubic B-splines over the photo.

    Args:
        counts: intervals down and across.
        shape: (H, W) of the photo in sites.
    """

    def __init__(self, counts: tuple[int, int], shape: tuple[int, int]) -> None:
        self._counts = counts
        self._shape = shape

    @classmethod
    def spread(cls, at: Float64s, shape: tuple[int, int]) -> "_Knots":
        """About `PATCHES_PER_KNOT` distinct rows and columns of patches per interval."""
        lines = [len(np.unique(np.round(at[:, axis]))) for axis in (0, 1)]
        down, across = (min(MOST_KNOTS, max(1, round(count / PATCHES_PER_KNOT))) for count in lines)
        return cls((down, across), shape)

    def basis(self, at: Float64s) -> Float64s:
        """(n, k) values of the splines at (n, 2) positions in sites from the photo's middle."""
        down, across = (
            _splines((at[:, axis] / length + 0.5) * count, count)
            for axis, (length, count) in enumerate(zip(self._shape, self._counts, strict=True))
        )
        values: Float64s = np.einsum("ni,nj->nij", down, across).reshape(len(at), -1)
        return values

    def penalty(self) -> Float64s:
        """(k, k): second differences of neighbouring coefficients, and their size."""
        sizes = [count + 3 for count in self._counts]
        bends = [np.diff(np.eye(size), n=2, axis=0) for size in sizes]
        down, across = (bend.T @ bend / BENDING**2 for bend in bends)
        whole = np.kron(down, np.eye(sizes[1])) + np.kron(np.eye(sizes[0]), across)
        penalty: Float64s = whole + np.eye(len(whole)) / EXTENT**2
        return penalty


def _splines(place: Float64s, count: int) -> Float64s:
    """(n, count + 3) values of uniform cubic B-splines at places from 0 to `count`; beyond, those of the edge."""
    place = np.clip(place, 0, count)
    cell = np.minimum(place.astype(np.int64), count - 1)
    t = place - cell
    out = np.zeros((len(place), count + 3))
    rows = np.arange(len(place))
    parts = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for k, part in enumerate(parts):
        out[rows, cell + k] = part / 6
    return out
