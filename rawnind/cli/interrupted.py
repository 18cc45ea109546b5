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

_SOON = 0.02
"""Seconds after which the callback that dropped Ctrl-C has ended."""


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
    """A function that says whether Ctrl-C was pressed: an import that KeyboardInterrupt interrupts may end with any other error.

    Python drops what is raised in a callback of its own, such as the one that frees the lock of a module that was imported; a
    KeyboardInterrupt that is dropped so is raised once more.
    """
    pressed = False
    before = sys.unraisablehook

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    def dropped(what: "sys.UnraisableHookArgs") -> None:
        if what.exc_type is not KeyboardInterrupt:
            before(what)
            return
        again = threading.Timer(_SOON, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
        again.daemon = True
        again.start()

    is_main = threading.current_thread() is threading.main_thread()
    if (
        not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):  # ignored, as after nohup
        yield lambda: False
        return
    signal.signal(signal.SIGINT, press)
    sys.unraisablehook = dropped
    try:
        yield lambda: pressed
    finally:
        sys.unraisablehook = before
        signal.signal(signal.SIGINT, signal.default_int_handler)
