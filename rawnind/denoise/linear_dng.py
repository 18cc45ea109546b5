"""A demosaiced photo as a linear DNG, which photo editors open like a RAW file: white balance and colours are still to be chosen."""

import io
from collections.abc import Iterator, Sequence

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

ROWS_PER_STRIP = 64


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
        strips(levels, WHITE),
        shape=(*levels.shape[1:], 3),
        dtype=np.uint16,
        byteorder="<",
        photometric=PHOTOMETRIC_LINEAR_RAW,
        planarconfig=1,
        rowsperstrip=ROWS_PER_STRIP,
        metadata=None,
        software=False,
        extratags=_tags(tags, rgb_xyz_matrix),
    )
    iso = _iso(tags)
    return file.getvalue() if iso is None else with_exif(file, iso, tags.capture)


def strips(levels: NDArray[np.float32], white: int) -> Iterator[bytes]:
    """Levels as a TIFF's strips of `ROWS_PER_STRIP` rows, little-endian uint16; a copy of the whole frame would be large.

    Args:
        levels: (3, H, W).
        white: what level 1 becomes; values outside 0..1 are clipped.

    >>> [strip.hex() for strip in strips(np.array([-1, 0.5, 2], np.float32).reshape(3, 1, 1), 100)]
    ['000032006400']
    """
    for top in range(0, levels.shape[1], ROWS_PER_STRIP):
        rows = levels[:, top : top + ROWS_PER_STRIP].transpose(1, 2, 0)
        yield np.rint(np.clip(rows, 0, 1) * np.float32(white)).astype("<u2").tobytes()


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
