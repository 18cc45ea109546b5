"""What a person sees of a run."""

import sys
import time
from typing import Protocol, TextIO

from rawnind.cluster.bridge import Snapshot
from rawnind.plan import Plan
from rawnind.records import Counts, Summary
from rawnind.storage.index import Index


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


class Plain:
    """A line whenever the counts change, at most one a second."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._said = ""
        self._last = 0.0

    def planned(self, index: Index, plan: Plan, *, already: int) -> None:
        """Says what is going to be done."""
        aside = index.set_aside
        self._say(
            f"Source: {len(plan.scenes)} scenes, {index.ground_truths} GT and {index.noisy} noisy photos; {aside}"
        )
        for refused in index.refused:
            self._say(f"Refused: {refused.file}: {refused.why}")
        self._say(
            f"{already} already collected, {len(plan.selected) - already} to do, {len(plan.left_out)} left out"
        )

    def update(self, snapshot: Snapshot) -> None:
        """Says the counts."""
        line = f"Bridge: {_text(snapshot.scenes)}; {snapshot.crops} crops"
        if line != self._said and time.monotonic() - self._last >= 1:
            self._said, self._last = line, time.monotonic()
            self._say(line)

    def stopping(self, why: str) -> None:
        """Says why, and how to stop at once."""
        self._say(f"Stopping: {why}. Finishing the scenes in flight; press Ctrl-C again to stop at once.")

    def finished(self, summary: Summary) -> None:
        """Says the final counts."""
        self._say(f"Bridge: {_text(summary.scenes)}; {summary.crops} crops")

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _text(counts: Counts) -> str:
    done = counts.planned - counts.open
    parts = f"{counts.collected} collected, {counts.filtered} filtered, {counts.rejected} rejected, {counts.failed} failed"
    return f"{done} of {counts.planned} scenes ({parts})"


def choose(kind: str) -> Progress:
    """`auto` is a live view on a terminal and plain lines elsewhere."""
    return Silent() if kind == "none" else Plain()
