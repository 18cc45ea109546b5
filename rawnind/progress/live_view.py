"""The live view: a table of stages, the bridge's counts and the loaders, redrawn in place while a run goes on."""

import time
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rawnind.bridge.messages import LoaderReport, Snapshot
from rawnind.bridge.stages import Stage, StageCounts
from rawnind.errors import printable
from rawnind.planning import Plan
from rawnind.progress import text
from rawnind.progress.eta import Clock, Eta, duration
from rawnind.progress.redrawn_block import RedrawnBlock
from rawnind.progress.stderr_filter import StderrFilter
from rawnind.records import Counts, Summary
from rawnind.source.index import Index
from rawnind.words import counted

_NARROW = 66
"""Terminal columns below which headings are abbreviated: the table of stages has so many."""

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

_MAX_CONSUMERS = 4
"""Loaders up to which each has a row; more are summed in one, so that the view fits 24 lines."""

_STYLES = {
    "running": "cyan",
    "done": "green",
    "collected": "green",
    "rejected": "yellow",
    "failed": "bold red",
}


class LiveView:
    """Draws the newest snapshot four times a second, so that elapsed times advance between snapshots.

    Args:
        console: to draw on; None: the terminal behind stderr.
        clock: the time in seconds; for tests.
        verbose: whether also the harmless lines of Ray are printed.
    """

    def __init__(
        self, console: Console | None = None, clock: Clock = time.monotonic, *, verbose: bool = False
    ) -> None:
        self._stderr = StderrFilter(self._print_above, everything=verbose)
        self._console = console
        self._eta = Eta(clock)
        self._block: RedrawnBlock | None = None
        self._snapshot: Snapshot | None = None
        self._summary: Summary | None = None
        self._why = ""
        self._closed = False

    def planned(self, index: Index, plan: Plan, *, already: int) -> None:
        """Prints what is to be done, and starts to draw."""
        console = self._console or Console(file=self._stderr.open(), highlight=False)
        for line in text.opening(index, plan, already):
            console.print(line, markup=False, highlight=False)
        self._block = RedrawnBlock(console, self.frame)
        self._block.start()

    def noted(self, sentence: str) -> None:
        """Prints a sentence above the view."""
        self._print_above(sentence)

    def update(self, snapshot: Snapshot) -> None:
        """Stores the snapshot for the next frame."""
        self._eta.update(snapshot)
        self._snapshot = snapshot

    def stopping(self, why: str) -> None:
        """Adds to the view why the run stops, and how to stop it at once."""
        self._why = why

    def finished(self, summary: Summary) -> None:
        """Shows the counts of the manifest from now on."""
        self._summary = summary

    def close(self) -> None:
        """Draws the last frame, below everything else that was written, and leaves it on the screen."""
        self._stderr.restore()
        self._closed = True
        if self._block:
            self._block.stop()
            self._block = None
        self._stderr.close()

    def _print_above(self, line: str) -> None:
        if self._block:
            self._block.print_above(printable(line, most=10_000))

    def frame(self) -> RenderableType:
        """The current view."""
        return _Frame(self._snapshot, self._summary, self._eta, why=self._why, closed=self._closed)


class _Frame:
    """One frame; its layout depends on the width of the console that draws it."""

    def __init__(
        self, snapshot: Snapshot | None, summary: Summary | None, eta: Eta, *, why: str, closed: bool
    ) -> None:
        self._snapshot = snapshot
        self._summary = summary
        self._eta = eta
        self._why = why
        self._closed = closed

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
        parts.append(Text(self._summary_line(known.crops)))
        if self._snapshot and self._snapshot.loaders:
            parts.append(_loader_table(self._snapshot.loaders, narrow=narrow))
        parts += [Text(note, style="yellow") for note in self._notes()]
        yield Group(*parts)

    def _summary_line(self, crops: int) -> str:
        elapsed = duration(self._eta.elapsed)
        if self._summary:
            return f"{counted(crops, 'crop')}, finished after {elapsed}"
        if self._closed:
            return f"{counted(crops, 'crop')}, stopped after {elapsed}"
        flight = ""
        if self._snapshot:
            flight = f"{len(self._snapshot.in_flight)} in flight (at most {self._snapshot.peak_in_flight})"
        return ", ".join(filter(None, [counted(crops, "crop"), flight, elapsed, text.rate(self._eta)]))

    def _notes(self) -> Iterator[str]:
        if self._summary or self._closed:
            return
        if warning := self._eta.warning():
            yield warning
        if self._snapshot and (waiting := text.waiting(self._snapshot)):
            yield waiting
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
    if len(reports) > _MAX_CONSUMERS:
        shown = [(counted(len(reports), "consumer"), list(reports))]
    for label, some in shown:
        sums = (str(sum(getattr(report, name) for report in some)) for name in names)
        table.add_row(Text(label), *sums, duration(sum(report.wait_seconds for report in some)))
    return table


def _table(title: str, names: Sequence[str], *, narrow: bool) -> Table:
    """An empty table whose columns have a fixed minimum width, so that growing numbers do not move them."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(title, min_width=6 if narrow else 16, no_wrap=True, max_width=10 if narrow else 32)
    for name in names:
        width = 5 if narrow else 9
        heading = _SHORT.get(name, name) if narrow else name
        table.add_column(heading, justify="right", min_width=width, overflow="fold")
    return table


def _number(name: str, count: int) -> Text:
    return Text(str(count), style=_STYLES.get(name, "") if count else "dim")
