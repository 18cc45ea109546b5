"""What the thread beside a scene's processing records."""

import contextlib
import multiprocessing
import time
from pathlib import Path

import numba
import pytest
from numba.core import event

from rawnind.errors import SourceError
from rawnind.imaging.jit import kernel
from rawnind.output.attempts import Ledger, TimedOut
from rawnind.output.store import Store
from rawnind.pipeline.watchdog import Watchdog
from rawnind.reasons import Reason
from rawnind.records import Cfa, ImageRef
from tests.polling import poll

PHOTO = ImageRef(path="/a.dng", filename="a.dng", sha1="a" * 40, scene="s", cfa=Cfa.BAYER, iso=100,
                 ground_truth=False)  # fmt: skip


def time_out(folder: Path, *, fails: bool) -> None:
    """Exceeds the time limit while PHOTO is read, or after it could not be read. The watchdog ends the process."""
    ledger = Ledger(Store(str(folder)), "run", "bayer/s")
    with Watchdog(None, "bayer/s", ledger, 0.2, lambda: None) as watchdog:
        with contextlib.suppress(SourceError), watchdog.reading(PHOTO):
            if fails:
                raise SourceError(Reason.SHA1_MISMATCH, "a.dng")
            time.sleep(30)
        time.sleep(30)


@pytest.mark.parametrize(("fails", "sha1"), [(False, PHOTO.sha1), (True, None)])
def test_a_photo_is_blamed_for_a_timeout_only_while_it_is_read(tmp_path, fails, sha1):
    process = multiprocessing.get_context("spawn").Process(
        target=time_out, args=(tmp_path,), kwargs={"fails": fails}
    )
    process.start()
    process.join(30)
    assert process.exitcode == 1
    assert Ledger(Store(str(tmp_path)), "run", "bayer/s").timeouts() == [
        TimedOut(stage="starting", sha1=sha1)
    ]


def abs_of(x):
    return abs(x)


class Received:
    """Takes what a Ray actor's handle would send."""

    def __init__(self):
        self.heartbeat, self.calls = self, []

    def remote(self, *call):
        self.calls.append(call)


def test_a_scene_that_waits_for_the_compiler_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kernels"))
    received, ledger = Received(), Ledger(Store(str(tmp_path)), "run", "bayer/s")
    with Watchdog(received, "bayer/s", ledger, None, lambda: None) as watchdog:
        watchdog.enter("mask", {})

        class UntilHeartbeat(event.Listener):
            def on_start(self, event):
                poll(lambda: received.calls)

            def on_end(self, event):
                pass

        with event.install_listener("numba:compile", UntilHeartbeat()):
            kernel(abs_of)(-4)
    ((_, stage, _), *_) = received.calls
    assert stage == "mask: compiling its loops, once on each machine"


def test_a_scene_that_is_done_at_once_sends_no_heartbeat_and_a_longer_one_its_newest_stage(tmp_path):
    received, ledger = Received(), Ledger(Store(str(tmp_path)), "run", "bayer/s")
    beats = []
    with Watchdog(received, "bayer/s", ledger, None, lambda: beats.append(1)) as watchdog:
        watchdog.enter("decode", {})
    assert received.calls == beats == []
    with Watchdog(received, "bayer/s", ledger, None, lambda: beats.append(1)) as watchdog:
        watchdog.enter("decode", {})
        watchdog.enter("align", {"decoded": 2})
        poll(lambda: beats)
    assert received.calls == [("bayer/s", "align", {"decoded": 2})]
