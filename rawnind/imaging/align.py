"""Alignment: by how many sites two photos of one scene are shifted, and whether they show one scene at all.

Three steps, from far to near. Correlation over the whole photo, at the size of a CFA cell or two, names a few
candidates: what is correlated is the local contrast of the green sites, clipped, so that neither a lamp nor a hot pixel
has more than its share, and with the spectrum half whitened, which makes the peak narrow without lifting the noise as
phase correlation does. Where there is more than one candidate (something large moved, or a texture repeats), the tiles
of the photo vote. Local least squares then refine the winner (`rawnind.imaging.registration`). The mosaics are never
resampled.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from rawnind.imaging.kernels import kernel
from rawnind.imaging.photo import Photo
from rawnind.imaging.registration import Similarity, register
from rawnind.records import Cfa

Float32s = NDArray[np.float32]

CONTRAST_RADIUS = 4  # samples: details larger than about 9 samples do not take part
CLIP = 2.0  # local contrast counts up to this many median absolute values
CANDIDATE = 6.0  # a peak this many standard deviations high may be a match; unrelated photos reach 5.5
CANDIDATES = 4
VOTING_TILE = 16  # samples
CLEAR_LEAD = 0.1  # the best candidate's votes must exceed the next's by this share to keep its full score
SMALLEST = 16  # samples a side, below which nothing is measured


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Reference:
    """A photo, and what alignment needs of it, computed once for all its pairs (24 MB at 24 MP Bayer, 43 MB X-Trans).

    Attributes:
        green: (h, w) mean of the green sites over black in blocks of `block` sites a side, without the largest and the
            smallest of each block.
        contrast: (h, w) int8 local contrast in 1/63 of `CLIP` median absolute values.
        spectrum: (h, w // 2 + 1) half-whitened spectrum of the windowed contrast.
    """

    photo: Photo
    green: Float32s
    contrast: NDArray[np.int8]
    spectrum: NDArray[np.complex64]

    @property
    def block(self) -> int:
        """Sites a side that one sample spans."""
        return BLOCK[self.photo.cfa]


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """Where the noisy photo's content lies in the GT.

    Attributes:
        shift: (dy, dx) whole sites: GT site (y + dy, x + dx) shows what noisy site (y, x) shows.
        subpixel: what would have to be added to `shift`, in sites, at the middle of the noisy photo.
        score: height of the correlation peak in standard deviations of the correlation around it; lowered towards 0
            where another shift explains the photos almost as well. 0 where there is nothing to align.
        rotation: degrees that the noisy photo's content is turned against the GT's, counter-clockwise; None where it
            could not be measured.
        scale: size of the noisy photo's content relative to the GT's, minus one; None where it could not be measured.
    """

    shift: tuple[int, int]
    subpixel: tuple[float, float]
    score: float
    rotation: float | None
    scale: float | None


BLOCK = {Cfa.BAYER: 4, Cfa.X_TRANS: 3}
"""Sites a side of the blocks that are correlated: whole periods of green (X-Trans green repeats after 3 sites)."""

_NOTHING = Alignment(shift=(0, 0), subpixel=(0.0, 0.0), score=0.0, rotation=None, scale=None)


def reference(photo: Photo) -> Reference:
    """Prepares a photo for `align`."""
    block = BLOCK[photo.cfa]
    height, width = photo.mosaic.shape
    green = np.empty((height // block, width // block), np.float32)
    shrink = _shrink_bayer if photo.cfa is Cfa.BAYER else _shrink_xtrans
    shrink(photo.mosaic, np.float32(photo.sensor.black_level[1]), green)
    contrast = _contrast(green)
    return Reference(photo=photo, green=green, contrast=contrast, spectrum=_spectrum(contrast))


def align(ground_truth: Reference, noisy: Reference, *, max_shift: int = 128) -> Alignment:
    """Measures the shift between two photos of one size and CFA.

    Args:
        ground_truth: the clean photo.
        noisy: the photo whose frame the shift is given in.
        max_shift: largest shift in sites, in each direction, that is searched; also at most half the photo's size.

    Raises:
        ValueError: The photos differ in size or CFA.
    """
    if (
        ground_truth.photo.mosaic.shape != noisy.photo.mosaic.shape
        or ground_truth.photo.cfa != noisy.photo.cfa
    ):
        raise ValueError("only photos of one size and CFA can be aligned")
    if min(noisy.green.shape) < SMALLEST:
        return _NOTHING
    correlation, zero = _correlate(ground_truth.spectrum, noisy, -(-max_shift // noisy.block))
    peaks = _peaks(correlation)
    if not peaks:
        return _NOTHING
    best, score = _elect(ground_truth, noisy, correlation, peaks, zero)
    start = (best[0] * noisy.block, best[1] * noisy.block)
    found = register(ground_truth.photo, noisy.photo, ground_truth.green, noisy.green, start)
    return _alignment(found, score, max_shift)


def _alignment(found: Similarity, score: float, max_shift: int) -> Alignment:
    """Splits the measured displacement into whole sites and the rest."""
    shift = tuple(int(np.clip(np.rint(d), -max_shift, max_shift)) for d in found.displacement)
    rest = tuple(float(d - s) for d, s in zip(found.displacement, shift, strict=True))
    return Alignment(
        shift=(shift[0], shift[1]),
        subpixel=(rest[0], rest[1]),
        score=score,
        rotation=found.rotation,
        scale=found.scale,
    )


def _contrast(green: Float32s) -> NDArray[np.int8]:
    """Clipped local contrast of the square root of the light, in which noise is about the same everywhere."""
    root = np.sqrt(
        np.maximum(green, 0) + 32
    )  # 32: some sensor values, where read noise takes over from shot noise
    side = 2 * CONTRAST_RADIUS + 1
    root -= cv2.blur(root, (side, side), borderType=cv2.BORDER_REFLECT)
    typical = float(np.median(np.abs(root[::3, ::3]))) if root.size else 0.0
    if typical == 0:
        return np.zeros(root.shape, np.int8)
    root *= 63 / (CLIP * typical)
    return np.rint(np.clip(root, -63, 63, out=root), out=root).astype(np.int8)


def _spectrum(contrast: NDArray[np.int8]) -> NDArray[np.complex64]:
    """Spectrum under a sine window, divided by the root of its magnitude; none along the axes.

    The axes hold what is the same in whole rows or columns: the sensor's column pattern and row noise.
    """
    height, width = contrast.shape
    windowed = contrast * _sine(height)[:, None]
    windowed *= _sine(width)
    spectrum = scipy.fft.rfft2(windowed)
    _whiten(spectrum)
    spectrum[0] = 0
    spectrum[:, 0] = 0
    return spectrum  # type: ignore[no-any-return]


def _sine(size: int) -> Float32s:
    return np.sin(np.pi * (np.arange(size) + 0.5) / size).astype(np.float32)


def _correlate(
    gt_spectrum: NDArray[np.complex64], noisy: Reference, reach: int
) -> tuple[Float32s, tuple[int, int]]:
    """The correlation at shifts up to `reach` samples, and where in it the zero shift lies."""
    height, width = noisy.green.shape
    reach_y, reach_x = min(reach, height // 2 - 1), min(reach, width // 2 - 1)
    columns = scipy.fft.ifft(gt_spectrum * noisy.spectrum.conj(), axis=0, overwrite_x=True)
    rows = np.arange(-reach_y, reach_y + 1)
    correlation = scipy.fft.irfft(columns[rows], width, axis=1)
    return correlation[:, np.arange(-reach_x, reach_x + 1)], (reach_y, reach_x)


def _peaks(correlation: Float32s) -> list[tuple[int, int]]:
    """Local maxima, the highest first; the highest alone where no other could be a match; none without contrast."""
    spread = _spread(correlation)
    if spread == 0:
        return []
    ridge = cv2.dilate(correlation, np.ones((5, 5), np.uint8))
    tops = np.argwhere((ridge == correlation) & (correlation > 0))
    if not len(tops):
        return []
    tops = tops[np.argsort(-correlation[tops[:, 0], tops[:, 1]], kind="stable")][:CANDIDATES]
    heights = correlation[tops[:, 0], tops[:, 1]]
    return [(int(y), int(x)) for y, x in tops[(heights >= CANDIDATE * spread) | (np.arange(len(tops)) == 0)]]


def _spread(correlation: Float32s) -> float:
    """Standard deviation of the correlation, as its peaks do not change it."""
    return 1.4826 * float(np.median(np.abs(correlation)))


def _elect(
    ground_truth: Reference,
    noisy: Reference,
    correlation: Float32s,
    peaks: list[tuple[int, int]],
    zero: tuple[int, int],
) -> tuple[tuple[float, float], float]:
    """The shift in samples that most of the photo agrees with, and its score."""
    spread = _spread(correlation)
    shifts = np.array(peaks) - zero
    votes = [1.0]
    if len(peaks) > 1:
        votes = [
            _votes(ground_truth.contrast, noisy.contrast, int(dy), int(dx), VOTING_TILE) for dy, dx in shifts
        ]
    order = np.argsort(-np.array(votes), kind="stable")
    winner = int(order[0])
    lead = 1.0 - max(votes[order[1]], 0.0) / votes[winner] if len(peaks) > 1 and votes[winner] > 0 else 1.0
    y, x = peaks[winner]
    score = float(correlation[y, x]) / spread * min(1.0, lead / CLEAR_LEAD)
    return (
        shifts[winner][0] + _summit(correlation[:, x], y),
        shifts[winner][1] + _summit(correlation[y], x),
    ), score


def _summit(line: Float32s, at: int) -> float:
    """Where the parabola through three neighbours has its top, relative to the middle one."""
    if not 0 < at < len(line) - 1:
        return 0.0
    before, here, after = (float(v) for v in line[at - 1 : at + 2])
    bend = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0


@kernel
def _whiten(spectrum: NDArray[np.complex64]) -> None:
    for y in range(spectrum.shape[0]):
        row = spectrum[y]
        for x in range(row.shape[0]):
            power = row[x].real * row[x].real + row[x].imag * row[x].imag
            row[x] *= np.float32(1) / np.sqrt(np.sqrt(power + np.float32(1e-12)))


@kernel
def _votes(ground_truth: NDArray[np.int8], noisy: NDArray[np.int8], dy: int, dx: int, tile: int) -> float:
    """Mean over the tiles of the correlation coefficient after the shift: each part of the photo counts the same."""
    height, width = noisy.shape
    total, tiles = 0.0, 0
    for top in range(max(0, -dy), min(height, height - dy) - tile + 1, tile):
        for left in range(max(0, -dx), min(width, width - dx) - tile + 1, tile):
            both, first, second = 0, 0, 0
            for y in range(top, top + tile):
                for x in range(left, left + tile):
                    a, b = int(ground_truth[y + dy, x + dx]), int(noisy[y, x])
                    both += a * b
                    first += a * a
                    second += b * b
            if first > 0 and second > 0:
                total += both / np.sqrt(float(first) * float(second))
            tiles += 1
    return total / tiles if tiles else 0.0


@kernel
def _shrink_bayer(mosaic: NDArray[np.uint16], black: np.float32, out: Float32s) -> None:
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            total, low, high = 0, 65535, 0
            for i in range(4):
                row, left = mosaic[4 * y + i], 4 * x + (i + 1) % 2
                for j in range(0, 4, 2):
                    value = int(row[left + j])
                    total += value
                    low, high = min(low, value), max(high, value)
            out[y, x] = np.float32(total - low - high) / np.float32(6) - black


@kernel
def _shrink_xtrans(mosaic: NDArray[np.uint16], black: np.float32, out: Float32s) -> None:
    for y in range(out.shape[0]):
        top, middle, bottom = mosaic[3 * y], mosaic[3 * y + 1], mosaic[3 * y + 2]
        for x in range(out.shape[1]):
            i = 3 * x
            a, b, c, d, e = (
                int(top[i]),
                int(top[i + 1]),
                int(middle[i]),
                int(middle[i + 1]),
                int(bottom[i + 2]),
            )
            low, high = min(a, b, c, d, e), max(a, b, c, d, e)
            out[y, x] = np.float32(a + b + c + d + e - low - high) / np.float32(3) - black
