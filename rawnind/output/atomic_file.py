"""Local files that appear complete or not at all, and the digest of what is written to a file."""

import contextlib
import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TEMPORARY = ".tmp-"
"""Prefix of files that are being written; those of a run that has ended may be removed."""


class HashingSink:
    """Forwards bytes and computes their SHA-256 and count, so that nothing is read twice."""

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Appends bytes; returns how many."""
        view = memoryview(data)
        self._stream.write(view)
        self._hash.update(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def flush(self) -> None:
        """Does nothing: there is no buffer."""

    @property
    def sha256(self) -> str:
        """Hex digest of everything written so far."""
        return self._hash.hexdigest()


@contextlib.contextmanager
def atomic_file(final: Path, *, replace: bool, durable: bool = True) -> Iterator[IO[bytes]]:
    """A temporary file in the same folder that is renamed when the block ends without an error, and removed otherwise.

    Args:
        final: its path afterwards.
        replace: whether a file of that path is replaced; else it is an error.
        durable: whether it is on the disk when the block has ended, and survives a power failure.
    """
    temporary = final.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        if replace:
            temporary.replace(final)
        else:
            _move_to_free_name(temporary, final)
        if durable:
            _sync_folder(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _move_to_free_name(source: Path, target: Path) -> None:
    """Renames a file and fails where the new name exists."""
    try:
        target.hardlink_to(source)  # fails where the name exists, unlike a rename
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if target.exists():
            raise FileExistsError(target) from error
        source.rename(
            target
        )  # between check and rename another writer could create the file; a run has only one


_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
