"""What the bridge knows at one moment, and the states that a run goes through."""

from dataclasses import dataclass
from enum import StrEnum

from rawnind.cluster.flight import InFlight
from rawnind.cluster.observer import LoaderReport
from rawnind.cluster.stages import StageCounts
from rawnind.records import Counts


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
