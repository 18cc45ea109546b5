"""One attempt of a worker to process a scene, after those that ended their worker."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from rawnind.chunks import Chunk
from rawnind.errors import SourceError, WorkersDyingError
from rawnind.imaging.photo import Photo
from rawnind.locations import is_uri
from rawnind.outcomes import whole_scene_result
from rawnind.output.attempts import Ledger, TimedOut
from rawnind.output.store import Store
from rawnind.pipeline.job import Assignment
from rawnind.pipeline.scene import Meter, Truths, process_scene
from rawnind.pipeline.scene_subprocess import process_isolated
from rawnind.pipeline.touched_memory import TouchedMemory
from rawnind.pipeline.watchdog import Watchdog
from rawnind.reasons import Reason
from rawnind.records import ImageRef, Scene, SceneResult, SeenFiles
from rawnind.source.decode import decode
from rawnind.source.decode_subprocess import decode_isolated
from rawnind.source.fingerprint import seen_files
from rawnind.source.lost import checking_source
from rawnind.source.storage import photo_stat

_DEATHS_BEFORE_FILES, _DEATHS_BEFORE_SCENE = 2, 4
"""Deaths of a scene's worker after which its files are decoded in child processes, and after which all of it is processed in one."""

_DEATHS_BEFORE_GIVING_UP = 8
"""Deaths after which the run stops: no single file causes them, and further retries would not help."""


class SceneAttempt:
    """Processes a scene, or a chunk of it, with more care the more workers it has ended.

    Args:
        assignment: of the worker.
        store: the output folder.
        overdue: called from another thread while a scene takes longer than expected.
    """

    def __init__(self, assignment: Assignment, *, store: Store, overdue: Callable[[], None]) -> None:
        self._assignment = assignment
        self._store = store
        self._overdue = overdue
        self._memory = TouchedMemory()
        self._kept = Truths()
        self._kept_of: tuple[str, SeenFiles] | None = None

    def __call__(self, chunk: Chunk, lost: Mapping[str, SourceError]) -> tuple[SceneResult, dict[str, float]]:
        """The result of the scene with a chunk's noisy photos alone, and what was measured on the way.

        Args:
            chunk: the whole scene, or a chunk of it.
            lost: why photos could not be fetched, by file name.

        Raises:
            RawnindError: One of `FATAL`, which must stop the run.
        """
        given, scene, truths = self._assignment, chunk.part, self._kept_truths(chunk)
        ledger = Ledger(self._store, given.run, scene.key, chunk.number if chunk.count > 1 else None)
        attempts = ledger.begin() if _has_photo(scene) else 0
        timeouts = ledger.timeouts() if attempts else []
        deaths = attempts - len(timeouts)
        if deaths >= _DEATHS_BEFORE_GIVING_UP:
            raise WorkersDyingError(
                f"{chunk.name} has ended its worker {deaths} times, and neither it nor one of its files does so by itself. "
                "Memory may be too short: give each scene more with --cpus-per-scene, then run again to resume."
            )
        slow = self._slow_photo(scene, timeouts)
        if timeouts and slow is None:
            detail = f"gave up after {given.scene_timeout:g} s, in stage {timeouts[-1].stage}"
            return whole_scene_result(scene, given.recipe, Reason.TIMEOUT, detail), {"attempts": attempts + 1}
        decoder = decode if deaths < _DEATHS_BEFORE_FILES else decode_isolated
        with Watchdog(given.bridge, chunk.name, ledger, given.scene_timeout, self._overdue) as watchdog:
            meter = Meter(watchdog.enter, self._memory if self._memory.is_due() else None)

            def read(ref: ImageRef) -> Photo:
                if slow and ref.sha1 == slow.sha1:
                    raise self._timed_out(ref)
                if ref.filename in lost:
                    raise lost[ref.filename]
                with checking_source(given.root), watchdog.reading(ref):
                    return Photo.from_visible(*decoder(ref, memory=given.memory))

            if deaths >= _DEATHS_BEFORE_SCENE:
                watchdog.enter("isolated", {})
                truths.clear()  # the child needs the memory
                result = process_isolated(
                    scene, given.recipe, self._store, root=given.root, memory=given.memory
                )
            else:
                result = process_scene(
                    scene,
                    given.recipe,
                    self._store,
                    meter=meter,
                    read=_measured(read, meter),
                    memory=given.memory,
                    truths=truths,
                    counted=scene.ground_truths if chunk.number else (),
                )
        return result, {**meter.done(), "attempts": attempts + 1}

    def _kept_truths(self, chunk: Chunk) -> Truths:
        """The ground truths that are kept of the last chunk, where it was one of the same scene; else none."""
        files = (chunk.scene.key, seen_files(replace(chunk.scene, noisy=()))) if chunk.count > 1 else None
        if files is None or files != self._kept_of:
            self._kept = Truths()
        self._kept_of = files
        return self._kept

    def _slow_photo(self, scene: Scene, timeouts: list[TimedOut]) -> ImageRef | None:
        """The photo whose decoding timed out, where only one attempt did: the scene is then processed without it."""
        if len(timeouts) != 1:
            return None
        photos = (*scene.ground_truths, *scene.noisy)
        return next((ref for ref in photos if ref.sha1 == timeouts[0].sha1), None)

    def _timed_out(self, ref: ImageRef) -> SourceError:
        return SourceError(
            Reason.TIMEOUT, f"{ref.filename}: not decoded after {self._assignment.scene_timeout:g} s"
        )


def _has_photo(scene: Scene) -> bool:
    """Whether any of a scene's files may be there; where none is, nothing of the scene can end its worker."""
    return any(is_uri(ref.path) or Path(ref.path).exists() for ref in (*scene.ground_truths, *scene.noisy))


def _measured(read: Callable[[ImageRef], Photo], meter: Meter) -> Callable[[ImageRef], Photo]:
    """`read` that adds each file's size to `read_bytes`."""

    def measured(ref: ImageRef) -> Photo:
        with contextlib.suppress(OSError):  # `read` reports what is wrong with the file
            meter.add("read_bytes", (photo_stat(ref.path) or (0,))[0])
        return read(ref)

    return measured
