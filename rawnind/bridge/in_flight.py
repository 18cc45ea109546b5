"""Admission of scenes: which are in flight, and whether another one may start."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rawnind import timing
from rawnind.bridge.messages import SceneInFlight, WorkerIncarnation
from rawnind.chunks import scene_key


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskBudget:
    """Room for the fetched photos of all scenes in flight.

    Attributes:
        limit: bytes.
        sizes: bytes of each scene's photos, by key.
    """

    limit: float
    sizes: Mapping[str, int]


class InFlightScenes:
    """Scenes between their admission and their commit, never more than a limit.

    A chunk of a large scene counts as a scene while a worker processes it. A finished one, which waits in the store for the others, does
    not: with a limit below the number of chunks, workers would otherwise wait for each other.

    Args:
        limit: the most scenes at once.
        after_restart: whether workers may process scenes that this bridge has not admitted itself.
        budget: of the disks; None: unlimited. A scene that exceeds it by itself is admitted when it is alone.

    Attributes:
        peak: the most that were in flight at once.
    """

    def __init__(self, limit: int, *, after_restart: bool, budget: DiskBudget | None = None) -> None:
        self._limit = limit
        self._budget = budget
        self._scenes: dict[str, SceneInFlight] = {}
        self._closed_until = time.monotonic() + timing.RESTART_GRACE if after_restart else 0.0
        self.peak = 0

    def __len__(self) -> int:
        return len(self._scenes)

    def __iter__(self) -> Iterator[SceneInFlight]:
        """Oldest first."""
        return iter(sorted(self._scenes.values(), key=lambda item: item.started))

    @property
    def oldest(self) -> SceneInFlight | None:
        """The scene that was admitted first; None where there is none."""
        return min(self._scenes.values(), key=lambda item: item.started, default=None)

    def admit(self, key: str, worker: WorkerIncarnation | None, now: float) -> bool:
        """Adds a scene, unless the limit is reached or workers may not have reported yet after a restart.

        Args:
            key: the scene, or `Chunk.name`, as for all methods.
            worker: that asks.
            now: the bridge's clock, in seconds.

        Returns:
            Whether the scene is in flight.
        """
        if key not in self._scenes and (now < self._closed_until or not self._has_room(key)):
            return False
        self._update(key, "starting", now, worker)
        return True

    def _has_room(self, key: str) -> bool:
        if len(self._scenes) >= self._limit:
            return False
        if self._budget is None or not self._scenes:
            return True
        return sum(self._budget.sizes[each] for each in (*self._scenes, key)) <= self._budget.limit

    def heartbeat(self, key: str, stage: str, now: float) -> bool:
        """Updates a scene's stage, or adds the scene.

        Args:
            key: the scene.
            stage: that its worker reports.
            now: the bridge's clock, in seconds.

        Returns:
            Whether the scene is in flight; False where the limit is reached without it.
        """
        if key not in self._scenes and len(self._scenes) >= self._limit:
            return False
        self._update(key, stage, now, None)
        return True

    def _update(self, key: str, stage: str, now: float, worker: WorkerIncarnation | None) -> None:
        known = self._scenes.get(key)
        self._scenes[key] = SceneInFlight(
            key=key,
            stage=stage,
            started=known.started if known else now,
            last_heartbeat=now,
            worker=worker or (known.worker if known else None),
        )
        self.peak = max(self.peak, len(self._scenes))

    def remove(self, key: str) -> None:
        """A scene or a chunk is no longer in flight."""
        self._scenes.pop(key, None)

    def remove_chunks(self, key: str) -> None:
        """No chunk of a scene is in flight any more, nor the scene."""
        for name in [name for name in self._scenes if scene_key(name) == key]:
            del self._scenes[name]

    def expire(self, now: float, worker: WorkerIncarnation | None = None) -> list[str]:
        """Removes scenes whose worker sent no heartbeat for too long or was restarted.

        Args:
            now: the bridge's clock, in seconds.
            worker: the worker that just called; earlier incarnations of it are dead.

        Returns:
            The scenes' keys; Ray hands them to a worker again.
        """
        expired = [
            item.key
            for item in self
            if now - item.last_heartbeat > timing.WORKER_EXPIRY or _was_restarted(item.worker, worker)
        ]
        for key in expired:
            del self._scenes[key]
        return expired


def _was_restarted(before: WorkerIncarnation | None, now: WorkerIncarnation | None) -> bool:
    return before is not None and now is not None and before[0] == now[0] and before != now


class StartupCrashes:
    """Detects workers in a crash loop: restarted again and again before they ask for a scene."""

    def __init__(self) -> None:
        self._incarnations: dict[str, set[str]] = {}

    def started(self, worker: WorkerIncarnation) -> None:
        """A worker was started or restarted; a repeated call for one incarnation changes nothing."""
        actor, incarnation = worker
        self._incarnations.setdefault(actor, set()).add(incarnation)

    def asked_for_scene(self, worker: WorkerIncarnation | None) -> None:
        """A worker has started up."""
        if worker:
            self._incarnations.pop(worker[0], None)

    def reset(self) -> None:
        """A scene was committed: the run makes progress."""
        self._incarnations.clear()

    @property
    def most(self) -> int:
        """Crashes in a row of the worker that has the most."""
        return max((len(found) - 1 for found in self._incarnations.values()), default=0)
