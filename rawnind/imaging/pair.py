"""The chain for one pair, on one page: align, gain, mask, MS-SSIM, crops.

Frames start on a tile (see `Photo`), at the same place in both photos; rectangles here are in frame sites, and only what
leaves this module is in visible-area coordinates. Shifts are the same in both.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging import coordinates, exposure, levels
from rawnind.imaging.alignment.align import Alignment, Reference, align, reference
from rawnind.imaging.change.mask import Cause, Change, Observed, combine, judge, observe, valid
from rawnind.imaging.color import camera_to_rec2020, rec2020_crop
from rawnind.imaging.coordinates import Rect
from rawnind.imaging.demosaic.camera_rgb import CameraRgb, demosaic, planes_at_shift
from rawnind.imaging.hot_pixels import hot_pixels
from rawnind.imaging.msssim import WindowScores, crop_means, frame_mean, windowed_ms_ssim
from rawnind.imaging.photo import Photo
from rawnind.recipe import Recipe
from rawnind.records import Crop, Measurements, Reason, Sensor


class Prepared:
    """A photo with what the chain needs of it, each computed once, when first asked for.

    Args:
        photo: the decoded photo, a ground truth or a noisy one.
    """

    def __init__(self, photo: Photo) -> None:
        self.photo = photo

    @cached_property
    def reference(self) -> Reference:
        """What alignment needs."""
        return reference(self.photo)

    @cached_property
    def rgb(self) -> CameraRgb:
        """The photo demosaiced; `forget` gives its memory back."""
        return demosaic(self.photo)

    @cached_property
    def overexposed(self) -> NDArray[np.bool_]:
        """(h, w) cells in which a site is overexposed."""
        return exposure.overexposed(self.photo.mosaic, self.photo.sensor)

    @cached_property
    def underexposed(self) -> NDArray[np.bool_]:
        """(h, w) cells in which no site shows anything."""
        return exposure.underexposed(self.photo.mosaic, self.photo.sensor)

    @cached_property
    def hot(self) -> NDArray[np.bool_]:
        """(h, w) cells that a hot pixel spoils."""
        return hot_pixels(self.photo.mosaic, self.photo.sensor)

    def forget(self) -> None:
        """Drops the demosaiced photo; it is computed again when asked for."""
        self.__dict__.pop("rgb", None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A pair that was read well and is not fit for training, with what was measured until then."""

    reason: Reason
    detail: str
    measured: Measurements
    sensor: Sensor
    gt_sensor: Sensor


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class AlignedPair:
    """Two photos on a common frame.

    Attributes:
        shift: (dy, dx) in sites.
        rect: what both photos show, in the noisy frame.
        gain: factor that brings the noisy photo to the GT's level.
        overexposed: (h, w) cells of `rect` that are overexposed in either photo.
        measured: the numbers so far.
    """

    truth: Prepared
    noisy: Prepared
    shift: tuple[int, int]
    rect: Rect
    overexposed: NDArray[np.bool_]
    gain: float
    measured: Measurements


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class FinishedPair:
    """A pair with its mask and the crops that are worth keeping.

    Attributes:
        valid: (h, w) cells of the pair's `rect` that may be trained on.
        crops: sorted by (y, x), in visible-area coordinates.
        measured: every number.
    """

    pair: AlignedPair
    valid: NDArray[np.bool_]
    crops: tuple[Crop, ...]
    measured: Measurements

    def pixels(self, size: int) -> Iterator[tuple[Crop, NDArray[np.uint16], NDArray[np.uint16], NDArray[np.float16],
                                                  NDArray[np.bool_]]]:  # fmt: skip
        """Each crop with noisy_raw, gt_raw (size, size), gt_rgb (3, size, size) and its mask (size, size)."""
        pair, cell = self.pair, self.pair.noisy.photo.cfa.cell
        noisy, truth = pair.noisy.photo, pair.truth.photo
        matrix = camera_to_rec2020(truth.sensor.rgb_xyz_matrix or ())
        for each in self.crops:
            y, x = each.y - noisy.sensor.origin[0], each.x - noisy.sensor.origin[1]
            top, left = y + pair.shift[0], x + pair.shift[1]
            yield (
                each,
                noisy.mosaic[y : y + size, x : x + size],
                truth.mosaic[top : top + size, left : left + size],
                rec2020_crop(pair.truth.rgb, top, left, size, matrix),
                coordinates.mask_crop(self.valid, y - pair.rect.top, x - pair.rect.left, size, cell),
            )


def align_pair(truth: Prepared, noisy: Prepared, recipe: Recipe) -> AlignedPair | Rejection:
    """Finds the shift between two photos, brings the noisy one to the GT's level, and measures how well they agree."""
    if rejection := _unfit(truth, noisy, recipe):
        return rejection
    found = align(truth.reference, noisy.reference, max_shift=recipe.max_shift)
    measured = _alignment_numbers(found)
    if found.score < recipe.min_alignment_score:
        detail = f"correlation peak {found.score:.1f}, at least {recipe.min_alignment_score:g} is needed"
        return _reject(truth, noisy, Reason.ALIGNMENT_UNCERTAIN, detail, measured)
    cfa, shape = noisy.photo.cfa, noisy.photo.mosaic.shape
    rect = coordinates.overlap(
        (shape[0], shape[1]), found.shift, cfa.period, gt_shape=truth.photo.mosaic.shape[:2]
    )
    if min(rect.height, rect.width) < recipe.crop_size:
        detail = f"both photos show {rect.height} x {rect.width} sites, a crop needs {recipe.crop_size}"
        return _reject(truth, noisy, Reason.TOO_SMALL, detail, measured)
    cells = coordinates.cells_of(rect, cfa.cell)
    overexposed = noisy.overexposed[cells] | coordinates.cells_at_shift(
        truth.overexposed, found.shift, rect, cfa.cell
    )
    measured = replace(
        measured,
        overlap_fraction=rect.height * rect.width / noisy.photo.mosaic.size,
        overexposed_fraction=float(overexposed.mean()),
    )
    gt_planes, noisy_planes = _planes(truth, noisy, found.shift, rect)
    gain = exposure.gain(gt_planes, noisy_planes, ~overexposed)
    if gain is None:
        return _reject(
            truth, noisy, Reason.EXPOSURE, "nothing in the overlap is well exposed in both", measured
        )
    loss = exposure.alignment_loss(gt_planes, noisy_planes, ~overexposed, gain)
    return AlignedPair(
        truth=truth,
        noisy=noisy,
        shift=found.shift,
        rect=rect,
        overexposed=overexposed,
        gain=gain,
        measured=replace(measured, gain=gain, alignment_loss=loss),
    )


def finish_pair(pair: AlignedPair, recipe: Recipe) -> FinishedPair | Rejection:
    """Masks what changed between the photos, scores the pair, and chooses the crops."""
    measured = pair.measured
    if measured.alignment_loss is not None and measured.alignment_loss > recipe.max_alignment_loss:
        detail = f"mean L1 {measured.alignment_loss:.4f}, at most {recipe.max_alignment_loss:g} is accepted"
        return _reject(pair.truth, pair.noisy, Reason.ALIGNMENT_LOSS, detail, measured)
    causes, change, scores = _judged(pair)
    usable = valid(causes)
    measured = replace(
        measured,
        mask_mean=float(usable.mean()),
        changed_fraction=_share(causes, Cause.CHANGED),
        underexposed_fraction=_share(causes, Cause.UNDEREXPOSED),
        hot_fraction=_share(causes, Cause.HOT_PIXEL),
        noise_gain=change.noise_gain,
        noise_floor=change.noise_floor,
        msssim=None if scores is None else frame_mean(scores, usable.shape),
    )
    if usable.mean() < recipe.min_mask_mean:
        detail = f"{usable.mean():.0%} of the overlap is valid, {recipe.min_mask_mean:.0%} is needed"
        return _reject(pair.truth, pair.noisy, Reason.MASK_MEAN, detail, measured)
    crops = _crops(pair, recipe, causes, scores)
    if not crops:
        detail = f"no crop is {recipe.min_valid_fraction:.0%} valid with a high enough MS-SSIM"
        return _reject(pair.truth, pair.noisy, Reason.NO_VALID_CROP, detail, measured)
    return FinishedPair(pair=pair, valid=usable, crops=crops, measured=measured)


def _reject(
    truth: Prepared, noisy: Prepared, reason: Reason, detail: str, measured: Measurements | None = None
) -> Rejection:
    return Rejection(
        reason=reason,
        detail=detail,
        measured=measured or Measurements(),
        sensor=noisy.photo.sensor,
        gt_sensor=truth.photo.sensor,
    )


_Scores = WindowScores[NDArray[Any]] | None


def _planes(
    truth: Prepared, noisy: Prepared, shift: tuple[int, int], rect: Rect
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(P, h, w) levels on `rect`, 8 bytes a site: of the GT as the noisy photo's filters see it, and of the noisy photo.

    Made when needed and dropped soon: they take more memory than all that is kept of a pair.
    """
    sites = noisy.photo.mosaic[rect.top : rect.bottom, rect.left : rect.right]
    return (
        planes_at_shift(truth.rgb, shift, noisy.photo.cfa, rect),
        levels.planes(replace(noisy.photo, mosaic=sites)),
    )


def _judged(pair: AlignedPair) -> tuple[NDArray[np.uint8], Change, _Scores]:
    noisy, cells = pair.noisy, coordinates.cells_of(pair.rect, pair.noisy.photo.cfa.cell)
    hot = noisy.hot[cells] | coordinates.cells_at_shift(
        pair.truth.hot, pair.shift, pair.rect, noisy.photo.cfa.cell
    )
    observed, scores = _compared(pair, ~(pair.overexposed | hot))
    change = judge(observed, noisy.photo.cfa)
    causes = combine(
        overexposed=pair.overexposed,
        underexposed=noisy.underexposed[cells],
        hot=hot,
        changed=change.changed,
        border=np.zeros_like(hot),  # `rect` holds only what both photos show
    )
    return causes, change, scores


def _compared(pair: AlignedPair, usable: NDArray[np.bool_]) -> tuple[Observed, _Scores]:
    gt_planes, matched = _planes(pair.truth, pair.noisy, pair.shift, pair.rect)
    np.multiply(matched, np.float32(pair.gain), out=matched)
    scores = None  # too small for five scales: not measured
    if min(usable.shape) >= _WINDOW:
        scores = windowed_ms_ssim(gt_planes, matched, window=_WINDOW)
    return observe(gt_planes, matched, usable), scores


_WINDOW = 192


def _share(causes: NDArray[np.uint8], cause: Cause) -> float:
    return float(np.count_nonzero(causes & np.uint8(cause)) / causes.size)


def _unfit(truth: Prepared, noisy: Prepared, recipe: Recipe) -> Rejection | None:
    one, other = truth.photo.sensor, noisy.photo.sensor
    if (one.cfa, one.origin) != (other.cfa, other.origin):
        patterns = f"GT {one.cfa} from {one.origin}, noisy {other.cfa} from {other.origin}"
        return _reject(truth, noisy, Reason.CFA_MISMATCH, patterns)
    if (one.height, one.width) != (other.height, other.width):
        sizes = f"GT {one.height} x {one.width}, noisy {other.height} x {other.width}"
        return _reject(truth, noisy, Reason.SIZE_MISMATCH, sizes)
    if one.rgb_xyz_matrix is None or other.rgb_xyz_matrix is None:
        return _reject(truth, noisy, Reason.NO_COLOR_MATRIX, f"camera {other.camera or one.camera!r}")
    for name, photo in (("GT", truth), ("noisy photo", noisy)):
        for kind, share in (("over", photo.overexposed.mean()), ("under", photo.underexposed.mean())):
            if share > recipe.max_bad_exposure:
                detail = f"{share:.0%} of the {name} is {kind}exposed, at most {recipe.max_bad_exposure:.0%} may be"
                return _reject(truth, noisy, Reason.EXPOSURE, detail)
    return None


def _alignment_numbers(found: Alignment) -> Measurements:
    return Measurements(
        shift_y=found.shift[0],
        shift_x=found.shift[1],
        subpixel_y=found.subpixel[0],
        subpixel_x=found.subpixel[1],
        alignment_score=found.score,
        rotation=found.rotation,
        scale=found.scale,
    )


def _crops(pair: AlignedPair, recipe: Recipe, causes: NDArray[np.uint8], scores: _Scores) -> tuple[Crop, ...]:
    cfa, size, rect = pair.noisy.photo.cfa, recipe.crop_size, pair.rect
    top, left = (
        start + origin for start, origin in zip(rect[:2], pair.noisy.photo.sensor.origin, strict=True)
    )
    local = coordinates.grid(Rect(0, 0, rect.height, rect.width), size, recipe.stride, cfa.period)

    def fractions(cells: NDArray[np.bool_]) -> list[float]:
        return [float(share) for share in coordinates.valid_fractions(cells, local, size, cfa.cell)]

    means = [None] * len(local)
    if scores is not None:
        tops, lefts = (local / cfa.cell).T
        means = crop_means(scores, causes.shape, tops, lefts, size / cfa.cell).tolist()
    columns = zip(
        local.tolist(),
        means,
        fractions(valid(causes)),
        *(fractions((causes & np.uint8(cause)) != 0) for cause in _CROP_CAUSES),
        strict=True,
    )
    return tuple(
        Crop(
            y=y + top,
            x=x + left,
            valid_fraction=share,
            msssim=score,
            overexposed_fraction=overexposed,
            underexposed_fraction=underexposed,
            hot_fraction=hot,
            changed_fraction=changed,
        )
        for (y, x), score, share, overexposed, underexposed, hot, changed in columns
        if share >= recipe.min_valid_fraction and _passes(score, recipe.min_msssim)
    )


_CROP_CAUSES = (Cause.OVEREXPOSED, Cause.UNDEREXPOSED, Cause.HOT_PIXEL, Cause.CHANGED)


def _passes(score: float | None, least: float | None) -> bool:
    return least is None or (score is not None and score >= least)
