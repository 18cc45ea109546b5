"""The lock of an output folder: one run at a time."""

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from rawnind import timing
from rawnind.documents import json_object
from rawnind.errors import FolderInUseError, OutputError
from rawnind.output.store import Store

NAME = "run.lock"
LEASES = "locks"

_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def exclusive_run(store: Store, run: str) -> Iterator[None]:
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
    about = json.dumps(
        {"run": run, "host": socket.gethostname(), "pid": os.getpid(), "since": round(time.time())}
    )
    with ExitStack() as stack:
        descriptor = _lock(store, path, stack) if path else None
        if path is None or descriptor is None:
            stack.enter_context(_lease(store, run, about))
        else:
            stack.callback(path.unlink, missing_ok=True)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, about.encode(), 0)
        yield


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
                    f"{store.location} is in use by {_owner(os.pread(descriptor, 4096, 0))}. Wait for it, or choose a new --output."
                ) from error
            with suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    stack.push(opened.pop_all())
                    return descriptor
        # the previous run has just removed the file that was opened here


@contextmanager
def _lease(store: Store, run: str, about: str) -> Iterator[None]:
    own = f"{LEASES}/{run}.json"
    store.write(own, about.encode(), replace=True)
    try:
        _require_sole_lease(store, own)
        over = threading.Event()
        thread = threading.Thread(
            target=_renew, args=(store, own, about, over), name="rawnind-lease", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
    finally:
        with suppress(OutputError):
            store.remove(own)


def _require_sole_lease(store: Store, own: str) -> None:
    """A run that finds another unexpired lease beside its own gives up; of two that start at the same moment, both may."""
    leases = {entry.path: entry.modified for entry in store.list(LEASES)}
    now = leases.get(own, 0.0)
    for name, modified in leases.items():
        if name == own:
            continue
        if now - modified > timing.LOCK_EXPIRY:
            store.remove(name)
        else:
            owner = _owner(store.read(name))
            raise FolderInUseError(
                f"{store.location} is in use by {owner}. Wait for it, or choose a new --output."
            )


def _renew(store: Store, own: str, about: str, over: threading.Event) -> None:
    while not over.wait(timing.LOCK_RENEWAL):
        with suppress(OutputError):  # the run stops when it cannot write itself
            store.write(own, about.encode(), replace=True)


def _owner(content: bytes) -> str:
    try:
        about: dict[str, Any] = json_object(content) or {}
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about["since"]))
        return f"run {about['run']} (process {about['pid']} on {about['host']}, since {since})"
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return "another run that has just started"
