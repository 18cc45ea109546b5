"""Removes what unfinished scenes leave in an output folder, and no other file.

The rules of what a run may delete are a module of their own so that they can be found and reviewed.
"""

from rawnind.output import attempts
from rawnind.output.journal.journal import Journal
from rawnind.output.shards import is_shard_name
from rawnind.output.store import TEMPORARY, Store
from rawnind.reasons import Outcome


def remove_leftovers(store: Store, journal: Journal) -> None:
    """Removes temporary files, shards that no committed scene lists, and the ledger of attempts.

    Raises:
        OutputError: The storage reports an error.
    """
    shards: set[str] = set()
    for entry in store.list():
        folder, name = entry.path.partition("/")[0], entry.path.rsplit("/", 1)[-1]
        if name.startswith(TEMPORARY) and folder in {"shards", "parts", name}:
            store.remove(entry.path)
        elif is_shard_name(entry.path):
            shards.add(entry.path)
    if shards:
        for _, result in journal.since(0, Outcome.COLLECTED):
            shards.difference_update(pair.shard.path for pair in result.pairs if pair.shard)
    for path in sorted(shards):
        store.remove(path)
    attempts.remove_marks(store)
