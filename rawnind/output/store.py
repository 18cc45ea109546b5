"""The output folder: a local path or a URI that pyarrow.fs opens, with write-once files.

A file appears complete or not at all. A local file is written under a temporary name, synced and renamed. For an
object store it is collected in a local temporary file and uploaded in one call: closing an upload early, as an error
does, would publish what was sent so far.
"""

import contextlib
import errno
import hashlib
import mmap
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

import pyarrow as pa
from pyarrow import fs

from rawnind.errors import ConfigError, LinkError, OutputError, redacted
from rawnind.locations import open_location
from rawnind.output.atomic_file import TEMPORARY, HashingSink, atomic_file


class Sink(Protocol):
    """What `Store.create` hands out: a writable file that computes the digest of its bytes."""

    def write(self, data: bytes) -> int:
        """Appends bytes."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderEntry:
    """A file below the store's root.

    Attributes:
        modified: when it was last written, in seconds since 1970 by the store's clock.
    """

    path: str
    size: int
    modified: float


class Store:
    """Files below one root. Names are relative, with forward slashes, and never leave the root.

    Args:
        uri: a local path, or a URI such as `s3://bucket/folder`.

    Attributes:
        uri: as given.
        location: the same for messages, without credentials.

    Raises:
        OutputError: The location cannot be opened.
    """

    def __init__(self, uri: str) -> None:
        location = redacted(uri)
        self._root_identity: tuple[int, int] | None = None
        try:
            self._fs, self._root = open_location(uri)
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"cannot open {location}: {redacted(str(error))}") from None
        self.uri, self.location = uri, location
        self.is_local = isinstance(self._fs, fs.LocalFileSystem)

    def full(self, name: str) -> str:
        """The path of a name in the file system.

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
    def create(self, name: str, *, replace: bool = False, durable: bool = True) -> Iterator[HashingSink]:
        """Writes a file that is published when the block ends without an error, and not at all otherwise.

        Args:
            name: relative name.
            replace: whether an existing file of that name is replaced, in one step.
            durable: whether a local file must survive a power failure.

        Raises:
            FileExistsError: The name exists and `replace` is False. Object stores have no such check: there two
                writers of one name must not run at the same time.
            OutputError: The storage reports an error (no space, no permission, not reachable).
        """
        final = self.full(name)
        with self._translated("write", name):
            if self.is_local:
                self._make_folder(Path(final).parent)
            if not replace and self._fs.get_file_info(final).type != fs.FileType.NotFound:
                raise FileExistsError(name)
            with (
                atomic_file(Path(final), replace=replace, durable=durable)
                if self.is_local
                else self._upload(final) as stream
            ):
                yield HashingSink(stream)

    @contextlib.contextmanager
    def _upload(self, final: str) -> Iterator[IO[bytes]]:
        with tempfile.TemporaryFile(prefix="rawnind-") as spool:
            yield spool
            spool.flush()
            size = spool.tell()
            with contextlib.ExitStack() as stack:
                data: mmap.mmap | bytes = b""
                if size:  # an empty file cannot be mapped
                    data = stack.enter_context(mmap.mmap(spool.fileno(), size, access=mmap.ACCESS_READ))
                with self._fs.open_output_stream(final) as stream:
                    stream.write(data)

    @contextlib.contextmanager
    def _translated(self, action: str, name: str) -> Iterator[None]:
        """Turns storage errors into OutputError, except for names that exist already or do not exist."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, FileExistsError) or (
                isinstance(error, FileNotFoundError) and action != "write"
            ):
                raise
            raise OutputError(f"cannot {action} {name} in {self.location}: {redacted(str(error))}") from error

    def write(self, name: str, data: bytes, *, replace: bool = False, durable: bool = True) -> str:
        """Writes a whole file; returns its SHA-256. Errors as in `create`.

        Args:
            name: path below the root, with slashes.
            data: its bytes.
            replace: whether a file of that name may exist.
            durable: whether a local file must survive a power failure.
        """
        with self.create(name, replace=replace, durable=durable) as sink:
            sink.write(data)
        return sink.sha256

    def read(self, name: str, most: int | None = None) -> bytes:
        """The file's bytes, or at most the first `most` of them.

        Raises:
            FileNotFoundError: There is no such file.
            OutputError: The storage reports an error.
        """
        with self._translated("read", name), self._fs.open_input_stream(self._regular(name)) as stream:
            return bytes(stream.read(most))

    def open(self, name: str) -> pa.NativeFile:
        """The file for random access, memory-mapped where it is local.

        Raises:
            OSError: It does not exist, cannot be read, or is empty.
        """
        path = self._regular(name)
        return pa.memory_map(path) if self.is_local else self._fs.open_input_file(path)

    def digest(self, name: str) -> str:
        """SHA-256 of the file's bytes, read in blocks. Errors as in `read`."""
        digest = hashlib.sha256()
        with self._translated("read", name), self._fs.open_input_stream(self._regular(name)) as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()

    def _regular(self, name: str) -> str:
        """The path of a file to be read; a pipe would be waited for."""
        path = self.full(name)
        if self.is_local and Path(path).exists() and not Path(path).is_file():
            raise OSError(errno.EINVAL, f"{path} is not a regular file")
        return path

    def exists(self, name: str) -> bool:
        """Whether a file of that name exists. Errors as in `size`."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where none of that name exists.

        Raises:
            OutputError: The storage does not answer.
        """
        with self._translated("look for", name):
            found = self._fs.get_file_info(self.full(name))
        return int(found.size) if found.type == fs.FileType.File else None

    def list(self, folder: str = "") -> list[FolderEntry]:
        """Every file below a folder or the root, at any depth, sorted by name; empty where the folder does not exist.

        Raises:
            OutputError: The storage does not answer.
        """
        with self._translated("list", folder):
            if self.is_local:
                return sorted(self._walk(folder), key=lambda entry: entry.path)
            place = self.full(folder) if folder else self._root
            found = self._fs.get_file_info(fs.FileSelector(place, recursive=True, allow_not_found=True))
        return sorted(
            (
                FolderEntry(
                    path=info.path[len(self._root) :].lstrip("/"),
                    size=info.size,
                    modified=(info.mtime_ns or 0) / 1e9,
                )
                for info in found
                if info.type == fs.FileType.File
            ),
            key=lambda entry: entry.path,
        )

    def _walk(self, folder: str) -> Iterator[FolderEntry]:
        """Files below a local folder; links to folders are not followed."""
        if folder:
            self.require_unlinked(folder)
        pending = [self.full(folder) if folder else self._root]
        while pending:
            try:
                entries = os.scandir(pending.pop())
            except FileNotFoundError:
                continue
            with entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file():
                        found = entry.stat()
                        name = entry.path[len(self._root) :].lstrip("/")
                        yield FolderEntry(path=name, size=found.st_size, modified=found.st_mtime_ns / 1e9)

    def require_unlinked(self, folder: str) -> None:
        """Checks that a local folder and those above it are no links: what is written or deleted then is inside the root.

        A folder that is linked to another disk could be another output's too, whose files a run would delete as its own.

        Raises:
            LinkError: One of them is a symbolic link.
        """
        place = Path(self._root)
        for part in PurePosixPath(folder).parts if self.is_local else ():
            place /= part
            if place.is_symlink():
                raise LinkError(
                    f"{place} is a symbolic link; links inside an output folder are not followed, because files behind them could "
                    "be deleted. Replace it by a folder, or move the whole output folder to where it points"
                )

    @contextlib.contextmanager
    def open_in_place(self, name: str, flags: int) -> Iterator[int]:
        """Opens a local file to be changed in place; the descriptor is closed at the end.

        Args:
            name: relative name; its folder is created.
            flags: of `os.open`, in addition to those that keep links from being followed.

        Raises:
            LinkError: It is a symbolic link.
            OutputError: It is no regular file, it has a second name (a hard link), or the storage reports an error.
        """
        path = Path(self.full(name))
        with self._translated("write", name):
            self._make_folder(path.parent)
            if path.is_symlink():
                raise LinkError(f"{path} is a symbolic link, which is not written through; remove it")
            # O_NONBLOCK: a pipe of that name would be waited for
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                    raise OSError(errno.EINVAL, "it is no regular file, or has a second name; remove it")
                yield descriptor
            finally:
                os.close(descriptor)

    def _make_folder(self, folder: Path) -> None:
        """Creates a folder of the store; after `pin_root` never the root itself, which then was moved away."""
        root = Path(self._root)
        below = folder.relative_to(root)
        folders = [root / parent for parent in (*reversed(below.parents), below)]
        if self._root_identity is not None:
            self.require_root()
            folders.remove(root)
        self.require_unlinked(below.as_posix())
        for place in folders:
            try:
                place.mkdir(parents=place == root, exist_ok=True)
            except FileExistsError as error:
                raise NotADirectoryError(f"{place} is a file, a folder is needed") from error

    def remove(self, name: str) -> None:
        """Removes a file if it exists.

        Raises:
            OutputError: The storage reports an error.
        """
        self.require_unlinked(str(PurePosixPath(name).parent))
        with self._translated("remove", name), contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self.full(name))

    def remove_folder(self, name: str) -> None:
        """Removes a folder with its contents if it exists.

        Raises:
            OutputError: The storage reports an error.
        """
        self.require_unlinked(name)
        with self._translated("remove", name), contextlib.suppress(FileNotFoundError):
            self._fs.delete_dir(self.full(name))

    def root_identity(self) -> tuple[int, int] | None:
        """Device and inode of a local root, to detect that another folder took its place; None: missing or remote."""
        try:
            found = Path(self._root).stat() if self.is_local else None
        except OSError:
            return None
        return (found.st_dev, found.st_ino) if found else None

    def pin_root(self) -> None:
        """From now on nothing is written where another folder has taken the root's place.

        Raises:
            OutputError: There is no root.
        """
        self._root_identity = self.root_identity()
        self.require_root()

    def require_root(self) -> None:
        """Checks that a local root exists and, after `pin_root`, that it is the same folder.

        Raises:
            OutputError: The root is missing or another folder.
        """
        if not self.is_local:
            return
        found = self.root_identity()
        if found is None or self._root_identity not in {None, found}:
            raise OutputError(
                f"the output folder {self.location} cannot be reached any more; bring it back and run again"
            )

    def prepare_root(self) -> None:
        """Creates the root and checks that it can be written.

        Raises:
            OutputError: It cannot be created or is not writable.
        """
        root = Path(self._root)
        if self.is_local and root.exists() and not root.is_dir():
            raise ConfigError(f"{self.location} is a file; --output needs a folder")
        if self.is_local:
            with self._translated("write", "a folder"):
                root.mkdir(parents=True, exist_ok=True)
            self.pin_root()
        probe = f"{TEMPORARY}probe-{uuid.uuid4().hex}"
        self.write(probe, b"")
        self.remove(probe)
