"""A block that is redrawn in place leaves no copy of itself behind, however the terminal is resized."""

import re

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from rawnind.progress.redrawn_block import RedrawnBlock

CODE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class ReflowingTerminal:
    """The screen of a terminal that wraps its lines anew when it is resized, as tmux, VTE, kitty and others do; it has no bottom."""

    def __init__(self, width):
        self.width = width
        self.lines = [""]
        self.line = self.row = self.column = 0

    def resize(self, width):
        place = self.row * self.width + self.column
        self.width = width
        self.row = max(place - 1, 0) // width  # a cursor after the last column waits there
        self.column = place - self.row * width

    def write(self, text):
        for arguments, code, control, plain in CODE.findall(text):
            if code == "A":
                self.up(int(arguments))
            elif code == "K":
                first = self.row * self.width
                assert not self.lines[self.line][first + self.width :].strip(), "rows are erased from below"
                self.lines[self.line] = self.lines[self.line][:first]
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self.line, self.row, self.column = self.line + 1, 0, 0
                self.lines[self.line :] = self.lines[self.line :] or [""]
            elif plain:
                place = self.row * self.width + self.column
                line = self.lines[self.line].ljust(place)
                self.lines[self.line] = line[:place] + plain + line[place + len(plain) :]
                self.column += len(plain)
                self.row, self.column = (
                    self.row + max(self.column - 1, 0) // self.width,
                    (self.column - 1) % self.width + 1,
                )

    def flush(self):
        pass

    def up(self, count):
        self.row -= count
        while self.row < 0 and self.line:
            self.line -= 1
            self.row += max(1, -(-len(self.lines[self.line]) // self.width))
        assert self.row >= 0, "above the screen"


words = st.text("abc ", max_size=60).map(str.strip)


@given(
    frames=st.lists(
        st.tuples(st.integers(10, 70), st.lists(words, min_size=1, max_size=5)), min_size=1, max_size=6
    )
)
def test_no_row_of_an_earlier_frame_stays_after_any_resize(frames):
    terminal = ReflowingTerminal(80)
    console = Console(file=terminal, force_terminal=True, width=80, height=200, color_system=None)
    shown = []
    block = RedrawnBlock(console, lambda: Text("\n".join(shown[-1])))
    for number, (width, lines) in enumerate(frames):
        terminal.resize(width)
        console.width = width
        shown.append(lines)
        block.print_above(f"above {number}")
    above = [f"above {number}" for number in range(len(frames))]
    assert [line.rstrip() for line in terminal.lines[: len(above)]] == above
    assert "".join(terminal.lines[len(above) :]).replace(" ", "") == "".join(shown[-1]).replace(" ", "")


def test_a_block_that_is_higher_than_the_terminal_is_cut():
    terminal = ReflowingTerminal(40)
    console = Console(file=terminal, force_terminal=True, width=40, height=5, color_system=None)
    block = RedrawnBlock(console, lambda: Text("\n".join("abcdefgh")))
    for _ in range(3):
        block.print_above("above")
    assert terminal.lines == ["above"] * 3 + [
        "a",
        "b",
        "c",
        "d",
        "...",
    ]  # the screen has 5 rows and these 3 left it


def test_it_draws_until_it_is_stopped_and_shows_the_cursor_again():
    terminal = ReflowingTerminal(40)
    frames = iter(["first", *["later"] * 100])
    block = RedrawnBlock(Console(file=terminal, force_terminal=True, width=40), lambda: Text(next(frames)))
    block.start()
    block.stop()
    assert terminal.lines == ["later", ""]
