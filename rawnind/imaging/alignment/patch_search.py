"""Patches searched for one by one: where a large rotation or zoom leaves no single shift for the whole photo."""

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.alignment.features import Features
from rawnind.imaging.alignment.lucas_kanade import LocalShifts

Float64s = NDArray[np.float64]

PATCH = 40  # reduced pixels a side
REACH = 24  # reduced pixels around the start, in each direction: 1.5 degrees or 2.5 % at 24 MP
GRID = (8, 10)  # most patches down and across
TRIALS = 300  # pairs of patches, of which the transform with the most support is taken (RANSAC)
NEAR = 1.0  # reduced pixels: a patch supports a transform that predicts it to this
LARGEST = 0.05  # rotation in radians and scale that are considered
POSITION_ERROR = 0.5  # reduced pixels, standard deviation of a matched patch


def find_patches(ground_truth: Features, noisy: Features, start: tuple[float, float]) -> LocalShifts:
    """Matches patches of the local contrast within `REACH`, and keeps those that support one similarity transform.

    M. A. Fischler and R. C. Bolles, "Random sample consensus", CACM 1981.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo.
        start: (dy, dx) in sites around which is searched.

    Returns:
        Positions and shifts in sites; none where fewer than three patches support the same transform.
    """
    reduction = noisy.reduction
    at, shift = _match(
        ground_truth.contrast, noisy.contrast, np.rint(np.array(start) / reduction).astype(int)
    )
    support = _consensus(at, shift) if len(at) >= 3 else np.zeros(len(at), np.bool_)
    if np.count_nonzero(support) < 3:
        support[:] = False
    covariance = np.broadcast_to(np.eye(2) * (POSITION_ERROR * reduction) ** 2, (len(at), 2, 2))
    return LocalShifts(
        at=at[support] * reduction,
        shift=shift[support] * reduction,
        covariance=covariance[support],
        considered=len(at),
    )


def _match(
    ground_truth: NDArray[np.int8], noisy: NDArray[np.int8], start: NDArray[np.int_]
) -> tuple[Float64s, Float64s]:
    """The best match of each patch, by the correlation coefficient.

    Args:
        ground_truth: (h, w) int8 local contrast.
        noisy: (h, w) int8 local contrast.
        start: (2,) shift around which is searched.

    Returns:
        (n, 2) middles of the patches from the middle of the photo, and (n, 2) shifts, all in reduced pixels.
    """
    shape = np.array(noisy.shape)
    first = np.maximum(0, REACH - start)
    last = np.minimum(shape, shape - start - REACH) - PATCH
    if np.any(last < first):
        return np.zeros((0, 2)), np.zeros((0, 2))
    lines = [
        np.linspace(low, high, min(most, 1 + (high - low) // (PATCH // 2))).astype(int)
        for low, high, most in zip(first, last, GRID, strict=True)
    ]
    at, shifts = [], []
    for y, x in np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 2):
        top, left = y + start[0] - REACH, x + start[1] - REACH
        wide = PATCH + 2 * REACH
        area = ground_truth[top : top + wide, left : left + wide].astype(np.float32)
        patch = noisy[y : y + PATCH, x : x + PATCH].astype(np.float32)
        if not patch.any() or not area.any():
            continue
        best = cv2.minMaxLoc(cv2.matchTemplate(area, patch, cv2.TM_CCOEFF_NORMED))[3]
        at.append((y + (PATCH - 1) / 2, x + (PATCH - 1) / 2))
        shifts.append((best[1] - REACH + start[0], best[0] - REACH + start[1]))
    return np.reshape(at, (-1, 2)) - (shape - 1) / 2, np.reshape(shifts, (-1, 2)).astype(np.float64)


def _consensus(at: Float64s, shift: Float64s) -> NDArray[np.bool_]:
    """(n,) bool: the patches that support the similarity transform with the most support.

    A transform is linear in complex numbers, with z = y + i x: shift(z) = a + b z, where the real part of b is minus the
    scale, and the imaginary part the rotation.

    Args:
        at: (n, 2) middles of the patches from the middle of the photo.
        shift: (n, 2).
    """
    z, move = at[:, 0] + 1j * at[:, 1], shift[:, 0] + 1j * shift[:, 1]
    rng = np.random.default_rng(0)  # the same pair gives the same transform
    best = np.zeros(len(z), np.bool_)
    for _ in range(TRIALS):
        i, j = rng.choice(len(z), 2, replace=False)
        slope = (move[j] - move[i]) / (z[j] - z[i])
        if abs(slope) > LARGEST:
            continue
        support = np.abs(move - move[i] - slope * (z - z[i])) < NEAR
        if np.count_nonzero(support) > np.count_nonzero(best):
            best = support
    return best
