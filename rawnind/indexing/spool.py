"""Photos of an object store while they are indexed: each is read once, and kept as a file on this machine while it fits."""

import hashlib
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from rawnind.source.storage import open_photo

_MOST = 4 << 30
"""Bytes that are kept; less where the disk has not twice as much."""


class Spool:
    """Files in a temporary folder; `fetch` may be called by several threads.

    What does not fit is read again by those who need it. Photos of a high ISO go first: they become no ground truth, whose pixels are
    looked at.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rawnind-index-")
        self._most = min(_MOST, shutil.disk_usage(self._folder.name).free // 2)
        self._kept: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def fetch(self, uri: str) -> str:
        """Reads a photo; its SHA-1.

        Raises:
            OSError: The store refuses, or the disk is full.
        """
        with open_photo(uri) as file:
            data = file.read()
        place = self._place(uri)
        place.parent.mkdir()
        place.write_bytes(data)
        return hashlib.sha1(data, usedforsecurity=False).hexdigest()

    def place(self, uri: str) -> str:
        """Where a photo is read: its file, or its address where there is none."""
        place = self._place(uri)
        return str(place) if place.exists() else uri

    def keep(self, uri: str, iso: int | None) -> None:
        """Keeps a photo that was fetched, in place of those of a higher ISO where there is too little room."""
        self._kept[uri] = float(iso or 0), self._place(uri).stat().st_size
        while sum(size for _, size in self._kept.values()) > self._most:
            self.drop(max(self._kept, key=lambda each: self._kept[each][0]))

    def drop(self, uri: str) -> None:
        """Removes a photo's file, if there is one."""
        self._kept.pop(uri, None)
        shutil.rmtree(self._place(uri).parent, ignore_errors=True)

    def _place(self, uri: str) -> Path:
        name = PurePosixPath(uri.partition("?")[0]).name
        return Path(self._folder.name) / hashlib.sha256(uri.encode()).hexdigest()[:32] / name
