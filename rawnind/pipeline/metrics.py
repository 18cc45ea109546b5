"""The bridge's counts as Prometheus metrics on Ray's metrics port, which prefixes each name with `ray_`."""

import time
from collections import Counter
from collections.abc import Mapping

from ray.util import metrics

from rawnind import timing
from rawnind.bridge.messages import LoaderReport
from rawnind.bridge.observer import Observer
from rawnind.bridge.stages import Stage
from rawnind.reasons import Outcome, Reason
from rawnind.records import Cfa, SceneResult

_SECONDS = [step * decade for decade in (0.01, 0.1, 1.0, 10.0, 100.0) for step in (1, 2, 5)]
"""10 ms to 500 s: from a small photo to a scene of fifty large ones."""


class RayMetrics(Observer):
    """Exports a bridge's events as metrics.

    `scenes_total` and `pairs_total` start from what the journal holds, so that they equal the bridge's counts also after a
    restart; the other counters and the histogram start from zero.

    Args:
        bridge: the actor's name; label `bridge` of every series.
    """

    def __init__(self, bridge: str) -> None:
        self._bridge = bridge
        self._scenes = _counter("rawnind_scenes_total", "Scenes with an outcome.", "outcome", "cfa")
        self._pairs = _counter("rawnind_pairs_total", "Planned pairs with an outcome.", "outcome", "reason")
        self._read = _counter("rawnind_bytes_read_total", "Bytes of RAW files read.")
        self._written = _counter("rawnind_bytes_written_total", "Bytes of shards written.")
        self._batches = _counter("rawnind_loader_batches_total", "Batches handed out by attached loaders.")
        self._seconds = metrics.Histogram(
            "rawnind_stage_seconds",
            "Seconds that a scene spent in a stage.",
            boundaries=_SECONDS,
            tag_keys=("bridge", "stage"),
        )
        self._flight = _gauge("rawnind_in_flight_scenes", "Scenes between a worker's start and their commit.")
        self._oldest = _gauge(
            "rawnind_oldest_in_flight_seconds",
            "Seconds since the oldest of them was admitted; 0: none is in flight.",
        )
        self._waited = _gauge(
            "rawnind_loader_wait_seconds", "Seconds that attached loaders waited for scenes, in all."
        )
        self._waits: dict[str, float] = {}
        self._last = (-1, 0.0)

    def started(
        self, scenes: Mapping[tuple[Outcome, Cfa], int], pairs: Mapping[tuple[Outcome, Reason | None], int]
    ) -> None:
        """Counts scenes and pairs that had an outcome already."""
        for (outcome, cfa), count in scenes.items():
            _add(self._scenes, count, self._tags(outcome=outcome, cfa=cfa))
        for (outcome, reason), count in pairs.items():
            _add(self._pairs, count, self._tags(outcome=outcome, reason=reason or ""))

    def committed(self, result: SceneResult, telemetry: Mapping[str, float]) -> None:
        """Counts a scene, its pairs, bytes and seconds."""
        self._scenes.inc(1, self._tags(outcome=result.outcome, cfa=result.scene.cfa))
        reasons: Counter[tuple[Outcome, Reason | None]] = Counter(
            (pair.outcome, pair.reason) for pair in result.pairs
        )
        for (outcome, reason), count in reasons.items():
            self._pairs.inc(count, self._tags(outcome=outcome, reason=reason or ""))
        for stage in Stage:
            if (seconds := telemetry.get(f"{stage}_seconds")) is not None:
                self._seconds.observe(seconds, self._tags(stage=stage))
        _add(self._read, telemetry.get("read_bytes", 0), self._tags())
        _add(self._written, telemetry.get("written_bytes", 0), self._tags())

    def in_flight(self, scenes: int, oldest_seconds: float) -> None:
        """Sets the gauges of scenes in flight, not too often."""
        now = time.monotonic()
        if scenes == self._last[0] and now - self._last[1] < timing.GAUGE:
            return
        self._last = scenes, now
        self._flight.set(scenes, self._tags())
        self._oldest.set(oldest_seconds, self._tags())

    def loader(self, report: LoaderReport, previous: LoaderReport | None) -> None:
        """Counts batches and waiting; a restarted consumer reports less than before."""
        restarted = previous is None or report.batches < previous.batches
        before = 0 if restarted or previous is None else previous.batches
        _add(self._batches, report.batches - before, self._tags())
        self._waits[report.consumer] = report.wait_seconds
        self._waited.set(sum(self._waits.values()), self._tags())

    def _tags(self, **tags: str) -> dict[str, str]:
        return {"bridge": self._bridge, **{name: str(value) for name, value in tags.items()}}


def _counter(name: str, description: str, *tags: str) -> metrics.Counter:
    return metrics.Counter(name, description, ("bridge", *tags))


def _gauge(name: str, description: str) -> metrics.Gauge:
    return metrics.Gauge(name, description, ("bridge",))


def _add(counter: metrics.Counter, amount: float, tags: dict[str, str]) -> None:
    if amount > 0:  # Ray refuses to add 0
        counter.inc(amount, tags)
