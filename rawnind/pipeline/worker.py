"""The callable that Ray Data maps over scenes."""

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray
from pydantic import TypeAdapter
from ray.exceptions import RayActorError

from rawnind import timing
from rawnind.bridge.messages import Submission
from rawnind.bridge.stages import chunk_counts
from rawnind.chunks import Chunk
from rawnind.errors import RawnindError, SourceError
from rawnind.fetch.on_demand import as_planned, fetch_scene, on_this_machine, raw_folder, remove_scene
from rawnind.installation import this_installation
from rawnind.output.journal.journal import encode_result
from rawnind.output.store import Store
from rawnind.pipeline.bridge_link import BridgeLink
from rawnind.pipeline.job import Assignment
from rawnind.pipeline.malloc import keep_freed_memory
from rawnind.pipeline.scene_chunk import Attempt, process_chunk
from rawnind.pipeline.trouble import FATAL, decode_trouble, encode_trouble
from rawnind.records import Scene
from rawnind.source.fingerprint import fingerprint
from rawnind.source.remote import RemoteFile

_SCENE = TypeAdapter(Scene)
_FILES = TypeAdapter(tuple[RemoteFile, ...])

_NOTHING: Mapping[str, SourceError] = {}


class _NoLongerWantedError(Exception):
    """The run is stopping; what was fetched of a scene stays for the next one."""


def scene_row(chunk: Chunk, files: tuple[RemoteFile, ...] | None = None) -> dict[str, Any]:
    """A scene or a chunk of one as a Ray Data row: paths and hashes, never pixels.

    Args:
        chunk: what a worker takes.
        files: where the scene's photos are fetched from; None: they are there.
    """
    row = {"scene": _SCENE.dump_json(chunk.scene), "number": chunk.number, "count": chunk.count}
    return row if files is None else row | {"files": _FILES.dump_json(files)}


def _chunk(row: Mapping[str, Any]) -> Chunk:
    return Chunk(scene=_SCENE.validate_json(row["scene"]), number=row["number"], count=row["count"])


class SceneWorker:
    """Processes the scenes of a block, or chunks of large ones, and commits results to the bridge; never raises for bad data.

    It returns one row: `scenes`, the number of those whose results it has committed, and `trouble` (JSON; an error that must stop the run,
    else empty).

    Ray calls it in two threads, of which only one processes at a time: while the bridge checks and commits a scene of one, the other
    processes the next one, and where photos are fetched, it fetches them while the other processes the present one.

    Args:
        assignment: the run, its bridge, and how to process.
    """

    def __init__(self, assignment: Assignment) -> None:
        incarnation = ray.get_runtime_context().get_actor_id(), uuid.uuid4().hex
        self._link = BridgeLink(assignment.bridge, incarnation)  # before anything that may crash
        keep_freed_memory()
        self._driver_root = assignment.root
        if assignment.fetches:
            assignment = replace(assignment, root=raw_folder(assignment.output))
        self._assignment = assignment
        self._store = Store(assignment.output)
        self._is_open = False
        self._is_compared = False
        self._turn = threading.Lock()
        # The driver imports this module too, and needs neither numba nor LibRaw.
        from rawnind.pipeline.scene_attempt import SceneAttempt

        attempt = SceneAttempt(assignment, store=self._store, overdue=self._link.commit_in_background)
        # One thread processes every scene: glibc keeps freed memory for each thread, and two would keep 150 MB more.
        thread = ThreadPoolExecutor(1, thread_name_prefix="rawnind-scene")
        self._attempt: Attempt = lambda chunk, lost: thread.submit(attempt, chunk, lost).result()

    def __call__(self, block: pa.Table) -> dict[str, list[Any]]:
        """Processes a block of `scene_row`s."""
        done, trouble = 0, ""
        try:
            for row in block.to_pylist():
                done += self._serve(_chunk(row), row.get("files"))
            self._link.commit()
        except FATAL as error:
            trouble = encode_trouble(error)
        except RayActorError:
            pass  # the driver has ended, and the bridge with it: nobody waits for these results
        return {"scenes": [done], "trouble": [trouble]}

    def _serve(self, chunk: Chunk, listed: bytes | None) -> bool:
        """Processes a row and commits its scene's result; False where there is none yet, or it is not to be processed any more."""
        if listed is not None:
            return self._link.admitted(chunk.name) and self._fetch_and_process(chunk.scene, listed)
        with self._turn:
            if not self._link.admitted(chunk.name):
                return False
            done = self.process(chunk.scene) if chunk.count == 1 else self._process_chunk(chunk)
        if done:
            self._link.add(done)  # while the other thread processes the next scene
        return done is not None

    def _fetch_and_process(self, scene: Scene, listed: bytes) -> bool:
        files = _FILES.validate_json(listed)
        given = self._assignment
        planned, scene = scene, on_this_machine(scene, self._driver_root, given.output)
        try:
            began = time.monotonic()
            lost, counts = fetch_scene(scene, files, self._going_on(scene.key, "fetch"), shared=given.shared)
            fetched = {"fetch_seconds": time.monotonic() - began, "fetched_bytes": float(counts.transferred)}
            self._wait_for_turn(self._going_on(scene.key, "fetched"))
        except _NoLongerWantedError:
            return False
        try:
            done = self.process(scene, lost, planned)
        finally:
            self._turn.release()
        self._link.add(replace(done, telemetry={**done.telemetry, **fetched}))
        self._link.commit()
        if not given.keep_raw:
            remove_scene(scene, files)
        return True

    def _going_on(self, key: str, stage: str) -> Callable[[str], None]:
        """A function that reports a scene that is not processed yet, and raises _NoLongerWantedError where the run is stopping.

        It takes why the stage waits, empty where it does not.
        """
        reported = time.monotonic()

        def going_on(waiting: str) -> None:
            nonlocal reported
            if time.monotonic() - reported >= timing.HEARTBEAT_MIN:
                if not self._link.is_wanted(key, f"{stage}: {waiting}" if waiting else stage):
                    raise _NoLongerWantedError
                reported = time.monotonic()

        return going_on

    def _wait_for_turn(self, going_on: Callable[[str], None]) -> None:
        while not self._turn.acquire(timeout=timing.HEARTBEAT_MIN):
            going_on("")

    def process(
        self, scene: Scene, lost: Mapping[str, SourceError] = _NOTHING, planned: Scene | None = None
    ) -> Submission:
        """A scene's result, with the fingerprint of its files.

        Args:
            scene: the scene.
            lost: why photos could not be fetched, by file name.
            planned: the scene with the paths that the plan has; None: they are the same.

        Raises:
            RawnindError: One of `FATAL`, which must stop the run.
        """
        inputs = fingerprint(scene)  # before the files are read: a later change then shows
        self._require_same_installation()
        self._open_output()
        result, telemetry = self._attempt(Chunk(scene=scene), lost)
        if planned:
            result = as_planned(result, planned)
        return Submission(key=scene.key, data=encode_result(result), telemetry=telemetry, inputs=inputs)

    def _process_chunk(self, chunk: Chunk) -> Submission | None:
        """The scene's result, where this was its last unfinished chunk, or where it ends the scene; else None."""
        self._require_same_installation()
        self._open_output()
        done = process_chunk(chunk, self._assignment, store=self._store, attempt=self._attempt)
        if isinstance(done, Submission):
            return done
        self._link.finished_chunk(chunk.name, chunk_counts(done.result, chunk.number))
        return None

    def _require_same_installation(self) -> None:
        if self._assignment.installation and not self._is_compared:
            self._assignment.installation.require_same(this_installation())
        self._is_compared = True

    def _open_output(self) -> None:
        """Pins the output folder before the first scene, after checking that no other folder has taken its place since the run began.

        Raises:
            OutputError: Another folder has, or the storage reports an error.
            StoppedEarlyError: Another run has taken the folder over.
        """
        if self._is_open:
            return
        self._store.pin_root()
        if self._assignment.lock:
            self._assignment.lock.require(self._store)
            self._store.require_root()
        self._is_open = True


def trouble_of(row: dict[str, Any]) -> RawnindError | None:
    """A row's error that must stop the whole run; None where it has none."""
    return decode_trouble(row["trouble"]) if row["trouble"] else None
