"""The output folder: a local path or a URI that pyarrow.fs opens, with write-once files.

A file appears whole or not at all. Locally it is written beside its place, synced and moved there; object stores show
an object only when its upload is complete.
"""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import pyarrow as pa
from pyarrow import fs

from rawnind.errors import OutputError

TEMPORARY = ".tmp-"
"""Prefix of a file that is still being written; whoever finds one without its writer may remove it."""


class Sink(Protocol):
    """What `Store.create` hands out: a place for bytes that remembers their digest."""

    def write(self, data: bytes) -> int:
        """Appends bytes."""
        ...


class HashingSink:
    """Passes bytes on and keeps their SHA-256 and count, so that nothing is read twice."""

    closed = False

    def __init__(self, stream: pa.NativeFile) -> None:
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
        """Nothing is kept back here."""

    @property
    def sha256(self) -> str:
        """Hex digest of everything written so far."""
        return self._hash.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file below the store's root."""

    path: str
    size: int


class Store:
    """Files below one root. Names are relative, with forward slashes, and never leave the root.

    Args:
        location: a local path, or a URI such as `s3://bucket/folder`.

    Raises:
        OutputError: The location cannot be opened.
    """

    def __init__(self, location: str) -> None:
        try:
            if "://" in location:
                self._fs, self._root = fs.FileSystem.from_uri(location)
            else:
                self._fs, self._root = fs.LocalFileSystem(), str(Path(location).absolute())
        except (OSError, pa.ArrowInvalid) as error:
            raise OutputError(f"cannot open {location}: {error}") from error
        self.location = location
        self.is_local = isinstance(self._fs, fs.LocalFileSystem)

    def full(self, name: str) -> str:
        """The name below the root, as the file system spells it.

        Raises:
            ValueError: The name would leave the root.
        """
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
            raise ValueError(f"not a name inside the output folder: {name!r}")
        return f"{self._root}/{'/'.join(parts)}"

    def local(self, name: str) -> Path | None:
        """The file's local path; None where the store is remote."""
        return Path(self.full(name)) if self.is_local else None

    @contextlib.contextmanager
    def create(self, name: str, *, replace: bool = False) -> Iterator[HashingSink]:
        """Writes a file that appears when the block ends well, and not at all otherwise.

        Args:
            name: relative name.
            replace: whether a file of that name may be there; it is replaced in one step.

        Raises:
            FileExistsError: The name is taken and `replace` is False.
            OutputError: The storage refuses (no space, no permission, not reachable).
        """
        final = self.full(name)
        if not replace and self.exists(name):
            raise FileExistsError(name)
        folder, base = final.rsplit("/", 1)
        target = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}-{base}" if self.is_local else final
        try:
            if self.is_local:
                Path(folder).mkdir(parents=True, exist_ok=True)
            with self._fs.open_output_stream(target) as stream:
                yield HashingSink(stream)
            if self.is_local:
                _move(Path(target), Path(final), replace=replace)
        except FileExistsError:
            _discard(target, local=self.is_local)
            raise
        except (OSError, pa.ArrowInvalid) as error:
            _discard(target, local=self.is_local)
            raise OutputError(f"cannot write {name} in {self.location}: {error}") from error
        except BaseException:
            _discard(target, local=self.is_local)
            raise

    def write(self, name: str, data: bytes, *, replace: bool = False) -> str:
        """Writes a whole file; returns its SHA-256. Errors as in `create`."""
        with self.create(name, replace=replace) as sink:
            sink.write(data)
        return sink.sha256

    def read(self, name: str) -> bytes:
        """The file's bytes.

        Raises:
            FileNotFoundError: There is no such file.
            OutputError: The storage refuses.
        """
        try:
            with self._fs.open_input_stream(self.full(name)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            raise
        except OSError as error:
            raise OutputError(f"cannot read {name} in {self.location}: {error}") from error

    def open(self, name: str) -> pa.NativeFile:
        """The file for reading at any place, memory-mapped where it is local."""
        path = self.full(name)
        return pa.memory_map(path) if self.is_local else self._fs.open_input_file(path)

    def digest(self, name: str) -> str:
        """SHA-256 of the file's bytes, read in blocks."""
        digest = hashlib.sha256()
        with self._fs.open_input_stream(self.full(name)) as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return bool(self._fs.get_file_info(self.full(name)).type == fs.FileType.File)

    def list(self, folder: str) -> list[Entry]:
        """Every file below a folder, at any depth, sorted by name; empty where there is no such folder."""
        selector = fs.FileSelector(self.full(folder), recursive=True, allow_not_found=True)
        return sorted(
            (
                Entry(path=info.path[len(self._root) :].lstrip("/"), size=info.size)
                for info in self._fs.get_file_info(selector)
                if info.type == fs.FileType.File
            ),
            key=lambda entry: entry.path,
        )

    def is_empty(self) -> bool:
        """Whether nothing at all lies below the root."""
        return not self._fs.get_file_info(fs.FileSelector(self._root, recursive=False, allow_not_found=True))

    def remove(self, name: str) -> None:
        """Removes a file; one that is already gone is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self.full(name))

    def prepare_root(self) -> None:
        """Makes the root and shows that it can be written.

        Raises:
            OutputError: It cannot.
        """
        root = Path(self._root)
        if self.is_local and root.exists() and not root.is_dir():
            raise OutputError(f"{self.location} is a file; --output needs a folder")
        probe = f"{TEMPORARY}probe-{uuid.uuid4().hex}"
        self.write(probe, b"")
        self.remove(probe)


def _move(source: Path, target: Path, *, replace: bool) -> None:
    descriptor = os.open(source, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if replace:
        source.replace(target)
    else:
        target.hardlink_to(source)  # refuses where the name is taken, which a rename does not
        source.unlink()
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _discard(target: str, *, local: bool) -> None:
    if local:
        Path(target).unlink(missing_ok=True)
