"""Reads directories of TIFF 6.0 and its kin (ARW, CR2, DNG, NEF, ORF, PEF, RW2, and Exif and maker notes anywhere)."""

import struct
from collections.abc import Container
from dataclasses import dataclass
from typing import Protocol

_NUMBERS = {1: "B", 3: "H", 4: "I", 5: "I/", 6: "b", 8: "h", 9: "i", 10: "i/", 11: "f", 12: "d", 13: "I"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_MOST_VALUES = 1 << 17


class Bytes(Protocol):
    """A file's bytes: `bytes`, or a reader that fetches slices."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One tag of a directory.

    Attributes:
        kind: TIFF's number of the type.
        count: of values.
        at: where its values begin in the file.
    """

    kind: int
    count: int
    at: int


def unpack(data: Bytes, form: str, at: int) -> tuple[int, ...]:
    """`struct.unpack_from` of bytes that may have to be fetched.

    Raises:
        struct.error: They end before.
    """
    return struct.unpack(form, data[at : at + struct.calcsize(form)])


def directory(
    data: Bytes, order: str, start: int, wanted: Container[int], base: int = 0
) -> tuple[dict[int, Entry], int]:
    """The wanted tags of one directory, and where the next begins (0: nowhere).

    Args:
        data: the whole file.
        order: `<` or `>`.
        start: where the directory begins.
        wanted: tags.
        base: what offsets in it are counted from.

    Raises:
        struct.error: It lies beyond the end of the file.
    """
    (count,) = unpack(data, order + "H", start)
    block = data[start + 2 : start + 2 + 12 * count + 4]
    found = {}
    for at in range(0, 12 * count, 12):
        tag, kind, length = struct.unpack_from(order + "HHI", block, at)
        if tag not in wanted or kind not in _SIZES:
            continue
        inline = _SIZES[kind] * length <= 4
        where = start + 2 + at + 8 if inline else base + struct.unpack_from(order + "I", block, at + 8)[0]
        found[tag] = Entry(kind, length, where)
    ends = len(block) < 12 * count + 4
    return found, 0 if ends else struct.unpack_from(order + "I", block, 12 * count)[0]


def numbers(data: Bytes, order: str, entry: Entry | None) -> tuple[float, ...]:
    """The numbers of a tag, rationals divided (0 where that cannot be); empty where it has none.

    Raises:
        struct.error: They lie beyond the end of the file.
    """
    if entry is None or entry.kind not in _NUMBERS or entry.count > _MOST_VALUES:
        return ()
    letter, rational = _NUMBERS[entry.kind][0], _NUMBERS[entry.kind].endswith("/")
    values = unpack(data, f"{order}{entry.count * (2 if rational else 1)}{letter}", entry.at)
    if not rational:
        return values
    pairs = zip(values[::2], values[1::2], strict=True)
    return tuple(top / bottom if bottom else 0.0 for top, bottom in pairs)


def text(data: Bytes, entry: Entry | None, longest: int = 200) -> str:
    """The printable characters of a text up to its first zero byte, without spaces around it; empty where there is none."""
    if entry is None:
        return ""
    value = data[entry.at : entry.at + min(entry.count, longest)].split(b"\0")[0].decode("latin-1")
    return " ".join("".join(c for c in value if c.isprintable()).split())
