"""Injects faults into processes that tests start with this folder on PYTHONPATH; the package itself has no test hooks.

RAWNIND_FAULTS names a folder. A file `<place>` in it holds an action for the process that reaches this place, and how
often it applies: `once` or `always`. Places are `imread-<SHA-1>` (before LibRaw opens these bytes), `worker` (after a
SceneWorker is made), `bridge` (before a Bridge is made), and `publish-<folder>` or `published-<folder>` (before or after a file of that folder, or the
manifest, is linked or renamed into place). A `once` applies to the first process that deletes the file.
"""

import ctypes
import hashlib
import importlib.util
import os
import signal
import sys
import time

FOLDER = os.environ.get("RAWNIND_FAULTS", "")


def reach(place):
    """Performs the action that is injected at this place, if there is one."""
    path = os.path.join(FOLDER, place)
    try:
        with open(path) as file:
            action, how_often = file.read().split()
        if how_often == "once":
            os.unlink(path)
    except (FileNotFoundError, ValueError):
        return
    print(f"fault at {place}: {action}", file=sys.stderr, flush=True)
    if action == "wait":
        _wait(place)
    elif action == "hang":
        time.sleep(3600)
    elif action == "freeze":
        ctypes.PyDLL(None).sleep(3600)  # no other thread of the process runs meanwhile
    elif action == "allocate":
        bytearray(1 << 46)  # more than any machine has
    elif action == "bug":
        raise ZeroDivisionError("a bug injected by a test")
    elif action.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, action))
        time.sleep(60)  # the signal may be delivered a little later


def _wait(place):
    mark = os.path.join(FOLDER, f"waiting-{place}-{os.getpid()}")
    with open(mark, "w"):
        pass
    while os.path.exists(mark):
        time.sleep(0.01)


def _wrap_publishing():
    for name in ("link", "replace"):
        setattr(os, name, _wrapped(getattr(os, name)))


def _wrapped(publish):
    def wrapped(source, target, *args, **kwargs):
        folder = _folder(os.fspath(target))
        if folder:
            reach(f"publish-{folder}")
        publish(source, target, *args, **kwargs)
        if folder:
            reach(f"published-{folder}")

    return wrapped


def _folder(target):
    if os.path.basename(target) in {"manifest.parquet", "manifest.yaml"}:
        return "manifest"
    return next((name for name in ("parts", "shards", "attempts") if f"/{name}/" in str(target)), "")


class _PatchOnImport:
    """Import hook: calls `change` with one module after its import."""

    def __init__(self, module, change):
        self.module = module
        self.change = change

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            self.change(module)

        spec.loader.exec_module = exec_module
        return spec


def _wrap_imread(rawpy):
    imread = rawpy.imread

    def wrapped(source):
        if hasattr(source, "getvalue"):
            reach(f"imread-{hashlib.sha1(source.getvalue()).hexdigest()}")
        return imread(source)

    rawpy.imread = wrapped


def _wrap_worker(worker):
    make = worker.SceneWorker.__init__

    def wrapped(self, **values):
        make(self, **values)
        reach("worker")

    worker.SceneWorker.__init__ = wrapped


def _wrap_bridge(bridge):
    make = bridge.Bridge.__init__

    def wrapped(self, *arguments, **values):
        reach("bridge")
        make(self, *arguments, **values)

    bridge.Bridge.__init__ = wrapped


if FOLDER:
    _wrap_publishing()
    sys.meta_path[:0] = [
        _PatchOnImport("rawpy", _wrap_imread),
        _PatchOnImport("rawnind.pipeline.worker", _wrap_worker),
        _PatchOnImport("rawnind.bridge.bridge", _wrap_bridge),
    ]
