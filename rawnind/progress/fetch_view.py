"""Shows how a fetch goes: a block that is redrawn on a terminal, else a line now and then."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.text import Text

from rawnind.errors import printable
from rawnind.fetch.tally import Counts
from rawnind.progress.eta import duration
from rawnind.progress.redrawn_block import RedrawnBlock, is_interactive

_SHOWN = 4
"""Downloads that are shown by name."""

_FIRST, _LATER = 2.0, 30.0
"""Seconds between two lines, at first and later."""


@contextlib.contextmanager
def watching_fetch(kind: str) -> Iterator[Callable[[Counts], None]]:
    """What is called with the counts of a fetch.

    Args:
        kind: `auto`, `live`, `plain` or `none`; auto is live on a terminal.
    """
    if kind == "none":
        yield _ignore
    elif kind == "live" or (kind == "auto" and is_interactive(sys.stderr)):
        view = _Live()
        try:
            yield view.show
        finally:
            view.close()
    else:
        yield _Plain().show


def _ignore(counts: Counts) -> None:
    del counts


class _Pace:
    """Bytes per second over the whole run, and the time that is left."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def line(self, counts: Counts) -> str:
        """Bytes, rate and, where the lengths of the files are known, time left."""
        is_known = counts.expected >= counts.received
        text = _size(counts.received) + (f" of {_size(counts.expected)}" if is_known else "")
        if not counts.transferred or self.elapsed < 1:
            return text
        rate = counts.transferred / self.elapsed
        left = f", {duration((counts.expected - counts.received) / rate)} left" if is_known else ""
        return f"{text}, {_size(rate)}/s{left}"


class _Plain:
    def __init__(self) -> None:
        self._pace = _Pace()
        self._next = _FIRST
        self._waiting, self._next_waiting = "", 0.0

    def show(self, counts: Counts) -> None:
        if counts.waiting not in {"", self._waiting} and self._pace.elapsed >= self._next_waiting:
            self._waiting, self._next_waiting = counts.waiting, self._pace.elapsed + _FIRST
            print(f"Fetch: {printable(counts.waiting)}", file=sys.stderr, flush=True)  # noqa: T201
        if self._pace.elapsed >= self._next:
            self._next = self._pace.elapsed + min(_LATER, max(_FIRST, self._pace.elapsed / 4))
            print(f"Fetch: {_files(counts)}; {self._pace.line(counts)}", file=sys.stderr, flush=True)  # noqa: T201


class _Live:
    def __init__(self) -> None:
        self._pace = _Pace()
        self._counts: Counts | None = None
        self._block = RedrawnBlock(Console(stderr=True), self._frame)
        self._block.start()

    def show(self, counts: Counts) -> None:
        self._counts = counts

    def close(self) -> None:
        self._block.stop()

    def _frame(self) -> Text:
        counts = self._counts
        if counts is None:
            return Text("looking at what is there", style="dim")
        done = counts.here + counts.fetched + counts.failed, counts.files
        part, whole = (counts.received, counts.expected) if counts.expected > counts.received else done
        share = part / whole if whole else 1.0
        bar = "━" * round(30 * share)
        text = Text.assemble(
            (bar, "green"), ("━" * (30 - len(bar)), "dim"), f" {share:4.0%}  {self._pace.line(counts)}\n"
        )
        text.append(_files(counts), style="red" if counts.failed else "")
        if counts.waiting:
            text.append(f"\n  {printable(counts.waiting)}", style="yellow")
        for path, count in list(counts.active.items())[:_SHOWN]:
            text.append(f"\n  {_size(count):>9}  {printable(path, 90)}", style="dim")
        return text


def _files(counts: Counts) -> str:
    text = f"{counts.here + counts.fetched} of {counts.files} files are there"
    return text + (f", {counts.failed} failed" if counts.failed else "")


def _size(count: float) -> str:
    """A number of bytes for people: `12 kB`, `3.4 MB`, `120.2 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
