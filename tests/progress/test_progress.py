import io
import os
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import rawnind
from rawnind.bridge.bridge import Bridge
from rawnind.bridge.messages import LoaderReport, SceneInFlight, Snapshot, State
from rawnind.bridge.stages import Stage, StageCounts, pair_counts
from rawnind.errors import printable
from rawnind.planning import SceneFilter, make_plan
from rawnind.progress.eta import Eta
from rawnind.progress.live_view import LiveView
from rawnind.progress.progress import Plain, Silent, choose
from rawnind.progress.stderr_filter import StderrFilter
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.records import Counts
from rawnind.source.index import load_index
from tests.output.result_maker import make_scene

SIZE = {"crop_size": 64, "stride": 96}
NUMBERS = ("waiting", "running", "done", "rejected", "failed")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def snapshot(**changes):
    values = {
        "state": State.COLLECTING,
        "next_seq": 3,
        "scenes": Counts(planned=12, collected=2, rejected=1),
        "pairs": Counts(planned=22, collected=4, rejected=1, failed=1),
        "crops": 84,
        "in_flight": (SceneInFlight(key="bayer/tea", stage="align", started=50.0, last_heartbeat=99.0),),
        "peak_in_flight": 2,
        "stages": tuple(
            StageCounts(stage=stage, waiting=20, running=1, done=8, rejected=1, failed=1) for stage in Stage
        ),
        "now": 100.0,
    }
    return Snapshot(**values | changes)


def drawn(view, width=100, **options):
    stream = io.StringIO()
    Console(file=stream, width=width, **options).print(view.frame())
    return stream.getvalue()


def rows(text):
    """First word of a line -> its numbers."""
    found = (re.match(r"(\w+)(?: \(\w+\))?((?:\s+\d+)+)\s*$", line) for line in text.splitlines())
    return {match[1]: [int(number) for number in match[2].split()] for match in found if match}


@pytest.mark.usefixtures("cluster")
def test_the_last_frame_is_what_the_manifest_says(sample_set, tmp_path):
    stream = io.StringIO()
    view = LiveView(Console(file=stream, width=100))
    summary = rawnind.prepare(sample_set, tmp_path / "out", progress=view, limit=6, **SIZE)
    shown = stream.getvalue()
    last = rows(shown[shown.rindex("Stage") :])
    head = yaml.safe_load((tmp_path / "out/manifest.yaml").read_text())
    for kind in ("scenes", "pairs"):
        counts = [head["counts"][kind][name] for name in ("planned", *Outcome)]
        assert last[kind] == counts
        assert last[kind] == [getattr(getattr(summary, kind), name) for name in ("planned", *Outcome)]
    assert f"{head['counts']['crops']} crops, finished" in shown

    pairs = pq.read_table(tmp_path / "out/pairs.parquet", columns=["outcome", "reason"]).to_pylist()
    looked_at = [pair for pair in pairs if pair["outcome"] != "filtered"]
    expected = [
        name for pair in looked_at for name in pair_counts(Reason(pair["reason"]) if pair["reason"] else None)
    ]
    for stage in (Stage.ALIGN, Stage.MASK, Stage.WRITE):
        assert last[stage] == [0, 0, *(expected.count(f"{stage}_{kind}") for kind in NUMBERS[2:])]
    assert last["decode"][:2] == [0, 0]
    assert last["write"][2] == summary.pairs.collected


def test_a_run_that_has_nothing_to_do_shows_the_manifest_too(prepared, sample_set):
    stream = io.StringIO()
    summary = rawnind.prepare(sample_set, prepared, progress=LiveView(Console(file=stream, width=80)), **SIZE)
    last = rows(stream.getvalue())
    assert last["scenes"] == [getattr(summary.scenes, name) for name in ("planned", *Outcome)]


def test_only_the_last_report_of_each_loader_is_shown(tmp_path):
    bridge = Bridge(
        str(tmp_path), "run", make_plan([make_scene("tea")], SceneFilter(), Recipe()), max_scenes=1
    )
    bridge.loader_report("rank-1", scenes=1, crops=12, batches=3, wait_seconds=0.5)
    bridge.loader_report("rank-0", scenes=1, crops=12, batches=3, wait_seconds=0.5)
    bridge.loader_report("rank-1", scenes=2, crops=24, batches=6, wait_seconds=0.75)
    assert bridge.snapshot().loaders == (
        LoaderReport(consumer="rank-0", scenes=1, crops=12, batches=3, wait_seconds=0.5),
        LoaderReport(consumer="rank-1", scenes=2, crops=24, batches=6, wait_seconds=0.75),
    )
    view = LiveView()
    view.update(bridge.snapshot())
    assert re.search(r"rank-1 +2 +24 +6 +1 s", drawn(view))


def test_after_a_minute_without_a_commit_the_oldest_scene_and_its_stage_are_named():
    clock = Clock()
    view = LiveView(clock=clock)
    view.update(snapshot())
    clock.now += 59
    assert "No scene committed" not in drawn(view)
    clock.now += 1
    view.update(
        snapshot(
            now=160.0,
            in_flight=(SceneInFlight(key="bayer/tea", stage="mask", started=50.0, last_heartbeat=158.0),),
        )
    )
    assert (
        "No scene committed for 60 s; the oldest in flight is bayer/tea, in stage mask, for 110 s"
        in " ".join(drawn(view, 60).split())
    )
    view.update(snapshot(next_seq=4, now=160.0))
    assert "No scene committed" not in drawn(view)


def test_a_stopped_run_is_shown_as_stopped_and_not_as_finished():
    view = LiveView()
    view.update(snapshot())
    view.stopping("stopped on request")
    assert "Stopping: stopped on request." in drawn(view)
    view.close()
    assert "84 crops, stopped after 0 s" in drawn(view)
    assert "Stopping" not in drawn(view)


def test_a_silent_worker_is_distinguished_from_a_silent_bridge():
    clock = Clock()
    eta = Eta(clock)
    eta.update(snapshot())
    clock.now += 61
    assert eta.warning() == "No answer from the bridge for 61 s"
    eta.update(snapshot(now=161.0))
    assert eta.warning().endswith("in stage align, for 111 s, no heartbeat for 62 s")
    eta.update(snapshot(now=161.0, in_flight=()))
    assert "none is in flight" in eta.warning()


def test_rate_and_time_left_count_from_the_first_work():
    clock = Clock()
    eta = Eta(clock)
    none = snapshot(in_flight=(), next_seq=0, scenes=Counts(planned=12), pairs=Counts(planned=22), stages=())
    eta.update(none)
    clock.now += 30  # Ray starts
    eta.update(snapshot(next_seq=0, scenes=Counts(planned=12), pairs=Counts(planned=22), stages=()))
    assert (eta.rate(), eta.remaining()) == ("", None)
    clock.now += 60
    counts = Counts(planned=12, collected=3), Counts(planned=22, collected=11)
    eta.update(snapshot(scenes=counts[0], pairs=counts[1], stages=()))
    assert (eta.rate(), eta.remaining()) == ("3 scenes/min", 60)


@pytest.mark.parametrize("width", [40, 60, 65, 66, 80, 100])
def test_the_view_fits_its_terminal_and_shows_every_number(width):
    view = LiveView()
    view.update(
        snapshot(
            scenes=Counts(planned=123456, collected=23456, rejected=1, failed=77),
            loaders=(LoaderReport(consumer="rank-0", scenes=5, crops=320, batches=40, wait_seconds=3.2),),
        )
    )
    text = drawn(view, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert len(text.splitlines()) <= 20
    if width >= 66:
        assert rows(text)["scenes"] == [123456, 23456, 0, 1, 77]
    assert rows(text)["mask"] == [20, 1, 8, 1, 1]
    for word in ("planned", "collected", "filtered") if width >= 66 else ("plan", "coll", "filt"):
        assert word in text.split()


def test_without_colours_the_view_has_the_same_words():
    view = LiveView()
    view.update(snapshot())
    coloured = drawn(view, force_terminal=True, color_system="standard")
    assert "\x1b[32m" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == drawn(view)
    assert not re.search(
        r"\x1b\[3\d", drawn(view, force_terminal=True, no_color=True, color_system="standard")
    )


@given(name=st.text())
def test_a_scene_name_cannot_send_control_characters_to_the_terminal(name):
    clock = Clock()
    view = LiveView(clock=clock)
    view.update(
        snapshot(in_flight=(SceneInFlight(key=name, stage="\x1b[2J", started=0.0, last_heartbeat=99.0),))
    )
    clock.now += 61
    view.update(
        snapshot(
            in_flight=(SceneInFlight(key=name, stage="\x1b[2J", started=0.0, last_heartbeat=160.0),),
            now=161.0,
        )
    )
    text = drawn(view, 100_000)
    assert text.replace("\n", "").isprintable()
    assert printable(name) in text


def test_plain_lines_are_printed_on_a_change_and_ever_less_often():
    clock, stream = Clock(), io.StringIO()
    plain = Plain(stream, clock)
    for second in range(2000):
        clock.now = 1000.0 + second
        plain.update(snapshot(next_seq=second, crops=second))
    said = stream.getvalue().count("Bridge: 3 of 12 scenes")
    assert 50 < said < 120
    plain.update(snapshot(next_seq=1999, crops=1999))
    assert stream.getvalue().count("Bridge: 3 of 12 scenes") == said


def test_plain_lines_do_not_repeat_what_has_not_changed():
    clock, stream = Clock(), io.StringIO()
    plain = Plain(stream, clock)
    for second in range(100):
        clock.now += 1
        stages = tuple(
            StageCounts(
                stage=stage,
                waiting=22 - second % 2,
                running=second % 2,
                done=second // 50,
                rejected=0,
                failed=0,
            )
            for stage in Stage
        )
        plain.update(snapshot(stages=stages, next_seq=second))
    text = stream.getvalue()
    assert text.count("Bridge: 3 of 12 scenes") == 1
    assert text.count("Stages: ") == 2


def test_why_a_fetch_waits_is_told_once():
    stream, now = io.StringIO(), [0.0]
    plain = Plain(stream, clock=lambda: now[0])
    view = LiveView(clock=lambda: now[0])
    for second, stage in enumerate(["fetch", *["fetch: Refused; trying again in 4 s"] * 3, "decode"]):
        now[0] = second / 2
        seen = snapshot(
            in_flight=(SceneInFlight(key="bayer/tea", stage=stage, started=0.0, last_heartbeat=1.0),)
        )
        plain.update(seen)
        view.update(seen)
        assert ("Refused; trying again in 4 s" in drawn(view)) == (": " in stage)
    assert stream.getvalue().count("Fetch: Refused; trying again in 4 s\n") == 1


def test_plain_lines_warn_once_a_minute(sample_set):
    clock, stream = Clock(), io.StringIO()
    plain = Plain(stream, clock)
    index = load_index(sample_set)
    plain.planned(index, make_plan(index.scenes, SceneFilter(), Recipe()), already=3)
    for second in range(200):
        clock.now = 1000.0 + second
        plain.update(snapshot(now=100.0 + second))
    plain.stopping("stopped on request")
    plain.close()
    text = stream.getvalue()
    assert text.startswith("Source: 12 scenes, ")
    assert "3 already collected, 9 to do, 0 left out" in text
    assert text.count("No scene committed for") == 3
    assert text.endswith(
        "Stopping: stopped on request. Finishing the scenes in flight; press Ctrl-C again to stop at once.\n"
    )


def test_auto_is_live_on_a_terminal_only(monkeypatch):
    assert isinstance(choose("none"), Silent)
    assert isinstance(choose("auto"), Plain)
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr("sys.stderr", terminal)
        assert isinstance(choose("auto"), LiveView)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(choose("auto"), Plain)
    os.close(ours)


@pytest.mark.parametrize("everything", [False, True])
def test_harmless_lines_of_ray_are_filtered_from_stderr_unless_everything_is_asked_for(tmp_path, everything):
    with (tmp_path / "stderr").open("w+b") as file:
        descriptor = os.dup(file.fileno())
        between = StderrFilter(descriptor=descriptor, everything=everything)
        before = between.open()
        os.write(descriptor, b"[E 1 1] core_worker.cc:1: Actor with class name: 'MapWorker' has constructor ")
        os.write(descriptor, b"arguments in the object store and max_restarts > 0. If ...\nNode died\n")
        os.write(descriptor, b"[E 1 1] task_manager.cc:1: Failed to push error to driver for task 01\n")
        os.write(descriptor, b"no end")
        between.close()
        between.close()
        assert before.closed
        os.write(descriptor, b"!\n")
        os.close(descriptor)
        file.seek(0)
        lines = file.read().splitlines()
        harmless = [line for line in lines if line.startswith(b"[E 1 1]")]
        assert len(harmless) == 2 * everything
        assert [line for line in lines if line not in harmless] == [b"Node died", b"no end!"]


WRITES_TO_STDERR = """
import os, sys
from rawnind.progress.live_view import LiveView
from rawnind.recipe import Recipe
from rawnind.planning import SceneFilter, make_plan
from rawnind.source.index import load_index
from tests.output.result_maker import make_scene
view = LiveView()
index = load_index(sys.argv[1])
view.planned(index, make_plan(index.scenes, SceneFilter(), Recipe()), already=0)
os.write(2, b"Node died \\x1b[2J\\n")
view.close()
print("after", file=sys.stderr)
"""


def test_what_others_write_to_stderr_stands_above_the_view(sample_set):
    ours, theirs = os.openpty()
    subprocess.run(
        [sys.executable, "-c", WRITES_TO_STDERR, sample_set], check=True, stderr=theirs, timeout=60
    )
    os.close(theirs)
    shown = os.read(ours, 20_000).decode()
    os.close(ours)
    assert "Node died \\x1b[2J\r\n" in shown
    assert shown.index("Node died") < shown.rindex("Starting Ray") < shown.index("after")
    assert shown.index("\x1b[?25l") < shown.index("\x1b[?25h")  # the cursor is back
