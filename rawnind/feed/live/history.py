"""The history of a feed, from the output folder: how the run ended, and which crops each consumer got."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rawnind.bridge.leases import ConsumerState, LeasedCrop, LeaseLog, consumer_states, leased_crops
from rawnind.errors import ConfigError, OutputError
from rawnind.feed.manifest_view import apply_filters, read_groups, split_filters
from rawnind.feed.sampling import generator
from rawnind.feed.selection import Split
from rawnind.output.events import NewestEvent
from rawnind.output.store import Store
from rawnind.output.tables import require_sealed


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEnd:
    """How the last run in a folder ended.

    Attributes:
        finished: whether the run wrote a manifest.
        error: the bridge's reason where the run failed; else empty.
    """

    finished: bool
    error: str = ""


def last_run_end(newest: NewestEvent) -> RunEnd | None:
    """How the last run ended; None while it runs, when it was stopped early, or when there was no run."""
    try:
        last = newest.read()
    except OutputError:
        return None
    if last is None:
        return None
    if last.get("to") == "error":
        return RunEnd(finished=False, error=str(last.get("why")))
    if "ready" in (last.get("to"), last.get("from")):
        return RunEnd(finished=True)
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Consumer:
    """A consumer of a feed.

    Attributes:
        feed: name of the feed; the consumers of one feed share its crops.
        name: name of the consumer within the feed.
        rank: number of the consumer, used only when no consumer had joined the feed before the run ended.
        ranks: how many consumers there are in that case.
    """

    feed: str
    name: str
    rank: int = 0
    ranks: int = 1


def remaining_rows(
    store: Store, consumer: Consumer, position: int | None, *, seed: int = 0, epoch: int = 0
) -> pa.Table:
    """The crops that a consumer still has to get from a finished folder, each with its position.

    These are the crops that were assigned to it from `position` on, and its share of the unassigned crops. When the bridge
    closed, it divided the unassigned crops, so that none is left; where it did not close, the share is every n-th crop of a
    random order, with n the number of recorded consumers, or `consumer.ranks` where none is recorded.

    Args:
        store: the output folder.
        consumer: the consumer.
        position: the first position to get; None: the one after the last that it acknowledged.
        seed: seed of the random order.
        epoch: epoch of the random order.

    Returns:
        Rows of the manifest with the further column `position`.

    Raises:
        ConfigError: The feed belongs to consumers with other names.
        ManifestError: The manifest cannot be read.
    """
    require_sealed(store)
    log = LeaseLog(store, consumer.feed)
    known = consumer_states(log.entries())
    if known and consumer.name not in known:
        raise ConfigError(
            f"feed {consumer.feed} of {store.location} belongs to {', '.join(sorted(known))}; "
            "resume with one of these names, or choose another feed"
        )
    account = known.get(consumer.name, ConsumerState())
    start = account.done if position is None else position
    wanted = [crop.crop_id for crop in leased_crops(log, consumer.name, start)]
    wanted += _share(store, log, known, consumer, generator(seed, epoch, 0))
    return _positioned(rows_of(store, wanted), start)


def _share(
    store: Store, log: LeaseLog, known: dict[str, ConsumerState], consumer: Consumer, rng: np.random.Generator
) -> list[str]:
    if any(entry.last for entry in log.entries()):
        return []
    active = [name for name, account in known.items() if not account.left]
    rank, ranks = (
        (active.index(consumer.name), len(active))
        if consumer.name in active
        else (consumer.rank, consumer.ranks)
    )
    assigned = pa.array([crop.crop_id for crop in leased_crops(log)], pa.string())
    names = _trainable_crops(store)
    unassigned = names.filter(pc.invert(pc.is_in(names, assigned)))
    order = rng.permutation(len(unassigned))
    return list(unassigned.take(pa.array(order[rank::ranks])).to_pylist())


def _trainable_crops(store: Store) -> pa.Array:
    """IDs of all crops that show no photo of the test reserve."""
    filters = split_filters([store], Split.ALL, 0.0)
    left_out = dict.fromkeys((name for name, _ in filters), 0)
    names = [
        apply_filters(group, filters, left_out)["crop_id"] for group in read_groups(store, everything=True)
    ]
    return pa.chunked_array([chunk for name in names for chunk in name.chunks], pa.string()).combine_chunks()


def rows_of(store: Store, crop_ids: Sequence[str]) -> pa.Table:
    """The manifest's rows of some crops, in the order of `crop_ids`; crops that are not listed are left out."""
    wanted = pa.array(crop_ids, pa.string())
    found = pa.concat_tables(
        [
            group.filter(pc.is_in(group["crop_id"], wanted)).unify_dictionaries()
            for group in read_groups(store, everything=True)
        ],
        promote_options="permissive",
    )
    places = pc.index_in(wanted, found["crop_id"].combine_chunks())
    return found.take(places.drop_null())


def assigned_rows(
    store: Store, consumer: Consumer, *, sequence: int | None, every_consumer: bool
) -> pa.Table:
    """The manifest's rows of the crops that a consumer got in a feed, in that order.

    Args:
        store: the output folder.
        consumer: the consumer.
        sequence: scenes whose commit has this sequence number or a higher one are left out; None: none is.
        every_consumer: whether to return the crops of all consumers of the feed.

    Raises:
        ConfigError: No crop is recorded.
        ManifestError: The manifest cannot be read.
    """
    require_sealed(store)
    log = LeaseLog(store, consumer.feed)
    crops: Iterable[LeasedCrop] = leased_crops(log, None if every_consumer else consumer.name)
    wanted = [crop.crop_id for crop in crops if sequence is None or crop.seq < sequence]
    if not wanted:
        raise ConfigError(
            f"{store.location} has no record of feed {consumer.feed} for {consumer.name or 'any consumer'}"
        )
    return _positioned(rows_of(store, wanted), 0)


def _positioned(rows: pa.Table, start: int) -> pa.Table:
    return rows.append_column("position", pa.array(np.arange(start, start + len(rows)), pa.int64()))
