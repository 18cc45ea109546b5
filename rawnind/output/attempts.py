"""The ledger of attempts: which scenes a run has begun, so that a scene that ends its worker is detected.

Marks are write-once files `attempts/<run>/<scene>/<begun or timeouts>/<name>`; each chunk of a large scene has its own, in
`begun-3` and `timeouts-3`. They need not survive a power failure, after which another run has another ledger: waiting for the disk
takes longer than all else that is done for a scene whose photos are missing. They are removed before the manifest is written,
and with them the finished chunks of large scenes (`finished_chunks`), which lie beside them.
"""

import hashlib
import json
import re
import uuid
from dataclasses import dataclass

from pydantic import TypeAdapter

from rawnind.documents import json_record
from rawnind.output.atomic_file import TEMPORARY
from rawnind.output.store import Store

FOLDER = "attempts"
CHUNKS = f"{FOLDER}/chunks"
CHUNK_NAME = r"(?P<number>\d+)-(?P<count>\d+)-(?P<run>[\w-]+)-(?P<digest>[0-9a-f]{16})"
"""Name of a finished chunk."""

_TEMPORARY = rf"{re.escape(TEMPORARY)}[0-9a-f]{{32}}"
_MARK = re.compile(
    rf"{FOLDER}/[^/]+/[0-9a-f]{{16}}/(begun|timeouts)(-\d+)?/(?:{_TEMPORARY}|[0-9a-f]{{32}})"
    rf"|{CHUNKS}/[0-9a-f]{{16}}/(?:{_TEMPORARY}|{CHUNK_NAME})"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedOut:
    """An attempt that exceeded --scene-timeout.

    Attributes:
        stage: that it was in.
        sha1: the photo that it was reading; None where it was reading none.
    """

    stage: str
    sha1: str | None


_TIMED_OUT = TypeAdapter(TimedOut)


class Ledger:
    """Marks of one scene, or of one chunk of it, in one run.

    Args:
        store: the output folder.
        run: name of the run; every run has a ledger of its own.
        key: the scene's key.
        chunk: number of the chunk; None: the scene is not divided.
    """

    def __init__(self, store: Store, run: str, key: str, chunk: int | None = None) -> None:
        self._store = store
        folder, suffix = f"{FOLDER}/{run}/{scene_digest(key)}", "" if chunk is None else f"-{chunk}"
        self._begun, self._timeouts = f"{folder}/begun{suffix}", f"{folder}/timeouts{suffix}"

    def begin(self) -> int:
        """Records an attempt; returns the number of earlier ones."""
        before = len(self._store.list(self._begun))
        self._store.write(f"{self._begun}/{uuid.uuid4().hex}", b"", durable=False)
        return before

    def mark_timeout(self, stage: str, sha1: str | None) -> None:
        """Records that an attempt exceeded --scene-timeout, with its stage and the photo that it was reading."""
        data = json.dumps({"stage": stage, "sha1": sha1}).encode()
        self._store.write(f"{self._timeouts}/{uuid.uuid4().hex}", data, durable=False)

    def timeouts(self) -> list[TimedOut]:
        """Every attempt that exceeded --scene-timeout, oldest first."""
        entries = sorted(self._store.list(self._timeouts), key=lambda entry: entry.modified)
        marks = (json_record(self._store.read(entry.path), _TIMED_OUT) for entry in entries)
        return [mark or TimedOut(stage="unknown", sha1=None) for mark in marks]  # a damaged mark counts too


def scene_digest(key: str) -> str:
    """Name of a scene's folder in the ledger, and of that of its finished chunks."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def attempted(store: Store) -> frozenset[str]:
    """`scene_digest` of every scene that a run has begun since the last manifest was written."""
    paths = (entry.path for entry in store.list(FOLDER))
    return frozenset(path.split("/")[2] for path in paths if _MARK.fullmatch(path))


def remove_marks(store: Store) -> None:
    """Removes every mark and every finished chunk of every run, and the folder if it is then empty.

    Raises:
        OutputError: The storage reports an error.
    """
    found = [entry.path for entry in store.list(FOLDER)]
    marks = [path for path in found if _MARK.fullmatch(path)]
    if len(marks) == len(found):
        store.remove_folder(FOLDER)
        return
    for path in marks:
        store.remove(path)
