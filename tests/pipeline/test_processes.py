"""The command as a process: killed, interrupted, started twice."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rawnind.errors import FolderInUseError
from rawnind.output.events import read_events
from rawnind.output.lock import exclusive_run
from rawnind.output.store import Store


@pytest.fixture
def command(cluster, environment, small_set, tmp_path):
    """Starts `rawnind prepare` on the session's Ray; a Ray of its own with `address=None`."""
    started = []

    def command(*options, address=cluster):
        words = [sys.executable, "-m", "rawnind.cli", "prepare", str(small_set), "--output", str(tmp_path / "out"),
                 "--crop-size", "64", "--stride", "96", *options]  # fmt: skip
        if address:
            words += ["--address", address]
        process = subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield command
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for_line(process, text):
    """Reads the command's messages up to the line that contains `text`."""
    return next(line for line in process.stderr if text in line)


def commits(output):
    return [line["scene"] for line in read_events(Store(str(output))) if line["event"] == "commit"]


def test_the_same_command_resumes_after_its_driver_was_killed(command, faults, photos, tmp_path, is_whole):
    faults.inject_on_read(photos.find("_tissue_", "ISO6400"), "wait")
    process = command()
    faults.wait_until_reached()
    process.kill()
    faults.clear()
    again = command()  # the bridge of the first has the name of the second's
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert sorted(commits(tmp_path / "out")) == sorted(set(commits(tmp_path / "out")))
    assert is_whole(tmp_path / "out")


def test_a_signal_lets_scenes_in_flight_finish_and_a_second_one_stops_at_once(
    command, faults, photos, tmp_path, is_whole, prepare
):
    faults.inject_on_read(photos.find("_cat_", "ISO1600"), "wait")
    process = command("--max-scenes", "1")
    faults.wait_until_reached()
    process.send_signal(signal.SIGTERM)
    wait_for_line(process, "Stopping")
    faults.release()
    said = process.stderr.read()
    assert process.wait(60) == 3, said
    assert "run the same command again to resume" in said
    done = commits(tmp_path / "out")
    assert "bayer/cat" in done  # it was in flight
    assert len(done) < 5  # and few others were begun
    faults.inject_on_read(photos.find("_tissue_", "ISO6400"), "wait")
    process = command("--max-scenes", "1")
    faults.wait_until_reached()
    process.send_signal(signal.SIGINT)
    wait_for_line(process, "Stopping")
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    said = process.stderr.read()
    assert process.wait(60) == 3, said
    assert time.monotonic() - begun < 20
    assert "x-trans/tissue" not in commits(tmp_path / "out")
    faults.clear()
    prepare()
    assert is_whole(tmp_path / "out")


def test_a_second_run_is_refused_with_the_name_of_the_first(
    start, command, faults, photos, tmp_path, is_whole
):
    faults.inject_on_read(photos.find("_cat_", "ISO1600"), "wait")
    run = start()
    faults.wait_until_reached()
    first = json.loads((tmp_path / "out" / "run.lock").read_text())
    second = command(address=None)  # it never comes to need a Ray
    _, said = second.communicate(timeout=60)
    assert second.returncode == 2
    assert f"is in use by run {first['run']} (process {os.getpid()} on {first['host']}" in said
    faults.release()
    run.result()
    assert is_whole(tmp_path / "out")


def test_the_lock_of_a_dead_run_does_not_block(tmp_path):
    (tmp_path / "run.lock").write_text('{"run": "old", "host": "here", "pid": 1, "since": 0}')
    with exclusive_run(Store(str(tmp_path)), "new"):
        assert json.loads((tmp_path / "run.lock").read_text())["run"] == "new"
    assert not list(tmp_path.iterdir())


def test_a_lock_is_free_again_after_an_error(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(ZeroDivisionError), exclusive_run(store, "first"):
        1 / 0  # noqa: B018
    with (
        exclusive_run(store, "second"),
        pytest.raises(FolderInUseError, match="run second"),
        exclusive_run(store, "third"),
    ):
        pass


class Bucket(Store):
    """A store that claims to be remote, as object stores are, where there are no file locks."""

    def __init__(self, location):
        super().__init__(location)
        self.is_local = False


def test_an_object_store_is_locked_by_a_lease(tmp_path):
    store = Bucket(str(tmp_path))
    (tmp_path / "locks").mkdir()
    with exclusive_run(store, "b"):
        for other in ("a", "c"):
            with pytest.raises(FolderInUseError, match="run b "), exclusive_run(store, other):
                pass
    stale = tmp_path / "locks" / "dead.json"
    stale.write_text('{"run": "dead", "host": "here", "pid": 1, "since": 0}')
    os.utime(stale, (time.time() - 120, time.time() - 120))
    with exclusive_run(store, "d"):
        assert [path.name for path in (tmp_path / "locks").iterdir()] == ["d.json"]
    assert not list((tmp_path / "locks").iterdir())
