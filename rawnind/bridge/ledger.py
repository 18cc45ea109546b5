"""The outcomes of a plan's scenes: settled by a commit, left out, or open."""

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

_BATCH = 8192
"""Scenes that are looked up in the journal together; some megabytes."""

_CFAS = tuple(Cfa)


_Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]


class OutcomeGroup(NamedTuple):
    """What settled scenes have in common that count alike.

    Attributes:
        pairs: how many pairs have each outcome, in the order of `Outcome`.
        photos: how many photos the scene has.
        this_run: whether this run settled it.
    """

    cfa: Cfa
    outcome: Outcome
    reason: Reason | None
    pairs: tuple[int, ...]
    photos: int
    this_run: bool


class OutcomeLedger:
    """Which scenes have an outcome, and how many have which.

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
        initial: the scenes that the journal held when this was made, by what they have in common.
        work: photos and planned pairs of the scenes that this run settles or has settled.
    """

    def __init__(
        self, plan: Plan, journal: Journal, *, retry: frozenset[Reason], changed: frozenset[str], first: int
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._recipe = plan.recipe.digest
        self._reopened = failure_bits(retry), changed
        self.first = first
        self.selected = {scene.key: scene for scene in plan.selected}
        self.scenes: Counter[Outcome] = Counter()
        self.pairs: Counter[Outcome] = Counter()
        self.crops = 0
        self._open: set[str] = set()
        self._retried: set[str] = set()
        self.initial = self._load()
        self._add_initial()
        self._add_left_out()
        unsettled = [self.selected[key] for key in self._open]
        pairs = sum(len(planned_pairs(scene, plan.recipe.pairing)) for scene in unsettled)
        self.pair_count = pairs + sum(self.pairs.values())
        ours = [(group, count) for group, count in self.initial.items() if group.this_run]
        self.work = (
            sum(map(_photos, unsettled)) + sum(group.photos * count for group, count in ours),
            pairs + sum(sum(group.pairs) * count for group, count in ours),
        )

    def _load(self) -> Counter[OutcomeGroup]:
        """Finds the open scenes, and counts the settled ones."""
        found: Counter[tuple[int, ...]] = Counter()  # numbers: hashing members of an enumeration takes longer
        rest = iter(self.selected.items())
        while batch := list(islice(rest, _BATCH)):
            rows = self._journal.latest.rows(key for key, _ in batch)
            settled, retried = self._settled(batch, rows)
            self._open.update(key for (key, _), done in zip(batch, settled.tolist(), strict=True) if not done)
            self._retried.update(
                key for (key, _), again in zip(batch, retried.tolist(), strict=True) if again
            )
            self.crops += int(rows["crops"][settled].sum())
            scenes = [scene for (_, scene), done in zip(batch, settled.tolist(), strict=True) if done]
            columns = [rows[name][settled].tolist() for name in ("outcome", "reason", *OUTCOMES)]
            this_run = (rows["seq"][settled] >= self.first).tolist()
            cfas, photos = [_CFAS.index(scene.cfa) for scene in scenes], map(_photos, scenes)
            found.update(zip(cfas, photos, this_run, *columns, strict=True))
        return Counter({_group(*numbers): count for numbers, count in found.items()})

    def _settled(self, batch: list[tuple[str, Scene]], rows: Rows) -> tuple[_Mask, _Mask]:
        """Which scenes have a commit with their photos and this recipe: those that are settled, and those to be retried."""
        bits, changed = self._reopened
        known = rows["seq"] >= 0
        same = [
            there and name == identity(scene, self._recipe)
            for there, name, (_, scene) in zip(known.tolist(), rows["identity"].tolist(), batch, strict=True)
        ]
        valid: _Mask = np.array(same)
        before = rows["seq"] < self.first
        if changed:
            valid &= ~(before & np.array([key in changed for key, _ in batch]))
        retried = before & ((rows["failures"] & bits) != 0)
        return valid & ~retried, valid & retried

    def _add_initial(self) -> None:
        for group, count in self.initial.items():
            self.scenes[group.outcome] += count
            for outcome, pairs in zip(Outcome, group.pairs, strict=True):
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

    def results_since(self, seq: int) -> Iterator[tuple[int, SceneResult]]:
        """Committed results of selected scenes from a sequence number on, oldest first."""
        found = self._journal.since(seq) if seq < self._journal.next_seq else ()
        return (item for item in found if self.is_settled(item[1].scene.key))

    def open_scenes(self) -> list[str]:
        """Keys of the scenes that have no outcome yet, in planned order."""
        return [key for key in self.selected if key in self._open]

    def settle(self, key: str, commit: Commit) -> None:
        """Counts the commit of an open scene."""
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
        """The result of every planned scene that has one, in planned order; of a scene to be retried, that of its last attempt."""
        for planned, row in self._last_commits(self._plan.scenes):
            if planned.key in self._plan.left_out:
                yield self._plan.filtered(planned)
            elif self._has_result(planned.key):
                yield replace(self._journal.at(int(row["seq"])), scene=planned)

    def _has_result(self, key: str) -> bool:
        return key not in self._open or key in self._retried

    def without_result(self) -> tuple[int, int]:
        """How many selected scenes `results` leaves out, and how many pairs they plan."""
        scenes = [scene for key, scene in self.selected.items() if not self._has_result(key)]
        return len(scenes), sum(len(planned_pairs(scene, self._plan.recipe.pairing)) for scene in scenes)

    def _last_commits(self, scenes: Iterable[Scene]) -> Iterator[tuple[Scene, np.void]]:
        """Each scene and its last commit as a row of ROW, looked up in batches."""
        rest = iter(scenes)
        while batch := list(islice(rest, _BATCH)):
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


def _photos(scene: Scene) -> int:
    return len(scene.ground_truths) + len(scene.noisy)


def _group(cfa: int, photos: int, this_run: int, outcome: int, reason: int, *pairs: int) -> OutcomeGroup:
    why = REASONS[reason] if reason >= 0 else None
    return OutcomeGroup(_CFAS[cfa], OUTCOMES[outcome], why, pairs, photos, bool(this_run))


def _counts(planned: int, tally: Counter[Outcome]) -> Counts:
    return Counts(planned=planned, **{str(outcome): tally[outcome] for outcome in Outcome})


_EXACT_UP_TO = 1000
"""Settled scenes whose results are read when a bridge starts, at about 1 ms each from a local disk. Where there are more,
counts are derived from the journal's index: by outcome they are exact, and a rejected pair's stage and reason are those of
its scene."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InitialCounts:
    """Counts of the scenes that were settled when the bridge started.

    Attributes:
        stages: of the scenes that this run processes, those among them that it has settled already.
        scenes: how many have each outcome, by CFA.
        pairs: how many have each outcome, by reason; None where collected, or where it is not known.
    """

    stages: StageTally
    scenes: Counter[tuple[Outcome, Cfa]] = field(default_factory=Counter)
    pairs: Counter[tuple[Outcome, Reason | None]] = field(default_factory=Counter)


def initial_counts(
    plan: Plan, ledger: OutcomeLedger, read: Callable[[str], SceneResult], *, observed: bool
) -> InitialCounts:
    """Counts scenes, pairs and stages.

    Args:
        plan: of the run.
        ledger: of the plan's scenes; nothing was settled since it was made.
        read: a settled scene's result.
        observed: whether an observer needs the counts of scenes and pairs; else only stages are counted.
    """
    photos, pairs = ledger.work
    found = InitialCounts(stages=StageTally(photos=photos, pairs=pairs))
    if observed:
        for scene in (each for each in plan.scenes if each.key in plan.left_out):
            reason = plan.left_out[scene.key]
            found.scenes[reason.outcome, scene.cfa] += 1
            found.pairs[reason.outcome, reason] += len(planned_pairs(scene, plan.recipe.pairing))
    for group, count in ledger.initial.items():
        found.scenes[group.outcome, group.cfa] += count
    if ledger.initial.total() <= _EXACT_UP_TO:
        for scene, commit in ledger.settled_scenes():
            if observed or commit.seq >= ledger.first:
                _add_result(found, read(scene.key), this_run=commit.seq >= ledger.first)
    else:
        for group, count in ledger.initial.items():
            _add_estimate(found, group, count)
    return found


def _add_result(found: InitialCounts, result: SceneResult, *, this_run: bool) -> None:
    found.pairs.update((pair.outcome, pair.reason) for pair in result.pairs)
    if this_run:
        found.stages.add(result_counts(result))


def _add_estimate(found: InitialCounts, group: OutcomeGroup, scenes: int) -> None:
    for pair, count in Counter(_pairs(group)).items():
        found.pairs[pair] += count * scenes
    if group.this_run:
        found.stages.add({name: count * scenes for name, count in estimated_counts(group).items()})


def _pairs(group: OutcomeGroup) -> Iterator[tuple[Outcome, Reason | None]]:
    for outcome, count in zip(Outcome, group.pairs, strict=True):
        reason = group.reason if group.reason and group.reason.outcome is outcome else None
        yield from [(outcome, reason)] * count


def estimated_counts(group: OutcomeGroup) -> Counter[str]:
    """`stages.result_counts` of a scene, estimated from its commit alone: each failed pair counts as one failed photo."""
    counts: Counter[str] = Counter()
    for outcome, reason in _pairs(group):
        if outcome is Outcome.COLLECTED or reason:
            counts.update(pair_counts(reason))
        else:
            counts[ended(Stage.ALIGN, outcome)] += 1
    failed = min(group.photos, counts[ended(Stage.ALIGN, Outcome.FAILED)])
    counts[ended(Stage.DECODE, Outcome.FAILED)] += failed
    counts[passed(Stage.DECODE)] += group.photos - failed
    return counts
