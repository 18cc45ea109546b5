"""The smooth part of local shifts that a similarity transform does not explain: parallax, lens breathing, rolling shutter.

A polynomial, which holds what lenses and moving shutters do up to the corners, and on top of it a surface of uniform cubic
B-splines, both fitted by penalised, iteratively reweighted least squares. They are used only where they explain the
shifts much better than the similarity alone, so that the errors of patches do not bend still pairs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.alignment.lucas_kanade import LocalShifts

Float64s = NDArray[np.float64]

MIN_PATCHES = 24  # with fewer, a surface is hardly determined
INFORMATIVE = 0.3  # sites: standard error of a patch that counts for whether a surface pays
MIN_INFORMATIVE = 12
DEGREE = 5  # of the polynomial
LENSES = (
    3  # degree that lenses need; what is beyond is used where it makes the shifts more probable: whole waves
)
UNUSED = 0.01  # sites: standard deviation of the other coefficients
PATCHES_PER_KNOT = 2.0  # along each axis
BENDING = 0.7  # sites: expected second difference between the coefficients of neighbouring knots, standard deviation
EXTENT = 3.0  # sites: expected size of the coefficients, standard deviation
WORTHWHILE = 3.0  # typical squared residual, in variances of a patch, above which a surface is fitted at all
SMALL = 1.5  # and where neighbours explain a part of it
NEIGHBOURS = 8
ASKED = 200  # patches at most that neighbours are to predict
LARGEST = 25.0  # squared distance in variances: a moved object is no more than 5 standard errors off
MOST_KNOTS = 7  # along each axis
MAY_LEAVE = 0.75  # and the share of it that the surface may leave at patches that it was not fitted to
TOLERANCES = (256.0, 64.0, 16.0, 4.0, 1.0, 1.0, 1.0)
"""Of the weights, in units of Cauchy's: a bump that the first fit misses is no moved object."""
CHOICE = 4  # of them: at which the penalty is chosen
STIFFNESS = (1.0, 0.3, 0.1, 0.03)
"""Shares of `BENDING` and of the splines' `EXTENT` that are tried: lenses need the polynomial alone."""
FOLDS = 5  # of the patches; each is predicted from the others


def squared_distance(shift: Float64s, covariance: Float64s) -> Float64s:
    """(n,) squared Mahalanobis distances of (n, 2) shifts with (n, 2, 2) covariances from 0."""
    distances: Float64s = np.einsum("ni,nij,nj->n", shift, np.linalg.inv(covariance), shift)
    return distances


def is_informative(local: LocalShifts) -> NDArray[np.bool_]:
    """(n,) bool: patches whose shifts are known well."""
    return np.asarray(np.sqrt(np.linalg.eigvalsh(local.covariance)[:, 1]) < INFORMATIVE)


def is_rigid(local: LocalShifts, rest: Float64s) -> bool:
    """Whether what is left of local shifts is no more than their errors; arguments as for `is_bent`."""
    judges = is_informative(local)
    return _typical(squared_distance(rest, local.covariance)[judges]) < SMALL if judges.any() else True


def is_bent(local: LocalShifts, rest: Float64s, shape: tuple[int, int]) -> bool:
    """Whether a surface explains what is left of local shifts, also at patches that it was not fitted to.

    Args:
        local: the patches.
        rest: (n, 2) their shifts less those of the similarity, in sites.
        shape: (H, W) of the photo in sites.
    """
    if len(local.at) < MIN_PATCHES:
        return False
    judges = is_informative(local)
    if np.count_nonzero(judges) < MIN_INFORMATIVE:
        return False
    before = _typical(squared_distance(rest, local.covariance)[judges])
    if before < SMALL or (before < WORTHWHILE and not _is_shared(local, rest, judges)):
        return False
    knots = _Knots.spread(local.at, shape)
    basis, information = knots.basis(local.at), _information(local)
    penalty = knots.penalty(1.0, waves=False)
    predicted = np.empty_like(rest)
    for fold in range(FOLDS):
        test = np.arange(len(rest)) % FOLDS == fold
        values, *_ = _fit_robust(basis[~test], information[~test], rest[~test], [penalty])
        predicted[test] = basis[test] @ values.T
    after = _typical(squared_distance(rest - predicted, local.covariance)[judges])
    return after < MAY_LEAVE * before


def _is_shared(local: LocalShifts, rest: Float64s, judges: NDArray[np.bool_]) -> bool:
    """Whether patches depart as their neighbours do; much less work than to fit a surface, which few pairs need.

    Args:
        local: the patches.
        rest: (n, 2) their departures in sites.
        judges: (n,) bool: those that are asked.
    """
    asked = np.flatnonzero(judges)
    asked = asked[:: 1 + len(asked) // ASKED]
    distance = ((local.at[asked, None] - local.at) ** 2).sum(axis=2)
    near = np.argpartition(distance, NEIGHBOURS, axis=1)[:, : NEIGHBOURS + 1]  # with the patch itself
    weight = _information(local)[near] * (near != asked[:, None])[:, :, None, None]
    summed = np.einsum("nkij,nkj->ni", weight, rest[near])
    predicted = np.linalg.solve(weight.sum(axis=1), summed[:, :, None])[:, :, 0]
    own, covariance = rest[asked], local.covariance[asked]
    left = _typical(squared_distance(own - predicted, covariance))
    return left < MAY_LEAVE * _typical(squared_distance(own, covariance))


def fit_field(local: LocalShifts, rest: Float64s, shape: tuple[int, int]) -> "Field":
    """Fits a smooth surface to what is left of local shifts; arguments as for `is_bent`."""
    knots = _Knots.spread(local.at, shape)
    penalties = [knots.penalty(share, waves=waves) for waves in (False, True) for share in STIFFNESS]
    values, free, likely = _fit_robust(knots.basis(local.at), _information(local), rest, penalties)
    return Field(knots=knots, values=values, free=free, likely=likely)


def _information(local: LocalShifts) -> Float64s:
    """(n, 2, 2) inverse covariances."""
    return np.asarray(np.linalg.inv(local.covariance), np.float64)


def _fit_robust(
    basis: Float64s, information: Float64s, rest: Float64s, penalties: list[Float64s]
) -> tuple[Float64s, Float64s, Float64s]:
    """Coefficients by iteratively reweighted least squares with Cauchy's weights.

    Of the penalties the one with the largest evidence is taken (D. J. C. MacKay, "Bayesian interpolation", 1992).

    Args:
        basis: (n, k) values of the splines at the patches.
        information: (n, 2, 2) inverse covariances.
        rest: (n, 2) shifts in sites.
        penalties: (k, k) each, the same for both axes; the first is that of the free errors.

    Returns:
        (2, k), and their (2 k, 2 k) covariance by the first penalty and by the one that was taken.
    """
    values, penalty = np.zeros((2, basis.shape[1])), penalties[0]
    for step, tolerance in enumerate(TOLERANCES):
        left = rest - basis @ values.T
        distance = np.einsum("ni,nij,nj->n", left, information, left)
        weights = 1 / (1 + distance / (4 * tolerance))
        weighted = weights[:, None, None] * information
        bare = _normal(basis, weighted)
        right = np.einsum("nk,nij,nj->ik", basis, weighted, rest).ravel()
        if step == CHOICE and len(penalties) > 1:
            evidence = [_evidence(bare + _both(each), right, each) for each in penalties]
            penalty = penalties[int(np.argmax(evidence))]
        values = np.linalg.solve(bare + _both(penalty), right).reshape(2, -1)
    left = rest - basis @ values.T
    distance = np.einsum("ni,nij,nj->n", left, information, left)
    excess = max(1.0, float((weights * distance).sum() / (2 * weights.sum())))
    free, likely = (
        np.asarray(excess * np.linalg.inv(bare + _both(each)), np.float64) for each in (penalties[0], penalty)
    )
    return values, free, likely


def _evidence(normal: Float64s, right: Float64s, penalty: Float64s) -> float:
    """Log of the probability of the shifts, all coefficients taken together, up to a constant.

    Args:
        normal: (2 k, 2 k) of weighted, penalised least squares.
        right: (2 k,) right sides.
        penalty: (k, k) in it.
    """
    fitted = right @ np.linalg.solve(normal, right)
    return float((fitted - np.linalg.slogdet(normal)[1]) / 2 + np.linalg.slogdet(penalty)[1])


def _typical(distance: Float64s) -> float:
    """Mean squared distance per axis, of which each patch gives at most `LARGEST`; 1 for errors of the stated covariance.

    A mean and not a median, so that a surface that bends a fifth of the photo counts.
    """
    return float(np.minimum(distance, LARGEST).mean() / 2)


def _normal(basis: Float64s, information: Float64s) -> Float64s:
    """(2 k, 2 k) normal matrix of weighted least squares of both axes together, without a penalty.

    Args:
        basis: (n, k).
        information: (n, 2, 2) inverse covariances times weights.
    """
    blocks = [[basis.T @ (information[:, i, j, None] * basis) for j in (0, 1)] for i in (0, 1)]
    return np.asarray(np.block(blocks), np.float64)


def _both(penalty: Float64s) -> Float64s:
    """(2 k, 2 k) the same (k, k) penalty for both axes."""
    return np.asarray(np.kron(np.eye(2), penalty), np.float64)


_POWERS = [(i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)]


class _Knots:
    """A polynomial, and uniform cubic B-splines, over the photo.

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
        """(n, k) values of the splines and of the polynomial at (n, 2) positions in sites from the photo's middle."""
        down, across = (
            _splines((at[:, axis] / length + 0.5) * count, count)
            for axis, (length, count) in enumerate(zip(self._shape, self._counts, strict=True))
        )
        splines = np.einsum("ni,nj->nij", down, across).reshape(len(at), -1)
        y, x = 2 * at[:, 0] / self._shape[0], 2 * at[:, 1] / self._shape[1]
        powers = [y**i * x**j for i, j in _POWERS]
        values: Float64s = np.concatenate([splines, np.stack(powers, axis=1)], axis=1)
        return values

    def penalty(self, share: float, *, waves: bool) -> Float64s:
        """(k, k): second differences of the splines' neighbouring coefficients, and the size of all.

        Args:
            share: of the splines' expected bending and size.
            waves: whether the polynomial's powers beyond `LENSES` are used.
        """
        sizes = [count + 3 for count in self._counts]
        bends = [np.diff(np.eye(size), n=2, axis=0) for size in sizes]
        down, across = (bend.T @ bend / BENDING**2 for bend in bends)
        whole = np.kron(down, np.eye(sizes[1])) + np.kron(np.eye(sizes[0]), across)
        used = [EXTENT if waves or i + j <= LENSES else UNUSED for i, j in _POWERS]
        penalty = np.diag(1 / np.array([EXTENT] * len(whole) + used) ** 2)
        penalty[: len(whole), : len(whole)] += whole
        penalty[: len(whole), : len(whole)] /= share**2
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


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Field:
    """A smooth surface of displacements.

    Attributes:
        knots: its basis.
        values: (2, k) coefficients.
        free: (2 k, 2 k) covariance of them where nothing says that the surface is as smooth as elsewhere.
        likely: the same of a surface that is.
    """

    knots: _Knots
    values: Float64s
    free: Float64s
    likely: Float64s

    def __call__(self, at: Float64s) -> Float64s:
        """(n, 2) displacements in sites at (n, 2) positions in sites from the middle of the noisy photo."""
        return self.knots.basis(at) @ self.values.T

    def errors(self, at: Float64s) -> tuple[Float64s, Float64s]:
        """(n,) standard errors in sites, along the less certain axis, by `free` and by `likely`: large where no patch is near."""
        basis = self.knots.basis(at)
        return _error(basis, self.free), _error(basis, self.likely)


def _error(basis: Float64s, covariance: Float64s) -> Float64s:
    """(n,) standard errors along the less certain axis, for (n, k) values of the basis and a (2 k, 2 k) covariance."""
    count = basis.shape[1]
    parts = covariance[:count, :count], covariance[count:, count:]
    variances = [np.einsum("nk,kl,nl->n", basis, part, basis) for part in parts]
    errors: Float64s = np.sqrt(np.maximum(variances[0], variances[1]))
    return errors
