"""The callable that Ray Data maps over scenes."""

import contextlib
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

import ray
from pydantic import TypeAdapter

from rawnind import timing
from rawnind.errors import OutputError, RawnindError, SourceError, SourceLostError, WorkersDyingError
from rawnind.imaging.photo import Photo
from rawnind.outcomes import whole_scene
from rawnind.output.attempts import Ledger, TimedOut
from rawnind.output.journal.journal import encode_result
from rawnind.output.store import Store
from rawnind.pipeline.malloc import keep_freed_memory
from rawnind.pipeline.scene import Meter, process_scene
from rawnind.reasons import Reason
from rawnind.recipe import Recipe
from rawnind.records import ImageRef, Scene, SceneResult
from rawnind.source.decode import decode
from rawnind.source.decode_subprocess import decode_isolated
from rawnind.source.fingerprint import fingerprint

_SCENE = TypeAdapter(Scene)

_DEATHS_BEFORE_ISOLATION = 2
"""Deaths of a scene's worker after which its files are decoded in processes of their own."""

_DEATHS_BEFORE_GIVING_UP = 8
"""Deaths after which the run stops: no single file is to blame, and trying again for ever helps nobody."""


def scene_row(scene: Scene) -> dict[str, bytes]:
    """A scene as a Ray Data row: paths and hashes, never pixels."""
    return {"scene": _SCENE.dump_json(scene)}


class SceneWorker:
    """Processes one scene per row and returns its result; never raises for bad data.

    A row comes back as `key`, `result` (JSON; empty when there was nothing to do), `telemetry` (JSON), `inputs` (the
    fingerprint of the scene's files) and `trouble` (JSON; what stops the whole run, else empty).

    Args:
        output: the output folder.
        run: the run's name.
        root: the folder that the photos come from.
        recipe: the parameters.
        bridge: handle of the bridge actor.
        scene_timeout: seconds after which a scene is given up; None: never.
    """

    def __init__(
        self,
        *,
        output: str,
        run: str,
        root: str,
        recipe: Recipe,
        bridge: Any,
        scene_timeout: float | None,
    ) -> None:
        self._worker = ray.get_runtime_context().get_actor_id(), uuid.uuid4().hex
        ray.get(bridge.worker_started.remote(self._worker))  # before anything else that it may die of
        keep_freed_memory()
        self._store = Store(output)
        self._root = Path(root)
        self._run = run
        self._recipe = recipe
        self._bridge = bridge
        self._scene_timeout = scene_timeout

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Processes one row."""
        scene = _SCENE.validate_json(row["scene"])
        if not self._admitted(scene.key):
            return _row(scene.key)
        inputs = fingerprint(scene)  # before the files are read: a change in between is noticed later
        try:
            result, telemetry = self._process(scene)
        except _TROUBLES as error:
            return _row(scene.key, trouble=_trouble(error))
        return _row(scene.key, result=encode_result(result), telemetry=telemetry, inputs=inputs)

    def _process(self, scene: Scene) -> tuple[SceneResult, dict[str, float]]:
        ledger = Ledger(self._store, self._run, scene.key)
        attempts = ledger.begin()
        timeouts = ledger.timeouts()
        deaths = attempts - len(timeouts)
        if deaths >= _DEATHS_BEFORE_GIVING_UP:
            raise WorkersDyingError(
                f"{scene.key} has ended its worker {deaths} times, and none of its files does so by itself. Memory "
                "may be too short for it: give each scene more with --cpus-per-scene, then run again to resume."
            )
        slow = self._slow_photo(scene, timeouts)
        if timeouts and slow is None:
            detail = f"gave up after {self._scene_timeout:g} s, in stage {timeouts[-1].stage}"
            return whole_scene(scene, self._recipe, Reason.TIMEOUT, detail), {"attempts": attempts + 1}
        decoder = decode if deaths < _DEATHS_BEFORE_ISOLATION else decode_isolated
        with _Watch(self._bridge, scene.key, ledger, self._scene_timeout) as watch:
            meter = Meter(watch.enter)

            def read(ref: ImageRef) -> Photo:
                if slow and ref.sha1 == slow.sha1:
                    raise self._too_slow(ref)
                with self._blaming_no_file(), watch.reading(ref):
                    return Photo.from_visible(*decoder(ref))

            result = process_scene(scene, self._recipe, self._store, meter=meter, read=_measured(read, meter))
        return result, {**meter.done(), "attempts": attempts + 1}

    def _slow_photo(self, scene: Scene, timeouts: list[TimedOut]) -> ImageRef | None:
        """The photo that the only attempt which ran out of time was reading; without it the scene may still do."""
        if len(timeouts) != 1:
            return None
        photos = (*scene.ground_truths, *scene.noisy)
        return next((ref for ref in photos if ref.sha1 == timeouts[0].sha1), None)

    def _too_slow(self, ref: ImageRef) -> SourceError:
        return SourceError(Reason.TIMEOUT, f"{ref.filename}: not decoded after {self._scene_timeout:g} s")

    def _admitted(self, key: str) -> bool:
        """Waits for a place among the scenes in flight; False when there is nothing to do, or the run is stopping."""
        pause = timing.ADMISSION_RETRY_MIN
        while True:
            answer = ray.get(self._bridge.admit.remote(key, self._worker))
            if answer is not None:
                return bool(answer)
            time.sleep(pause)
            pause = min(2 * pause, timing.ADMISSION_RETRY_MAX)

    @contextmanager
    def _blaming_no_file(self) -> Iterator[None]:
        """A file that is missing together with its whole source is not the file's fault."""
        try:
            yield
        except SourceError as error:
            if error.reason in _LOST and _is_gone(self._root):
                raise SourceLostError(
                    f"the source folder {self._root} cannot be reached any more; bring it back and run again to resume"
                ) from error
            raise


_LOST = (Reason.MISSING_FILE, Reason.UNREADABLE)


def _is_gone(root: Path) -> bool:
    """Whether a folder cannot be listed, or is empty, as a mount point is after its disk went away."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is None
    except OSError:
        return True


def _measured(read: Callable[[ImageRef], Photo], meter: Meter) -> Callable[[ImageRef], Photo]:
    """`read` that adds each file's size to `read_bytes`; every attempt reads the whole file."""

    def measured(ref: ImageRef) -> Photo:
        with contextlib.suppress(OSError):  # what is wrong with the file, `read` says
            meter.add("read_bytes", Path(ref.path).stat().st_size)
        return read(ref)

    return measured


class _Watch:
    """Tells the bridge what is being done, and ends the process when a scene takes too long."""

    def __init__(self, bridge: Any, key: str, ledger: Ledger, timeout: float | None) -> None:
        self._bridge = bridge
        self._key = key
        self._ledger = ledger
        self._deadline = time.monotonic() + timeout if timeout else None
        self._timeout = timeout
        self._stage = "starting"
        self._photo: ImageRef | None = None
        self._counts: Mapping[str, int] = {}
        self._news = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="rawnind-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if (
            self._timeout
        ):  # a decoder that holds the interpreter stops our thread too, but not the system's alarm
            signal.setitimer(signal.ITIMER_REAL, self._timeout + timing.ALARM_GRACE)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timeout:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._over.set()
        self._news.set()
        self._thread.join()

    @contextmanager
    def reading(self, photo: ImageRef) -> Iterator[None]:
        """A photo is being read; it is named when that takes too long."""
        self._photo = photo
        yield
        self._photo = None

    def enter(self, stage: str, counts: Mapping[str, int]) -> None:
        """A stage begins; `counts` says what is behind."""
        self._stage, self._counts = stage, counts
        self._news.set()

    def _beat(self) -> None:
        """Says what is new, at most once a second: a small scene has more stages in a second than anyone can see."""
        while not self._over.is_set():
            self._news.wait(self._pause())
            self._news.clear()
            if self._over.is_set():
                return
            if self._deadline and time.monotonic() >= self._deadline:
                self._give_up()
            self._bridge.heartbeat.remote(self._key, self._stage, self._counts)
            self._over.wait(min(timing.HEARTBEAT_MIN, self._pause()))

    def _give_up(self) -> NoReturn:
        """Nothing else stops a decoder that never returns; Ray gives the scene to another worker."""
        try:
            self._ledger.mark_timeout(self._stage, self._photo.sha1 if self._photo else None)
        finally:
            os._exit(1)

    def _pause(self) -> float:
        left = self._deadline - time.monotonic() if self._deadline else timing.HEARTBEAT
        return max(0.01, min(timing.HEARTBEAT, left))


def _row(
    key: str,
    *,
    result: bytes = b"",
    telemetry: Mapping[str, float] | None = None,
    inputs: bytes = b"",
    trouble: str = "",
) -> dict[str, Any]:
    return {
        "key": key,
        "result": result,
        "telemetry": json.dumps(telemetry or {}),
        "inputs": inputs,
        "trouble": trouble,
    }


_TROUBLES = (OutputError, SourceLostError, WorkersDyingError)


def _trouble(error: RawnindError) -> str:
    return json.dumps([type(error).__name__, str(error)])


def trouble_of(row: Mapping[str, Any]) -> RawnindError | None:
    """What a row says must stop the whole run; None where it brings a result, or nothing."""
    if not row["trouble"]:
        return None
    name, text = json.loads(row["trouble"])
    return next(kind for kind in _TROUBLES if kind.__name__ == name)(text)
