"""The driver's side of one run: sends scenes to workers and results to the bridge, and stops on a signal or --timeout."""

import contextlib
import json
import math
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import ray
from ray.data import Dataset
from ray.exceptions import GetTimeoutError, RayError

from rawnind import timing
from rawnind.bridge.messages import Snapshot, Submission
from rawnind.capacity import find_pool, photo_sizes
from rawnind.errors import OutputError, RayLostError, StoppedEarlyError, WorkersDyingError
from rawnind.output.store import Store
from rawnind.pipeline.calls import BridgeCalls, RayWatch, translated
from rawnind.pipeline.graph import (
    Job,
    build_pipeline,
    nodes,
    require_resources,
    require_same_installation,
    start_bridge,
)
from rawnind.pipeline.signals import Interrupts
from rawnind.pipeline.worker import trouble_of
from rawnind.progress.progress import Progress
from rawnind.records import Scene, Summary

_BATCH = 256
"""The most scenes that are committed at once: some 300 KB where none was collected, some 100 MB where all were."""

_PER_WORKER = 2
"""Scenes in flight per worker, unless --max-scenes says otherwise: one that it processes, and one that is being committed. With one,
it would wait for each commit."""

_CRASH_LOOP = 5
"""Crashes of a worker in a row, before it asks for a scene and while none is committed, after which the run stops. Ray would
restart it for ever."""


class Driver:
    """Processes the open scenes of one run and has its manifest written.

    Args:
        job: the run.
        progress: receives progress events.
        interrupts: signals that request a stop.
    """

    def __init__(self, job: Job, progress: Progress, interrupts: Interrupts) -> None:
        self._job = job
        self._progress = progress
        self._interrupts = interrupts
        self._first_scene: float | None = None
        self._rows: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._stopped_at: float | None = None
        self._why = ""
        self._store = Store(job.output)
        self._lock_checked = time.monotonic()

    def collect(self, todo: list[str], versions: Mapping[str, str]) -> Summary:
        """Processes the open scenes and writes the manifest.

        Raises:
            ConfigError: No node has what one worker takes.
            CodeMismatchError: A process of the run imports other code or libraries.
            StoppedEarlyError: The run was stopped, ran out of time, or another run took the output folder over.
            OutputError: The storage refuses.
            SourceLostError: The source folder went away.
            WorkersDyingError: Workers die without a file's fault.
            RayLostError: A process of Ray itself ended.
            ProgramError: There is a bug, in a worker or in the bridge.
        """
        require_resources(self._job.options)
        require_same_installation(self._job.installation)
        scenes = self._scenes(todo)
        pool = find_pool(nodes(), self._job.options, len(scenes), photo_sizes(scenes))
        if pool.reduced:
            self._progress.noted(pool.reduced)
        max_scenes = self._job.options.max_scenes or _PER_WORKER * pool.workers
        actor = start_bridge(self._job, max_scenes=max_scenes)
        watch = RayWatch()
        bridge = BridgeCalls(actor, watch)
        try:
            self._interrupts.listen(lambda: self._request_stop("stopped on request"))
            bridge("begin")
            self._drain(bridge, build_pipeline(self._job, scenes, actor, pool=pool), watch)
            self._refuse_to_finish_early(bridge, versions)
            summary: Summary = bridge("finish", versions)
            self._progress.update(bridge("snapshot"))
        except RayLostError:
            raise  # nobody answers
        except BaseException as error:
            _end(actor, error)
            raise
        finally:
            self._cancelled.set()
        _end(actor)
        self._progress.finished(summary)
        return summary

    def _refuse_to_finish_early(self, bridge: BridgeCalls, versions: Mapping[str, str]) -> None:
        if self._stopped_at is not None and bridge("open_scenes"):
            listed = " The manifest lists what was done until now." if bridge("suspend", versions) else ""
            raise StoppedEarlyError(f"{self._why}; run the same command again to resume.{listed}")

    def _scenes(self, keys: Sequence[str]) -> list[Scene]:
        wanted = set(keys)
        return [scene for scene in self._job.plan.selected if scene.key in wanted]

    def _drain(self, bridge: BridgeCalls, rows: Dataset, watch: RayWatch) -> None:
        thread = threading.Thread(target=self._receive, args=(rows,), name="rawnind-rows", daemon=True)
        thread.start()
        built = time.monotonic()
        while True:
            if self._is_timed_out(built) and self._stopped_at is None:
                self._request_stop(f"--timeout of {self._job.options.timeout} s is over")
            stopping = self._stopped_at is not None
            if stopping:
                bridge("stop")
            done = self._commit_rows(bridge)
            snapshot: Snapshot = bridge("snapshot")
            self._progress.update(snapshot)
            self._check(snapshot)
            self._check_lock()
            watch.check()
            if done or (stopping and self._rows.empty() and self._may_end(snapshot)):
                break
        self._cancelled.set()
        thread.join(timing.SHUTDOWN)

    def _is_timed_out(self, built: float) -> bool:
        """Whether --timeout is over; it counts from the first scene's start, because workers take a while to start."""
        begin = built + timing.FIRST_SCENE if self._first_scene is None else self._first_scene
        return time.monotonic() - begin >= (self._job.options.timeout or math.inf)

    def _check(self, snapshot: Snapshot) -> None:
        if self._first_scene is None and (snapshot.peak_in_flight or not snapshot.scenes.open):
            self._first_scene = time.monotonic()
        if snapshot.startup_crashes >= _CRASH_LOOP:
            raise WorkersDyingError(
                f"workers die before they begin a scene, {snapshot.startup_crashes} times in a row. Memory may be too short for "
                "them, or a library does not work on their machine; see Ray's log of the worker, then run again."
            )

    def _check_lock(self) -> None:
        """Checks the run's lock as often as a lease is renewed: long scenes commit nothing for hours.

        Raises:
            StoppedEarlyError: Another run has taken the output folder over.
        """
        if self._job.lock and time.monotonic() - self._lock_checked >= timing.LOCK_RENEWAL:
            self._lock_checked = time.monotonic()
            with contextlib.suppress(OutputError):  # the run stops when it cannot write
                self._job.lock.require(self._store)

    def _may_end(self, snapshot: Snapshot) -> bool:
        """Whether a run that was asked to stop has no scene in flight left, or has waited long enough."""
        return not snapshot.in_flight or time.monotonic() - (self._stopped_at or 0) > timing.STOP_GRACE

    def _commit_rows(self, bridge: BridgeCalls) -> bool:
        """Commits the rows received so far, waiting a moment for the first; whether the last row was among them."""
        rows: list[dict[str, Any] | BaseException | None] = []
        with contextlib.suppress(queue.Empty):
            rows.append(self._rows.get(timeout=timing.DRIVER_POLL))
            while len(rows) < _BATCH:
                rows.append(self._rows.get_nowait())
        results: list[dict[str, Any]] = []
        for row in rows:
            if not _is_result(row):
                break
            results.append(row)
        if submissions := [_submission(row) for row in results if row["result"]]:
            bridge("commit_many", submissions)
        for other in rows[len(results) :]:
            if isinstance(other, BaseException):
                raise other
            if other is not None and (trouble := trouble_of(other)):
                raise trouble
        return len(results) < len(rows)

    def _receive(self, rows: Any) -> None:
        """Moves rows from Ray to a queue, so that the driver can do other things while it waits.

        Nothing is prefetched, as by `iter_rows`: a row would be held back until the next one is ready.
        """
        try:
            for batch in rows.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
                for row in batch.to_pylist():
                    self._rows.put(row)
                if self._cancelled.is_set():
                    break
        except RayError as error:
            self._rows.put(translated(error))
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self._rows.put(error)
        else:
            self._rows.put(None)

    def _request_stop(self, why: str) -> None:
        self._why = why
        self._stopped_at = time.monotonic()
        self._progress.stopping(why)


def _is_result(row: dict[str, Any] | BaseException | None) -> TypeGuard[dict[str, Any]]:
    return isinstance(row, dict) and trouble_of(row) is None


def _submission(row: Mapping[str, Any]) -> Submission:
    return Submission(
        key=row["key"], data=row["result"], telemetry=json.loads(row["telemetry"]), inputs=row["inputs"]
    )


def _end(bridge: Any, error: BaseException | None = None) -> None:
    """Closes the bridge and ends its process.

    Args:
        bridge: the actor's handle.
        error: why the run failed; None where it finished.
    """
    if error is not None and not isinstance(error, StoppedEarlyError):
        _try_call(bridge.fail.remote(f"{type(error).__name__}: {error}"))
    _try_call(bridge.close.remote())
    ray.kill(bridge)


def _try_call(reference: Any) -> None:
    """Waits for a call of the bridge, and ignores that the bridge is dead or does not answer."""
    with contextlib.suppress(RayError, GetTimeoutError):
        ray.get(reference, timeout=timing.SHUTDOWN)
