"""Ctrl-C and SIGTERM: the first asks the run to stop, the second stops it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Catches both signals while it is entered; outside of the main thread it does nothing.

    Until somebody listens, and from the second signal on, a signal raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self._listener: Callable[[], None] | None = None
        self._held = False
        self._pending = False
        self._before: list[object] = []
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._main:
            self._before = [signal.getsignal(number) for number in _SIGNALS]
        self.install()
        return self

    def install(self) -> None:
        """Puts the handlers in place, again where somebody else (such as `ray.init`) has replaced them."""
        if self._main:
            for number in _SIGNALS:
                signal.signal(number, self._handle)

    def listen(self, listener: Callable[[], None]) -> None:
        """From now on the first signal calls `listener` and raises nothing."""
        self._listener = listener

    @contextmanager
    def held(self) -> Iterator[None]:
        """Puts the first signal off until the block is over: what starts other processes must not be torn in the middle."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self.install()
        if self._pending:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._held and not self._pending:
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
