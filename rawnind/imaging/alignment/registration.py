"""Registration: a similarity transform (displacement, rotation, scale) fitted to local shifts of patches.

Done first on the reduced green, which tolerates an error of several sites, then repeatedly on the green sites themselves.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.alignment.features import Features
from rawnind.imaging.alignment.lucas_kanade import (
    LocalShifts,
    reduced_shifts,
    site_shifts,
    view,
    weighted_median,
)

Float64s = NDArray[np.float64]

REDUCED_PATCH = 64  # reduced pixels a side
SITE_PATCH = 128  # sites a side
MIN_PATCH = 12  # pixels a side: 144 samples for the four unknowns of a patch
PATCH_GRID = (10, 14)  # most patches down and across: bounds the time on large photos
MIN_PATCHES_FOR_SIMILARITY = 6  # with fewer, only the displacement is fitted
MAX_DEPARTURE = 1.5  # reduced pixels from the correlation peak, beyond which the refinement has diverged
SIGNIFICANT = 3.0  # standard errors
MAX_ROTATION_ERROR = (
    0.0125  # degrees: with a larger standard error, 0.05 degrees would not be 4 standard errors
)
MAX_SCALE_ERROR = 0.00025  # so that a scale of 0.1 % is 4 standard errors
IRLS_ITERATIONS = 20  # of the iteratively reweighted least squares
MAX_SITE_ITERATIONS = 4
CONVERGED = 0.5  # sites: a smaller move keeps every patch within the range of the linear model


@dataclass(frozen=True, kw_only=True, slots=True)
class Similarity:
    """Similarity transform from the noisy photo to the GT.

    Attributes:
        displacement: (dy, dx) in sites at the middle of the noisy photo, GT minus noisy.
        rotation: of the noisy photo's content against the GT's, degrees counter-clockwise; None where not measurable.
        scale: size of the noisy photo's content relative to the GT's, minus one; None where not measurable.
    """

    displacement: tuple[float, float]
    rotation: float | None
    scale: float | None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Model:
    """A fitted similarity transform.

    Attributes:
        values: (4,) float64: dy, dx in sites, rotation in radians, scale minus one.
        errors: (4,) float64 standard errors of `values`; infinite where not fitted.
    """

    values: Float64s
    errors: Float64s


def register(ground_truth: Features, noisy: Features, start: tuple[float, float]) -> Similarity:
    """Refines a displacement that is right to about one reduced pixel.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo, of the same size and CFA.
        start: (dy, dx) in sites: GT (y + dy, x + dx) shows noisy (y, x).

    Returns:
        The refined transform; `start` without rotation and scale where too few patches can be matched, or where the fit
        departs from `start` by more than `MAX_DEPARTURE`.
    """
    model = _Model(values=np.array([*start, 0, 0]), errors=np.full(4, np.inf))
    for measure in (_reduced_shifts, *[_site_shifts] * MAX_SITE_ITERATIONS):
        before, found = model, _fit(measure(ground_truth, noisy, model))
        if found is None or np.abs(found.values[:2] - start).max() > MAX_DEPARTURE * noisy.reduction:
            return Similarity(displacement=start, rotation=None, scale=None)
        model = found
        if measure is _site_shifts and _largest_move(model, before, noisy.photo.mosaic.shape) < CONVERGED:
            break
    rotation, rotation_error = np.rad2deg(model.values[2]), np.rad2deg(model.errors[2])
    return Similarity(
        displacement=(float(model.values[0]), float(model.values[1])),
        rotation=float(rotation) if rotation_error <= MAX_ROTATION_ERROR else None,
        scale=float(model.values[3]) if model.errors[3] <= MAX_SCALE_ERROR else None,
    )


def _largest_move(model: _Model, before: _Model, shape: tuple[int, ...]) -> float:
    """Largest displacement of the photo's corners between two models, in sites.

    Args:
        model: the newer one.
        before: the older one.
        shape: (H, W) of the photo in sites.
    """
    corners = (np.array(shape) - 1) / 2 * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    return float(np.abs(_design(corners) @ (model.values - before.values)).max())


def _reduced_shifts(ground_truth: Features, noisy: Features, model: _Model) -> LocalShifts:
    """Local shifts measured on the reduced green.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo.
        model: its displacement, rounded to reduced pixels, is where patches are matched.

    Returns:
        Positions and shifts in sites.
    """
    reduction = noisy.reduction
    offset = np.rint(model.values[:2] / reduction).astype(np.int64)
    corners, patch = _patch_corners(noisy.green.shape, offset, REDUCED_PATCH, margin=1)
    views = view(ground_truth.photo, ground_truth.green), view(noisy.photo, noisy.green)
    local = reduced_shifts(*views, corners, offset, patch)
    # The mosaic may end with part of a reduced pixel; its middle then lies a little beyond the reduced green's.
    rest = (np.array(noisy.photo.mosaic.shape) - reduction * np.array(noisy.green.shape)) / 2
    return LocalShifts(
        at=local.at * reduction - rest,
        shift=local.shift * reduction,
        covariance=local.covariance * reduction**2,
    )


def _site_shifts(ground_truth: Features, noisy: Features, model: _Model) -> LocalShifts:
    """Local shifts measured on the green sites; each patch is matched where the model predicts it.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo.
        model: rotation and scale count only where they exceed `SIGNIFICANT` standard errors.

    Returns:
        Positions and shifts in sites.
    """
    clear = np.abs(model.values) > SIGNIFICANT * model.errors
    clear[:2] = True
    values = np.where(clear, model.values, 0)
    shape = noisy.photo.mosaic.shape
    bend = int(np.ceil(np.abs(values[2:]).sum() * max(shape) / 2))
    corners, patch = _patch_corners(shape, np.rint(values[:2]).astype(np.int64), SITE_PATCH, margin=bend + 4)
    at = corners + (patch - 1) / 2 - (np.array(shape) - 1) / 2
    offsets = np.rint(_design(at) @ values).astype(np.int64)
    views = view(ground_truth.photo, ground_truth.photo.mosaic), view(noisy.photo, noisy.photo.mosaic)
    return site_shifts(*views, corners, offsets, patch)


def _patch_corners(
    shape: tuple[int, ...], offset: NDArray[np.int64], largest: int, *, margin: int
) -> tuple[NDArray[np.int64], int]:
    """Patches spread evenly over what both photos show.

    Args:
        shape: (h, w) of the image that is matched.
        offset: (2,) int64 (dy, dx) of the GT against the noisy photo, in its pixels.
        largest: side of a patch at most.
        margin: pixels around each patch that must exist in both photos.

    Returns:
        (N, 2) int64 first (y, x) of each patch in the noisy photo, and the side of a patch; N is 0 where it would be below
        `MIN_PATCH`.
    """
    free = [size - abs(int(shift)) - 2 * margin for size, shift in zip(shape, offset, strict=True)]
    patch = min(largest, *(size // 3 for size in free))
    if patch < MIN_PATCH:
        return np.zeros((0, 2), np.int64), MIN_PATCH
    lines = []
    for size, shift, most in zip(free, offset, PATCH_GRID, strict=True):
        first = max(0, -int(shift)) + margin
        lines.append(
            np.rint(np.linspace(first, first + size - patch, min(most, size // patch))).astype(np.int64)
        )
    return np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 2), patch


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


def _fit(local: LocalShifts) -> _Model | None:
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
    values = np.zeros(free)
    values[:2] = [weighted_median(local.shift[:, axis], trust) for axis in (0, 1)]
    for _ in range(IRLS_ITERATIONS):
        rest = local.shift - design @ values
        distance = np.einsum("ni,nij,nj->n", rest, information, rest)
        weights = 1 / (1 + distance / 4)
        weighted = design.transpose(0, 2, 1) @ (weights[:, None, None] * information)
        normal = (weighted @ design).sum(axis=0)
        values = np.linalg.solve(normal, (weighted @ local.shift[:, :, None]).sum(axis=0)[:, 0])
    excess = max(1.0, float((weights * distance).sum() / (2 * weights.sum())))
    missing = 4 - free
    return _Model(
        values=np.concatenate([values, np.zeros(missing)]),
        errors=np.concatenate([np.sqrt(excess * np.diag(np.linalg.inv(normal))), np.full(missing, np.inf)]),
    )
