"""The index as Parquet, for data sets of many thousands of scenes: what an index YAML says, one row for each photo."""

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rawnind.errors import IndexInvalidError
from rawnind.locations import is_uri
from rawnind.records import ImageRef, Scene
from rawnind.source.collector import Index
from rawnind.source.dataverse import parse_address
from rawnind.source.entries import SceneEntry, scene_entry
from rawnind.source.names import CFA_FOLDERS, Refused

SUFFIX = ".parquet"

_SCENE = ("cfa", "scene", "test_reserve", "unknown_sensor")
_SCHEMA = pa.schema(
    [
        pa.field("cfa", pa.string(), nullable=False),
        pa.field("scene", pa.string(), nullable=False),
        pa.field("test_reserve", pa.bool_(), nullable=False),
        pa.field("unknown_sensor", pa.bool_(), nullable=False),
        pa.field("role", pa.string()),
        pa.field("filename", pa.string()),  # null in the only row of a scene without photos
        pa.field("sha1", pa.string()),
        pa.field("iso", pa.int64()),
    ]
)
_ROOT = b"root"
_ROWS = 10_000
"""Photos that are converted at once."""

_MOST_PHOTOS = 20_000_000
"""Rows that are read; some kilobytes of a compressed file can claim as many as they like."""


class ParquetIndex:
    """An index that is read row by row.

    Args:
        data: the file.
        name: of the file, for errors.

    Raises:
        IndexInvalidError: It is no index.

    Attributes:
        root: what its key `root` says; None where it has none.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._name = name
        try:
            self._file = pq.ParquetFile(pa.BufferReader(data))
            schema = self._file.schema_arrow
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._invalid(str(error)) from None
        if lacking := sorted({*_SCENE, "filename"} - set(schema.names)):
            raise self._invalid(f"it lacks the columns {', '.join(lacking)}")
        if self._file.metadata.num_rows > _MOST_PHOTOS:
            raise self._invalid(f"it has more than {_MOST_PHOTOS} rows")
        self._columns = [column for column in schema.names if column in _SCHEMA.names]
        self.root = (schema.metadata or {}).get(_ROOT, b"").decode("utf-8", "replace") or None

    def scenes(self) -> Iterator[tuple[Any, Any, SceneEntry | Refused]]:
        """CFA, scene and photos of each scene; one whose rows are scattered comes several times.

        Raises:
            IndexInvalidError: The file is damaged.
        """
        for (cfa, scene, *flags), rows in groupby(self._rows(), lambda row: [row[name] for name in _SCENE]):
            images = [row for row in rows if row["filename"] is not None]
            entry = {
                "clean_images": [row for row in images if row.get("role") == "gt"],
                "noisy_images": [row for row in images if row.get("role") != "gt"],
                **dict(zip(_SCENE[2:], flags, strict=True)),
            }
            yield cfa, scene, scene_entry(entry)

    def _rows(self) -> Iterator[dict[str, Any]]:
        try:
            for batch in self._file.iter_batches(_ROWS, columns=self._columns):
                yield from batch.to_pylist()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._invalid(str(error)) from None

    def _invalid(self, why: str) -> IndexInvalidError:
        return IndexInvalidError(f"{self._name} is not an index: {' '.join(why.split())[:200]}")


def stated_root(path: Path) -> str | None:
    """What the key `root` of an index says, whose rows are not read; None where it has none, or is no index."""
    try:
        return (pq.read_schema(path).metadata or {}).get(_ROOT, b"").decode("utf-8", "replace") or None
    except (OSError, ValueError, pa.ArrowException):
        return None


def write_parquet_index(file: IO[bytes], index: Index, folder: Path) -> None:
    """Writes an index that `ParquetIndex` reads back.

    Args:
        file: to write to.
        index: what to write.
        folder: where the file lies; the root is stored relative to it, so that both can be moved together.
    """
    beside = index.root == "."  # of photos that are still to be fetched
    elsewhere = is_uri(index.root) or parse_address(index.root)
    root = index.root if beside or elsewhere else os.path.relpath(index.root, folder)
    schema = _SCHEMA.with_metadata({_ROOT: root.encode()})
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for scene in index.scenes:
            photos = (*scene.ground_truths, *scene.noisy)
            rows += [_row(scene, photo) for photo in photos] or [_row(scene, None)]
            if len(rows) >= _ROWS:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema), row_group_size=_ROWS * 10)
                rows = []
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))


def _row(scene: Scene, photo: ImageRef | None) -> dict[str, Any]:
    row = {
        "cfa": CFA_FOLDERS[scene.cfa],
        "scene": scene.name,
        "test_reserve": scene.test_reserve,
        "unknown_sensor": scene.unknown_sensor,
    }
    if photo is None:
        return row
    role = "gt" if photo.ground_truth else "noisy"
    return {**row, "role": role, "filename": photo.filename, "sha1": photo.sha1, "iso": photo.iso}
