"""Damages bytes, texts, tables and folders. Every choice comes from one random generator, so that an input can be repeated."""

import hashlib
import io
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq

HOSTILE = [
    b"", b"null", b"~", b"[]", b"{}", b"[" * 900, b"{a: " * 300, b"&a [*a, *a]", b"*a", b"!!python/object/apply:os.system [ls]",
    b"!!timestamp x", b"2020-13-45", b"0x_", b"9" * 5000, b"-1", b"1e999", b".nan", b"NaN", b"Infinity", b"true", b"-0.0",
    b"\x1b[2J", b"\xff\xfe", b"\0", b"\xf0\x9f\x98\x80", b"\\ud800", b"../../outside/precious", b"/dev/zero", b"%s%n",
    b"18446744073709551616", b"2147483648", b"65536", b"?" * 3, b"- - - - -", b"\n", b"\n---\n", b": ", b"'", b'"', b"<<: x",
]  # fmt: skip

_TOKEN = re.compile(rb"[\w.+-]+")


def damaged(data, chance):
    """Bytes with one to six changes, some of which know that the bytes may be a text."""
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        chance.choice(
            [_flip, _flip, _set, _cut, _drop, _repeat, _swap, _insert, _replace_token, _replace_token]
        )(data, chance)
    return bytes(data)


def _place(data, chance):
    """A place in the bytes, more often near an end than elsewhere."""
    near = chance.choice([16, 256, len(data)])
    place = min(int(chance.random() * near), max(len(data) - 1, 0))
    return place if chance.random() < 0.7 else max(len(data) - 1 - place, 0)


def _flip(data, chance):
    if data:
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _set(data, chance):
    place = _place(data, chance)
    data[place : place + chance.choice([1, 2, 4, 8])] = chance.choice(
        [b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80", chance.randbytes(4)]
    )


def _cut(data, chance):
    del data[_place(data, chance) :]


def _drop(data, chance):
    place = _place(data, chance)
    del data[place : place + chance.choice([1, 4, 64, 1024])]


def _repeat(data, chance):
    place = _place(data, chance)
    part = data[place : place + chance.choice([1, 16, 300])]
    data[place:place] = part * chance.choice([1, 2, 50])


def _swap(data, chance):
    one, other = sorted((_place(data, chance), _place(data, chance)))
    width = chance.choice([1, 4, 32])
    data[one : one + width], data[other : other + width] = (
        data[other : other + width],
        data[one : one + width],
    )


def _insert(data, chance):
    place = _place(data, chance)
    data[place:place] = chance.choice([*HOSTILE, chance.randbytes(chance.choice([1, 8, 200]))])


def _replace_token(data, chance):
    tokens = [match.span() for match in _TOKEN.finditer(bytes(data[:200_000]))]
    if tokens:
        start, end = chance.choice(tokens)
        data[start:end] = chance.choice(HOSTILE)


def damaged_tag(data, chance):
    """A little-endian TIFF with one to three fields of its directories changed: sizes, offsets, counts, types."""
    data = bytearray(data)
    entries = list(_entries(data, int.from_bytes(data[4:8], "little")))
    for at in chance.sample(entries, min(len(entries), chance.randint(1, 3))):
        part, width = chance.choice(
            [(at + 8, 4), (at + 8, 4), (at + 8, 2), (at + 4, 4), (at + 2, 2), (at, 2)]
        )
        value = chance.choice(
            [0, 1, 2, 7, 255, 4096, 9000, 32_000, 65_535, 2**31 - 1, 2**32 - 1, chance.randrange(2**32)]
        )
        data[part : part + width] = (value % 256**width).to_bytes(width, "little")
    return bytes(data)


_SUB_DIRECTORIES = 330  # TIFF tag SubIFDs


def _entries(data, start):
    """Where the entries of a directory and of those below it begin."""
    count = int.from_bytes(data[start : start + 2], "little")
    for at in range(start + 2, start + 2 + 12 * count, 12):
        yield at
        if int.from_bytes(data[at : at + 2], "little") == _SUB_DIRECTORIES:
            yield from _entries(data, int.from_bytes(data[at + 8 : at + 12], "little"))


_VALUES = {
    "string": ["", "x", "../../outside/precious", "/etc/passwd", "\x1b[2J", "ä" * 400, "0" * 40, "bayer"],
    "binary": [b"", b"\xff\xfe", b"[" * 900],
    "int32": [-(2**31), 2**31 - 1, -1, 0, 1, 60_000, 97],
    "int64": [-(2**63), 2**63 - 1, -1, 0, 100],
    "double": [float("nan"), float("inf"), -1.0, 0.0, 1e300, 5e-324, 0.5],
    "bool": [True, False],
    "list": [[], [0.0] * 9, [float("nan")] * 4, [1e300] * 9, [1.0] * 3, [1.0] * 1000],
}


def damaged_table(table, chance):
    """A table with one change: of a value, of a column or of its rows."""
    place = chance.randrange(table.num_columns)
    field = table.schema.field(place)
    kind = chance.choice(["value", "value", "value", "bytes", "drop", "type", "rows", "rename"])
    if kind == "bytes" and pa.types.is_string(field.type):  # Arrow does not look whether a text is UTF-8
        texts = pa.array([b"ab\x80"] * len(table), pa.binary())
        return table.set_column(place, field.name, texts.view(pa.string()))
    if kind == "drop":
        return table.remove_column(place)
    if kind == "rename":
        return table.rename_columns(
            [f"{name}x" if name == field.name else name for name in table.column_names]
        )
    if kind == "type":
        return table.set_column(place, field.name, pa.array(["7"] * len(table)))
    if kind == "rows":
        return chance.choice(
            [
                table.slice(1),
                table.slice(0, 0),
                pa.concat_tables([table, table]),
                table.take(list(range(len(table)))[::-1]),
            ]
        )
    name = (
        "list"
        if pa.types.is_list(field.type)
        else "binary"
        if "binary" in str(field.type)
        else str(field.type)
    )
    value = chance.choice([None, *_VALUES.get(name, [None])])
    if pa.types.is_fixed_size_binary(field.type):
        value = bytes(field.type.byte_width)
    values = table[place].to_pylist()
    for row in range(len(values)) if chance.random() < 0.5 else [chance.randrange(max(len(values), 1))]:
        if row < len(values):
            values[row] = value
    return table.set_column(place, pa.field(field.name, field.type), pa.array(values, field.type))


def table_bytes(table):
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def resealed_part(path, chance):
    """Damages the values of a part of the journal and gives it the name that its bytes ask for, as a careful forger would."""
    data = table_bytes(damaged_table(pq.read_table(path), chance))
    first, count, _ = path.name.split("-")
    path.unlink()
    path.with_name(f"{first}-{count}-{hashlib.sha256(data).hexdigest()[:16]}.parquet").write_bytes(data)


def disturb(folder, chance, outside):
    """Replaces one file of a folder by a link, a folder, a pipe, nothing or another file, or renames it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = chance.choice(files)
    kind = chance.choice(["link", "link folder", "folder", "pipe", "gone", "other", "rename", "hard link"])
    if kind == "link folder" and path.parent != folder:
        path.parent.rename(folder / "moved")
        path.parent.symlink_to(outside)
        return
    other = chance.choice(files)
    data = other.read_bytes()
    path.unlink()
    if kind == "link":
        path.symlink_to(outside / "precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "other":
        path.write_bytes(data)
    elif kind == "rename":
        path.with_name(f"{chance.choice(['x', '.tmp-', '0'])}{path.name}").write_bytes(data)
    elif kind == "hard link":
        os.link(outside / "precious", path)
