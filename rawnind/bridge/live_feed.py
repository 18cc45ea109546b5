"""Handing out collected crops while the job still runs: each crop once per feed, whoever asks.

A feed is one epoch that any number of consumers share. What a consumer was given has positions, counted from 0, and a
consumer asks with the position that it has come to: a question that is asked again, because its answer was lost, gets the
same answer. Leases are on record (see `storage.leases`) before they are answered, so that a bridge which is started
anew goes on where it was.
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
from rawnind.bridge.leases import Account, Leased, LeaseEntry, LeaseLog, accounts, apply, feed_names, given_to
from rawnind.bridge.messages import GIVEN_SCHEMA
from rawnind.errors import ConfigError
from rawnind.output.schema import crop_row
from rawnind.output.shards import crop_name
from rawnind.output.store import Store
from rawnind.planning import Plan
from rawnind.reasons import Outcome
from rawnind.records import SceneResult

WINDOW = 16
"""Scenes whose crops are mixed with each other; more would mix better and take more of the bridge's memory."""

Since = Callable[[int], Iterable[tuple[int, SceneResult]]]
Read = Callable[[str], SceneResult]


class Feeds:
    """The feeds of one output folder, by name; a feed begins when somebody joins it.

    Args:
        store: the output folder.
        plan: of the run; crops that show a photo of its test reserve are given to nobody.
        since: committed results from a sequence number on.
        read: the committed result of a scene.
    """

    def __init__(self, store: Store, plan: Plan, *, since: Since, read: Read) -> None:
        self._store = store
        self._crops = _Crops(plan, read)
        self._since = since
        self._feeds: dict[str, Feed] = {}

    def __getitem__(self, name: str) -> "Feed":
        if name not in self._feeds:
            self._feeds[name] = Feed(LeaseLog(self._store, name), self._crops, self._since, name)
        return self._feeds[name]

    def divide(self) -> None:
        """Gives all that is left to those who are there: nobody will answer questions any more."""
        for name in feed_names(self._store):
            self[name].divide()


class _Crops:
    """Manifest rows of scenes, the latest few at hand."""

    def __init__(self, plan: Plan, read: Read) -> None:
        self._read = read
        self._size = plan.recipe.crop_size
        self._reserved = frozenset(
            photo.sha1
            for scene in plan.scenes
            if scene.test_reserve
            for photo in (*scene.ground_truths, *scene.noisy)
        )
        self._at_hand: dict[str, dict[str, dict[str, Any]]] = {}

    def names(self, result: SceneResult) -> list[str]:
        """Of the crops that may be given."""
        return [
            crop_name(pair.pair_id, crop.y, crop.x)
            for pair in result.pairs
            if self._allowed(result, pair)
            for crop in pair.crops
        ]

    def _allowed(self, result: SceneResult, pair: Any) -> bool:
        photos = {pair.noisy.sha1, pair.ground_truth and pair.ground_truth.sha1}
        return (
            pair.outcome is Outcome.COLLECTED
            and not result.scene.test_reserve
            and not photos & self._reserved
        )

    def row(self, key: str, crop_id: str) -> dict[str, Any] | None:
        """A crop's row; None where the scene has been done again without it."""
        if key not in self._at_hand:
            while len(self._at_hand) > WINDOW:
                del self._at_hand[next(iter(self._at_hand))]
            self._at_hand[key] = self._rows(key)
        return self._at_hand[key].get(crop_id)

    def _rows(self, key: str) -> dict[str, dict[str, Any]]:
        result = self._read(key)
        rows = (
            crop_row(result, pair, number, crop, self._size)
            for pair in result.pairs
            if self._allowed(result, pair)
            for number, crop in enumerate(pair.crops)
        )
        return {row["crop_id"]: row for row in rows}


class Feed:
    """One epoch, shared by its consumers."""

    def __init__(self, log: LeaseLog, crops: _Crops, since: Since, name: str) -> None:
        self._log = log
        self._crops = crops
        self._since = since
        self._seen = 0
        self._given: dict[str, set[str]] = {}
        self._waiting: deque[tuple[str, int, list[str]]] = deque()
        self._open: list[tuple[str, int, list[str]]] = []
        for crop in given_to(log):
            self._given.setdefault(crop.key, set()).add(crop.crop_id)
        self._accounts = accounts(log.entries())
        self._held: dict[str, deque[Leased]] = {}
        self._heard = dict.fromkeys(self._accounts, time.monotonic())
        self._rng = np.random.default_rng(_seed(name))

    def join(self, consumer: str, token: str, position: int | None = None) -> int:
        """A process takes a consumer's name; one that had it before gets no more answers.

        Args:
            consumer: the name.
            token: differs from process to process.
            position: where it wants to go on, from a checkpoint; None: behind what the consumer has said it was done with.

        Returns:
            The position of its first question. What the name was given from there on is given again.

        Raises:
            ConfigError: The consumer was never given so much.
        """
        account = self._accounts.get(consumer, Account())
        start = account.done if position is None else position
        if not 0 <= start <= account.given:
            raise ConfigError(
                f"consumer {consumer} was given {account.given} crops, it cannot go on at {start}"
            )
        self._record([LeaseEntry(consumer=consumer, done=start, token=token)])
        self._held[consumer] = deque(given_to(self._log, consumer, start))
        return start

    def leave(self, consumer: str, token: str, done: int) -> None:
        """The consumer wants nothing more."""
        account = self._check(consumer, token)
        self._record([LeaseEntry(consumer=consumer, done=max(account.done, done), left=True)])

    def take(
        self, consumer: str, token: str, position: int, count: int, *, done: int, lease: bool
    ) -> tuple[pa.Table, int]:
        """Up to `count` crops, those that it already has from `position` on first; as many as there are, maybe none.

        Args:
            consumer: who joined before.
            token: the one that it joined with.
            position: of the first crop that it does not have yet.
            count: the most crops of the answer.
            done: it is done with its crops below this position.
            lease: whether it may be given new ones.

        Returns:
            Their rows, and the position of the consumer's next question.

        Raises:
            ConfigError: Another process has joined by the consumer's name.
        """
        account = self._check(consumer, token)
        held = self._held_of(consumer)
        while held and account.given - len(held) < done:
            held.popleft()
        account.done = max(account.done, done)
        if position == account.given and lease and (drawn := self._draw(count)):
            self._record([LeaseEntry(consumer=consumer, done=account.done, crops=tuple(drawn))])
            held.extend(drawn)
        skip = position - (account.given - len(held))
        crops = list(islice(held, skip, skip + count))
        return self._table(crops, position), position + len(crops)

    def _held_of(self, consumer: str) -> deque[Leased]:
        """What the consumer was given and is not done with; a bridge that was started anew reads it from the record."""
        if consumer not in self._held:
            self._held[consumer] = deque(given_to(self._log, consumer, self._accounts[consumer].done))
        return self._held[consumer]

    def _check(self, consumer: str, token: str) -> Account:
        account = self._accounts.get(consumer)
        if account is None or account.token != token:
            raise ConfigError(f"another process goes by the name of consumer {consumer}; each needs its own")
        self._heard[consumer] = time.monotonic()
        return account

    def _record(self, entries: list[LeaseEntry]) -> None:
        self._log.append(entries)
        for entry in entries:
            apply(self._accounts.setdefault(entry.consumer, Account()), entry)
            self._heard[entry.consumer] = time.monotonic()

    def _table(self, crops: Iterable[Leased], start: int) -> pa.Table:
        rows = []
        for position, crop in enumerate(crops, start):
            row = self._crops.row(crop.key, crop.crop_id)
            if row is not None:
                rows.append({**row, "position": position})
        return pa.Table.from_pylist(rows, schema=GIVEN_SCHEMA)

    def _draw(self, count: int) -> list[Leased]:
        """Crops that nobody has, from all open scenes alike."""
        self._refresh()
        drawn: list[Leased] = []
        while len(drawn) < count and self._opened():
            ends = np.cumsum([len(names) for _, _, names in self._open])
            chosen = int(np.searchsorted(ends, self._rng.integers(ends[-1]), side="right"))
            key, seq, names = self._open[chosen]
            drawn.append(Leased(key, seq, names.pop()))
            if not names:
                del self._open[chosen]
        return drawn

    def _opened(self) -> bool:
        while self._waiting and len(self._open) < WINDOW:
            self._open.append(self._waiting.popleft())
        return bool(self._open)

    def _refresh(self) -> None:
        """Takes notice of new commits; each scene's crops in an order of their own."""
        for seq, result in self._since(self._seen):
            self._seen = seq + 1
            key = result.scene.key
            given = self._given.pop(key, set())
            names = [name for name in self._crops.names(result) if name not in given]
            if names:
                order = np.random.default_rng(_seed(key)).permutation(len(names))
                self._waiting.append((key, seq, [names[n] for n in order]))

    def divide(self) -> None:
        """Gives all that is left to the consumers that were heard of lately, in equal shares."""
        now = time.monotonic()
        there = [
            name
            for name, account in self._accounts.items()
            if not account.left and now - self._heard[name] < timing.CONSUMER_EXPIRY
        ]
        if not there:
            return
        rest: list[Leased] = []
        while drawn := self._draw(1024):
            rest.extend(drawn)
        self._record(
            [
                LeaseEntry(
                    consumer=name,
                    done=self._accounts[name].done,
                    crops=tuple(rest[number :: len(there)]),
                    last=True,
                )
                for number, name in enumerate(there)
            ]
        )
        self._held.clear()


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
