"""Texts that the plain lines and the live view share."""

from collections.abc import Iterator, Sequence

from rawnind.bridge.messages import LoaderReport, Snapshot
from rawnind.bridge.stages import StageCounts
from rawnind.errors import first_of, printable
from rawnind.planning import Plan
from rawnind.progress.eta import Eta, duration
from rawnind.reasons import Outcome
from rawnind.records import Counts
from rawnind.source.index import Index
from rawnind.words import counted


def opening(index: Index, plan: Plan, already: int) -> Iterator[str]:
    """What the source holds and how many scenes are to do.

    Args:
        index: the source.
        plan: of the run.
        already: scenes that have an outcome from an earlier run.
    """
    photos = f"{index.ground_truths} GT and {counted(index.noisy, 'noisy photo')}"
    yield f"Source: {counted(len(plan.scenes), 'scene')}, {photos}; {printable(str(index.skipped_files), most=2000)}"
    yield from first_of(
        f"Refused: {printable(refused.file)}: {printable(refused.why)}" for refused in index.refused
    )
    yield f"{already} already collected, {len(plan.selected) - already} to do, {len(plan.left_out)} left out"


def waiting(snapshot: Snapshot) -> str:
    """What a scene in flight waits for, after the colon of its stage: room on the disk, a compiler; empty where none does."""
    return next((printable(each.stage) for each in snapshot.in_flight if ": " in each.stage), "")


def stopping(why: str) -> str:
    """Why a run stops early, and how to stop it at once."""
    return f"Stopping: {why}. Finishing the scenes in flight; press Ctrl-C again to stop at once."


def outcomes(counts: Counts) -> str:
    """Scenes by outcome."""
    done = counts.planned - counts.open
    parts = ", ".join(f"{getattr(counts, outcome)} {outcome}" for outcome in Outcome)
    return f"{done} of {counted(counts.planned, 'scene')} ({parts})"


def rate(eta: Eta) -> str:
    """Rate and remaining time, as far as they are known: `14 scenes/min, about 3 min left`."""
    remaining = eta.remaining()
    left = "" if remaining is None else f"about {duration(remaining)} left"
    return ", ".join(filter(None, [eta.rate(), left]))


def stages(rows: Sequence[StageCounts]) -> str:
    """Every stage in one line: `decode 20 of 34 (2 failed), align ...`."""
    return ", ".join(_stage(row) for row in rows)


def _stage(row: StageCounts) -> str:
    some = [f"{getattr(row, name)} {name}" for name in ("rejected", "failed") if getattr(row, name)]
    reached = row.waiting + row.running + row.done + row.rejected + row.failed
    return f"{row.stage} {row.done} of {reached}" + (f" ({', '.join(some)})" if some else "")


def loaders(reports: Sequence[LoaderReport]) -> str:
    """What all attached consumers have received, in sum."""
    waited = duration(sum(report.wait_seconds for report in reports))
    sums = ", ".join(
        f"{sum(getattr(report, name) for report in reports)} {name}"
        for name in ("scenes", "crops", "batches")
    )
    return f"{sums} to {counted(len(reports), 'consumer')}, {waited} waiting"
