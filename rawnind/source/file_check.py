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
from typing import BinaryIO

from rawnind.reasons import Reason
from rawnind.records import Cfa
from rawnind.source.tiff import Bytes, directory, numbers, unpack


class Unusable(Enum):
    """What makes a file unusable: how a run ends for it, and the words for people."""

    EMPTY = (Reason.TRUNCATED, "the file is empty")
    HTML = (Reason.UNREADABLE, "a web page (HTML), not a photo: the download went wrong")
    POINTER = (Reason.UNREADABLE, "a Git LFS pointer, not the photo itself: run `git lfs pull`")
    JPEG = (Reason.UNREADABLE, "an ordinary JPEG, not a RAW")
    IMAGE = (Reason.UNREADABLE, "an ordinary image (PNG, GIF, HEIF or the like), not a RAW")
    ARCHIVE = (Reason.UNREADABLE, "an archive or a document, not a photo")
    NO_PIXELS = (Reason.INCOMPLETE, "a CR3 without pixels")
    DEMOSAICED = (
        Reason.UNSUPPORTED_CFA,
        "already demosaiced (a linear DNG, an sRAW or a scan), without a mosaic",
    )
    MONOCHROME = (Reason.UNSUPPORTED_CFA, "of a monochrome sensor, without colours")
    FOVEON = (Reason.UNSUPPORTED_CFA, "of a Foveon sensor, which has all colours at each site and no mosaic")
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
    (b"FOVb", Unusable.FOVEON),
)  # fmt: skip
TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"IIRO": "<", b"IIRS": "<", b"MMOR": ">", b"IIU\0": "<"}
_CIFF = b"HEAPCCDR"
_RAF, _RAF_DIRECTORY = b"FUJIFILMCCD-RAW ", 92
_RAF_LAYOUT, _RAF_XTRANS = 0x130, 0x131


def check_file(file: BinaryIO) -> Checked:
    """What an opened file is, from its header; a few kilobytes are read.

    Raises:
        OSError: It cannot be read.
    """
    return check(Slices(file))


class Slices:
    """The bytes of an opened file, read where they are asked for."""

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
        if head.startswith(_CIFF, 6):
            return _ciff(data, head)
        return _tiff(data, TIFF_ORDERS[head[:4]], head) if head[:4] in TIFF_ORDERS else Checked()
    except struct.error:  # LibRaw says what it makes of it
        return Checked()


def _by_magic(head: bytes) -> Unusable | None:
    if not head:
        return Unusable.EMPTY
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    by_text = (kind for start, kind in _TEXTS if text.startswith(start))
    by_bytes = (kind for start, kind in _MAGICS if head.startswith(start))
    return next(by_text, None) or next(by_bytes, None)


def _boxes(data: Bytes, head: bytes) -> Checked:
    if head[8:12] != b"crx ":
        return Checked(unusable=Unusable.IMAGE)
    at, pixels = 0, 0
    for _ in range(_MOST_DIRECTORIES):
        if at + 8 > len(data):
            break
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if size == 1:
            (size,) = unpack(data, ">Q", at + 8)
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
    """Of a RAF; exiv2, too, refuses one whose pixels do not end within the file."""
    start, _, pixels, length = struct.unpack_from(">4I", head, _RAF_DIRECTORY)
    cfa, unusable = Cfa.BAYER, Unusable.CUT if pixels + max(length, 1) > len(data) else None
    try:
        at, (count,) = start + 4, unpack(data, ">I", start)
        for _ in range(min(count, 256)):
            tag, size = unpack(data, ">HH", at)
            if tag == _RAF_XTRANS:
                cfa = Cfa.X_TRANS
            elif tag == _RAF_LAYOUT and not data[at + 5 : at + 6][0] & 8:
                unusable = Unusable.SUPERCCD
            at += 4 + size
    except (struct.error, IndexError):
        return Checked(unusable=Unusable.CUT)
    return Checked(unusable=unusable, cfa=cfa)


def _ciff(data: Bytes, head: bytes) -> Checked:
    """Of a CRW, whose directory lies at its end; the last four bytes say where it begins."""
    order = "<" if head[:2] == b"II" else ">"
    heap, at = unpack(data, order + "I", 2)[0], unpack(data, order + "I", len(data) - 4)[0]
    (count,) = unpack(data, order + "H", heap + at) if heap + at + 2 <= len(data) else (0,)
    is_whole = count > 0 and heap + at + 2 + 10 * count + 4 <= len(data)
    return Checked(unusable=None if is_whole else Unusable.CUT, cfa=Cfa.BAYER)


_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC = 256, 257, 259, 262
_OFFSETS, _SAMPLES, _ROWS, _COUNTS = 273, 277, 278, 279
_TILE_OFFSETS, _TILE_COUNTS, _SUB_IFDS, _CFA_SIZE, _DNG_VERSION = 324, 325, 330, 33421, 50706
_PANASONIC_OFFSET, _PANASONIC_ELSEWHERE = 280, 0xFFFFFFFF
"""Where the pixels of an RW2 begin, if StripOffsets has the second number, as in those of Panasonic's and Leica's cameras since 2008."""
_PANASONIC_SIZE, _PANASONIC_FORMAT, _PANASONIC_PACKED = (2, 3), 45, {(4,), (5,), (6,), (7,)}
"""Such files count no bytes of pixels. In the older ones of these formats 14 sites take 16 bytes, in the others more."""
_WANTED = {_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES, _ROWS, _COUNTS, _TILE_OFFSETS, _TILE_COUNTS, _SUB_IFDS,
           _CFA_SIZE, _DNG_VERSION, _PANASONIC_OFFSET, *_PANASONIC_SIZE, _PANASONIC_FORMAT}  # fmt: skip
_CFAS: dict[tuple[float, ...], Cfa] = {(2, 2): Cfa.BAYER, (6, 6): Cfa.X_TRANS}
_VC5, _CFA, _LINEAR_RAW, _RGB = 9, 32803, 34892, 2
_MOST_DIRECTORIES = 32

Tags = Mapping[int, tuple[float, ...]]


def _tiff(data: Bytes, order: str, head: bytes) -> Checked:
    try:
        directories = list(_directories(data, order))
    except struct.error:  # a directory, or what it points to, lies beyond the end
        return Checked(unusable=Unusable.CUT)
    if any(tags.get(_COMPRESSION) == (_VC5,) for tags in directories):
        return Checked(unusable=Unusable.GPR)
    if directories and _DNG_VERSION in directories[0]:
        return _dng(data, directories)
    if head[8:10] == b"CR" and len(directories) > 3 and _is_sraw(data, directories[3]):
        return Checked(unusable=Unusable.DEMOSAICED)
    if any(_is_beyond(tags, len(data)) for tags in directories):
        return Checked(unusable=Unusable.CUT, cfa=Cfa.BAYER)
    colours = sum(_end(tags) - min(_starts(tags)) for tags in directories if _is_rgb(tags))
    return Checked(unusable=Unusable.DEMOSAICED if 2 * colours > len(data) else None, cfa=Cfa.BAYER)


def _is_rgb(tags: Tags) -> bool:
    plain = tags.get(_COMPRESSION) == (1,) and tags.get(_PHOTOMETRIC) == (_RGB,)
    return plain and tags.get(_SAMPLES) == (3,) and bool(_starts(tags))


def _is_beyond(tags: Tags, length: int) -> bool:
    """Whether pixels lie beyond the end; of several strips the last may be counted as if it were full."""
    starts, counts = _starts(tags), tags.get(_COUNTS, ())
    if len(starts) < 2 or len(counts) != len(starts):
        return max(starts, default=-1) >= length or _end(tags) > length
    rows, height = tags.get(_ROWS, (0,))[0], tags.get(_HEIGHT, (0,))[0]
    last = counts[0] * (height - rows * (len(starts) - 1)) // rows if rows else 0
    return starts[-1] + max(min(last, counts[-1]), 1) > length


def _starts(tags: Tags) -> tuple[float, ...]:
    """Where a directory's pixels begin."""
    starts = *tags.get(_OFFSETS, ()), *tags.get(_TILE_OFFSETS, ())
    return tags.get(_PANASONIC_OFFSET, ()) if _PANASONIC_ELSEWHERE in starts else starts


def _end(tags: Tags) -> float:
    """Where a directory's pixels end, at least; a count that is missing is one byte."""
    starts, counts = _starts(tags), (*tags.get(_COUNTS, ()), *tags.get(_TILE_COUNTS, ()))
    if _PANASONIC_OFFSET in tags and tags.get(_PANASONIC_FORMAT) in _PANASONIC_PACKED and not any(counts):
        sites = math.prod(tags.get(tag, (0,))[0] for tag in _PANASONIC_SIZE)
        counts = (sites * 16 // 14,)
    if len(counts) != len(starts):
        counts = (1,) * len(starts)
    return max((start + max(count, 1) for start, count in zip(starts, counts, strict=True)), default=0)


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
    cfa = _CFAS.get(mosaic.get(_CFA_SIZE, ()))
    return Checked(unusable=Unusable.CUT if _end(mosaic) > len(data) else None, cfa=cfa)


def _area(tags: Tags) -> float:
    return math.prod((*tags.get(_WIDTH, (0,)), *tags.get(_HEIGHT, (0,))))


def _is_sraw(data: Bytes, tags: Tags) -> bool:
    """Whether a CR2's pixels are a lossless JPEG of luminance and halved colours (three components, the first sampled finer)."""
    start = int(tags.get(_OFFSETS, (0,))[0])
    part = data[start : start + (1 << 16)]
    frame = part.find(b"\xff\xc3")
    return frame >= 0 and part[frame + 9 : frame + 10] == b"\3" and part[frame + 11 : frame + 12] > b"\x11"


def _directories(data: Bytes, order: str) -> Iterator[Tags]:
    todo = [int(start) for start in unpack(data, order + "I", 4)]
    for _ in range(_MOST_DIRECTORIES):
        if not todo:
            return
        entries, following = directory(data, order, todo.pop(0), _WANTED)
        tags = {tag: values for tag, entry in entries.items() if (values := numbers(data, order, entry))}
        yield tags
        todo += [int(start) for start in (*tags.get(_SUB_IFDS, ()), following) if start]
