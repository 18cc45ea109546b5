"""What a bridge that comes to life knows of the scenes that were settled before."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from rawnind.cluster.stages import Stage, StageTally, ended, pair_counts, passed, result_counts
from rawnind.plan import Plan
from rawnind.records import Cfa, Outcome, Reason, Scene, SceneResult
from rawnind.results import planned_pairs
from rawnind.storage.parts import Commit

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
    plan: Plan,
    done: Mapping[str, Commit],
    first: int,
    read: Callable[[str], SceneResult],
    *,
    everything: bool,
) -> Recount:
    """Counts scenes, pairs and stages.

    Args:
        plan: what the run knows of.
        done: key of a settled scene that was not left out -> its commit.
        first: the run's first sequence number; what was settled earlier takes part in no stage.
        read: a settled scene's result.
        everything: count scenes and pairs too, which nobody needs who is not observed.
    """
    ours = [each for each in plan.selected if each.key not in done or done[each.key].seq >= first]
    tally = StageTally(
        photos=sum(len(each.ground_truths) + len(each.noisy) for each in ours),
        pairs=sum(len(planned_pairs(each, plan.recipe.pairing)) for each in ours),
    )
    found = Recount(stages=tally)
    if everything:
        for each in (scene for scene in plan.scenes if scene.key in plan.left_out):
            _add(found, each, plan.left_out[each.key].outcome)
            pairs = len(planned_pairs(each, plan.recipe.pairing))
            found.pairs[plan.left_out[each.key].outcome, plan.left_out[each.key]] += pairs
    for scene in (each for each in plan.selected if each.key in done):
        commit = done[scene.key]
        if everything or commit.seq >= first:
            _settled(found, scene, commit, read if len(done) <= EXACT else None, ours=commit.seq >= first)
    return found


def _settled(
    found: Recount, scene: Scene, commit: Commit, read: Callable[[str], SceneResult] | None, *, ours: bool
) -> None:
    _add(found, scene, commit.outcome)
    if read:
        result = read(scene.key)
        found.pairs.update((pair.outcome, pair.reason) for pair in result.pairs)
        counts = result_counts(result)
    else:
        found.pairs.update(_pairs(commit))
        counts = commit_counts(scene, commit)
    if ours:
        found.stages.add(counts)


def _add(found: Recount, scene: Scene, outcome: Outcome) -> None:
    found.scenes[outcome, scene.cfa] += 1


def _pairs(commit: Commit) -> Iterator[tuple[Outcome, Reason | None]]:
    for outcome, count in zip(Outcome, commit.pairs, strict=True):
        reason = commit.reason if commit.reason and commit.reason.outcome is outcome else None
        yield from [(outcome, reason)] * count


def commit_counts(scene: Scene, commit: Commit) -> Counter[str]:
    """What a scene adds to the counts of stages, as far as its commit tells: each failed pair is one failed photo."""
    counts: Counter[str] = Counter()
    for outcome, reason in _pairs(commit):
        if outcome is Outcome.COLLECTED or reason:
            counts.update(pair_counts(reason))
        else:
            counts[ended(Stage.ALIGN, outcome)] += 1
    photos = len(scene.ground_truths) + len(scene.noisy)
    failed = min(photos, counts[ended(Stage.ALIGN, Outcome.FAILED)])
    counts[ended(Stage.DECODE, Outcome.FAILED)] += failed
    counts[passed(Stage.DECODE)] += photos - failed
    return counts
