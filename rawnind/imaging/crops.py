"""The crops of an aligned pair: the grid, each crop's own shift, its shares and its scores."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging import coordinates
from rawnind.imaging.change.cut_noise import CutNoise
from rawnind.imaging.change.mask import Cause, valid
from rawnind.imaging.coordinates import Rect
from rawnind.imaging.misalignment import Misalignment
from rawnind.imaging.msssim import WindowScores, crop_means
from rawnind.imaging.prepared import Prepared
from rawnind.imaging.warp import Warp
from rawnind.measurements import Crop, Measurements
from rawnind.recipe import GtAlignment, Recipe

Scores = WindowScores[NDArray[Any]] | None

_CAUSES = (Cause.OVEREXPOSED, Cause.UNDEREXPOSED, Cause.HOT_PIXEL, Cause.CHANGED, Cause.MISALIGNED)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class AlignedPair:
    """Two photos, and how the noisy one maps to the GT.

    Attributes:
        truth: the GT.
        noisy: the noisy photo.
        warp: where the noisy photo's sites lie in the GT.
        misalignment: what the warp leaves.
        rect: what both photos show, in the noisy frame.
        overexposed: (h, w) bool per cell of `rect`: overexposed in either photo.
        gain: factor from the noisy photo's levels to the GT's.
        brightest: level of the GT from which on the noisy photo is too dark in the mean (`exposure.unclipped_level`).
        cut_noise: where the noisy photo's noise is cut off at black; else None.
        planes: two (P, h, w) float32 arrays of levels, one sample per cell of `rect`: of the GT where the noisy photo stood,
            and of the noisy photo times the gain. `finish_pair` takes them out, to free 8 bytes per site, and computes them
            where there are none.
        measured: shift, exposure, gain and alignment loss.
    """

    truth: Prepared
    noisy: Prepared
    warp: Warp
    misalignment: Misalignment
    rect: Rect
    overexposed: NDArray[np.bool_]
    gain: float
    brightest: float
    cut_noise: CutNoise | None
    planes: list[NDArray[np.float32]]
    measured: Measurements


def cut(
    pair: AlignedPair, recipe: Recipe, causes: NDArray[np.uint8], scores: Scores
) -> tuple[NDArray[np.int64], tuple[Crop, ...]]:
    """The crops of the grid that are valid enough and pass the MS-SSIM gate.

    Args:
        pair: the aligned photos.
        recipe: size, stride, smallest valid fraction and MS-SSIM, alignment of the GT.
        causes: (h, w) `Cause` bits per cell of the pair's `rect`.
        scores: MS-SSIM of windows of its planes; None where they are smaller than a window.

    Returns:
        (n, 2) int64 rows (y, x) in the noisy frame, and the records in visible-area coordinates.
    """
    cfa, size = pair.noisy.photo.cfa, recipe.crop_size
    origins = coordinates.grid(pair.rect, size, recipe.stride, cfa.period)
    shift, displacement, inside = _shifts(pair, origins, size)
    origins, shift, displacement = origins[inside], shift[inside], displacement[inside]
    in_rect = coordinates.to_rect(origins, pair.rect)
    masks = (valid(causes), *((causes & np.uint8(cause)) != 0 for cause in _CAUSES))
    shares = np.stack(
        [coordinates.valid_fractions(cells, in_rect, size, cfa.cell) for cells in masks], axis=1
    )
    residual = pair.misalignment.within(in_rect, size)
    if recipe.gt_alignment is GtAlignment.INTEGER:
        for number, ((y, x), (top, left), (dy, dx)) in enumerate(
            zip(origins.tolist(), in_rect.tolist(), shift.tolist(), strict=True)
        ):
            distance = pair.warp.distance(Rect(y, x, size, size), (dy, dx))
            near = distance <= recipe.residual_limit
            mask = coordinates.mask_crop(masks[0], top, left, size, cfa.cell)
            shares[number, 0], shares[number, -1] = (mask & near).mean(), 1 - near.mean()
            residual[number] = float(distance.max()) + (residual[number] or 0.0)
    means: list[float | None] = [None] * len(origins)
    if scores is not None:
        tops, lefts = (in_rect / cfa.cell).T
        means = crop_means(scores, causes.shape, tops, lefts, size / cfa.cell).tolist()
    kept = [
        number
        for number, mean in enumerate(means)
        if shares[number, 0] >= recipe.min_valid_fraction and _passes(mean, recipe.min_msssim)
    ]
    visible = coordinates.to_visible(origins, pair.noisy.photo.sensor.origin)
    between = np.array(pair.truth.photo.sensor.first_tile_from(pair.noisy.photo.sensor))
    crops = tuple(
        _crop(
            visible[each],
            shift[each] + between,
            displacement[each] + between,
            shares[each],
            residual[each],
            means[each],
        )
        for each in kept
    )
    return origins[kept], crops


def _shifts(
    pair: AlignedPair, origins: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Each crop's whole shift: the warp at its middle, rounded.

    At the edge of the GT it may be one site less, so that the GT's crop lies inside.

    Args:
        pair: its warp and the GT's size.
        origins: (n, 2) rows (y, x) in the noisy frame.
        size: side of a crop in sites.

    Returns:
        (n, 2) shifts; (n, 2) displacements at the middles in sites; (n,) bool, whether the GT's crop lies inside.
    """
    displacement = pair.warp.at(origins + (size - 1) / 2)
    nearest = np.rint(displacement).astype(np.int64)
    shift = np.clip(nearest, -origins, np.array(pair.truth.photo.mosaic.shape) - size - origins)
    return shift, displacement, np.abs(shift - nearest).max(axis=1, initial=0) <= 1


def _crop(  # noqa: PLR0917
    place: NDArray[np.int64],
    shift: NDArray[np.int64],
    displacement: NDArray[np.float64],
    shares: NDArray[np.float64],
    residual: float | None,
    mean: float | None,
) -> Crop:
    """A crop's record.

    Args:
        place: (y, x) in the visible area.
        shift: (dy, dx).
        displacement: (dy, dx) of the warp at its middle.
        shares: valid, and with each cause of `_CAUSES`.
        residual: the largest displacement left.
        mean: its MS-SSIM.
    """
    valid_fraction, overexposed, underexposed, hot, changed, misaligned = shares.tolist()
    subpixel = (displacement - shift).tolist()
    return Crop(
        y=int(place[0]),
        x=int(place[1]),
        shift_y=int(shift[0]),
        shift_x=int(shift[1]),
        subpixel_y=subpixel[0],
        subpixel_x=subpixel[1],
        residual=residual,
        valid_fraction=valid_fraction,
        msssim=mean,
        overexposed_fraction=overexposed,
        underexposed_fraction=underexposed,
        hot_fraction=hot,
        changed_fraction=changed,
        misaligned_fraction=misaligned,
    )


def _passes(score: float | None, least: float | None) -> bool:
    return least is None or (score is not None and score >= least)
