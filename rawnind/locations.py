"""Local paths and URIs that pyarrow.fs opens: the output folder and photos on an object store go through here.

pyarrow.fs and not fsspec: the output folder uses it already, its S3 and GCS clients are part of pyarrow, and they read in threads
without the GIL.
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from rawnind.errors import ConfigError, printable, redacted

if TYPE_CHECKING:
    from pyarrow import fs


def is_uri(place: str) -> bool:
    """Whether a place is on an object store.

    >>> is_uri("s3://bucket/photos"), is_uri("/photos"), is_uri("file:///photos")
    (True, False, False)
    """
    return "://" in place and not place.startswith("file://")


def local_path(place: str) -> str:
    """A `file://` URI as the path that it means; any other place as it is.

    Raises:
        ConfigError: The URI names another machine.

    >>> local_path("file:///photos/a%20b"), local_path("photos")
    ('/photos/a b', 'photos')
    """
    if not place.startswith("file://"):
        return place
    parts = urlsplit(place)
    if parts.netloc not in {"", "localhost"}:
        raise ConfigError(f"{place} is on another machine; mount it and name its path")
    return unquote(parts.path)


def require_text(path: str) -> str:
    """A path that JSON, YAML and Parquet can hold, and pyarrow opens.

    Raises:
        ConfigError: It has bytes that are no UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{printable(path)}: the name of this folder, or of one above it, has a broken encoding (it is no UTF-8); rename it"
        ) from None
    return path


def open_location(uri: str) -> "tuple[fs.FileSystem, str]":
    """The file system of a path or URI, and the place in it.

    Raises:
        ConfigError: It is no URI, or one that pyarrow has no file system for, or it names no folder, or is a path that is no text.
        OSError: The store cannot be reached.
    """
    import pyarrow as pa  # here: most places are local, and it takes as long as all else that a command imports
    from pyarrow import fs

    location = redacted(uri)
    if "://" not in uri:
        return fs.LocalFileSystem(), require_text(str(Path(uri).absolute()))
    try:
        filesystem, root = fs.FileSystem.from_uri(_tuned(uri))
    except pa.ArrowInvalid as error:  # not a URI, or one that pyarrow has no file system for
        raise ConfigError(f"cannot open {location}: {redacted(str(error))}") from None  # `error` has the URI
    root = root.rstrip("/")
    if not root:
        raise ConfigError(f"{location} names no folder")
    return filesystem, root


def _tuned(uri: str) -> str:
    """Adds an option with which a small file costs one S3 request in place of three."""
    if not uri.startswith("s3://") or "allow_delayed_open=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def join(base: str, name: str) -> str:
    """The place of a file below a folder; options of a URI stay at its end.

    >>> join("s3://bucket/photos?region=eu", "a.dng")
    's3://bucket/photos/a.dng?region=eu'
    """
    folder, question, options = base.partition("?")
    return f"{folder.rstrip('/')}/{name}{question}{options}"


@lru_cache(maxsize=16)
def _store_of(scheme: str, bucket: str, options: str) -> "fs.FileSystem":
    """One client for each bucket and process; it may be used by several threads."""
    return open_location(f"{scheme}://{bucket}/x{options}")[0]


def open_object(uri: str) -> "tuple[fs.FileSystem, str]":
    """The client of an object's store, and the object's place in it. Errors as in `open_location`."""
    address, question, options = uri.partition("?")
    scheme, _, place = address.partition("://")
    bucket, _, name = place.partition("/")
    return _store_of(scheme, bucket, question + options), f"{bucket.rpartition('@')[2]}/{name}"
