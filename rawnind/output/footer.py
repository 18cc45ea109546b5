"""The footer of a Parquet file, read without Arrow: Arrow ends the process where some bytes of a footer are damaged.

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
    reader = _Compact(data)
    found = reader.struct(0)
    if reader.at != len(data):
        raise ValueError("its footer is longer than what it holds")
    return found


class _Compact:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _DEEPEST:
            raise ValueError("its footer is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while (header := self._take(1)[0]) != _STOP:
            kind, step = header & 15, header >> 4
            number = number + step if step else self._integer()
            fields[number] = kind == _TRUE if kind in {_TRUE, _FALSE} else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in {_LIST, _SET}:
            return self._list(depth)
        if kind in {_TRUE, _FALSE, _BYTE}:
            return self._take(1)[0]
        if kind == _DOUBLE:
            return self._take(8)
        raise ValueError(f"its footer contains a value of type {kind}")

    def _list(self, depth: int) -> list[Any]:
        header = self._take(1)[0]
        count, kind = header >> 4, header & 15
        if count == 15:
            count = self._varint()
        if count > len(self._data):
            raise ValueError("its footer holds a list that is longer than itself")
        return [self._value(kind, depth) for _ in range(count)]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("its footer holds a number without end")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)  # zigzag

    def _take(self, count: int) -> bytes:
        if not 0 <= count <= len(self._data) - self.at:
            raise ValueError("its footer ends too early")
        self.at += count
        return self._data[self.at - count : self.at]
