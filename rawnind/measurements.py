"""Records of what is measured on a pair and on each of its crops."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]

GROWING = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")
"""For records that later versions add numbers to: a journal with numbers that this version does not know can be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """Every number measured on a pair; None means not measured.

    Attributes:
        shift_y: whole sites, in visible-area coordinates: GT row y + shift_y shows what noisy row y shows.
        shift_x: the same for columns.
        subpixel_y: what would have to be added to shift_y, in sites.
        subpixel_x: what would have to be added to shift_x, in sites.
        alignment_score: height of the correlation peak over its surroundings, in standard deviations.
        alignment_loss: mean L1 of the gain-matched, aligned pair, in levels; with the GT resampled where the noisy photo's
            sites lie in it.
        rotation: degrees that the noisy photo is turned against the GT, counter-clockwise.
        scale: size of the noisy photo's content relative to the GT's, minus one.
        gain: factor that brings the noisy photo to the GT's level.
        overlap_fraction: share of the noisy photo that the GT shows too; the rest is the border that alignment leaves.
        mask_mean: share of the overlap that is valid.
        msssim: mean of the MS-SSIM map over the overlap.
        overexposed_fraction: share of the overlap that is overexposed in either photo.
        underexposed_fraction: share of the overlap that is underexposed in the noisy photo.
        hot_fraction: share of the overlap that hot pixels spoil.
        changed_fraction: share of the overlap where the scene differs.
        misaligned_fraction: share of the overlap where local shifts show that more is left than the recipe allows.
        residual: at least so many sites are left somewhere with the warp applied.
        noise_gain: variance per level of the gain-matched difference (shot noise).
        noise_floor: variance of the gain-matched difference at level zero.
        expected_loss: the alignment loss that noise alone would give, in levels.
        gain_red: as `gain`, of red alone.
        gain_green: of green alone.
        gain_blue: of blue alone.
        gt_contrast_red: factor that gives the GT's red the contrast of its green in demosaicing; 1/8..8.
        gt_contrast_blue: the same for blue.
        contrast_red: factor that gives the noisy photo's red the contrast of its green in demosaicing; 1/8..8.
        contrast_blue: the same for blue.
        noise_a_red: of the noisy photo's red sites; their variance is noise_a_red * level + noise_b_red, in levels squared.
        noise_b_red: variance at level 0, in levels squared.
        noise_a_green: of green.
        noise_b_green: of green.
        noise_a_blue: of blue.
        noise_b_blue: of blue.
        noise_lines: of the noisy photo's red, green and blue sites five numbers each: a, b, their standard errors, and the
            errors' covariance; also where they are too uncertain for the numbers above. Many photos together are not.
        gt_noise_a_red: the same of the GT, from it alone.
        gt_noise_b_red: of red.
        gt_noise_a_green: of green.
        gt_noise_b_green: of green.
        gt_noise_a_blue: of blue.
        gt_noise_b_blue: of blue.
        white_level_data: sensor value at which the noisy photo's data clip; None where nothing clips.
        gt_white_level_data: the same of the GT.
        light_drift: largest relative deviation of the light between the photos from its mean over the overlap.
        offset_red: the noisy photo's level of red where the GT has 0; its black level or its response differs.
        offset_green: of green.
        offset_blue: of blue.
        offset_error_red: standard error of `offset_red`.
        offset_error_green: of `offset_green`.
        offset_error_blue: of `offset_blue`.
    """

    __pydantic_config__ = GROWING

    shift_y: int | None = None
    shift_x: int | None = None
    subpixel_y: float | None = None
    subpixel_x: float | None = None
    alignment_score: float | None = None
    alignment_loss: NonNegative | None = None
    rotation: float | None = None
    scale: float | None = None
    gain: NonNegative | None = None
    overlap_fraction: Fraction | None = None
    mask_mean: Fraction | None = None
    msssim: Annotated[float, Field(ge=-1, le=1)] | None = None
    overexposed_fraction: Fraction | None = None
    underexposed_fraction: Fraction | None = None
    hot_fraction: Fraction | None = None
    changed_fraction: Fraction | None = None
    misaligned_fraction: Fraction | None = None
    residual: NonNegative | None = None
    noise_gain: float | None = None
    noise_floor: float | None = None
    expected_loss: NonNegative | None = None
    gain_red: NonNegative | None = None
    gain_green: NonNegative | None = None
    gain_blue: NonNegative | None = None
    gt_contrast_red: NonNegative | None = None
    gt_contrast_blue: NonNegative | None = None
    contrast_red: NonNegative | None = None
    contrast_blue: NonNegative | None = None
    noise_a_red: NonNegative | None = None
    noise_b_red: NonNegative | None = None
    noise_a_green: NonNegative | None = None
    noise_b_green: NonNegative | None = None
    noise_a_blue: NonNegative | None = None
    noise_b_blue: NonNegative | None = None
    noise_lines: tuple[float, ...] | None = None
    gt_noise_a_red: NonNegative | None = None
    gt_noise_b_red: NonNegative | None = None
    gt_noise_a_green: NonNegative | None = None
    gt_noise_b_green: NonNegative | None = None
    gt_noise_a_blue: NonNegative | None = None
    gt_noise_b_blue: NonNegative | None = None
    white_level_data: NonNegative | None = None
    gt_white_level_data: NonNegative | None = None
    light_drift: NonNegative | None = None
    offset_red: float | None = None
    offset_green: float | None = None
    offset_blue: float | None = None
    offset_error_red: NonNegative | None = None
    offset_error_green: NonNegative | None = None
    offset_error_blue: NonNegative | None = None

    @property
    def unexplained_loss(self) -> float | None:
        """The part of the alignment loss that noise does not explain, in levels; all of it where no noise was measured."""
        if self.alignment_loss is None:
            return None
        return max(self.alignment_loss - (self.expected_loss or 0.0), 0.0)


ALWAYS_MEASURED = (
    "shift_y",
    "shift_x",
    "subpixel_y",
    "subpixel_x",
    "alignment_score",
    "alignment_loss",
    "gain",
    "mask_mean",
)
"""What a collected pair cannot be without; every other measurement may be None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """A square of an aligned pair.

    Attributes:
        y: first row in the noisy photo's visible area.
        x: first column in the noisy photo's visible area.
        shift_y: whole sites: GT row y + shift_y shows what noisy row y shows, at the crop's middle. None in folders of
            earlier versions, as the next three: there the pair's counts for all its crops.
        shift_x: the same for columns.
        subpixel_y: what would have to be added to shift_y at the crop's middle, in sites.
        subpixel_x: what would have to be added to shift_x.
        residual: at least so many sites are left somewhere in the crop between the noisy photo and the stored RGB of the
            GT; None where nothing could be measured, and in folders of earlier versions.
        valid_fraction: share of pixels that are valid for training.
        msssim: mean of the pair's MS-SSIM map over the crop; None where it was not measured.
        overexposed_fraction: share of pixels that are overexposed in either photo.
        underexposed_fraction: share of pixels where the noisy photo shows nothing; they stay valid.
        hot_fraction: share of pixels that a hot pixel spoils.
        changed_fraction: share of pixels where the scene differs between the photos.
        misaligned_fraction: share of pixels where more is left than the recipe allows; None in folders of earlier versions.
    """

    __pydantic_config__ = GROWING

    y: Count
    x: Count
    valid_fraction: Fraction
    msssim: Annotated[float, Field(ge=-1, le=1)] | None
    overexposed_fraction: Fraction
    underexposed_fraction: Fraction
    hot_fraction: Fraction
    changed_fraction: Fraction
    shift_y: int | None = None
    shift_x: int | None = None
    subpixel_y: float | None = None
    subpixel_x: float | None = None
    residual: NonNegative | None = None
    misaligned_fraction: Fraction | None = None
