"""The bridge: the one place where results become facts.

It checks every result that comes back, commits it to the journal, counts it, and writes the manifest when every planned
scene has its outcome. It is a plain class; the pipeline makes a named Ray actor of it that is started anew when it dies,
and then finds everything again in the journal.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence

from rawnind.bridge.in_flight import Births, Flight, Worker
from rawnind.bridge.ledger import Standing, recount
from rawnind.bridge.live_feed import Feeds
from rawnind.bridge.messages import NEXT, Given, LoaderReport, Observer, Snapshot, State, to_bytes
from rawnind.bridge.validate import Arrived, checked
from rawnind.errors import OutputError
from rawnind.output.cleanup import remove_leftovers
from rawnind.output.events import CommitLog, EventLog
from rawnind.output.journal.journal import Journal
from rawnind.output.manifest import write_manifest
from rawnind.output.store import Store
from rawnind.planning import Plan
from rawnind.reasons import Reason
from rawnind.records import SceneResult, Summary


class Bridge:
    """Sole writer of one output folder's journal and manifest.

    Args:
        output: local path or URI of the output folder.
        run: names this run in events.jsonl.
        plan: every scene that the run knows of.
        max_scenes: the most scenes in flight at once.
        retry: failed scenes with these reasons are open again; empty: none.
        changed: keys of scenes that are open again because their files changed.
        observer: told what becomes of scenes, and what is in flight; None: nobody.

    Raises:
        ManifestError: The journal is damaged.
    """

    def __init__(
        self,
        output: str,
        run: str,
        plan: Plan,
        *,
        max_scenes: int,
        retry: frozenset[Reason] = frozenset(),
        changed: frozenset[str] = frozenset(),
        observer: Observer | None = None,
    ) -> None:
        self._store = Store(output)
        self._plan = plan
        self._events = EventLog(self._store, run)
        self._journal = Journal(self._store)
        self._log = CommitLog(self._events, self._journal)
        self._standing = Standing(plan, self._journal, retry=retry, changed=changed, first=self._first_seq())
        self._root = self._store.root_identity()
        self._stopping = False
        last = self._events.last("state")
        self._state = State(last["to"]) if last else State.INITIALIZED
        self._flight = Flight(max_scenes, returning=self._state is State.COLLECTING)
        self._births = Births()
        if self._state is State.INITIALIZED:
            self._journal.compact()  # who is started anew has no time: workers wait
        self._observer = observer or Observer()
        self._loaders: dict[str, LoaderReport] = {}
        self._feeds = Feeds(self._store, plan, since=self._standing.news, read=self._journal.read)
        before = recount(plan, self._standing, self._journal.read, everything=observer is not None)
        self._stages = before.stages
        self._observer.started(before.scenes, before.pairs)
        if self._state is State.COLLECTING:
            self._log.recover()

    def _first_seq(self) -> int:
        # A bridge that is started anew must do again what was there when the run began, not what it has done since.
        begun = self._events.last("begin")
        return int(begun["next_seq"]) if begun else self._journal.next_seq

    def open_scenes(self) -> list[str]:
        """Keys of the scenes that have no outcome yet, in planned order."""
        return self._standing.open_scenes()

    def begin(self) -> list[str]:
        """Starts collecting, or goes on; returns `open_scenes`."""
        if self._state is State.INITIALIZED:
            self._log.recover()
            self._events.add("begin", next_seq=self._journal.next_seq)
            self._to(State.COLLECTING)
            self._root = self._store.root_identity()
        return self.open_scenes()

    def born(self, worker: Worker) -> None:
        """A worker comes to life, for the first time or again, and may die before it asks for a scene."""
        self._births.born(worker)

    def admit(self, key: str, worker: Worker | None = None) -> bool | None:
        """A worker asks whether it may begin a scene.

        Args:
            key: the scene.
            worker: who asks, and in which of its lives: what it did in an earlier one has ended.

        Returns:
            True: begin. None: the limit of scenes in flight is reached, ask again. False: there is nothing to do for
            this scene any more, or the run is stopping.
        """
        self._births.lives(worker)
        if self._stopping or not self._is_open(key):
            self._flight.ends(key)
            return False
        now = time.monotonic()
        self._forget_dead(now, worker)
        begins = self._flight.begins(key, worker, now)
        self._observe_flight(now)
        return begins or None

    def _is_open(self, key: str) -> bool:
        return self._state is State.COLLECTING and self._standing.is_open(key)

    def _forget_dead(self, now: float, worker: Worker | None = None) -> None:
        for key in self._flight.forget_dead(now, worker):
            self._stages.forget(key)

    def heartbeat(self, key: str, stage: str, counts: Mapping[str, int] | None = None) -> None:
        """A worker says what it does, and what of the scene is behind it (see `stages`). Nothing depends on it but what people see and how soon a dead worker's place is free."""
        now = time.monotonic()
        if self._is_open(key) and self._flight.hears(key, stage, now):
            self._observe_flight(now)
            self._stages.heard(key, counts or {})

    def loader_report(
        self, consumer: str, *, scenes: int, crops: int, batches: int, wait_seconds: float
    ) -> None:
        """A loader says what it has handed out since it began; the last report of each consumer counts."""
        report = LoaderReport(
            consumer=consumer, scenes=scenes, crops=crops, batches=batches, wait_seconds=wait_seconds
        )
        self._observer.loader(report, self._loaders.get(consumer))
        self._loaders[consumer] = report

    def _observe_flight(self, now: float) -> None:
        oldest = self._flight.oldest
        self._observer.in_flight(len(self._flight), now - oldest.started if oldest else 0.0)

    def stop(self) -> None:
        """Lets no further scene begin; what is in flight may still be committed."""
        self._stopping = True

    def commit(
        self, key: str, data: bytes, telemetry: Mapping[str, float] | None = None, inputs: bytes = b""
    ) -> int:
        """`commit_many` for one result; returns the sequence number of the scene's commit."""
        return self.commit_many([Arrived(key=key, data=data, telemetry=telemetry or {}, inputs=inputs)])[0]

    def commit_many(self, arrived: Sequence[Arrived]) -> list[int]:
        """Checks results and makes them facts together; one that does not pass becomes `failed: invalid_result`.

        A scene that is already settled stays as it is, so that committing twice changes nothing.

        Returns:
            The sequence number of each scene's commit.

        Raises:
            ValueError: A scene was not planned, or the run is not collecting; nothing was committed.
            OutputError: The storage refuses; nothing was committed, or it was and could not be logged.
        """
        if self._state is not State.COLLECTING:
            raise ValueError(f"the bridge is {self._state}, it takes no results")
        for each in arrived:
            if each.key not in self._standing.selected:
                raise ValueError(f"{each.key} was not planned")
        if new := {each.key: each for each in reversed(arrived) if self._standing.is_open(each.key)}:
            self._commit_new(list(reversed(new.values())))
            self._births.forget()
        for each in arrived:
            self._flight.ends(each.key)
        return [self._journal.latest[each.key].seq for each in arrived]

    def _commit_new(self, arrived: Sequence[Arrived]) -> None:
        self._store.require_root(self._root)
        scenes = (self._standing.selected[each.key] for each in arrived)
        results = [
            checked(self._store, scene, self._plan.recipe, each.data)
            for scene, each in zip(scenes, arrived, strict=True)
        ]
        commits = self._journal.append(results, [each.inputs for each in arrived])
        for each, commit in zip(arrived, commits, strict=True):
            self._standing.settle(each.key, commit)
        told = (each.telemetry for each in arrived)
        self._log.add(zip(results, commits, told, strict=True), in_flight=len(self._flight))
        for each, result in zip(arrived, results, strict=True):
            self._stages.settled(result)
            self._observer.committed(result, each.telemetry)

    def snapshot(self) -> Snapshot:
        """Counts, state and scenes in flight."""
        now = time.monotonic()
        self._forget_dead(now)
        self._observe_flight(now)
        return Snapshot(
            state=self._state,
            next_seq=self._journal.next_seq,
            scenes=self._standing.scene_counts,
            pairs=self._standing.pair_counts,
            crops=self._standing.crops,
            in_flight=tuple(self._flight),
            peak_in_flight=self._flight.peak,
            stillborn=self._births.in_vain,
            stages=self._stages.counts(item.stage for item in self._flight),
            loaders=tuple(self._loaders[consumer] for consumer in sorted(self._loaders)),
            now=now,
        )

    def since(self, seq: int) -> list[tuple[int, SceneResult]]:
        """Committed results of selected scenes from a sequence number on, oldest first."""
        return list(self._standing.news(seq))

    def location(self) -> str:
        """The output folder."""
        return self._store.location

    def join(self, feed: str, consumer: str, token: str, position: int | None = None) -> int | None:
        """A consumer of crops comes; see `feed.Feed.join`. None: the bridge is closed."""
        if self._state is State.CLOSED:
            return None
        return self._feeds[feed].join(consumer, token, position)

    def take(
        self, feed: str, consumer: str, token: str, position: int, count: int, *, done: int = 0
    ) -> Given:
        """Gives crops to a consumer, each crop once per feed; see `feed.Feed.take`.

        Asked again with the same position it gives the same answer, and more where there is more by now.
        """
        lease = self._state in {State.COLLECTING, State.READY}
        rows, position = self._feeds[feed].take(consumer, token, position, count, done=done, lease=lease)
        failed = self._events.last("state") if self._state is State.ERROR else None
        now = time.monotonic()
        oldest = self._flight.oldest
        return Given(
            state=str(self._state),
            why=str(failed["why"]) if failed else "",
            rows=to_bytes(rows),
            position=position,
            oldest=(oldest.key, oldest.stage, now - oldest.started) if oldest else None,
        )

    def leave(self, feed: str, consumer: str, token: str, done: int) -> None:
        """A consumer wants nothing more of a feed."""
        if self._state is not State.CLOSED:
            self._feeds[feed].leave(consumer, token, done)

    def fail(self, why: str) -> None:
        """Ends the run with an error; whoever waits for results learns why. A finished run stays finished."""
        if State.ERROR in NEXT[self._state]:
            self._to(State.ERROR, why=why)

    def finish(self, versions: Mapping[str, str]) -> Summary:
        """Removes what unfinished scenes left, writes the manifest and declares the run READY.

        Raises:
            ValueError: A planned scene has no outcome yet.
            OutputError: The storage refuses; the old manifest, if any, is still there.
        """
        if missing := self.open_scenes():
            raise ValueError(f"{len(missing)} planned scenes have no outcome yet, the first is {missing[0]}")
        remove_leftovers(self._store, self._journal)
        summary = write_manifest(
            self._store,
            self._standing.results(),
            self._plan.recipe,
            versions=versions,
            contents=self.contents(),
        )
        if self._state is State.COLLECTING:
            self._to(State.READY, peak_in_flight=self._flight.peak)
        return summary

    def close(self) -> None:
        """Takes no more calls that change anything; what a finished run has not given yet is divided among consumers."""
        if self._state is State.READY:
            with contextlib.suppress(OutputError):  # shares then follow from what is on record
                self._feeds.divide()
        if State.CLOSED in NEXT[self._state]:
            self._to(State.CLOSED)

    def contents(self) -> str:
        """SHA-256 over every planned scene's identity and outcome: equal where the manifest would be."""
        return self._standing.contents()

    def _to(self, state: State, **values: str | int) -> None:
        before, self._state = self._state, state
        self._events.add("state", **{"from": str(before), "to": str(state)}, **values)
