"""Rate and remaining time of a run, and warnings when it makes no progress."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rawnind import timing
from rawnind.bridge.stages import Stage
from rawnind.errors import printable

if TYPE_CHECKING:
    from rawnind.bridge.messages import Snapshot

Clock = Callable[[], float]
"""Seconds from some fixed moment."""


class Eta:
    """Estimates rate and remaining time from snapshots.

    Args:
        clock: the time in seconds; for tests.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._first: tuple[float, Snapshot] | None = None
        self._last: tuple[float, Snapshot] | None = None
        self._last_commit = clock()

    def update(self, snapshot: "Snapshot") -> None:
        """Adds the newest snapshot. The rate counts from the first one with a scene in flight, which leaves out Ray's start."""
        now = self._clock()
        if self._last is None or self._last[1].next_seq != snapshot.next_seq:
            self._last_commit = now
        if self._first is None and (snapshot.in_flight or (self._last and self._last_commit == now)):
            self._first = (now, self._last[1] if self._last else snapshot)
        self._last = now, snapshot

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._start

    def rate(self) -> str:
        """Scenes per time, e.g. `14 scenes/min`; empty before the first scene is settled."""
        if self._first is None or self._last is None:
            return ""
        start, first = self._first
        settled = first.scenes.open - self._last[1].scenes.open
        seconds = self._last[0] - start
        if settled < 1 or seconds <= 0:
            return ""
        for unit, length in (("s", 1), ("min", 60)):
            if settled * length >= seconds:
                return f"{settled * length / seconds:.3g} scenes/{unit}"
        return f"{settled * 3600 / seconds:.3g} scenes/h"

    def remaining(self) -> float | None:
        """Seconds until every pair has an outcome, at the rate so far; None before the first pair has one."""
        if self._first is None or self._last is None:
            return None
        start, first = self._first
        todo = _open_pairs(self._last[1])
        done = _open_pairs(first) - todo
        return (self._last[0] - start) * todo / done if done > 0 else None

    def warning(self) -> str:
        """A warning that names the oldest scene in flight, where nothing was committed for `timing.WATCHDOG`; else empty."""
        now = self._clock()
        quiet = now - self._last_commit
        if self._last is None or quiet < timing.WATCHDOG or not self._last[1].scenes.open:
            return ""
        seen, snapshot = self._last
        if now - seen >= timing.WATCHDOG:
            return f"No answer from the bridge for {duration(now - seen)}"
        if not snapshot.in_flight:
            return f"No scene committed for {duration(quiet)}; none is in flight, workers may be waiting for CPUs"
        oldest = snapshot.in_flight[0]
        age = snapshot.now - oldest.started + (now - seen)
        silent = snapshot.now - oldest.last_heartbeat + (now - seen)
        late = f", no heartbeat for {duration(silent)}" if silent >= timing.HEARTBEAT_OVERDUE else ""
        return (
            f"No scene committed for {duration(quiet)}; the oldest in flight is {printable(oldest.key)}, "
            f"in stage {printable(oldest.stage)}, for {duration(age)}{late}"
        )


def _open_pairs(snapshot: "Snapshot") -> int:
    for row in snapshot.stages:
        if row.stage is Stage.WRITE:
            return row.waiting + row.running
    return snapshot.pairs.open


def duration(seconds: float) -> str:
    """A duration for people.

    >>> duration(8), duration(75), duration(7900), duration(200_000)
    ('8 s', '75 s', '2 h 11 min', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
