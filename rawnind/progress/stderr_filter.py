"""The process's stderr while a run shows itself: one line of Ray's that means nothing is kept out, the rest passes.

Ray's C++ core writes to the file descriptor, past Python's `sys.stderr`, and would tear the live view.
"""

import os
import sys
import threading
from collections.abc import Callable
from typing import TextIO

_MEANS_NOTHING = b"has constructor arguments in the object store and max_restarts > 0"
"""Ray Data puts its own context and transform into the object store for every pool of actors (ray#57733). The driver, which
owns them, holds on to them as long as the pool lives, and ends with its node: a restart finds them (ray#53727 does not
apply)."""

_END = b"\0end of stderr\n"


class Stderr:
    """Stands between whoever writes to a file descriptor and where it leads.

    Args:
        forward: gets each line without its end; None: lines go where they were going.
        descriptor: 2 is stderr.
    """

    def __init__(self, forward: Callable[[str], None] | None = None, descriptor: int = 2) -> None:
        self._forward = forward
        self._descriptor = descriptor
        self._before: TextIO | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> TextIO:
        """Begins to listen; returns a stream to where the descriptor led before."""
        self._before = os.fdopen(os.dup(self._descriptor), "w", errors="backslashreplace", buffering=1)
        reading, writing = os.pipe()
        os.dup2(writing, self._descriptor, inheritable=True)
        os.close(writing)
        self._thread = threading.Thread(
            target=self._read, args=(reading,), name="rawnind-stderr", daemon=True
        )
        self._thread.start()
        return self._before

    def restore(self) -> None:
        """Passes on what is still under way, and puts the descriptor back as it was; the stream is still open."""
        if self._before is None or self._thread is None:
            return
        sys.stderr.flush()
        os.write(self._descriptor, _END)
        os.dup2(self._before.fileno(), self._descriptor, inheritable=True)
        self._thread.join()
        self._thread = None

    def close(self) -> None:
        """Restores, and closes the stream. Does nothing when it is not open."""
        self.restore()
        if self._before:
            self._before.close()
            self._before = None

    def _read(self, reading: int) -> None:
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                if line.endswith(_END):
                    if rest := line.removesuffix(_END):
                        self._pass_on(rest)
                    break
                if _MEANS_NOTHING not in line:
                    self._pass_on(line)

    def _pass_on(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace")
        if self._forward:
            self._forward(text.rstrip("\r\n"))
        elif self._before:
            self._before.write(text)
