"""What a person sees of a run: plain lines here, a live view in `live_view`."""

import sys
import time
from typing import Protocol, TextIO

from rawnind import timing
from rawnind.bridge.messages import Snapshot
from rawnind.planning import Plan
from rawnind.progress import text
from rawnind.progress.eta import Clock, Pace
from rawnind.progress.live_view import Live, attended
from rawnind.progress.stderr_filter import Stderr
from rawnind.records import Summary
from rawnind.source.index import Index


class Progress(Protocol):
    """Told what happens, in this order; the last `update` or `finished` is what the manifest says."""

    def planned(self, index: Index, plan: Plan, *, already: int) -> None:
        """The source was read; `already` scenes have an outcome from an earlier run."""

    def update(self, snapshot: Snapshot) -> None:
        """Something may have changed."""

    def stopping(self, why: str) -> None:
        """The run has been asked to stop; scenes in flight are still finished."""

    def finished(self, summary: Summary) -> None:
        """The manifest is written."""

    def close(self) -> None:
        """The run is over, well or badly."""


class Silent:
    """Says nothing."""

    def planned(self, index: Index, plan: Plan, *, already: int) -> None:
        """Nothing."""

    def update(self, snapshot: Snapshot) -> None:
        """Nothing."""

    def stopping(self, why: str) -> None:
        """Nothing."""

    def finished(self, summary: Summary) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Plain:
    """Lines when the counts have changed: one a second at first, later one a minute.

    Args:
        stream: where to; None: stderr.
        clock: what time it is; tests have their own.
    """

    def __init__(self, stream: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        self._stderr = Stderr()
        self._stream = stream
        self._pace = Pace(clock)
        self._clock = clock
        self._said: tuple[str, ...] = ()
        self._due = 0.0
        self._warned = -timing.WATCHDOG
        self._why = ""

    def planned(self, index: Index, plan: Plan, *, already: int) -> None:
        """Says what is going to be done."""
        self._stream = self._stream or self._stderr.open()
        for line in text.opening(index, plan, already):
            self._say(line)

    def update(self, snapshot: Snapshot) -> None:
        """Says the counts."""
        self._pace.see(snapshot)
        self._say_why()
        now = self._clock()
        lines = _lines(snapshot)
        if lines != self._said and now >= self._due:
            self._said, self._due = lines, now + min(60.0, max(1.0, self._pace.elapsed / 20))
            pace = text.pace(self._pace)
            self._say(lines[0] + (f"; {pace}" if pace else ""))
            for line in lines[1:]:
                self._say(line)
        if (warning := self._pace.warning()) and now - self._warned >= timing.WATCHDOG:
            self._warned = now
            self._say(warning)

    def stopping(self, why: str) -> None:
        """Remembers why, to say it with the next update: a signal may have come in the middle of a line."""
        self._why = why

    def finished(self, summary: Summary) -> None:
        """Says the final counts."""
        self._say(f"Bridge: {text.outcomes(summary.scenes)}; {summary.crops} crops")

    def close(self) -> None:
        """Says what is still to be said."""
        self._say_why()
        self._stderr.close()

    def _say_why(self) -> None:
        if self._why:
            self._say(text.stopping(self._why))
            self._why = ""

    def _say(self, line: str) -> None:
        print(line, file=self._stream or sys.stderr, flush=True)


def _lines(snapshot: Snapshot) -> tuple[str, ...]:
    lines = [f"Bridge: {text.outcomes(snapshot.scenes)}; {snapshot.crops} crops"]
    if snapshot.stages:
        lines.append(f"Stages: {text.stages(snapshot.stages)}")
    if snapshot.loaders:
        lines.append(f"DataLoader: {text.loaders(snapshot.loaders)}")
    return tuple(lines)


def choose(kind: str) -> Progress:
    """`auto` is a live view on a terminal and plain lines elsewhere."""
    if kind == "none":
        return Silent()
    if kind == "live" or (kind == "auto" and attended(sys.stderr)):
        return Live()
    return Plain()
