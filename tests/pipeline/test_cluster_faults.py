"""A node that crashes, and calls that get lost, each on a Ray of its own in a process of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import rawnind

CRASH = """
import sys, threading
import ray
from ray.cluster_utils import Cluster
import rawnind

source, output, marks = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, namespace="rawnind", log_to_driver=False, logging_level="ERROR")

def crash():
    import pathlib, time
    while not (marks_found := list(pathlib.Path(marks).glob("waiting-*"))):
        time.sleep(0.02)
    pid = int(marks_found[0].name.rsplit("-", 1)[1])
    for node in nodes:
        raylet = node.all_processes["raylet"][0].process.pid
        if pathlib.Path(f"/proc/{pid}/stat").read_text().split()[3] == str(raylet):
            cluster.remove_node(node, allow_graceful=False)
            marks_found[0].unlink()
            print("crashed", flush=True)

thread = threading.Thread(target=crash, daemon=True)
thread.start()
summary = rawnind.prepare(source, output, crop_size=64, stride=96)
thread.join(1)
print(f"\\ncollected: {summary.scenes.collected}", flush=True)
ray.shutdown()
cluster.shutdown()
"""


def test_a_run_survives_the_crash_of_a_node(environment, faults, photos, small_set, tmp_path, is_whole):
    faults.inject_on_read(photos.find("_cat_", "ISO1600"), "wait")
    words = [sys.executable, "-c", CRASH, str(small_set), str(tmp_path / "out"), str(faults.folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "crashed" in done.stdout
    assert "collected: 4" in done.stdout.splitlines()  # Ray may print in between, without ending its line
    assert is_whole(tmp_path / "out")


def test_a_run_survives_lost_and_late_rpcs(environment, small_set, tmp_path, is_whole):
    """Every kind of call that carries a commit, a result or an admission fails a few times, before or after it worked."""
    lost = {"num_failures": 6, "req_failure_prob": 20, "resp_failure_prob": 20, "in_flight_failure_prob": 20}
    calls = (
        "CoreWorkerService.grpc_client.PushTask",
        "CoreWorkerService.grpc_client.ReportGeneratorItemReturns",
    )
    faults = {
        "RAY_testing_rpc_failure": json.dumps(dict.fromkeys(calls, lost)),
        "RAY_testing_asio_delay_us": "CoreWorkerService.grpc_server.PushTask=0:100000",
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
