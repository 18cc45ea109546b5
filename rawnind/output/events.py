"""events.jsonl: one line per state change and per commit, for machines.

Every line is a JSON object with `time` (seconds since 1970), `run` and `event`. It is a log: no number of the manifest
is computed from it. The events:

`begin`: a run begins to collect; `format`, the version of these lines, `next_seq`, the sequence number of its first commit,
`planned_scenes`, `planned_pairs`, and `open_scenes`, those without an outcome.
`note`: `text`, a sentence for people: why the run waits, which nodes come and go.
`state`: `from`, `to`; with `error` comes `why`, with `ready` comes `peak_in_flight`.
`commit`: `seq`, `scene`, `outcome`, `reason`, `pairs` (by outcome), `crops`, `in_flight` (the scenes in flight, this one
among them), `telemetry` (seconds, bytes and counts by stage, and `attempts`); `recovered` where the bridge died before it
could log the commit, and the restarted one did.
"""

import heapq
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rawnind import timing
from rawnind.documents import SETTINGS, Place, json_object
from rawnind.output.journal.journal import Commit, Journal, commit_of
from rawnind.output.store import Store
from rawnind.reasons import Outcome
from rawnind.records import SceneResult

NAME = "events.jsonl"


class EventLog:
    """Appends lines for one run.

    A local log is one file that grows. Object stores cannot append, so there each run has `events/<run>.jsonl` with
    all events but commits, rewritten each time, and files of commits `events/<run>.jsonl.000001` and so on, written
    when they are full or before another event: a resumed run finds its state without reading them.
    """

    def __init__(self, store: Store, run: str) -> None:
        self._store = store
        self._run = run
        self._path = store.local(NAME)
        self._first = f"events/{run}.jsonl"
        self._rare: list[str] = []
        self._commits: list[str] = []
        self._files: list[str] = []
        if self._path is None:
            files = [entry.path for entry in store.list("events") if entry.path.startswith(self._first)]
            self._rare = self._read(self._first) if self._first in files else []
            self._files = [path for path in files if path != self._first]
            self._commits = self._read(self._files.pop()) if self._files else []

    def _read(self, name: str) -> list[str]:
        return self._store.read(name).decode(errors="replace").splitlines(keepends=True)

    def add(self, event: str, **values: Any) -> None:
        """Appends one line; `values` must be plain JSON values.

        Raises:
            OutputError: The storage reports an error.
        """
        self.add_all(event, [values])

    def add_all(self, event: str, each: Iterable[Mapping[str, Any]]) -> None:
        """Appends a line for each of many values. Errors as in `add`."""
        head = {"time": round(time.time(), 3), "run": self._run, "event": event}
        lines = [json.dumps({**head, **values}) + "\n" for values in each]
        if self._path is None:
            self._buffer(event, lines)
            return
        text = "".join(lines)
        with (
            self._store.open_in_place(NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT) as descriptor,
            os.fdopen(descriptor, "ab", closefd=False) as file,
        ):
            file.write((text if _ends_with_newline(descriptor) else "\n" + text).encode())

    def _buffer(self, event: str, lines: Sequence[str]) -> None:
        """Buffers commits until there are `_LINES_PER_FILE` or another event is logged."""
        if event != "commit":
            self._flush()
            self._rare += lines
            self._store.write(self._first, "".join(self._rare).encode(), replace=True)
            return
        self._commits += lines
        if len(self._commits) >= _LINES_PER_FILE:
            self._flush()
            self._files.append(self._file)
            self._commits = []

    def forget_commits(self) -> None:
        """Drops commits that are not written yet: another run has taken the folder over, and logs them from the journal."""
        self._commits = []

    @property
    def _file(self) -> str:
        return f"{self._first}.{len(self._files) + 1:06d}"

    def _flush(self) -> None:
        if self._commits:
            self._store.write(self._file, "".join(self._commits).encode(), replace=True)

    def last(self, event: str, *, any_run: bool = False) -> dict[str, Any] | None:
        """The newest line with that event; None where there is none. A partial line is skipped.

        Args:
            event: its name.
            any_run: whether another run's line will do, where one log holds them all.
        """
        for line in self._newest_first(event):
            values = _parsed(line)
            if values and values.get("event") == event and (any_run or values.get("run") == self._run):
                return values
        return None

    def _newest_first(self, event: str) -> Iterator[str]:
        """Every line of that event, possibly with others."""
        if self._path is not None:
            yield from _backwards(self._path, _mention(event))
        elif event != "commit":
            yield from reversed(self._rare)
        else:
            yield from reversed(self._commits)
            for name in reversed(self._files):
                yield from reversed(self._read(name))


_LINES_PER_FILE = 10_000


def read_events(store: Store) -> Iterator[dict[str, Any]]:
    """Every line of every run, oldest first within a run; truncated and foreign lines are skipped."""
    if store.exists(NAME):
        yield from _parsed_lines(store, [NAME])
        return
    names = [entry.path for entry in store.list("events")]
    for _, files in itertools.groupby(names, key=lambda name: name.partition(".jsonl")[0]):
        first, *commits = files
        streams = (_parsed_lines(store, [first]), _parsed_lines(store, commits))
        yield from heapq.merge(*streams, key=lambda values: values["time"])


class NewestEvent:
    """The newest line of one event in a folder, for a caller that asks again and again: only lines that were added are read.

    Args:
        store: the output folder.
        event: its name; not `commit`.
    """

    def __init__(self, store: Store, event: str) -> None:
        self._store = store
        self._event = event
        self._known: dict[str, Any] | None = None
        self._seen: tuple[str, int] = ("", 0)
        self._next_listing = 0.0

    def read(self) -> dict[str, Any] | None:
        """The line; None where there is none. On an object store it may be `timing.FEED_LISTING` old.

        Raises:
            OutputError: The storage does not answer.
        """
        path = self._store.local(NAME)
        if path is not None:
            self._read_file(path)
        elif time.monotonic() >= self._next_listing:
            self._next_listing = time.monotonic() + timing.FEED_LISTING
            self._read_newest_run()
        return self._known

    def _read_file(self, path: Path) -> None:
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            size = 0
        _, before = self._seen
        if size < before:  # another file
            before, self._known = 0, None
        if size != before:  # the last block again: it may have ended within a line
            added = _backwards(path, _mention(self._event), max(before - _BLOCK, 0))
            self._known = self._newest(added) or self._known
        self._seen = NAME, size

    def _read_newest_run(self) -> None:
        """Names of runs begin with their time."""
        runs = [entry for entry in self._store.list("events") if entry.path.endswith(".jsonl")]
        if runs and (newest := (runs[-1].path, runs[-1].size)) != self._seen:
            lines = self._store.read(newest[0]).decode(errors="replace").splitlines()
            self._known = self._newest(reversed(lines))
            self._seen = newest

    def _newest(self, newest_first: Iterable[str]) -> dict[str, Any] | None:
        parsed = (_parsed(line) for line in newest_first)
        return next((values for values in parsed if values and values.get("event") == self._event), None)


def _mention(event: str) -> bytes:
    """What every line of an event contains."""
    return f'"event": "{event}"'.encode()


def _parsed_lines(store: Store, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        for line in store.read(name).decode(errors="replace").splitlines():
            if values := _parsed(line):
                yield values


class _Line(BaseModel):
    """What every line has, and the types of what readers take from some of them."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    time: Annotated[float, Field(ge=0, lt=2.5e11)]  # datetime ends with the year 9999
    run: str
    event: str
    next_seq: Place = 0
    planned_scenes: Place = 0
    planned_pairs: Place = 0
    open_scenes: Place = 0
    seq: Place = 0
    scene: str = ""
    text: str = ""
    telemetry: dict[str, float] = {}


def _parsed(line: str) -> dict[str, Any] | None:
    """The values of a line; None where it is truncated or another program wrote it."""
    values = json_object(line)
    try:
        _Line.model_validate(values)
    except ValidationError:
        return None
    return values


def _ends_with_newline(descriptor: int) -> bool:
    """Whether a file is empty or ends with a complete line; a process that was killed while writing leaves a partial one."""
    size = os.fstat(descriptor).st_size
    return not size or os.pread(descriptor, 1, size - 1) == b"\n"


def _backwards(path: Path, text: bytes, begin: int = 0) -> Iterator[str]:
    """The lines of a file that contain a text, and possibly others, last first; reads no further than the caller iterates.

    Args:
        path: the file.
        text: that the lines contain.
        begin: byte at which to stop; a line that begins before it may be cut.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        end, rest = file.seek(0, os.SEEK_END), b""
        while end > begin:
            start = max(end - _BLOCK, begin)
            file.seek(start)
            first, separator, others = (file.read(end - start) + rest).partition(b"\n")
            if separator and text in others:
                lines = reversed(others.split(b"\n"))
                yield from (line.decode(errors="replace") for line in lines if text in line)
            end, rest = start, first[: SETTINGS + 1]  # no more is read of a line
        if rest:
            yield rest.decode(errors="replace")


_BLOCK = 1 << 16


_RECOVERED = 1000
"""The most commits that a restarted bridge logs afterwards."""


class CommitLog:
    """Writes commits to the log.

    Args:
        events: the log.
        journal: of the same folder.
    """

    def __init__(self, events: EventLog, journal: Journal) -> None:
        self._events = events
        self._journal = journal

    def add(
        self, committed: Iterable[tuple[SceneResult, Commit, Mapping[str, float]]], *, in_flight: int
    ) -> None:
        """Logs commits, each with its scene's telemetry.

        Raises:
            OutputError: The storage reports an error.
        """
        self._events.add_all(
            "commit",
            (
                {**_line(result, commit, in_flight), "telemetry": dict(telemetry)}
                for result, commit, telemetry in committed
            ),
        )

    def recover(self) -> None:
        """Logs the commits that a killed bridge had made and not logged; the journal is complete in any case.

        Raises:
            OutputError: The storage reports an error.
        """
        logged = self._events.last("commit", any_run=True)
        first = int(logged.get("seq", -1)) + 1 if logged else 0
        lost = (seq for seq in self._journal.newest(_RECOVERED) if seq >= first)
        results = ((seq, self._journal.at(seq)) for seq in lost)
        self._events.add_all(
            "commit",
            (
                {**_line(result, commit_of(result, seq), 0), "telemetry": {}, "recovered": True}
                for seq, result in results
            ),
        )


def _line(result: SceneResult, commit: Commit, in_flight: int) -> dict[str, Any]:
    return {
        "seq": commit.seq,
        "scene": result.scene.key,
        "outcome": str(commit.outcome),
        "reason": str(commit.reason) if commit.reason else None,
        "pairs": dict(zip(map(str, Outcome), commit.pairs, strict=True)),
        "crops": commit.crops,
        "in_flight": in_flight,
    }
