"""Writes a mosaic as an uncompressed DNG that LibRaw decodes to exactly the same values."""

import hashlib
import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import ArrayLike, NDArray

from rawnind.records import Capture

# Tags of TIFF 6.0, Exif 2.3 and the DNG specification 1.4.
MAKE, MODEL, ORIENTATION = 271, 272, 274
CFA_REPEAT, CFA_PATTERN, EXIF_IFD = 33421, 33422, 34665
EXIF_PLACEHOLDER = EXIF_IFD - 1  # unused; tifffile refuses to write 34665 itself
EXIF_TIME, EXIF_F_NUMBER, EXIF_ISO, EXIF_TAKEN, EXIF_FOCAL_LENGTH, EXIF_LENS = (
    33434,
    33437,
    34855,
    36867,
    37386,
    42036,
)
DNG_VERSION, DNG_BACKWARD_VERSION, UNIQUE_CAMERA_MODEL = 50706, 50707, 50708
CFA_PLANE_COLOR, CFA_LAYOUT = 50710, 50711
BLACK_REPEAT, BLACK_LEVEL, WHITE_LEVEL = 50713, 50714, 50717
COLOR_MATRIX, AS_SHOT_NEUTRAL, ILLUMINANT, ACTIVE_AREA = 50721, 50728, 50778, 50829
PHOTOMETRIC_CFA = 32803
D65 = 21
DENOMINATOR = 10_000  # what cameras' own colour matrices are written with

Pattern = Sequence[Sequence[int]] | NDArray[np.integer[Any]]
_Tag = tuple[int, str, int, Any, bool]


def write_dng(
    path: Path,
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
) -> str:
    """Writes `encode_dng(...)` to `path` and returns the SHA-1 of the bytes, 40 hex digits.

    Raises:
        ValueError: As `encode_dng`.
        OSError: The file cannot be written.
    """
    data = encode_dng(
        mosaic,
        pattern=pattern,
        black_level=black_level,
        white_level=white_level,
        iso=iso,
        make=make,
        model=model,
        color_matrix=color_matrix,
        as_shot_neutral=as_shot_neutral,
        margins=margins,
        capture=capture,
    )
    path.write_bytes(data)
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


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
    tags: list[_Tag] = [
        _text(MAKE, make),
        _text(MODEL, model),
        _text(UNIQUE_CAMERA_MODEL, f"{make} {model}"),
        _shorts(ORIENTATION, (capture and capture.orientation) or 1),
        _shorts(CFA_REPEAT, *tile.shape),
        _bytes(CFA_PATTERN, *tile.ravel()),
        _bytes(EXIF_PLACEHOLDER, *bytes(len(_exif(iso, capture, 0)))),
        _bytes(DNG_VERSION, 1, 4, 0, 0),
        _bytes(DNG_BACKWARD_VERSION, 1, 1, 0, 0),
        _bytes(CFA_PLANE_COLOR, 0, 1, 2),
        _shorts(CFA_LAYOUT, 1),
        _shorts(BLACK_REPEAT, *black.shape),
        _longs(BLACK_LEVEL, *black.ravel()),
        _longs(WHITE_LEVEL, white_level),
        _ratios(COLOR_MATRIX, "2i", color_matrix, 9),
        _ratios(AS_SHOT_NEUTRAL, "2I", as_shot_neutral, 3),
        _shorts(ILLUMINANT, D65),
        _longs(ACTIVE_AREA, top, left, height - bottom, width - right),
    ]
    return _with_exif(_encode_tiff(mosaic, tags), iso, capture)


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


def _encode_tiff(mosaic: NDArray[np.uint16], tags: list[_Tag]) -> bytearray:
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
    return bytearray(file.getbuffer())


def _with_exif(data: bytearray, iso: int, capture: Capture | None) -> bytes:
    """Turns the placeholder's entry into tag 34665 (type LONG), which points to the Exif IFD in the placeholder's bytes."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages.first.tags[EXIF_PLACEHOLDER]
        entry, start = tag.offset, tag.valueoffset
    struct.pack_into("<HHI", data, entry, EXIF_IFD, 4, 1)
    exif = _exif(iso, capture, start)
    data[start : start + len(exif)] = exif
    return bytes(data)


def _exif(iso: int, capture: Capture | None, start: int) -> bytes:
    """An Exif IFD: the only place where LibRaw looks for the ISO of a DNG.

    Args:
        iso: of the photo.
        capture: further tags.
        start: where the IFD lies in the file; values of more than four bytes follow it.
    """
    capture = capture or Capture()
    taken = (capture.captured_at or "").replace("-", ":").replace("T", " ")
    values = [
        (EXIF_TIME, 5, _ratio(capture.exposure_time)),
        (EXIF_F_NUMBER, 5, _ratio(capture.aperture)),
        (EXIF_ISO, 3, struct.pack("<HH", iso, 0)),
        (EXIF_TAKEN, 2, taken.encode("ascii") + b"\0" if taken else b""),
        (EXIF_FOCAL_LENGTH, 5, _ratio(capture.focal_length)),
        (EXIF_LENS, 2, capture.lens.ljust(4).encode("ascii") + b"\0" if capture.lens else b""),
    ]
    present = [value for value in values if value[2]]
    at = start + 2 + 12 * len(present) + 4
    directory, heap = struct.pack("<H", len(present)), b""
    for tag, kind, value in present:
        place = value
        if len(value) > 4:
            place = struct.pack("<I", at + len(heap))
            heap += value + b"\0" * (len(value) % 2)
        directory += struct.pack("<HHI", tag, kind, len(value) if kind == 2 else 1) + place
    return directory + bytes(4) + heap


def _ratio(value: float | None) -> bytes:
    """A number as a fraction of whole numbers, as cameras write it; empty where it is unknown."""
    if value is None:
        return b""
    fraction = Fraction(value).limit_denominator(DENOMINATOR)
    return struct.pack("<II", fraction.numerator, fraction.denominator)


def _text(tag: int, value: str) -> _Tag:
    return (tag, "s", 0, value, True)


def _bytes(tag: int, *values: int) -> _Tag:
    return (tag, "B", len(values), bytes(int(value) for value in values), True)


def _shorts(tag: int, *values: int) -> _Tag:
    return (tag, "H", len(values), tuple(int(value) for value in values), True)


def _longs(tag: int, *values: int) -> _Tag:
    return (tag, "I", len(values), tuple(int(value) for value in values), True)


def _ratios(tag: int, kind: str, values: Sequence[float], count: int) -> _Tag:
    if len(values) != count:
        raise ValueError(f"tag {tag} needs {count} values, got {len(values)}")
    pairs = [(round(float(value) * DENOMINATOR), DENOMINATOR) for value in values]
    if kind == "2I" and min(numerator for numerator, _ in pairs) <= 0:
        raise ValueError(f"tag {tag} needs values above 0, got {list(values)}")
    return (tag, kind, count, tuple(number for pair in pairs for number in pair), True)
