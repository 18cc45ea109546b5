"""Camera RGB to linear Rec.2020."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.demosaic.camera_rgb import CameraRgb
from rawnind.imaging.jit import kernel

XYZ_TO_REC2020 = np.array(
    [
        [1.71666343, -0.35567332, -0.25336809],
        [-0.66667384, 1.61645574, 0.0157683],
        [0.01764248, -0.04277698, 0.94224328],
    ]
)
"""Inverse of ITU-R BT.2020's primaries with white D65, rounded as in the RawNIND research code."""
XYZ_TO_REC2020.flags.writeable = False

# Matrices of real cameras have a condition number of 2 to 15 (LibRaw's table); far beyond, noise would be amplified as much.
_MAX_CONDITION = 200.0


def camera_to_rec2020(rgb_xyz_matrix: Sequence[float]) -> NDArray[np.float64]:
    """The matrix from camera RGB to linear Rec.2020, without white balance.

        M = XYZ_TO_REC2020 @ inverse(rgb_xyz_matrix)

    Light of the colour of XYZ white (D65) becomes grey: a grey card under D65 is camera RGB
    `rgb_xyz_matrix @ (0.9505, 1, 1.0888) * reflectance`, not three equal numbers, and becomes three equal ones.

    Args:
        rgb_xyz_matrix: XYZ -> camera RGB, 9 numbers row by row.

    Returns:
        (3, 3) float64.

    Raises:
        ValueError: Not 9 finite numbers, or a matrix that no camera has: singular or nearly so.

    >>> np.allclose(camera_to_rec2020((1, 0, 0, 0, 1, 0, 0, 0, 1)), XYZ_TO_REC2020)
    True
    """
    matrix = np.array(rgb_xyz_matrix, np.float64)
    if matrix.shape != (9,) or not np.isfinite(matrix).all():
        raise ValueError(f"a colour matrix must be 9 finite numbers, got {rgb_xyz_matrix}")
    matrix = matrix.reshape(3, 3)
    if not np.any(matrix) or np.linalg.cond(matrix) > _MAX_CONDITION:
        raise ValueError(f"a colour matrix must be invertible, got {rgb_xyz_matrix}")
    return np.asarray(XYZ_TO_REC2020 @ np.linalg.inv(matrix))


def to_rec2020(rgb: CameraRgb, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Converts a whole frame to linear Rec.2020.

    Args:
        rgb: demosaiced photo, (3, H, W).
        matrix: (3, 3) from `camera_to_rec2020`.

    Returns:
        (3, H, W) float32; negative values from noise and out-of-gamut colours are kept.
    """
    _, height, width = rgb.values.shape
    out = np.empty((3, height, width), np.float32)
    _convert(rgb.values, *_folded(rgb, matrix), out)
    return out


def rec2020_crop(
    rgb: CameraRgb, top: int, left: int, size: int, matrix: NDArray[np.float64]
) -> NDArray[np.float16]:
    """Converts a square of a frame to linear Rec.2020.

    Args:
        rgb: demosaiced photo, (3, H, W).
        top: first row in `rgb`.
        left: first column in `rgb`.
        size: side in sites.
        matrix: (3, 3) from `camera_to_rec2020`.

    Returns:
        (3, size, size) float16.

    Raises:
        ValueError: The square reaches outside.
    """
    _, height, width = rgb.values.shape
    if not (0 <= top <= height - size and 0 <= left <= width - size):
        raise ValueError(f"a crop of {size} at ({top}, {left}) must lie within {height}x{width}")
    out = np.empty((3, size, size), np.float16)
    _convert_halves(rgb.values, top, left, *_folded(rgb, matrix), out.view(np.uint16))
    return out


def _folded(rgb: CameraRgb, matrix: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(3, 3) float32 matrix and (3,) float32 constant from stored values to Rec.2020: decoding and colour matrix in one."""
    return (matrix / rgb.scale).astype(np.float32), (-matrix.sum(axis=1) * rgb.offset / rgb.scale).astype(
        np.float32
    )


@kernel(fastmath={"contract"})
def _convert(
    values: NDArray[np.uint16], m: NDArray[np.float32], bias: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Stored values to float32 Rec.2020.

    Args:
        values: (3, H, W) stored values.
        m: (3, 3) matrix.
        bias: (3,) constant.
        out: (3, H, W), written.
    """
    m00, m01, m02 = m[0, 0], m[0, 1], m[0, 2]
    m10, m11, m12 = m[1, 0], m[1, 1], m[1, 2]
    m20, m21, m22 = m[2, 0], m[2, 1], m[2, 2]
    b0, b1, b2 = bias[0], bias[1], bias[2]
    for y in range(out.shape[1]):
        reds, greens, blues = values[0, y], values[1, y], values[2, y]
        for x in range(out.shape[2]):
            r, g, b = np.float32(reds[x]), np.float32(greens[x]), np.float32(blues[x])
            out[0, y, x] = m00 * r + m01 * g + m02 * b + b0
            out[1, y, x] = m10 * r + m11 * g + m12 * b + b1
            out[2, y, x] = m20 * r + m21 * g + m22 * b + b2


@kernel
def _half(value: np.float32) -> np.uint16:
    """The bits of a float32 as float16, rounded to nearest, ties to even (IEEE 754).

    The exponents' biases differ by 112, the fractions by 13 bits. Below 2**-14 float16 is subnormal with fixed steps of
    2**-24: those of a float32 between 0.5 and 1, so that adding 0.5 rounds to them. From 65520 on it is infinite. NumPy's
    own conversion takes ten times as long; not every processor has an instruction for it.
    """
    word = np.uint32  # numba widens integer sums to 64 bits, which halves the vectors
    size = np.float32(abs(value))
    bits = size.view(np.uint32)
    odd = word((bits >> word(13)) & word(1))
    rounded = word(word(bits + word(0xFFF)) + odd) >> word(13)
    normal = min(word(rounded - word(112 << 10)), word(0x7C00))
    tiny = word(np.float32(size + np.float32(0.5)).view(np.uint32) - word(0x3F000000))
    half = tiny if bits < word(113 << 23) else normal
    sign = word(np.float32(value).view(np.uint32) >> word(16)) & word(0x8000)
    return np.uint16(word(sign) | word(half))


@kernel(fastmath={"contract"})
def _convert_halves(  # noqa: PLR0917
    values: NDArray[np.uint16],
    top: int,
    left: int,
    m: NDArray[np.float32],
    bias: NDArray[np.float32],
    out: NDArray[np.uint16],
) -> None:
    """As `_convert` for a square of `values`, to the bits of float16.

    Rows are sliced from the whole frame in here: in a view of it, LLVM cannot prove that a row is contiguous.

    Args:
        values: (3, H, W) stored values.
        top: first row of the square.
        left: its first column.
        m: (3, 3) matrix.
        bias: (3,) constant.
        out: (3, size, size) float16 bits, written.
    """
    size = out.shape[2]
    for y in range(out.shape[1]):
        reds, greens, blues = (
            values[0, top + y, left : left + size],
            values[1, top + y, left : left + size],
            values[2, top + y, left : left + size],
        )
        for color in range(3):
            m0, m1, m2, b, row = m[color, 0], m[color, 1], m[color, 2], bias[color], out[color, y]
            for x in range(size):
                red, green, blue = np.float32(reds[x]), np.float32(greens[x]), np.float32(blues[x])
                row[x] = _half(m0 * red + m1 * green + m2 * blue + b)
