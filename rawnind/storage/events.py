"""events.jsonl: one line per state change and per commit, for machines.

Every line is a JSON object with `time` (seconds since 1970), `run` and `event`. It is a log: no number of the manifest
comes from it. The events:

`begin`: a run starts collecting; `next_seq`, the sequence number of its first commit.
`state`: `from`, `to`; with `error` comes `why`, with `ready` comes `peak_in_flight`.
`commit`: `seq`, `scene`, `outcome`, `reason`, `pairs` (by outcome), `crops`, `in_flight` (the scenes in flight, this one
among them), `telemetry` (seconds, bytes and counts by stage, and `attempts`); `recovered` where the bridge died before it
could log the commit, and its successor did.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rawnind.errors import OutputError
from rawnind.storage.store import Store

NAME = "events.jsonl"


class EventLog:
    """Appends lines for one run.

    A local log is one file that grows. Object stores cannot append, so there each run has its own file
    `events/<run>.jsonl`, written anew by `flush`; after many lines it goes on in `events/<run>.jsonl.000001`, and so on.
    """

    def __init__(self, store: Store, run: str) -> None:
        self._store = store
        self._run = run
        self._path = store.local(NAME)
        self._lines: list[str] = []
        self._older: list[str] = []
        if self._path is None:
            first = f"events/{run}.jsonl"
            *self._older, self._file = [
                entry.path for entry in store.list("events") if entry.path.startswith(first)
            ] or [first]
            self._lines = self._read(self._file) if store.exists(self._file) else []

    def _read(self, name: str) -> list[str]:
        return self._store.read(name).decode(errors="replace").splitlines(keepends=True)

    def add(self, event: str, **values: Any) -> None:
        """Appends one line; `values` must be plain JSON values.

        Raises:
            OutputError: The storage refuses.
        """
        self.add_all(event, [values])

    def add_all(self, event: str, each: Iterable[Mapping[str, Any]]) -> None:
        """Appends a line for each of many values. Errors as in `add`."""
        head = {"time": round(time.time(), 3), "run": self._run, "event": event}
        lines = [json.dumps({**head, **values}) + "\n" for values in each]
        if self._path is None:
            self._keep(lines)
            return
        text = "".join(lines)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write((text if self._is_whole() else "\n" + text).encode())
        except OSError as error:
            raise OutputError(f"cannot write {NAME} in {self._store.location}: {error.strerror}") from error

    def _keep(self, lines: Sequence[str]) -> None:
        """Lines of a remote log wait for `flush`, or until there are many."""
        self._lines += lines
        if len(self._lines) >= _LINES_PER_FILE:
            self.flush()
            self._older.append(self._file)
            self._file = f"events/{self._run}.jsonl.{len(self._older):06d}"
            self._lines = []

    def _is_whole(self) -> bool:
        """Whether the log ends with a whole line; who died while writing may have left a torn one."""
        if self._path is None:
            return True
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
            return file.read(1) in {b"", b"\n"}

    def flush(self) -> None:
        """Makes a remote log visible; a local one always is."""
        if self._path is None and self._lines:
            self._store.write(self._file, "".join(self._lines).encode(), replace=True)

    def last(self, event: str, *, any_run: bool = False) -> dict[str, Any] | None:
        """The newest line with that event; None where there is none. A torn line is passed over.

        Args:
            event: what to look for.
            any_run: whether another run's line will do, where one log holds them all.
        """
        for line in self._newest_first(f'"event": "{event}"'):
            values = _parsed(line)
            if values and values.get("event") == event and (any_run or values.get("run") == self._run):
                return values
        return None

    def _newest_first(self, text: str) -> Iterator[str]:
        """Every line with that text, and maybe others."""
        if self._path is not None:
            yield from _backwards(self._path, text.encode())
            return
        yield from reversed(self._lines)
        for name in reversed(self._older):
            yield from (line for line in reversed(self._read(name)) if text in line)


_LINES_PER_FILE = 10_000


def read_events(store: Store) -> Iterator[dict[str, Any]]:
    """Every line of every run, oldest first within a run; torn lines are passed over."""
    names = [NAME] if store.exists(NAME) else [entry.path for entry in store.list("events")]
    for name in names:
        for line in store.read(name).decode(errors="replace").splitlines():
            if values := _parsed(line):
                yield values


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return None
    return values if isinstance(values, dict) else None


def _backwards(path: Path, text: bytes) -> Iterator[str]:
    """A file's lines with that text, and maybe others, last first, without reading more than is asked for."""
    if not path.exists():
        return
    with path.open("rb") as file:
        end, rest = file.seek(0, os.SEEK_END), b""
        while end:
            start = max(end - _BLOCK, 0)
            file.seek(start)
            first, separator, others = (file.read(end - start) + rest).partition(b"\n")
            if separator and text in others:
                lines = reversed(others.split(b"\n"))
                yield from (line.decode(errors="replace") for line in lines if text in line)
            end, rest = start, first
        if rest:
            yield rest.decode(errors="replace")


_BLOCK = 1 << 16
