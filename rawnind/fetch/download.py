"""Downloads one file: resumes, checks length and checksums, and only then gives it its name."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from rawnind.errors import DownloadError
from rawnind.fetch.target import Target
from rawnind.source.http_client import BLOCK, HttpClient, Response, retrying
from rawnind.source.remote import Digests, RemoteFile

_WRONG_TIMES = 2
"""Downloads of a file whose bytes are wrong, before it is given up."""

_LAST = 1 << 24
"""Bytes that are still taken from a connection after a stop: they have come already, and wait in its buffer."""

_MOST_BYTES = 1 << 32
"""Of a file whose length nobody says; TIFF's 32-bit offsets reach no further."""


class StoppedError(Exception):
    """The download was asked to stop; what came is kept."""


class Downloader:
    """Downloads files into a target; may be used by several threads.

    Args:
        target: the folder.
        client: reads from servers.
        stop: is set to end all downloads soon.
    """

    def __init__(self, target: Target, client: HttpClient, stop: threading.Event) -> None:
        self._target = target
        self._client = client
        self._stop = stop

    def download(
        self, file: RemoteFile, received: Callable[[int], None], waits: Callable[[str], None]
    ) -> None:
        """Downloads a file, with as many attempts as the client has patience for.

        Args:
            file: which one.
            received: is called with how many bytes have come or, below 0, were discarded.
            waits: is called with a line for people before a pause, and with an empty one after it.

        Raises:
            DownloadError: It cannot be had.
            StoppedError: The download was asked to stop.
        """
        part = self._target.part(file)
        fruitless = wrong = 0
        received(_size(part))
        while True:
            before = _size(part)
            try:
                with _disk_errors():
                    self._attempt(file, part, received)
                    self._target.publish(file, part)
            except DownloadError as error:
                if self._stop.is_set():
                    raise StoppedError from error
                if error.reason == "no_range":  # what is here is longer than what the server has
                    received(-_size(part))
                    os.truncate(part, 0)
                wrong += error.reason in _WRONG
                fruitless = 0 if _size(part) > before else fruitless + 1
                if error.final or wrong >= _WRONG_TIMES or fruitless >= self._client.patience.attempts:
                    _drop_empty(part)
                    raise DownloadError(error.reason, error.detail, final=error.final or wrong > 0) from error
                pause = self._client.patience.pause(max(1, fruitless), error.wait)
                waits(retrying(error, pause))
                if self._stop.wait(pause):
                    raise StoppedError from error
                waits("")
            else:
                return

    def _attempt(self, file: RemoteFile, part: Path, received: Callable[[int], None]) -> None:
        """Fetches what is missing of a file, and checks the whole."""
        digests = Digests(file.checksums)
        with _opened(part) as descriptor:
            have = _digest(descriptor, digests)
            if not digests.are_right() if file.size is None else have < file.size:
                with self._client.open(file.url, start=have) as response:
                    _check_announced(file, response.total)
                    if response.start != have:
                        if response.start:
                            raise DownloadError(
                                "bad_range",
                                "the server sends another range",
                                final=True,
                            )
                        self._discard(descriptor, received)
                        digests, have = Digests(file.checksums), 0
                    most = _limit(file, response.total)
                    have = self._receive(response, descriptor, digests, most, received)
                    expected = file.size if file.size is not None else response.total
                if expected is not None and have < expected:
                    raise DownloadError(
                        "cut",
                        f"the connection ended after {have} of {expected} bytes",
                    )
            if why := digests.problem():
                self._discard(descriptor, received)
                raise DownloadError("wrong_bytes", f"{why}")

    def _receive(
        self,
        response: Response,
        descriptor: int,
        digests: Digests,
        most: int,
        received: Callable[[int], None],
    ) -> int:
        """Writes what a server sends behind what is there; how many bytes there are then."""
        have, last = response.start, _LAST
        for block in response.blocks:
            have += len(block)
            if have > most:
                self._discard(descriptor, received)
                raise DownloadError("too_long", f"the server sends more than {most} bytes")
            _write(descriptor, block)
            received(len(block))
            if not self._stop.is_set():
                digests.update(block)
            elif (last := last - len(block)) < 0:
                break
        if self._stop.is_set():
            raise StoppedError
        return have

    @staticmethod
    def _discard(descriptor: int, received: Callable[[int], None]) -> None:
        received(-os.fstat(descriptor).st_size)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)


_WRONG = {"wrong_bytes", "too_long"}


def _check_announced(file: RemoteFile, total: int | None) -> None:
    if total is not None and file.size is not None and total != file.size:
        detail = f"the server has {total} bytes, {file.size} are declared"
        raise DownloadError("wrong_size", detail, final=True)


def _limit(file: RemoteFile, total: int | None) -> int:
    return next(each for each in (file.size, total, _MOST_BYTES) if each is not None)


def _digest(descriptor: int, digests: Digests) -> int:
    """Computes the digests of what is there; its length. The descriptor is at the end then."""
    have = 0
    while block := os.read(descriptor, BLOCK):
        digests.update(block)
        have += len(block)
    return have


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _drop_empty(part: Path) -> None:
    with contextlib.suppress(OSError):
        if not part.lstat().st_size:
            part.unlink()


@contextlib.contextmanager
def _opened(part: Path) -> Iterator[int]:
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        detail = f"cannot be written: {error.strerror or error}"
        raise DownloadError("disk", detail, final=True) from error
