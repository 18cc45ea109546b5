"""Versions of the files in an output folder, and the check that a reader makes.

Each kind of file has one whole number. It is raised only by a change that an older reader would misread. Columns, keys, events
and reasons may be added without a new number: readers ignore what they do not know. A file without a number was written
before there were numbers, and is version 1. docs/formats.md describes every kind.
"""

import json
from collections.abc import Mapping
from typing import Any

from rawnind.errors import ManifestError

VERSIONS: Mapping[str, int] = {
    "journal": 1,
    "shard": 1,
    "manifest": 1,
    "pairs": 1,
    "manifest.yaml": 1,
    "recipe": 1,
    "events": 1,
    "checkpoint": 2,
}
"""The version of each kind of file that this code writes; it reads this one and all before it."""

FORMAT_KEY = b"rawnind.format"
COLUMNS_KEY = b"rawnind.columns"


def parquet_metadata(kind: str, columns: Mapping[str, Mapping[str, Any]] | None = None) -> dict[bytes, bytes]:
    """Schema metadata that marks a Parquet file.

    Args:
        kind: of `VERSIONS`.
        columns: how to decode binary columns, for readers that have no other description.

    >>> parquet_metadata("journal")
    {b'rawnind.format': b'journal 1'}
    """
    described = {COLUMNS_KEY: json.dumps(columns).encode()} if columns else {}
    return {FORMAT_KEY: f"{kind} {VERSIONS[kind]}".encode()} | described


def require_readable(kind: str, version: object, name: str) -> None:
    """Checks the version in a file.

    Args:
        kind: of `VERSIONS`.
        version: in the file; None where there is none.
        name: of the file, for the error.

    Raises:
        ManifestError: A newer rawnind wrote the file, or it has no such version.

    >>> require_readable("journal", 1, "parts/0000000000-1-0123456789abcdef.parquet")
    """
    if version is None:
        return
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ManifestError(f"{name} has the format {version!r}, which no version of rawnind writes")
    if version > VERSIONS[kind]:
        raise ManifestError(
            f"{name} has format {version} of {kind}, this rawnind reads up to {VERSIONS[kind]}: a newer one wrote it. "
            "Upgrade rawnind."
        )


def require_readable_parquet(kind: str, metadata: Mapping[bytes, bytes] | None, name: str) -> None:
    """Checks a Parquet file's schema metadata. Errors as in `require_readable`.

    Args:
        kind: of `VERSIONS`.
        metadata: the file's schema metadata; None where it has none.
        name: of the file, for the error.
    """
    marked = (metadata or {}).get(FORMAT_KEY)
    if marked is None:
        return
    found, _, number = marked.decode(errors="replace").partition(" ")
    if found != kind:
        raise ManifestError(f"{name} is marked as {found}, not as {kind}")
    require_readable(kind, int(number) if number.isdecimal() else number, name)
