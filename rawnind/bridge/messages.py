"""What the bridge knows at one moment, and the states that a run goes through."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from rawnind.bridge.in_flight import InFlight
from rawnind.bridge.stages import StageCounts
from rawnind.output.schema import MANIFEST_SCHEMA
from rawnind.reasons import Outcome, Reason
from rawnind.records import Cfa, Count, Counts, NonNegative, SceneResult

GIVEN_SCHEMA = MANIFEST_SCHEMA.append(pa.field("position", pa.int64(), nullable=False))
"""Columns of what a consumer is given: the manifest's, and its position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """The answer to a consumer.

    Attributes:
        state: the bridge's state.
        why: the bridge's reason where the state is `error`; else empty.
        rows: what is given, as an Arrow stream with `GIVEN_SCHEMA`.
        position: where the consumer's next question begins.
        oldest: (key, stage, seconds) of the scene that has been in flight for longest; None where there is none.
    """

    state: str
    why: str
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


class State(StrEnum):
    """Where a run stands. ERROR stays ERROR."""

    INITIALIZED = "initialized"
    COLLECTING = "collecting"
    READY = "ready"
    ERROR = "error"
    CLOSED = "closed"


NEXT = {
    State.INITIALIZED: {State.COLLECTING, State.ERROR, State.CLOSED},
    State.COLLECTING: {State.READY, State.ERROR, State.CLOSED},
    State.READY: {State.CLOSED},
    State.ERROR: set(),
    State.CLOSED: set(),
}
"""State -> the states that may follow it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What the bridge knows at one moment.

    Attributes:
        next_seq: sequence number of the next commit.
        in_flight: scenes being worked on, oldest first.
        peak_in_flight: the most that ever were at once.
        stillborn: the most times in a row, since the last commit, that a worker died before it asked for a scene.
        stages: photos and pairs of the scenes that this run works on; scenes done before it are left out.
        loaders: each consumer's last report, sorted by name.
        now: the bridge's clock, the one of `InFlight.started`, in seconds.
    """

    state: State
    next_seq: int
    scenes: Counts
    pairs: Counts
    crops: int
    in_flight: tuple[InFlight, ...]
    peak_in_flight: int
    stillborn: int = 0
    stages: tuple[StageCounts, ...] = ()
    loaders: tuple[LoaderReport, ...] = ()
    now: float = 0.0
