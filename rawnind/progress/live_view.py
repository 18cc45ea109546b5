"""The live view: a table of stages, the bridge's counts and the loaders, redrawn in place while a run goes on."""

import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live as Redrawn
from rich.table import Table
from rich.text import Text

from rawnind.bridge.messages import LoaderReport, Snapshot
from rawnind.bridge.stages import Stage, StageCounts
from rawnind.errors import printable
from rawnind.planning import Plan
from rawnind.progress import text
from rawnind.progress.eta import Clock, Pace, duration
from rawnind.progress.stderr_filter import Stderr
from rawnind.records import Counts, Summary
from rawnind.source.index import Index

_NARROW = 60
"""Columns below which headings are abbreviated."""

_SHORT = {
    "waiting": "wait",
    "running": "run",
    "rejected": "rej",
    "failed": "fail",
    "planned": "plan",
    "collected": "coll",
    "filtered": "filt",
    "batches": "batch",
}

_CONSUMERS = 4
"""Loaders that get a row of their own; more are shown as one sum, so that the view fits 24 lines."""

_STYLES = {
    "running": "cyan",
    "done": "green",
    "collected": "green",
    "rejected": "yellow",
    "failed": "bold red",
}


class Live:
    """Draws the newest snapshot four times a second, so that times go on when nothing else does.

    Args:
        console: where to; None: the terminal behind stderr.
        clock: what time it is; tests have their own.
    """

    def __init__(self, console: Console | None = None, clock: Clock = time.monotonic) -> None:
        self._stderr = Stderr(self._above)
        self._console = console
        self._pace = Pace(clock)
        self._redrawn: Redrawn | None = None
        self._snapshot: Snapshot | None = None
        self._summary: Summary | None = None
        self._why = ""
        self._over = False

    def planned(self, index: Index, plan: Plan, *, already: int) -> None:
        """Says what is going to be done, and begins to draw."""
        console = self._console or Console(file=self._stderr.open(), highlight=False)
        for line in text.opening(index, plan, already):
            console.print(line, markup=False, highlight=False)
        self._redrawn = Redrawn(console=console, get_renderable=self.frame, redirect_stderr=False)
        self._redrawn.start()

    def update(self, snapshot: Snapshot) -> None:
        """Shows it when the view is drawn again."""
        self._pace.see(snapshot)
        self._snapshot = snapshot

    def stopping(self, why: str) -> None:
        """Shows why, and how to stop at once."""
        self._why = why

    def finished(self, summary: Summary) -> None:
        """From now on, shows what the manifest says."""
        self._summary = summary

    def close(self) -> None:
        """Draws the last frame, which stays, below whatever else was written."""
        self._stderr.restore()
        self._over = True
        if self._redrawn:
            self._redrawn.stop()
            self._redrawn = None
        self._stderr.close()

    def _above(self, line: str) -> None:
        if self._redrawn:
            self._redrawn.console.print(printable(line, most=10_000), markup=False, highlight=False)

    def frame(self) -> RenderableType:
        """The view as it is now."""
        return _Frame(self._snapshot, self._summary, self._pace, why=self._why, over=self._over)


class _Frame:
    """One picture; knows its width only when it is drawn."""

    def __init__(
        self, snapshot: Snapshot | None, summary: Summary | None, pace: Pace, *, why: str, over: bool
    ) -> None:
        self._snapshot = snapshot
        self._summary = summary
        self._pace = pace
        self._why = why
        self._over = over

    def __rich_console__(self, console: Console, _: object) -> Iterator[RenderableType]:
        narrow = console.width < _NARROW
        known = self._summary or self._snapshot
        if known is None:
            yield Text("Starting Ray and the first worker ...")
            return
        parts: list[RenderableType] = []
        if self._snapshot and self._snapshot.stages:
            parts.append(_stage_table(self._snapshot.stages, narrow=narrow))
        parts.append(_bridge_table(known.scenes, known.pairs, narrow=narrow))
        parts.append(Text(self._sentence(known.crops)))
        if self._snapshot and self._snapshot.loaders:
            parts.append(_loader_table(self._snapshot.loaders, narrow=narrow))
        parts += [Text(note, style="yellow") for note in self._notes()]
        yield Group(*parts)

    def _sentence(self, crops: int) -> str:
        time_spent = duration(self._pace.elapsed)
        if self._summary:
            return f"{crops} crops, finished after {time_spent}"
        if self._over:
            return f"{crops} crops, stopped after {time_spent}"
        flight = ""
        if self._snapshot:
            flight = f"{len(self._snapshot.in_flight)} in flight (at most {self._snapshot.peak_in_flight})"
        return ", ".join(filter(None, [f"{crops} crops", flight, time_spent, text.pace(self._pace)]))

    def _notes(self) -> Iterator[str]:
        if self._summary or self._over:
            return
        if warning := self._pace.warning():
            yield warning
        if self._why:
            yield text.stopping(printable(self._why, most=2000))


def _stage_table(rows: Sequence[StageCounts], *, narrow: bool) -> Table:
    names = ("waiting", "running", "done", "rejected", "failed")
    table = _table("Stage", names, narrow=narrow)
    for row in rows:
        unit = "photos" if row.stage is Stage.DECODE else "pairs"
        label = row.stage if narrow else f"{row.stage} ({unit})"
        table.add_row(label, *(_number(name, getattr(row, name)) for name in names))
    return table


def _bridge_table(scenes: Counts, pairs: Counts, *, narrow: bool) -> Table:
    names = ("planned", "collected", "filtered", "rejected", "failed")
    table = _table("Bridge", names, narrow=narrow)
    for label, counts in (("scenes", scenes), ("pairs", pairs)):
        table.add_row(label, *(_number(name, getattr(counts, name)) for name in names))
    return table


def _loader_table(reports: Sequence[LoaderReport], *, narrow: bool) -> Table:
    names = ("scenes", "crops", "batches")
    table = _table("DataLoader", (*names, "waiting"), narrow=narrow)
    shown = [(printable(report.consumer), [report]) for report in reports]
    if len(reports) > _CONSUMERS:
        shown = [(f"{len(reports)} consumers", list(reports))]
    for label, some in shown:
        sums = (str(sum(getattr(report, name) for report in some)) for name in names)
        table.add_row(Text(label), *sums, duration(sum(report.wait_seconds for report in some)))
    return table


def _table(title: str, names: Sequence[str], *, narrow: bool) -> Table:
    """Columns of one width, so that numbers stay where they are when they grow."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(title, min_width=6 if narrow else 16, no_wrap=True, max_width=10 if narrow else 32)
    for name in names:
        width = 5 if narrow else 9
        heading = _SHORT.get(name, name) if narrow else name
        table.add_column(heading, justify="right", min_width=width, overflow="fold")
    return table


def _number(name: str, count: int) -> Text:
    return Text(str(count), style=_STYLES.get(name, "") if count else "dim")


def attended(stream: TextIO) -> bool:
    """Whether a person can see a view that is redrawn in place there."""
    console = Console(file=stream)
    return console.is_terminal and not console.is_dumb_terminal
