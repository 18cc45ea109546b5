"""The thread beside a scene's processing: heartbeats and --scene-timeout."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, Self

from rawnind import timing
from rawnind.imaging.jit import is_compiling
from rawnind.output.attempts import Ledger
from rawnind.records import ImageRef

_COMPILING = "compiling its loops, once on each machine"


class Watchdog:
    """Sends heartbeats to the bridge, and ends the process when a scene exceeds --scene-timeout.

    Args:
        bridge: handle of the bridge actor.
        key: the scene's key.
        ledger: of the scene's attempts; a timeout is recorded there.
        timeout: seconds; None: never.
        on_heartbeat: called with each heartbeat, so not for a scene that is done at once.
    """

    def __init__(
        self, bridge: Any, key: str, ledger: Ledger, timeout: float | None, on_heartbeat: Callable[[], None]
    ) -> None:
        self._bridge = bridge
        self._key = key
        self._ledger = ledger
        self._deadline = time.monotonic() + timeout if timeout else None
        self._timeout = timeout
        self._on_heartbeat = on_heartbeat
        self._stage = "starting"
        self._photo: ImageRef | None = None
        self._counts: Mapping[str, int] = {}
        self._stage_began = threading.Event()
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rawnind-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if self._timeout:  # a decoder that holds the GIL stops the thread too, but not the system's alarm
            signal.setitimer(signal.ITIMER_REAL, self._timeout + timing.ALARM_GRACE)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timeout:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._finished.set()
        self._stage_began.set()
        self._thread.join()

    @contextmanager
    def reading(self, photo: ImageRef) -> Iterator[None]:
        """Marks the photo that is being read; a timeout is recorded with it."""
        self._photo = photo
        try:
            yield
        finally:  # a photo that could not be read must not be blamed for a later timeout
            self._photo = None

    def enter(self, stage: str, counts: Mapping[str, int]) -> None:
        """A stage begins; `counts` are the photos and pairs done so far."""
        self._stage, self._counts = stage, counts
        self._stage_began.set()

    def _run(self) -> None:
        """Sends a heartbeat when a stage begins, and at regular intervals; none for a scene that is done at once."""
        while not self._finished.wait(min(timing.HEARTBEAT_MIN, self._pause())):
            self._stage_began.wait(self._pause())
            self._stage_began.clear()
            if self._finished.is_set():
                return
            if self._deadline and time.monotonic() >= self._deadline:
                self._give_up()
            stage = f"{self._stage}: {_COMPILING}" if is_compiling() else self._stage
            self._bridge.heartbeat.remote(self._key, stage, self._counts)
            self._on_heartbeat()

    def _give_up(self) -> NoReturn:
        """Ends the process, because nothing else stops a decoder that hangs; Ray hands the scene to another worker."""
        try:
            self._ledger.mark_timeout(self._stage, self._photo.sha1 if self._photo else None)
        finally:
            os._exit(1)

    def _pause(self) -> float:
        left = self._deadline - time.monotonic() if self._deadline else timing.HEARTBEAT
        return max(0.01, min(timing.HEARTBEAT, left))
