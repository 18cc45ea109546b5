"""Writes a mosaic as an uncompressed DNG that LibRaw decodes to exactly the same values."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import tifffile
from numpy.typing import ArrayLike, NDArray

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
from rawnind.records import Capture

CFA_REPEAT, CFA_PATTERN = 33421, 33422
CFA_PLANE_COLOR, CFA_LAYOUT, BLACK_REPEAT, ACTIVE_AREA = 50710, 50711, 50713, 50829
PHOTOMETRIC_CFA = 32803

Pattern = Sequence[Sequence[int]] | NDArray[np.integer[Any]]


def encode_dng(
    mosaic: NDArray[np.uint16],
    *,
    pattern: Pattern,
    black_level: Sequence[int],
    white_level: int,
    iso: int,
    make: str,
    model: str,
    color_matrix: Sequence[float],
    as_shot_neutral: Sequence[float],
    margins: tuple[int, int, int, int] = (0, 0, 0, 0),
    capture: Capture | None = None,
) -> bytes:
    """The bytes of a DNG; equal arguments give equal bytes.

    Args:
        mosaic: (H, W) sensor values with their margins, at least 22 in each direction (LibRaw's smallest photo).
        pattern: 2x2 (Bayer) or 6x6 (X-Trans) colour indices (0 red, 1 green, 2 blue); its first entry is the first
            site of the visible area.
        black_level: sensor values in plane order: R, G of the red rows, G of the blue rows, B for Bayer;
            one value for X-Trans.
        white_level: sensor value at which the sensor is full.
        iso: 1..65535, written where Exif has it.
        make: the maker as LibRaw's table spells it; decides whether LibRaw knows the camera's colour matrix.
        model: as `make`.
        color_matrix: XYZ (D65) -> camera RGB, 3x3 row by row, kept to four decimals.
        as_shot_neutral: camera RGB of a grey card, kept to four decimals, each above 0.
        margins: rows and columns outside of the visible area: top, left, bottom, right. Top and left are multiples
            of the pattern's size (LibRaw would move others to the next multiple).
        capture: further Exif tags; its ISO does not count.

    Raises:
        ValueError: An argument breaks its rule.
    """
    tile = _checked_tile(pattern)
    _check_frame(mosaic, margins, len(tile))
    if not 1 <= iso <= 65535:
        raise ValueError(f"iso must lie between 1 and 65535, got {iso}")
    height, width = mosaic.shape
    top, left, bottom, right = margins
    black = _black_tile(tile, black_level)
    tags: list[Tag] = [
        text_tag(MAKE, make),
        text_tag(MODEL, model),
        text_tag(UNIQUE_CAMERA_MODEL, f"{make} {model}"),
        short_tag(ORIENTATION, (capture and capture.orientation) or 1),
        short_tag(CFA_REPEAT, *tile.shape),
        byte_tag(CFA_PATTERN, *tile.ravel()),
        exif_tag(iso, capture),
        byte_tag(DNG_VERSION, 1, 4, 0, 0),
        byte_tag(DNG_BACKWARD_VERSION, 1, 1, 0, 0),
        byte_tag(CFA_PLANE_COLOR, 0, 1, 2),
        short_tag(CFA_LAYOUT, 1),
        short_tag(BLACK_REPEAT, *black.shape),
        long_tag(BLACK_LEVEL, *black.ravel()),
        long_tag(WHITE_LEVEL, white_level),
        ratio_tag(COLOR_MATRIX, "2i", color_matrix, 9),
        ratio_tag(AS_SHOT_NEUTRAL, "2I", as_shot_neutral, 3),
        short_tag(ILLUMINANT, D65),
        long_tag(ACTIVE_AREA, top, left, height - bottom, width - right),
    ]
    return with_exif(_encode_tiff(mosaic, tags), iso, capture)


def _checked_tile(pattern: Pattern) -> NDArray[np.uint8]:
    tile = np.asarray(pattern)
    if tile.shape not in {(2, 2), (6, 6)} or not np.isin(tile, (0, 1, 2)).all():
        raise ValueError(f"pattern must be 2x2 or 6x6 of 0, 1, 2, got {tile.tolist()}")
    return tile.astype(np.uint8)


def _check_frame(mosaic: NDArray[np.uint16], margins: tuple[int, int, int, int], period: int) -> None:
    if mosaic.dtype != np.uint16 or mosaic.ndim != 2:
        raise ValueError(f"mosaic must be uint16 (H, W), got {mosaic.dtype} {mosaic.shape}")
    top, left, bottom, right = margins
    if min(margins) < 0 or top % period or left % period:
        raise ValueError(
            f"top and left margins must be multiples of {period} and none negative, got {margins}"
        )
    if min(mosaic.shape[0] - top - bottom, mosaic.shape[1] - left - right) < 22:
        raise ValueError(f"the visible area must be at least 22x22, got {mosaic.shape} less {margins}")


def _black_tile(tile: NDArray[np.uint8], black_level: Sequence[int]) -> NDArray[np.int64]:
    """Black level per site of the tile, (2, 2), or (1, 1) where one value serves all."""
    levels = np.asarray(black_level, dtype=np.int64)
    if levels.shape == (1,):
        return levels.reshape(1, 1)
    if levels.shape != (4,) or tile.shape != (2, 2):
        raise ValueError(
            f"black_level must have 4 values (Bayer) or 1, got {list(black_level)} for {tile.shape}"
        )
    return levels[bayer_planes(tile)]


def bayer_planes(tile: ArrayLike) -> NDArray[np.int64]:
    """Index of the plane (R, G of the red rows, G of the blue rows, B) that each site of a Bayer tile belongs to.

    >>> bayer_planes([[1, 2], [0, 1]]).tolist()
    [[2, 3], [0, 1]]
    """
    colors = np.asarray(tile, dtype=np.int64)
    red_row = (colors == 0).any(axis=1, keepdims=True)
    return np.where(colors == 1, np.where(red_row, 1, 2), np.where(colors == 0, 0, 3))


def _encode_tiff(mosaic: NDArray[np.uint16], tags: list[Tag]) -> io.BytesIO:
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        mosaic,
        byteorder="<",
        photometric=PHOTOMETRIC_CFA,
        planarconfig=1,
        rowsperstrip=mosaic.shape[0],
        metadata=None,
        software=False,
        extratags=tags,
    )
    return file
