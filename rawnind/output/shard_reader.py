"""Reads single crops by mapping the shard, without the Parquet reader.

A shard that `shards.write_shard` made holds each value as one plain, uncompressed page, so that the value is the tail of
its column chunk. The reader checks that in the footer; a file with another layout, such as a compressed one, is read
by `shards.read_crop`.
"""

import contextlib
import io
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rawnind.errors import DamagedShardError, ManifestError
from rawnind.output.footer import (
    CODEC,
    COLUMNS,
    COMPRESSED_SIZE,
    DATA_PAGE,
    DICTIONARY_PAGE,
    ENCODINGS,
    KEY,
    KEY_VALUES,
    MAGIC,
    META_DATA,
    NUM_VALUES,
    ROW_GROUPS,
    SCHEMA,
    VALUE,
    parse_footer,
)
from rawnind.output.shards import read_crop, shard_schema
from rawnind.output.store import Store
from rawnind.output.versions import require_readable_parquet

_COLUMNS = ("crop_id", "noisy_raw", "gt_raw", "gt_rgb", "mask")
_MAX_PAGE_HEADER = 64  # Parquet's header of a page without statistics has about 20 bytes
_FLAT_ENCODINGS = {0, 3}  # PLAIN, and RLE, which names the levels that required columns do not have
_UNCOMPRESSED = 0


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class StoredCrop:
    """A crop's pixels in the shard's types; views, valid until the reader is closed.

    Attributes:
        noisy_raw: (size, size) uint16 sensor values.
        gt_raw: (size, size) uint16 sensor values.
        gt_rgb: (3, size, size) float16, linear Rec.2020.
        mask: (size, size / 8) uint8, packed bits, most significant first; 1 = valid.
    """

    noisy_raw: NDArray[np.uint16]
    gt_raw: NDArray[np.uint16]
    gt_rgb: NDArray[np.float16]
    mask: NDArray[np.uint8]


class ShardReader:
    """Crops of one output folder, for any number of threads; each process needs its own.

    Args:
        store: the output folder.
        verify: also compare each shard's SHA-256 with the manifest's when it is first opened in this process. Without
            it a flipped bit within pixels is not detected; a file that is missing, truncated, longer or of another pair
            is.
        keep: how many shards stay open.
        keep_layouts: of how many shards the footers are kept in parsed form, some 4 KB each.
    """

    def __init__(
        self, store: Store, *, verify: bool = False, keep: int = 128, keep_layouts: int = 4096
    ) -> None:
        self._store = store
        self._verify = verify
        self._keep = keep
        self._keep_layouts = keep_layouts
        self._open: OrderedDict[str, tuple[_File, _Layout]] = OrderedDict()
        self._layouts: OrderedDict[str, _Layout] = OrderedDict()
        self._verified: dict[
            str, tuple[int, int]
        ] = {}  # shard -> stamp: hashing again costs more than its name
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "store": self._store,
            "verify": self._verify,
            "keep": self._keep,
            "keep_layouts": self._keep_layouts,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops the open shards. Views that are still in use stay valid."""
        with self._lock:
            self._open.clear()

    def crop(self, shard: str, row_group: int, crop_id: str, size: int, sha256: str) -> StoredCrop:
        """One crop.

        Args:
            shard: name of the file below the output folder.
            row_group: its row group.
            crop_id: the crop that the row group must contain.
            size: side of the crop in sites.
            sha256: of the shard, from the manifest.

        Raises:
            DamagedShardError: The file is not what the manifest says.
        """
        try:
            file, layout = self._file(shard, size, sha256)
            file.check()
            if not layout.flat:
                return self._through_parquet(shard, row_group, crop_id, size)
            return _views(file, layout, row_group, crop_id, size)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DamagedShardError(f"{shard}: {error}") from error

    def _file(self, shard: str, size: int, sha256: str) -> tuple["_File", "_Layout"]:
        with self._lock:
            opened = self._open.get(shard)
            if opened is not None:
                self._open.move_to_end(shard)
                return opened
            layout = self._layouts.get(shard)
        file = _open(self._store, shard)
        if layout is None or layout.stamp != file.stamp:
            layout = _read_layout(file, size)
        if self._verify and self._verified.get(shard) != file.stamp:
            if self._store.digest(shard) != sha256:
                raise ValueError("its SHA-256 is not the manifest's")
            self._verified[shard] = file.stamp
        with self._lock:
            self._layouts[shard] = layout
            self._layouts.move_to_end(shard)
            self._open[shard] = file, layout
            while len(self._open) > self._keep:
                self._open.popitem(last=False)
            while len(self._layouts) > self._keep_layouts:
                self._layouts.popitem(last=False)
        return file, layout

    def _through_parquet(self, shard: str, row_group: int, crop_id: str, size: int) -> StoredCrop:
        pixels = read_crop(self._store, shard, row_group, size)
        if pixels.crop_id != crop_id:
            raise DamagedShardError(f"{shard}: row group {row_group} holds {pixels.crop_id}, not {crop_id}")
        return StoredCrop(
            noisy_raw=pixels.noisy_raw.copy(),
            gt_raw=pixels.gt_raw.copy(),
            gt_rgb=pixels.gt_rgb.copy(),
            mask=np.packbits(pixels.valid, axis=1, bitorder="big"),
        )


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Layout:
    """End offsets of the values of a shard.

    Attributes:
        stamp: size and modification time of the file when it was read.
        flat: whether every value is the tail of its chunk.
        ends: (row groups, columns) int64, byte after each chunk.
    """

    stamp: tuple[int, int]
    flat: bool
    ends: NDArray[np.int64]


class _File(Protocol):
    """An open shard."""

    stamp: tuple[int, int]

    def check(self) -> None:
        """Raises ValueError where the file is no longer as long as it was."""
        ...

    def source(self) -> pa.NativeFile:
        """The file as the Parquet reader takes it."""
        ...

    def bytes(self, start: int, end: int) -> Any:
        """Writable memory with the bytes from `start` to `end`."""
        ...


class _MappedFile:
    """A memory-mapped local file, copy on write, because torch needs writable memory."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(
            path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        )  # a pipe would be waited for
        status = os.fstat(self._descriptor)
        self.stamp = (status.st_size, status.st_mtime_ns)
        self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_COPY)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # the file could not be opened
            os.close(self._descriptor)

    def check(self) -> None:
        # Reading a mapping beyond the end of a truncated file kills the process.
        size = os.fstat(self._descriptor).st_size
        if size != self.stamp[0]:
            raise ValueError(f"has {size} bytes now, had {self.stamp[0]} when opened")

    def source(self) -> pa.NativeFile:
        return pa.BufferReader(pa.py_buffer(self._map))

    def bytes(self, start: int, end: int) -> memoryview:
        return memoryview(self._map)[start:end]


class _RemoteFile:
    """A file of another file system; each crop is one ranged read."""

    def __init__(self, store: Store, name: str) -> None:
        self._file = store.open(name)
        self.stamp = (self._file.size(), 0)

    def check(self) -> None:
        """Objects of an object store do not change."""

    def source(self) -> pa.NativeFile:
        return self._file

    def bytes(self, start: int, end: int) -> bytearray:
        return bytearray(self._file.read_at(end - start, start))


def _open(store: Store, name: str) -> _File:
    path = store.local(name)
    return _RemoteFile(store, name) if path is None else _MappedFile(str(path))


def _read_layout(file: _File, size: int) -> _Layout:
    footer, end = _read_footer(file)
    if footer.get(SCHEMA) != _schema_of(size):
        raise ValueError(f"not a shard of {size}-pixel crops")
    try:
        marks = {pair[KEY]: pair.get(VALUE, b"") for pair in footer.get(KEY_VALUES, ())}
        require_readable_parquet("shard", marks, "it")
        return _layout_of(footer, end, file.stamp, size)
    except (
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
    ) as error:  # a field is missing or has another type
        raise ValueError("its footer is damaged") from error
    except ManifestError as error:
        raise ValueError(str(error)) from error


def _layout_of(footer: dict[int, Any], end: int, stamp: tuple[int, int], size: int) -> _Layout:
    chunks = [[_Chunk.of(column) for column in group[COLUMNS]] for group in footer[ROW_GROUPS]]
    if any(len(row) != len(_COLUMNS) for row in chunks):
        raise ValueError("its footer has another number of columns")
    _require_back_to_back([chunk for row in chunks for chunk in row], end)
    widths = (0, *(field.type.byte_width for field in list(shard_schema(size))[1:]))
    flat = all(
        chunk.flat and chunk.length - _MAX_PAGE_HEADER <= width < chunk.length
        for row in chunks
        for chunk, width in zip(row[1:], widths[1:], strict=True)
    ) and all(row[0].flat for row in chunks)
    ends = np.array([[chunk.start + chunk.length for chunk in row] for row in chunks], np.int64)
    return _Layout(stamp=stamp, flat=flat, ends=ends.reshape(-1, len(_COLUMNS)))


def _read_footer(file: _File) -> tuple[dict[int, Any], int]:
    """The footer, and where it begins."""
    size = file.stamp[0]
    tail = bytes(file.bytes(max(size - 8, 0), size))
    length = int.from_bytes(tail[:4], "little")
    if len(tail) != 8 or tail[4:] != MAGIC or length > size - 12:
        raise ValueError("not a Parquet file, or a truncated one")
    begin = size - 8 - length
    return parse_footer(bytes(file.bytes(begin, size - 8))), begin


@cache
def _schema_of(size: int) -> list[Any]:
    """The schema element list in the footer of a shard with crops of that size."""
    sink = io.BytesIO()
    pq.ParquetWriter(sink, shard_schema(size), store_schema=False).close()
    data = sink.getvalue()
    schema: list[Any] = parse_footer(data[len(data) - 8 - int.from_bytes(data[-8:-4], "little") : -8])[SCHEMA]
    return schema


def _require_back_to_back(chunks: Sequence["_Chunk"], footer: int) -> None:
    """Checks that column chunks have no gaps and no overlaps: a damaged offset could point to the pixels of another crop."""
    end = len(MAGIC)
    for chunk in chunks:
        if chunk.start != end:
            raise ValueError(f"a column chunk begins at {chunk.start}, the one before it ends at {end}")
        end += chunk.length
    if end != footer:
        raise ValueError(f"its last column chunk ends at {end}, its footer begins at {footer}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chunk:
    start: int
    length: int
    flat: bool

    @classmethod
    def of(cls, column: dict[int, Any]) -> "_Chunk":
        meta = column[META_DATA]
        flat = (
            meta[NUM_VALUES] == 1
            and meta[CODEC] == _UNCOMPRESSED
            and DICTIONARY_PAGE not in meta
            and _FLAT_ENCODINGS.issuperset(meta[ENCODINGS])
        )
        return cls(start=meta.get(DICTIONARY_PAGE, meta[DATA_PAGE]), length=meta[COMPRESSED_SIZE], flat=flat)


def _views(file: _File, layout: _Layout, row_group: int, crop_id: str, size: int) -> StoredCrop:
    if not 0 <= row_group < len(layout.ends):
        raise ValueError(f"has {len(layout.ends)} crops, the manifest names number {row_group}")
    ends = layout.ends[row_group].tolist()
    name = crop_id.encode()
    start = ends[0] - len(name) - 4
    data = file.bytes(start, ends[-1])
    if data[: len(name) + 4] != len(name).to_bytes(4, "little") + name:  # Parquet's PLAIN string
        raise ValueError(f"row group {row_group} does not hold {crop_id}")
    area = size * size
    counts = (2 * area, 2 * area, 6 * area, area // 8)
    noisy_raw, gt_raw, gt_rgb, mask = (
        np.frombuffer(data, np.uint8, count, end - count - start)
        for count, end in zip(counts, ends[1:], strict=True)
    )
    return StoredCrop(
        noisy_raw=noisy_raw.view("<u2").reshape(size, size),
        gt_raw=gt_raw.view("<u2").reshape(size, size),
        gt_rgb=gt_rgb.view("<f2").reshape(3, size, size),
        mask=mask.reshape(size, size // 8),
    )
