"""Catches what LibRaw writes to stderr while it reads a file, so that it can be given the file's name."""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
_SAYS = ("Unexpected end of file", "data corrupted at ")
"""The two messages of LibRaw's own handler, which writes `NAME: MESSAGE`; a file that it reads from memory has no name."""

_one_at_a_time = threading.Lock()


@contextmanager
def libraw_words() -> Iterator[list[str]]:
    """What LibRaw writes meanwhile, without repetitions; known when the block has ended.

    The process's stderr is led into a file meanwhile. What others wrote there is passed on afterwards.

    Examples:
        >>> with libraw_words() as words:
        ...     pass
        >>> words
        []
    """
    words: list[str] = []
    with _one_at_a_time, tempfile.TemporaryFile() as caught:
        sys.stderr.flush()
        try:
            kept = os.dup(_STDERR)
        except OSError:  # a process without stderr
            yield words
            return
        try:
            os.dup2(caught.fileno(), _STDERR)
            yield words
        finally:
            sys.stderr.flush()
            os.dup2(kept, _STDERR)
            os.close(kept)
            caught.seek(0)
            words += _sorted_out(caught.read())


def _sorted_out(text: bytes) -> list[str]:
    """LibRaw's messages; the lines of others are written to stderr."""
    words: dict[str, None] = {}
    for line in text.decode(errors="replace").splitlines(keepends=True):
        said = line.strip().rpartition(": ")[2]
        if said.startswith(_SAYS):
            words[said] = None
        else:
            os.write(_STDERR, line.encode())
    return list(words)
