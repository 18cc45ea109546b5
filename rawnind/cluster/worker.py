"""The callable that Ray Data maps over scenes."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import ray
from pydantic import TypeAdapter

from rawnind.cluster.scene import Meter, process_scene
from rawnind.config import Recipe
from rawnind.errors import SourceError, SourceLostError
from rawnind.imaging.photo import Photo
from rawnind.records import ImageRef, Reason, Scene, SceneResult
from rawnind.results import whole_scene
from rawnind.storage.attempts import Ledger
from rawnind.storage.decode import decode
from rawnind.storage.isolated import decode_isolated
from rawnind.storage.parts import encode_result
from rawnind.storage.store import Store

_SCENE = TypeAdapter(Scene)
_HEARTBEAT = 5.0
_DEATHS_BEFORE_ISOLATION = 2


def scene_row(scene: Scene) -> dict[str, bytes]:
    """A scene as a Ray Data row: paths and hashes, never pixels."""
    return {"scene": _SCENE.dump_json(scene)}


class SceneWorker:
    """Processes one scene per row and returns its result; never raises for bad data.

    A row comes back as `key`, `result` (JSON; empty when the run is stopping) and `telemetry` (JSON).

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
            return {"key": scene.key, "result": b"", "telemetry": "{}"}
        ledger = Ledger(self._store, self._run, scene.key)
        deaths = ledger.begin()
        if (doing := ledger.timeout()) is not None:
            detail = f"gave up after {self._scene_timeout:g} s, in stage {doing}"
            return _answer(whole_scene(scene, self._recipe, Reason.TIMEOUT, detail), {"attempts": deaths + 1})
        with _Watch(self._bridge, scene.key, ledger, self._scene_timeout) as watch:
            meter = Meter(watch.enter)
            read = self._read if deaths < _DEATHS_BEFORE_ISOLATION else self._read_isolated
            result = process_scene(scene, self._recipe, self._store, meter=meter, read=_measured(read, meter))
        return _answer(result, {**meter.done(), "attempts": deaths + 1})

    def _admitted(self, key: str) -> bool:
        """Waits for a place among the scenes in flight; False when the run is stopping."""
        while True:
            answer = ray.get(self._bridge.admit.remote(key))
            if answer is not None:
                return bool(answer)
            time.sleep(0.02)

    def _read(self, ref: ImageRef) -> Photo:
        with self._blaming_no_file():
            return Photo.from_visible(*decode(ref))

    def _read_isolated(self, ref: ImageRef) -> Photo:
        with self._blaming_no_file():
            return Photo.from_visible(*decode_isolated(ref))

    @contextmanager
    def _blaming_no_file(self) -> Iterator[None]:
        """A file that is missing together with its whole source is not the file's fault."""
        try:
            yield
        except SourceError as error:
            if error.reason in _LOST and not self._root.is_dir():
                raise SourceLostError(f"the source folder {self._root} cannot be reached any more") from error
            raise


_LOST = (Reason.MISSING_FILE, Reason.UNREADABLE)


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
        self._stage = "starting"
        self._counts: Mapping[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="rawnind-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def enter(self, stage: str, counts: Mapping[str, int]) -> None:
        """A stage begins; `counts` says what is behind."""
        self._stage, self._counts = stage, counts
        self._bridge.heartbeat.remote(self._key, stage, counts)

    def _beat(self) -> None:
        while not self._over.wait(self._pause()):
            if self._deadline and time.monotonic() >= self._deadline:
                self._ledger.mark_timeout(self._stage)
                os._exit(
                    1
                )  # nothing else stops a decoder that never returns; Ray gives the scene to another worker
            self._bridge.heartbeat.remote(self._key, self._stage, self._counts)

    def _pause(self) -> float:
        left = self._deadline - time.monotonic() if self._deadline else _HEARTBEAT
        return max(0.01, min(_HEARTBEAT, left))


def _answer(result: SceneResult, telemetry: dict[str, float]) -> dict[str, Any]:
    return {
        "key": result.scene.key,
        "result": encode_result(result),
        "telemetry": json.dumps(telemetry),
    }
