"""Alignment: the shift between two photos in sites, and whether they show the same scene at all.

1. Cross-correlation of the photos' clipped local contrast (`features`), at a reduced resolution. Its highest peaks are the
   candidates for the shift.
2. Where there is more than one candidate (a large object moved, or a texture repeats), the one at which most patches of the
   photo correlate is selected.
3. Lucas-Kanade registration refines it to a fraction of a site, and measures rotation and scale (`registration`).
4. Where a texture repeats, it has to fit better than at each other period (`rivals`).

The mosaics are never resampled. A *reduced pixel* is one sample of the reduced green: 4x4 sites (Bayer) or 3x3 (X-Trans).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from rawnind.imaging.alignment.features import Features, extract_features
from rawnind.imaging.alignment.registration import Registration, register
from rawnind.imaging.alignment.repetition import repeats
from rawnind.imaging.alignment.rivals import choose
from rawnind.imaging.jit import kernel

__all__ = ["Alignment", "Features", "align", "extract_features"]

# Thresholds were set with benchmarks/bench_align.py, on drawn pairs at ISO 100 to 65535 and as many unrelated photos.
MIN_CANDIDATE_HEIGHT = 6.0  # standard deviations; noise alone rarely reaches it, unrelated photos reach 7
MAX_CANDIDATES = 4
MANY_CANDIDATES = 24  # of each correlation, where more than one shift may fit
MAX_STARTS = 6
MAX_LAGS = 4
AGREEMENT_PATCH = 16  # reduced pixels a side
MAX_PATCHES = 1500  # bounds the time on large photos
UNRIVALLED = 0.5  # margin over the second candidate from which no other start is tried
MIN_REACH = 48  # reduced pixels: enough of the correlation to estimate its standard deviation
MIN_SIDE = 16  # reduced pixels; a smaller photo is not aligned


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """The geometric relation of two photos.

    Attributes:
        shift: (dy, dx) whole sites: GT site (y + dy, x + dx) shows what noisy site (y, x) shows.
        subpixel: (dy, dx) in sites, to be added to `shift`; measured at the middle of the noisy photo.
        score: height of the correlation peak in standard deviations of the correlation; 0 where another shift fits as well, where
            the photos have no contrast, and where the best shift exceeds the largest allowed.
        rotation: of the noisy photo's content against the GT's, degrees counter-clockwise; None where not measurable.
        scale: size of the noisy photo's content relative to the GT's, minus one; None where not measurable.
        registration: the whole transform with the evidence for it; None where nothing was registered.
        rival: another (dy, dx) in sites that fits as well, as in a scene that repeats; None where none does.
    """

    shift: tuple[int, int]
    subpixel: tuple[float, float]
    score: float
    rotation: float | None
    scale: float | None
    registration: Registration | None
    rival: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    """A correlation peak.

    Attributes:
        shift: (dy, dx) in reduced pixels.
        fraction: (dy, dx) sub-pixel offset of the vertex, -0.5..0.5 reduced pixels.
        height: in standard deviations of the correlation.
    """

    shift: tuple[int, int]
    fraction: tuple[float, float]
    height: float


_UNALIGNED = Alignment(
    shift=(0, 0), subpixel=(0.0, 0.0), score=0.0, rotation=None, scale=None, registration=None
)


def align(ground_truth: Features, noisy: Features, *, max_shift: int = 128) -> Alignment:
    """Measures the shift between two photos of one size and CFA.

    Unrelated photos score up to 7, whatever their size. A true pair scores more the more sites it has: from 9 at 512x768
    sites of night sky at ISO 57815, usually above 20, to some hundred at 24 MP. A threshold of 8 separates them
    (benchmarks/bench_align.py).

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the photo in whose frame the shift is given.
        max_shift: largest shift in sites, in each direction, that is searched; never more than half the photo's size.

    Raises:
        ValueError: The photos differ in size or CFA.
    """
    if (
        ground_truth.photo.mosaic.shape != noisy.photo.mosaic.shape
        or ground_truth.photo.cfa != noisy.photo.cfa
    ):
        raise ValueError("only photos of one size and one CFA can be aligned")
    if min(noisy.green.shape) < MIN_SIDE:
        return _UNALIGNED
    # 1.5 times the largest shift, so that a peak beyond it is recognised as too far
    reach = max(MIN_REACH, -(-3 * max_shift // (2 * noisy.reduction)))
    product = ground_truth.spectrum * noisy.spectrum.conj()
    candidates = _candidates(_correlate(product, noisy.green.shape, reach))
    if not candidates:
        return _UNALIGNED
    agreement = _agreements(ground_truth, noisy, candidates)
    winner = candidates[int(np.argmax(agreement))]
    start = np.add(winner.shift, winner.fraction) * noisy.reduction
    if np.abs(start).max() > max_shift + noisy.reduction:
        return _UNALIGNED
    found = register(ground_truth, noisy, (float(start[0]), float(start[1])))
    margin = _margin(candidates, agreement, found.warp.nodes.reshape(-1, 2) / noisy.reduction)
    lags = repeats(ground_truth.photo)
    if margin >= UNRIVALLED and not lags:
        return _alignment(found, winner.height, max_shift)
    lags += _long_lags(ground_truth, reach)
    starts = _starts(ground_truth, noisy, reach, max_shift)
    choice = choose(ground_truth, noisy, found, starts, lags, max_shift)
    score = winner.height if choice.rival is None else 0.0
    return _alignment(choice.registration, score, max_shift, choice.rival)


def _alignment(
    found: Registration, score: float, max_shift: int, rival: tuple[float, float] | None = None
) -> Alignment:
    """Splits a measured displacement into whole sites and a sub-pixel rest.

    Args:
        found: displacement, rotation and scale.
        score: peak height; 0 where a rival fits as well.
        max_shift: in sites; the whole-site part is clipped to it.
        rival: another displacement that fits as well.
    """
    whole_y, whole_x = (round(float(np.clip(d, -max_shift, max_shift))) for d in found.displacement)
    return Alignment(
        shift=(whole_y, whole_x),
        subpixel=(found.displacement[0] - whole_y, found.displacement[1] - whole_x),
        score=score,
        rotation=found.rotation,
        scale=found.scale,
        registration=found,
        rival=rival,
    )


def _starts(ground_truth: Features, noisy: Features, reach: int, max_shift: int) -> list[tuple[float, float]]:
    """Displacements (dy, dx) in sites at which the photos may fit: of many peaks those at which most patches correlate.

    A texture that repeats has few strong frequencies, which say nothing about the period: a second correlation counts none for
    more than three typical ones.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo.
        reach: in reduced pixels.
        max_shift: in sites, in each direction.
    """
    product = ground_truth.spectrum * noisy.spectrum.conj()
    strength = abs(product)
    even = product * np.minimum(1, 3 * np.median(strength) / np.maximum(strength, 1e-12))
    peaks = {
        each.shift: each
        for of in (product, even.astype(np.complex64))
        for each in _candidates(_correlate(of, noisy.green.shape, reach), MANY_CANDIDATES)
        if np.abs(each.shift).max() * noisy.reduction <= max_shift + noisy.reduction
    }
    # blurred, so that peaks between two pixels are not put back
    blurred = [
        cv2.GaussianBlur(each.contrast.astype(np.float32), (0, 0), 1) for each in (ground_truth, noisy)
    ]
    contrasts = [np.rint(each).astype(np.int8) for each in blurred]
    agreement = {shift: _agreement_at(contrasts[0], contrasts[1], shift) for shift in peaks}
    best = sorted(peaks, key=lambda shift: -agreement[shift])[:MAX_STARTS]
    starts = [np.add(shift, peaks[shift].fraction) * noisy.reduction for shift in best]
    return [(float(y), float(x)) for y, x in starts]


def _long_lags(ground_truth: Features, reach: int) -> list[tuple[float, float]]:
    """(dy, dx) in sites, half of the plane, of up to `MAX_LAGS` at which the whole GT resembles itself most.

    Args:
        ground_truth: features of the clean photo.
        reach: in reduced pixels.
    """
    power = (ground_truth.spectrum * ground_truth.spectrum.conj()).astype(np.complex64)
    found = _candidates(_correlate(power, ground_truth.green.shape, reach), 2 * MAX_LAGS + 1)
    lags = [
        np.add(each.shift, each.fraction) * ground_truth.reduction for each in found if each.shift > (0, 0)
    ]
    return [(float(dy), float(dx)) for dy, dx in lags]


def _correlate(product: NDArray[np.complex64], shape: tuple[int, ...], reach: int) -> NDArray[np.float32]:
    """Circular cross-correlation of two spectra, cropped around shift 0.

    Args:
        product: (h, w // 2 + 1) the GT's times the complex conjugate of the noisy photo's; overwritten.
        shape: (h, w) of the reduced photos.
        reach: largest shift kept, in reduced pixels; less in a small photo.

    Returns:
        (2 * ry + 1, 2 * rx + 1) float32; the middle is shift 0.
    """
    height, width = shape
    rows = np.arange(-min(reach, height // 2 - 1), min(reach, height // 2 - 1) + 1)
    columns = np.arange(-min(reach, width // 2 - 1), min(reach, width // 2 - 1) + 1)
    partial = scipy.fft.ifft(product, axis=0, overwrite_x=True)[rows]
    correlation: NDArray[np.float32] = scipy.fft.irfft(partial, width, axis=1)[:, columns]
    return correlation


def _candidates(correlation: NDArray[np.float32], most: int = MAX_CANDIDATES) -> list[_Candidate]:
    """The highest peak of the correlation and others above `MIN_CANDIDATE_HEIGHT`, descending; none without contrast.

    Args:
        correlation: with shift 0 in the middle.
        most: of them.
    """
    # standard deviation from the median absolute deviation, which the peaks hardly change
    spread = 1.4826 * float(np.median(np.abs(correlation)))
    if spread == 0:
        return []
    ridge = cv2.dilate(correlation, np.ones((5, 5), np.uint8))
    tops = np.argwhere((ridge == correlation) & (correlation > 0))
    heights = correlation[tops[:, 0], tops[:, 1]] / spread
    found: list[_Candidate] = []
    for i in np.argsort(-heights, kind="stable")[:most]:
        if found and heights[i] < MIN_CANDIDATE_HEIGHT:
            break
        y, x = (int(v) for v in tops[i])
        found.append(
            _Candidate(
                shift=(y - correlation.shape[0] // 2, x - correlation.shape[1] // 2),
                fraction=(_vertex(correlation[:, x], y), _vertex(correlation[y], x)),
                height=float(heights[i]),
            )
        )
    return found


def _vertex(line: NDArray[np.float32], at: int) -> float:
    """Sub-pixel offset of a peak: vertex of the parabola through a sample and its two neighbours, -0.5..0.5.

    With samples a, b, c: (a - c) / (2 (a - 2 b + c)); 0 at the ends of the line and where the samples are not concave.
    """
    if not 0 < at < len(line) - 1:
        return 0.0
    before, here, after = (float(v) for v in line[at - 1 : at + 2])
    bend = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def _agreements(ground_truth: Features, noisy: Features, candidates: list[_Candidate]) -> NDArray[np.float64]:
    """(n,) how well most patches correlate at each candidate; 1 where it is the only one."""
    if len(candidates) == 1:
        return np.ones(1)
    return np.array([_patch_agreement(ground_truth, noisy, each.shift) for each in candidates])


def _margin(
    candidates: list[_Candidate], agreement: NDArray[np.float64], displacements: NDArray[np.float64]
) -> float:
    """Margin of the best candidate over its rivals: 1 - (second's agreement) / (its own), 0..1; 1 without any rival.

    A rotated photo has many displacements, and some of them are candidates: these are no rivals.

    Args:
        candidates: at least one.
        agreement: (n,) of each.
        displacements: (m, 2) of the registered transform, all over the photo, in reduced pixels.
    """
    shifts = np.array([each.shift for each in candidates])
    own = np.all((shifts > displacements.min(axis=0) - 1) & (shifts < displacements.max(axis=0) + 1), axis=1)
    best = int(np.argmax(agreement))
    own[best] = True
    if own.all():
        return 1.0
    return float(1 - max(agreement[~own].max(), 0) / agreement[best]) if agreement[best] > 0 else 0.0


def _patch_agreement(ground_truth: Features, noisy: Features, shift: tuple[int, int]) -> float:
    """Mean correlation of patches at a candidate's shift, at the vertex of a parabola through whole shifts along each axis.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo.
        shift: (dy, dx) in reduced pixels.

    Returns:
        At most about 1.
    """

    def agreement(y: int, x: int) -> float:
        return _agreement_at(ground_truth.contrast, noisy.contrast, (shift[0] + y, shift[1] + x))

    best = here = agreement(0, 0)
    for before, after in ((agreement(-1, 0), agreement(1, 0)), (agreement(0, -1), agreement(0, 1))):
        line = np.array([before, here, after], np.float32)
        top = _vertex(line, 1)
        best += (after - before) / 2 * top + (before - 2 * here + after) / 2 * top**2
    return best


def _agreement_at(ground_truth: NDArray[np.int8], noisy: NDArray[np.int8], shift: tuple[int, int]) -> float:
    """Mean correlation of patches of two (h, w) contrasts at a whole shift (dy, dx) in reduced pixels."""
    step = AGREEMENT_PATCH * max(1, round((noisy.size / AGREEMENT_PATCH**2 / MAX_PATCHES) ** 0.5))
    return float(_mean_patch_correlation(ground_truth, noisy, shift, AGREEMENT_PATCH, step))


@kernel
def _mean_patch_correlation(
    ground_truth: NDArray[np.int8], noisy: NDArray[np.int8], shift: tuple[int, int], patch: int, step: int
) -> float:
    """Mean over patches of the correlation coefficient at a shift; each patch has the same weight.

    Args:
        ground_truth: (h, w) int8 local contrast.
        noisy: (h, w) int8 local contrast.
        shift: (dy, dx) in reduced pixels.
        patch: side of a patch in reduced pixels.
        step: reduced pixels from one patch to the next.

    Returns:
        -1..1; 0 where no patch lies in both.
    """
    height, width = noisy.shape
    dy, dx = shift
    total, patches = 0.0, 0
    for top in range(max(0, -dy), min(height, height - dy) - patch + 1, step):
        for left in range(max(0, -dx), min(width, width - dx) - patch + 1, step):
            both, first, second = 0, 0, 0
            for y in range(top, top + patch):
                for x in range(left, left + patch):
                    a, b = int(ground_truth[y + dy, x + dx]), int(noisy[y, x])
                    both += a * b
                    first += a * a
                    second += b * b
            if first > 0 and second > 0:
                total += both / np.sqrt(float(first) * float(second))
            patches += 1
    return total / patches if patches else 0.0
