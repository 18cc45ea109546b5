"""Nodes that crash and are added, and calls that get lost, each on a Ray of its own in a process of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import rawnind
from tests.small_set import SCENES

NODES = """
import pathlib, sys, time
from concurrent.futures import ThreadPoolExecutor
import ray
from ray.cluster_utils import Cluster
import rawnind

source, output, marks = sys.argv[1:]
marks = pathlib.Path(marks)
health = {"health_check_period_ms": 1000}  # a dead node is noticed after five
cluster = Cluster(
    initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": health}
)
nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
ray.init(address=cluster.address, namespace="rawnind", log_to_driver=False, logging_level="ERROR")

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
        time.sleep(0.02)

run = ThreadPoolExecutor().submit(rawnind.prepare, source, output, crop_size=64, stride=96)
until(lambda: len(waiting()) == 3)
print("every node works", flush=True)
lost, mark = next(iter(waiting().items()))
cluster.remove_node(lost, allow_graceful=False)
mark.unlink()
print("one crashed", flush=True)
(marks / mark.name.removeprefix("waiting-").rpartition("-")[0]).write_text("wait once")
nodes[nodes.index(lost)] = added = cluster.add_node(num_cpus=1)
until(lambda: added in waiting())
print("the new one works", flush=True)
for fault in marks.glob("imread-*"):
    fault.unlink(missing_ok=True)
while not run.done():
    for mark in marks.glob("waiting-*"):
        mark.unlink()
    time.sleep(0.05)
print(f"\\ncollected: {run.result().scenes.collected}", flush=True)
ray.shutdown()
cluster.shutdown()
"""


def test_every_node_works_and_one_that_crashes_and_one_that_is_added_change_no_byte(
    environment, faults, photos, small_set, tmp_path, is_whole
):
    for scene in SCENES:
        faults.inject_on_read(photos.find(f"_{scene}_GT_"), "wait")
    words = [sys.executable, "-c", NODES, str(small_set), str(tmp_path / "out"), str(faults.folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()  # Ray may print in between, without ending its line
    happened = ["every node works", "one crashed", "the new one works"]
    assert [line for line in lines if line in happened] == happened
    assert "collected: 4" in lines
    assert is_whole(tmp_path / "out")


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
             "--crop-size", "64", "--stride", "96", "--address", "local"]  # fmt: skip
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
