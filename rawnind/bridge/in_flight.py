"""Which scenes are in flight, from a worker's start to the bridge's commit, and who may start another one."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from rawnind import timing

Worker = tuple[str, str]
"""A worker, and one of its lives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InFlight:
    """A scene between its worker's start and its commit.

    Attributes:
        key: the scene's key.
        stage: what its worker does.
        started: when it began, by the bridge's clock, in seconds.
        heard: when its worker last said something.
        worker: who works on it; None where the bridge does not know.
    """

    key: str
    stage: str
    started: float
    heard: float
    worker: Worker | None = None


class Flight:
    """Scenes in flight, never more than a limit.

    Args:
        limit: the most scenes at once.
        returning: whether workers may be at work that the bridge has not heard of yet.

    Attributes:
        peak: the most that ever were at once.
    """

    def __init__(self, limit: int, *, returning: bool) -> None:
        self._limit = limit
        self._scenes: dict[str, InFlight] = {}
        self._quiet_until = time.monotonic() + timing.RESTART_GRACE if returning else 0.0
        self.peak = 0

    def __len__(self) -> int:
        return len(self._scenes)

    def __iter__(self) -> Iterator[InFlight]:
        """Oldest first."""
        return iter(sorted(self._scenes.values(), key=lambda item: item.started))

    @property
    def oldest(self) -> InFlight | None:
        """The scene that was begun first; None where there is none."""
        return min(self._scenes.values(), key=lambda item: item.started, default=None)

    def begins(self, key: str, worker: Worker | None, now: float) -> bool:
        """Whether a worker may begin a scene; it then is in flight."""
        if key not in self._scenes and (now < self._quiet_until or len(self._scenes) >= self._limit):
            return False
        self._note(key, "starting", now, worker)
        return True

    def hears(self, key: str, stage: str, now: float) -> bool:
        """Notes what a worker says it does; False where that cannot be, because the limit is reached without it."""
        if key not in self._scenes and len(self._scenes) >= self._limit:
            return False
        self._note(key, stage, now, None)
        return True

    def _note(self, key: str, stage: str, now: float, worker: Worker | None) -> None:
        known = self._scenes.get(key)
        self._scenes[key] = InFlight(
            key=key,
            stage=stage,
            started=known.started if known else now,
            heard=now,
            worker=worker or (known.worker if known else None),
        )
        self.peak = max(self.peak, len(self._scenes))

    def ends(self, key: str) -> None:
        """A scene is no longer in flight."""
        self._scenes.pop(key, None)

    def forget_dead(self, now: float, worker: Worker | None = None) -> list[str]:
        """Lets go of scenes whose worker has died: it says nothing any more, or it lives again.

        Args:
            now: the bridge's clock.
            worker: who speaks, and in which of its lives: what it did in an earlier one has ended.

        Returns:
            The scenes' keys; Ray will give them to a worker again.
        """
        dead = [
            item.key
            for item in self
            if now - item.heard > timing.WORKER_EXPIRY or _lives_again(item.worker, worker)
        ]
        for key in dead:
            del self._scenes[key]
        return dead


def _lives_again(before: Worker | None, now: Worker | None) -> bool:
    return before is not None and now is not None and before[0] == now[0] and before != now


class Births:
    """How often workers came to life in vain: they died before they asked for a scene."""

    def __init__(self) -> None:
        self._lives: dict[str, set[str]] = {}

    def born(self, worker: Worker) -> None:
        """A worker comes to life; said again of the same life, because the answer was lost, it is no death."""
        name, life = worker
        self._lives.setdefault(name, set()).add(life)

    def lives(self, worker: Worker | None) -> None:
        """A worker asks for a scene."""
        if worker:
            self._lives.pop(worker[0], None)

    def forget(self) -> None:
        """A scene was finished."""
        self._lives.clear()

    @property
    def in_vain(self) -> int:
        """Deaths in a row, since a scene was finished, of the worker that had the most."""
        return max((len(lives) - 1 for lives in self._lives.values()), default=0)
