"""The fifth scale of `windowed_ms_ssim` on the CPU: 1/256 of the pixels, so plain loops in float64 do."""

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.kernels import kernel
from rawnind.imaging.msssim_definition import SPAN


@kernel
def coarsest_map(
    coarse: NDArray[np.float32], taps: NDArray[np.float64], c1: float, c2: float, out: NDArray[np.float64]
) -> None:
    """SSIM, luminance and contrast, of the fifth scale, in float64: one pixel there is one cell.

    Args:
        coarse: (2, h, w) s and d.
        taps: (11,) float64.
        c1: C1.
        c2: C2.
        out: (h - SPAN, w - SPAN) float64, written.
    """
    height, width = out.shape
    along, down = np.zeros((height + SPAN, 4, width)), np.zeros((4, width))
    for r in range(height + SPAN):
        for k in range(taps.size):
            for i in range(width):
                s, d = np.float64(coarse[0, r, i + k]), np.float64(coarse[1, r, i + k])
                along[r, 0, i] += taps[k] * s
                along[r, 1, i] += taps[k] * d
                along[r, 2, i] += taps[k] * s * s
                along[r, 3, i] += taps[k] * d * d
    for r in range(height):
        down[:] = 0
        for k in range(taps.size):
            for moment in range(4):
                for i in range(width):
                    down[moment, i] += taps[k] * along[r + k, moment, i]
        for i in range(width):
            ss, dd = down[0, i] ** 2, down[1, i] ** 2
            vs, vd = down[2, i] - ss, down[3, i] - dd
            luminance = (ss - dd + 2 * c1) / (ss + dd + 2 * c1)
            out[r, i] = luminance * (vs - vd + 2 * c2) / (vs + vd + 2 * c2)
