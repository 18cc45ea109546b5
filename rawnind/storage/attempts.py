"""The ledger of attempts: which scenes a run has begun, so that one which kills its worker is noticed.

Marks are write-once files `attempts/<run>/<scene>/<begun or timeouts>/<name>`. They are removed before the manifest is
written.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass

from rawnind.storage.store import Store

FOLDER = "attempts"


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedOut:
    """An attempt that ran out of time.

    Attributes:
        stage: what it was doing.
        sha1: the photo that it was reading; None where it was not reading one.
    """

    stage: str
    sha1: str | None


class Ledger:
    """Marks of one scene in one run.

    Args:
        store: the output folder.
        run: names the run; another run starts with a clean ledger.
        key: the scene's key.
    """

    def __init__(self, store: Store, run: str, key: str) -> None:
        self._store = store
        self._folder = f"{FOLDER}/{run}/{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    def begin(self) -> int:
        """Marks an attempt; returns how many there were before it."""
        before = len(self._store.list(f"{self._folder}/begun"))
        self._store.write(f"{self._folder}/begun/{uuid.uuid4().hex}", b"")
        return before

    def mark_timeout(self, stage: str, sha1: str | None) -> None:
        """Marks that an attempt ran out of time, and what it was doing."""
        data = json.dumps({"stage": stage, "sha1": sha1}).encode()
        self._store.write(f"{self._folder}/timeouts/{uuid.uuid4().hex}", data)

    def timeouts(self) -> list[TimedOut]:
        """Every attempt that ran out of time."""
        entries = self._store.list(f"{self._folder}/timeouts")
        return [TimedOut(**json.loads(self._store.read(entry.path))) for entry in entries]
