"""Where the data of a photo clip: the plateau at the upper end of its histogram, whatever the file says of its white level.

LibRaw's white level comes from a table, and other readers' tables differ from it by up to 24 % for some cameras.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

_BINS = 1024  # to the white level: wide enough for clipped values that calibration has spread
_LEAST = 5e-5  # share of the sites that a plateau has
_FEWEST = 100  # sites
_MOST = 0.75  # share of the sites; more is no photo
_RISE = 5  # times the densest of the bins below
_BELOW = 20  # bins that are compared
_ABOVE = 0.1  # sites above the plateau, as a share of it: hot pixels
_LOWEST = 0.5  # of the white level: a plateau further down is something else


def data_white_level(mosaic: NDArray[np.uint16], white: float) -> float | None:
    """The sensor value at which the data clip; None where nothing clips.

    Many sites have one value, hardly any a higher one, and values just below it are rare.

    Args:
        mosaic: (H, W) sensor values.
        white: the white level that the file or LibRaw states.

    >>> ramp = np.arange(40_000, dtype=np.uint16).reshape(200, 200) // 4
    >>> data_white_level(np.minimum(ramp, 9_000), 9_500.0), data_white_level(ramp, 9_500.0)
    (9000.0, None)
    """
    fine = cv2.calcHist([np.ascontiguousarray(mosaic)], [0], None, [65536], [0, 65536]).ravel()
    width = max(int(white) // _BINS, 1)
    padded = np.zeros(-(-len(fine) // width) * width)
    padded[: len(fine)] = fine
    counts = padded.reshape(-1, width).sum(axis=1)
    enough = np.flatnonzero(counts >= max(_FEWEST, _LEAST * mosaic.size))
    if not len(enough) or enough[-1] < 2:
        return None
    top = int(enough[-1])
    first = max(top - 1, 0)  # the plateau may lie on the border of two bins
    plateau, above = counts[first : top + 1].sum(), counts[top + 1 :].sum()
    below = counts[max(first - _BELOW, 0) : first]
    value = first * width + int(fine[first * width : (top + 1) * width].argmax())
    is_plateau = plateau >= _RISE * max(below.max(initial=0), 1) and plateau <= _MOST * mosaic.size
    return float(value) if is_plateau and above <= _ABOVE * plateau and value >= _LOWEST * white else None
