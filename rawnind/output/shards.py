"""Shards: one Parquet file per pair, one row group per crop, fixed-size binary, uncompressed unless asked for.

The bytes of a crop are the same in the file and in memory, and any Parquet reader opens them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rawnind.errors import DamagedShardError
from rawnind.output.store import Store
from rawnind.output.versions import parquet_metadata, require_readable_parquet
from rawnind.recipe import Compression
from rawnind.records import Cfa, Shard

_LEVEL = 1  # of zstd: higher ones take longer without gain: noise does not compress


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class CropPixels:
    """One row of a shard.

    Attributes:
        crop_id: the crop's name in the manifest.
        noisy_raw: (size, size) uint16, the noisy photo's sensor values.
        gt_raw: (size, size) uint16, the GT's sensor values at the shifted position.
        gt_rgb: (3, size, size) float16, the GT in linear Rec.2020.
        valid: (size, size) bool, True where the pair may be trained on.
    """

    crop_id: str
    noisy_raw: NDArray[np.uint16]
    gt_raw: NDArray[np.uint16]
    gt_rgb: NDArray[np.float16]
    valid: NDArray[np.bool_]


def shard_name(cfa: Cfa, scene: str, pair_id: str) -> str:
    """Path of a pair's shard below the output folder.

    Args:
        cfa: the scene's CFA.
        scene: its name.
        pair_id: of the pair.
    """
    return f"shards/{cfa}/{scene}/{pair_id}.parquet"


_SHARD = re.compile(r"shards/(bayer|x-trans)/[^/]+/[0-9a-f]{12}-[0-9a-f]{12}\.parquet")


def is_shard_name(path: str) -> bool:
    """Whether a path below the output folder is one that `shard_name` can return.

    >>> is_shard_name("shards/bayer/cat/0123456789ab-ba9876543210.parquet"), is_shard_name("shards/notes.txt")
    (True, False)
    """
    return _SHARD.fullmatch(path) is not None


def crop_name(pair_id: str, y: int, x: int) -> str:
    """Name of the crop whose first site is (y, x) in the noisy photo's visible area.

    Args:
        pair_id: of the pair.
        y: first row.
        x: first column.
    """
    return f"{pair_id}-{y}-{x}"


def shard_schema(size: int) -> pa.Schema:
    """Columns of a shard with crops of `size` x `size`; all required."""
    area = size * size
    columns = {
        "crop_id": pa.string(),
        "noisy_raw": pa.binary(2 * area),
        "gt_raw": pa.binary(2 * area),
        "gt_rgb": pa.binary(2 * 3 * area),
        "mask": pa.binary(area // 8),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def _decoding(size: int) -> dict[str, dict[str, Any]]:
    """How to decode a shard's binary columns as arrays."""
    return {
        "noisy_raw": {"dtype": "<u2", "shape": [size, size]},
        "gt_raw": {"dtype": "<u2", "shape": [size, size]},
        "gt_rgb": {"dtype": "<f2", "shape": [3, size, size]},
        "mask": {"dtype": "|u1", "shape": [size, size // 8], "packed_bits": "big"},
    }


def write_shard(
    store: Store,
    name: str,
    rows: Iterable[CropPixels],
    size: int,
    *,
    compression: Compression = Compression.NONE,
) -> Shard:
    """Writes crops one by one, with at most one in memory; the bytes depend on the crops alone.

    Args:
        store: the output folder.
        name: of the shard, from `shard_name`.
        rows: crops in the order of the row groups.
        size: side of a crop in sites.
        compression: of the pages.

    Raises:
        OutputError: The storage reports an error; no file is then written.
    """
    schema = shard_schema(size)
    with store.create(name, replace=True) as sink:
        with pq.ParquetWriter(
            pa.PythonFile(sink, mode="w"),
            schema,
            compression=str(compression),
            compression_level=_LEVEL if compression is Compression.ZSTD else None,
            use_dictionary=False,
            write_statistics=False,
            store_schema=False,
            data_page_size=16 * size * size,  # above any value: one page per column chunk
        ) as writer:
            for row in rows:
                writer.write_batch(_batch(row, schema, size))
            writer.add_key_value_metadata(parquet_metadata("shard", _decoding(size)))
        return Shard(path=name, sha256=sink.sha256, size=sink.size)


def read_crop(store: Store, name: str, row_group: int, size: int) -> CropPixels:
    """Reads one crop with the Parquet reader.

    Args:
        store: the output folder.
        name: of the shard.
        row_group: of the crop.
        size: side of the crop in sites.

    Args:
        store: the output folder.
        name: of the shard.
        row_group: number of the crop in it.
        size: side of a crop in sites.

    Raises:
        DamagedShardError: The file is missing, is not such a shard, or holds no such crop.
    """
    try:
        with store.open(name) as source, pq.ParquetFile(source) as file:
            require_readable_parquet("shard", file.schema_arrow.metadata, name)
            row = file.read_row_group(row_group)
            if not row.schema.equals(shard_schema(size)):
                raise DamagedShardError(f"{name}: not a shard of {size}-pixel crops")
            columns = {column: row[column][0] for column in row.column_names}
            return CropPixels(
                crop_id=columns["crop_id"].as_py(),
                noisy_raw=_pixels(columns["noisy_raw"], "<u2", (size, size)),
                gt_raw=_pixels(columns["gt_raw"], "<u2", (size, size)),
                gt_rgb=_pixels(columns["gt_rgb"], "<f2", (3, size, size)),
                valid=np.unpackbits(_pixels(columns["mask"], "u1", (size, size // 8)), axis=1).view(np.bool_),
            )
    except (OSError, ValueError, pa.ArrowException, IndexError) as error:
        raise DamagedShardError(f"{name}: {error}") from error


def _batch(row: CropPixels, schema: pa.Schema, size: int) -> pa.RecordBatch:
    if row.valid.shape != (size, size):
        raise ValueError(f"crop {row.crop_id} has shape {row.valid.shape}, the shard holds {size} x {size}")
    pixels = (
        np.ascontiguousarray(row.noisy_raw, "<u2"),
        np.ascontiguousarray(row.gt_raw, "<u2"),
        np.ascontiguousarray(row.gt_rgb, "<f2"),
        np.packbits(row.valid, axis=1, bitorder="big"),
    )
    columns = [pa.array([row.crop_id], pa.string())]
    for values, field in zip(pixels, list(schema)[1:], strict=True):
        if values.nbytes != field.type.byte_width:
            raise ValueError(f"{field.name} of crop {row.crop_id} has {values.nbytes} bytes")
        columns.append(pa.FixedSizeBinaryArray.from_buffers(field.type, 1, [None, pa.py_buffer(values)]))
    return pa.record_batch(columns, schema=schema)


def _pixels(scalar: pa.Scalar, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.frombuffer(scalar.as_buffer(), dtype=kind).reshape(shape)
