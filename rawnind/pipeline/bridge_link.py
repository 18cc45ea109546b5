"""A worker's side of the bridge: asks for admission of scenes, and commits results in groups."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from rawnind import timing
from rawnind.bridge.messages import Submission, WorkerIncarnation
from rawnind.errors import RawnindError
from rawnind.pipeline.calls import translated

MOST_HELD = 31
"""Results that a worker holds back at most, so that small scenes are committed together."""


class BridgeLink:
    """Calls of the bridge by one worker.

    Results of small scenes are held back for `timing.COMMIT_GROUP` and then committed together: each commit is a file of its own. A
    scene that took longer is committed at once. All methods raise RayActorError where the bridge was ended for good, as it is
    with its driver.

    Args:
        bridge: handle of the bridge actor.
        worker: that calls.
    """

    def __init__(self, bridge: Any, worker: WorkerIncarnation) -> None:
        self._bridge = bridge
        self._worker = worker
        self._held: list[Submission] = []
        self._committed = time.monotonic()
        self._lock = threading.Lock()
        self._error: RawnindError | RayActorError | None = None
        self._call("worker_started", worker)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self._bridge, method).remote(*arguments))
        except RayActorError:
            raise
        except RayError as error:
            raise translated(error) from error

    def admitted(self, name: str) -> bool:
        """Waits until a scene or a chunk may start; False when it has an outcome already, or the run is stopping.

        Args:
            name: `Chunk.name`.
        """
        pause = timing.ADMISSION_RETRY_MIN
        while True:
            answer = self._call("admit", name, self._worker)
            if answer is not None:
                return bool(answer)
            if self._held:
                self.commit()  # held scenes are in flight too
                continue
            time.sleep(pause)
            pause = min(2 * pause, timing.ADMISSION_RETRY_MAX)

    def is_wanted(self, key: str, stage: str) -> bool:
        """Reports an admitted scene that is not processed yet; False where it has an outcome already, or the run is stopping."""
        if self._call("admit", key, self._worker) is False:
            return False
        self._bridge.heartbeat.remote(key, stage)
        return True

    def finished_chunk(self, name: str, counts: Mapping[str, int]) -> None:
        """Reports that a chunk is stored, and that this worker processes no more of it.

        Args:
            name: of the chunk.
            counts: its photos and pairs, by the names of `stages.result_counts`.
        """
        self._call("finished_chunk", name, counts)

    def add(self, submission: Submission) -> None:
        """Commits a result, now or with those that follow. Errors as in `commit`."""
        with self._lock:
            self._held.append(submission)
        since = time.monotonic() - self._committed
        if since >= timing.COMMIT_GROUP or len(self._held) >= MOST_HELD:
            self.commit()

    def commit(self) -> None:
        """Commits the results that are held back.

        Raises:
            RawnindError: The bridge's own error, now or in `commit_in_background`.
        """
        with self._lock:
            if self._error:
                raise self._error
            held, self._held = self._held, []
            if held:
                self._call("submit", held)
            self._committed = time.monotonic()

    def commit_in_background(self) -> None:
        """`commit` from another thread, while a scene takes longer than expected; the next `commit` raises its error."""
        try:
            self.commit()
        except (RawnindError, RayActorError) as error:
            self._error = error
