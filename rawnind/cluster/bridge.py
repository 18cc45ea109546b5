"""The bridge: the one place where results become facts.

It checks every result that comes back, commits it to the journal, counts it, and writes the manifest when every planned
scene has its outcome. It is a plain class; the pipeline makes a named Ray actor of it that is started anew when it dies,
and then finds everything again in the journal.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from rawnind.cluster.feed import Feeds
from rawnind.cluster.flight import Flight, InFlight, Worker
from rawnind.cluster.given import Given, to_bytes
from rawnind.cluster.observer import LoaderReport, Observer
from rawnind.cluster.recount import recount
from rawnind.cluster.stages import StageCounts
from rawnind.cluster.standing import Standing
from rawnind.errors import ManifestError, OutputError
from rawnind.plan import Plan
from rawnind.records import Counts, Outcome, Reason, Scene, SceneResult, Summary
from rawnind.results import problems, whole_scene
from rawnind.storage import attempts
from rawnind.storage.events import EventLog
from rawnind.storage.manifest import write_manifest
from rawnind.storage.parts import Commit, Journal, commit_of, decode_result
from rawnind.storage.shards import is_shard_name
from rawnind.storage.store import TEMPORARY, Store


class State(StrEnum):
    """Where a run stands. ERROR stays ERROR."""

    INITIALIZED = "initialized"
    COLLECTING = "collecting"
    READY = "ready"
    ERROR = "error"
    CLOSED = "closed"


_NEXT = {
    State.INITIALIZED: {State.COLLECTING, State.ERROR, State.CLOSED},
    State.COLLECTING: {State.READY, State.ERROR, State.CLOSED},
    State.READY: {State.CLOSED},
    State.ERROR: set(),
    State.CLOSED: set(),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What the bridge knows at one moment.

    Attributes:
        next_seq: sequence number of the next commit.
        in_flight: scenes being worked on, oldest first.
        peak_in_flight: the most that ever were at once.
        stages: photos and pairs of the scenes that this run works on; scenes done before it are left out.
        loaders: each consumer's last report, sorted by name.
        now: the bridge's clock, the one of `InFlight.started`, in seconds.
    """

    state: State
    next_seq: int
    scenes: Counts
    pairs: Counts
    crops: int
    in_flight: tuple[InFlight, ...]
    peak_in_flight: int
    stages: tuple[StageCounts, ...] = ()
    loaders: tuple[LoaderReport, ...] = ()
    now: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrived:
    """What a worker sent for a scene.

    Attributes:
        key: the scene that the result was asked for.
        data: the result, from `parts.encode_result`.
        telemetry: seconds and bytes by stage, for events.jsonl.
        inputs: `inputs.fingerprint` of the scene's files before they were read; empty where it is not known.
    """

    key: str
    data: bytes
    telemetry: Mapping[str, float] = field(default_factory=dict)
    inputs: bytes = b""


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
        self._standing = Standing(plan, self._journal, retry=retry, changed=changed, first=self._first_seq())
        self._root = self._store.root_identity()
        self._stopping = False
        last = self._events.last("state")
        self._state = State(last["to"]) if last else State.INITIALIZED
        self._flight = Flight(max_scenes, returning=self._state is State.COLLECTING)
        if self._state is State.INITIALIZED:
            self._journal.compact()  # who is started anew has no time: workers wait
        self._observer = observer or Observer()
        self._loaders: dict[str, LoaderReport] = {}
        self._feeds = Feeds(self._store, plan, since=self._news, read=self._journal.read)
        before = recount(plan, self._standing, self._journal.read, everything=observer is not None)
        self._stages = before.stages
        self._observer.started(before.scenes, before.pairs)
        if self._state is State.COLLECTING:
            self._log_what_was_lost()

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
            self._log_what_was_lost()
            self._events.add("begin", next_seq=self._journal.next_seq)
            self._to(State.COLLECTING)
            self._root = self._store.root_identity()
        return self.open_scenes()

    def _log_what_was_lost(self) -> None:
        """Logs commits that a bridge which died had made and not yet logged; the journal is right in any case."""
        logged = self._events.last("commit", any_run=True)
        first = int(logged["seq"]) + 1 if logged else 0
        lost = range(max(first, self._journal.next_seq - _RECOVERED), self._journal.next_seq)
        results = ((seq, self._journal.at(seq)) for seq in lost)
        self._log(((result, commit_of(result, seq), {}) for seq, result in results), recovered=True)

    def admit(self, key: str, worker: Worker | None = None) -> bool | None:
        """A worker asks whether it may begin a scene.

        Args:
            key: the scene.
            worker: who asks, and in which of its lives: what it did in an earlier one has ended.

        Returns:
            True: begin. None: the limit of scenes in flight is reached, ask again. False: there is nothing to do for
            this scene any more, or the run is stopping.
        """
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
        new = {each.key: each for each in reversed(arrived) if self._standing.is_open(each.key)}
        if new:
            self._commit_new(list(reversed(new.values())))
        for each in arrived:
            self._flight.ends(each.key)
        return [self._journal.latest[each.key].seq for each in arrived]

    def _commit_new(self, arrived: Sequence[Arrived]) -> None:
        self._require_output()
        results = [self._checked(self._standing.selected[each.key], each.data) for each in arrived]
        commits = self._journal.append(results, [each.inputs for each in arrived])
        for each, commit in zip(arrived, commits, strict=True):
            self._standing.settle(each.key, commit)
        self._log(zip(results, commits, (each.telemetry for each in arrived), strict=True))
        for each, result in zip(arrived, results, strict=True):
            self._stages.settled(result)
            self._observer.committed(result, each.telemetry)

    def _require_output(self) -> None:
        """A folder that went away must not be made anew under the same name, nor its shards be called missing."""
        if self._store.is_local and self._store.root_identity() != self._root:
            raise OutputError(
                f"the output folder {self._store.location} cannot be reached any more; bring it back and run again"
            )

    def _checked(self, scene: Scene, data: bytes) -> SceneResult:
        recipe = self._plan.recipe
        try:
            result = decode_result(data)
        except ManifestError as error:
            return whole_scene(scene, recipe, Reason.INVALID_RESULT, str(error))
        found = [*problems(result, scene, recipe), *self._shard_problems(result)]
        return whole_scene(scene, recipe, Reason.INVALID_RESULT, "; ".join(found[:3])) if found else result

    def _shard_problems(self, result: SceneResult) -> Iterator[str]:
        for shard in (pair.shard for pair in result.pairs if pair.shard):
            if not shard.path.startswith(f"shards/{result.scene.key}/") or ".." in shard.path:
                yield f"shard {shard.path} lies outside the scene's folder"
            elif not self._store.exists(shard.path):
                yield f"shard {shard.path} is missing"
            elif self._store.digest(shard.path) != shard.sha256:
                yield f"shard {shard.path} does not have the hash that its worker wrote"

    def _log(
        self, committed: Iterable[tuple[SceneResult, Commit, Mapping[str, float]]], *, recovered: bool = False
    ) -> None:
        self._events.add_all(
            "commit",
            (
                {
                    "seq": commit.seq,
                    "scene": result.scene.key,
                    "outcome": str(commit.outcome),
                    "reason": str(commit.reason) if commit.reason else None,
                    "pairs": dict(zip(map(str, Outcome), commit.pairs, strict=True)),
                    "crops": commit.crops,
                    "in_flight": len(self._flight),
                    "telemetry": dict(telemetry),
                    **({"recovered": True} if recovered else {}),
                }
                for result, commit, telemetry in committed
            ),
        )

    def snapshot(self) -> Snapshot:
        """Counts, state and scenes in flight."""
        now = time.monotonic()
        self._forget_dead(now)
        self._observe_flight(now)
        return Snapshot(
            state=self._state,
            next_seq=self._journal.next_seq,
            scenes=_counts(len(self._plan.scenes), self._standing.scenes),
            pairs=_counts(self._standing.pair_count, self._standing.pairs),
            crops=self._standing.crops,
            in_flight=tuple(self._flight),
            peak_in_flight=self._flight.peak,
            stages=self._stages.counts(item.stage for item in self._flight),
            loaders=tuple(self._loaders[consumer] for consumer in sorted(self._loaders)),
            now=now,
        )

    def since(self, seq: int) -> list[tuple[int, SceneResult]]:
        """Committed results of selected scenes from a sequence number on, oldest first."""
        return list(self._news(seq))

    def _news(self, seq: int) -> Iterator[tuple[int, SceneResult]]:
        found = self._journal.since(seq) if seq < self._journal.next_seq else ()
        return (item for item in found if self._standing.is_settled(item[1].scene.key))

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
        if State.ERROR in _NEXT[self._state]:
            self._to(State.ERROR, why=why)

    def finish(self, versions: Mapping[str, str]) -> Summary:
        """Removes what unfinished scenes left, writes the manifest and declares the run READY.

        Raises:
            ValueError: A planned scene has no outcome yet.
            OutputError: The storage refuses; the old manifest, if any, is still there.
        """
        missing = self.open_scenes()
        if missing:
            raise ValueError(f"{len(missing)} planned scenes have no outcome yet, the first is {missing[0]}")
        self._sweep()
        summary = write_manifest(
            self._store, self._results(), self._plan.recipe, versions=versions, contents=self.contents()
        )
        if self._state is State.COLLECTING:
            self._to(State.READY, peak_in_flight=self._flight.peak)
        return summary

    def close(self) -> None:
        """Takes no more calls that change anything; what a finished run has not given yet is divided among consumers."""
        if self._state is State.READY:
            with contextlib.suppress(
                OutputError
            ):  # then shares follow from what is on record (live_record.rest)
                self._feeds.divide()
        if State.CLOSED in _NEXT[self._state]:
            self._to(State.CLOSED)

    def contents(self) -> str:
        """SHA-256 over every planned scene's identity and outcome: equal where the manifest would be."""
        return self._standing.contents()

    def _results(self) -> Iterator[SceneResult]:
        for planned in self._plan.scenes:
            if planned.key in self._plan.left_out:
                yield self._plan.filtered(planned)
            else:
                yield replace(self._journal.read(planned.key), scene=planned)

    def _sweep(self) -> None:
        shards: set[str] = set()
        for entry in self._store.list():
            folder, name = entry.path.partition("/")[0], entry.path.rsplit("/", 1)[-1]
            if name.startswith(TEMPORARY) and folder in {"shards", "parts", name}:
                self._store.remove(entry.path)
            elif is_shard_name(entry.path):  # whatever else lies there is not ours to remove
                shards.add(entry.path)
        if shards:
            for _, result in self._journal.since(0, Outcome.COLLECTED):
                shards.difference_update(pair.shard.path for pair in result.pairs if pair.shard)
        for path in sorted(shards):
            self._store.remove(path)
        self._store.remove_folder(attempts.FOLDER)

    def _to(self, state: State, **values: str | int) -> None:
        before, self._state = self._state, state
        self._events.add("state", **{"from": str(before), "to": str(state)}, **values)


_RECOVERED = 1000
"""The most commits that are logged belatedly."""


def _counts(planned: int, tally: Counter[Outcome]) -> Counts:
    return Counts(planned=planned, **{str(outcome): tally[outcome] for outcome in Outcome})
