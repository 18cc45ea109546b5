"""Filters harmless lines of Ray from stderr, and redirects other lines above the live view.

Ray's C++ core writes to the file descriptor and not to Python's `sys.stderr`, in the middle of the live view.
"""

import os
import sys
import threading
from collections.abc import Callable
from typing import TextIO

_HARMLESS = (
    b"has constructor arguments in the object store and max_restarts > 0",
    b"Failed to push error to driver for task",
)
"""The first: Ray warns that an actor with arguments in the object store may fail to restart (ray#53727): they could be freed
before. Here the driver keeps references to them for as long as the actors exist: Ray Data to its own context and transform, in
the object store for every pool of actors (ray#57733), and `graph.start_bridge` to the bridge's plan. `tests.pipeline` kills both
kinds and they restart. The second: one line per task where Ray has ended, which the run says in a sentence of its own."""

_END = b"\0end of stderr\n"


class StderrFilter:
    """Reads what is written to a file descriptor, and forwards it without the harmless lines.

    Args:
        forward: called with each line without its end; None: lines are written where the descriptor pointed before.
        descriptor: 2 is stderr.
        everything: whether the harmless lines are forwarded as well.
    """

    def __init__(
        self,
        forward: Callable[[str], None] | None = None,
        descriptor: int = 2,
        *,
        everything: bool = False,
    ) -> None:
        self._forward = forward
        self._descriptor = descriptor
        self._everything = everything
        self._original: TextIO | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> TextIO:
        """Starts to filter; returns a stream to where the descriptor pointed before."""
        self._original = os.fdopen(os.dup(self._descriptor), "w", errors="backslashreplace", buffering=1)
        reading, writing = os.pipe()
        os.dup2(writing, self._descriptor, inheritable=True)
        os.close(writing)
        self._thread = threading.Thread(
            target=self._read, args=(reading,), name="rawnind-stderr", daemon=True
        )
        self._thread.start()
        return self._original

    def restore(self) -> None:
        """Forwards what is pending, and restores the descriptor; the stream of `open` stays open."""
        if self._original is None or self._thread is None:
            return
        sys.stderr.flush()
        os.write(self._descriptor, _END)
        os.dup2(self._original.fileno(), self._descriptor, inheritable=True)
        self._thread.join()
        self._thread = None

    def close(self) -> None:
        """Restores the descriptor and closes the stream. Does nothing where it is not open."""
        self.restore()
        if self._original:
            self._original.close()
            self._original = None

    def _read(self, reading: int) -> None:
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                if line.endswith(_END):
                    if rest := line.removesuffix(_END):
                        self._forward_line(rest)
                    break
                if self._everything or not any(words in line for words in _HARMLESS):
                    self._forward_line(line)

    def _forward_line(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace")
        if self._forward:
            self._forward(text.rstrip("\r\n"))
        elif self._original:
            self._original.write(text)
