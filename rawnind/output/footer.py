"""Parses the footer of a Parquet file without Arrow: Arrow ends the process where some bytes of a footer are damaged.

A footer is a FileMetaData structure in Thrift's compact protocol (parquet.thrift of Apache Parquet; the field numbers
below are its). Structures become dicts by field number.
"""

from typing import Any

MAGIC = b"PAR1"
SCHEMA, ROW_GROUPS, KEY_VALUES = 2, 4, 5  # of FileMetaData
KEY, VALUE = 1, 2  # of KeyValue
COLUMNS = 1  # of RowGroup
META_DATA = 3  # of ColumnChunk
# of ColumnMetaData
ENCODINGS, CODEC, NUM_VALUES, COMPRESSED_SIZE, DATA_PAGE, DICTIONARY_PAGE = 2, 4, 5, 7, 9, 11

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
_DEEPEST = 12


def parse_footer(data: bytes) -> dict[int, Any]:
    """FileMetaData from a footer's bytes, without its length and magic.

    Raises:
        ValueError: The bytes are no such structure.
    """
    try:
        found, end = _struct(data, 0, 0)
    except IndexError as error:
        raise ValueError("its footer ends too early") from error
    if end != len(data):
        raise ValueError("its footer is longer than its content")
    return found


# Each function returns a value and the position after it. A shard's footer has some thousand values, so that calls count:
# integers, which most values are, are parsed in place.


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    if depth > _DEEPEST:
        raise ValueError("its footer is nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while (header := data[at]) != _STOP:
        at += 1
        kind, step = header & 15, header >> 4
        if step:
            number += step
        else:
            number, at = _integer(data, at)
        if kind in _INTEGERS:
            value: Any = data[at]
            if value < 128:
                value, at = (value >> 1) ^ -(value & 1), at + 1
            else:
                value, at = _integer(data, at)
        elif kind == _STRUCT:
            value, at = _struct(data, at, depth + 1)
        elif kind in {_TRUE, _FALSE}:
            value = kind == _TRUE
        else:
            value, at = _value(data, at, kind, depth)
        fields[number] = value
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """A value in a list, or one that is rare in a structure."""
    if kind in _INTEGERS:
        return _integer(data, at)
    if kind == _BINARY:
        length, at = _varint(data, at)
        return _bytes(data, at, length), at + length
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    if kind in {_LIST, _SET}:
        return _list(data, at, depth)
    if kind in {_TRUE, _FALSE, _BYTE}:
        return data[at], at + 1
    if kind == _DOUBLE:
        return _bytes(data, at, 8), at + 8
    raise ValueError(f"its footer contains a value of type {kind}")


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    if depth > _DEEPEST:
        raise ValueError("its footer is nested too deeply")
    count, kind, at = data[at] >> 4, data[at] & 15, at + 1
    if count == 15:
        count, at = _varint(data, at)
    if count > len(data):
        raise ValueError("its footer contains a list that is longer than itself")
    values = []
    for _ in range(count):
        value, at = _struct(data, at, depth + 1) if kind == _STRUCT else _value(data, at, kind, depth + 1)
        values.append(value)
    return values, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("its footer contains a number without end")


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at  # zigzag


def _bytes(data: bytes, at: int, count: int) -> bytes:
    if at + count > len(data):
        raise ValueError("its footer ends too early")
    return data[at : at + count]
