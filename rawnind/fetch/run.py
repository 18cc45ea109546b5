"""Fetches files: finds what is there, downloads what is missing, several at a time."""

import contextlib
import queue
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from rawnind.errors import DownloadError, OutputError
from rawnind.fetch.bucket import BucketTarget
from rawnind.fetch.download import Downloader, StoppedError
from rawnind.fetch.tally import Counts, Failed, Tally
from rawnind.fetch.target import Quarantined, Target, is_checked
from rawnind.locations import is_uri
from rawnind.source.http_client import BLOCK, HttpClient
from rawnind.source.remote import Digests, RemoteFile

_FOR_GOOD = {
    "bad_address",
    "not_found",
    "wrong_bytes",
    "wrong_size",
    "too_long",
    "unsafe_redirect",
    "unsafe_name",
    "redirects",
    "bad_range",
}
"""Reasons that another run would meet again; the others may be gone by then."""

_PERIOD = 0.2
"""Seconds between two looks at the counts."""

_SPARE = 64 << 20
"""Bytes that stay free on the disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What a fetch left behind.

    Attributes:
        counts: at the end.
        failures: the files that are not there, sorted by path.
        quarantine: the list of those that only --retry-failed tries again; None where there are none.
        seconds: it took.
    """

    counts: Counts
    failures: tuple[Failed, ...]
    quarantine: Path | None
    seconds: float

    @property
    def is_complete(self) -> bool:
        """Whether every file is there."""
        return not self.failures

    @property
    def may_come(self) -> bool:
        """Whether another run may get files that this one could not."""
        return any(not each.quarantined for each in self.failures)


def fetch(
    files: Sequence[RemoteFile],
    root: Path | str,
    show: Callable[[Counts], None],
    *,
    jobs: int = 4,
    retry_failed: bool = False,
    client: HttpClient | None = None,
) -> Fetched:
    """Downloads the files that a folder does not have yet.

    Ctrl-C ends it within a moment; what came stays, and the next call goes on there.

    Args:
        files: with different paths.
        root: the folder, or a URI of one on an object store; it is created.
        show: is called with the counts, five times a second.
        jobs: downloads at a time.
        retry_failed: whether to try files in quarantine again.
        client: that servers are asked with.

    Raises:
        OutputError: The folder cannot be written, or has too little room.
        IndexInvalidError: The store does not answer.
        FolderInUseError: Another fetch works on it.
    """
    target = BucketTarget.at(str(root)) if is_uri(str(root)) else Target(root=Path(root))
    began = time.monotonic()
    with target.claimed():
        tally = Tally(files=len(files))
        quarantined = {} if retry_failed else target.quarantined()
        todo = _missing(files, target, quarantined, tally)
        _require_room(todo, target, jobs)
        run = _Run(target, client or HttpClient(), tally, jobs)
        try:
            run.go(todo, show)
        finally:
            listed = _quarantine(target, tally, files)
    show(tally.counts())
    return Fetched(
        counts=tally.counts(),
        failures=tuple(sorted(tally.failures, key=lambda each: each.path)),
        quarantine=listed,
        seconds=time.monotonic() - began,
    )


def _missing(
    files: Sequence[RemoteFile], target: Target, quarantined: dict[str, Quarantined], tally: Tally
) -> list[RemoteFile]:
    """The files that are to be looked at or downloaded, the others counted."""
    checked = target.checked()
    todo = []
    for file in files:
        try:
            found = target.found(file)
            if found and is_checked(checked.get(file.path), found, file.checksums):
                tally.is_here(file, known=True)
            elif known := quarantined.get(file.path):
                tally.ends(file, DownloadError(known.reason, known.detail, final=True), quarantined=True)
            else:
                tally.begins(file)
                todo.append(file)
        except DownloadError as error:
            tally.ends(file, error, quarantined=error.reason in _FOR_GOOD)
    return todo


def _require_room(todo: Sequence[RemoteFile], target: Target, jobs: int) -> None:
    sizes = []
    for file in todo:
        part, found = target.part(file), target.found(file)
        have = max(part.lstat().st_size if part.exists() else 0, found[0] if found else 0)
        sizes.append(max(0, (file.size or 0) - have))
    needed, free = target.room(sizes, jobs), shutil.disk_usage(target.root).free
    if needed + _SPARE > free:
        raise OutputError(
            f"{needed / 1e6:,.1f} MB are to be downloaded, and of the {free / 1e6:,.1f} MB that are free at {target.root} {_SPARE / 1e6:.0f} "
            "stay free; free some, or take fewer scenes with --limit, --scene or --iso"
        )


def _quarantine(target: Target, tally: Tally, files: Sequence[RemoteFile]) -> Path | None:
    """Writes the list: failures for good of this run, and those of files that it did not want."""
    wanted = {file.path for file in files}
    kept = [each for path, each in target.quarantined().items() if path not in wanted]
    new = [
        Quarantined(path=each.path, reason=each.reason, detail=each.detail)
        for each in tally.failures
        if each.quarantined
    ]
    path = target.write_quarantine([*kept, *new])
    return path if new else None


class _Run:
    """The threads that download."""

    def __init__(self, target: Target, client: HttpClient, tally: Tally, jobs: int) -> None:
        self._target, self._client, self._tally, self._jobs = target, client, tally, jobs
        self._stop = threading.Event()
        self._downloader = Downloader(target, client, self._stop)
        self._todo: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()

    def go(self, files: Sequence[RemoteFile], show: Callable[[Counts], None]) -> None:
        """Downloads files; ends early, and cleanly, with what interrupts it."""
        for file in files:
            self._todo.put(file)
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="fetch") as pool:
            running = {pool.submit(self._work) for _ in range(min(self._jobs, len(files)))}
            try:
                while running:
                    done, running = wait(running, timeout=_PERIOD, return_when=FIRST_EXCEPTION)
                    show(self._tally.counts())
                    for each in done:
                        each.result()
            finally:
                self._stop.set()
                self._client.abort()

    def _work(self) -> None:
        with contextlib.suppress(queue.Empty, StoppedError):
            while not self._stop.is_set():
                self._take(self._todo.get_nowait())

    def _take(self, file: RemoteFile) -> None:
        try:
            if self._is_right(file):
                self._target.note_checked(file)
                self._tally.is_here(file)
            else:
                self._downloader.download(
                    file,
                    lambda count: self._tally.comes(file, count),
                    lambda line: self._tally.waits(file, line),
                )
                self._tally.ends(file)
        except DownloadError as error:
            self._tally.ends(file, error, quarantined=error.reason in _FOR_GOOD)

    def _is_right(self, file: RemoteFile) -> bool:
        """Whether a file of the final name is there and has the bytes that it should have; reads it."""
        found = self._target.found(file)
        if not found or file.size not in {None, found[0]} or not file.checksums.known():
            return False
        digests = Digests(file.checksums)
        try:
            with self._target.open(file) as stream:
                while block := stream.read(BLOCK):
                    digests.update(block)
                    if self._stop.is_set():
                        raise StoppedError
        except OSError as error:
            raise DownloadError("disk", f"it cannot be read: {error.strerror}") from error
        return not digests.problem()
