"""Reads from the maker's own notes what Exif's tags leave out: the lens, and the ISO of Nikon's early cameras.

The tags are those that ExifTool documents for Canon, Nikon, Olympus and Panasonic.
"""

import struct
from collections.abc import Sequence
from typing import BinaryIO

from rawnind.source.file_check import TIFF_ORDERS, Slices
from rawnind.source.tiff import Bytes, directory, numbers, text, unpack

_MAKE, _EXIF, _NOTE = 271, 34665, 37500
_CANON_LENS = 0x95
_NIKON, _NIKON_ISO, _NIKON_LENS = b"Nikon\0\2", 2, 0x84
_NIKON_TIFF = 10
_OLYMPUS, _OLYMPUS_EQUIPMENT, _OLYMPUS_LENS = b"OLYMPUS\0", 0x2010, 0x203
_PANASONIC, _PANASONIC_LENS = b"Panasonic\0\0\0", 0x51


def maker_note(file: BinaryIO) -> tuple[int | None, str | None]:
    """The ISO and the lens of the maker's notes, None where they do not say.

    Args:
        file: an opened file, at any position; only TIFF and its kin have notes that are read.
    """
    data = Slices(file)
    order = TIFF_ORDERS.get(data[:4])
    try:
        return _read(data, order) if order else (None, None)
    except (struct.error, ValueError, OverflowError):
        return None, None


def _read(data: Bytes, order: str) -> tuple[int | None, str | None]:
    (start,) = unpack(data, order + "I", 4)
    first, _ = directory(data, order, start, {_MAKE, _EXIF})
    (exif,) = numbers(data, order, first[_EXIF]) if _EXIF in first else (0,)
    note = directory(data, order, int(exif), {_NOTE})[0].get(_NOTE) if exif else None
    if note is None:
        return None, None
    make, at, head = text(data, first.get(_MAKE)), note.at, data[note.at : note.at + 16]
    if head.startswith(_NIKON):
        base = at + _NIKON_TIFF  # of a TIFF of its own
        order = TIFF_ORDERS.get(data[base : base + 4], order)
        return _nikon(data, order, base + unpack(data, order + "I", base + 4)[0], base)
    if make.startswith("NIKON") and not head.startswith(b"Nikon"):
        return _nikon(data, order, at, 0)
    return None, _lens(data, order, make, at, head)


def _lens(data: Bytes, order: str, make: str, at: int, head: bytes) -> str | None:
    """The lens in the notes at `at`, whose first bytes are `head`."""
    words = ""
    if head.startswith(_OLYMPUS):
        order = "<" if head.startswith(b"II", len(_OLYMPUS)) else ">"
        entry = directory(data, order, at + 12, {_OLYMPUS_EQUIPMENT}, at)[0].get(_OLYMPUS_EQUIPMENT)
        if entry:
            (start,) = numbers(data, order, entry) or (entry.at - at,)  # its place, or the directory itself
            words = _text(data, order, at + int(start), _OLYMPUS_LENS, at)
    elif head.startswith(_PANASONIC):
        words = _text(data, order, at + len(_PANASONIC), _PANASONIC_LENS)
    elif make == "Canon":
        words = _text(data, order, at, _CANON_LENS)
    return lens_name(words)


def _text(data: Bytes, order: str, start: int, tag: int, base: int = 0) -> str:
    return text(data, directory(data, order, start, {tag}, base)[0].get(tag))


def _nikon(data: Bytes, order: str, start: int, base: int) -> tuple[int | None, str | None]:
    tags, _ = directory(data, order, start, {_NIKON_ISO, _NIKON_LENS}, base)
    iso = numbers(data, order, tags.get(_NIKON_ISO))[1:]  # after a flag
    return int(iso[0]) or None if iso else None, lens_words(numbers(data, order, tags.get(_NIKON_LENS)))


def lens_name(words: str | None) -> str | None:
    """The name of a lens, if it is one: with an adapted lens Sony's cameras write dashes, others spaces.

    >>> lens_name("----")
    """
    return words if words and any(c.isalnum() for c in words) else None


def lens_words(values: Sequence[float]) -> str | None:
    """The usual words for shortest and longest focal length and the f-numbers there; None where a focal length is missing.

    >>> lens_words((18, 70, 3.5, 4.5))
    '18-70mm f/3.5-4.5'
    >>> lens_words((50, 50, 1.8, 1.8))
    '50mm f/1.8'
    """
    if len(values) != 4 or not 0 < values[0] <= values[1]:
        return None
    shortest, longest, *f_numbers = (f"{value:.4g}" for value in values)
    focal = shortest if shortest == longest else f"{shortest}-{longest}"
    if not 0 < values[2] <= values[3]:
        return f"{focal}mm"
    return f"{focal}mm f/{'-'.join(dict.fromkeys(f_numbers))}"
