"""The processing of one pair: alignment, gain, mask, MS-SSIM, crops.

    align_pair    warp between the photos, what both show (`rect`), gain, alignment loss
    finish_pair   mask of overexposed, hot, changed and misaligned cells; MS-SSIM of windows; the crops that pass
    FinishedPair.pixels   what a shard stores of each crop

Coordinates are sites of the noisy photo's frame (see `coordinates`); `crops.cut` converts those of the crops to the visible
area for the records that leave this module. A shift from frame to frame is not that from visible area to visible area where
the CFAs of the two photos start at different sites (`Sensor.first_tile_from`). The GT is compared, and stored as RGB, where the
noisy photo's sites lie in it (`warp`); its mosaic is cut at each crop's own whole shift.

The planes of both photos pass from the first step to the second, unless several pairs wait for it: they take 8 bytes per site.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging import coordinates, exposure, gains, levels
from rawnind.imaging.alignment.align import Alignment, align
from rawnind.imaging.change.cut_noise import CutNoise, match_cut_noise
from rawnind.imaging.change.mask import (
    Cause,
    Change,
    PairStatistics,
    combine,
    detect_change,
    pair_statistics,
    valid,
)
from rawnind.imaging.color import camera_to_rec2020, rec2020_crop
from rawnind.imaging.coordinates import Rect
from rawnind.imaging.crops import AlignedPair, Scores, cut
from rawnind.imaging.gates import (
    Rejection,
    color_deviation,
    color_or_level,
    light_mismatch,
    light_numbers,
    noise_numbers,
    reject,
    swapped_roles,
    unsuitable,
)
from rawnind.imaging.misalignment import WARP_SHARE, Misalignment
from rawnind.imaging.msssim import frame_mean, windowed_ms_ssim
from rawnind.imaging.pair_noise import pair_noise
from rawnind.imaging.photo import Photo
from rawnind.imaging.prepared import Prepared
from rawnind.imaging.resample import warped_planes, warped_rgb
from rawnind.imaging.warp import Warp, cells_under
from rawnind.measurements import Crop, Measurements
from rawnind.reasons import Reason
from rawnind.recipe import GtAlignment, Recipe


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class FinishedPair:
    """A pair with its mask and its crops.

    Attributes:
        pair: the aligned photos.
        valid: (h, w) bool per cell of the pair's `rect`: may be trained on.
        origins: (n, 2) int64 rows (y, x) of the crops in the noisy frame, ascending.
        crops: their records, in visible-area coordinates.
        measured: all numbers of the pair.
    """

    pair: AlignedPair
    valid: NDArray[np.bool_]
    origins: NDArray[np.int64]
    crops: tuple[Crop, ...]
    measured: Measurements

    def pixels(self, recipe: Recipe) -> Iterator[tuple[Crop, NDArray[np.uint16], NDArray[np.uint16], NDArray[np.float16],
                                                  NDArray[np.bool_]]]:  # fmt: skip
        """What a shard stores of each crop.

        Args:
            recipe: that of `finish_pair`.

        Yields:
            The crop's record; noisy_raw and gt_raw, (size, size) uint16 sensor values, views; gt_rgb, (3, size, size)
            float16 linear Rec.2020; mask, (size, size) bool, True where valid.
        """
        pair, size = self.pair, recipe.crop_size
        noisy, truth = pair.noisy.photo, pair.truth.photo
        matrix = camera_to_rec2020(truth.sensor.rgb_xyz_matrix or ())
        in_rect = coordinates.to_rect(self.origins, pair.rect)
        between = truth.sensor.first_tile_from(noisy.sensor)
        for crop, (y, x), (top, left) in zip(
            self.crops, self.origins.tolist(), in_rect.tolist(), strict=True
        ):
            here = Rect(y, x, size, size)
            shift = (crop.shift_y or 0) - between[0], (crop.shift_x or 0) - between[1]
            there = here.shifted(shift)
            mask = coordinates.mask_crop(self.valid, top, left, size, noisy.cfa.cell)
            if recipe.gt_alignment is GtAlignment.WARP:
                rgb = rec2020_crop(warped_rgb(pair.truth.rgb, pair.warp, here), 0, 0, size, matrix)
            else:
                rgb = rec2020_crop(pair.truth.rgb, there.top, there.left, size, matrix)
                mask &= pair.warp.distance(here, shift) <= recipe.residual_limit
            yield crop, noisy.mosaic[here.sites], truth.mosaic[there.sites], rgb, mask


def align_pair(truth: Prepared, noisy: Prepared, recipe: Recipe) -> AlignedPair | Rejection:
    """Measures the shift and the gain between two photos, and how well they agree with both applied.

    Args:
        truth: the GT.
        noisy: the noisy photo.
        recipe: largest shift, lowest correlation peak, crop size, largest over- and underexposed shares.
    """
    if rejection := unsuitable(truth, noisy, recipe):
        return rejection
    height, width = np.minimum(truth.photo.mosaic.shape, noisy.photo.mosaic.shape).tolist()
    truth, noisy = truth.cut_to((height, width)), noisy.cut_to((height, width))
    found = align(truth.features, noisy.features, max_shift=recipe.max_shift)
    measured = _alignment_numbers(found, truth.photo.sensor.first_tile_from(noisy.photo.sensor))
    registration = found.registration
    if registration is None or (found.rival is None and found.score < recipe.min_alignment_score):
        detail = f"correlation peak {found.score:.1f}, at least {recipe.min_alignment_score:g} is needed"
        if registration is None:
            detail = f"the photos agree at no shift of up to {recipe.max_shift} sites"
        return reject(truth, noisy, Reason.ALIGNMENT_UNCERTAIN, detail, measured)
    if registration.agreement < MIN_AGREEMENT:
        detail = f"one smooth warp explains {registration.agreement:.0%} of the patches, {MIN_AGREEMENT:.0%} are needed"
        return reject(truth, noisy, Reason.MISALIGNED, detail, measured)
    if found.rival is not None:
        detail = f"a shift of ({found.rival[0]:.1f}, {found.rival[1]:.1f}) sites fits as well as the best, as in a scene that repeats"
        return reject(truth, noisy, Reason.ALIGNMENT_UNCERTAIN, detail, measured)
    cfa, shape, warp = noisy.photo.cfa, noisy.photo.mosaic.shape, registration.warp
    rect = warp.overlap((shape[0], shape[1]), truth.photo.mosaic.shape[:2], cfa.period)
    if min(rect.height, rect.width) < recipe.crop_size:
        detail = f"both photos show {rect.height} x {rect.width} sites, a crop needs {recipe.crop_size}"
        return reject(truth, noisy, Reason.TOO_SMALL, detail, measured)
    misalignment = Misalignment.of(registration, rect, shape)
    return _match_levels(truth, noisy, warp, misalignment, rect, measured, recipe)


MIN_AGREEMENT = 0.3
"""Share of the patches that the warp has to explain. Moved objects are patches that it does not explain."""


def _match_levels(  # noqa: PLR0917
    truth: Prepared,
    noisy: Prepared,
    warp: Warp,
    misalignment: Misalignment,
    rect: Rect,
    measured: Measurements,
    recipe: Recipe,
) -> AlignedPair | Rejection:
    """Measures the gain, also of each colour, and the alignment loss with the warp applied.

    Args:
        truth: the GT.
        noisy: the noisy photo.
        warp: where the noisy photo's sites lie in the GT.
        misalignment: what it leaves.
        rect: what both photos show, in the noisy frame.
        measured: the shift's numbers.
        recipe: its limit of colour deviation.
    """
    cell = noisy.photo.cfa.cell
    of_truth = cells_under(truth.overexposed, warp, rect, cell)
    of_noisy = noisy.overexposed[coordinates.cells_of(rect, cell)]
    overexposed = of_noisy | of_truth
    measured = replace(
        measured,
        overlap_fraction=rect.height * rect.width / noisy.photo.mosaic.size,
        overexposed_fraction=float(overexposed.mean()),
        white_level_data=noisy.clipped_at,
        gt_white_level_data=truth.clipped_at,
    )
    gt_planes, noisy_planes = _planes(truth, noisy, warp, rect)
    brightest = exposure.unclipped_level(gt_planes, of_noisy, ~of_truth)
    lit = _below(gt_planes, brightest, ~overexposed)
    found = _common_gain(gt_planes, noisy_planes, lit, noisy.photo)
    if isinstance(found, str):
        return reject(truth, noisy, Reason.EXPOSURE, found, measured)
    gain, cut_noise = found
    loss = gains.alignment_loss(gt_planes, noisy_planes, ~overexposed, gain)
    measured = replace(measured, gain=gain, alignment_loss=loss)
    level = float(gt_planes[1].mean())
    if detail := swapped_roles(truth, noisy, gain, level, recipe.max_noise_ratio):
        return reject(truth, noisy, Reason.ROLES_SWAPPED, detail, measured)
    channels = None
    if cut_noise is None:
        channels = gains.channel_gains(gt_planes, noisy_planes, lit)
    if channels:
        common, limit = gain, recipe.max_color_deviation
        if limit is not None and any(abs(each.value - gain) > limit * gain for each in channels):
            usable = lit & ~noisy.hot[coordinates.cells_of(rect, cell)]
            if of_sites := gains.site_gains(truth.photo, noisy.photo, warp, rect, usable):
                common, channels = of_sites[0].value, of_sites[1]
        red, green, blue = (each.value for each in channels)
        measured = replace(measured, gain_red=red, gain_green=green, gain_blue=blue)
        if detail := color_deviation(channels, common, limit):
            lines = gains.channel_lines(gt_planes, noisy_planes, lit)
            return reject(truth, noisy, *color_or_level(lines, gain, detail, recipe), measured)
    np.multiply(noisy_planes, np.float32(gain), out=noisy_planes)
    return AlignedPair(
        truth=truth,
        noisy=noisy,
        warp=warp,
        misalignment=misalignment,
        rect=rect,
        overexposed=overexposed,
        gain=gain,
        brightest=brightest,
        cut_noise=cut_noise,
        planes=[gt_planes, noisy_planes],
        measured=measured,
    )


def _below(planes: NDArray[np.float32], level: float, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(h, w) usable cells below a level in every plane; all of them where those are few."""
    if not np.isfinite(level):
        return usable
    below = usable & (planes < np.float32(level)).all(axis=0)
    return below if np.count_nonzero(below) > _FEWEST_BELOW * np.count_nonzero(usable) else usable


_FEWEST_BELOW = 0.1
"""Share of the usable cells that a gain is measured on."""


def _common_gain(
    gt_planes: NDArray[np.float32], noisy_planes: NDArray[np.float32], lit: NDArray[np.bool_], noisy: Photo
) -> tuple[float, CutNoise | None] | str:
    """The gain of all colours, and the noise that is cut off at black; or why the gain is not known."""
    found = gains.measured_gain(gt_planes, noisy_planes, lit)
    if found is None:
        return "nothing in the overlap is well exposed in both"
    if not exposure.is_cut_at_black(noisy.mosaic):
        return found.value, None
    found, cut_noise = match_cut_noise(gt_planes, noisy_planes, lit, found.value, noisy)
    if found.error <= _MOST_GAIN_ERROR * found.value:
        return found.value, cut_noise
    known = f"known to {found.error / found.value:.1%} only" if np.isfinite(found.error) else "unknown"
    return f"the noisy photo is so dark beside its noise that its gain is {known}; {_MOST_GAIN_ERROR:.0%} is needed"


_MOST_GAIN_ERROR = 0.05
"""Standard error of the gain of a photo whose noise is cut off at black, as a share of it."""


def finish_pair(pair: AlignedPair, recipe: Recipe) -> FinishedPair | Rejection:
    """Computes the pair's mask and MS-SSIM, and selects its crops."""
    causes, change, scores = _find_causes(pair, recipe)
    usable = valid(causes)
    measured = replace(
        pair.measured,
        mask_mean=float(usable.mean()),
        changed_fraction=_share(causes, Cause.CHANGED),
        underexposed_fraction=_share(causes, Cause.UNDEREXPOSED),
        hot_fraction=_share(causes, Cause.HOT_PIXEL),
        misaligned_fraction=_share(causes, Cause.MISALIGNED),
        residual=pair.misalignment.largest,
        noise_gain=change.noise_gain,
        noise_floor=change.noise_floor,
        expected_loss=change.expected_loss + (pair.cut_noise.bias if pair.cut_noise else 0.0),
        gt_contrast_red=float(pair.truth.contrast[0]),
        gt_contrast_blue=float(pair.truth.contrast[2]),
        contrast_red=float(pair.noisy.contrast[0]),
        contrast_blue=float(pair.noisy.contrast[2]),
        msssim=None if scores is None else frame_mean(scores, usable.shape),
        **light_numbers(change.light, pair.noisy, pair.gain),
        **noise_numbers(pair.truth, pair_noise(pair, usable), pair.gain),
    )
    if found := _unfit(causes, change, measured, recipe):
        return reject(pair.truth, pair.noisy, *found, measured)
    origins, crops = cut(pair, recipe, causes, scores)
    if not crops:
        return reject(pair.truth, pair.noisy, *_no_crop(pair, recipe, causes, scores), measured)
    return FinishedPair(pair=pair, valid=usable, origins=origins, crops=crops, measured=measured)


def _unfit(
    causes: NDArray[np.uint8], change: Change, measured: Measurements, recipe: Recipe
) -> tuple[Reason, str] | None:
    """Why a pair with all its numbers is not fit for training; None where it is.

    Where too much is overexposed, edges decide over levels and colours: then that is the reason.
    """
    exposed = 1 - (measured.overexposed_fraction or 0.0)
    if exposed >= recipe.min_mask_mean and (found := light_mismatch(change.light, measured, recipe)):
        return found
    loss, usable = measured.unexplained_loss, valid(causes).mean()
    if loss is not None and loss > recipe.max_alignment_loss:
        return Reason.ALIGNMENT_LOSS, (
            f"mean L1 {measured.alignment_loss:.4f}, of which noise explains {measured.expected_loss:.4f}; at most "
            f"{recipe.max_alignment_loss:g} more is accepted"
        )
    if usable >= recipe.min_mask_mean:
        return None
    if valid(causes & ~np.uint8(Cause.MISALIGNED)).mean() >= recipe.min_mask_mean:
        return Reason.MISALIGNED, (
            f"more than {recipe.max_residual:g} sites are left on {_share(causes, Cause.MISALIGNED):.0%} of the "
            f"overlap, up to {measured.residual:.1f}, or a smooth warp may be wrong there by more than {WARP_SHARE * recipe.residual_limit:g}"
        )
    return Reason.MASK_MEAN, f"{usable:.0%} of the overlap is valid, {recipe.min_mask_mean:.0%} is needed"


def _no_crop(
    pair: AlignedPair, recipe: Recipe, causes: NDArray[np.uint8], scores: Scores
) -> tuple[Reason, str]:
    """Why no crop of a pair was kept: a whole shift leaves too much where the warp would not, or another gate."""
    if recipe.gt_alignment is GtAlignment.INTEGER:
        warped = replace(recipe, gt_alignment=GtAlignment.WARP)
        if cut(pair, warped, causes, scores)[1]:
            detail = f"whole shifts leave more than {recipe.residual_limit:g} sites in most of every crop"
            return Reason.MISALIGNED, detail
    detail = f"no crop is {recipe.min_valid_fraction:.0%} valid with a high enough MS-SSIM"
    return Reason.NO_VALID_CROP, detail


def _planes(
    truth: Prepared, noisy: Prepared, warp: Warp, rect: Rect
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Planes of both photos on what both show.

    Args:
        truth: the GT.
        noisy: the noisy photo.
        warp: where the noisy photo's sites lie in the GT.
        rect: whole tiles of the noisy frame.

    Returns:
        Two (P, h, w) float32 arrays of levels, one sample per cell of `rect`: of the GT, sampled with the noisy photo's CFA;
        and of the noisy photo, without the gain.
    """
    return (
        warped_planes(truth.rgb, warp, noisy.photo.cfa, rect),
        levels.planes(noisy.photo, rect),
    )


def _find_causes(pair: AlignedPair, recipe: Recipe) -> tuple[NDArray[np.uint8], Change, Scores]:
    """(h, w) `Cause` bits per cell of the pair's `rect`, the change, and the MS-SSIM of windows."""
    noisy, cells = pair.noisy, coordinates.cells_of(pair.rect, pair.noisy.photo.cfa.cell)
    cell = noisy.photo.cfa.cell
    hot = noisy.hot[cells] | cells_under(pair.truth.hot, pair.warp, pair.rect, cell)
    statistics, scores = _compare(pair, ~(pair.overexposed | hot))
    change = detect_change(statistics, noisy.photo.cfa, brightest=pair.brightest)
    causes = combine(
        overexposed=pair.overexposed,
        underexposed=noisy.underexposed[cells],
        hot=hot,
        changed=change.changed,
        misaligned=pair.misalignment.beyond(recipe.residual_limit, hot.shape, cell),
    )
    return causes, change, scores


def _compare(pair: AlignedPair, usable: NDArray[np.bool_]) -> tuple[PairStatistics, Scores]:
    """Change statistics and MS-SSIM of the pair."""
    if pair.planes:
        gt_planes, matched = pair.planes
        pair.planes.clear()
    else:
        gt_planes, matched = _planes(pair.truth, pair.noisy, pair.warp, pair.rect)
        np.multiply(matched, np.float32(pair.gain), out=matched)
    scores = None  # planes smaller than a window: not measured
    if min(usable.shape) >= _WINDOW:
        scores = windowed_ms_ssim(gt_planes, matched, window=_WINDOW)
    if pair.cut_noise is not None:
        gt_planes = pair.cut_noise.seen(gt_planes)
    return pair_statistics(gt_planes, matched, usable), scores


# samples of a plane: the windows of the Trio pipeline, whose threshold of 0.7 users know; MS-SSIM needs more than 160
_WINDOW = 192


def _share(causes: NDArray[np.uint8], cause: Cause) -> float:
    """Share of the cells that have a cause, 0..1."""
    return float(np.count_nonzero(causes & np.uint8(cause)) / causes.size)


def _alignment_numbers(found: Alignment, between: tuple[int, int]) -> Measurements:
    """The shift from visible area to visible area; `between` is `Sensor.first_tile_from`."""
    return Measurements(
        shift_y=found.shift[0] + between[0],
        shift_x=found.shift[1] + between[1],
        subpixel_y=found.subpixel[0],
        subpixel_x=found.subpixel[1],
        alignment_score=found.score,
        rotation=found.rotation,
        scale=found.scale,
    )
