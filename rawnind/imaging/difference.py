"""What differs between two frames although the scene does not: a shift left over, a response, a drift of the light, rows."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.kernels import kernel
from rawnind.imaging.moments import BLOCK, Displacement, Moments, block_moments
from rawnind.imaging.noise import NoiseModel, fit_noise, robust_fit, sample_blocks

FLOOR = 0.02
"""Share of the level by which still content may differ: response and light that the smooth model misses."""

_BAND = 6  # block rows per band that the displacement is measured on
_BANDS = 16
_SAMPLES = 5000  # blocks that a smooth model is fitted to
_DRIFT = 5  # terms of a second-order surface without its constant
_EXPECTED_SHIFT = 0.5  # cells, constant part: alignment leaves at most half a site
_EXPECTED_TURN = 1.5  # cells at the frame's edge: 0.05 degrees in 24 MP


def measure_displacement(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> Displacement:
    """Where the noisy frame lies in the ground truth beyond the shift already applied.

    Robust regression of the difference of smoothed blocks on their gradient, over bands that sample the frame.
    """
    height, width = usable.shape
    size = _BAND * BLOCK
    starts = (
        range(0, height, size)
        if height <= _BANDS * size
        else np.linspace(0, height - size, _BANDS).astype(int) // BLOCK * BLOCK
    )
    rows = []
    for top in starts:
        band = slice(top, top + size)
        moments = block_moments(ground_truth[:, band], noisy[:, band], usable[band], Displacement())
        rows.append(_gradient_rows(moments, (top / BLOCK, height / BLOCK / 2, width / BLOCK / 2)))
    design, target, scale = (np.concatenate([part[i] for part in rows]) for i in range(3))
    if len(target) < 200:
        return Displacement()
    step = max(1, len(target) // (3 * _SAMPLES))
    planes = len(noisy)
    prior = np.concatenate(
        [
            np.tile([0.1, 0.2, 0.2], planes),
            [0.1, 0.1],
            np.tile([_EXPECTED_SHIFT, _EXPECTED_TURN, _EXPECTED_TURN], 2),
        ]
    )
    c = robust_fit(design[::step], target[::step], scale[::step], prior)[-6:]
    return Displacement(
        dy=(c[0], c[1] * 2 / height, c[2] * 2 / width), dx=(c[3], c[4] * 2 / height, c[5] * 2 / width)
    )


def _gradient_rows(moments: Moments, place: tuple[float, float, float]) -> tuple[NDArray[np.float64], ...]:
    """Design rows, targets and scales of a band's blocks: response of each plane, slope of the light, displacement."""
    top, half_height, half_width = place
    planes, height, width = moments.g.shape
    if height < 3 or width < 3:
        return np.empty((0, 3 * planes + 8)), np.empty(0), np.empty(0)
    noise = fit_noise(moments, count=2000)
    kernel_ = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
    inner = (slice(1, -1), slice(1, -1))
    chosen = sample_blocks(
        cv2.erode(moments.n, np.ones((3, 3), np.uint8))[inner] >= 12, 3 * _SAMPLES // _BANDS
    )
    y, x = np.divmod(chosen, width - 2)
    y, x = (y + 1.5 + top) / half_height - 1, (x + 1.5) / half_width - 1
    parts = []
    for plane in range(planes):
        g, d = moments.g[plane], cv2.filter2D(moments.d[plane], -1, kernel_)[inner].ravel()[chosen]
        gy = cv2.Sobel(g, cv2.CV_32F, 0, 1)[inner].ravel()[chosen] / (8 * BLOCK)
        gx = cv2.Sobel(g, cv2.CV_32F, 1, 0)[inner].ravel()[chosen] / (8 * BLOCK)
        level = cv2.filter2D(g, -1, kernel_)[inner].ravel()[chosen]
        variance = noise.slope[plane] * np.maximum(level, 0) + noise.floor[plane]
        response = np.zeros((len(chosen), 3 * planes))
        response[:, 3 * plane : 3 * plane + 3] = np.stack([np.ones_like(level), level, level**2], axis=1)
        slopes = np.stack([level * y, level * x, -gy, -gy * y, -gy * x, -gx, -gx * y, -gx * x], axis=1)
        # 9 / 64 / 16: variance of a binomially smoothed mean of 16 cells
        scale = np.sqrt(
            variance * (36 / 256 / 16) + (0.25 * FLOOR * level) ** 2 + 0.05**2 * (gy**2 + gx**2) + 1e-10
        )
        parts.append((np.concatenate([response, slopes], axis=1), d, scale))
    return tuple(np.concatenate([part[i] for part in parts]).astype(np.float64) for i in range(3))


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Smooth:
    """Response and drift: d = c0 + c1 g + c2 g^2 for each plane, plus g times a second-order surface.

    Attributes:
        response: (P, 3).
        drift: (5,) of y, x, y^2, yx, x^2, with y and x from -1 to 1.
    """

    response: NDArray[np.float32]
    drift: NDArray[np.float32]


def fit_smooth(moments: Moments, noise: NoiseModel) -> Smooth:
    """The response and the drift of the light that most blocks agree on."""
    planes, height, width = moments.g.shape
    chosen = sample_blocks(moments.n >= 12, _SAMPLES)
    y, x = np.divmod(chosen, width)
    y, x = (y + 0.5) * 2 / height - 1, (x + 0.5) * 2 / width - 1
    surface = np.stack([y, x, y * y, y * x, x * x], axis=1)
    g = moments.g.reshape(planes, -1)[:, chosen].astype(np.float64)
    design = np.zeros((planes, len(chosen), 3 * planes + _DRIFT))
    for plane in range(planes):
        design[plane, :, 3 * plane : 3 * plane + 3] = np.stack(
            [np.ones_like(g[plane]), g[plane], g[plane] ** 2], axis=1
        )
    design[:, :, 3 * planes :] = g[:, :, None] * surface
    n, gradient = moments.n.ravel()[chosen], moments.gradient.reshape(planes, -1)[:, chosen]
    variance = noise.variance(g.astype(np.float32)) / n + (0.25 * FLOOR * g) ** 2 + 0.1**2 * gradient + 1e-10
    prior = np.concatenate([np.tile([0.1, 0.2, 0.2], planes), np.full(_DRIFT, 0.1)])
    target = moments.d.reshape(planes, -1)[:, chosen].astype(np.float64).ravel()
    result = robust_fit(design.reshape(-1, design.shape[2]), target, np.sqrt(variance).ravel(), prior).astype(
        np.float32
    )
    return Smooth(response=result[: 3 * planes].reshape(planes, 3), drift=result[3 * planes :])


@kernel
def subtract_smooth(d, g, response, drift, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Writes d without response and drift to out; all (P, hb, wb)."""
    planes, height, width = d.shape
    for plane in range(planes):
        for row in range(height):
            y = np.float32((row + 0.5) * 2 / height - 1)
            for column in range(width):
                x = np.float32((column + 0.5) * 2 / width - 1)
                level = g[plane, row, column]
                surface = drift[0] * y + drift[1] * x + drift[2] * y * y + drift[3] * y * x + drift[4] * x * x
                smooth = response[plane, 0] + level * (
                    response[plane, 1] + response[plane, 2] * level + surface
                )
                out[plane, row, column] = d[plane, row, column] - smooth


def subtract_lines(
    residual: NDArray[np.float32], sigma: NDArray[np.float32], weight: NDArray[np.float32]
) -> None:
    """Takes row noise and column noise out of (P, hb, wb) residuals, in place: only what changes from line to line."""
    for axis in (2, 1):
        z = np.clip(residual / sigma, -1.5, 1.5)
        inside = (np.abs(z) < 1.5) * weight
        step = (z * weight / sigma).sum(axis) / np.maximum((inside / sigma**2).sum(axis), 1e-12)
        step[inside.sum(axis) < 0.5 * weight.sum(axis - 1)] = (
            0  # most of the line differs: no noise of the line's
        )
        lines = step - cv2.blur(np.ascontiguousarray(step), (9, 1), borderType=cv2.BORDER_REFLECT)
        residual -= np.expand_dims(lines, axis)
