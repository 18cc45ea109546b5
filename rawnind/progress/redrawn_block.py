"""A block of lines at the bottom of a terminal that is redrawn in place, also after the terminal was resized."""

import threading
from collections.abc import Callable
from typing import TextIO

from rich.console import Console, RenderableType
from rich.text import Text

_PERIOD = 0.25
"""Seconds between two frames."""


class RedrawnBlock:
    """Draws a frame four times a second until it is stopped; on a stream that is no terminal, only the last frame.

    rich's `Live` moves up by as many rows as it drew. A terminal that gets narrower wraps the lines of the old frame, which then
    has more rows, and the upper ones would stay as a torn copy. This block counts the rows that the old frame has at the
    current width.

    Args:
        console: to draw on.
        frame: returns what to draw.
    """

    def __init__(self, console: Console, frame: Callable[[], RenderableType]) -> None:
        self.console = console
        self._frame = frame
        self._widths: list[int] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rawnind-view", daemon=True)

    def start(self) -> None:
        """Draws the first frame, and goes on in a thread."""
        if self.console.is_terminal:
            self.console.show_cursor(show=False)
            self._thread.start()

    def stop(self) -> None:
        """Draws the last frame and leaves the cursor below it."""
        self._stopped.set()
        if not self.console.is_terminal:
            self.console.print(self._frame())
            return
        self._thread.join()
        self._write(self._erased() + self._drawn() + "\n")
        self.console.show_cursor(show=True)

    def print_above(self, line: str) -> None:
        """Prints a line above the block."""
        with self._lock:
            if self.console.is_terminal:
                self._write(self._erased())
            self.console.print(line, markup=False, highlight=False)
            if self.console.is_terminal:
                self._write(self._drawn())

    def _run(self) -> None:
        while True:
            with self._lock:
                self._write(self._erased() + self._drawn())
            if self._stopped.wait(_PERIOD):
                return

    def _drawn(self) -> str:
        """The frame as text, cut to the height of the terminal."""
        with self.console.capture() as capture:
            self.console.print(self._frame())
        lines = capture.get().rstrip("\n").split("\n")
        if len(lines) > (most := max(self.console.height, 2)):
            lines = [*lines[: most - 1], "..."]
        self._widths = [Text.from_ansi(line).cell_len for line in lines]
        return "\n".join(lines)

    def _erased(self) -> str:
        """Control codes that erase the last frame row by row from below, and end at its first one (ECMA-48: CUU and EL).

        One code that erases to the end of the screen (ED) would make tmux move the screen into its history, a copy per frame.
        """
        columns = self.console.width
        rows = sum(max(1, -(-width // columns)) for width in self._widths)
        self._widths = []
        return "\r\x1b[2K" + "\x1b[1A\x1b[2K" * (rows - 1)

    def _write(self, text: str) -> None:
        self.console.file.write(text)
        self.console.file.flush()


def is_interactive(stream: TextIO) -> bool:
    """Whether a view can be redrawn in place on a stream."""
    console = Console(file=stream)
    return console.is_terminal and not console.is_dumb_terminal
