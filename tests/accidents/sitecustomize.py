"""Accidents on demand, for processes that tests start with this folder on PYTHONPATH; the package knows nothing of it.

A file `<place>` in the folder that RAWNIND_ACCIDENTS names says what shall happen to a process which comes to that
place, and its last word how often: `once` or `always`. Places are `imread-<SHA-1>` (LibRaw is about to open these
bytes), `worker` (a SceneWorker was made) and `publish-<folder>` or `published-<folder>` (a file of that folder, or the manifest, is about to appear, or has just
appeared). Whoever comes first to a `once` has it alone.
"""

import ctypes
import hashlib
import importlib.util
import os
import signal
import sys
import time

FOLDER = os.environ.get("RAWNIND_ACCIDENTS", "")


def reach(place):
    """The process has come to a place."""
    path = os.path.join(FOLDER, place)
    try:
        with open(path) as file:
            action, how_often = file.read().split()
        if how_often == "once":
            os.unlink(path)
    except (FileNotFoundError, ValueError):
        return
    print(f"accident at {place}: {action}", file=sys.stderr, flush=True)
    if action == "wait":
        _wait(place)
    elif action == "hang":
        time.sleep(3600)
    elif action == "freeze":
        ctypes.PyDLL(None).sleep(3600)  # no other thread of the process runs meanwhile
    elif action == "bug":
        raise ZeroDivisionError("a bug that a test has planted")
    elif action.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, action))
        time.sleep(60)  # the signal may need a moment


def _wait(place):
    mark = os.path.join(FOLDER, f"waiting-{place}-{os.getpid()}")
    with open(mark, "w"):
        pass
    while os.path.exists(mark):
        time.sleep(0.01)


def _watch_publishing():
    for name in ("link", "replace"):
        setattr(os, name, _watched(getattr(os, name)))


def _watched(publish):
    def watched(source, target, *args, **kwargs):
        folder = _folder(os.fspath(target))
        if folder:
            reach(f"publish-{folder}")
        publish(source, target, *args, **kwargs)
        if folder:
            reach(f"published-{folder}")

    return watched


def _folder(target):
    if os.path.basename(target) in {"manifest.parquet", "manifest.yaml"}:
        return "manifest"
    return next((name for name in ("parts", "shards", "attempts") if f"/{name}/" in str(target)), "")


class _Watch:
    """Finds a module as ever, and puts a place into a function of it once it is there."""

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


def _watch_imread(rawpy):
    imread = rawpy.imread

    def watched(source):
        if hasattr(source, "getvalue"):
            reach(f"imread-{hashlib.sha1(source.getvalue()).hexdigest()}")
        return imread(source)

    rawpy.imread = watched


def _watch_making(worker):
    make = worker.SceneWorker.__init__

    def watched(self, **values):
        make(self, **values)
        reach("worker")

    worker.SceneWorker.__init__ = watched


if FOLDER:
    _watch_publishing()
    sys.meta_path[:0] = [_Watch("rawpy", _watch_imread), _Watch("rawnind.pipeline.worker", _watch_making)]
