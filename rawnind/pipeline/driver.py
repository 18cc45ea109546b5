"""The driver's side of one run: rows go out to workers, results go to the bridge, and somebody looks at the clock."""

import contextlib
import json
import math
import queue
import re
import threading
import time
from collections.abc import Mapping
from typing import Any, TypeGuard

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from rawnind import timing
from rawnind.bridge.messages import Snapshot, Submission
from rawnind.errors import ProgramError, RawnindError, StoppedEarlyError, WorkersDyingError
from rawnind.pipeline.graph import Job, build_pipeline, pool_size, start_bridge
from rawnind.pipeline.signals import Interrupts
from rawnind.pipeline.worker import trouble_of
from rawnind.progress.progress import Progress
from rawnind.records import Summary

_BATCH = 256
"""The most scenes that are committed at once: some 300 KB where none was collected, some 100 MB where all were."""

_STILLBORN = 5
"""Deaths of a worker in a row, before it asks for a scene and while none is finished, after which the run gives up. Ray
starts it anew for ever."""


class Driver:
    """Carries one run from its open scenes to its manifest.

    Args:
        job: the run.
        progress: told what happens.
        interrupts: where a request to stop comes from.
    """

    def __init__(self, job: Job, progress: Progress, interrupts: Interrupts) -> None:
        self._job = job
        self._progress = progress
        self._interrupts = interrupts
        self._begun: float | None = None
        self._rows: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        self._enough = threading.Event()
        self._stopped_at: float | None = None
        self._why = ""

    def collect(self, todo: list[str], versions: Mapping[str, str]) -> Summary:
        """Processes the open scenes and writes the manifest.

        Raises:
            StoppedEarlyError: The run was stopped or ran out of time.
            OutputError: The storage refuses.
            SourceLostError: The source folder went away.
            WorkersDyingError: Workers die without a file's fault.
            ProgramError: There is a bug, in a worker or in the bridge.
        """
        workers = pool_size(self._job.options, len(todo))
        bridge = start_bridge(self._job, max_scenes=self._job.options.max_scenes or workers)
        try:
            self._interrupts.listen(lambda: self._ask_to_stop("stopped on request"))
            ask(bridge.begin.remote())
            self._drain(bridge, todo, workers)
            self._refuse_to_finish_early(bridge)
            summary: Summary = ask(bridge.finish.remote(versions))
            self._progress.update(ask(bridge.snapshot.remote()))
        except StoppedEarlyError:
            raise
        except BaseException as error:
            _politely(bridge.fail.remote(f"{type(error).__name__}: {error}"))
            raise
        finally:
            self._enough.set()
            _politely(bridge.close.remote())
            ray.kill(bridge)
        self._progress.finished(summary)
        return summary

    def _refuse_to_finish_early(self, bridge: Any) -> None:
        if self._stopped_at is not None and ask(bridge.open_scenes.remote()):
            raise StoppedEarlyError(f"{self._why}; run the same command again to resume")

    def _drain(self, bridge: Any, todo: list[str], workers: int) -> None:
        keys = set(todo)
        scenes = [scene for scene in self._job.plan.selected if scene.key in keys]
        rows = build_pipeline(self._job, scenes, bridge, workers=workers)
        thread = threading.Thread(target=self._pull, args=(rows,), name="rawnind-rows", daemon=True)
        thread.start()
        ready = time.monotonic()
        while True:
            if self._is_over(ready) and self._stopped_at is None:
                self._ask_to_stop(f"--timeout of {self._job.options.timeout} s is over")
            stopping = self._stopped_at is not None
            if stopping:
                ask(bridge.stop.remote())
            done = self._take_rows(bridge)
            snapshot: Snapshot = ask(bridge.snapshot.remote())
            self._progress.update(snapshot)
            self._take_notice(snapshot)
            if done or (stopping and self._rows.empty() and self._is_idle(snapshot)):
                break
        self._enough.set()
        thread.join(timing.SHUTDOWN)

    def _is_over(self, ready: float) -> bool:
        """Whether --timeout is over, which counts from the first scene's beginning: starting workers takes a while."""
        begun = ready + timing.FIRST_SCENE if self._begun is None else self._begun
        return time.monotonic() - begun >= (self._job.options.timeout or math.inf)

    def _take_notice(self, snapshot: Snapshot) -> None:
        if self._begun is None and (snapshot.peak_in_flight or not snapshot.scenes.open):
            self._begun = time.monotonic()
        if snapshot.startup_crashes >= _STILLBORN:
            raise WorkersDyingError(
                f"workers die before they begin a scene, {snapshot.startup_crashes} times in a row. Memory may be too short for "
                "them, or a library does not work on their machine; see Ray's log of the worker, then run again."
            )

    def _is_idle(self, snapshot: Snapshot) -> bool:
        """Whether nothing is left to wait for after a request to stop."""
        return not snapshot.in_flight or time.monotonic() - (self._stopped_at or 0) > timing.STOP_GRACE

    def _take_rows(self, bridge: Any) -> bool:
        """Commits the rows that are there, and waits for the next one only where none is; whether it was the last."""
        rows: list[dict[str, Any] | BaseException | None] = []
        with contextlib.suppress(queue.Empty):
            rows.append(self._rows.get(timeout=timing.DRIVER_POLL))
            while len(rows) < _BATCH:
                rows.append(self._rows.get_nowait())
        good: list[dict[str, Any]] = []
        for row in rows:
            if not _is_good(row):
                break
            good.append(row)
        if arrived := [_arrived(row) for row in good if row["result"]]:
            ask(bridge.commit_many.remote(arrived))
        for other in rows[len(good) :]:
            if isinstance(other, BaseException):
                raise other
            if other is not None and (trouble := trouble_of(other)):
                raise trouble
        return len(good) < len(rows)

    def _pull(self, rows: Any) -> None:
        """Moves rows from Ray to a queue, so that the driver can look at its clock while it waits.

        Nothing is fetched ahead, as `iter_rows` does: a row would be held back until the next one is ready.
        """
        try:
            for batch in rows.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
                for row in batch.to_pylist():
                    self._rows.put(row)
                if self._enough.is_set():
                    break
        except RayError as error:
            self._rows.put(understood(error))
        except BaseException as error:  # noqa: BLE001 - it is raised again by the thread that waits for the rows
            self._rows.put(error)
        else:
            self._rows.put(None)

    def _ask_to_stop(self, why: str) -> None:
        self._why = why
        self._stopped_at = time.monotonic()
        self._progress.stopping(why)


def _is_good(row: dict[str, Any] | BaseException | None) -> TypeGuard[dict[str, Any]]:
    return isinstance(row, dict) and trouble_of(row) is None


def _arrived(row: Mapping[str, Any]) -> Submission:
    return Submission(
        key=row["key"], data=row["result"], telemetry=json.loads(row["telemetry"]), inputs=row["inputs"]
    )


def ask(reference: Any) -> Any:
    """`ray.get`; what the bridge raises on purpose is raised as it is.

    Raises:
        RawnindError: What the bridge raised, or ProgramError for everything else.
    """
    try:
        return ray.get(reference)
    except RayError as error:
        raise understood(error) from error


def understood(error: RayError) -> RawnindError:
    """What Ray's error is about: what rawnind raised on purpose, or a bug, told by the last line of its traceback."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, RawnindError):
        return cause
    text = str(error).split("\n\nThe above exception was the direct cause", 1)[0]
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    places = [line.strip() for line in lines if line.lstrip().startswith("File ")]
    where = f" ({places[-1]})" if places else ""
    return ProgramError(f"{lines[-1] if lines else type(error).__name__}{where}")


def _politely(reference: Any) -> None:
    """Waits for a last word to the bridge, but not for a bridge that is gone."""
    with contextlib.suppress(RayError, GetTimeoutError):
        ray.get(reference, timeout=timing.SHUTDOWN)
