"""The folder that files are fetched into: what is there already, partial files, and the list of those that failed."""

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, TypeAdapter

from rawnind.documents import json_record
from rawnind.errors import DownloadError, FolderInUseError, OutputError, printable
from rawnind.source.names import FETCH_FOLDER
from rawnind.source.remote import Checksums, RemoteFile, unsafe_path

_CHECKED, _QUARANTINE, _PARTS, _REPLACED = "checked.jsonl", "quarantine.json", "parts", "replaced"


Found = tuple[int, int]
"""Length and time (ns) of a file that is there."""


class _Checked(BaseModel):
    path: str
    size: int
    mtime_ns: int
    checksums: dict[str, str]


class Quarantined(BaseModel):
    """A file that cannot be had until something changes at the server."""

    path: str
    reason: str
    detail: str


class _Quarantine(BaseModel):
    files: list[Quarantined]


_CHECKED_LINE, _QUARANTINE_FILE = TypeAdapter(_Checked), TypeAdapter(_Quarantine)
_LONGEST_LIST = 1 << 28


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A root folder that one process fetches into. Nothing outside of it is written, links in it are not followed.

    Attributes:
        root: the folder.
    """

    root: Path

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Creates the folder, and keeps other processes from fetching into it.

        Raises:
            OutputError: It cannot be written.
            FolderInUseError: Another process fetches into it.
        """
        with _translated(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            for folder in (self.own(), self.own(_PARTS)):
                _make_folder(folder)
            descriptor = os.open(
                self.own("lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
            )
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderInUseError(f"another `rawnind fetch` works on {self.root}; wait for it") from None
            yield
        finally:
            os.close(descriptor)

    def own(self, name: str = "") -> Path:
        """The path of something in our own folder."""
        return self.root / FETCH_FOLDER / name

    def place(self, file: RemoteFile) -> Path:
        """The final path of a file.

        Raises:
            DownloadError: It would lie outside of the root, or a link is in the way.
        """
        if why := unsafe_path(file.path):
            raise DownloadError("unsafe_name", why, final=True)
        place = self.root
        parts = file.path.split("/")
        for number, part in enumerate(parts, 1):
            place /= part
            try:
                mode = place.lstat().st_mode
            except FileNotFoundError:
                continue
            except OSError as error:
                raise DownloadError("disk", f"{printable(str(place))}: {error.strerror}") from error
            if stat.S_ISLNK(mode):
                raise DownloadError(
                    "link", f"{printable(str(place))} is a link, which is not followed; remove it", final=True
                )
            if not (stat.S_ISREG(mode) if number == len(parts) else stat.S_ISDIR(mode)):
                raise DownloadError(
                    "in_the_way", f"{printable(str(place))} is in the way; remove it", final=True
                )
        return place

    def found(self, file: RemoteFile) -> Found | None:
        """Length and time of the file of this name; None where there is none. Errors as in `place`."""
        try:
            seen = self.place(file).stat()
        except FileNotFoundError:
            return None
        return seen.st_size, seen.st_mtime_ns

    @contextlib.contextmanager
    def open(self, file: RemoteFile) -> Iterator[IO[bytes]]:
        """A file that is there, for reading."""
        with self.place(file).open("rb", buffering=0) as stream:
            yield stream

    def room(self, sizes: list[int], jobs: int) -> int:
        """Bytes that this machine needs for files of these lengths.

        Args:
            sizes: what is still to come of each file.
            jobs: downloads at a time.
        """
        del jobs
        return sum(sizes)

    def part(self, file: RemoteFile) -> Path:
        """Where a file's bytes are collected; another size or checksum of the same name has another one."""
        identity = json.dumps([file.path, file.size, file.checksums.known()], sort_keys=True)
        return self.own(_PARTS) / hashlib.sha256(identity.encode()).hexdigest()[:32]

    def publish(self, file: RemoteFile, part: Path) -> None:
        """Gives a complete and checked file its final name.

        Raises:
            DownloadError: A link or another file is in the way.
        """
        place = self.place(file)
        folder = self.root
        for part_of_path in file.path.split("/")[:-1]:
            folder /= part_of_path
            _make_folder(folder)
        if place.exists():  # it was found to be wrong: nothing is deleted
            _make_folder(self.own(_REPLACED))
            place.rename(self.own(_REPLACED) / f"{uuid.uuid4().hex[:8]}-{place.name[-200:]}")
        part.rename(place)
        self.note_checked(file)

    def clear(self, files: Iterable[RemoteFile]) -> None:
        """Removes these files, whole and partial, and our own folder; other files stay."""
        own = self.own()
        if self.root.is_symlink() or own.is_symlink():
            return
        for file in files:
            with contextlib.suppress(DownloadError):  # a link is in the way
                self.place(file).unlink(missing_ok=True)
                self.part(file).unlink(missing_ok=True)
            for folder in list(Path(file.path).parents)[:-1]:
                _remove_empty(self.root / folder)
        for name in (_CHECKED, _QUARANTINE, "lock"):
            self.own(name).unlink(missing_ok=True)
        for folder in (self.own(_PARTS), own):
            _remove_empty(folder)

    def note_checked(self, file: RemoteFile) -> None:
        """Notes that a file has the bytes that it should have, so that it need not be read again."""
        size, time = self.found(file) or (0, 0)
        line = _Checked(path=file.path, size=size, mtime_ns=time, checksums=file.checksums.known())
        data = (line.model_dump_json() + "\n").encode()
        descriptor = os.open(
            self.own(_CHECKED), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644
        )
        try:
            os.write(descriptor, data)  # one call: lines of threads do not mix
        finally:
            os.close(descriptor)

    def checked(self) -> dict[str, _Checked]:
        """The files that were found to be right, by path; those of an older size or time count no more."""
        found = {}
        for line in self._lines(_CHECKED):
            if (entry := json_record(line, _CHECKED_LINE)) is not None:
                found[entry.path] = entry
        return found

    def _lines(self, name: str) -> list[bytes]:
        try:
            return self.own(name).read_bytes().splitlines()
        except OSError:
            return []

    def quarantined(self) -> dict[str, Quarantined]:
        """The files that an earlier run could not get for good, by path."""
        found = json_record(b"\n".join(self._lines(_QUARANTINE)), _QUARANTINE_FILE, most=_LONGEST_LIST)
        return {each.path: each for each in found.files} if found else {}

    def write_quarantine(self, files: Iterable[Quarantined]) -> Path:
        """Replaces the list; its path."""
        path = self.own(_QUARANTINE)
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
        listed = sorted(files, key=lambda each: each.path)
        text = json.dumps({"files": [each.model_dump() for each in listed]}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
        return path


def is_checked(entry: _Checked | None, found: Found, wanted: Checksums) -> bool:
    """Whether a file is as it was when its checksums, which are the wanted ones, were computed."""
    if entry is None or any(entry.checksums.get(name) != value for name, value in wanted.known().items()):
        return False
    return found == (entry.size, entry.mtime_ns)


def _make_folder(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if folder.is_symlink():
        raise OutputError(f"{folder} is a link, which is not followed; remove it")


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()


@contextlib.contextmanager
def _translated(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write to {root}: {error.strerror or error}") from error
