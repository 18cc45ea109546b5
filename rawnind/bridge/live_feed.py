"""Leasing collected crops to consumers while the job still runs: each crop once per feed.

A feed is one epoch that any number of consumers share. The crops of a consumer have positions from 0, and each request
names the position of the first crop that the consumer does not have yet: a request that is repeated because its answer was
lost gets the same answer. Leases are logged (see `bridge.leases`) before they are answered, so that a restarted bridge
continues where it was.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from rawnind import timing
from rawnind.bridge.leases import (
    ConsumerState,
    LeasedCrop,
    LeaseEntry,
    LeaseLog,
    apply_entry,
    consumer_states,
    feed_names,
    leased_crops,
)
from rawnind.bridge.messages import TAKE_SCHEMA
from rawnind.errors import ConfigError
from rawnind.output.schema import crop_row
from rawnind.output.shards import crop_name
from rawnind.output.store import Store
from rawnind.planning import Plan
from rawnind.reasons import Outcome
from rawnind.records import PairResult, SceneResult

_SHUFFLED_SCENES = 16
"""Scenes whose crops are shuffled together; more would shuffle better and take more of the bridge's memory."""

Since = Callable[[int], Iterable[tuple[int, SceneResult]]]
Read = Callable[[str], SceneResult]


class LiveFeeds:
    """The feeds of one output folder, by name; a feed is made when a consumer first names it.

    Args:
        store: the output folder.
        plan: of the run; crops that show a photo of its test reserve are never leased.
        since: committed results from a sequence number on.
        read: the committed result of a scene.
    """

    def __init__(self, store: Store, plan: Plan, *, since: Since, read: Read) -> None:
        self._store = store
        self._rows = _CropRows(plan, read)
        self._since = since
        self._feeds: dict[str, LiveFeed] = {}

    def __getitem__(self, name: str) -> "LiveFeed":
        if name not in self._feeds:
            self._feeds[name] = LiveFeed(LeaseLog(self._store, name), self._rows, self._since, name)
        return self._feeds[name]

    def divide(self) -> None:
        """Leases all remaining crops of every feed to its active consumers: after this no request is answered."""
        for name in feed_names(self._store):
            self[name].divide()


class _CropRows:
    """Manifest rows of crops; those of the scenes that were asked for last are cached."""

    def __init__(self, plan: Plan, read: Read) -> None:
        self._read = read
        self._size = plan.recipe.crop_size
        self._reserved = frozenset(
            photo.sha1
            for scene in plan.scenes
            if scene.test_reserve
            for photo in (*scene.ground_truths, *scene.noisy)
        )
        self._cache: dict[str, dict[str, dict[str, Any]]] = {}

    def names(self, result: SceneResult) -> list[str]:
        """Names of a scene's crops that may be leased."""
        return [
            crop_name(pair.pair_id, crop.y, crop.x)
            for pair in result.pairs
            if self._allowed(result, pair)
            for crop in pair.crops
        ]

    def _allowed(self, result: SceneResult, pair: PairResult) -> bool:
        photos = {pair.noisy.sha1, pair.ground_truth and pair.ground_truth.sha1}
        return (
            pair.outcome is Outcome.COLLECTED
            and not result.scene.test_reserve
            and not photos & self._reserved
        )

    def row(self, key: str, crop_id: str) -> dict[str, Any] | None:
        """A crop's row; None where the scene was processed again and no longer has it."""
        if key not in self._cache:
            while len(self._cache) > _SHUFFLED_SCENES:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = self._load(key)
        return self._cache[key].get(crop_id)

    def _load(self, key: str) -> dict[str, dict[str, Any]]:
        try:
            result = self._read(key)
        except KeyError:  # a foreign line of the lease log names the scene
            return {}
        rows = (
            crop_row(result, pair, number, crop, self._size)
            for pair in result.pairs
            if self._allowed(result, pair)
            for number, crop in enumerate(pair.crops)
        )
        return {row["crop_id"]: row for row in rows}


class LiveFeed:
    """One epoch, shared by its consumers."""

    def __init__(self, log: LeaseLog, rows: _CropRows, since: Since, name: str) -> None:
        self._log = log
        self._rows = rows
        self._since = since
        self._next_seq = 0
        self._leased: dict[str, set[str]] = {}
        self._queue: deque[tuple[str, int, list[str]]] = deque()  # (scene, sequence number, crops)
        self._shuffled: list[tuple[str, int, list[str]]] = []
        for crop in leased_crops(log):
            self._leased.setdefault(crop.key, set()).add(crop.crop_id)
        self._consumers = consumer_states(log.entries())
        self._pending: dict[str, deque[LeasedCrop]] = {}
        self._last_request = dict.fromkeys(self._consumers, time.monotonic())
        self._rng = np.random.default_rng(_seed(name))

    def join(self, consumer: str, token: str, position: int | None = None) -> int:
        """Registers a process as a consumer; one that joined by that name before gets no more answers.

        Args:
            consumer: its name.
            token: differs from process to process.
            position: of the first crop that it needs, from a checkpoint; None: the first that it has not finished with.

        Returns:
            The position of its first request. Crops leased to that name from there on are sent again.

        Raises:
            ConfigError: Fewer crops were leased to the consumer.
        """
        state = self._consumers.get(consumer, ConsumerState())
        start = state.done if position is None else position
        if not 0 <= start <= state.leased:
            raise ConfigError(
                f"consumer {consumer} was leased {state.leased} crops, it cannot continue at position {start}"
            )
        self._record([LeaseEntry(consumer=consumer, done=start, token=token)])
        self._pending[consumer] = deque(leased_crops(self._log, consumer, start))
        return start

    def leave(self, consumer: str, token: str, done: int) -> None:
        """A consumer needs no more crops.

        Args:
            consumer: its name.
            token: that it joined with.
            done: it has finished with its crops below this position.
        """
        state = self._checked(consumer, token)
        self._record([LeaseEntry(consumer=consumer, done=max(state.done, done), left=True)])

    def take(
        self, consumer: str, token: str, position: int, count: int, *, done: int, lease: bool
    ) -> tuple[pa.Table, int]:
        """Up to `count` crops, first those that are leased to the consumer already; none where none are collected yet.

        Args:
            consumer: its name.
            token: that it joined with.
            position: of the first crop that it does not have yet.
            count: the most crops of the answer.
            done: it has finished with its crops below this position.
            lease: whether new crops may be leased.

        Returns:
            Rows with TAKE_SCHEMA, and the position of the consumer's next request.

        Raises:
            ConfigError: Another process has joined by the consumer's name.
        """
        state = self._checked(consumer, token)
        pending = self._pending_of(consumer)
        while pending and state.leased - len(pending) < done:
            pending.popleft()
        state.done = max(state.done, done)
        if position == state.leased and lease and (drawn := self._draw(count)):
            self._record([LeaseEntry(consumer=consumer, done=state.done, crops=tuple(drawn))])
            pending.extend(drawn)
        skip = position - (state.leased - len(pending))
        crops = list(islice(pending, skip, skip + count))
        return self._table(crops, position), position + len(crops)

    def _pending_of(self, consumer: str) -> deque[LeasedCrop]:
        """Crops leased to a consumer that it has not finished with; a restarted bridge reads them from the log."""
        if consumer not in self._pending:
            crops = leased_crops(self._log, consumer, self._consumers[consumer].done)
            self._pending[consumer] = deque(crops)
        return self._pending[consumer]

    def _checked(self, consumer: str, token: str) -> ConsumerState:
        state = self._consumers.get(consumer)
        if state is None or state.token != token:
            raise ConfigError(f"another process has joined as consumer {consumer}; each needs its own name")
        self._last_request[consumer] = time.monotonic()
        return state

    def _record(self, entries: list[LeaseEntry]) -> None:
        self._log.append(entries)
        for entry in entries:
            apply_entry(self._consumers.setdefault(entry.consumer, ConsumerState()), entry)
            self._last_request[entry.consumer] = time.monotonic()

    def _table(self, crops: Iterable[LeasedCrop], start: int) -> pa.Table:
        rows = []
        for position, crop in enumerate(crops, start):
            row = self._rows.row(crop.key, crop.crop_id)
            if row is not None:
                rows.append({**row, "position": position})
        return pa.Table.from_pylist(rows, schema=TAKE_SCHEMA)

    def _draw(self, count: int) -> list[LeasedCrop]:
        """Crops that are not leased, drawn with equal probability from the scenes that are shuffled together."""
        self._refresh()
        drawn: list[LeasedCrop] = []
        while len(drawn) < count and self._fill():
            ends = np.cumsum([len(names) for _, _, names in self._shuffled])
            chosen = int(np.searchsorted(ends, self._rng.integers(ends[-1]), side="right"))
            key, seq, names = self._shuffled[chosen]
            drawn.append(LeasedCrop(key, seq, names.pop()))
            if not names:
                del self._shuffled[chosen]
        return drawn

    def _fill(self) -> bool:
        while self._queue and len(self._shuffled) < _SHUFFLED_SCENES:
            self._shuffled.append(self._queue.popleft())
        return bool(self._shuffled)

    def _refresh(self) -> None:
        """Queues the crops of new commits, each scene's in an order that its key determines."""
        for seq, result in self._since(self._next_seq):
            self._next_seq = seq + 1
            key = result.scene.key
            leased = self._leased.pop(key, set())
            names = [name for name in self._rows.names(result) if name not in leased]
            if names:
                order = np.random.default_rng(_seed(key)).permutation(len(names))
                self._queue.append((key, seq, [names[n] for n in order]))

    def divide(self) -> None:
        """Leases all remaining crops to the active consumers, in equal shares."""
        now = time.monotonic()
        active = [
            name
            for name, state in self._consumers.items()
            if not state.left and now - self._last_request[name] < timing.CONSUMER_EXPIRY
        ]
        if not active:
            return
        remaining: list[LeasedCrop] = []
        while drawn := self._draw(1024):
            remaining.extend(drawn)
        self._record(
            [
                LeaseEntry(
                    consumer=name,
                    done=self._consumers[name].done,
                    crops=tuple(remaining[number :: len(active)]),
                    last=True,
                )
                for number, name in enumerate(active)
            ]
        )
        self._pending.clear()


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
