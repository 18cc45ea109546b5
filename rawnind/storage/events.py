"""events.jsonl: one line per state change and per commit, for machines.

Every line is a JSON object with `time` (seconds since 1970), `run` and `event`. It is a log: no number of the manifest
comes from it.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        """Appends one line; `values` must be plain JSON values."""
        line = json.dumps({"time": round(time.time(), 3), "run": self._run, "event": event, **values}) + "\n"
        if self._path is None:
            self._lines.append(line)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)

    def flush(self) -> None:
        """Makes a remote log visible; a local one always is."""
        if self._path is None and self._lines:
            self._store.write(self._remote_name, "".join(self._lines).encode(), replace=True)

    def last(self, event: str) -> dict[str, Any] | None:
        """The newest line of this run with that event; None where there is none. A torn last line is passed over."""
        for line in reversed(self._lines or _lines(self._path)):
            values = _parsed(line)
            if values and values.get("run") == self._run and values.get("event") == event:
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


def _lines(path: Path | None) -> list[str]:
    if path is None or not path.exists():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()
