"""Files that a server has: where they are, how long, and with which checksums."""

import hashlib
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Self

from rawnind.source.names import unsafe

_LONGEST = 255
"""Bytes of a file's or folder's name, the limit of Linux' file systems."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checksums:
    """Hex digests of a file, lower case; None where they are not known."""

    md5: str | None = None
    sha1: str | None = None
    sha256: str | None = None
    sha512: str | None = None

    def known(self) -> dict[str, str]:
        """The digests that are known, by algorithm.

        >>> Checksums(md5="d41d8cd98f00b204e9800998ecf8427e").known()
        {'md5': 'd41d8cd98f00b204e9800998ecf8427e'}
        """
        return {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name)}


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file on a server.

    Attributes:
        path: where it belongs below a root, with slashes.
        url: where it is read from.
        size: in bytes; None where it is not known.
        checksums: what its bytes are checked with.
    """

    path: str
    url: str
    size: int | None
    checksums: Checksums

    @property
    def filename(self) -> str:
        """Its name without folders."""
        return self.path.rpartition("/")[2]


class Digests:
    """Computes several digests of the same bytes, those that a file is checked with."""

    def __init__(self, wanted: Checksums) -> None:
        self._wanted = wanted.known()
        self._running = {name: hashlib.new(name, usedforsecurity=False) for name in self._wanted}

    def update(self, data: bytes | memoryview) -> Self:
        """Adds bytes."""
        for each in self._running.values():
            each.update(data)
        return self

    def are_right(self) -> bool:
        """Whether there are digests, and none differs."""
        return bool(self._wanted) and not self.problem()

    def problem(self) -> str:
        """Which digest differs, as a sentence; empty where all are as they should be."""
        for name, running in self._running.items():
            if running.hexdigest() != self._wanted[name]:
                return f"its {_NAMES[name]} is {running.hexdigest()} instead of {self._wanted[name]}"
        return ""


_NAMES = {"md5": "MD5", "sha1": "SHA-1", "sha256": "SHA-256", "sha512": "SHA-512"}


def unsafe_path(path: str) -> str | None:
    """Why a relative path from outside must not be written; None where it may be.

    >>> unsafe_path("Bayer/kitchen/a.dng"), unsafe_path("../a.dng")
    (None, "the name holds '..'")
    """
    if not path or path.startswith("/") or path != str(PurePosixPath(path)):
        return "the path is absolute or not in its shortest form"
    for part in path.split("/"):
        if why := unsafe(part):
            return why
        if part.startswith("."):
            return "a name begins with a dot"
        if len(part.encode()) > _LONGEST:
            return f"a name has more than {_LONGEST} bytes"
    return None
