"""Removes what unfinished scenes leave in an output folder, and no other file.

The rules of what a run may delete are a module of their own so that they can be found and reviewed.
"""

import re

from rawnind.output import attempts
from rawnind.output.atomic_file import TEMPORARY
from rawnind.output.journal.journal import Journal
from rawnind.output.shards import is_shard_name
from rawnind.output.store import Store
from rawnind.reasons import Outcome

FOLDERS = (
    "parts",
    "shards",
    "shards/bayer",
    "shards/x-trans",
    attempts.FOLDER,
    "leases",
    "locks",
    "events",
    "raw",
)
"""Folders of an output folder that a run writes to or removes files from."""

_TEMPORARY_FILE = re.compile(
    rf"(parts/|shards/(bayer|x-trans)/[^/]+/)?{re.escape(TEMPORARY)}(probe-)?[0-9a-f]{{32}}"
)


def remove_leftovers(store: Store, journal: Journal) -> None:
    """Removes temporary files, shards that no committed scene lists, and the ledger of attempts.

    A shard is removed where its scene was committed or attempted in this folder: then a worker wrote it.

    Raises:
        OutputError: The storage reports an error, or a folder is a symbolic link.
    """
    for folder in FOLDERS:
        store.require_unlinked(folder)
    attempted = attempts.attempted(store)
    shards: set[str] = set()
    for entry in store.list():
        if _TEMPORARY_FILE.fullmatch(entry.path):
            store.remove(entry.path)
        elif is_shard_name(entry.path):
            key = entry.path.removeprefix("shards/").rpartition("/")[0]
            if key in journal.latest or attempts.scene_digest(key) in attempted:
                shards.add(entry.path)
    if shards:
        for _, result in journal.since(0, Outcome.COLLECTED):
            shards.difference_update(pair.shard.path for pair in result.pairs if pair.shard)
    for path in sorted(shards):
        store.remove(path)
    attempts.remove_marks(store)
