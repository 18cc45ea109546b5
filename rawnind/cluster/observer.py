"""What the bridge tells to whoever counts along. The bridge knows no Ray; `metrics` implements this with Ray's metrics."""

from collections.abc import Mapping
from dataclasses import dataclass

from rawnind.records import Cfa, Count, NonNegative, Outcome, Reason, SceneResult


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderReport:
    """What one consumer of crops has received since it began.

    Attributes:
        consumer: its name, e.g. `rank-0`.
        scenes: of which it got crops.
        wait_seconds: how long it waited for scenes to be committed.
    """

    consumer: str
    scenes: Count
    crops: Count
    batches: Count
    wait_seconds: NonNegative


class Observer:
    """Is told, and does nothing about it."""

    def started(
        self, scenes: Mapping[tuple[Outcome, Cfa], int], pairs: Mapping[tuple[Outcome, Reason | None], int]
    ) -> None:
        """A bridge came to life; so many scenes and pairs have their outcome already."""

    def committed(self, result: SceneResult, telemetry: Mapping[str, float]) -> None:
        """A scene got its outcome."""

    def in_flight(self, scenes: int, oldest_seconds: float) -> None:
        """So many scenes are being worked on, the oldest for so long; 0 where there is none."""

    def loader(self, report: LoaderReport, previous: LoaderReport | None) -> None:
        """A consumer reported; `previous` is what it said before."""
