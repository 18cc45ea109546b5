"""What a bridge reports to whoever counts its events, for example to export them as metrics."""

from collections.abc import Mapping

from rawnind.bridge.messages import LoaderReport
from rawnind.reasons import Outcome, Reason
from rawnind.records import Cfa, SceneResult


class Observer:
    """Receives events of a bridge, e.g. to export metrics. This one ignores them."""

    def started(
        self, scenes: Mapping[tuple[Outcome, Cfa], int], pairs: Mapping[tuple[Outcome, Reason | None], int]
    ) -> None:
        """The bridge was started or restarted; `scenes` and `pairs` had an outcome by then."""

    def committed(self, result: SceneResult, telemetry: Mapping[str, float]) -> None:
        """A scene was committed."""

    def in_flight(self, scenes: int, oldest_seconds: float) -> None:
        """How many scenes are in flight, and for how long the oldest is; 0 where there is none."""

    def loader(self, report: LoaderReport, previous: LoaderReport | None) -> None:
        """A consumer reported; `previous` is its report before this one."""
