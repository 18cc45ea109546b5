"""Counts of photos and pairs by stage, also of scenes in flight."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from rawnind.chunks import scene_key
from rawnind.reasons import Outcome, Reason
from rawnind.records import SceneResult


class Stage(StrEnum):
    """The stages of a scene, in order. `decode` processes photos, the others pairs."""

    DECODE = "decode"
    ALIGN = "align"
    MASK = "mask"
    WRITE = "write"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCounts:
    """Photos (`decode`) or pairs (the others) of the scenes that this run processes.

    Attributes:
        waiting: have not reached this stage yet.
        running: are processed in it now.
        done: have passed it.
        rejected: ended here because they are not fit for training.
        failed: ended here because they could not be processed.
    """

    stage: Stage
    waiting: int
    running: int
    done: int
    rejected: int
    failed: int


_MASK_REASONS = {
    Reason.LIGHT_MISMATCH,
    Reason.LEVEL_MISMATCH,
    Reason.ALIGNMENT_LOSS,
    Reason.MASK_MEAN,
    Reason.NO_VALID_CROP,
}


def passed(stage: Stage) -> str:
    """Name of the count of photos or pairs that have passed a stage: `decode_done`."""
    return f"{stage}_done"


def ended(stage: Stage, outcome: Outcome) -> str:
    """Name of the count of photos or pairs that ended in a stage: `align_rejected`."""
    return f"{stage}_{outcome}"


def pair_counts(reason: Reason | None) -> tuple[str, ...]:
    """Names of the counts that a pair with an outcome adds to; `reason` is None where it was collected.

    >>> pair_counts(Reason.MASK_MEAN)
    ('align_done', 'mask_rejected')
    """
    if reason is None:
        return passed(Stage.ALIGN), passed(Stage.MASK), passed(Stage.WRITE)
    if reason in _MASK_REASONS:
        return passed(Stage.ALIGN), ended(Stage.MASK, reason.outcome)
    return (ended(Stage.ALIGN, reason.outcome),)


def result_counts(result: SceneResult) -> Counter[str]:
    """What a scene with an outcome adds to the counts.

    Its photos count as failed where the scene failed as a whole, and as rejected where none of them had to be read.
    """
    counts = Counter(name for pair in result.pairs for name in pair_counts(pair.reason))
    photos, failed = len(_photos(result)), len(result.failed_files)
    whole = result.outcome if not (failed or _was_processed(result)) else None
    if whole in {Outcome.FAILED, Outcome.REJECTED}:
        counts[ended(Stage.DECODE, whole)] += photos
    else:
        counts[ended(Stage.DECODE, Outcome.FAILED)] += failed
        counts[passed(Stage.DECODE)] += photos - failed
    return counts


def chunk_counts(result: SceneResult, number: int) -> Counter[str]:
    """What a finished chunk adds to the counts; the first one has the scene's ground truths.

    Args:
        result: of the scene with the chunk's noisy photos alone.
        number: of the chunk, from 0.
    """
    counts = result_counts(result)
    if number:
        failed = sum(file.photo.ground_truth for file in result.failed_files)
        counts[ended(Stage.DECODE, Outcome.FAILED)] -= failed
        counts[passed(Stage.DECODE)] -= len(result.scene.ground_truths) - failed
    return counts


def _photos(result: SceneResult) -> tuple[object, ...]:
    return (*result.scene.ground_truths, *result.scene.noisy)


def _was_processed(result: SceneResult) -> bool:
    """Whether pairs have outcomes of their own; the photos of a scene that failed as a whole may not have been read."""
    return any(pair.outcome is not Outcome.FAILED for pair in result.pairs)


class StageTally:
    """Counts of settled scenes, and of scenes in flight as their workers report them.

    Args:
        photos: of all scenes that the run processes.
        pairs: planned pairs of these scenes.
    """

    def __init__(self, photos: int, pairs: int) -> None:
        self._planned = {stage: photos if stage is Stage.DECODE else pairs for stage in Stage}
        self._settled: Counter[str] = Counter()
        self._partial: dict[str, Mapping[str, int]] = {}

    def report(self, key: str, counts: Mapping[str, int]) -> None:
        """Sets the counts of a scene in flight, or of a chunk of it, in flight or finished."""
        self._partial[key] = counts

    def settle(self, result: SceneResult) -> None:
        """Replaces what was reported of a scene by the counts of its result."""
        for name in [name for name in self._partial if scene_key(name) == result.scene.key]:
            self.discard(name)
        self.add(result_counts(result))

    def add(self, counts: Mapping[str, int]) -> None:
        """Adds counts of settled scenes."""
        self._settled.update(counts)

    def discard(self, key: str) -> None:
        """Removes what was reported of a scene or a chunk."""
        self._partial.pop(key, None)

    def counts(self, running: Iterable[str]) -> tuple[StageCounts, ...]:
        """One record per stage.

        Args:
            running: the stage of each scene in flight.
        """
        total = self._settled.copy()
        for partial in self._partial.values():
            total.update(partial)
        busy = Counter(running)
        rows = []
        left = 0  # pairs rejected or failed before this stage
        for stage in Stage:
            done = total[passed(stage)]
            rejected, failed = (total[ended(stage, kind)] for kind in (Outcome.REJECTED, Outcome.FAILED))
            unfinished = max(0, self._planned[stage] - left - done - rejected - failed)
            in_stage = min(busy[stage], unfinished)
            rows.append(
                StageCounts(
                    stage=stage,
                    waiting=unfinished - in_stage,
                    running=in_stage,
                    done=done,
                    rejected=rejected,
                    failed=failed,
                )
            )
            left += rejected + failed if stage is not Stage.DECODE else 0
        return tuple(rows)
