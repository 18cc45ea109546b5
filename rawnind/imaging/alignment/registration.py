"""Registration: a similarity transform and, where it pays, a smooth surface, fitted to local shifts of patches.

Done first on the reduced green, which tolerates an error of several sites, then repeatedly on the green sites themselves.
Where that does not lead to a transform that most patches agree with, as after a large rotation, patches are searched for
one by one (`patch_search`).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.alignment.features import Features
from rawnind.imaging.alignment.gradient_noise import gradient_noise, without_pull
from rawnind.imaging.alignment.greens import View, green_sites, reduced_view, view
from rawnind.imaging.alignment.line_noise import line_covariance
from rawnind.imaging.alignment.local_field import (
    MIN_PATCHES,
    Field,
    fit_field,
    is_bent,
    is_informative,
    is_rigid,
    squared_distance,
)
from rawnind.imaging.alignment.lucas_kanade import (
    LocalShifts,
    Matches,
    reduced_shifts,
    site_shifts,
)
from rawnind.imaging.alignment.patch_search import find_patches
from rawnind.imaging.alignment.similarity import Model, fit_similarity
from rawnind.imaging.warp import Warp

Float64s = NDArray[np.float64]

REDUCED_PATCH = 64  # reduced pixels a side
SITE_PATCH = 128  # sites a side
LEAST_SITE_PATCH = 40
MOST_WITHIN_PATCH = 0.3  # sites by which the shift may differ within a patch: its texture may lie on one side
MIN_PATCH = 12  # pixels a side: 144 samples for the four unknowns of a patch
PATCH_GRID = (10, 14)  # most patches down and across: bounds the time on large photos
MAX_DEPARTURE = 1.5  # reduced pixels from where it began, beyond which the refinement has diverged
MAX_ROTATION_ERROR = (
    0.0125  # degrees: with a larger standard error, 0.05 degrees would not be 4 standard errors
)
MAX_SCALE_ERROR = 0.00025  # so that a scale of 0.1 % is 4 standard errors
MAX_SITE_ITERATIONS = 8
CONVERGED = 0.1  # sites that the corners move between two fits
FIELD_ITERATIONS = 8
DIAGONALS = np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]])
FIELD_CONVERGED = 0.1  # sites
SLACK = 0.05  # share of the patches: smaller ones agree less with the same surface
STEEPNESS_GRID = 17  # places down and across
AGREES = 0.5  # sites; and within 3 standard errors: a patch that the transform explains
WARP_DIGITS = 6  # of a site: sums whose order depends on the number of threads give the same bits
SLIGHT = 0.1  # sites by which a surface moves patches
SURE = 0.7  # share of patches that agree, below which a wider search is made


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Registration:
    """The transform from the noisy photo to the GT.

    Attributes:
        displacement: (dy, dx) in sites at the middle of the noisy photo, GT minus noisy.
        rotation: of the noisy photo's content against the GT's, degrees counter-clockwise; None where not measurable.
        scale: size of the noisy photo's content relative to the GT's, minus one; None where not measurable.
        warp: the whole transform, with the smooth surface where one was fitted.
        rest: the patches, with what the warp leaves of their shifts.
        field: the smooth surface in it; None where none was fitted.
        agreement: share of the patches with contrast that the warp explains, 0..1; 0 without any.
    """

    displacement: tuple[float, float]
    rotation: float | None
    scale: float | None
    warp: Warp
    rest: LocalShifts
    field: Field | None
    agreement: float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Fit:
    """A model and the local shifts that it was last compared with."""

    model: Model
    local: Matches

    @property
    def rest(self) -> Float64s:
        """(n, 2) local shifts less the model's."""
        return self.local.shift - self.model.at(self.local.at)

    @property
    def agreement(self) -> float:
        """Share of the patches with contrast that the model explains."""
        near = np.hypot(*self.rest.T) < AGREES
        likely = squared_distance(self.rest, self.local.covariance) < 9
        return float(np.count_nonzero(near | likely) / max(self.local.considered, 1))


def register(ground_truth: Features, noisy: Features, start: tuple[float, float]) -> Registration:
    """Refines a displacement that is right to about one reduced pixel somewhere in the photo.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo, of the same size and CFA.
        start: (dy, dx) in sites: GT (y + dy, x + dx) shows noisy (y, x).

    Returns:
        The refined transform; `start` alone where no patch can be matched.
    """
    begin = Model(values=np.array([*start, 0, 0]), errors=np.full(4, np.inf))
    found = _refine(ground_truth, noisy, begin)
    if found is None or found.agreement < SURE:
        wide = fit_similarity(find_patches(ground_truth, noisy, start))
        again = None if wide is None else _refine(ground_truth, noisy, wide)
        if again is not None and (found is None or again.agreement > found.agreement):
            found = again
    if found is None:
        found = _Fit(model=begin, local=_site_shifts(ground_truth, noisy, begin))
    else:
        found = _bend(ground_truth, noisy, found)
    return _registration(found, noisy.photo.mosaic.shape)


def _registration(found: _Fit, shape: tuple[int, ...]) -> Registration:
    model, middle = found.model, (np.array(shape) - 1) / 2
    rotation, rotation_error = np.rad2deg(model.values[2]), np.rad2deg(model.errors[2])
    dy, dx = model.at(np.zeros((1, 2)))[0].tolist()
    return Registration(
        displacement=(dy, dx),
        rotation=float(rotation) if rotation_error <= MAX_ROTATION_ERROR else None,
        scale=float(model.values[3]) if model.errors[3] <= MAX_SCALE_ERROR else None,
        warp=Warp.of((shape[0], shape[1]), lambda at: np.round(model.at(at - middle), WARP_DIGITS)),
        rest=LocalShifts(
            at=found.local.at,
            shift=found.rest,
            covariance=found.local.covariance,
            considered=found.local.considered,
        ),
        field=model.field,
        agreement=found.agreement,
    )


def _refine(ground_truth: Features, noisy: Features, begin: Model) -> _Fit | None:
    """Fits the similarity transform again and again to local shifts that are measured where the last one predicts them.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo.
        begin: the first model.

    Returns:
        None where no patch can be matched, or where the fit departs from `begin` by more than `MAX_DEPARTURE`.
    """
    model, local = begin, None
    for measure in (_reduced_shifts, *[_site_shifts] * MAX_SITE_ITERATIONS):
        before, local = model, measure(ground_truth, noisy, model)
        found = fit_similarity(local)
        if found is None or np.abs(found.values - begin.values)[:2].max() > MAX_DEPARTURE * noisy.reduction:
            return None
        model = found
        if measure is _site_shifts and _largest_move(model, before, noisy.photo.mosaic.shape) < CONVERGED:
            break
    return None if local is None else _Fit(model=model, local=local)


def _bend(ground_truth: Features, noisy: Features, found: _Fit) -> _Fit:
    """Adds the smooth surface that local shifts show beyond a similarity transform, where it pays."""
    shape = (noisy.photo.mosaic.shape[0], noisy.photo.mosaic.shape[1])
    similarity = Model(values=found.model.values, errors=found.model.errors)

    def pays(local: LocalShifts) -> bool:
        return is_bent(local, local.shift - similarity.at(local.at), shape)

    local: LocalShifts = found.local
    bent = pays(local)
    if bent:
        local = _measured(ground_truth, noisy, similarity, found.local)
        bent = pays(_with_line_noise(ground_truth, noisy, similarity, local))
    if not bent:
        if found.agreement >= SURE:
            return found
        # the reduced green tolerates larger departures from the similarity
        local = _reduced_shifts(ground_truth, noisy, similarity, REDUCED_PATCH // 2)
        own = fit_similarity(local)  # it may be a tenth of a pixel off as a whole, which is no bend
        if own is None or is_rigid(local, local.shift - own.at(local.at)) or not pays(local):
            return found
    best, before, most = found, similarity, found.agreement
    for _ in range(FIELD_ITERATIONS):
        field = fit_field(local, local.shift - similarity.at(local.at), shape)
        model = replace(similarity, field=field)
        matches = _site_shifts(ground_truth, noisy, model)
        fit = _Fit(model=model, local=matches)
        most = max(most, fit.agreement)
        if fit.agreement >= most - SLACK:
            best = fit
        if np.abs(model.at(matches.at) - before.at(matches.at)).max(initial=0) < FIELD_CONVERGED:
            break
        before = model
        local = _measured(ground_truth, noisy, model, matches)
        if len(local.at) < MIN_PATCHES:
            break
    return found if _is_slight(best) else best


def _with_line_noise(
    ground_truth: Features, noisy: Features, model: Model, local: LocalShifts
) -> LocalShifts:
    """Local shifts with the errors that noise of rows and columns gives them, as it does beside lines of text.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo.
        model: the similarity transform.
        local: the patches that were matched with it.
    """
    truth, seen = _views(ground_truth, noisy)
    # within the patch, which an earlier model may have placed a little elsewhere
    side = _site_patches(noisy, model)[1] - 8
    shape = np.array(noisy.photo.mosaic.shape)
    first = local.at + (shape - side) / 2
    corners, there = (
        np.clip(np.rint(each).astype(np.int64), 4, shape - side - 4)
        for each in (first, first + model.at(local.at))
    )
    patches = []
    for (y, x), (v, u) in zip(corners, there, strict=True):
        gt, here = np.empty((side + 2, side + 2), np.float32), np.empty((side, side), np.float32)
        green_sites(truth, v - 1, u - 1, gt)
        green_sites(seen, y, x, here)
        patches.append((gt, here, (gt[1:-1, 1:-1] < truth.limit) & (here < seen.limit)))
    return replace(local, covariance=local.covariance + line_covariance(patches))


def _is_slight(fit: _Fit) -> bool:
    """Whether the surface of a fit moves none of the patches that are known well by as much as matters.

    Few patches, as of a lamp in the dark, may agree with a surface by chance, and it is unsure wherever there are none.
    """
    known = fit.local.at[is_informative(fit.local)]
    return fit.model.field is None or (len(known) > 0 and np.abs(fit.model.field(known)).max() < SLIGHT)


def _measured(ground_truth: Features, noisy: Features, model: Model, local: Matches) -> LocalShifts:
    """Local shifts without the pull of the gradients' noise; patches whose gradients are mostly noise are left out.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo.
        model: with which the patches were matched.
        local: the patches.
    """
    further = _site_shifts(ground_truth, noisy, model, aside=1)
    return without_pull(local, gradient_noise(local, further))


def _steepness(model: Model, shape: tuple[int, ...]) -> float:
    """Change of the displacement per site: of a similarity transform, or a high one among the places of a bent one."""
    if model.field is None:
        return float(np.hypot(*model.values[2:]))
    lines = (np.linspace(-0.5, 0.5, STEEPNESS_GRID) * length for length in shape)
    at = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
    moves = model.at(at.reshape(-1, 2)).reshape(at.shape)
    steep = [
        np.hypot(*np.moveaxis(np.diff(moves, axis=axis), -1, 0)) * (STEEPNESS_GRID - 1) / shape[axis]
        for axis in (0, 1)
    ]
    return float(max(np.quantile(each, 0.9) for each in steep))


def _largest_move(model: Model, before: Model, shape: tuple[int, ...]) -> float:
    """Largest displacement of the photo's corners between two models, in sites.

    Args:
        model: the newer one.
        before: the older one.
        shape: (H, W) of the photo in sites.
    """
    corners = (np.array(shape) - 1) / 2 * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    return float(np.abs(model.at(corners) - before.at(corners)).max())


def _reduced_shifts(
    ground_truth: Features, noisy: Features, model: Model, largest: int = REDUCED_PATCH
) -> Matches:
    """Local shifts measured on the reduced green; each patch is matched where the model predicts it.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo.
        model: the transform so far.
        largest: side of a patch at most, in reduced pixels.

    Returns:
        Positions and shifts in sites.
    """
    reduction, shape = noisy.reduction, noisy.green.shape
    # The mosaic may end with part of a reduced pixel; its middle then lies a little beyond the reduced green's.
    rest = (np.array(noisy.photo.mosaic.shape) - reduction * np.array(shape)) / 2
    corners, patch = _patch_corners(shape, model, largest, reduction, margin=1)
    at = (corners + (patch - 1) / 2 - (np.array(shape) - 1) / 2) * reduction - rest
    offsets = np.rint(model.at(at) / reduction).astype(np.int64)
    views = reduced_view(ground_truth.photo, ground_truth.green), reduced_view(noisy.photo, noisy.green)
    local = reduced_shifts(*views, corners, offsets, _slopes(model, at, patch * reduction), patch)
    return replace(
        local,
        at=local.at * reduction - rest,
        shift=local.shift * reduction,
        covariance=local.covariance * reduction**2,
        offset=local.offset * reduction,
        inverse=local.inverse * reduction**2,
    )


def _site_shifts(ground_truth: Features, noisy: Features, model: Model, aside: int = 0) -> Matches:
    """Local shifts measured on the green sites; each patch is matched where the model predicts it.

    To a whole site, which takes fractions of a site for some 6 % more than they are; to the fraction where the model is bent.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo.
        model: the transform so far.
        aside: sites from there along both axes, in another direction for each next patch; at most 1.

    Returns:
        Positions and shifts in sites.
    """
    corners, patch, at, offsets = _site_patches(noisy, model)
    offsets = offsets + aside * DIAGONALS[np.arange(len(at)) % len(DIAGONALS)]
    return site_shifts(*_views(ground_truth, noisy), corners, offsets, _slopes(model, at, patch), patch)


def _site_patches(noisy: Features, model: Model) -> tuple[NDArray[np.int64], int, Float64s, Float64s]:
    """Corners (N, 2), side, middles (N, 2) from the photo's middle, and offsets (N, 2) in the GT, of the patches of a model, in sites."""
    shape = noisy.photo.mosaic.shape
    largest = min(SITE_PATCH, round(MOST_WITHIN_PATCH / max(_steepness(model, shape), 1e-9)))
    margin = 4 if model.field is None else 7
    corners, patch = _patch_corners(shape, model, max(largest, LEAST_SITE_PATCH), 1, margin=margin)
    at = corners + (patch - 1) / 2 - (np.array(shape) - 1) / 2
    return corners, patch, at, model.at(at) if model.field is not None else np.rint(model.at(at))


def _views(ground_truth: Features, noisy: Features) -> tuple[View, View]:
    """Both mosaics."""
    return view(ground_truth.photo, ground_truth.photo.mosaic), view(noisy.photo, noisy.photo.mosaic)


def _slopes(model: Model, at: Float64s, across: int) -> Float64s:
    """(N, 2, 2) change of the displacement (dy, dx) per site down and across, over `across` sites around (N, 2) positions."""
    steps = np.eye(2) * across / 2
    return np.stack([(model.at(at + step) - model.at(at - step)) / across for step in steps], axis=-1)


def _patch_corners(
    shape: tuple[int, ...], model: Model, largest: int, reduction: int, *, margin: int
) -> tuple[NDArray[np.int64], int]:
    """Patches spread evenly over what both photos show.

    Args:
        shape: (h, w) of the image that is matched.
        model: where its pixels lie in the GT.
        largest: side of a patch at most.
        reduction: sites per pixel of the image.
        margin: pixels around each patch that must exist in both photos.

    Returns:
        (N, 2) int64 first (y, x) of each patch in the noisy photo, and the side of a patch; N is 0 where it would be below
        `MIN_PATCH`.
    """
    edges = np.stack(
        np.meshgrid(*(np.linspace(-0.5, 0.5, 5) * length for length in shape), indexing="ij"), axis=-1
    )
    moves = model.at(edges.reshape(-1, 2) * reduction).T / reduction
    before = [max(0, -int(np.floor(move.min()))) + margin for move in moves]
    after = [max(0, int(np.ceil(move.max()))) + margin for move in moves]
    free = [size - low - high for size, low, high in zip(shape, before, after, strict=True)]
    patch = min(largest, *(size // 3 for size in free))
    if patch < MIN_PATCH:
        return np.zeros((0, 2), np.int64), MIN_PATCH
    finer = max(1, SITE_PATCH // patch) if reduction == 1 else 1  # as many sites in all
    lines = [
        np.rint(np.linspace(first, first + size - patch, min(most * finer, size // patch))).astype(np.int64)
        for size, first, most in zip(free, before, PATCH_GRID, strict=True)
    ]
    return np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 2), patch
