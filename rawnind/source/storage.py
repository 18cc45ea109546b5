"""Reads photos where they lie: on this machine, or as objects of a store such as S3.

pyarrow is imported where a store is used: most sources are local, and it takes as long as all else that a command imports.
"""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rawnind.documents import LISTING
from rawnind.errors import IndexInvalidError, redacted
from rawnind.locations import is_uri, open_location, open_object

_BLOCK = 1 << 20
"""Bytes that are read of an object at once: readers of headers ask for a few bytes, and each would be a request."""

_HEADER = 4 << 20
"""Bytes at the beginning of a photo in which its header lies."""


def photo_stat(path: str) -> tuple[int, int] | None:
    """Length and time (ns) of a photo; None where it is no regular file.

    Raises:
        FileNotFoundError: There is none.
        OSError: The system or the store refuses.
    """
    if not is_uri(path):
        found = os.stat(path)  # noqa: PTH116 - a plan asks for every photo
        return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None
    from pyarrow import fs

    with _translated():
        filesystem, place = open_object(path)
        info = filesystem.get_file_info(place)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(path)
    return (info.size, info.mtime_ns or 0) if info.type == fs.FileType.File else None


@contextmanager
def open_photo(path: str) -> Iterator[io.BufferedReader]:
    """A photo for reading. Errors as in `photo_stat`."""
    if not is_uri(path):
        with Path(path).open("rb") as file:
            yield file
        return
    with _translated():
        filesystem, place = open_object(path)
        with io.BufferedReader(filesystem.open_input_file(place), _BLOCK) as stream:
            yield stream


def read_listing(place: str) -> bytes:
    """The bytes of an index or another list of photos, here or on a store, at most one more than are read of one.

    Raises:
        IndexInvalidError: It is not there, is no file, or cannot be read.
    """
    try:
        found = photo_stat(place)
        if found is None:  # a pipe would be waited for forever
            raise IndexInvalidError(f"{redacted(place)} is not a file")
        with open_photo(place) as file:
            return bytes(file.read(min(LISTING, found[0]) + 1))  # read() takes memory for what it is told
    except FileNotFoundError:
        raise IndexInvalidError(f"{redacted(place)} does not exist") from None
    except OSError as error:
        raise IndexInvalidError(f"cannot read {redacted(place)}: {error.strerror or error}") from error


def header_source(path: str) -> str | BinaryIO:
    """What LibRaw reads a photo's header from: the file itself, or the beginning of an object. Errors as in `photo_stat`."""
    if not is_uri(path):
        try:
            path.encode()
        except UnicodeEncodeError:  # a name that is no UTF-8, which rawpy does not take
            return io.BytesIO(Path(path).read_bytes())
        return path
    with open_photo(path) as file:
        return io.BytesIO(file.read(_HEADER))


def list_objects(uri: str) -> dict[str, int]:
    """Lengths of all files below a folder of a store, by relative path.

    Raises:
        IndexInvalidError: The store does not answer, or has no such folder.
    """
    require_no_secrets(uri)
    return {path: size for path, (size, _) in object_stats(uri, must_exist=True).items()}


def object_stats(uri: str, *, must_exist: bool = False) -> dict[str, tuple[int, int]]:
    """Lengths and times (ns) of all files below a folder of a store, by relative path.

    Args:
        uri: of the folder.
        must_exist: whether a folder that is not there is an error.

    Raises:
        IndexInvalidError: The store does not answer, or has no such folder.
    """
    import pyarrow as pa
    from pyarrow import fs

    try:
        filesystem, root = open_location(uri)
        found = filesystem.get_file_info(
            fs.FileSelector(root, recursive=True, allow_not_found=not must_exist)
        )
    except (OSError, pa.ArrowException) as error:
        raise IndexInvalidError(f"cannot list {redacted(uri)}: {redacted(str(error))}") from None
    return {
        info.path[len(root) + 1 :]: (info.size, info.mtime_ns or 0)
        for info in found
        if info.type == fs.FileType.File
    }


def require_no_secrets(uri: str) -> None:
    """Checks that a source's address may be stored with its results.

    Raises:
        IndexInvalidError: It has credentials.
    """
    if redacted(uri) != uri:
        raise IndexInvalidError(
            f"{redacted(uri)} has credentials, and the address of a source is stored with its results; put them into the environment"
        )


def is_reachable(root: str) -> bool:
    """Whether a folder of a store can be listed and has something in it."""
    import pyarrow as pa
    from pyarrow import fs

    try:
        filesystem, place = open_location(root)
        return bool(filesystem.get_file_info(fs.FileSelector(place)))
    except (OSError, pa.ArrowException):
        return False


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the store as OSError with a text for people."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise OSError(errno.EIO, redacted(str(error))[:300]) from None
