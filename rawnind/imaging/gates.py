"""Gates: why two photos are rejected as a pair, before and while they are compared, and the record of a rejection."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from rawnind.imaging.change.light import Light
from rawnind.imaging.exposure import is_cut_at_black
from rawnind.imaging.gains import Gain
from rawnind.imaging.pair_noise import PairNoise
from rawnind.imaging.prepared import Prepared
from rawnind.measurements import Measurements
from rawnind.reasons import Reason
from rawnind.recipe import Recipe
from rawnind.records import Sensor

FALSE_ALARM = 1e-5
"""Probability that noise alone takes a measured offset, drift or gain of a colour beyond its limit."""


def margin(error: Any, freedom: Any) -> Any:
    """What noise alone exceeds, in either direction, with the probability `FALSE_ALARM` (Student's t).

    Args:
        error: standard error; a number or an array, as the result.
        freedom: its degrees of freedom.

    >>> round(float(margin(1.0, 1e6)), 2), round(float(margin(1.0, 8.0)), 2)
    (4.42, 9.78)
    """
    return error * -stdtrit(freedom, FALSE_ALARM / 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A pair of readable photos that fails a check.

    Attributes:
        reason: the failed check.
        detail: the measured value and its limit, for people.
        measured: what was measured before the check; the rest is None.
        sensor: of the noisy photo.
        gt_sensor: of the GT.
    """

    reason: Reason
    detail: str
    measured: Measurements
    sensor: Sensor
    gt_sensor: Sensor


def reject(
    truth: Prepared, noisy: Prepared, reason: Reason, detail: str, measured: Measurements | None = None
) -> Rejection:
    """A rejection with both photos' sensors.

    Args:
        truth: the GT.
        noisy: the noisy photo.
        reason: the failed check.
        detail: the measured value and its limit.
        measured: what was measured before; None for nothing.
    """
    return Rejection(
        reason=reason,
        detail=detail,
        measured=measured or Measurements(),
        sensor=noisy.photo.sensor,
        gt_sensor=truth.photo.sensor,
    )


def unsuitable(truth: Prepared, noisy: Prepared, recipe: Recipe) -> Rejection | None:
    """Checks that need no alignment: CFA, size, colour matrix, exposure; None where all pass.

    Args:
        truth: the GT.
        noisy: the noisy photo.
        recipe: largest over- and underexposed shares.
    """
    one, other = truth.photo.sensor, noisy.photo.sensor
    if one.cfa is not other.cfa:
        return reject(truth, noisy, Reason.CFA_MISMATCH, f"GT {one.cfa}, noisy {other.cfa}")
    if (one.height, one.width) != (other.height, other.width):
        sizes = f"GT {one.height} x {one.width}, noisy {other.height} x {other.width}"
        return reject(truth, noisy, Reason.SIZE_MISMATCH, sizes)
    if one.rgb_xyz_matrix is None or other.rgb_xyz_matrix is None:
        return reject(truth, noisy, Reason.NO_COLOR_MATRIX, f"camera {other.camera or one.camera!r}")
    if one.camera and other.camera and one.camera != other.camera:
        cameras = f"GT {one.camera!r}, noisy {other.camera!r}"
        return reject(truth, noisy, Reason.CAMERA_MISMATCH, cameras)
    for name, photo in (("GT", truth), ("noisy photo", noisy)):
        for kind, share in (("over", photo.overexposed.mean()), ("under", photo.underexposed.mean())):
            if share > recipe.max_bad_exposure:
                detail = f"{share:.0%} of the {name} is {kind}exposed, at most {recipe.max_bad_exposure:.0%} may be"
                return reject(truth, noisy, Reason.EXPOSURE, detail)
    return None


def noise_numbers(
    truth: Prepared, found: tuple[PairNoise, PairNoise, PairNoise] | None, gain: float
) -> dict[str, Any]:
    """The noise of both photos by the names of `Measurements`; None where it was not measured.

    The GT's is of the GT alone. It counts where the pair shows that the GT's texture is small beside it.

    Args:
        truth: the GT.
        found: of the pair.
        gain: factor from the noisy photo's levels to the GT's.
    """
    numbers: dict[str, Any] = {}
    if found is not None:
        lines = tuple(number for color in found for number in color.noisy.line)
        numbers["noise_lines"] = lines if np.isfinite(lines).all() else None
    for color, of_pair, alone in zip(
        ("red", "green", "blue"), found or (None,) * 3, truth.noise or (None,) * 3, strict=True
    ):
        if of_pair is None:
            continue
        numbers[f"noise_a_{color}"], numbers[f"noise_b_{color}"] = of_pair.noisy.measured
        texture = gain**2 * (of_pair.texture + 2 * of_pair.texture_error)
        if alone and texture <= _MOST_TEXTURE * alone.variance(gain * of_pair.level):
            numbers[f"gt_noise_a_{color}"], numbers[f"gt_noise_b_{color}"] = alone.measured
    return numbers


_MOST_TEXTURE = 0.2
"""Share of the GT's noise, in residuals that show about five times as much texture as those that its noise is measured with."""


def swapped_roles(truth: Prepared, noisy: Prepared, gain: float, level: float, limit: float | None) -> str:
    """By how much the GT is noisier than the noisy photo at the same level; empty within the limit.

    Both estimates contain texture, and it may be all that the GT's shows: what its two windows differ by is taken off, and twice the
    standard error of either is allowed.

    Args:
        truth: the GT.
        noisy: the noisy photo.
        gain: factor from the noisy photo's levels to the GT's.
        level: of green in the GT, at which the noise of green is compared.
        limit: largest ratio of the variances; None for none.
    """
    if limit is None or truth.noise is None or noisy.noise is None:
        return ""
    of_truth, of_noisy = truth.noise[1], noisy.noise[1]
    own = max(0.0, of_truth.variance(level) - 2 * of_truth.error(level)) * min(
        1.0, max(0.0, 1 - of_truth.texture)
    )
    other = gain**2 * (of_noisy.variance(level / gain) + 2 * of_noisy.error(level / gain))
    if other <= 0 or own <= limit * other:
        return ""
    return f"at level {level:.3f} the GT has {own / other:.1f} times the noise variance of the noisy photo; at most {limit:g} is accepted"


def light_numbers(light: Light | None, noisy: Prepared, gain: float) -> dict[str, Any]:
    """Drift and offsets by the names of `Measurements`; no offsets where noise is cut off at black, which raises dark means.

    Args:
        light: of the pair; None where it was not measurable.
        noisy: the noisy photo.
        gain: factor from its levels to the GT's.
    """
    if light is None:
        return {}
    numbers: dict[str, Any] = {"light_drift": light.drift}
    if not is_cut_at_black(noisy.photo.mosaic):
        for number, color in enumerate(("red", "green", "blue")):
            numbers[f"offset_{color}"] = float(light.offset[number]) / gain
            numbers[f"offset_error_{color}"] = float(light.offset_error[number]) / gain
    return numbers


def light_mismatch(light: Light | None, measured: Measurements, recipe: Recipe) -> tuple[Reason, str] | None:
    """What the light or the black levels differ by beyond the recipe's limits; None within them.

    Noise alone must not reject a good pair: the `margin` is taken off. Good pairs drift by less than half of the limit, so that is
    what noise must not explain beyond; their offsets come close to the limit.

    Args:
        light: of the pair; None where it was not measurable.
        measured: with `light_numbers`.
        recipe: the limits.
    """
    if light is None:
        return None
    limit = recipe.max_light_drift
    sure = light.drift - margin(light.drift_error, light.drift_freedom)
    if limit is not None and light.drift > limit and sure > limit / 2:
        detail = f"the light differs by {light.drift:.0%} within the frame, at most {limit:.0%} is accepted"
        return Reason.LIGHT_MISMATCH, detail
    limit = recipe.max_level_offset
    if limit is None or measured.offset_green is None:
        return None
    beyond = (abs(light.offset) - margin(light.offset_error, light.offset_freedom)) / np.maximum(
        light.mean, 1e-6
    )
    if beyond.max() <= limit:
        return None
    shares = light.offset / np.maximum(light.mean, 1e-6)
    shown = ", ".join(
        f"{name} {share:+.0%}" for name, share in zip(("red", "green", "blue"), shares, strict=True)
    )
    return (
        Reason.LEVEL_MISMATCH,
        f"black is off by these shares of the mean level: {shown}; at most {limit:.0%} is accepted",
    )


def color_or_level(
    lines: tuple[tuple[float, float], ...] | None, gain: float, deviation: str, recipe: Recipe
) -> tuple[Reason, str]:
    """Whether colours whose gains differ do so for light of another colour, or for black levels that differ.

    Args:
        lines: (factor, offset) of red, green and blue, from the noisy photo's levels to the GT's; None where not measurable.
        gain: of all of them together.
        deviation: what differs, from `color_deviation`.
        recipe: its limit of the colours' deviation.
    """
    if lines is None or recipe.max_level_offset is None or recipe.max_color_deviation is None:
        return Reason.COLOR_MISMATCH, deviation
    factors = np.array([factor for factor, _ in lines])
    if np.abs(factors / factors.mean() - 1).max() > recipe.max_color_deviation / 2:
        return Reason.COLOR_MISMATCH, deviation
    offsets = ", ".join(
        f"{name} {-offset / gain:+.4f}"
        for name, (_, offset) in zip(("red", "green", "blue"), lines, strict=True)
    )
    detail = (
        f"the noisy photo has these levels where the GT is black: {offsets}; without them the colours agree"
    )
    return Reason.LEVEL_MISMATCH, detail


def color_deviation(channels: tuple[Gain, ...], gain: float, limit: float | None) -> str:
    """What differs in colour by more than the limit; empty where nothing does.

    Args:
        channels: of red, green and blue.
        gain: of all of them together.
        limit: relative; None for none.
    """
    if limit is None or all(
        abs(each.value - gain) - margin(each.error, each.freedom) <= limit * gain for each in channels
    ):
        return ""
    shown = ", ".join(
        f"{name} x{each.value / gain:.2f}"
        for name, each in zip(("red", "green", "blue"), channels, strict=True)
    )
    return f"gains of the colours against the pair's: {shown}; at most {limit:.0%} is accepted"
