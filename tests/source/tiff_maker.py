"""TIFF directories as cameras write them, without pixels."""

import struct

ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 2, 3, 4, 5, 7


def directory(tags, at, *, order="<", base=0):
    """The bytes of a directory and its values, which follow it.

    Args:
        tags: tag -> text, an integer (LONG), integers (SHORT), fractions as pairs, or bytes (UNDEFINED); in a list: LONGs.
            A function gets the place where its bytes will lie.
        at: where the directory will begin in the file.
        order: `<` or `>`.
        base: what offsets are counted from.
    """
    entries, values, after = b"", b"", at + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        place = after + len(values)
        kind, count, packed = _packed(value(place) if callable(value) else value, order)
        if len(packed) <= 4:
            entries += struct.pack(order + "HHI", tag, kind, count) + packed.ljust(4, b"\0")
        else:
            entries += struct.pack(order + "HHII", tag, kind, count, place - base)
            values += packed + b"\0" * (len(packed) % 2)
    return struct.pack(order + "H", len(tags)) + entries + bytes(4) + values


def _packed(value, order):
    match value:
        case str():
            return ASCII, len(value) + 1, value.encode() + b"\0"
        case bytes():
            return UNDEFINED, len(value), value
        case int():
            return LONG, 1, struct.pack(order + "I", value)
        case list():
            return LONG, len(value), struct.pack(f"{order}{len(value)}I", *value)
        case ((_, _), *_):
            return RATIONAL, len(value), b"".join(struct.pack(order + "II", *pair) for pair in value)
    return SHORT, len(value), struct.pack(f"{order}{len(value)}H", *value)


def tiff(tags, *, magic=b"II*\0", order="<", exif=None):
    """A file of one directory, and the Exif directory in it where `exif` is given."""
    if exif is not None:
        tags = tags | {34665: 0}
        first = 8 + len(directory(tags, 8, order=order))
        tags[34665] = first
    head = magic + struct.pack(order + "I", 8) + directory(tags, 8, order=order)
    return head + (directory(exif, len(head), order=order) if exif is not None else b"")
