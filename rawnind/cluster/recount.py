"""What a bridge that comes to life knows of the scenes that were settled before."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rawnind.cluster.stages import Stage, StageTally, ended, pair_counts, passed, result_counts
from rawnind.cluster.standing import Fate, Standing
from rawnind.plan import Plan
from rawnind.records import Cfa, Outcome, Reason, Scene, SceneResult
from rawnind.results import planned_pairs

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
