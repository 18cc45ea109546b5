"""Reads manifest.parquet and pairs.parquet at one border: only the files that manifest.yaml names, with known columns and sound values."""

import math
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rawnind.errors import DamagedManifestError, ManifestError, printable
from rawnind.output.manifest import MANIFEST, MANIFEST_YAML, PAIRS, read_head
from rawnind.output.schema import MANIFEST_SCHEMA, PAIRS_SCHEMA
from rawnind.output.store import Store
from rawnind.output.versions import require_readable_parquet
from rawnind.records import Cfa

SCHEMAS = {MANIFEST: MANIFEST_SCHEMA, PAIRS: PAIRS_SCHEMA}

_LONGEST_SIDE = 65_535
"""Sites; LibRaw counts them in 16 bits."""

_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("y", "x", "row_group", "crops"), (0, 2**31 - 1)),
    **dict.fromkeys(("y", "x"), (0, _LONGEST_SIDE)),
    **dict.fromkeys(("shift_y", "shift_x"), (-_LONGEST_SIDE, _LONGEST_SIDE)),
    **dict.fromkeys(("gt_tile_y", "gt_tile_x"), (0, max(cfa.period for cfa in Cfa) - 1)),
    "size": (32, _LONGEST_SIDE),
    **dict.fromkeys(("valid_fraction", "overexposed_fraction", "underexposed_fraction", "hot_fraction",
                     "changed_fraction", "mask_mean", "overexposure_lb"), (0, 1)),
    "gain": (0, 1e30),
}  # fmt: skip

_CFAS = "|".join(Cfa)
_PATTERNS = {
    "cfa": re.compile(_CFAS),
    "scene": re.compile(r"[^\W_][\w.+ -]{0,199}"),
    "pair_id": re.compile(r"[0-9a-f]{12}-([0-9a-f]{12}|none)"),
    "gt_sha1": re.compile(r"[0-9a-f]{40}"),
    "noisy_sha1": re.compile(r"[0-9a-f]{40}"),
    "shard": re.compile(rf"shards/({_CFAS})/[^/]+/[0-9a-f]{{12}}-[0-9a-f]{{12}}\.parquet"),
    "shard_sha256": re.compile(r"[0-9a-f]{64}"),
}
"""Texts that become names of files, or that name a file's content."""

_LENGTHS = {
    "black_level": {3, 4},
    "gt_black_level": {3, 4},
    "rgb_xyz_matrix": {9},
    "gt_rgb_xyz_matrix": {9},
}


def require_sealed(store: Store) -> None:
    """Checks that the two Parquet files are those that manifest.yaml names: Arrow ends the process at some damaged bytes.

    Raises:
        ManifestError: They are not, or manifest.yaml is missing or damaged.
        OutputError: The storage reports an error.
    """
    try:
        files = read_head(store)["files"]
        changed = [name for name in SCHEMAS if store.digest(name) != files[name]]
    except FileNotFoundError as error:
        raise DamagedManifestError(
            f"{store.location} lacks a file of the manifest ({error}); run `rawnind prepare` again"
        ) from error
    if changed:
        raise DamagedManifestError(
            f"{changed[0]} in {store.location} is not the file that {MANIFEST_YAML} was written with; if `rawnind prepare` is "
            "writing the manifest now, try again, else run it again"
        )


@contextmanager
def open_table(
    store: Store, name: str, needed: Collection[str] = (), *, dictionary: Sequence[str] = ()
) -> Iterator[pq.ParquetFile]:
    """Opens one of the two files, and checks its version and columns.

    Args:
        store: the output folder.
        name: of `SCHEMAS`.
        needed: columns that the caller cannot do without.
        dictionary: columns that are dictionary-encoded in memory.

    Raises:
        ManifestError: It is missing, damaged or of a newer version, or a column is missing or has another type.
    """
    try:
        with store.open(name) as source:
            metadata = pq.read_metadata(source)
            found = metadata.schema.to_arrow_schema()
            require_readable_parquet(name.removesuffix(".parquet"), found.metadata, name)
            if wrong := _wrong_columns(found, SCHEMAS[name], needed):
                raise ManifestError(f"{name} in {store.location} lacks the columns {', '.join(wrong)}.")
            with pq.ParquetFile(source, read_dictionary=list(dictionary), metadata=metadata) as file:
                yield file
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:  # names of columns may be no UTF-8
        raise ManifestError(f"{name} in {store.location} cannot be read: {error}.") from error


def _wrong_columns(found: pa.Schema, schema: pa.Schema, needed: Collection[str]) -> list[str]:
    """Columns that a file has with another type, or lacks although they are needed or not nullable; others may be newer than it."""
    types = {field.name: field.type for field in found}
    return [
        field.name
        for field in schema
        if types.get(field.name, field.type if field.nullable and field.name not in needed else None)
        != field.type
    ]


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def require_sound(table: pa.Table, name: str, location: str) -> None:
    """Checks the values of the columns that a table has.

    Args:
        table: rows of one of the two files.
        name: of `SCHEMAS`.
        location: of the output folder, for the error.

    Raises:
        ManifestError: A number is not finite or out of range, a text is not UTF-8 or no name that rawnind gives, or a value is missing.
    """
    _require_utf8(table, name, location)
    for field in SCHEMAS[name]:
        if field.name in table.column_names and (why := _unsound(table[field.name], field)):
            raise ManifestError(f"{name} in {location} is damaged: {field.name} {why}")


def require_values(table: pa.Table | pa.RecordBatch, name: str, location: str) -> None:
    """As `require_sound`, and checks only that required values are there and that texts are UTF-8."""
    _require_utf8(table, name, location)
    for field in SCHEMAS[name]:
        if field.name in table.schema.names and not field.nullable and table[field.name].null_count:
            raise ManifestError(f"{name} in {location} is damaged: {field.name} is null")


def _require_utf8(table: pa.Table | pa.RecordBatch, name: str, location: str) -> None:
    """Arrow reads any bytes as a text, and fails when Python asks for it."""
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ManifestError(f"{name} in {location} is damaged: {error}") from error


def _unsound(column: pa.ChunkedArray, field: pa.Field) -> str:
    """What is wrong with a column, or an empty text."""
    if column.null_count and not field.nullable:
        return "is null"
    if pattern := _PATTERNS.get(field.name):
        texts = (text for text in column.unique().to_pylist() if text is not None)
        return next((f"is {printable(text)!r}" for text in texts if not pattern.fullmatch(text)), "")
    if lengths := _LENGTHS.get(field.name):
        found = set(pc.unique(pc.list_value_length(column.drop_null())).to_pylist())
        if not found <= lengths:
            return f"has {', '.join(map(str, sorted(found - lengths)))} values"
        column = pc.list_flatten(column)
        if column.null_count:
            return "holds null"
    kind = _plain(column.type)
    return (
        _unsound_numbers(column, field.name)
        if pa.types.is_floating(kind) or pa.types.is_integer(kind)
        else ""
    )


def _unsound_numbers(column: pa.ChunkedArray, name: str) -> str:
    if not pc.all(pc.is_finite(column.drop_null()), min_count=0).as_py():
        return "is not finite"
    low, high = _RANGES.get(name, (-math.inf, math.inf))
    ends = pc.min_max(column).as_py().values()
    return next(
        (
            f"is {end}, outside {low:g} to {high:g}"
            for end in ends
            if end is not None and not low <= end <= high
        ),
        "",
    )
