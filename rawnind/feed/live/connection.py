"""The source of a live feed: the bridge while a run is in progress, then the output folder."""

import os
import re
import time
import uuid
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import ray
import ray.exceptions

from rawnind import timing
from rawnind.bridge.messages import TakeReply, from_bytes
from rawnind.errors import RawnindError
from rawnind.feed.live.history import Consumer, assigned_rows, last_run_end, remaining_rows
from rawnind.output.events import NewestEvent
from rawnind.output.store import Store
from rawnind.pipeline.graph import bridge_name
from rawnind.pipeline.ray_cluster import NAMESPACE, is_reachable, loopback

_NAME = re.compile(r"bridge-[\w.-]*[0-9a-f]{12}")


class FeedError(RawnindError):
    """The feed has no more crops, before its end. Check the run of `rawnind prepare` that makes them."""


class Source(Protocol):
    """A source of manifest rows, each with its position.

    Attributes:
        ended: whether all rows were fetched.
    """

    ended: bool

    def fetch(self, count: int, done: int) -> pa.Table:
        """Up to `count` rows, none when none is available now; acknowledges all positions below `done`."""
        ...

    def report(self, *, final: bool, scenes: int, crops: int, batches: int, wait_seconds: float) -> None:
        """Reports what the consumer got so far.

        Args:
            final: whether this is the last report.
            scenes: number of scenes of the returned crops.
            crops: returned crops.
            batches: returned batches.
            wait_seconds: seconds that the consumer waited for batches.
        """
        ...

    def leave(self, done: int) -> None:
        """Ends the consumption, with all positions below `done` acknowledged."""
        ...

    def missing(self) -> str:
        """A text that says what the source waits for."""
        ...

    def store(self) -> Store:
        """The output folder, available after the first `fetch` that returned rows."""
        ...


class FolderSource:
    """Rows of a finished folder."""

    def __init__(self, store: Store, rows: pa.Table) -> None:
        self._store = store
        self._rows = rows
        self.ended = not len(rows)

    def fetch(self, count: int, done: int) -> pa.Table:
        """The next rows."""
        del done
        part, self._rows = self._rows[:count], self._rows[count:]
        self.ended = not len(self._rows)
        return part

    def report(self, **counts: Any) -> None:
        """Does nothing: there is no bridge."""

    def leave(self, done: int) -> None:
        """Does nothing: there is no bridge."""

    def missing(self) -> str:
        """The rows are all there."""
        return "nothing"

    def store(self) -> Store:
        """The output folder."""
        return self._store


class BridgeSource:
    """The bridge of a run, also after restarts of the bridge or of the run; the output folder when the run has finished.

    Args:
        bridge: its actor handle, its name, or the output folder.
        consumer: the consumer.
        address: the Ray cluster of the bridge; None: the one that this process is connected to, else one on this machine.
        position: the first position to get; None: the one after the last that the consumer acknowledged.
        seed: see `history.remaining_rows`.
    """

    def __init__(
        self, bridge: Any, consumer: Consumer, *, address: str | None, position: int | None, seed: int
    ) -> None:
        self._consumer = consumer
        self._address = address
        self._seed = seed
        self._handle: Any = None
        self._location: str | None = None
        if not isinstance(bridge, str | Path):
            self._handle = bridge
            self._location = str(ray.get(bridge.location.remote()))
            self._name = bridge_name(self._location)
        elif _NAME.fullmatch(str(bridge)):
            self._name = str(bridge)
        else:
            self._location = str(bridge) if "://" in str(bridge) else str(Path(bridge).absolute())
            self._name = bridge_name(self._location)
        self._store: Store | None = None
        self._newest: NewestEvent | None = None
        self._token = uuid.uuid4().hex
        self._joined = False
        self._position = position
        self._folder: FolderSource | None = None
        self._oldest: tuple[str, str, float] | None = None
        self._answered = False
        self._connected = False
        self._reported = 0.0
        self.ended = False

    def store(self) -> Store:
        """The output folder."""
        if self._store is None:
            if self._location is None:
                raise FeedError("the bridge has not reported its output folder yet")
            self._store = Store(self._location)
        return self._store

    def fetch(self, count: int, done: int) -> pa.Table:
        """Up to `count` rows of the bridge, or of the folder where there is no bridge.

        Raises:
            FeedError: The run failed; the message is the bridge's reason.
            ConfigError: Another process has the consumer's name, or the feed belongs to other consumers.
        """
        answer = None if self._folder else self._ask(count, done)
        self._answered = answer is not None
        if answer is None:
            return self._fetch_from_folder(count, done)
        rows = from_bytes(answer.rows)
        self._oldest = answer.oldest
        self._position = answer.position
        if not len(rows):
            if answer.state == "error":
                raise FeedError(f"the run failed: {answer.error}")
            if answer.state == "closed":
                return self._fetch_from_folder(count, done)
            self.ended = answer.state == "ready"
        return rows

    def _fetch_from_folder(self, count: int, done: int) -> pa.Table:
        if self._folder is None:
            end = last_run_end(self._newest_state()) if self._location else None
            if end is not None and end.error and not self._joined:
                end = None  # an earlier run failed; the next one may still start
            if end is None:
                return _NOTHING
            if not end.finished:
                raise FeedError(f"the run failed: {end.error}")
            rows = remaining_rows(self.store(), self._consumer, self._position, seed=self._seed)
            self._folder = FolderSource(self.store(), rows)
            self._disconnect()
        part = self._folder.fetch(count, done)
        self.ended = self._folder.ended
        return part

    def _newest_state(self) -> NewestEvent:
        if self._newest is None:
            self._newest = NewestEvent(self.store(), "state")
        return self._newest

    def _ask(self, count: int, done: int) -> TakeReply | None:
        handle = self._find_bridge()
        if handle is None:
            return None
        try:
            if self._location is None:
                self._location = str(self._call(handle.location.remote()))
            if not self._joined:
                start = self._call(
                    handle.join.remote(self._consumer.feed, self._consumer.name, self._token, self._position)
                )
                if start is None:
                    return None
                self._position, self._joined = start, True
            answer: TakeReply = self._call(
                handle.take.remote(
                    self._consumer.feed, self._consumer.name, self._token, self._position, count, done=done
                )
            )
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.GetTimeoutError,
            ray.exceptions.RaySystemError,
        ):
            self._handle = None  # a restarted bridge, or that of the next run, is found by its name
            return None
        return answer

    def _call(self, reference: Any) -> Any:
        try:
            return ray.get(reference, timeout=timing.FEED_REQUEST)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RawnindError):
                raise error.cause from None
            raise

    def _find_bridge(self) -> Any:
        if self._handle is not None:
            return self._handle
        if not ray.is_initialized() and not self._connect():
            return None
        try:
            return ray.get_actor(self._name, namespace=NAMESPACE)
        except ValueError:  # no actor has that name
            return None

    def _connect(self) -> bool:
        if not is_reachable(self._address or os.environ.get("RAY_ADDRESS", "")):
            return False  # Ray would retry for 45 seconds
        try:
            with loopback():
                ray.init(
                    address=self._address or "auto",
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level="ERROR",
                )
        except ConnectionError:
            return False
        self._connected = True
        return True

    def _disconnect(self) -> None:
        """Disconnects from the cluster: when it stops, Ray ends every process that is still connected."""
        if self._connected:
            self._connected = False
            ray.shutdown()

    def report(self, *, final: bool, scenes: int, crops: int, batches: int, wait_seconds: float) -> None:
        """Reports to the bridge, if there is one, at most twice a second. Arguments as in `Source.report`."""
        now = time.monotonic()
        if not self._answered or not (final or now - self._reported >= timing.FEED_REPORT):
            return
        self._reported = now
        handle = self._find_bridge() if ray.is_initialized() else None
        if handle is not None:
            handle.loader_report.remote(
                self._consumer.name, scenes=scenes, crops=crops, batches=batches, wait_seconds=wait_seconds
            )

    def leave(self, done: int) -> None:
        """Leaves the feed, so that the bridge assigns no further crops to this consumer."""
        handle = self._find_bridge() if self._answered and ray.is_initialized() else None
        if handle is not None and self._joined:
            handle.leave.remote(self._consumer.feed, self._consumer.name, self._token, done)
        self._disconnect()

    def missing(self) -> str:
        """The oldest scene in flight and its stage, or that no run is in progress."""
        if not self._answered:
            return f"no run of `rawnind prepare` is in progress for {self._location or self._name}"
        if self._oldest is None:
            return "no scene is in flight"
        key, stage, seconds = self._oldest
        return f"the oldest scene in flight is {key}, for {seconds:.0f} s, in stage {stage}"


_NOTHING = pa.table({"position": pa.array([], pa.int64())})


def history_source(
    output: str | Path, *, feed: str, consumer: str | None, sequence: int | None
) -> FolderSource:
    """The crops that consumers got in a feed, from the finished folder.

    Args:
        output: the output folder.
        feed: name of the feed.
        consumer: name of the consumer; None: all consumers.
        sequence: see `assigned_rows`.

    Raises:
        ConfigError: No crop is recorded.
    """
    store = Store(str(output))
    rows = assigned_rows(
        store, Consumer(feed=feed, name=consumer or ""), sequence=sequence, every_consumer=consumer is None
    )
    return FolderSource(store, rows)
