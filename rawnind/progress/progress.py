"""Progress of a run for people: plain lines here, the live view in `live_view`."""

import sys
import time
from typing import Protocol, TextIO

from rawnind import timing
from rawnind.bridge.messages import Snapshot
from rawnind.planning import Plan
from rawnind.progress import text
from rawnind.progress.eta import Clock, Eta
from rawnind.progress.live_view import LiveView
from rawnind.progress.redrawn_block import is_interactive
from rawnind.progress.stderr_filter import StderrFilter
from rawnind.records import Summary
from rawnind.source.index import Index
from rawnind.words import counted

_BETWEEN_WAITS = 2.0
"""Seconds between two lines that say why a fetch waits."""


class Progress(Protocol):
    """Receives progress events, in this order; the counts of the last `update` or `finished` are the manifest's."""

    def planned(self, index: Index, plan: Plan, *, already: int) -> None:
        """The plan is made.

        Args:
            index: the source.
            plan: of the run.
            already: scenes that have an outcome from an earlier run.
        """

    def noted(self, sentence: str) -> None:
        """Something that people should know, such as why the run waits."""

    def update(self, snapshot: Snapshot) -> None:
        """A new snapshot of the bridge."""

    def stopping(self, why: str) -> None:
        """The run was asked to stop; scenes in flight are still finished."""

    def finished(self, summary: Summary) -> None:
        """The manifest is written."""

    def close(self) -> None:
        """The run has ended, also with an error."""


class Silent:
    """Ignores every event."""

    def planned(self, index: Index, plan: Plan, *, already: int) -> None:
        """Does nothing."""

    def noted(self, sentence: str) -> None:
        """Does nothing."""

    def update(self, snapshot: Snapshot) -> None:
        """Does nothing."""

    def stopping(self, why: str) -> None:
        """Does nothing."""

    def finished(self, summary: Summary) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class Quiet(Silent):
    """Prints nothing, and filters harmless lines of Ray from stderr, for commands."""

    def __init__(self) -> None:
        self._stderr = StderrFilter()

    def planned(self, index: Index, plan: Plan, *, already: int) -> None:
        """Starts to filter."""
        super().planned(index, plan, already=already)
        self._stderr.open()

    def close(self) -> None:
        """Restores stderr."""
        self._stderr.close()


class Plain:
    """Prints the lines that have changed: at most once a second at first, later once a minute.

    Args:
        stream: to print to; None: stderr.
        clock: the time in seconds; for tests.
        verbose: whether also the harmless lines of Ray are printed.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Clock = time.monotonic, *, verbose: bool = False
    ) -> None:
        self._stderr = StderrFilter(everything=verbose)
        self._stream = stream
        self._eta = Eta(clock)
        self._clock = clock
        self._printed: dict[str, str] = {}
        self._next_print = 0.0
        self._warned = -timing.WATCHDOG
        self._waiting, self._next_waiting = "", 0.0
        self._why = ""

    def planned(self, index: Index, plan: Plan, *, already: int) -> None:
        """Prints what is to be done."""
        self._stream = self._stream or self._stderr.open()
        for line in text.opening(index, plan, already):
            self._print(line)

    def noted(self, sentence: str) -> None:
        """Prints a sentence."""
        self._print(sentence)

    def update(self, snapshot: Snapshot) -> None:
        """Prints the counts, and a warning when there is no progress."""
        self._eta.update(snapshot)
        self._print_stop()
        now = self._clock()
        lines = _lines(snapshot)
        changed = [name for name, line in lines.items() if self._printed.get(name) != line]
        if changed and now >= self._next_print:
            self._printed, self._next_print = lines, now + min(60.0, max(1.0, self._eta.elapsed / 20))
            rate = text.rate(self._eta)
            for name in changed:
                self._print(f"{name}: {lines[name]}" + (f"; {rate}" if rate and name == "Bridge" else ""))
        waiting = text.waiting(snapshot)
        if waiting not in {"", self._waiting} and now >= self._next_waiting:
            self._waiting, self._next_waiting = waiting, now + _BETWEEN_WAITS
            self._print(waiting[0].upper() + waiting[1:])
        if (warning := self._eta.warning()) and now - self._warned >= timing.WATCHDOG:
            self._warned = now
            self._print(warning)

    def stopping(self, why: str) -> None:
        """Prints why with the next update: this may run in a signal handler, in the middle of a line."""
        self._why = why

    def finished(self, summary: Summary) -> None:
        """Prints the final counts."""
        self._print(f"Bridge: {text.outcomes(summary.scenes)}; {counted(summary.crops, 'crop')}")

    def close(self) -> None:
        """Prints what is pending, and restores stderr."""
        self._print_stop()
        self._stderr.close()

    def _print_stop(self) -> None:
        if self._why:
            self._print(text.stopping(self._why))
            self._why = ""

    def _print(self, line: str) -> None:
        print(line, file=self._stream or sys.stderr, flush=True)


def _lines(snapshot: Snapshot) -> dict[str, str]:
    lines = {"Bridge": f"{text.outcomes(snapshot.scenes)}; {counted(snapshot.crops, 'crop')}"}
    if snapshot.stages:
        lines["Stages"] = text.stages(snapshot.stages)
    if snapshot.loaders:
        lines["DataLoader"] = text.loaders(snapshot.loaders)
    return lines


def choose(kind: str, *, verbose: bool = False) -> Progress:
    """`auto` is a live view on a terminal and plain lines elsewhere.

    Args:
        kind: `auto`, `live`, `plain` or `none`.
        verbose: see `Plain` and `LiveView`.
    """
    if kind == "none":
        return Silent() if verbose else Quiet()
    if kind == "live" or (kind == "auto" and is_interactive(sys.stderr)):
        return LiveView(verbose=verbose)
    return Plain(verbose=verbose)
