"""The ledger of attempts: which scenes a run has begun, so that one which kills its worker is noticed.

Marks are write-once files `attempts/<run>/<scene>/<name>`. They are removed before the manifest is written.
"""

import hashlib
import uuid

from rawnind.storage.store import Store

FOLDER = "attempts"


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

    def mark_timeout(self, detail: str) -> None:
        """Marks that an attempt ran out of time, and what it was doing."""
        self._store.write(f"{self._folder}/timeout", detail.encode(), replace=True)

    def timeout(self) -> str | None:
        """What an attempt that ran out of time was doing; None where none did."""
        try:
            return self._store.read(f"{self._folder}/timeout").decode()
        except FileNotFoundError:
            return None
