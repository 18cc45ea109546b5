"""Counts of a fetch while it runs, for those who show them."""

import threading
from dataclasses import dataclass, field

from rawnind.errors import DownloadError
from rawnind.source.remote import RemoteFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A file that could not be fetched.

    Attributes:
        path: below the root.
        reason: one word.
        detail: a sentence.
        quarantined: whether only --retry-failed tries it again.
    """

    path: str
    reason: str
    detail: str
    quarantined: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """One moment of a fetch.

    Attributes:
        files: that are wanted.
        here: that were there already.
        fetched: that came.
        failed: that cannot be had, those in quarantine included.
        expected: bytes of the files that were not there, as far as their lengths are known.
        received: bytes of them that are on the disk, those of earlier runs included.
        transferred: bytes that came in this run.
        active: bytes of files that are being downloaded, by path.
        waiting: why one of them is not, for now; empty where none waits.
    """

    files: int
    here: int
    fetched: int
    failed: int
    expected: int
    received: int
    transferred: int
    active: dict[str, int]
    waiting: str = ""


@dataclass(kw_only=True, slots=True)
class Tally:
    """Counts what threads report."""

    files: int
    here: int = 0
    fetched: int = 0
    expected: int = 0
    received: int = 0
    transferred: int = 0
    failures: list[Failed] = field(default_factory=list)
    _active: dict[str, int] = field(default_factory=dict)
    _waiting: dict[str, str] = field(default_factory=dict)
    _resumed: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def counts(self) -> Counts:
        """What was counted so far."""
        with self._lock:
            return Counts(
                files=self.files,
                here=self.here,
                fetched=self.fetched,
                failed=len(self.failures),
                expected=self.expected,
                received=self.received,
                transferred=self.transferred,
                active=dict(self._active),
                waiting=self._wait(),
            )

    def _wait(self) -> str:
        lines = list(self._waiting.values())
        return "" if not lines else lines[-1] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")

    def waits(self, file: RemoteFile, line: str) -> None:
        """A download pauses, for the reason that the line says; or, with an empty line, does so no longer."""
        with self._lock:
            self._waiting.pop(file.path, None)
            if line:
                self._waiting[file.path] = f"{file.filename}: {line}"

    def is_here(self, file: RemoteFile, *, known: bool = False) -> None:
        """A file is there already.

        Args:
            file: which one.
            known: whether that was known without reading it, before it was counted as one to download.
        """
        with self._lock:
            self.here += 1
            if not known:
                self.expected -= file.size or 0

    def begins(self, file: RemoteFile) -> None:
        """A file is to be downloaded."""
        with self._lock:
            self.expected += file.size or 0

    def comes(self, file: RemoteFile, count: int) -> None:
        """Bytes of a file came; below 0, were discarded. The first report is of what an earlier run left."""
        with self._lock:
            self._active[file.path] = self._active.get(file.path, 0) + count
            self.received += count
            if file.path in self._resumed:
                self.transferred += max(0, count)
            self._resumed.add(file.path)

    def ends(
        self, file: RemoteFile, error: DownloadError | None = None, *, quarantined: bool = False
    ) -> None:
        """A download has ended.

        Args:
            file: which one.
            error: why it failed; None: it is there.
            quarantined: whether only --retry-failed tries it again.
        """
        with self._lock:
            self._active.pop(file.path, None)
            self._waiting.pop(file.path, None)
            if error is None:
                self.fetched += 1
            else:
                self.failures.append(
                    Failed(path=file.path, reason=error.reason, detail=error.detail, quarantined=quarantined)
                )
