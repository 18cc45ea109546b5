"""Tells from a file's first bytes and its directories what it is, before anyone decodes it.

Offsets and tags are those of TIFF 6.0, of the DNG specification 1.7, of ISO/IEC 14496-12 (the boxes of CR3 and HEIF), and of
the RAF directory as LibRaw and ExifTool document it.
"""

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO, Protocol

from rawnind.reasons import Reason
from rawnind.records import Cfa


class Unusable(Enum):
    """What makes a file unusable: how a run ends for it, and the words for people."""

    EMPTY = (Reason.TRUNCATED, "the file is empty")
    HTML = (Reason.UNREADABLE, "a web page (HTML), not a photo: the download went wrong")
    POINTER = (Reason.UNREADABLE, "a Git LFS pointer, not the photo itself: run `git lfs pull`")
    JPEG = (Reason.UNREADABLE, "an ordinary JPEG, not a RAW")
    IMAGE = (Reason.UNREADABLE, "an ordinary image (PNG, GIF, HEIF or the like), not a RAW")
    ARCHIVE = (Reason.UNREADABLE, "an archive or a document, not a photo")
    NO_PIXELS = (Reason.INCOMPLETE, "a CR3 without pixels")
    DEMOSAICED = (Reason.UNSUPPORTED_CFA, "already demosaiced (a linear DNG or an sRAW), without a mosaic")
    MONOCHROME = (Reason.UNSUPPORTED_CFA, "of a monochrome sensor, without colours")
    SUPERCCD = (Reason.UNSUPPORTED_CFA, "of a SuperCCD sensor, whose pattern is neither Bayer nor X-Trans")
    GPR = (Reason.UNREADABLE, "GoPro's GPR (VC-5), which this LibRaw cannot decode")
    CUT = (Reason.TRUNCATED, "the file ends before its pixels do")
    UNREADABLE = (Reason.UNREADABLE, "LibRaw cannot open it")

    @property
    def reason(self) -> Reason:
        """The reason with which a run ends for such a file."""
        return self.value[0]

    @property
    def words(self) -> str:
        """What it is, for people, after the file's name and a colon."""
        return self.value[1]


class Bytes(Protocol):
    """A file's bytes: `bytes`, or a reader that fetches slices."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a file's header says.

    Attributes:
        unusable: None where nothing is seen that would make it so.
        cfa: Bayer where the format has no other; None where the header does not say.
    """

    unusable: Unusable | None = None
    cfa: Cfa | None = None


_HEAD = 512
_TEXTS = ((b"<!doctype", Unusable.HTML), (b"<html", Unusable.HTML), (b"<?xml", Unusable.HTML), (b"<head", Unusable.HTML),
          (b"version https://git-lfs", Unusable.POINTER))  # fmt: skip
_MAGICS = (
    (b"\xff\xd8\xff", Unusable.JPEG), (b"\x89PNG", Unusable.IMAGE), (b"GIF8", Unusable.IMAGE), (b"BM", Unusable.IMAGE),
    (b"\xff\x0a", Unusable.IMAGE), (b"PK\3\4", Unusable.ARCHIVE), (b"\x1f\x8b", Unusable.ARCHIVE), (b"%PDF", Unusable.ARCHIVE),
    (b"7z\xbc\xaf", Unusable.ARCHIVE), (b"\xfd7zXZ", Unusable.ARCHIVE), (b"\x28\xb5\x2f\xfd", Unusable.ARCHIVE),
)  # fmt: skip
_TIFF = {b"II*\0": "<", b"MM\0*": ">", b"IIRO": "<", b"IIRS": "<", b"MMOR": ">", b"IIU\0": "<"}
_RAF, _RAF_DIRECTORY = b"FUJIFILMCCD-RAW ", 92
_RAF_LAYOUT, _RAF_XTRANS = 0x130, 0x131


def check_file(file: BinaryIO) -> Checked:
    """What an opened file is, from its header; a few kilobytes are read.

    Raises:
        OSError: It cannot be read.
    """
    return check(_Slices(file))


class _Slices:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._length = file.seek(0, os.SEEK_END)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(self._length)
        self._file.seek(start)
        return self._file.read(max(stop - start, 0))


def check(data: Bytes) -> Checked:
    """What a file is, from its header.

    Args:
        data: the file.

    >>> check(b"<!DOCTYPE html><title>404</title>").unusable.words
    'a web page (HTML), not a photo: the download went wrong'
    """
    head = data[:_HEAD]
    if unusable := _by_magic(head):
        return Checked(unusable=unusable)
    try:
        if head[4:8] == b"ftyp":
            return _boxes(data, head)
        if head.startswith(_RAF):
            return _raf(data, head)
        return _tiff(data, _TIFF[head[:4]], head) if head[:4] in _TIFF else Checked()
    except struct.error:  # a directory beyond the end: LibRaw says what it makes of it
        return Checked()


def _by_magic(head: bytes) -> Unusable | None:
    if not head:
        return Unusable.EMPTY
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    by_text = (kind for start, kind in _TEXTS if text.startswith(start))
    by_bytes = (kind for start, kind in _MAGICS if head.startswith(start))
    return next(by_text, None) or next(by_bytes, None)


def _unpack(data: Bytes, form: str, at: int) -> tuple[int, ...]:
    return struct.unpack(form, data[at : at + struct.calcsize(form)])


def _boxes(data: Bytes, head: bytes) -> Checked:
    if head[8:12] != b"crx ":
        return Checked(unusable=Unusable.IMAGE)
    at, pixels = 0, 0
    for _ in range(_MOST_DIRECTORIES):
        if at + 8 > len(data):
            break
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if size == 1:
            (size,) = _unpack(data, ">Q", at + 8)
        size = size or len(data) - at
        if kind == b"mdat":
            pixels = size
            if at + size > len(data):
                return Checked(unusable=Unusable.CUT)
        at += max(size, 8)
    return Checked(unusable=None if pixels > _LEAST_PIXELS else Unusable.NO_PIXELS, cfa=Cfa.BAYER)


_LEAST_PIXELS = 4096
"""Bytes of pixels that a photo has at least; a CR3's previews lie elsewhere."""


def _raf(data: Bytes, head: bytes) -> Checked:
    directory, _, pixels = struct.unpack(">3I", head[_RAF_DIRECTORY : _RAF_DIRECTORY + 12])
    (count,) = _unpack(data, ">I", directory)
    at, cfa, unusable = directory + 4, Cfa.BAYER, None
    for _ in range(min(count, 256)):
        tag, length = _unpack(data, ">HH", at)
        if tag == _RAF_XTRANS:
            cfa = Cfa.X_TRANS
        elif tag == _RAF_LAYOUT and not data[at + 5 : at + 6][0] & 8:
            unusable = Unusable.SUPERCCD
        at += 4 + length
    if unusable is None and pixels >= len(data):
        unusable = Unusable.CUT
    return Checked(unusable=unusable, cfa=cfa)


_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES, _COUNTS = 256, 257, 259, 262, 273, 277, 279
_TILE_OFFSETS, _TILE_COUNTS, _SUB_IFDS, _CFA_SIZE, _DNG_VERSION = 324, 325, 330, 33421, 50706
_WANTED = {_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES, _COUNTS, _TILE_OFFSETS, _TILE_COUNTS, _SUB_IFDS,
           _CFA_SIZE, _DNG_VERSION}  # fmt: skip
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I"}
_CFAS: dict[tuple[int, ...], Cfa] = {(2, 2): Cfa.BAYER, (6, 6): Cfa.X_TRANS}
_VC5, _CFA, _LINEAR_RAW, _RGB = 9, 32803, 34892, 2
_MOST_DIRECTORIES, _MOST_VALUES = 32, 1 << 16

Tags = Mapping[int, tuple[int, ...]]


def _tiff(data: Bytes, order: str, head: bytes) -> Checked:
    directories = list(_directories(data, order))
    if any(tags.get(_COMPRESSION) == (_VC5,) for tags in directories):
        return Checked(unusable=Unusable.GPR)
    if directories and _DNG_VERSION in directories[0]:
        return _dng(data, directories)
    if head[8:10] == b"CR" and len(directories) > 3 and _is_sraw(data, directories[3]):
        return Checked(unusable=Unusable.DEMOSAICED)
    starts = [start for tags in directories for start in tags.get(_OFFSETS, ())]
    beyond = max(starts, default=0) >= len(data)
    return Checked(unusable=Unusable.CUT if beyond else None, cfa=Cfa.BAYER)


def _dng(data: Bytes, directories: list[Tags]) -> Checked:
    raw = [tags for tags in directories if tags.get(_PHOTOMETRIC) == (_CFA,)]
    linear = [tags for tags in directories if tags.get(_PHOTOMETRIC) in {(_LINEAR_RAW,), (_RGB,)}]
    if not raw:
        largest = max(linear, key=_area, default=None)
        if largest is None:
            return Checked()
        single = largest.get(_SAMPLES, (1,)) == (1,)
        return Checked(unusable=Unusable.MONOCHROME if single else Unusable.DEMOSAICED)
    mosaic = max(raw, key=_area)
    ends = [
        start + count
        for starts, counts in ((_OFFSETS, _COUNTS), (_TILE_OFFSETS, _TILE_COUNTS))
        for start, count in zip(mosaic.get(starts, ()), mosaic.get(counts, ()), strict=False)
    ]
    is_cut = max(ends, default=0) > len(data)
    cfa = _CFAS.get(mosaic.get(_CFA_SIZE, ()))
    return Checked(unusable=Unusable.CUT if is_cut else None, cfa=cfa)


def _area(tags: Tags) -> int:
    return math.prod((*tags.get(_WIDTH, (0,)), *tags.get(_HEIGHT, (0,))))


def _is_sraw(data: Bytes, tags: Tags) -> bool:
    """Whether a CR2's pixels are a lossless JPEG of luminance and halved colours (three components, the first sampled finer)."""
    (start,) = tags.get(_OFFSETS, (0,))[:1]
    part = data[start : start + (1 << 16)]
    frame = part.find(b"\xff\xc3")
    return frame >= 0 and part[frame + 9 : frame + 10] == b"\3" and part[frame + 11 : frame + 12] > b"\x11"


def _directories(data: Bytes, order: str) -> Iterator[Tags]:
    todo = list(_unpack(data, order + "I", 4))
    for _ in range(_MOST_DIRECTORIES):
        if not todo:
            return
        tags, following = _directory(data, order, todo.pop(0))
        yield tags
        todo += [start for start in (*tags.get(_SUB_IFDS, ()), following) if start]


def _directory(data: Bytes, order: str, start: int) -> tuple[Tags, int]:
    """The wanted tags of one directory, and where the next begins (0: nowhere)."""
    (entries,) = _unpack(data, order + "H", start)
    block = data[start + 2 : start + 2 + 12 * entries + 4]
    tags = {}
    for entry in range(0, 12 * entries, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", block, entry)
        if tag not in _WANTED or kind not in _FORMATS or count > _MOST_VALUES:
            continue
        form = f"{order}{count}{_FORMATS[kind]}"
        if struct.calcsize(form) > 4:
            (at,) = struct.unpack_from(order + "I", block, entry + 8)
            tags[tag] = _unpack(data, form, at)
        else:
            tags[tag] = struct.unpack_from(form, block, entry + 8)
    following = (
        struct.unpack_from(order + "I", block, 12 * entries)[0] if len(block) >= 12 * entries + 4 else 0
    )
    return tags, following
