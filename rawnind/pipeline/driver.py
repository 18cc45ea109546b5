"""The driver's side of one run: sends scenes to workers, watches the bridge, and stops on a signal or --timeout."""

import contextlib
import math
import queue
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.data import Dataset
from ray.exceptions import GetTimeoutError, RayError

from rawnind import timing
from rawnind.bridge.messages import Snapshot
from rawnind.capacity import find_pool, photo_sizes
from rawnind.download_estimate import estimated_sizes
from rawnind.errors import OutputError, RayLostError, StoppedEarlyError, WorkersDyingError
from rawnind.output.store import Store
from rawnind.pipeline.bridge_link import MOST_HELD
from rawnind.pipeline.calls import BridgeCalls, RayWatch
from rawnind.pipeline.cluster_nodes import Head, NodeWatch, may_grow, nodes, require_resources
from rawnind.pipeline.execution import Execution
from rawnind.pipeline.graph import (
    build_pipeline,
    remove_fetched_everywhere,
    require_same_installation,
    start_bridge,
    work_of,
)
from rawnind.pipeline.job import Job
from rawnind.pipeline.ray_cluster import is_local
from rawnind.pipeline.signals import Interrupts
from rawnind.pipeline.worker import trouble_of
from rawnind.progress.progress import Progress
from rawnind.records import Scene, Summary

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
        fetched = self._job.fetched
        sizes = estimated_sizes(scenes, fetched.files) if fetched else photo_sizes(scenes)
        work = work_of(self._job, scenes)
        noisy = sum(len(scene.noisy) for scene in scenes)
        pool = find_pool(
            nodes(), self._job.options, scenes=len(work), noisy=noisy, sizes=sizes, grows=may_grow()
        )
        if pool.reduced:
            self._progress.noted(pool.reduced)
        max_scenes = self._job.options.max_scenes or pool.workers * (1 + MOST_HELD)
        actor = start_bridge(self._job, max_scenes=max_scenes)
        watch = RayWatch()
        bridge = BridgeCalls(actor, watch)
        try:
            self._interrupts.listen(lambda: self._request_stop("stopped on request"))
            node_watch = None if is_local() else NodeWatch(self._job.options, pool, Head())
            self._watch(bridge, build_pipeline(self._job, work, actor, pool=pool), watch, node_watch)
            self._refuse_to_finish_early(bridge, versions)
            summary: Summary = bridge("finish", versions)
            self._progress.update(bridge("snapshot"))
        except RayLostError:
            raise  # nobody answers
        except BaseException as error:
            _end(actor, error)
            raise
        _end(actor)
        if fetched and not fetched.keep:
            remove_fetched_everywhere(fetched, scenes, self._job.output)
        self._progress.finished(summary)
        return summary

    def _refuse_to_finish_early(self, bridge: BridgeCalls, versions: Mapping[str, str]) -> None:
        if self._stopped_at is not None and bridge("open_scenes"):
            listed = " The manifest lists what was done until now." if bridge("suspend", versions) else ""
            raise StoppedEarlyError(f"{self._why}; run the same command again to resume.{listed}")

    def _scenes(self, keys: Sequence[str]) -> list[Scene]:
        wanted = set(keys)
        return [scene for scene in self._job.plan.selected if scene.key in wanted]

    def _watch(
        self, bridge: BridgeCalls, rows: Dataset, watch: RayWatch, node_watch: NodeWatch | None
    ) -> None:
        """Executes the pipeline until every scene is done, or the run is to stop."""
        execution = Execution(rows)
        try:
            bridge("begin")  # workers start meanwhile
            self._until_done(bridge, execution, watch, node_watch)
        except RayLostError:
            execution.abandon()  # there is no Ray that could end anything
            raise
        except BaseException:
            execution.end()
            raise
        execution.end()

    def _until_done(
        self, bridge: BridgeCalls, execution: Execution, watch: RayWatch, node_watch: NodeWatch | None
    ) -> None:
        built = time.monotonic()
        while True:
            if self._is_timed_out(built) and self._stopped_at is None:
                self._request_stop(f"--timeout of {self._job.options.timeout} s is over")
            if stopping := self._stopped_at is not None:
                bridge("stop")
            done = self._is_last(execution, watch)
            snapshot: Snapshot = bridge("snapshot")
            self._progress.update(snapshot)
            for sentence in node_watch.sentences(snapshot) if node_watch else ():
                self._progress.noted(sentence)
                bridge("note", sentence)
            self._check(snapshot)
            self._check_lock()
            watch.check()
            if done or (stopping and self._may_end(snapshot)):
                return

    def _is_last(self, execution: Execution, watch: RayWatch) -> bool:
        """Looks at the rows received so far, waiting a moment for the first; whether the last one was among them.

        Raises:
            RawnindError: Something that must stop the run, in a worker or in the execution.
        """
        with contextlib.suppress(queue.Empty):
            row = execution.received.get(timeout=timing.DRIVER_POLL)
            while row is not None:
                if isinstance(row, BaseException):
                    watch.require()
                    raise row
                if trouble := trouble_of(row):
                    raise trouble
                row = execution.received.get_nowait()
            return True
        return False

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

    def _request_stop(self, why: str) -> None:
        self._why = why
        self._stopped_at = time.monotonic()
        self._progress.stopping(why)


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
