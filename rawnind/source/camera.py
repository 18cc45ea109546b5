"""The camera's make and model, as a file spells them."""

import os
import re
import struct
from typing import BinaryIO

_MAKE, _MODEL, _UNIQUE_MODEL = 271, 272, 50708  # TIFF 6.0; DNG, where the other two are missing
_ASCII = 2
_TIFF_MAGICS = {b"II*\0", b"MM\0*", b"IIRO", b"IIRS", b"MMOR", b"IIU\0"}  # TIFF; Olympus; Panasonic
_RAF_MAGIC, _RAF_MODEL = b"FUJIFILMCCD-RAW ", slice(28, 60)
_CIFF_MAGIC, _CIFF_START = b"HEAPCCDR", 6
_CIFF_NAMES = re.compile(rb"(Canon)\0(Canon [ -~]{1,40})\0")
_CR3_METADATA, _CR3_HEADER = b"CMT1", 1 << 16
_QUICKTAKES = {b"qktk\0": "Apple QuickTake 100", b"qktn\0": "Apple QuickTake 150"}  # LibRaw's names
_PART = 1 << 16


def naming_part(file: BinaryIO) -> bytes:
    """As much of an opened file as `camera_name` needs: its head; of a CRW also its end, where the names are."""
    file.seek(0)
    head = file.read(_PART)
    if head.startswith(_CIFF_MAGIC, _CIFF_START):
        file.seek(max(len(head), file.seek(0, os.SEEK_END) - _PART))
        head += file.read()
    return head


def camera_name(data: bytes) -> str:
    """Make and model as the file spells them; empty where the format is none of those known here.

    Known: TIFF and its kin (DNG, ARW, CR2, NEF, PEF, SRW, KDC, ORF, RW2), CR3, CRW, RAF and QuickTake. A make that the model
    repeats is left out: `Canon EOS 500D`, `OLYMPUS CORPORATION E-M10`.

    Args:
        data: the whole file, or its `naming_part`.

    >>> camera_name(b"not a photo")
    ''
    """
    if data.startswith(_RAF_MAGIC):
        return _join(b"FUJIFILM", data[_RAF_MODEL])
    if quicktake := _QUICKTAKES.get(data[:5]):
        return quicktake
    if data.startswith(_CIFF_MAGIC, _CIFF_START):
        match = _CIFF_NAMES.search(data)
        return _join(*match.groups()) if match else ""
    if data[4:8] == b"ftyp":
        start = data.find(_CR3_METADATA, 0, _CR3_HEADER)
        data = data[start + len(_CR3_METADATA) :] if start >= 0 else b""
    if data[:4] not in _TIFF_MAGICS:
        return ""
    names = _tiff_names(data)
    return _join(names.get(_MAKE, b""), names.get(_MODEL, names.get(_UNIQUE_MODEL, b"")))


def _tiff_names(data: bytes) -> dict[int, bytes]:
    """The naming tags of a TIFF's first directory; entries beyond the end of the data are skipped."""
    order = "<" if data[:1] == b"I" else ">"
    names = {}
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, start)
        for entry in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count, offset = struct.unpack_from(order + "HHII", data, entry)
            if tag in {_MAKE, _MODEL, _UNIQUE_MODEL} and kind == _ASCII:
                at = offset if count > 4 else entry + 8
                names[tag] = data[at : at + min(count, 64)]
    except struct.error:
        return names
    return names


def _join(make: bytes, model: bytes) -> str:
    return joined_name(_text(make), _text(model))


def joined_name(makers: str, name: str) -> str:
    """Make and model without a make that the model repeats.

    >>> joined_name("Canon", "Canon EOS 500D")
    'Canon EOS 500D'
    """
    first = makers.partition(" ")[0].lower()
    return name if first and name.lower().startswith(first) else f"{makers} {name}".strip()


def _text(value: bytes) -> str:
    text = value.split(b"\0")[0].decode("latin-1")
    return " ".join("".join(c for c in text if c.isprintable()).split())
