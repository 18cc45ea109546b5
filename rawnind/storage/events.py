"""events.jsonl: one line per state change and per commit, for machines.

Every line is a JSON object with `time` (seconds since 1970), `run` and `event`. It is a log: no number of the manifest
comes from it.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rawnind.errors import OutputError
from rawnind.storage.store import Store

NAME = "events.jsonl"


class EventLog:
    """Appends lines for one run.

    A local log is one file that grows. Object stores cannot append, so there each run has its own file
    `events/<run>.jsonl`, written anew by `flush`.
    """

    def __init__(self, store: Store, run: str) -> None:
        self._store = store
        self._run = run
        self._path = store.local(NAME)
        self._lines: list[str] = []
        if self._path is None and store.exists(self._remote_name):
            self._lines = store.read(self._remote_name).decode().splitlines(keepends=True)

    @property
    def _remote_name(self) -> str:
        return f"events/{self._run}.jsonl"

    def add(self, event: str, **values: Any) -> None:
        """Appends one line; `values` must be plain JSON values.

        Raises:
            OutputError: The storage refuses.
        """
        line = json.dumps({"time": round(time.time(), 3), "run": self._run, "event": event, **values}) + "\n"
        if self._path is None:
            self._lines.append(line)
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write((line if self._is_whole() else "\n" + line).encode())
        except OSError as error:
            raise OutputError(f"cannot write {NAME} in {self._store.location}: {error.strerror}") from error

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
            self._store.write(self._remote_name, "".join(self._lines).encode(), replace=True)

    def last(self, event: str, *, any_run: bool = False) -> dict[str, Any] | None:
        """The newest line with that event; None where there is none. A torn line is passed over.

        Args:
            event: what to look for.
            any_run: whether another run's line will do, where one log holds them all.
        """
        for line in reversed(self._lines) if self._path is None else _backwards(self._path):
            values = _parsed(line)
            if values and values.get("event") == event and (any_run or values.get("run") == self._run):
                return values
        return None


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


def _backwards(path: Path) -> Iterator[str]:
    """A file's lines, last first, without reading more of it than is asked for."""
    if not path.exists():
        return
    with path.open("rb") as file:
        end, rest = file.seek(0, os.SEEK_END), b""
        while end:
            start = max(end - _BLOCK, 0)
            file.seek(start)
            first, *lines = (file.read(end - start) + rest).split(b"\n")
            yield from (line.decode(errors="replace") for line in reversed(lines) if line)
            end, rest = start, first
        if rest:
            yield rest.decode(errors="replace")


_BLOCK = 1 << 16
