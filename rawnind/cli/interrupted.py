"""The end of a command that Ctrl-C interrupts; imports nothing that takes time."""

import os
import sys
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
