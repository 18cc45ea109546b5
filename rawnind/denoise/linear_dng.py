"""A demosaiced photo as a linear DNG, which photo editors open like a RAW file: white balance and colours are still to be chosen."""

import io
from collections.abc import Sequence

import numpy as np
import tifffile
from numpy.typing import NDArray

from rawnind.output.dng_tags import (
    AS_SHOT_NEUTRAL,
    BLACK_LEVEL,
    COLOR_MATRIX,
    D65,
    DNG_BACKWARD_VERSION,
    DNG_VERSION,
    ILLUMINANT,
    MAKE,
    MODEL,
    ORIENTATION,
    UNIQUE_CAMERA_MODEL,
    WHITE_LEVEL,
    Tag,
    byte_tag,
    exif_tag,
    long_tag,
    ratio_tag,
    short_tag,
    text_tag,
    with_exif,
)
from rawnind.source.editor_tags import EditorTags

PHOTOMETRIC_LINEAR_RAW = 34892
WHITE = 65535
"""Value at level 1, the sensor's white level; black is 0, so that readers agree that ignore a black level here."""

_ROWS_PER_STRIP = 64


def encode_linear_dng(
    levels: NDArray[np.float32], tags: EditorTags, rgb_xyz_matrix: Sequence[float] | None
) -> bytes:
    """The bytes of an uncompressed 16-bit linear DNG.

    Args:
        levels: (3, H, W) camera RGB, not white-balanced; 0 is black, 1 a full sensor. Values outside are clipped.
        tags: camera, orientation, white balance and exposure, written as they are.
        rgb_xyz_matrix: XYZ -> camera RGB under D65, 9 numbers row by row; None: the file has no colour matrix.
    """
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        quantised(levels, WHITE),
        byteorder="<",
        photometric=PHOTOMETRIC_LINEAR_RAW,
        planarconfig=1,
        rowsperstrip=_ROWS_PER_STRIP,
        metadata=None,
        software=False,
        extratags=_tags(tags, rgb_xyz_matrix),
    )
    iso = _iso(tags)
    data = bytearray(file.getbuffer())
    return bytes(data) if iso is None else with_exif(data, iso, tags.capture)


def quantised(levels: NDArray[np.float32], white: int) -> NDArray[np.uint16]:
    """(H, W, 3) uint16 from (3, H, W): level 1 becomes `white`; values outside 0..1 are clipped.

    >>> quantised(np.array([-1, 0.5, 2], np.float32).reshape(3, 1, 1), 100).ravel().tolist()
    [0, 50, 100]
    """
    _, height, width = levels.shape
    out = np.empty((height, width, 3), np.uint16)
    for top in range(0, height, _ROWS_PER_STRIP):  # a copy of the whole frame in float32 would be large
        rows = levels[:, top : top + _ROWS_PER_STRIP].transpose(1, 2, 0)
        out[top : top + _ROWS_PER_STRIP] = np.rint(np.clip(rows, 0, 1) * np.float32(white))
    return out


def _iso(tags: EditorTags) -> int | None:
    """The photo's ISO as far as the tag reaches."""
    return None if tags.capture.iso is None else min(tags.capture.iso, 65535)


def _tags(tags: EditorTags, rgb_xyz_matrix: Sequence[float] | None) -> list[Tag]:
    found = [
        text_tag(MAKE, _ascii(tags.make)),
        text_tag(MODEL, _ascii(tags.model)),
        short_tag(ORIENTATION, tags.orientation),
        byte_tag(DNG_VERSION, 1, 4, 0, 0),
        byte_tag(DNG_BACKWARD_VERSION, 1, 1, 0, 0),
        text_tag(UNIQUE_CAMERA_MODEL, _ascii(tags.camera) or "unknown"),
        short_tag(BLACK_LEVEL, 0, 0, 0),
        long_tag(WHITE_LEVEL, WHITE, WHITE, WHITE),
    ]
    if rgb_xyz_matrix is not None:
        found += [
            ratio_tag(COLOR_MATRIX, "2i", rgb_xyz_matrix, 9),
            short_tag(ILLUMINANT, D65),
        ]
    if tags.as_shot_neutral is not None:
        found.append(ratio_tag(AS_SHOT_NEUTRAL, "2I", tags.as_shot_neutral, 3))
    if (iso := _iso(tags)) is not None:
        found.append(exif_tag(iso, tags.capture))
    return found


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")
