"""Lags at which a photo resembles itself, as a fence, a facade or a fabric does: the periods by which it may be matched wrongly."""

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from rawnind.imaging.alignment.features import READ_NOISE
from rawnind.imaging.alignment.greens import green_sites, view
from rawnind.imaging.photo import Photo

Float64s = NDArray[np.float64]

PATCH = 64  # sites a side, in which the GT is compared with itself
PATCHES = (6, 8)  # most of them down and across
SHORTEST = 3.0  # sites: less is the CFA's period
LONGEST = 24  # sites: longer periods show in the correlation
ALIKE = 0.5  # correlation coefficient
FEW = 0.1  # share of the patches
MOST_LAGS = 3
DISTINCT = 1.5  # sites; periods are longer


def repeats(photo: Photo) -> list[tuple[float, float]]:
    """Lags of up to `LONGEST` sites at which many parts of a photo resemble themselves; none where few do.

    Args:
        photo: the GT.

    Returns:
        (dy, dx) in sites, half of the plane, the most frequent first.
    """
    shape = np.array(photo.mosaic.shape)
    if min(shape) < PATCH + 8:
        return []
    lines = [np.unique(np.linspace(4, size - PATCH - 4, min(most, max(1, size // PATCH))).astype(int))
             for size, most in zip(shape, PATCHES, strict=True)]  # fmt: skip
    source, green = view(photo, photo.mosaic), np.empty((PATCH, PATCH), np.float32)
    ones = scipy.fft.irfft2(
        abs(scipy.fft.rfft2(np.ones((PATCH, PATCH), np.float32), (2 * PATCH, 2 * PATCH))) ** 2
    )
    found, textured = [], 0
    for y in lines[0]:
        for x in lines[1]:
            green_sites(source, int(y), int(x), green)
            root = np.sqrt(np.maximum(green, 0) + np.float32(READ_NOISE))
            root -= cv2.blur(root, (2 * LONGEST + 1, 2 * LONGEST + 1))
            power = abs(scipy.fft.rfft2(root - root.mean(), (2 * PATCH, 2 * PATCH))) ** 2
            resemblance = scipy.fft.irfft2(power) / np.maximum(ones, 1)
            if resemblance[0, 0] <= 0:
                continue
            textured += 1
            found.extend(_peaks(np.roll(resemblance / resemblance[0, 0], (LONGEST, LONGEST), (0, 1))))
    return _frequent(np.reshape(found, (-1, 2)), max(2.0, FEW * textured))


def _frequent(lags: Float64s, least: float) -> list[tuple[float, float]]:
    """Of (n, 2) lags the middles of up to `MOST_LAGS` clusters with at least so many members, the largest first."""
    found: list[tuple[float, float]] = []
    while len(lags) and len(found) < MOST_LAGS:
        near = np.hypot(*np.moveaxis(lags[:, None] - lags, -1, 0)) < DISTINCT
        middle = int(np.argmax(near.sum(axis=1)))
        if near[middle].sum() < least:
            break
        dy, dx = lags[near[middle]].mean(axis=0)
        found.append((float(dy), float(dx)))
        lags = lags[~near[middle]]
    return found


def _peaks(resemblance: Float64s) -> list[tuple[float, float]]:
    """The nearest lags (dy, dx) of half the plane at which a patch resembles itself, at most two."""
    near = resemblance[: 2 * LONGEST + 1, : 2 * LONGEST + 1]
    top = (cv2.dilate(near, np.ones((3, 3), np.uint8)) == near) & (near > ALIKE)
    top[:1] = top[-1:] = False
    top[:, :1] = top[:, -1:] = False
    lags = np.argwhere(top) - LONGEST
    lags = lags[(lags[:, 0] > 0) | ((lags[:, 0] == 0) & (lags[:, 1] > 0))]
    lags = lags[np.hypot(*lags.T) >= SHORTEST]
    lags = lags[np.argsort(np.hypot(*lags.T), kind="stable")][:2]
    return [(float(dy), float(dx)) for dy, dx in lags]
