"""Who receives crops while a run goes on: the shares of each consumer, and what it reports about them."""

import time
from collections.abc import Iterator

from rawnind.bridge.live_feed import LiveFeeds, Read, Since
from rawnind.bridge.messages import LoaderReport, SceneInFlight, State, TakeReply, to_bytes
from rawnind.bridge.observer import Observer
from rawnind.output.store import Store
from rawnind.planning import Plan


class Consumers:
    """The consumers of one run's feeds.

    Args:
        store: the output folder.
        plan: of the run.
        since: committed results from a sequence number on.
        read: the committed result of a scene.
        observer: receives reports.
    """

    def __init__(self, store: Store, plan: Plan, *, since: Since, read: Read, observer: Observer) -> None:
        self._feeds = LiveFeeds(store, plan, since=since, read=read)
        self._observer = observer
        self._reports: dict[str, LoaderReport] = {}

    def __iter__(self) -> Iterator[LoaderReport]:
        """Each consumer's last report, sorted by name."""
        return iter([self._reports[consumer] for consumer in sorted(self._reports)])

    def report(self, report: LoaderReport) -> None:
        """A consumer's report; the last one of each counts."""
        self._observer.loader(report, self._reports.get(report.consumer))
        self._reports[report.consumer] = report

    def join(self, feed: str, consumer: str, token: str, position: int | None) -> int:
        """A consumer joins a feed; returns the position of its first request.

        Args:
            feed: its name.
            consumer: see `LiveFeed.join`, as for the others.
            token: of the process.
            position: of the first crop that it needs.
        """
        return self._feeds[feed].join(consumer, token, position)

    def take(
        self, feed: str, consumer: str, token: str, position: int, count: int, *, done: int,
        state: State, error: str, oldest: SceneInFlight | None,
    ) -> TakeReply:  # fmt: skip
        """Leases crops to a consumer, each crop once per feed.

        Args:
            feed: its name.
            consumer: see `LiveFeed.take`, as for the others.
            token: that it joined with.
            position: of the first crop that it does not have yet.
            count: the most crops of the answer.
            done: it has finished with its crops below this position.
            state: of the run.
            error: why the run failed; else empty.
            oldest: the scene that has been in flight for longest.
        """
        lease = state in {State.COLLECTING, State.READY}
        rows, position = self._feeds[feed].take(consumer, token, position, count, done=done, lease=lease)
        return TakeReply(
            state=str(state),
            error=error,
            rows=to_bytes(rows),
            position=position,
            oldest=(oldest.key, oldest.stage, time.monotonic() - oldest.started) if oldest else None,
        )

    def leave(self, feed: str, consumer: str, token: str, done: int) -> None:
        """A consumer leaves a feed.

        Args:
            feed: its name.
            consumer: its name.
            token: that it joined with.
            done: it has finished with its crops below this position.
        """
        self._feeds[feed].leave(consumer, token, done)

    def divide(self) -> None:
        """Leases all remaining crops of every feed to its active consumers: after this no request is answered."""
        self._feeds.divide()
