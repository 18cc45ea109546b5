"""How far photos and pairs are on their way through the stages, while scenes are being worked on."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from rawnind.reasons import Outcome, Reason
from rawnind.records import SceneResult


class Stage(StrEnum):
    """What a worker does, in this order. `decode` goes through photos, the others through pairs."""

    DECODE = "decode"
    ALIGN = "align"
    MASK = "mask"
    WRITE = "write"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCounts:
    """Photos (`decode`) or pairs (the others) of the scenes that this run works on.

    Attributes:
        waiting: may still come to this stage.
        running: are in it now.
        done: went through it.
        rejected: ended here because they are not fit for training.
        failed: ended here because they could not be processed.
    """

    stage: Stage
    waiting: int
    running: int
    done: int
    rejected: int
    failed: int


_MASK_REASONS = {Reason.ALIGNMENT_LOSS, Reason.MASK_MEAN, Reason.NO_VALID_CROP}


def passed(stage: Stage) -> str:
    """Name of the count of photos or pairs that went through a stage: `decode_done`."""
    return f"{stage}_done"


def ended(stage: Stage, outcome: Outcome) -> str:
    """Name of the count of photos or pairs that ended in a stage: `align_rejected`."""
    return f"{stage}_{outcome}"


def pair_counts(reason: Reason | None) -> tuple[str, ...]:
    """The counts that a pair belongs to when it has ended for a reason; None: it was collected.

    >>> pair_counts(Reason.MASK_MEAN)
    ('align_done', 'mask_rejected')
    """
    if reason is None:
        return passed(Stage.ALIGN), passed(Stage.MASK), passed(Stage.WRITE)
    if reason in _MASK_REASONS:
        return passed(Stage.ALIGN), ended(Stage.MASK, reason.outcome)
    return (ended(Stage.ALIGN, reason.outcome),)


def result_counts(result: SceneResult) -> Counter[str]:
    """What a scene adds to the counts once it has its outcome.

    Its photos count as failed when the scene failed as a whole, and as rejected when there was no reason to read them.
    """
    counts = Counter(name for pair in result.pairs for name in pair_counts(pair.reason))
    photos, failed = len(_photos(result)), len(result.failed_files)
    whole = result.outcome if not (failed or _judged(result)) else None
    if whole in {Outcome.FAILED, Outcome.REJECTED}:
        counts[ended(Stage.DECODE, whole)] += photos
    else:
        counts[ended(Stage.DECODE, Outcome.FAILED)] += failed
        counts[passed(Stage.DECODE)] += photos - failed
    return counts


def _photos(result: SceneResult) -> tuple[object, ...]:
    return (*result.scene.ground_truths, *result.scene.noisy)


def _judged(result: SceneResult) -> bool:
    """Whether some pair was looked at on its own; a scene that fails as a whole has photos that nobody read."""
    return any(pair.outcome is not Outcome.FAILED for pair in result.pairs)


class StageTally:
    """Counts of settled scenes, and of what scenes in flight have done so far.

    Args:
        photos: of all scenes that the run works on.
        pairs: planned pairs of these scenes.
    """

    def __init__(self, photos: int, pairs: int) -> None:
        self._planned = {stage: photos if stage is Stage.DECODE else pairs for stage in Stage}
        self._settled: Counter[str] = Counter()
        self._partial: dict[str, Mapping[str, int]] = {}

    def heard(self, key: str, counts: Mapping[str, int]) -> None:
        """A worker says how far a scene is."""
        self._partial[key] = counts

    def settled(self, result: SceneResult) -> None:
        """A scene has its outcome; what its worker said before counts no more."""
        self._partial.pop(result.scene.key, None)
        self.add(result_counts(result))

    def add(self, counts: Mapping[str, int]) -> None:
        """Counts of a scene that was settled before."""
        self._settled.update(counts)

    def forget(self, key: str) -> None:
        """A scene's worker is gone."""
        self._partial.pop(key, None)

    def counts(self, running: Iterable[str]) -> tuple[StageCounts, ...]:
        """One record per stage.

        Args:
            running: the stage of each scene in flight.
        """
        known = self._settled.copy()
        for partial in self._partial.values():
            known.update(partial)
        busy = Counter(running)
        rows = []
        gone = 0  # pairs that ended before this stage
        for stage in Stage:
            done = known[passed(stage)]
            rejected, failed = (known[ended(stage, kind)] for kind in (Outcome.REJECTED, Outcome.FAILED))
            open_ = max(0, self._planned[stage] - gone - done - rejected - failed)
            here = min(busy[stage], open_)
            rows.append(
                StageCounts(
                    stage=stage,
                    waiting=open_ - here,
                    running=here,
                    done=done,
                    rejected=rejected,
                    failed=failed,
                )
            )
            gone += rejected + failed if stage is not Stage.DECODE else 0
        return tuple(rows)
