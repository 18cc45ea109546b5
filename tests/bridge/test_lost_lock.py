"""Two runs on an object store, one of which was paused until its lease had expired: the late one stops and harms nothing."""

import time
import uuid

import pytest

from rawnind import timing
from rawnind.bridge.bridge import Bridge
from rawnind.errors import OutputError, StoppedEarlyError
from rawnind.outcomes import whole_scene_result
from rawnind.output.events import read_events
from rawnind.output.journal.journal import Journal, encode_result
from rawnind.output.lock import exclusive_run
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Reason
from tests.output.result_maker import RECIPE, commit_one, make_scene
from tests.polling import poll

SCENES = [make_scene(f"s{number}") for number in range(4)]
PLAN = make_plan(SCENES, SceneFilter(), RECIPE)


def result(number, reason=Reason.ALIGNMENT_LOSS):
    return whole_scene_result(SCENES[number], RECIPE, reason)


def commit(bridge, number, reason=Reason.ALIGNMENT_LOSS):
    return commit_one(bridge, SCENES[number].key, encode_result(result(number, reason)))


def bridge_of(store, lock):
    return Bridge(store.uri, lock.run, PLAN, max_scenes=1, lock=lock)


@pytest.fixture
def bucket(s3, monkeypatch):
    """A store whose leases expire at once and are not renewed, as if every run were paused."""
    monkeypatch.setattr(timing, "LOCK_EXPIRY", 0.5)
    store = Store(f"s3://bucket/{uuid.uuid4().hex}?{s3}")
    store.prepare_root()
    return store


def test_a_run_whose_lease_was_taken_over_commits_and_finishes_nothing(bucket):
    with exclusive_run(bucket, "paused") as first:
        late = bridge_of(bucket, first)
        late.begin()
        commit(late, 0)
        time.sleep(1.1)  # the server's clock has whole seconds
        with exclusive_run(bucket, "next") as second:
            bridge = bridge_of(bucket, second)
            assert len(bridge.begin()) == 3
            for attempt in (lambda: commit(late, 1), lambda: late.suspend({})):
                with pytest.raises(StoppedEarlyError, match=r"run next \(process .* took over s3://bucket"):
                    attempt()
            for number in (1, 2, 3):
                commit(bridge, number)
            bridge.finish({})
        with pytest.raises(StoppedEarlyError):
            commit(late, 1)
        late.close()
    assert list(verify(bucket)) == []
    assert bucket.list("locks") == []
    logged = [line["scene"] for line in read_events(bucket) if line["event"] == "commit"]
    assert sorted(logged) == [scene.key for scene in SCENES]


def test_a_part_that_the_late_run_writes_after_its_last_check_contradicts_nothing(bucket):
    with exclusive_run(bucket, "paused") as first:
        late = Journal(bucket, epoch=first.epoch)
        late.append([result(0)])
        time.sleep(1.1)
        with exclusive_run(bucket, "next") as second:
            bridge = bridge_of(bucket, second)
            bridge.begin()
            late.append([result(1, Reason.TIMEOUT), result(2, Reason.TIMEOUT)])
            seqs = [commit(bridge, number) for number in (1, 2)]
            bridge = bridge_of(bucket, second)  # restarted: it reads the late part too
            assert bridge.open_scenes() == [SCENES[3].key]
            late.append([result(3, Reason.TIMEOUT)])
            assert commit(bridge, 3) == seqs[-1] + 1
            bridge.finish({})
    journal = Journal(bucket)
    assert {journal.read(scene.key).reason for scene in SCENES} == {Reason.ALIGNMENT_LOSS}
    assert journal.gaps == []
    assert list(verify(bucket)) == []
    logged = [line["seq"] for line in read_events(bucket) if line["event"] == "commit"]
    assert set(seqs) <= set(logged)


def test_a_missing_part_of_a_run_with_a_lease_is_a_gap(bucket):
    journal = Journal(bucket, epoch=1_700_000_000)
    for number in (0, 1):
        journal.append([result(number)])
    first, _ = bucket.list("parts")
    assert first.path.startswith("parts/1700000000000000-1-")
    bucket.remove(first.path)
    assert Journal(bucket).gaps == [(1_700_000_000_000_000, 1_700_000_000_000_001)]


def test_a_lease_is_lost_where_another_run_came_and_ended_meanwhile(bucket, monkeypatch):
    monkeypatch.setattr(
        timing, "LOCK_RENEWAL", 1.1
    )  # longer than leases hold: as if the process had been stopped
    with exclusive_run(bucket, "paused") as lock:
        poll(lambda: bucket.list("locks") == [])  # the next run need not wait
        with pytest.raises(StoppedEarlyError, match="another run took over"):
            lock.require(bucket)


def test_a_bridge_in_a_folder_that_took_the_place_of_the_runs_takes_no_commit(tmp_path):
    store = Store(str(tmp_path / "out"))
    store.prepare_root()
    with exclusive_run(store, "run") as lock:
        (tmp_path / "out").rename(tmp_path / "renamed")
        (tmp_path / "out").mkdir()
        bridge = bridge_of(store, lock)  # one that starts now sees the new folder alone
        with pytest.raises(OutputError, match="cannot be reached any more"):
            bridge.begin()
        assert list((tmp_path / "out").iterdir()) == []
        (tmp_path / "out").rmdir()
        (tmp_path / "renamed").rename(tmp_path / "out")
        bridge_of(store, lock).begin()
