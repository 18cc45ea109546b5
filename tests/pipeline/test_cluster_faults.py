"""Nodes that are added, drained and that crash, and calls that get lost, each on a Ray of its own in a process of its own."""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

import rawnind
from rawnind.output.events import read_events
from rawnind.output.store import Store
from tests.fetch.dataverse_server import DataverseServer
from tests.small_set import SCENES, digests

NODES = """
import os, pathlib, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
import ray
from ray.cluster_utils import Cluster
import rawnind
from rawnind.output.events import read_events
from rawnind.output.store import Store
from rawnind.pipeline.cluster_nodes import Head
from rawnind.pipeline.graph import bridge_name

source, output, marks, log, disks = sys.argv[1:]
marks, disks = pathlib.Path(marks), pathlib.Path(disks)
health = {"health_check_period_ms": 1000}  # a dead node is noticed after five
# Nobody says that there is no autoscaler, so nodes may come.
head_node = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True, "_system_config": health}
cluster = Cluster(initialize_head=True, head_node_args=head_node)
ray.init(address=cluster.address, namespace="rawnind", log_to_driver=False, logging_level="ERROR")
nodes = []
PREEMPTION = 2

def add_node():  # with a temporary folder of its own, as another machine has
    disk = disks / str(len(list(disks.iterdir())))
    disk.mkdir()
    return cluster.add_node(num_cpus=1, env_vars={"TMPDIR": str(disk)})

def happened(what):
    with open(log, "a") as file:  # Ray prints between lines
        file.write(what + "\\n")

def waiting():  # the mark of each worker that waits, by its node
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
    found = {}
    for mark in marks.glob("waiting-*"):
        try:
            parent = pathlib.Path("/proc", mark.name.rsplit("-", 1)[1], "stat").read_text().split()[3]
            found[raylets[int(parent)]] = mark
        except (FileNotFoundError, KeyError):
            pass  # of the node that crashed
    return found

def until(condition):
    while not condition():
        if run.done():
            run.result()
            sys.exit("the run ended before")
        time.sleep(0.1)

def said(event, text):
    lines = [line for line in read_events(Store(output)) if line["event"] == event]
    return [line for line in lines if text in line.get("text", "") + line.get("scene", "")]

def commits():  # the log of events on an object store has them later
    return len(list(Store(output).list("parts")))

def crash(node):
    mark = waiting()[node]
    cluster.remove_node(node, allow_graceful=False)
    with suppress(ProcessLookupError):  # it may outlive its raylet, and finish the scene; a machine that crashes ends both
        os.kill(int(mark.name.rpartition("-")[2]), signal.SIGKILL)
    mark.unlink()
    (marks / mark.name.removeprefix("waiting-").rpartition("-")[0]).write_text("wait once")

def restarts():
    return ray._private.state.actors(ray.get_actor(bridge_name(output))._actor_id.hex())["NumRestarts"]

run = ThreadPoolExecutor().submit(rawnind.prepare, source, output, crop_size=64, stride=96, max_scenes=9)
until(lambda: said("note", "no node has CPUs"))
(demand,) = Head()().demands
happened(f"a worker asks for {demand['CPU']:g} CPU, and memory: {demand['memory'] > 1e8}")
nodes += [add_node() for _ in range(3)]
until(lambda: len(waiting()) == 3)
happened("every node works")
lost = next(iter(waiting()))
crash(lost)
happened("one crashed")
nodes[nodes.index(lost)] = added = add_node()
until(lambda: added in waiting())
until(lambda: said("note", f"({lost.node_id[:6]}) left the cluster"))
happened("the new one works")
spot = next(node for node in waiting() if node is not added)
deadline = int(1000 * time.time()) + 60_000
assert ray._private.worker.global_worker.gcs_client.drain_node(spot.node_id, PREEMPTION, "spot", deadline)[0]
until(lambda: said("note", "will leave the cluster soon"))
before = commits()
waiting()[spot].unlink()
until(lambda: commits() > before)
happened("the one that leaves finished its scene")
if spot in waiting():
    crash(spot)
else:
    cluster.remove_node(spot, allow_graceful=False)
nodes.remove(spot)
for fault in marks.glob("imread-*"):
    fault.unlink(missing_ok=True)
happened(f"restarts of the bridge: {restarts()}")
while not run.done():
    for mark in marks.glob("waiting-*"):
        mark.unlink()
    time.sleep(0.05)
happened(f"collected: {run.result().scenes.collected}")
ray.shutdown()
cluster.shutdown()
"""

HAPPENED = [
    "a worker asks for 1 CPU, and memory: True",
    "every node works",
    "one crashed",
    "the new one works",
    "the one that leaves finished its scene",
    "restarts of the bridge: 0",
    "collected: 4",
]


def test_nodes_that_are_added_that_crash_and_that_leave_with_notice_change_no_byte_and_fetch_what_they_use_once(
    environment, faults, photos, small_set, s3, tmp_path, undisturbed
):
    """The run begins before the first node is there, grows to three, loses one, gets another one, and one is drained."""
    for scene in SCENES:
        faults.inject_on_read(photos.find(f"_{scene}_GT_"), "wait")
    output, disks = f"s3://bucket/{tmp_path.name}?{s3}", tmp_path / "disks"
    disks.mkdir()
    with DataverseServer(small_set) as server:
        words = [sys.executable, "-c", NODES, server.page, output, faults.folder, tmp_path / "log", disks]
        try:
            done = subprocess.run(
                words, env=environment, capture_output=True, text=True, timeout=240, check=False
            )
        except subprocess.TimeoutExpired:
            events = "\n".join(map(str, list(read_events(Store(output)))[-30:]))
            pytest.fail(f"it waits after:\n{(tmp_path / 'log').read_text()}the last events are:\n{events}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "log").read_text().splitlines() == HAPPENED
    store = Store(output)
    for entry in store.list():
        target = tmp_path / "out" / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.read(entry.path))
    assert digests(tmp_path / "out") == undisturbed
    left = Counter(path.name for path in disks.rglob("*.dng"))  # on the disks of nodes that crashed
    assert left
    assert server.asked == Counter(server.files.values()) + left
    assert 1 <= len(list(disks.glob("*/rawnind-raw-*"))) <= 2


def test_a_run_survives_lost_and_late_rpcs(environment, small_set, tmp_path, is_whole):
    """Every kind of call that carries a commit, a result or an admission fails a few times, before or after it worked."""
    lost = {"num_failures": 4, "req_failure_prob": 20, "resp_failure_prob": 20, "in_flight_failure_prob": 20}
    calls = (
        "CoreWorkerService.grpc_client.PushTask",
        "CoreWorkerService.grpc_client.ReportGeneratorItemReturns",
    )
    faults = {
        "RAY_testing_rpc_failure": json.dumps(dict.fromkeys(calls, lost)),
        "RAY_testing_asio_delay_us": "CoreWorkerService.grpc_server.PushTask=0:20000",
    }
    words = [sys.executable, "-m", "rawnind.cli", "prepare", str(small_set), "--output", str(tmp_path / "out"),
             "--crop-size", "64", "--stride", "96", "--address", "local", "--max-scenes", "9"]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="rn-", dir="/tmp") as logs:  # a socket's path must be short
        done = subprocess.run(
            words, env=environment | faults | {"RAY_TMPDIR": logs}, capture_output=True, text=True, timeout=200,
            check=False,
        )  # fmt: skip
        happened = sum(path.read_bytes().count(b"Inject RPC") for path in Path(logs).rglob("*.log"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert happened > 5
    assert is_whole(tmp_path / "out")
    assert rawnind.prepare(small_set, tmp_path / "out", crop_size=64, stride=96).scenes.collected == 4
