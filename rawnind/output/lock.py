"""The lock of an output folder: one run at a time."""

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rawnind import timing
from rawnind.documents import json_object
from rawnind.errors import FolderInUseError, OutputError, StoppedEarlyError
from rawnind.output.store import Store

NAME = "run.lock"
LEASES = "locks"

_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLock:
    """The lock of one run on its output folder, as driver, bridge and workers check it.

    Attributes:
        run: name of the run.
        file: the file in the folder that names the run.
        epoch: of a lease, when it was taken, in seconds since 1970 by the store's clock: the later of two owners has the
            higher one. 0: a file lock.
    """

    run: str
    file: str
    epoch: int = 0

    def require(self, store: Store) -> float:
        """Checks that the run still has its lock on the folder at this place.

        Returns:
            When the file was written, in seconds since 1970 by the store's clock.

        Raises:
            StoppedEarlyError: Another run has taken the folder over.
            OutputError: Another folder has taken the place of the run's, or the storage reports an error.
        """
        if self.epoch:
            return self._require_lease(store)
        about = _read(store, self.file)
        if not about:
            raise OutputError(
                f"the output folder {store.location} cannot be reached any more: {self.file} of this run is not in it. Bring it "
                "back and run again"
            )
        if about.get("run") != self.run:
            raise StoppedEarlyError(f"{_owner(about)} works on {store.location} now, in this run's place")
        return 0.0

    def _require_lease(self, store: Store) -> float:
        written = {entry.path: entry.modified for entry in store.list(LEASES)}
        others = (_read(store, name) for name in written if name != self.file)
        later = next(filter(self._is_before, others), None)
        if later is None and self.file in written:
            return written[self.file]
        raise StoppedEarlyError(
            f"{_owner(later or {})} took over {store.location} while this run was paused for over {timing.LOCK_EXPIRY:g} s. What it "
            "had committed until then stays; run again to resume when the other run has ended"
        )

    def _is_before(self, about: Mapping[str, Any]) -> bool:
        epoch = about.get("epoch")  # a run that has not checked yet whether it is alone has none
        return isinstance(epoch, int) and (epoch, str(about.get("run"))) > (self.epoch, self.run)


@contextmanager
def exclusive_run(store: Store, run: str) -> Iterator[RunLock]:
    """Locks an output folder for one run; nothing of the lock remains afterwards.

    A local folder has a file lock, which the system releases when the process ends; `run.lock` names the run.
    Elsewhere, and on file systems without locks, each run renews a lease `locks/<run>.json`; a lease that was not
    renewed for a minute, by the store's clock, has expired.

    Args:
        store: the output folder.
        run: name of the run.

    Raises:
        FolderInUseError: Another run has locked it; the message names its host, process and run.
    """
    path = store.local(NAME)
    about = {"run": run, "host": socket.gethostname(), "pid": os.getpid(), "since": round(time.time())}
    with ExitStack() as stack:
        descriptor = _lock(store, path, stack) if path else None
        if path is None or descriptor is None:
            yield stack.enter_context(_lease(store, run, about))
            return
        stack.callback(path.unlink, missing_ok=True)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(about).encode(), 0)
        yield RunLock(run=run, file=NAME)


def _lock(store: Store, path: Path, stack: ExitStack) -> int | None:
    """The locked file's descriptor, which `stack` closes; None where the file system has no locks."""
    while True:
        with ExitStack() as opened:
            descriptor = opened.enter_context(store.open_in_place(NAME, os.O_RDWR | os.O_CREAT))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _UNSUPPORTED:
                    return None
                raise FolderInUseError(
                    f"{store.location} is in use by {_owner(json_object(os.pread(descriptor, 4096, 0)) or {})}. Wait for it, or choose a new --output."
                ) from error
            with suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    stack.push(opened.pop_all())
                    return descriptor
        # the previous run has just removed the file that was opened here


@contextmanager
def _lease(store: Store, run: str, about: Mapping[str, Any]) -> Iterator[RunLock]:
    own = f"{LEASES}/{run}.json"
    store.write(own, json.dumps(about).encode(), replace=True)
    try:
        epoch = int(_require_sole_lease(store, own))
        data = json.dumps({**about, "epoch": epoch}).encode()
        lock = RunLock(run=run, file=own, epoch=epoch)
        store.write(own, data, replace=True)
        over = threading.Event()
        thread = threading.Thread(
            target=_renew, args=(store, lock, data, over), name="rawnind-lease", daemon=True
        )
        thread.start()
        try:
            yield lock
        finally:
            over.set()
            thread.join()
    finally:
        with suppress(OutputError):
            store.remove(own)


def _require_sole_lease(store: Store, own: str) -> float:
    """When the own lease was written, by the store's clock.

    A run that finds another unexpired lease beside its own gives up; of two that start at the same moment, both may.
    """
    leases = {entry.path: entry.modified for entry in store.list(LEASES)}
    now = leases.get(own, 0.0)
    for name, modified in leases.items():
        if name == own:
            continue
        if now - modified > timing.LOCK_EXPIRY:
            store.remove(name)
        else:
            raise FolderInUseError(
                f"{store.location} is in use by {_owner(_read(store, name))}. Wait for it, or choose a new --output."
            )
    return now


def _renew(store: Store, lock: RunLock, data: bytes, over: threading.Event) -> None:
    """Renews a lease until it is lost: a lost one is removed, since the next run would otherwise wait for it to expire."""
    while not over.wait(timing.LOCK_RENEWAL):
        with suppress(OutputError):  # the run stops when it cannot write itself
            try:
                before = lock.require(store)
                store.write(lock.file, data, replace=True)
                lapsed = lock.require(store) - before > timing.LOCK_EXPIRY
            except StoppedEarlyError:
                lapsed = True
            if lapsed:  # then another run may have come and ended between check and write
                store.remove(lock.file)
                return


def _read(store: Store, name: str) -> dict[str, Any]:
    """What a run wrote about itself; empty where there is nothing, or something else."""
    try:
        return json_object(store.read(name)) or {}
    except FileNotFoundError:
        return {}


def _owner(about: Mapping[str, Any]) -> str:
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about["since"]))
        return f"run {about['run']} (process {about['pid']} on {about['host']}, since {since})"
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return "another run"
