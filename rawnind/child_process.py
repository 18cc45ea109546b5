"""Runs a module of this package in a child process, for work that may end its process."""

import ctypes
import os
import signal
import subprocess
import sys

CHILDREN = 3
"""Children that must die over the same work before it is blamed: any one of them may be killed for another reason."""

_PR_SET_PDEATHSIG = 1  # prctl(2)


def run_module(module: str, arguments: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    """Runs `python -m MODULE ARGUMENTS` until it ends by itself, at most `CHILDREN` times.

    Args:
        module: that calls `die_with_parent` first.
        arguments: of its command line.
        data: its standard input.

    Returns:
        The last child, with its standard error; its `returncode` is negative where a signal ended each of them.
    """
    for _ in range(CHILDREN):
        child = subprocess.run(  # noqa: S603 - our own module, no shell
            [sys.executable, "-P", "-m", module, *arguments],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # -P: not the current folder
            input=data,
            stderr=subprocess.PIPE,
            check=False,
        )
        if child.returncode >= 0:
            break
    return child


def signal_name(child: subprocess.CompletedProcess[bytes]) -> str:
    """Name of the signal that ended a child, such as `SIGKILL`; empty where it ended by itself."""
    return signal.Signals(-child.returncode).name if child.returncode < 0 else ""


def last_line(child: subprocess.CompletedProcess[bytes]) -> str:
    """The last line of what a child printed on standard error."""
    lines = child.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


def die_with_parent() -> None:
    """Makes the system end this process with its parent: a killed worker must not leave a child behind that never returns."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
