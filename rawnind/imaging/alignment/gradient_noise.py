"""What the ground truth's own noise does to local shifts, and its removal.

The gradients by which a patch is matched hold the GT's noise, which does not move with the scene: it pulls the shift to where the
patch was taken from, by the share that noise has of the gradients' energy E:

    E (shift - true) = -N (true - offset),        N = noise of a mean product of gradients, the same along both axes

(W. A. Fuller, "Measurement error models", 1987). In a dark sky, and along straight edges, that share is near 1. Patches matched one
site aside show it; noise depends on the level alone, so that all patches together determine it well.
"""

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.alignment.lucas_kanade import LocalShifts, Matches

Float64s = NDArray[np.float64]

MOST_NOISE = 0.6  # share of the gradients' energy along a direction, from which a patch says nothing about it
NOTHING = 10.0  # sites: standard error of such a shift
ROUNDS = 5  # of reweighted least squares


def gradient_noise(local: Matches, aside: Matches) -> Float64s:
    """(n,) noise of a mean product of gradients, of each patch, as a line over the level.

    Args:
        local: the patches.
        aside: the same, matched elsewhere; a patch may be missing.
    """
    if not len(local.at) or not len(aside.at):
        return np.zeros(len(local.at))
    from scipy.optimize import nnls  # noqa: PLC0415 - takes 0.2 CPU seconds, and bent pairs alone need it

    distance = np.hypot(*np.moveaxis(local.at[:, None] - aside.at, -1, 0))
    nearest, both = distance.argmin(axis=1), distance.min(axis=1) < 1
    if not both.any():
        return np.zeros(len(local.at))
    moved = aside.offset[nearest] - local.offset
    followed = aside.shift[nearest] - local.shift
    by_noise = np.einsum("nij,nj->ni", local.inverse, moved)
    whiten = np.linalg.inv(np.linalg.cholesky(2 * local.covariance[both]))
    right = np.einsum("nij,nj->ni", whiten, followed[both])
    columns = np.einsum("nij,nj->ni", whiten, by_noise[both])[:, :, None] * line(local.level[both])[:, None]
    weights, values = np.ones(len(right)), np.zeros(2)
    for _ in range(ROUNDS):
        root = np.sqrt(weights)[:, None]
        values = nnls((columns * root[..., None]).reshape(-1, 2), (right * root).ravel())[0]
        weights = 1 / (1 + ((right - columns @ values) ** 2).sum(axis=1) / 4)
    return np.asarray(line(local.level) @ values, np.float64)


def line(level: Float64s) -> Float64s:
    """(n, 2) regressors of a line over (n,) levels."""
    return np.stack([np.ones(len(level)), np.maximum(level, 0) / 1000], axis=1)


def without_pull(local: Matches, noise: Float64s) -> LocalShifts:
    """Shifts as they would be without noise in the gradients, with the errors that this gives them.

    Along directions whose gradients are mostly noise the error is `NOTHING`; patches without any other are left out.

    Args:
        local: the patches.
        noise: (n,) of a mean product of gradients.
    """
    values, directions = np.linalg.eigh(local.inverse)
    share = noise[:, None] * values
    known = share < MOST_NOISE
    stretch = np.where(known, 1 / (1 - np.minimum(share, MOST_NOISE)), 1.0)
    freed = np.einsum("nik,nk,njk->nij", directions, stretch, directions)
    unknown = np.einsum("nik,nk,njk->nij", directions, ~known * NOTHING**2, directions)
    keep = known.any(axis=1)
    return LocalShifts(
        at=local.at[keep],
        shift=(local.offset + np.einsum("nij,nj->ni", freed, local.shift - local.offset))[keep],
        covariance=(freed @ local.covariance @ freed + unknown)[keep],
        considered=local.considered,
    )
