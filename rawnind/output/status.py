"""The state of a run, from its journal, events and manifest."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rawnind.errors import NotPreparedError, first_of, printable
from rawnind.output.events import NewestEvent, read_events
from rawnind.output.finished_chunks import SceneProgress, unfinished_scenes
from rawnind.output.journal.commits import OUTCOMES, REASONS, Rows
from rawnind.output.journal.journal import Journal
from rawnind.output.manifest import read_entries, read_summary
from rawnind.output.store import Store
from rawnind.reasons import Outcome, Reason
from rawnind.records import PairResult, SceneResult, Summary
from rawnind.words import counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A file that could not be processed, or a scene that failed as a whole.

    Attributes:
        scene: name of the scene.
        whole_scene: whether the scene failed without one file as the cause.
        attempts: how often workers started the scene, over all runs; 0 where events.jsonl has no entry.
    """

    scene: str
    reason: Reason
    detail: str
    whole_scene: bool
    attempts: int

    def __str__(self) -> str:
        attempts = f" [{counted(self.attempts, 'attempt')}]" if self.attempts else ""
        return f"{self.reason}: {self.scene}: {self.detail}{attempts}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Uncollected:
    """A scene or a pair that is not collected.

    Attributes:
        scene: the scene's key, such as `bayer/kitchen`.
        detail: which file it is about and what was seen.
    """

    scene: str
    outcome: Outcome
    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.outcome}, {self.reason}: {self.scene}: {self.detail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LastRun:
    """The last run in a folder, from events.jsonl.

    Attributes:
        name: of the run.
        began: in seconds since 1970.
        changed: when its state last changed, in seconds since 1970.
        state: its last state as a phrase.
        scenes: planned scenes; None in the log of an earlier version, as the other numbers.
        pairs: planned pairs.
        open: scenes that had no outcome when it began.
        first_seq: sequence number of its first commit.
        note: what it last said about its workers and the cluster's nodes; empty where it said nothing or has ended.
    """

    name: str
    began: float
    changed: float
    state: str
    scenes: int | None
    pairs: int | None
    open: int | None
    first_seq: int
    note: str

    def __str__(self) -> str:
        return f"{self.name} began {_date(self.began)}, {self.state} {_date(self.changed)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What was committed to an output folder.

    Attributes:
        recipe: digest of the recipe of the last commit; empty where nothing was committed.
        run: the last run; None where events.jsonl does not say.
        open: planned scenes of the last run without an outcome; None where events.jsonl does not say.
        unfinished: large scenes that are not committed, of which chunks are finished.
        scenes: (outcome, number of committed scenes) for each outcome.
        crops: number of committed crops.
        summary: the manifest's counts; None until a manifest is written.
        uncollected_scenes: scenes without a collected pair, failed ones first.
        uncollected_pairs: failed ones first.
        filtered: (reason, keys) of the scenes that the manifest's run left out.
        failures: whole scenes first, then files.
        retry: (reason, number of scenes) that `--retry-failed` would process again; a scene may count for several reasons.
        retried_scenes: how many scenes `--retry-failed` would process again.
    """

    recipe: str
    run: LastRun | None
    open: int | None
    unfinished: tuple[SceneProgress, ...]
    scenes: tuple[tuple[Outcome, int], ...]
    crops: int
    summary: Summary | None
    uncollected_scenes: tuple[Uncollected, ...]
    uncollected_pairs: tuple[Uncollected, ...]
    filtered: tuple[tuple[Reason, tuple[str, ...]], ...]
    failures: tuple[Failure, ...]
    retry: tuple[tuple[Reason, int], ...]
    retried_scenes: int

    def lines(self) -> Iterator[str]:
        """The text that `rawnind status` prints."""
        yield f"Recipe:    {self.recipe}, see recipe.yaml" if self.recipe else "Recipe:    see recipe.yaml"
        if self.run:
            yield f"Last run:  {self.run}"
            if self.run.note:
                yield f"Last note: {printable(self.run.note, most=500)}"
            scenes, pairs = self.run.scenes, self.run.pairs
            if scenes is not None and pairs is not None and self.open is not None:
                planned = f"{counted(scenes, 'scene')}, {counted(pairs, 'pair')}"
                yield f"Planned:   {planned}; {counted(self.open, 'scene')} without an outcome yet"
        yield from (f"Begun:     {each}" for each in self.unfinished)
        total = sum(count for _, count in self.scenes)
        committed = ", ".join(f"{count} {outcome}" for outcome, count in self.scenes if count) or "none yet"
        yield f"Committed: {counted(total, 'scene')} ({committed}), {counted(self.crops, 'crop')}"
        yield f"Manifest:  {self._manifest()}"
        yield from self.uncollected()
        for reason, keys in self.filtered:
            yield f"Left out: {counted(len(keys), 'scene')}, {reason}: {reason.sentence}"
            yield from (f"  {', '.join(keys[first : first + 10])}" for first in range(0, len(keys), 10))
        for whole, title in ((True, "Failed scenes without a file as the cause"), (False, "Failed files")):
            failures = [failure for failure in self.failures if failure.whole_scene is whole]
            if failures:
                yield f"{title}: {len(failures)}"
            yield from (f"  {failure}" for failure in failures)
        if self.retry:
            reasons = ", ".join(f"{count} for {reason}" for reason, count in self.retry)
            yield (
                f"`rawnind prepare ... --retry-failed` would process {counted(self.retried_scenes, 'scene')} again: {reasons}; "
                "--retry-failed REASON only those with that reason"
            )

    def _manifest(self) -> str:
        if self.summary is None:
            return "not written yet; run `rawnind prepare` again to resume"
        counts = self.summary
        listed = counts.scenes.planned - counts.scenes.open
        found = f"{counted(listed, 'scene')}, {counted(counts.pairs.collected, 'pair')}, {counted(counts.crops, 'crop')}"
        return f"{found}; {counts.incomplete}" if counts.incomplete else found

    def uncollected(self, most: int | None = None) -> Iterator[str]:
        """The scenes and pairs that are not collected, with reason and file.

        Args:
            most: how many scenes and how many pairs to list; None: all.
        """
        for title, found in (("Scenes", self.uncollected_scenes), ("Pairs", self.uncollected_pairs)):
            if found:
                yield f"{title} that are not collected: {len(found)}"
            yield from first_of((f"  {each}" for each in found), len(found) if most is None else most)


def read_status(store: Store) -> Status:
    """What the journal, the events and the manifest say.

    Raises:
        NotPreparedError: No run has begun there.
        ManifestError: The journal or the manifest is damaged.
    """
    journal = Journal(store)
    run = _last_run(store)
    if not journal.latest and run is None:
        raise NotPreparedError(
            f"{store.location} holds no committed scene; is it the --output of `rawnind prepare`?"
        )
    rows = journal.latest.all_rows()
    outcomes = Counter(OUTCOMES[code] for code in rows["outcome"])
    attempts = _attempts(store) if rows["failures"].any() else Counter()
    scenes: list[Uncollected] = []
    pairs: list[Uncollected] = []
    failures: list[Failure] = []
    for result in _results_with_losses(journal, rows):
        scenes += _scene(result)
        pairs += _pairs(result)
        failures += _failures(result, attempts[result.scene.key])
    summary = _summary(store)
    return Status(
        recipe=journal.at(journal.next_seq - 1).recipe if journal.latest else "",
        run=run,
        unfinished=tuple(unfinished_scenes(store, journal.latest)),
        open=None if run is None or run.open is None else max(run.open - journal.next_seq + run.first_seq, 0),
        scenes=tuple((outcome, outcomes[outcome]) for outcome in Outcome),
        crops=int(rows["crops"].sum()),
        summary=summary,
        uncollected_scenes=_failed_first(scenes),
        uncollected_pairs=_failed_first(pairs),
        filtered=_filtered(store) if summary and summary.scenes.filtered else (),
        failures=tuple(sorted(failures, key=lambda failure: (not failure.whole_scene, failure.scene))),
        retry=tuple(
            (reason, int(count))
            for place, reason in enumerate(REASONS)
            if (count := np.count_nonzero(rows["failures"] >> np.uint64(place) & np.uint64(1)))
        ),
        retried_scenes=int(np.count_nonzero(rows["failures"])),
    )


def _results_with_losses(journal: Journal, rows: Rows) -> Iterator[SceneResult]:
    """The results of scenes with anything that is not collected or failed; in the journal's order, which is read fastest."""
    lost = (rows["outcome"] != OUTCOMES.index(Outcome.COLLECTED)) | (rows["failures"] != 0)
    for outcome in (Outcome.FILTERED, Outcome.REJECTED, Outcome.FAILED):
        lost |= rows[str(outcome)] != 0
    return (journal.at(int(seq)) for seq in np.sort(rows["seq"][lost]))


def _scene(result: SceneResult) -> Iterator[Uncollected]:
    """The scene, unless it is collected."""
    if result.reason:
        none = f"no pair is collected, of {len(result.pairs)} planned"
        yield Uncollected(
            scene=result.scene.key,
            outcome=result.outcome,
            reason=result.reason,
            detail=none if result.pairs else result.detail,
        )


def _pairs(result: SceneResult) -> Iterator[Uncollected]:
    """The pairs that are not collected."""
    for pair in result.pairs:
        if pair.reason:
            yield Uncollected(
                scene=result.scene.key, outcome=pair.outcome, reason=pair.reason, detail=_with_files(pair)
            )


def _with_files(pair: PairResult) -> str:
    """The pair's detail, with the files that it is about; that of a failed pair names the file that failed."""
    file = pair.noisy.filename
    if pair.detail.startswith(file):
        return pair.detail
    if pair.ground_truth and pair.outcome is Outcome.REJECTED:
        file += f" with {pair.ground_truth.filename}"
    return f"{file}: {pair.detail}"


def _failures(result: SceneResult, attempts: int) -> Iterator[Failure]:
    causes = [(file.reason, file.detail) for file in result.failed_files]
    if result.outcome is Outcome.FAILED and result.reason and not causes:
        causes = [(result.reason, result.detail)]
    for reason, detail in causes:
        yield Failure(
            scene=result.scene.name,
            reason=reason,
            detail=detail,
            whole_scene=not result.failed_files,
            attempts=attempts,
        )


def _failed_first(found: list[Uncollected]) -> tuple[Uncollected, ...]:
    return tuple(sorted(found, key=lambda each: (each.outcome is not Outcome.FAILED, each.scene)))


def _summary(store: Store) -> Summary | None:
    try:
        return read_summary(store)
    except FileNotFoundError:
        return None


def _filtered(store: Store) -> tuple[tuple[Reason, tuple[str, ...]], ...]:
    keys: dict[str, list[str]] = {}
    for entry in read_entries(store):
        if entry.get("outcome") == Outcome.FILTERED:
            keys.setdefault(str(entry.get("reason")), []).append(f"{entry.get('cfa')}/{entry.get('scene')}")
    return tuple((reason, tuple(keys[reason])) for reason in Reason if reason in keys)


def _last_run(store: Store) -> LastRun | None:
    begin, state, note = (NewestEvent(store, event).read() for event in ("begin", "state", "note"))
    if begin is None or state is None:
        return None
    goes_on = state.get("to") == "collecting"
    return LastRun(
        name=str(begin["run"]),
        began=begin["time"],
        changed=state["time"],
        state=_phrase(state),
        scenes=begin.get("planned_scenes"),
        pairs=begin.get("planned_pairs"),
        open=begin.get("open_scenes"),
        first_seq=begin.get("next_seq", 0),
        note=f"{_date(note['time'])}: {note.get('text', '')}"
        if note and goes_on and note["run"] == begin["run"]
        else "",
    )


def _phrase(state: dict[str, Any]) -> str:
    if state.get("to") == "error":
        return f"failed ({state.get('why')})"
    if "ready" in (state.get("to"), state.get("from")):
        return "finished"
    return "stopped" if state.get("to") == "closed" else "has not ended (or was killed), collecting since"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _attempts(store: Store) -> Counter[str]:
    """How often workers started each scene, by the scene's key."""
    attempts: Counter[str] = Counter()
    for line in read_events(store):
        if line.get("event") == "commit":
            attempts[line.get("scene", "")] += int(line.get("telemetry", {}).get("attempts", 1))
    return attempts
