"""Handlers of SIGINT and SIGTERM: the first signal asks the run to stop, the second stops it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Handles both signals inside a `with` block; outside of the main thread it does nothing.

    Before `listen` is called, and from the second signal on, a signal raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self._listener: Callable[[], None] | None = None
        self._deferring = False
        self._pending = False
        self._before: list[object] = []
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._main:
            self._before = [signal.getsignal(number) for number in _SIGNALS]
        self.install()
        return self

    def install(self) -> None:
        """Installs the handlers; needed again after other code, such as `ray.init`, has replaced them."""
        if self._main:
            for number in _SIGNALS:
                signal.signal(number, self._handle)

    def listen(self, listener: Callable[[], None]) -> None:
        """Lets the next signal call `listener` instead of raising."""
        self._listener = listener

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defers the first signal until the block ends: starting Ray's processes must not be interrupted."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            self.install()
        if self._pending:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._deferring and not self._pending:
            self._pending = True
            return
        listener, self._listener = self._listener, None
        if listener is None:
            raise KeyboardInterrupt
        listener()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in zip(_SIGNALS, self._before, strict=False):
            signal.signal(number, handler)  # type: ignore[arg-type]
