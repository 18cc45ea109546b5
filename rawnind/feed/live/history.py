"""What the output folder says of a feed whose bridge is gone: how the run ended, and what each consumer was given."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rawnind.bridge.leases import Account, Leased, LeaseLog, accounts, given_to
from rawnind.errors import ConfigError, OutputError
from rawnind.feed.manifest_view import apply_filters, read_groups, split_filters
from rawnind.feed.sampling import generator
from rawnind.feed.selection import Split
from rawnind.output.events import read_events
from rawnind.output.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How the last run in a folder ended.

    Attributes:
        finished: whether there is a manifest to go on with.
        error: the bridge's reason where the run went wrong; else empty.
    """

    finished: bool
    error: str = ""


def ending(store: Store) -> Ending | None:
    """How the last run ended; None where none did: it is still running, was stopped early, or there never was one."""
    try:
        states = [event for event in read_events(store) if event.get("event") == "state"]
    except (FileNotFoundError, OutputError):
        return None
    if not states:
        return None
    last = max(states, key=lambda event: event["time"])  # the later line of two at one time comes last
    last = [event for event in states if event["time"] == last["time"]][-1]
    if last["to"] == "error":
        return Ending(finished=False, error=str(last["why"]))
    if "ready" in {last["to"], last["from"]}:
        return Ending(finished=True)
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Who:
    """A consumer of a feed.

    Attributes:
        rank: its number, where the feed was joined by nobody while the run went on.
        ranks: how many consumers there are then.
    """

    feed: str
    consumer: str
    rank: int = 0
    ranks: int = 1


def rest(store: Store, who: Who, position: int | None, *, seed: int = 0, epoch: int = 0) -> pa.Table:
    """What a consumer has still to get of a finished folder, with each crop's position.

    That is what it was given from `position` on, and its share of what was given to nobody: nothing, where the bridge
    divided that when it closed; else every n-th crop of a random order, n being the number of consumers on record, or
    `who.ranks` where there are none.

    Args:
        store: the output folder.
        who: the consumer.
        position: where it goes on; None: behind what it has said it was done with.
        seed: of the random order.
        epoch: of the random order.

    Raises:
        ConfigError: The feed was given to others.
        ManifestError: The manifest cannot be read.
    """
    log = LeaseLog(store, who.feed)
    known = accounts(log.entries())
    if known and who.consumer not in known:
        raise ConfigError(
            f"feed {who.feed} of {store.location} was given to {', '.join(sorted(known))} while the run went on; "
            "go on by one of these names, or choose another feed"
        )
    account = known.get(who.consumer, Account())
    start = account.done if position is None else position
    wanted = [crop.crop_id for crop in given_to(log, who.consumer, start)]
    wanted += _share(store, log, known, who, generator(seed, epoch, 0))
    return _positioned(rows_of(store, wanted), start)


def _share(
    store: Store, log: LeaseLog, known: dict[str, Account], who: Who, rng: np.random.Generator
) -> list[str]:
    if any(entry.last for entry in log.entries()):
        return []
    there = [name for name, account in known.items() if not account.left]
    rank, ranks = (there.index(who.consumer), len(there)) if who.consumer in there else (who.rank, who.ranks)
    given = pa.array([crop.crop_id for crop in given_to(log)], pa.string())
    names = _open_crops(store)
    free = names.filter(pc.invert(pc.is_in(names, given)))
    order = rng.permutation(len(free))
    return list(free.take(pa.array(order[rank::ranks])).to_pylist())


def _open_crops(store: Store) -> pa.Array:
    """Names of all crops that show no photo of the test reserve."""
    filters = split_filters(store, Split.ALL, 0.0)
    left_out = dict.fromkeys((name for name, _ in filters), 0)
    names = [
        apply_filters(group, filters, left_out)["crop_id"] for group in read_groups(store, everything=True)
    ]
    return pa.chunked_array([chunk for name in names for chunk in name.chunks], pa.string()).combine_chunks()


def rows_of(store: Store, crop_ids: Sequence[str]) -> pa.Table:
    """The manifest's rows of some crops, in the order asked for; those that are not there are left out."""
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


def recorded(store: Store, who: Who, *, sequence: int | None, everybody: bool) -> pa.Table:
    """Everything that a consumer was given in a feed, in that order, out of the manifest.

    Args:
        store: the output folder.
        who: the consumer.
        sequence: leaves out scenes whose commit has this sequence number or a higher one; None: keeps all.
        everybody: whether to take what every consumer was given, in the order of the record.

    Raises:
        ConfigError: Nothing is on record.
        ManifestError: The manifest cannot be read.
    """
    log = LeaseLog(store, who.feed)
    crops: Iterable[Leased] = given_to(log, None if everybody else who.consumer)
    wanted = [crop.crop_id for crop in crops if sequence is None or crop.seq < sequence]
    if not wanted:
        raise ConfigError(
            f"{store.location} has no record of feed {who.feed} for {who.consumer or 'anybody'}"
        )
    return _positioned(rows_of(store, wanted), 0)


def _positioned(rows: pa.Table, start: int) -> pa.Table:
    return rows.append_column("position", pa.array(np.arange(start, start + len(rows)), pa.int64()))
