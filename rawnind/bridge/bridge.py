"""The bridge: validates and commits results, and writes the manifest once every planned scene has an outcome.

It is a plain class. The pipeline runs it as a named Ray actor that Ray restarts when it dies; a restarted bridge rebuilds
its state from the journal.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence

from rawnind.bridge.consumers import Consumers
from rawnind.bridge.in_flight import DiskBudget, InFlightScenes, StartupCrashes
from rawnind.bridge.ledger import OutcomeLedger, initial_counts
from rawnind.bridge.messages import (
    TRANSITIONS,
    LoaderReport,
    Snapshot,
    State,
    Submission,
    TakeReply,
    WorkerIncarnation,
)
from rawnind.bridge.observer import Observer
from rawnind.bridge.validate import Checked, validated
from rawnind.chunks import chunks_of, scene_key
from rawnind.errors import OutputError, StoppedEarlyError
from rawnind.installation import Installation, this_installation
from rawnind.output.attempts import CHUNKS
from rawnind.output.cleanup import remove_leftovers
from rawnind.output.events import CommitLog, EventLog
from rawnind.output.journal.journal import Journal
from rawnind.output.lock import RunLock
from rawnind.output.manifest import write_manifest
from rawnind.output.store import Store
from rawnind.output.versions import VERSIONS
from rawnind.planning import Plan
from rawnind.reasons import Reason
from rawnind.records import SceneResult, Summary


class Bridge:
    """Sole writer of one output folder's journal and manifest.

    Args:
        output: local path or URI of the output folder.
        run: names this run in events.jsonl.
        plan: every scene of the run.
        max_scenes: the most scenes in flight at once.
        retry: scenes that failed for one of these reasons are open again.
        changed: keys of scenes that are open again because their files changed.
        observer: receives events; None: no observer.
        lock: of the run, which is checked before each write to journal and manifest; None: nothing is checked.
        installation: what the driver imports; None: it is not compared.
        budget: of the disks that photos are fetched to; None: unlimited.

    Raises:
        CodeMismatchError: This process imports other code or libraries than the driver.
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
        lock: RunLock | None = None,
        installation: Installation | None = None,
        budget: DiskBudget | None = None,
    ) -> None:
        if installation:
            installation.require_same(this_installation())
        self._store = Store(output)
        self._store.pin_root()
        self._plan = plan
        self._events = EventLog(self._store, run)
        self._lock = lock
        self._journal = Journal(self._store, epoch=lock.epoch if lock else 0)
        self._log = CommitLog(self._events, self._journal)
        self._ledger = OutcomeLedger(
            plan, self._journal, retry=retry, changed=changed, first=self._first_seq()
        )
        self._stopping = False
        last = self._events.last("state")
        self._state = State(last["to"]) if last else State.INITIALIZED
        self._in_flight = InFlightScenes(
            max_scenes, after_restart=self._state is State.COLLECTING, budget=budget
        )
        self._startup_crashes = StartupCrashes()
        if self._state is State.INITIALIZED:
            self._journal.compact()  # a restarted bridge skips this: workers are waiting
        self._observer = observer or Observer()
        self._consumers = Consumers(
            self._store,
            plan,
            since=self._ledger.results_since,
            read=self._journal.read,
            observer=self._observer,
        )
        initial = initial_counts(plan, self._ledger, self._journal.read, observed=observer is not None)
        self._stages = initial.stages
        self._observer.started(initial.scenes, initial.pairs)
        if self._state is State.COLLECTING:
            self._log.recover()

    def _first_seq(self) -> int:
        # `retry` and `changed` reopen what was settled before the run began, also when the bridge restarts in the middle.
        begin = self._events.last("begin")
        return int(begin.get("next_seq", 0)) if begin else self._journal.next_seq

    def open_scenes(self) -> list[str]:
        """Keys of the scenes that have no outcome yet, in planned order."""
        return self._ledger.open_scenes()

    def begin(self) -> list[str]:
        """Starts to collect unless it did already; returns `open_scenes`."""
        if self._state is State.INITIALIZED:
            self._require_lock()
            self._log.recover()
            self._events.add(
                "begin",
                format=VERSIONS["events"],
                next_seq=self._journal.next_seq,
                planned_scenes=self._ledger.scene_counts.planned,
                planned_pairs=self._ledger.pair_counts.planned,
                open_scenes=self._ledger.scene_counts.open,
            )
            self._transition(State.COLLECTING)
            self._observe_in_flight(time.monotonic())  # none: shown also while no worker has started
        return self.open_scenes()

    def _require_lock(self) -> None:
        self._store.require_root()
        if self._lock:
            try:
                self._lock.require(self._store)
            except StoppedEarlyError:
                self._events.forget_commits()  # the run that took over has logged them
                raise

    def worker_started(self, worker: WorkerIncarnation) -> None:
        """A worker was started or restarted; it may crash before it asks for a scene."""
        self._startup_crashes.started(worker)

    def admit(self, key: str, worker: WorkerIncarnation | None = None) -> bool | None:
        """Whether a worker may start a scene, or a chunk of it.

        Args:
            key: the scene, or `Chunk.name`.
            worker: that asks; scenes of its earlier incarnations are no longer in flight.

        Returns:
            True: start. None: the limit of scenes in flight is reached, or the run has not begun; ask again. False: the scene has
            an outcome, or the run is stopping.
        """
        self._startup_crashes.asked_for_scene(worker)
        if self._state is State.INITIALIZED:
            return None
        if self._stopping or not self._is_open(key):
            self._in_flight.remove(key)
            return False
        now = time.monotonic()
        self._expire(now, worker)
        admitted = self._in_flight.admit(key, worker, now)
        self._observe_in_flight(now)
        return admitted or None

    def _is_open(self, key: str) -> bool:
        return self._state is State.COLLECTING and self._ledger.is_open(scene_key(key))

    def _expire(self, now: float, worker: WorkerIncarnation | None = None) -> None:
        for key in self._in_flight.expire(now, worker):
            self._stages.discard(key)

    def heartbeat(self, key: str, stage: str, counts: Mapping[str, int] | None = None) -> None:
        """A worker reports progress; only the display and the expiry of dead workers' scenes depend on it.

        Args:
            key: the scene, or `Chunk.name`.
            stage: that the worker is in.
            counts: photos and pairs done so far, by the names of `stages.result_counts`.
        """
        now = time.monotonic()
        if self._is_open(key) and self._in_flight.heartbeat(key, stage, now):
            self._observe_in_flight(now)
            self._stages.report(key, counts or {})

    def finished_chunk(self, name: str, counts: Mapping[str, int]) -> None:
        """A worker has stored a chunk of a scene, which is committed when all of them are; only display and admission depend on it.

        Args:
            name: of the chunk.
            counts: its photos and pairs, by the names of `stages.result_counts`.
        """
        self._in_flight.remove(name)
        self._startup_crashes.reset()
        if self._is_open(name):
            self._stages.report(name, counts)

    def loader_report(
        self, consumer: str, *, scenes: int, crops: int, batches: int, wait_seconds: float
    ) -> None:
        """A loader reports what it has handed out since it started; the last report of each consumer counts.

        Args:
            consumer: its name.
            scenes: whose crops it received.
            crops: that it received.
            batches: that it handed out.
            wait_seconds: how long it waited for scenes to be committed.
        """
        self._consumers.report(
            LoaderReport(
                consumer=consumer, scenes=scenes, crops=crops, batches=batches, wait_seconds=wait_seconds
            )
        )

    def _observe_in_flight(self, now: float) -> None:
        oldest = self._in_flight.oldest
        self._observer.in_flight(len(self._in_flight), now - oldest.started if oldest else 0.0)

    def stop(self) -> None:
        """Admits no further scene; scenes in flight may still be committed."""
        self._stopping = True

    def commit(self, submissions: Sequence[Submission]) -> list[int]:
        """Validates results and commits them together; an invalid one is committed as `failed: invalid_result`.

        A commit is idempotent: a scene that is settled already stays as it is.

        Returns:
            The sequence number of each scene's commit.

        Raises:
            ValueError: A scene was not planned, or the run is not collecting; nothing was committed.
            StoppedEarlyError: Another run has taken the folder over; nothing was committed.
            OutputError: The storage refuses; nothing was committed, or it was and could not be logged.
        """
        return self._commit([self._check(each) for each in submissions])

    def _check(self, submission: Submission) -> Checked:
        """Validates a result, which reads its shards; changes nothing, so that several threads may do it at once."""
        if self._state is not State.COLLECTING:
            raise ValueError(f"the bridge is {self._state}, it takes no results")
        if submission.key not in self._ledger.selected:
            raise ValueError(f"{submission.key} was not planned")
        if not self._ledger.is_open(submission.key):
            return Checked(submission, None)
        scene = self._ledger.selected[submission.key]
        return Checked(submission, validated(self._store, scene, self._plan.recipe, submission.data))

    def _commit(self, checked: Sequence[Checked]) -> list[int]:
        """`commit` of what was checked."""
        if self._state is not State.COLLECTING:
            raise ValueError(f"the bridge is {self._state}, it takes no results")
        new = {
            each.submission.key: each
            for each in reversed(checked)
            if self._ledger.is_open(each.submission.key)
        }
        if new:
            self._commit_new([(each, result) for each, result in reversed(new.values()) if result])
            self._startup_crashes.reset()
        for each, _ in checked:
            self._in_flight.remove_chunks(each.key)
        return [self._journal.latest[each.key].seq for each, _ in checked]

    def _commit_new(self, new: Sequence[tuple[Submission, SceneResult]]) -> None:
        self._require_lock()  # a shard that is missing because the folder was moved is no verdict on its scene
        results = [result for _, result in new]
        commits = self._journal.append(results, [each.inputs for each, _ in new])
        for (each, _), commit in zip(new, commits, strict=True):
            self._ledger.settle(each.key, commit)
        telemetry = (each.telemetry for each, _ in new)
        self._log.add(zip(results, commits, telemetry, strict=True), in_flight=len(self._in_flight))
        for each, result in new:
            self._stages.settle(result)
            self._observer.committed(result, each.telemetry)

    def snapshot(self) -> Snapshot:
        """Counts, state and scenes in flight."""
        now = time.monotonic()
        self._expire(now)
        self._observe_in_flight(now)
        return Snapshot(
            state=self._state,
            next_seq=self._journal.next_seq,
            scenes=self._ledger.scene_counts,
            pairs=self._ledger.pair_counts,
            crops=self._ledger.crops,
            in_flight=tuple(self._in_flight),
            peak_in_flight=self._in_flight.peak,
            startup_crashes=self._startup_crashes.most,
            stages=self._stages.counts(item.stage.partition(":")[0] for item in self._in_flight),
            loaders=tuple(self._consumers),
            now=now,
        )

    def since(self, seq: int) -> list[tuple[int, SceneResult]]:
        """Committed results of selected scenes from a sequence number on, oldest first."""
        return list(self._ledger.results_since(seq))

    def location(self) -> str:
        """The output folder, as it was given."""
        return self._store.uri

    def join(self, feed: str, consumer: str, token: str, position: int | None = None) -> int | None:
        """See `Consumers.join`; None: the bridge is closed."""
        if self._state is State.CLOSED:
            return None
        return self._consumers.join(feed, consumer, token, position)

    def take(
        self, feed: str, consumer: str, token: str, position: int, count: int, *, done: int = 0
    ) -> TakeReply:
        """See `Consumers.take`. A repeated request gets the same crops, and more where more were collected since."""
        failed = self._events.last("state") if self._state is State.ERROR else None
        return self._consumers.take(
            feed,
            consumer,
            token,
            position,
            count,
            done=done,
            state=self._state,
            error=str(failed.get("why")) if failed else "",
            oldest=self._in_flight.oldest,
        )

    def leave(self, feed: str, consumer: str, token: str, done: int) -> None:
        """See `Consumers.leave`."""
        if self._state is not State.CLOSED:
            self._consumers.leave(feed, consumer, token, done)

    def fail(self, why: str) -> None:
        """Ends the run with an error, which consumers get as the reason; changes nothing once the run is finished."""
        if State.ERROR in TRANSITIONS[self._state]:
            self._transition(State.ERROR, why=why)

    def note(self, sentence: str) -> None:
        """Logs what people should know about the run: why it waits, which nodes come and go."""
        self._events.add("note", text=sentence)

    def finish(self, versions: Mapping[str, str]) -> Summary:
        """Removes files of unfinished scenes, writes the manifest, and sets the state READY.

        Raises:
            ValueError: A planned scene has no outcome yet.
            OutputError: The storage refuses, or somebody has removed finished chunks; the old manifest, if any, is still there.
            StoppedEarlyError: Another run has taken the folder over.
        """
        self._require_lock()
        if missing := self.open_scenes():
            if all(len(chunks_of(self._ledger.selected[key])) > 1 for key in missing):
                raise OutputError(
                    f"finished chunks of {missing[0]} are gone from {self._store.location}/{CHUNKS}; run the same command again"
                )
            raise ValueError(f"{len(missing)} planned scenes have no outcome yet, the first is {missing[0]}")
        remove_leftovers(self._store, self._journal)
        summary = self._write_manifest(versions)
        if self._state is State.COLLECTING:
            self._transition(State.READY, peak_in_flight=self._in_flight.peak)
        return summary

    def suspend(self, versions: Mapping[str, str]) -> bool:
        """Admits no further scene, and writes a manifest of those that have a result, marked as incomplete.

        Files of unfinished scenes stay: a worker may still be writing them.

        Returns:
            Whether a manifest was written; it is not where no scene has a result.

        Raises:
            OutputError: The storage refuses; the old manifest, if any, is still there.
        """
        self.stop()
        if self._ledger.without_result()[0] == len(self._ledger.selected):
            return False
        self._write_manifest(versions)
        return True

    def _write_manifest(self, versions: Mapping[str, str]) -> Summary:
        self._require_lock()
        return write_manifest(
            self._store,
            self._ledger.results(),
            self._plan.recipe,
            versions=versions,
            contents=self.contents(),
            unlisted=self._ledger.without_result(),
        )

    def close(self) -> None:
        """Refuses further calls that change anything; the remaining crops of a finished run are leased first."""
        if self._state is State.READY:
            with contextlib.suppress(OutputError):  # consumers then compute their shares from the lease log
                self._consumers.divide()
        if State.CLOSED in TRANSITIONS[self._state]:
            with contextlib.suppress(StoppedEarlyError, OutputError):
                self._require_lock()
            self._transition(State.CLOSED)

    def contents(self) -> str:
        """SHA-256 over every planned scene's identity and outcome: equal where the manifest would be."""
        return self._ledger.contents()

    def _transition(self, state: State, **values: str | int) -> None:
        before, self._state = self._state, state
        self._events.add("state", **{"from": str(before), "to": str(state)}, **values)
