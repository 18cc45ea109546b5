"""Where a live feed comes from: the bridge while there is one, and the output folder after that."""

import os
import re
import socket
import time
import uuid
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import ray
import ray.exceptions

from rawnind.bridge.messages import Given, from_bytes
from rawnind.errors import RawnindError
from rawnind.feed.live.replay import Who, ending, recorded, rest
from rawnind.output.store import Store
from rawnind.pipeline.graph import NAMESPACE, bridge_name

_NAME = re.compile(r"bridge-[\w.-]*[0-9a-f]{12}")
_PATIENCE = 5.0  # seconds for one answer; a bridge that is started anew takes about one
_REPORT_EVERY = 0.5  # seconds


class FeedError(RawnindError):
    """No more crops come. Look at the run of `rawnind prepare` that should make them."""


class Source(Protocol):
    """Gives rows of the manifest, each with its position, for as long as there are any."""

    ended: bool

    def fetch(self, count: int, done: int) -> pa.Table:
        """Up to `count` rows; none where there are none at the moment. `done`: see `feed.Feed.take`."""
        ...

    def report(self, *, final: bool, scenes: int, crops: int, batches: int, wait_seconds: float) -> None:
        """Says what has been handed out."""
        ...

    def leave(self, done: int) -> None:
        """Wants nothing more for now."""
        ...

    def missing(self) -> str:
        """What it waits for, for people."""
        ...

    def store(self) -> Store:
        """The output folder, once `fetch` has given something."""
        ...


class FolderSource:
    """A part of a finished folder."""

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
        """Nobody listens."""

    def leave(self, done: int) -> None:
        """Nobody listens."""

    def missing(self) -> str:
        """Nothing."""
        return "nothing"

    def store(self) -> Store:
        """The output folder."""
        return self._store


class BridgeSource:
    """The bridge of a run, under whatever process and as often as it is started anew; then the folder.

    Args:
        bridge: its actor handle, its name, or the output folder.
        who: the consumer.
        address: the Ray cluster to look for it on; None: the one that this process has, or else that runs here.
        position: where to go on; None: behind what the consumer has said it was done with.
        seed: see `live_record.rest`.
    """

    def __init__(
        self, bridge: Any, who: Who, *, address: str | None, position: int | None, seed: int
    ) -> None:
        self._who = who
        self._address = address
        self._seed = seed
        self._given_handle: Any = None
        self._location: str | None = None
        if not isinstance(bridge, str | Path):
            self._given_handle = bridge
            self._location = str(ray.get(bridge.location.remote()))
            self._name = bridge_name(self._location)
        elif _NAME.fullmatch(str(bridge)):
            self._name = str(bridge)
        else:
            self._location = str(bridge) if "://" in str(bridge) else str(Path(bridge).absolute())
            self._name = bridge_name(self._location)
        self._store: Store | None = None
        self._token = uuid.uuid4().hex
        self._joined = False
        self._position = position
        self._folder: FolderSource | None = None
        self._oldest: tuple[str, str, float] | None = None
        self._heard = False
        self._connected = False
        self._reported = 0.0
        self.ended = False

    def store(self) -> Store:
        """The output folder."""
        if self._store is None:
            if self._location is None:
                raise FeedError("the bridge has not said yet where its output folder is")
            self._store = Store(self._location)
        return self._store

    def fetch(self, count: int, done: int) -> pa.Table:
        """Up to `count` rows of the bridge, or of the folder where there is no bridge.

        Raises:
            FeedError: The run went wrong; the message is the bridge's reason.
            ConfigError: Another process goes by the consumer's name, or the feed belongs to others.
        """
        given = None if self._folder else self._ask(count, done)
        self._heard = given is not None
        if given is None:
            return self._fetch_from_folder(count, done)
        rows = from_bytes(given.rows)
        self._oldest = given.oldest
        self._position = given.position
        if not len(rows):
            if given.state == "error":
                raise FeedError(f"the run failed: {given.why}")
            if given.state == "closed":
                return self._fetch_from_folder(count, done)
            self.ended = given.state == "ready"
        return rows

    def _fetch_from_folder(self, count: int, done: int) -> pa.Table:
        if self._folder is None:
            end = ending(self.store()) if self._location else None
            if end is not None and end.error and not self._joined:
                end = None  # the failure of an earlier run is no reason not to wait for the next
            if end is None:
                return _NOTHING
            if not end.finished:
                raise FeedError(f"the run failed: {end.error}")
            rows = rest(self.store(), self._who, self._position, seed=self._seed)
            self._folder = FolderSource(self.store(), rows)
            self._disconnect()
        part = self._folder.fetch(count, done)
        self.ended = self._folder.ended
        return part

    def _ask(self, count: int, done: int) -> Given | None:
        handle = self._handle()
        if handle is None:
            return None
        try:
            if self._location is None:
                self._location = str(self._call(handle.location.remote()))
            if not self._joined:
                start = self._call(
                    handle.join.remote(self._who.feed, self._who.consumer, self._token, self._position)
                )
                if start is None:
                    return None
                self._position, self._joined = start, True
            given: Given = self._call(
                handle.take.remote(
                    self._who.feed, self._who.consumer, self._token, self._position, count, done=done
                )
            )
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.GetTimeoutError,
            ray.exceptions.RaySystemError,
        ):
            self._given_handle = None  # what a restart or another run makes is found by its name
            return None
        return given

    def _call(self, reference: Any) -> Any:
        try:
            return ray.get(reference, timeout=_PATIENCE)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RawnindError):
                raise error.cause from None
            raise

    def _handle(self) -> Any:
        if self._given_handle is not None:
            return self._given_handle
        if not ray.is_initialized() and not self._connect():
            return None
        try:
            return ray.get_actor(self._name, namespace=NAMESPACE)
        except ValueError:  # what Ray says where nobody has that name
            return None

    def _connect(self) -> bool:
        if not _listens(self._address or os.environ.get("RAY_ADDRESS", "")):
            return False
        try:
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
        """A cluster that goes away takes every process down that is still connected to it."""
        if self._connected:
            self._connected = False
            ray.shutdown()

    def report(self, *, final: bool, scenes: int, crops: int, batches: int, wait_seconds: float) -> None:
        """Tells the bridge, if there is one, not more than twice a second."""
        now = time.monotonic()
        if not self._heard or not (final or now - self._reported >= _REPORT_EVERY):
            return
        self._reported = now
        handle = self._handle() if ray.is_initialized() else None
        if handle is not None:
            handle.loader_report.remote(
                self._who.consumer, scenes=scenes, crops=crops, batches=batches, wait_seconds=wait_seconds
            )

    def leave(self, done: int) -> None:
        """Tells the bridge, if there is one, so that the consumer gets no share of what is left."""
        handle = self._handle() if self._heard and ray.is_initialized() else None
        if handle is not None and self._joined:
            handle.leave.remote(self._who.feed, self._who.consumer, self._token, done)
        self._disconnect()

    def missing(self) -> str:
        """The oldest scene in flight and its stage, or that there is no run."""
        if not self._heard:
            return f"no run of `rawnind prepare` works on {self._location or self._name}"
        if self._oldest is None:
            return "no scene is being worked on"
        key, stage, seconds = self._oldest
        return f"the oldest scene in flight is {key}, for {seconds:.0f} s, in stage {stage}"


def _listens(address: str) -> bool:
    """Whether somebody is there; Ray itself tries for 45 seconds. An address of another form is left to Ray."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return True
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False


_NOTHING = pa.table({"position": pa.array([], pa.int64())})


def record_source(
    output: str | Path, *, feed: str, consumer: str | None, sequence: int | None
) -> FolderSource:
    """What was given in a feed, out of the finished folder. Errors as in `live_record.recorded`."""
    store = Store(str(output))
    who = Who(feed=feed, consumer=consumer or "")
    return FolderSource(store, recorded(store, who, sequence=sequence, everybody=consumer is None))
