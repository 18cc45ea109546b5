"""Alignment: by how many sites two photos of one scene are shifted, and whether they show one scene at all.

Three steps, from far to near. The correlation of the photos' clipped local contrast names a few candidates. Where there
is more than one (something large moved, or a texture repeats), the patches of the photo vote. Local least squares refine
the winner to a fraction of a site, and measure rotation and change of size. The mosaics are never resampled.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from rawnind.imaging.alignment.features import Features, extract_features
from rawnind.imaging.alignment.registration import Similarity, register
from rawnind.imaging.jit import kernel

__all__ = ["Alignment", "Features", "align", "extract_features"]

MIN_CANDIDATE_HEIGHT = (
    6.0  # a peak this many standard deviations high may be a match; noise alone hardly makes one
)
MAX_CANDIDATES = 4
VOTING_PATCH = 16  # blocks
MAX_VOTING_PATCHES = 1500  # patches
MIN_MARGIN = 0.1  # the winner's votes exceed the next's by at least this share, or the score is lowered
MIN_REACH = 48  # blocks: correlation is looked at this far, so that the peak is judged by enough of it
MIN_SIDE = 16  # blocks a side, below which nothing is measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """Where the noisy photo's content lies in the GT.

    Attributes:
        shift: (dy, dx) whole sites: GT site (y + dy, x + dx) shows what noisy site (y, x) shows.
        subpixel: what would have to be added to `shift`, in sites, at the middle of the noisy photo.
        score: height of the correlation peak in standard deviations of the correlation around it; lowered towards 0
            where another shift explains the photos almost as well; 0 where there is nothing to align, or where what
            fits lies beyond the largest shift.
        rotation: degrees that the noisy photo's content is turned against the GT's, counter-clockwise; None where it
            could not be measured.
        scale: size of the noisy photo's content relative to the GT's, minus one; None where it could not be measured.
    """

    shift: tuple[int, int]
    subpixel: tuple[float, float]
    score: float
    rotation: float | None
    scale: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    """A correlation peak: its shift in blocks, the fraction to add to it, and its height in standard deviations."""

    shift: tuple[int, int]
    fraction: tuple[float, float]
    height: float


_UNALIGNED = Alignment(shift=(0, 0), subpixel=(0.0, 0.0), score=0.0, rotation=None, scale=None)


def align(ground_truth: Features, noisy: Features, *, max_shift: int = 128) -> Alignment:
    """Measures the shift between two photos of one size and CFA.

    Unrelated photos score up to 7, whatever their size. A true pair scores more the more sites it has: from 9 at 512x768
    sites of night sky at ISO 57815, usually above 20, to some hundred at 24 MP. A gate of 8 tells them apart.

    Args:
        ground_truth: the clean photo.
        noisy: the photo in whose frame the shift is given.
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
    reach = max(
        MIN_REACH, -(-3 * max_shift // (2 * noisy.reduction))
    )  # further than wanted: to know what is too far
    candidates = _candidates(_correlate(ground_truth, noisy, reach))
    if not candidates:
        return _UNALIGNED
    winner, margin = _select(ground_truth, noisy, candidates)
    start = np.add(winner.shift, winner.fraction) * noisy.reduction
    if np.abs(start).max() > max_shift + noisy.reduction:
        return _UNALIGNED
    found = register(ground_truth, noisy, (float(start[0]), float(start[1])))
    return _alignment(found, winner.height * min(1.0, margin / MIN_MARGIN), max_shift)


def _alignment(found: Similarity, score: float, max_shift: int) -> Alignment:
    """Splits the measured displacement into whole sites and the rest."""
    whole_y, whole_x = (round(float(np.clip(d, -max_shift, max_shift))) for d in found.displacement)
    return Alignment(
        shift=(whole_y, whole_x),
        subpixel=(found.displacement[0] - whole_y, found.displacement[1] - whole_x),
        score=score,
        rotation=found.rotation,
        scale=found.scale,
    )


def _correlate(ground_truth: Features, noisy: Features, reach: int) -> NDArray[np.float32]:
    """Correlation at shifts of up to `reach` blocks (less in a small photo); no shift lies in the middle."""
    height, width = noisy.green.shape
    rows = np.arange(-min(reach, height // 2 - 1), min(reach, height // 2 - 1) + 1)
    columns = np.arange(-min(reach, width // 2 - 1), min(reach, width // 2 - 1) + 1)
    product = ground_truth.spectrum * noisy.spectrum.conj()
    partial = scipy.fft.ifft(product, axis=0, overwrite_x=True)[rows]
    correlation: NDArray[np.float32] = scipy.fft.irfft(partial, width, axis=1)[:, columns]
    return correlation


def _candidates(correlation: NDArray[np.float32]) -> list[_Candidate]:
    """The highest peak, and others that may be a match, in descending order; none without contrast."""
    spread = 1.4826 * float(np.median(np.abs(correlation)))  # the standard deviation, hardly changed by peaks
    if spread == 0:
        return []
    ridge = cv2.dilate(correlation, np.ones((5, 5), np.uint8))
    tops = np.argwhere((ridge == correlation) & (correlation > 0))
    heights = correlation[tops[:, 0], tops[:, 1]] / spread
    found: list[_Candidate] = []
    for i in np.argsort(-heights, kind="stable")[:MAX_CANDIDATES]:
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
    """Where the parabola through three neighbours has its top, relative to the middle one."""
    if not 0 < at < len(line) - 1:
        return 0.0
    before, here, after = (float(v) for v in line[at - 1 : at + 2])
    bend = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def _select(
    ground_truth: Features, noisy: Features, candidates: list[_Candidate]
) -> tuple[_Candidate, float]:
    """The candidate that most of the photo agrees with, and the share of its votes that the next one lacks."""
    if len(candidates) == 1:
        return candidates[0], 1.0
    votes = np.array([_patch_agreement(ground_truth, noisy, c.shift) for c in candidates])
    first, second = np.argsort(-votes, kind="stable")[:2]
    margin = 1 - max(votes[second], 0) / votes[first] if votes[first] > 0 else 0.0
    return candidates[first], float(margin)


def _patch_agreement(ground_truth: Features, noisy: Features, shift: tuple[int, int]) -> float:
    """Agreement of the photo's patches at the shift's best fraction of a block: the top of a parabola along each axis."""
    patches = noisy.contrast.size / VOTING_PATCH**2
    step = VOTING_PATCH * max(1, round((patches / MAX_VOTING_PATCHES) ** 0.5))

    def agreement(y: int, x: int) -> float:
        return float(
            _mean_patch_correlation(
                ground_truth.contrast, noisy.contrast, (shift[0] + y, shift[1] + x), VOTING_PATCH, step
            )
        )

    best = here = agreement(0, 0)
    for before, after in ((agreement(-1, 0), agreement(1, 0)), (agreement(0, -1), agreement(0, 1))):
        line = np.array([before, here, after], np.float32)
        top = _vertex(line, 1)
        best += (after - before) / 2 * top + (before - 2 * here + after) / 2 * top**2
    return best


@kernel
def _mean_patch_correlation(
    ground_truth: NDArray[np.int8], noisy: NDArray[np.int8], shift: tuple[int, int], patch: int, step: int
) -> float:
    """Mean over patches of the correlation coefficient after the shift: each part of the photo counts the same."""
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
