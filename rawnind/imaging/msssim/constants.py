"""The constants that define MS-SSIM here, all of them pytorch-msssim's defaults. Compiled kernels hold them as literals.

A *coarse pixel* is 16x16 pixels of a plane: one pixel at the fifth scale.
"""

import numpy as np

SCALES = 5
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # pytorch-msssim default
K1, K2 = 0.01, 0.03  # pytorch-msssim default
RADIUS = 5  # pytorch-msssim default: 11 taps
SIGMA = 1.5  # pytorch-msssim default
GAUSSIAN = np.exp(-((np.arange(2 * RADIUS + 1) - RADIUS) ** 2) / (2 * SIGMA**2))
GAUSSIAN /= GAUSSIAN.sum()
SPAN = 2 * RADIUS  # rows or columns that 'valid' filtering removes
# a multiple of 16 pixels at the first scale is a whole pixel at the fifth
COARSE_PIXEL = 1 << SCALES - 1
TOO_SMALL = SPAN * COARSE_PIXEL  # a window of 160 has no result at the fifth scale


def segment(scale: int) -> tuple[int, int]:
    """(side, cut) of a scale: a coarse pixel's side in pixels of that scale, and where the last window's results end in it.

    A window that starts and ends on a multiple of 16 has results from the first pixel of a coarse pixel to `SPAN` before the
    end of one. Sums over [0, cut) and [cut, side) of every coarse pixel, on both axes, are thus all that any window needs.

    >>> [segment(scale) for scale in range(5)]
    [(16, 6), (8, 6), (4, 2), (2, 2), (1, 1)]
    """
    side = COARSE_PIXEL >> scale
    return side, -SPAN % side or side
