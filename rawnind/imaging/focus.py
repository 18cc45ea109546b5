"""Compares how sharp two aligned photos of a scene are."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

_FINE, _COARSE = 1.2, 2.4
"""Sigmas in samples of the band in which details are compared."""

_EDGE = 10
"""Samples at the edges in which the band is not right."""

_TILE = 32
"""Samples a side of the tiles that are compared one by one: a thing that moved spoils few of them."""

_LEAST_DETAIL = 2e-3
"""Standard deviation of the band in a tile, in levels, below which there is nothing to compare."""

_LEAST_TILES = 8


def sharpness(
    truth: NDArray[np.float32], noisy: NDArray[np.float32], displacement: tuple[float, float]
) -> float | None:
    """How much of the ground truth's detail the noisy photo shows: 1 as much, less where it is out of focus.

    It is above 1 where the ground truth is out of focus. Noise of the noisy photo does not change its mean. The median over tiles
    counts; None where too few tiles have detail.

    Args:
        truth: (h, w) levels of one colour.
        noisy: (h, w) levels of the same colour, with the gain applied.
        displacement: (dy, dx) in samples: truth (y + dy, x + dx) shows what noisy (y, x) shows.
    """
    dy, dx = displacement
    own = shift(_band(truth), (-dy, -dx), order=3, mode="constant", cval=np.nan)
    other = _band(noisy)
    height, width = (min(a, b) - _EDGE for a, b in zip(own.shape, other.shape, strict=True))
    slopes = []
    for y in range(_EDGE, height - _TILE, _TILE):
        for x in range(_EDGE, width - _TILE, _TILE):
            one, two = (band[y : y + _TILE, x : x + _TILE] for band in (own, other))
            deviation = float(one.std())  # nan where the tile reaches beyond the truth
            if deviation > _LEAST_DETAIL:
                slopes.append(float(np.sum(one * two)) / (one.size * deviation**2))
    return float(np.median(slopes)) if len(slopes) >= _LEAST_TILES else None


def _band(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    band: NDArray[np.float32] = gaussian_filter(plane, _FINE) - gaussian_filter(plane, _COARSE)
    return band
