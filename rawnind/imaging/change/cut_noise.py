"""Noise that a sensor cuts off at black: what it does to means and variances, and the gain of such a pair.

At high ISO noise drives dark sites below sensor value 0, where it is cut off. Their mean is then too bright, their variance too
small, and the ratio of the photos' means is no gain. For a normal deviate of mean g and variance s^2 that is cut off below c,
with z = (g - c) / s and m = phi(z) + z Phi(z):

    mean        c + s m
    variance    s^2 ((1 + z^2) Phi(z) + z phi(z) - m^2)
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from rawnind.imaging import gains
from rawnind.imaging.change.moments import block_moments
from rawnind.imaging.change.noise import NoiseModel, fit_noise
from rawnind.imaging.gains import Gain
from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import Number
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa

Float64s = NDArray[np.float64]
Planes = NDArray[np.float32]

_SITES = {Cfa.BAYER: (1, 1, 1, 1), Cfa.X_TRANS: (2, 5, 2)}
"""Sites that a sample of each plane is the mean of."""
_ROUNDS = 20
_CONVERGED = 0.003  # relative change of the gain
_LEAST_STEP = 0.01  # relative change of the gain, from which on what it did is no chance
_LEAST_SHOWN = 0.1
_STEPS = 2048  # of the table of cut means
_BAND, _BANDS = 64, 8  # rows of a plane that the noise is measured on, and how many such bands at most
_BISECTIONS = 40
_LEAST, _MOST = 1e-10, 1e2  # variances in levels squared


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class CutNoise:
    """Noise of a gain-matched photo that is cut off at black.

    Attributes:
        noise: variance of the difference as it would be if nothing were cut off.
        black: (P,) level of sensor value 0, gain-matched; below 0.
        sites: (P,) sites that a sample of each plane is the mean of.
        bias: mean absolute difference between the levels that the noisy photo has on average and the true ones.
    """

    noise: NoiseModel
    black: Float64s
    sites: Float64s
    bias: float = 0.0

    def seen(self, planes: Planes) -> Planes:
        """Levels that the noisy photo has on average where the ground truth has these.

        Args:
            planes: (P, h, w) float32 levels of the ground truth.
        """
        least, most = min(float(planes.min()), 0.0), float(planes.max())
        grid = np.linspace(least, most, _STEPS)
        variance = self.noise.variance(np.broadcast_to(grid, (len(planes), _STEPS)).astype(np.float32))
        table = np.stack(
            [
                _cut_mean(grid, np.sqrt(own * sites), black)
                for own, sites, black in zip(variance, self.sites, self.black, strict=True)
            ]
        ).astype(np.float32)
        out = np.empty_like(planes)
        _look_up(planes, np.float32(least), np.float32((_STEPS - 1) / max(most - least, 1e-9)), table, out)
        return out


def match_cut_noise(
    ground_truth: Planes, noisy: Planes, usable: NDArray[np.bool_], gain: float, photo: Photo
) -> tuple[Gain, CutNoise]:
    """The gain of a pair whose noisy photo is cut off at black, and its noise.

    Each round fits the noise at the gain found so far, and compares the noisy photo with what the ground truth would look like
    with such noise. The darker the scene beside the noise, the less of a wrong gain shows: the secant through two rounds says how
    much, for the next round's step and for the gain's standard error.

    Args:
        ground_truth: (P, h, w) float32 levels on the noisy frame.
        noisy: (P, h, w) float32 levels, not gain-matched.
        usable: (h, w) bool.
        gain: of the means.
        photo: the noisy one.

    Returns:
        The gain, whose error is infinite where the rounds find none; and the noise of the photo with the gain applied.
    """
    ground_truth, noisy, usable = _sampled(ground_truth), _sampled(noisy), _sampled(usable[None])[0]
    level, sites = np.array(photo.sensor.black_level), np.array(_SITES[photo.cfa], np.float64)
    black = -level / (photo.sensor.white_level - level)
    found = Gain(gain, float("inf"), 1.0)
    shown = 1.0  # share of a wrong gain's logarithm that the comparison shows
    step, off = 0.0, 0.0  # the last step, and what was shown before it
    for _ in range(_ROUNDS):
        matched = noisy * np.float32(found.value)
        seen = _measure(ground_truth, matched, usable, black * found.value, sites).seen(ground_truth)
        ratio = gains.measured_gain(seen, matched, usable)
        if ratio is None:
            break
        left = float(np.log(ratio.value))
        if abs(step) > _LEAST_STEP:
            shown = float(np.clip((off - left) / step, _LEAST_SHOWN, 1.0))
        step, off = left / shown, left
        value = found.value * float(np.exp(step))
        found = Gain(value, float("inf"), ratio.freedom)
        if abs(step) < _CONVERGED:
            found = found._replace(error=value * ratio.error / ratio.value / shown)
            break
    matched = noisy * np.float32(found.value)
    noise = _measure(ground_truth, matched, usable, black * found.value, sites)
    bias = np.abs(noise.seen(ground_truth) - ground_truth)[:, usable].mean()
    return found, replace(noise, bias=float(bias))


def _measure(
    ground_truth: Planes, matched: Planes, usable: NDArray[np.bool_], black: Float64s, sites: Float64s
) -> CutNoise:
    """The noise of the gain-matched photo, from variances within blocks; arguments as in `match_cut_noise` and `CutNoise`."""
    moments = block_moments(ground_truth, matched, usable)
    noise = fit_noise(
        moments,
        lambda plane, levels, variances: _whole_variance(levels, variances, black[plane], sites[plane]),
    )
    return CutNoise(noise=noise, black=black, sites=sites)


def _sampled(planes: NDArray[Number]) -> NDArray[Number]:
    """Bands of rows, spread over a frame that has more of them than are needed."""
    height = planes.shape[1]
    if height <= _BAND * _BANDS:
        return planes
    tops = np.linspace(0, height - _BAND, _BANDS).astype(int)
    return planes[:, (tops[:, None] + np.arange(_BAND)).ravel()]


def _cut_mean(level: Float64s, sigma: Float64s, black: float) -> Float64s:
    """(n,) means of (n,) levels whose noise is cut off below `black`."""
    z = (level - black) / sigma
    mean: Float64s = black + sigma * (_density(z) + z * ndtr(z))
    return mean


def _cut_variance(level: Float64s, variance: Float64s, black: float) -> Float64s:
    """(n,) variances of single sites at (n,) levels once they are cut off below `black`, from (n,) variances before."""
    z = (level - black) / np.sqrt(variance)
    below, density = ndtr(z), _density(z)
    found: Float64s = variance * ((1 + z * z) * below + z * density - (density + z * below) ** 2)
    return found


def _whole_variance(level: Float64s, variance: Float64s, black: float, sites: float) -> Float64s:
    """(n,) variances before they were cut off below `black`, by bisection from those after, at (n,) levels; of means of `sites`."""
    least, most = np.full_like(variance, _LEAST), np.full_like(variance, _MOST)
    for _ in range(_BISECTIONS):
        middle = np.sqrt(least * most)
        more = _cut_variance(level, middle * sites, black) < variance * sites
        least, most = np.where(more, middle, least), np.where(more, most, middle)
    return np.sqrt(least * most)


def _density(z: Float64s) -> Float64s:
    found: Float64s = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return found


@kernel(fastmath={"contract"})
def _look_up(planes: Planes, least: np.float32, per_level: np.float32, table: Planes, out: Planes) -> None:
    """Linear interpolation in a table of each plane.

    Args:
        planes: (P, h, w) levels.
        least: level of the first entry.
        per_level: entries per level.
        table: (P, n).
        out: (P, h, w), written.
    """
    last = table.shape[1] - 2
    for p in range(len(planes)):
        entries = table[p]
        for y in range(planes.shape[1]):
            row, target = planes[p, y], out[p, y]
            for x in range(len(row)):
                at = (row[x] - least) * per_level
                i = min(max(int(at), 0), last)
                target[x] = entries[i] + (at - np.float32(i)) * (entries[i + 1] - entries[i])
