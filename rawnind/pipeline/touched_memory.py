"""Measures how much memory a stage uses, in a process that keeps what it has freed."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

_MARKS, _ALL_PAGES = Path("/proc/self/clear_refs"), "1"
_MAPPINGS, _TOUCHED = Path("/proc/self/smaps_rollup"), re.compile(r"^Referenced: +(\d+) kB$", re.MULTILINE)
"""See proc(5)."""
MOST_TIME = 0.001
"""Share of a process's CPU time. A worker with one gigabyte needs 10 ms a stage, and pages of 4 kB that are touched afterwards 0.4 us
each; a pair of 24 megapixels takes 2.7 s.
"""


class TouchedMemory:
    """Memory that a process reads or writes between two moments, by the marks that Linux gives to pages.

    A worker keeps freed memory for reuse, so that after its first scenes its resident memory is the same in all stages. What a stage
    touches differs: what it works on, with the libraries that it uses, without what is only kept.

    Attributes:
        spent: CPU seconds of marking and adding up.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self._is_marked = False

    def is_due(self) -> bool:
        """Whether measuring took little enough of this process's CPU time until now."""
        return self.spent <= MOST_TIME * time.process_time()

    def begin(self) -> None:
        """Marks every page as untouched."""
        with self._counted():
            self._is_marked = False
            _MARKS.write_text(_ALL_PAGES)
            self._is_marked = True

    def end(self) -> float | None:
        """Bytes in pages that were touched since `begin`; None where the system does not say."""
        with self._counted():
            if self._is_marked and (found := _TOUCHED.search(_MAPPINGS.read_text())):
                return float(found[1]) * 1024
        return None

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Counts the CPU time of a block; there may be no marks in another system or in a sandbox."""
        start = time.thread_time()
        with contextlib.suppress(OSError):
            yield
        self.spent += time.thread_time() - start
