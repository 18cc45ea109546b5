"""Reads how a photo was taken: from its Exif tags by ExifRead, and what those lack from LibRaw."""

import io
import logging
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, BinaryIO

import exifread
from exifread.core.exceptions import ExifError

from rawnind.records import Capture
from rawnind.source.maker_notes import lens_name, lens_words, maker_note

logging.getLogger("exifread").setLevel(
    logging.CRITICAL
)  # it warns of every maker's tag that it does not know

_RAF_MAGIC, _RAF_JPEG = b"FUJIFILMCCD-RAW ", 84
"""A RAF file's Exif tags are those of its embedded JPEG; where that lies is a big-endian number at this offset."""

_CR3_BRAND, _CR3_TAGS, _CR3_EXIF = b"ftypcrx ", b"CMT1", b"CMT2"
"""A CR3 has two TIFFs in boxes of its head, one with the tags of a first directory and one with those of the Exif directory."""

_MRW_MAGIC, _MRW_TIFF = b"\0MRM", b"\0TTW"
"""An MRW has a TIFF in a block of its head; the block's name is followed by four bytes of its length."""

_HEAD = 1 << 18

_DAMAGED = (
    ExifError, ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError, struct.error,
)  # fmt: skip
"""What ExifRead raises on tags that are damaged."""

_PANASONIC_ISO = "Image Tag 0x0017"
"""RW2 files have it in their first directory, where TIFF has no such tag."""

_HIGH_ISO = "EXIF RecommendedExposureIndex", "EXIF Tag 0x8831", "EXIF ISOSpeed"
"""Exif 2.3's 32-bit tags; the second is StandardOutputSensitivity, which OM System and Pentax write."""

_LONGEST_TEXT = 200
_MOST_ISO = 1 << 31


def read_exif(file: BinaryIO) -> tuple[Capture, tuple[str, str]]:
    """How a photo was taken, and its make and model, which are empty where the tags do not say.

    ExifRead (BSD licence) reads TIFF and its kin (DNG, ARW, CR2, NEF, ORF, PEF, RW2) and JPEG; CR3, RAF and MRW hold such
    parts. What only the maker's own notes say is added: see `maker_notes`.

    Args:
        file: an opened file, at any position.
    """
    tags: dict[str, Any] = {}
    try:
        for part, names in _exif_parts(file):
            read = exifread.process_file(part, details=False, extract_thumbnail=False)
            tags |= {
                names + name.removeprefix("Image ") if names else name: tag for name, tag in read.items()
            }
        capture = _capture(tags)
        if capture.iso is None or capture.lens is None:
            iso, lens = maker_note(file)
            capture = replace(capture, iso=capture.iso or iso, lens=capture.lens or lens or _lens_range(tags))
    except _DAMAGED:
        return Capture(), ("", "")
    return capture, (_text(tags, "Image Make") or "", _text(tags, "Image Model") or "")


def _exif_parts(file: BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    """What ExifRead can read of a file, and how the names of the tags in its first directory begin, if not with `Image`."""
    file.seek(0)
    head = file.read(_RAF_JPEG + 8)
    if head.startswith(_MRW_MAGIC) or head.startswith(_CR3_BRAND, 4):
        head += file.read(_HEAD)
    if head.startswith(_RAF_MAGIC) and len(head) == _RAF_JPEG + 8:
        start, length = struct.unpack_from(">II", head, _RAF_JPEG)
        file.seek(start)
        yield io.BytesIO(file.read(length)), ""
    elif head.startswith(_CR3_BRAND, 4):
        for box, names in ((_CR3_TAGS, ""), (_CR3_EXIF, "EXIF ")):
            if (at := head.find(box)) >= 4:
                (length,) = struct.unpack_from(">I", head, at - 4)
                yield io.BytesIO(head[at + 4 : at - 4 + length]), names
    elif head.startswith(_MRW_MAGIC):
        if (at := head.find(_MRW_TIFF)) >= 0:
            yield io.BytesIO(head[at + 8 :]), ""
    else:
        file.seek(0)
        yield file, ""


def _capture(tags: Mapping[str, Any]) -> Capture:
    iso = _number(tags, "EXIF ISOSpeedRatings", "Image ISOSpeedRatings", _PANASONIC_ISO)
    if iso == 65535:  # the tag's largest value: the camera has a higher one elsewhere
        iso = _number(tags, *_HIGH_ISO) or iso
    orientation = _number(tags, "Image Orientation")
    return Capture(
        iso=int(iso) if iso and iso < _MOST_ISO else None,
        exposure_time=_number(tags, "EXIF ExposureTime", "Image ExposureTime"),
        aperture=_number(tags, "EXIF FNumber", "Image FNumber"),
        focal_length=_number(tags, "EXIF FocalLength", "Image FocalLength"),
        captured_at=_time(_text(tags, "EXIF DateTimeOriginal") or _text(tags, "Image DateTimeOriginal")),
        lens=lens_name(_text(tags, "EXIF LensModel")),
        orientation=int(orientation) if orientation and orientation <= 8 else None,
    )


def _lens_range(tags: Mapping[str, Any]) -> str | None:
    """What Exif's LensSpecification or DNG's LensInfo says of a lens without a name."""
    for name in ("EXIF LensSpecification", "Image Tag 0xC630"):
        values = tags[name].values if name in tags else ()
        if len(values) == 4 and not isinstance(values, str | bytes):
            ratios = (value.as_integer_ratio() for value in values)
            return lens_words([top / bottom if bottom else 0.0 for top, bottom in ratios])
    return None


def _number(tags: Mapping[str, Any], *names: str) -> float | None:
    """The first of these tags that is a number above 0."""
    for name in names:
        values = tags[name].values if name in tags else ()
        if values and not isinstance(values, str | bytes):
            numerator, denominator = values[0].as_integer_ratio()
            if numerator > 0 and denominator:
                return float(f"{numerator / denominator:.6g}")
    return None


def _text(tags: Mapping[str, Any], name: str) -> str | None:
    values = tags[name].values if name in tags else ""
    text = values.split("\0")[0] if isinstance(values, str) else ""
    return " ".join("".join(c for c in text if c.isprintable()).split())[:_LONGEST_TEXT] or None


def _time(text: str | None) -> str | None:
    """Exif's spelling of a time as ISO 8601's.

    >>> _time("2005:08:03 18:59:18")
    '2005-08-03T18:59:18'
    """
    try:
        return datetime.strptime(text or "", "%Y:%m:%d %H:%M:%S").isoformat()  # noqa: DTZ007 - cameras name no zone
    except ValueError:
        return None


def with_libraw(capture: Capture, other: Any, lens: Any) -> Capture:
    """`capture` with what it lacks from LibRaw, whose zeros mean that it does not know.

    Args:
        capture: from Exif tags.
        other: rawpy's `RawPy.other`.
        lens: rawpy's `RawPy.lens`.
    """
    taken = other.timestamp
    libraw = Capture(
        iso=round(other.iso_speed) if 0 < other.iso_speed < _MOST_ISO else None,
        exposure_time=_known(other.shutter_speed),
        aperture=_known(other.aperture),
        focal_length=_known(other.focal_length),
        captured_at=taken.isoformat() if taken.year > 1980 else None,
        lens=lens_name("".join(c for c in str(lens.model) if c.isprintable())[:_LONGEST_TEXT].strip()),
    )
    missing = {
        field.name: getattr(libraw, field.name)
        for field in fields(Capture)
        if getattr(capture, field.name) is None
    }
    return replace(capture, **missing)


def _known(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) and 0 < value < 1e6 else None
