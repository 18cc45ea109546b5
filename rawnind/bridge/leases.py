"""The lease log: which consumer was leased which crop, written before the crops are sent.

A feed is one epoch that any number of consumers share. Its log is the file `leases/<feed>.jsonl`; object stores cannot
append, so there each write is a file of its own, `leases/<feed>/<number>.json`. The crops of a consumer have positions from 0,
in the order of the log.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter

from rawnind.documents import LISTING, Place, json_record
from rawnind.errors import ConfigError
from rawnind.output.store import Store

FOLDER = "leases"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class LeasedCrop(NamedTuple):
    """A crop that was leased to a consumer.

    Attributes:
        key: the crop's scene.
        seq: sequence number of the scene's commit.
        crop_id: the crop's name in the manifest.
    """

    key: str
    seq: int
    crop_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseEntry:
    """One line of the log.

    Attributes:
        consumer: its name.
        token: of the process that joined by the consumer's name; None where the entry records no joining.
        done: the consumer has finished with its crops below this position.
        crops: leased to it, at its next positions.
        left: whether the consumer has left the feed.
        last: whether the run has ended: `crops` is the consumer's share of the crops that were left.
    """

    consumer: str
    done: int
    token: str | None = None
    crops: tuple[LeasedCrop, ...] = ()
    left: bool = False
    last: bool = False


class LeaseLog:
    """The lease log of one feed. One process at a time may append.

    Args:
        store: the output folder.
        feed: the feed's name.

    Raises:
        ConfigError: The name is not letters, digits, dots, dashes and underscores.
    """

    def __init__(self, store: Store, feed: str) -> None:
        if not _NAME.fullmatch(feed):
            raise ConfigError(f"a feed is named with letters, digits, '.', '_' and '-', got {feed!r}")
        self._store = store
        self._folder = f"{FOLDER}/{feed}"
        self._path = store.local(f"{self._folder}.jsonl")
        self._count: int | None = None

    def entries(self) -> Iterator[LeaseEntry]:
        """Every entry, oldest first; a truncated or foreign line is skipped: a truncated one was never answered."""
        for line in self._lines():
            if (entry := _decode(line)) is not None:
                yield entry

    def _lines(self) -> list[bytes]:
        if self._path is None:
            parts = (self._store.read(entry.path) for entry in self._store.list(self._folder))
            return [line for part in parts for line in part.splitlines()]
        name = f"{self._folder}.jsonl"
        return self._store.read(name).splitlines() if self._store.exists(name) else []

    def append(self, entries: Sequence[LeaseEntry]) -> None:
        """Appends entries, all or none; they are durable once this returns.

        Raises:
            OutputError: The storage refuses.
        """
        lines = [_encode(entry) for entry in entries]
        if self._path is not None:
            # A newline first: a truncated line before it stays a line of its own.
            return self._append_locally(b"\n" + b"\n".join(lines) + b"\n")
        if self._count is None:
            self._count = len(self._store.list(self._folder))
        self._store.write(f"{self._folder}/{self._count:010d}.json", b"\n".join(lines))
        self._count += 1
        return None

    def _append_locally(self, data: bytes) -> None:
        with self._store.open_in_place(
            f"{self._folder}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT
        ) as descriptor:
            with os.fdopen(descriptor, "ab", closefd=False) as file:
                file.write(data)
            os.fsync(descriptor)


def _encode(entry: LeaseEntry) -> bytes:
    """An entry as JSON; a scene of several crops is named once."""
    scenes = list(dict.fromkeys((crop.key, crop.seq) for crop in entry.crops))
    number = {scene: n for n, scene in enumerate(scenes)}
    line: dict[str, Any] = {"consumer": entry.consumer, "done": entry.done}
    if entry.token is not None:
        line["token"] = entry.token
    if entry.crops:
        line["scenes"] = scenes
        line["crops"] = [[number[crop.key, crop.seq], crop.crop_id] for crop in entry.crops]
    line |= {name: True for name in ("left", "last") if getattr(entry, name)}
    return json.dumps(line, separators=(",", ":")).encode()


class _Line(BaseModel):
    """A line as JSON; `crops` name their scene by its place in `scenes`."""

    model_config = ConfigDict(strict=True)

    consumer: str
    done: Place
    token: str | None = None
    scenes: list[tuple[str, Place]] = []
    crops: list[tuple[Place, str]] = []
    left: bool = False
    last: bool = False


_LINE = TypeAdapter(_Line)


def _decode(line: bytes) -> LeaseEntry | None:
    found = json_record(line, _LINE, most=LISTING)
    if found is None or any(number >= len(found.scenes) for number, _ in found.crops):
        return None
    return LeaseEntry(
        consumer=found.consumer,
        done=found.done,
        token=found.token,
        crops=tuple(LeasedCrop(*found.scenes[number], crop_id) for number, crop_id in found.crops),
        left=found.left,
        last=found.last,
    )


@dataclass(kw_only=True, slots=True)
class ConsumerState:
    """State of one consumer after some entries of the log.

    Attributes:
        done: it has finished with its crops below this position.
        leased: how many crops it was leased.
        token: of the process that joined last.
        left: whether it has left the feed.
    """

    done: int = 0
    leased: int = 0
    token: str | None = None
    left: bool = False


def consumer_states(entries: Iterator[LeaseEntry]) -> dict[str, ConsumerState]:
    """Each consumer's state, in the order in which they joined."""
    found: dict[str, ConsumerState] = {}
    for entry in entries:
        apply_entry(found.setdefault(entry.consumer, ConsumerState()), entry)
    return found


def apply_entry(state: ConsumerState, entry: LeaseEntry) -> None:
    """Updates a consumer's state by an entry of the log."""
    state.leased += len(entry.crops)
    state.done = entry.done
    state.left = entry.left
    state.token = entry.token or state.token


def feed_names(store: Store) -> list[str]:
    """Names of the feeds that a consumer has joined."""
    parts = (entry.path.split("/") for entry in store.list(FOLDER))
    return sorted({names[1].removesuffix(".jsonl") for names in parts})


def leased_crops(log: LeaseLog, consumer: str | None = None, start: int = 0) -> Iterator[LeasedCrop]:
    """Leased crops, in the order of the log.

    Args:
        log: the lease log of a feed.
        consumer: to whom they were leased; None: to any consumer.
        start: position of the first.
    """
    crops = (crop for e in log.entries() if consumer in {None, e.consumer} for crop in e.crops)
    for position, crop in enumerate(crops):
        if position >= start:
            yield crop
