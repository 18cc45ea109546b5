"""The state of a run, from its journal and manifest."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rawnind.errors import NotPreparedError
from rawnind.output.events import read_events
from rawnind.output.journal.commits import OUTCOMES
from rawnind.output.journal.journal import Journal
from rawnind.output.manifest import read_summary
from rawnind.output.store import Store
from rawnind.reasons import Outcome, Reason
from rawnind.records import Summary

_ADVICE = "(try again with `rawnind prepare ... --retry-failed`)"


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
        attempts = f" [{self.attempts} attempt{'s' if self.attempts > 1 else ''}]" if self.attempts else ""
        return f"{self.reason}: {self.scene}: {self.detail}{attempts}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What was committed to an output folder.

    Attributes:
        scenes: (outcome, number of committed scenes) for each outcome.
        crops: number of committed crops.
        summary: the manifest's counts; None until the manifest is written.
        failures: whole scenes first, then files.
        without_pairs: (key, reason) of each scene that was rejected before it had a pair.
    """

    scenes: tuple[tuple[Outcome, int], ...]
    crops: int
    summary: Summary | None
    failures: tuple[Failure, ...]
    without_pairs: tuple[tuple[str, Reason], ...]

    def lines(self) -> Iterator[str]:
        """The text that `rawnind status` prints."""
        total = sum(count for _, count in self.scenes)
        committed = ", ".join(f"{count} {outcome}" for outcome, count in self.scenes if count)
        yield f"Committed: {total} scenes ({committed}), {self.crops} crops"
        if self.summary is None:
            yield "Manifest:  not written yet; run `rawnind prepare` again to resume"
        else:
            counts = self.summary
            yield f"Manifest:  {counts.scenes.planned} scenes, {counts.pairs.collected} pairs, {counts.crops} crops"
        if self.without_pairs:
            yield f"Scenes without a pair: {len(self.without_pairs)}"
        yield from (f"  {reason}: {key}: {reason.sentence}" for key, reason in self.without_pairs)
        for whole, title in ((True, "Failed scenes without a file as the cause"), (False, "Failed files")):
            failures = [failure for failure in self.failures if failure.whole_scene is whole]
            if failures:
                yield f"{title}: {len(failures)} {_ADVICE}"
            yield from (f"  {failure}" for failure in failures)


def read_status(store: Store) -> Status:
    """Counts of all commits, the manifest's counts, and every failure.

    Raises:
        NotPreparedError: No scene was committed there.
        ManifestError: The journal is damaged.
    """
    journal = Journal(store)
    if not journal.latest:
        raise NotPreparedError(
            f"{store.location} holds no committed scene; is it the --output of `rawnind prepare`?"
        )
    rows = journal.latest.all_rows()
    scenes = Counter(OUTCOMES[code] for code in rows["outcome"])
    return Status(
        scenes=tuple((outcome, scenes[outcome]) for outcome in Outcome),
        crops=int(rows["crops"].sum()),
        summary=_summary(store),
        failures=tuple(sorted(_failures(journal, store), key=lambda failure: not failure.whole_scene)),
        without_pairs=tuple(
            (key, commit.reason)
            for key, commit in sorted(journal.latest.items())
            if commit.reason is Reason.NO_NOISY
        ),
    )


def _summary(store: Store) -> Summary | None:
    try:
        return read_summary(store)
    except FileNotFoundError:
        return None


def _failures(journal: Journal, store: Store) -> Iterator[Failure]:
    failed = [journal.read(key) for key, commit in sorted(journal.latest.items()) if commit.failures]
    attempts = _attempts(store) if failed else Counter()
    for result in failed:
        causes = [(file.reason, file.detail) for file in result.failed_files]
        if result.outcome is Outcome.FAILED and result.reason and not causes:
            causes = [(result.reason, result.detail)]
        for reason, detail in causes:
            yield Failure(
                scene=result.scene.name,
                reason=reason,
                detail=detail,
                whole_scene=not result.failed_files,
                attempts=attempts[result.scene.key],
            )


def _attempts(store: Store) -> Counter[str]:
    """How often workers started each scene, by the scene's key."""
    attempts: Counter[str] = Counter()
    for line in read_events(store):
        if line.get("event") == "commit":
            attempts[line.get("scene", "")] += int(line.get("telemetry", {}).get("attempts", 1))
    return attempts
