"""The live feed on a real Ray: bridges that die, runs that end, and a whole `prepare` with two consumers."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest
import ray
import torch
from ray.util.state import list_actors

from rawnind.bridge.bridge import Bridge
from rawnind.bridge.leases import LeaseLog, leased_crops
from rawnind.bridge.messages import Submission
from rawnind.output.events import read_events
from rawnind.output.journal.journal import encode_result
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.pipeline.graph import NAMESPACE, bridge_name
from rawnind.planning import SceneFilter, make_plan
from rawnind.training import FeedError, LiveCropDataset, replay
from tests.polling import poll

pytestmark = pytest.mark.ray

BATCH = {"batch_size": 4, "crop_size": 32, "validation_share": 0.0, "max_wait": 20}


class Served:
    """A bridge actor whose scenes the test commits by hand."""

    def __init__(self, maker):
        self.results = {result.scene.key: result for result in maker.results}
        self.plan = make_plan([result.scene for result in maker.results], SceneFilter(), maker.recipe)
        self.where = maker.store.location
        actor = ray.remote(Bridge).options(
            name=bridge_name(self.where),
            namespace=NAMESPACE,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
        )
        self.bridge = actor.remote(self.where, "run", self.plan, max_scenes=9)
        ray.get(self.bridge.begin.remote())

    def commit(self, key):
        ray.get(self.bridge.commit.remote([Submission(key=key, data=encode_result(self.results[key]))]))

    def end(self):
        for key in ray.get(self.bridge.open_scenes.remote()):
            self.commit(key)
        ray.get(self.bridge.finish.remote({}))
        ray.get(self.bridge.close.remote())
        ray.kill(self.bridge)


@pytest.fixture
def served(cluster, maker):
    for number in range(3):
        maker.scene(f"scene{number}", crops=6)
    served = Served(maker.scene("secret", test=True, crops=4))
    yield served
    ray.kill(served.bridge)


def kill_actor(cluster, **what):
    """Kills the process of the first living actor of which that is true."""
    filters = [("state", "=", "ALIVE"), *((key, "=", value) for key, value in what.items())]
    os.kill(list_actors(address=cluster, filters=filters)[0].pid, signal.SIGKILL)


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_continues_while_the_bridge_restarts_and_after_the_run_has_ended(cluster, served, workers):
    live = LiveCropDataset(served.bridge, feed=f"f{workers}", consumer="me", workers=workers, **BATCH)
    batches = iter(live)
    served.commit("bayer/scene0")
    asked = time.monotonic()
    got = [next(batches)]
    assert time.monotonic() - asked < 2
    kill_actor(cluster, name=bridge_name(served.where))
    threading.Thread(target=served.commit, args=["bayer/scene1"]).start()
    got += [next(batches), next(batches)]
    ended = threading.Thread(target=served.end)
    ended.start()
    got += list(batches)
    ended.join()
    assert [len(batch["x_crops"]) for batch in got] == [4, 4, 4, 4, 2]
    assert (live.crops, live.batches, live.position) == (18, 5, 18)
    again = list(replay(served.where, feed=f"f{workers}", consumer="me", **BATCH))
    assert len(again) == 5
    assert all(same(one, other) for one, other in zip(got, again, strict=True))
    first = list(replay(served.where, feed=f"f{workers}", sequence=2, **BATCH))
    assert sum(len(batch["x_crops"]) for batch in first) == 12


def test_a_training_resumes_from_its_checkpoint(served):
    served.commit("bayer/scene0")
    served.commit("bayer/scene1")
    first = LiveCropDataset(served.where, consumer="me", **BATCH)
    batches = iter(first)
    seen = [next(batches), next(batches)]
    state = json.loads(json.dumps(first.state_dict()))
    assert state["position"] == 4  # the second batch is not done with before the third is asked for
    next(batches)
    batches.close()
    second = LiveCropDataset(bridge_name(served.where), consumer="me", **BATCH)
    second.load_state_dict(state)
    batches = iter(second)
    seen = [seen[0], next(batches)]
    served.end()
    seen += batches
    assert sum(len(batch["x_crops"]) for batch in seen) == 18
    assert all(same(*pair) for pair in zip(seen, replay(served.where, consumer="me", **BATCH), strict=True))


@pytest.mark.parametrize("alive", [True, False])
def test_an_error_of_the_run_is_raised_with_its_reason(served, alive):
    live = LiveCropDataset(served.bridge, consumer="me", **BATCH)
    batches = iter(live)
    served.commit("bayer/scene0")
    next(batches)
    ray.get(served.bridge.fail.remote("OutputError: the disk is full"))
    if not alive:
        ray.kill(served.bridge)
    with pytest.raises(FeedError, match="the run failed: OutputError: the disk is full"):
        list(batches)


def test_the_error_after_max_wait_names_the_oldest_scene_in_flight(served):
    ray.get(served.bridge.admit.remote("bayer/scene2"))
    ray.get(served.bridge.heartbeat.remote("bayer/scene2", "align"))
    live = LiveCropDataset(served.bridge, **{**BATCH, "max_wait": 0.3})
    with pytest.raises(
        FeedError, match=r"the oldest scene in flight is bayer/scene2, for \d+ s, in stage align"
    ):
        next(iter(live))


def test_the_live_feed_reports_to_the_bridge(served):
    served.commit("bayer/scene0")
    batches = iter(LiveCropDataset(served.bridge, consumer="me", **BATCH))
    next(batches)
    batches.close()
    (report,) = ray.get(served.bridge.snapshot.remote()).loaders
    assert (report.consumer, report.scenes, report.crops, report.batches) == ("me", 1, 4, 1)
    assert 0 < report.wait_seconds < 20


CONSUMER = """
import hashlib, json, sys, time
from rawnind.training import LiveCropDataset
out, name, address = sys.argv[1:]
live = LiveCropDataset(out, consumer=name, address=address, batch_size=2, crop_size=64, validation_share=0.0, max_wait=100)
print("ready", flush=True)
for batch in live:
    digest = hashlib.sha256(batch["y_crops"].numpy().tobytes()).hexdigest()
    print(json.dumps([time.time(), len(batch["y_crops"]), digest]), flush=True)
    time.sleep(0.05)
"""


@pytest.fixture
def start(cluster, environment):
    """Starts a Python process, which is ended with the test."""
    started = []

    def start(*words):
        process = subprocess.Popen(
            [sys.executable, *words], env=environment, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_two_consumers_share_an_epoch_while_a_worker_and_the_bridge_are_killed(
    cluster, start, sample_set, tmp_path
):
    out = tmp_path / "out"
    consumers = [start("-c", CONSUMER, str(out), name, cluster) for name in "ab"]
    for consumer in consumers:
        assert consumer.stdout.readline() == "ready\n"
    run = start(
        "-m", "rawnind.cli", "prepare", str(sample_set), "--output", str(out), "--crop-size", "64", "--stride", "96",
        "--max-scenes", "1", "--address", cluster, "--progress", "none",
    )  # fmt: skip
    _wait_for_commits(out, 4)
    _kill_a_worker(cluster)
    _wait_for_commits(out, 6)
    kill_actor(cluster, name=bridge_name(str(out)))
    assert run.wait(120) == 0
    said = [consumer.communicate(timeout=60)[0] for consumer in consumers]
    assert [consumer.returncode for consumer in consumers] == [0, 0]
    batches = [[json.loads(line) for line in text.splitlines()] for text in said]
    _nothing_lost_or_twice(out, batches)
    _same_as_replay(out, batches)
    assert list(verify(Store(str(out)))) == []
    assert min(part[0][0] for part in batches) < _last_commit(out)  # training began while the run went on


def _nothing_lost_or_twice(out, batches):
    leased = [crop.crop_id for crop in leased_crops(LeaseLog(Store(str(out)), "train"))]
    rows = pq.read_table(out / "manifest.parquet", columns=["crop_id", "test_reserve", "cfa"]).to_pylist()
    open_rows = [row for row in rows if not row["test_reserve"]]
    assert Counter(leased) == Counter(row["crop_id"] for row in open_rows)
    got = sum(count for part in batches for _, count, _ in part)
    assert got == sum(row["cfa"] == "bayer" for row in open_rows) > 0
    assert len({digest for part in batches for *_, digest in part}) == sum(map(len, batches))


def _kill_a_worker(cluster):
    actors = list_actors(address=cluster, filters=[("state", "=", "ALIVE")])
    workers = [actor for actor in actors if "SceneWorker" in actor.class_name]
    os.kill(workers[0].pid, signal.SIGKILL)


def _wait_for_commits(out, count):
    poll(lambda: len(list(out.glob("parts/0*"))) >= count, timeout=100)


def _last_commit(out):
    return max(event["time"] for event in read_events(Store(str(out))) if event["event"] == "commit")


def _same_as_replay(out, batches):
    for name, part in zip("ab", batches, strict=True):
        again = replay(out, consumer=name, batch_size=2, crop_size=64, validation_share=0.0)
        digests = [hashlib.sha256(batch["y_crops"].numpy().tobytes()).hexdigest() for batch in again]
        assert digests == [digest for *_, digest in part]
