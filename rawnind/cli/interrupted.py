"""The end of a command that Ctrl-C interrupts; imports nothing that takes time."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rawnind.exit_codes import ExitCode


def interrupted() -> NoReturn:
    """Says so in one sentence, and ends the process with the documented exit code.

    Not with `sys.exit`: where Ctrl-C came inside an `exec`, as in the making of a dataclass, Python 3.11 replaces the exit code although
    the exception was handled.
    """
    sys.stderr.write("rawnind: interrupted; run the same command again to resume\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ExitCode.STOPPED)


@contextmanager
def noting_ctrl_c() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed: an import that KeyboardInterrupt interrupts may end with any other error."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    is_main = threading.current_thread() is threading.main_thread()
    if (
        not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):  # ignored, as after nohup
        yield lambda: False
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
