"""Whatever dies, the manifest and all shards come out as if nothing had happened. Real processes, killed by their own pid."""

import os
import signal
import threading
import time

import pytest
import yaml

import rawnind
from rawnind.errors import OutputError, ProgramError, SourceLostError, StoppedEarlyError, WorkersDyingError
from rawnind.output.events import read_events
from rawnind.output.status import read_status
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.progress.progress import Silent
from tests.small_set import SCENES


def failed_files(output):
    head = yaml.safe_load((output / "manifest.yaml").read_text())
    return {
        file["file"]: file["reason"] for scene in head["scenes"] for file in scene.get("failed_files", [])
    }


def events(output, event):
    return [each for each in read_events(Store(str(output))) if each["event"] == event]


def test_a_run_survives_a_worker_that_is_killed_and_one_that_stops_in_the_middle_of_a_scene(
    start, faults, photos, tmp_path, is_whole
):
    faults.inject_on_read(photos.find("_cat_", "ISO65535"), "wait")
    faults.inject_on_read(photos.find("_tissue_", "ISO6400"), "freeze")  # no thread of the process runs
    run = start(scene_timeout=8, max_scenes=9)
    os.kill(faults.wait_until_reached(), signal.SIGKILL)
    faults.release()
    run.result()
    assert is_whole(tmp_path / "out")
    commits = events(tmp_path / "out", "commit")
    attempts = {line["scene"]: line["telemetry"].get("attempts") for line in commits}
    assert attempts["bayer/cat"] == attempts["x-trans/tissue"] == 2


def test_a_run_survives_workers_killed_while_they_publish_files(prepare, faults, tmp_path, is_whole):
    places = ("publish-shards", "published-shards", "publish-attempts", "published-attempts")
    for place in places:
        faults.inject(place, "SIGKILL")
    prepare(max_scenes=9)
    assert all(map(faults.triggered, places))
    assert is_whole(tmp_path / "out")


def test_one_worker_begins_the_next_scene_while_the_bridge_commits_the_last_one(prepare, tmp_path, is_whole):
    prepare()
    assert is_whole(tmp_path / "out")
    (ready,) = (line for line in events(tmp_path / "out", "state") if line["to"] == "ready")
    assert ready["peak_in_flight"] == 2


def test_a_run_survives_bridges_killed_while_they_publish_files_and_keeps_its_limit_of_scenes_in_flight(
    prepare, faults, tmp_path, is_whole
):
    places = ("publish-parts", "published-parts", "publish-manifest", "published-manifest")
    for place in places:
        faults.inject(place, "SIGKILL")  # the bridge forgets who is at work
    prepare(max_scenes=1)
    assert all(map(faults.triggered, places))
    assert is_whole(tmp_path / "out")
    commits = events(tmp_path / "out", "commit")
    assert sorted(line["seq"] for line in commits) == list(range(5))  # each commit is one line
    assert max(line["in_flight"] for line in commits) == 1
    assert [line["to"] for line in events(tmp_path / "out", "state")] == ["collecting", "ready", "closed"]


def test_a_photo_that_kills_its_decoder_costs_only_itself(prepare, faults, photos, tmp_path, is_whole):
    killer, hanging = photos.find("_cat_", "ISO1600"), photos.find("_tissue_", "ISO6400")
    faults.inject_on_read(killer, "SIGSEGV", "always")
    faults.inject_on_read(hanging, "hang", "always")
    summary = prepare(scene_timeout=15)  # children that decode start slowly on a busy machine
    output = tmp_path / "out"
    found = failed_files(output)
    assert found[killer.name] == "worker_died"
    assert found[hanging.name] == "timeout"
    assert sorted(found.values()) == ["sha1_mismatch", "timeout", "truncated", "worker_died"]
    assert summary.scenes.collected == 3  # cat has another noisy photo; tissue and moon have not
    assert list(verify(Store(str(output)))) == []
    shown = "\n".join(read_status(Store(str(output))).lines())
    assert all(name in shown for name in (killer.name, hanging.name))
    faults.clear()
    prepare(retry_failed="worker_died")
    assert killer.name not in failed_files(output)
    assert hanging.name in failed_files(output)
    prepare(retry_failed=True)
    assert is_whole(output)


def test_a_bridge_and_workers_that_never_start_end_the_run(prepare, faults):
    faults.inject("bridge", "SIGKILL", "always")
    with pytest.raises(WorkersDyingError, match="the bridge, which commits results, ended 5 times"):
        prepare()
    faults.clear()
    faults.inject("worker", "SIGKILL", "always")
    with pytest.raises(WorkersDyingError, match="workers die before they begin a scene, 5 times in a row"):
        prepare(max_scenes=1)


def test_a_source_or_an_output_that_disappears_fails_no_file(
    start, prepare, faults, photos, small_set, tmp_path, is_whole
):
    output, away = tmp_path / "out", tmp_path / "away"
    faults.inject_on_read(photos.find("_cat_", "GT"), "wait")
    run = start()
    faults.wait_until_reached()
    small_set.rename(away)
    faults.release()
    with pytest.raises(SourceLostError, match="bring it back"):
        run.result()
    away.rename(small_set)
    faults.inject_on_read(photos.find("_cat_", "ISO65535"), "wait")
    run = start()
    faults.wait_until_reached()
    output.rename(away)
    faults.release()
    with pytest.raises(OutputError, match="bring it back"):
        run.result()
    assert not output.exists()
    away.rename(output)
    prepare()
    assert is_whole(output)


def test_a_bug_stops_the_run_at_once_and_is_located(prepare, faults, photos, tmp_path, is_whole):
    faults.inject_on_read(photos.find("_cat_", "ISO1600"), "bug", "always")
    begun = time.monotonic()
    with pytest.raises(ProgramError, match=r"ZeroDivisionError: a bug injected by a test .*sitecustomize"):
        prepare()
    assert time.monotonic() - begun < 60
    assert events(tmp_path / "out", "state")[-1]["to"] == "error"
    faults.clear()
    prepare()
    assert is_whole(tmp_path / "out")


class StopSeen(Silent):
    """Progress that sets an event when the run begins to stop."""

    def __init__(self):
        self.seen = threading.Event()

    def stopping(self, why):
        self.seen.set()


def test_a_run_that_exceeds_its_timeout_stops_cleanly_and_can_be_resumed(
    start, prepare, faults, photos, tmp_path, is_whole
):
    for scene in SCENES:  # any scene may be the first
        faults.inject_on_read(photos.find(f"_{scene}_", "_GT_"), "wait")
    progress = StopSeen()
    run = start(timeout=1, max_scenes=1, progress=progress)
    faults.wait_until_reached()
    assert progress.seen.wait(60)
    faults.release()
    with pytest.raises(StoppedEarlyError, match="--timeout of 1 s is over; run the same command again"):
        run.result()
    done = len(events(tmp_path / "out", "commit"))
    assert 0 < done < 5  # what was in flight is finished
    assert rawnind.status(tmp_path / "out").summary.scenes.open == 5 - done
    assert rawnind.verify(tmp_path / "out") == ()
    faults.clear()
    prepare()
    assert len(events(tmp_path / "out", "commit")) == 5
    assert is_whole(tmp_path / "out")
