"""What the bridge receives from workers and loaders, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow as pa

from rawnind.bridge.stages import StageCounts
from rawnind.measurements import Count, NonNegative
from rawnind.output.schema import MANIFEST_SCHEMA
from rawnind.records import Counts

WorkerIncarnation = tuple[str, str]
"""A worker's actor id, and an id that is new after each restart of the actor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A scene's result, as a worker sends it.

    Attributes:
        key: the scene.
        data: the result, from `journal.encode_result`.
        telemetry: seconds and bytes by stage, for events.jsonl.
        inputs: `fingerprint.fingerprint` of the scene's files before they were read; empty where it is not known.
    """

    key: str
    data: bytes
    telemetry: Mapping[str, float] = field(default_factory=dict)
    inputs: bytes = b""


TAKE_SCHEMA = MANIFEST_SCHEMA.append(pa.field("position", pa.int64(), nullable=False))
"""Columns of leased crops: the manifest's, and the crop's position among those of its consumer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeReply:
    """Crops leased to a consumer, and the state of the run.

    Attributes:
        state: the bridge's state.
        error: the reason where the state is `error`; else empty.
        rows: the crops, as an Arrow stream with `TAKE_SCHEMA`.
        position: of the first crop of the consumer's next request.
        oldest: (key, stage, seconds) of the scene that has been in flight for longest; None where there is none.
    """

    state: str
    error: str
    rows: bytes
    position: int
    oldest: tuple[str, str, float] | None


def to_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_bytes(data: bytes) -> pa.Table:
    """The table of `to_bytes`."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderReport:
    """What one consumer has received since it started.

    Attributes:
        consumer: its name, e.g. `rank-0`.
        scenes: whose crops it received.
        wait_seconds: how long it waited for scenes to be committed.
    """

    consumer: str
    scenes: Count
    crops: Count
    batches: Count
    wait_seconds: NonNegative


class State(StrEnum):
    """State of a run. ERROR and CLOSED are final."""

    INITIALIZED = "initialized"
    COLLECTING = "collecting"
    READY = "ready"
    ERROR = "error"
    CLOSED = "closed"


TRANSITIONS = {
    State.INITIALIZED: {State.COLLECTING, State.ERROR, State.CLOSED},
    State.COLLECTING: {State.READY, State.ERROR, State.CLOSED},
    State.READY: {State.CLOSED},
    State.ERROR: set(),
    State.CLOSED: set(),
}
"""State -> the states that may follow it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneInFlight:
    """A scene between its admission and its commit.

    Attributes:
        key: the scene, or `Chunk.name` of a part of it.
        stage: the stage of its last heartbeat, then a colon and what it waits for, where it does.
        started: when it was admitted, by the bridge's clock, in seconds.
        last_heartbeat: when its worker last sent one, by the same clock.
        worker: that processes it; None where only a heartbeat was received since the bridge was restarted.
    """

    key: str
    stage: str
    started: float
    last_heartbeat: float
    worker: WorkerIncarnation | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Counts and state of the bridge at one moment.

    Attributes:
        next_seq: sequence number of the next commit.
        in_flight: scenes in flight, oldest first.
        peak_in_flight: the most that were in flight at once.
        startup_crashes: of the worker with the most: restarts in a row before it asked for a scene, since the last commit.
        stages: photos and pairs of the scenes that this run processes; scenes settled before it are left out.
        loaders: each consumer's last report, sorted by name.
        now: the bridge's clock, in seconds, as for `SceneInFlight.started`.
    """

    state: State
    next_seq: int
    scenes: Counts
    pairs: Counts
    crops: int
    in_flight: tuple[SceneInFlight, ...]
    peak_in_flight: int
    startup_crashes: int = 0
    stages: tuple[StageCounts, ...] = ()
    loaders: tuple[LoaderReport, ...] = ()
    now: float = 0.0
