"""Tags of DNG files, and the Exif directory that tifffile does not write: TIFF 6.0, Exif 2.3, DNG specification 1.4."""

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import tifffile

from rawnind.records import Capture

MAKE, MODEL, ORIENTATION = 271, 272, 274
EXIF_IFD = 34665
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
BLACK_LEVEL, WHITE_LEVEL = 50714, 50717
COLOR_MATRIX, AS_SHOT_NEUTRAL, ILLUMINANT = 50721, 50728, 50778
D65 = 21
DENOMINATOR = 10_000  # what cameras' own colour matrices are written with

Tag = tuple[int, str, int, Any, bool]
"""As tifffile's `extratags` takes them: number, type, count, value, once per file."""


def text_tag(tag: int, value: str) -> Tag:
    """A tag of ASCII text."""
    return (tag, "s", 0, value, True)


def byte_tag(tag: int, *values: int) -> Tag:
    """A tag of 8-bit integers."""
    return (tag, "B", len(values), bytes(int(value) for value in values), True)


def short_tag(tag: int, *values: int) -> Tag:
    """A tag of 16-bit integers."""
    return (tag, "H", len(values), tuple(int(value) for value in values), True)


def long_tag(tag: int, *values: int) -> Tag:
    """A tag of 32-bit integers."""
    return (tag, "I", len(values), tuple(int(value) for value in values), True)


def ratio_tag(tag: int, kind: str, values: Sequence[float], count: int) -> Tag:
    """A tag of fractions, kept to four decimals.

    Args:
        tag: its number.
        kind: "2i" for signed, "2I" for unsigned fractions, which must be above 0.
        values: of the tag.
        count: how many there must be.

    Raises:
        ValueError: There are more or fewer values, or one is not above 0.
    """
    if len(values) != count:
        raise ValueError(f"tag {tag} needs {count} values, got {len(values)}")
    pairs = [(round(float(value) * DENOMINATOR), DENOMINATOR) for value in values]
    if kind == "2I" and min(numerator for numerator, _ in pairs) <= 0:
        raise ValueError(f"tag {tag} needs values above 0, got {list(values)}")
    return (tag, kind, count, tuple(number for pair in pairs for number in pair), True)


def exif_tag(iso: int, capture: Capture | None) -> Tag:
    """A placeholder as long as the Exif directory that `with_exif` puts in its place; arguments as there."""
    return byte_tag(EXIF_PLACEHOLDER, *bytes(len(_exif(iso, capture, 0))))


def with_exif(file: io.BytesIO, iso: int, capture: Capture | None) -> bytes:
    """Turns the placeholder's entry into tag 34665 (type LONG), which points to the Exif IFD in the placeholder's bytes.

    Args:
        file: a little-endian TIFF with `exif_tag(iso, capture)` in its first directory; changed in place, without a copy.
        iso: 1..65535.
        capture: further tags; its ISO does not count.
    """
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        tag = tiff.pages.first.tags[EXIF_PLACEHOLDER]
        entry, start = tag.offset, tag.valueoffset
    exif = _exif(iso, capture, start)
    with file.getbuffer() as data:
        struct.pack_into("<HHI", data, entry, EXIF_IFD, 4, 1)
        data[start : start + len(exif)] = exif
    return file.getvalue()


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
