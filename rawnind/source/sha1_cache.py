"""SHA-1s of files, computed in parallel and remembered by path, size and modification time.

The memory is one SQLite file in the user's cache folder, XDG_CACHE_HOME/rawnind or ~/.cache/rawnind, and not a file beside an
index: what it says is about this machine's files whatever index names them, photos may lie on a card that is write-protected,
and an index that is copied elsewhere must not bring other files' hashes. It may be deleted at any time.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from rawnind.source.storage import open_photo, photo_stat

_THREADS = 4
_SETTLED = 2.0
"""Seconds after which a file's time tells its last change: clocks of file systems tick this coarsely (FAT)."""

_SCHEMA = "CREATE TABLE IF NOT EXISTS sha1 (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha1 TEXT) WITHOUT ROWID"
_READ = "SELECT sha1 FROM sha1 WHERE path = ? AND size = ? AND mtime_ns = ?"
_WRITE = "INSERT OR REPLACE INTO sha1 VALUES (?, ?, ?, ?)"

Key = tuple[str, int, int]
"""Path or URI of a file, its length, and its time in nanoseconds."""


def sha1s_of(
    paths: Iterable[str], *, progress: Callable[[int, int], None] = lambda *_: None
) -> dict[str, str | OSError]:
    """The SHA-1 of each file, or the error of reading it.

    What was computed is remembered at once, so that an interrupted call continues where it stopped.

    Args:
        paths: absolute paths or URIs.
        progress: called after each file with the number of files done and in all.
    """
    wanted = list(dict.fromkeys(paths))
    found: dict[str, str | OSError] = {}
    with sha1_memory() as memory:
        todo: list[Key] = []
        for path in wanted:
            try:
                key = _key(path)
            except OSError as error:
                found[path] = error
                continue
            if known := memory.find(key):
                found[path] = known
            else:
                todo.append(key)
        progress(len(found), len(wanted))
        for key, sha1 in _computed(todo):
            found[key[0]] = sha1
            if isinstance(sha1, str):
                memory.note(key, sha1)
            progress(len(found), len(wanted))
    return found


def _key(path: str) -> Key:
    found = photo_stat(path)
    if found is None:
        raise OSError("not a regular file")
    return path, *found


def _computed(todo: list[Key]) -> Iterator[tuple[Key, str | OSError]]:
    pool = ThreadPoolExecutor(_THREADS)
    try:
        running = {pool.submit(_sha1, key): key for key in todo}
        for future in as_completed(running):
            yield running[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _sha1(key: Key) -> str | OSError:
    """The file's SHA-1; an error where it cannot be read or changes meanwhile."""
    try:
        with open_photo(key[0]) as file:
            sha1 = hashlib.file_digest(file, "sha1").hexdigest()
        if _key(key[0]) != key:
            return OSError("the file changes while it is read")
    except OSError as error:
        return error
    return sha1


def cache_folder() -> Path:
    """The user's folder for what may be deleted at any time; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    return Path(base) / "rawnind"


class Sha1Memory:
    """The SHA-1s that are remembered."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def find(self, key: Key) -> str | None:
        """The SHA-1 of a file that is as it was."""
        found = self._connection.execute(_READ, _row(key)).fetchone()
        return str(found[0]) if found else None

    def note(self, key: Key, sha1: str) -> None:
        """Remembers a SHA-1, unless the file was written a moment ago."""
        if time.time() - key[2] / 1e9 > _SETTLED:
            with suppress(
                sqlite3.Error
            ):  # another process writes, or the disk is full: computed again next time
                self._connection.execute(_WRITE, (*_row(key), sha1))


def _row(key: Key) -> tuple[str | bytes, int, int]:
    """A key as SQLite takes it, whose texts are UTF-8."""
    path, size, time_ns = key
    return path if path.isprintable() else os.fsencode(path), size, time_ns


@contextmanager
def sha1_memory() -> Iterator[Sha1Memory]:
    """The remembered SHA-1s; those of this call alone where the cache folder cannot be used."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(folder / "sha1.sqlite", timeout=5, isolation_level=None)
        connection.execute(_SCHEMA)
        connection.execute("SELECT path, size, mtime_ns, sha1 FROM sha1 LIMIT 1").fetchone()
    except (OSError, sqlite3.Error):
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.execute(_SCHEMA)
    with closing(connection):
        yield Sha1Memory(connection)
