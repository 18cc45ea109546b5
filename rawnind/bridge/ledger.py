"""Where each scene of a plan stands: settled by a commit, left out, or open."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

import numpy as np

from rawnind.bridge.stages import Stage, StageTally, ended, pair_counts, passed, result_counts
from rawnind.outcomes import planned_pairs
from rawnind.output.journal.commits import (
    OUTCOMES,
    REASONS,
    Commit,
    Rows,
    commit_from,
    failure_bits,
    identity,
)
from rawnind.output.journal.journal import Journal
from rawnind.planning import Plan
from rawnind.reasons import Outcome, Reason
from rawnind.records import Cfa, Counts, Scene, SceneResult

_AT_ONCE = 8192
"""Scenes that are looked up in the journal together, some megabytes."""


class Fate(NamedTuple):
    """What settled scenes have in common that count alike.

    Attributes:
        pairs: how many pairs ended with each outcome, in the order of `Outcome`.
        photos: how many photos the scene has.
        ours: whether this run settled it.
    """

    cfa: Cfa
    outcome: Outcome
    reason: Reason | None
    pairs: tuple[int, ...]
    photos: int
    ours: bool


class Standing:
    """Which scenes have their outcome, and how many have which.

    Args:
        plan: every scene.
        journal: of the output folder.
        retry: scenes that failed for one of these reasons before `first` are open again.
        changed: keys of scenes that are open again where they were settled before `first`.
        first: the run's first sequence number.

    Attributes:
        first: the run's first sequence number.
        selected: key of a scene that is not left out -> the scene, in planned order.
        scenes: how many have each outcome.
        pairs: how many planned pairs have each outcome.
        pair_count: planned pairs.
        crops: of collected pairs.
        before: fates of the scenes that the journal held when this was made.
        todo: photos and planned pairs of the scenes that this run settles or has settled.
    """

    def __init__(
        self, plan: Plan, journal: Journal, *, retry: frozenset[Reason], changed: frozenset[str], first: int
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._recipe = plan.recipe.digest
        self._again = failure_bits(retry), changed
        self.first = first
        self.selected = {scene.key: scene for scene in plan.selected}
        self.scenes: Counter[Outcome] = Counter()
        self.pairs: Counter[Outcome] = Counter()
        self.crops = 0
        self.before: Counter[Fate] = Counter()
        self._open: set[str] = set()
        photos = pairs = 0
        for key, scene, fate in self._found():
            if fate is None:
                self._open.add(key)
                photos += len(scene.ground_truths) + len(scene.noisy)
                pairs += len(planned_pairs(scene, plan.recipe.pairing))
            else:
                self.before[fate] += 1
        self._add_before()
        self._add_left_out()
        self.pair_count = pairs + sum(self.pairs.values())
        ours = [(fate, count) for fate, count in self.before.items() if fate.ours]
        self.todo = (
            photos + sum(fate.photos * count for fate, count in ours),
            pairs + sum(sum(fate.pairs) * count for fate, count in ours),
        )

    def _found(self) -> Iterator[tuple[str, Scene, Fate | None]]:
        """Each selected scene, and its fate where it is settled."""
        rest = iter(self.selected.items())
        while batch := list(islice(rest, _AT_ONCE)):
            rows = self._journal.latest.rows(key for key, _ in batch)
            settled = self._settled(batch, rows)
            self.crops += int(rows["crops"][settled].sum())
            columns = [rows[name].tolist() for name in ("seq", "outcome", "reason", *OUTCOMES)]
            for (key, scene), done, (seq, outcome, reason, *pairs) in zip(
                batch, settled.tolist(), zip(*columns, strict=True), strict=True
            ):
                fate = None
                if done:
                    why = REASONS[reason] if reason >= 0 else None
                    photos = len(scene.ground_truths) + len(scene.noisy)
                    ours = seq >= self.first
                    fate = Fate(scene.cfa, OUTCOMES[outcome], why, tuple(pairs), photos, ours)
                yield key, scene, fate

    def _settled(
        self, batch: list[tuple[str, Scene]], rows: Rows
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which scenes have a commit with their photos and this recipe, and are not to be done again."""
        bits, changed = self._again
        known = rows["seq"] >= 0
        same = [
            there and name == identity(scene, self._recipe)
            for there, name, (_, scene) in zip(known.tolist(), rows["identity"].tolist(), batch, strict=True)
        ]
        again = (rows["failures"] & bits) != 0
        if changed:
            again |= np.array([key in changed for key, _ in batch])
        settled: np.ndarray[tuple[int], np.dtype[np.bool_]] = np.array(same) & ~(
            again & (rows["seq"] < self.first)
        )
        return settled

    def _add_before(self) -> None:
        for fate, count in self.before.items():
            self.scenes[fate.outcome] += count
            for outcome, pairs in zip(Outcome, fate.pairs, strict=True):
                self.pairs[outcome] += pairs * count

    def _add_left_out(self) -> None:
        for scene in self._plan.scenes if self._plan.left_out else ():
            if reason := self._plan.left_out.get(scene.key):
                self.scenes[reason.outcome] += 1
                self.pairs[reason.outcome] += len(planned_pairs(scene, self._plan.recipe.pairing))

    def is_open(self, key: str) -> bool:
        """Whether a scene has no outcome yet."""
        return key in self._open

    def is_settled(self, key: str) -> bool:
        """Whether a commit is a selected scene's outcome."""
        return key in self.selected and key not in self._open

    def news(self, seq: int) -> Iterator[tuple[int, SceneResult]]:
        """Committed results of selected scenes from a sequence number on, oldest first."""
        found = self._journal.since(seq) if seq < self._journal.next_seq else ()
        return (item for item in found if self.is_settled(item[1].scene.key))

    def open_scenes(self) -> list[str]:
        """Keys of the scenes that have no outcome yet, in planned order."""
        return [key for key in self.selected if key in self._open]

    def settle(self, key: str, commit: Commit) -> None:
        """An open scene was committed."""
        self._open.remove(key)
        self.scenes[commit.outcome] += 1
        self.pairs.update(dict(zip(Outcome, commit.pairs, strict=True)))
        self.crops += commit.crops

    def settled_scenes(self) -> Iterator[tuple[Scene, Commit]]:
        """Every settled scene and its commit."""
        return (
            (scene, commit_from(row))
            for scene, row in self._last_commits(self.selected.values())
            if scene.key not in self._open
        )

    @property
    def scene_counts(self) -> Counts:
        """All planned scenes by outcome."""
        return _counts(len(self._plan.scenes), self.scenes)

    @property
    def pair_counts(self) -> Counts:
        """All planned pairs by outcome."""
        return _counts(self.pair_count, self.pairs)

    def results(self) -> Iterator[SceneResult]:
        """The result of every planned scene, in planned order; every selected one must be settled."""
        for planned, row in self._last_commits(self._plan.scenes):
            if planned.key in self._plan.left_out:
                yield self._plan.filtered(planned)
            else:
                yield replace(self._journal.at(int(row["seq"])), scene=planned)

    def _last_commits(self, scenes: Iterable[Scene]) -> Iterator[tuple[Scene, np.void]]:
        """Each scene and its last commit as a row of ROW, looked up many at a time."""
        rest = iter(scenes)
        while batch := list(islice(rest, _AT_ONCE)):
            yield from zip(batch, self._journal.latest.rows(scene.key for scene in batch), strict=True)

    def contents(self) -> str:
        """SHA-256 over every planned scene's identity and outcome: equal where the manifest would be."""
        digest = hashlib.sha256()
        for scene, row in self._last_commits(self._plan.scenes):
            key = scene.key
            commit = commit_from(row) if self.is_settled(key) else None
            outcome = self._plan.left_out.get(key) or (
                commit and [commit.outcome, commit.reason, commit.crops]
            )
            name = commit.identity if commit else identity(scene, self._recipe)
            digest.update(json.dumps([key, name.hex(), outcome]).encode())
        return digest.hexdigest()


def _counts(planned: int, tally: Counter[Outcome]) -> Counts:
    return Counts(planned=planned, **{str(outcome): tally[outcome] for outcome in Outcome})


EXACT = 1000
"""Settled scenes up to which their results are read again, at about 1 ms each from a local disk. Beyond, what the journal
holds in memory has to do: counts by outcome are then still exact, and a rejected pair's stage and reason are its scene's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recount:
    """Counts of what was settled before.

    Attributes:
        stages: of the scenes that this run works on, those that it has settled already among them.
        scenes: how many have each outcome, by CFA.
        pairs: how many have each outcome, by reason; None where collected, or where it is not known.
    """

    stages: StageTally
    scenes: Counter[tuple[Outcome, Cfa]] = field(default_factory=Counter)
    pairs: Counter[tuple[Outcome, Reason | None]] = field(default_factory=Counter)


def recount(
    plan: Plan, standing: Standing, read: Callable[[str], SceneResult], *, everything: bool
) -> Recount:
    """Counts scenes, pairs and stages.

    Args:
        plan: what the run knows of.
        standing: where the plan's scenes stand, as long as nothing was settled since it was made.
        read: a settled scene's result.
        everything: count scenes and pairs too, which nobody needs who is not observed.
    """
    photos, pairs = standing.todo
    found = Recount(stages=StageTally(photos=photos, pairs=pairs))
    if everything:
        for each in (scene for scene in plan.scenes if scene.key in plan.left_out):
            _add(found, each, plan.left_out[each.key].outcome)
            planned = len(planned_pairs(each, plan.recipe.pairing))
            found.pairs[plan.left_out[each.key].outcome, plan.left_out[each.key]] += planned
    for fate, count in standing.before.items():
        found.scenes[fate.outcome, fate.cfa] += count
    if standing.before.total() <= EXACT:
        for scene, commit in standing.settled_scenes():
            if everything or commit.seq >= standing.first:
                _read(found, read(scene.key), ours=commit.seq >= standing.first)
    else:
        for fate, count in standing.before.items():
            _estimate(found, fate, count)
    return found


def _read(found: Recount, result: SceneResult, *, ours: bool) -> None:
    found.pairs.update((pair.outcome, pair.reason) for pair in result.pairs)
    if ours:
        found.stages.add(result_counts(result))


def _estimate(found: Recount, fate: Fate, scenes: int) -> None:
    for pair, count in Counter(_pairs(fate)).items():
        found.pairs[pair] += count * scenes
    if fate.ours:
        found.stages.add({name: count * scenes for name, count in fate_counts(fate).items()})


def _add(found: Recount, scene: Scene, outcome: Outcome) -> None:
    found.scenes[outcome, scene.cfa] += 1


def _pairs(fate: Fate) -> Iterator[tuple[Outcome, Reason | None]]:
    for outcome, count in zip(Outcome, fate.pairs, strict=True):
        reason = fate.reason if fate.reason and fate.reason.outcome is outcome else None
        yield from [(outcome, reason)] * count


def fate_counts(fate: Fate) -> Counter[str]:
    """What a scene adds to the counts of stages, as far as its commit tells: each failed pair is one failed photo."""
    counts: Counter[str] = Counter()
    for outcome, reason in _pairs(fate):
        if outcome is Outcome.COLLECTED or reason:
            counts.update(pair_counts(reason))
        else:
            counts[ended(Stage.ALIGN, outcome)] += 1
    failed = min(fate.photos, counts[ended(Stage.ALIGN, Outcome.FAILED)])
    counts[ended(Stage.DECODE, Outcome.FAILED)] += failed
    counts[passed(Stage.DECODE)] += fate.photos - failed
    return counts
