"""A demosaiced photo as a 16-bit TIFF in sRGB, white-balanced as shot and upright: to look at, in any program."""

import io
from collections.abc import Sequence

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ImageCms

from rawnind.denoise.linear_dng import ROWS_PER_STRIP, strips
from rawnind.source.editor_tags import EditorTags

_SRGB_TO_XYZ = np.array(  # IEC 61966-2-1
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_ICC_PROFILE = 34675
_TURNS = {1: 0, 3: 2, 6: 3, 8: 1}
"""Quarter turns counter-clockwise that make a photo upright, by TIFF's orientation."""

_ROWS = 64


def encode_srgb_tiff(levels: NDArray[np.float32], tags: EditorTags, rgb_xyz_matrix: Sequence[float]) -> bytes:
    """The bytes of an uncompressed 16-bit TIFF with an sRGB profile.

    Args:
        levels: (3, H, W) camera RGB, not white-balanced; 0 is black, 1 a full sensor. Changed in place.
        tags: its orientation and white balance, which is D65 where the file has none.
        rgb_xyz_matrix: XYZ -> camera RGB under D65, 9 numbers row by row.
    """
    _to_srgb(levels, *balance_and_matrix(rgb_xyz_matrix, tags.as_shot_neutral))
    upright = np.rot90(levels, _TURNS[tags.orientation], axes=(1, 2))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        strips(upright, 65535),
        shape=(*upright.shape[1:], 3),
        dtype=np.uint16,
        byteorder="<",
        photometric="rgb",
        planarconfig=1,
        rowsperstrip=ROWS_PER_STRIP,
        metadata=None,
        software=False,
        extratags=[(_ICC_PROFILE, "B", len(profile), profile, True)],
    )
    return file.getvalue()


def balance_and_matrix(
    rgb_xyz_matrix: Sequence[float], neutral: tuple[float, float, float] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How camera RGB becomes linear sRGB: factors that make what is neutral equal in all colours, then a matrix.

    The smallest factor is 1, so that a full sensor reaches 1 in all colours. Between the two steps levels are clipped at 1: a full
    sensor has no colour.

    Args:
        rgb_xyz_matrix: XYZ -> camera RGB, 9 numbers row by row.
        neutral: camera RGB of white; None: that of D65.

    Returns:
        (3,) and (3, 3) float32.
    """
    from_srgb = np.reshape(rgb_xyz_matrix, (3, 3)) @ _SRGB_TO_XYZ
    daylight = from_srgb.sum(axis=1)  # camera RGB of D65
    white = daylight if neutral is None else np.array(neutral)
    matrix = np.linalg.inv(from_srgb / daylight[:, None])  # from camera RGB whose white is (1, 1, 1)
    return (white.max() / white).astype(np.float32), matrix.astype(np.float32)


def _to_srgb(levels: NDArray[np.float32], balance: NDArray[np.float32], matrix: NDArray[np.float32]) -> None:
    """Converts to sRGB with its transfer curve, in place; colours outside of sRGB are clipped.

    Args:
        levels: (3, H, W) camera RGB.
        balance: (3,) factors from `balance_and_matrix`.
        matrix: (3, 3) from there.
    """
    for top in range(0, levels.shape[1], _ROWS):
        rows = levels[:, top : top + _ROWS]
        balanced = np.clip(rows * balance[:, None, None], None, 1)
        linear = np.clip(np.einsum("ij,jyx->iyx", matrix, balanced), 0, 1)
        rows[:] = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
