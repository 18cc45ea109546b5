"""One line in events.jsonl for each commit."""

from collections.abc import Iterable, Mapping
from typing import Any

from rawnind.records import Outcome, SceneResult
from rawnind.storage.events import EventLog
from rawnind.storage.parts import Commit, Journal, commit_of

_RECOVERED = 1000
"""The most commits that are logged belatedly."""


class CommitLog:
    """Tells the log what the journal holds.

    Args:
        events: the log.
        journal: what was committed.
    """

    def __init__(self, events: EventLog, journal: Journal) -> None:
        self._events = events
        self._journal = journal

    def add(
        self, committed: Iterable[tuple[SceneResult, Commit, Mapping[str, float]]], *, in_flight: int
    ) -> None:
        """Logs commits, each with its scene's telemetry.

        Raises:
            OutputError: The storage refuses.
        """
        self._events.add_all(
            "commit",
            (
                {**_line(result, commit, in_flight), "telemetry": dict(telemetry)}
                for result, commit, telemetry in committed
            ),
        )

    def recover(self) -> None:
        """Logs commits that a bridge which died had made and not yet logged; the journal is right in any case.

        Raises:
            OutputError: The storage refuses.
        """
        logged = self._events.last("commit", any_run=True)
        first = int(logged["seq"]) + 1 if logged else 0
        lost = range(max(first, self._journal.next_seq - _RECOVERED), self._journal.next_seq)
        results = ((seq, self._journal.at(seq)) for seq in lost)
        self._events.add_all(
            "commit",
            (
                {**_line(result, commit_of(result, seq), 0), "telemetry": {}, "recovered": True}
                for seq, result in results
            ),
        )


def _line(result: SceneResult, commit: Commit, in_flight: int) -> dict[str, Any]:
    return {
        "seq": commit.seq,
        "scene": result.scene.key,
        "outcome": str(commit.outcome),
        "reason": str(commit.reason) if commit.reason else None,
        "pairs": dict(zip(map(str, Outcome), commit.pairs, strict=True)),
        "crops": commit.crops,
        "in_flight": in_flight,
    }
