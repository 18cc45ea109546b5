"""1,000,000 scene results through the bridge's actor: commits per second, memory per scene, restart time, manifest.

No scene has pixels: each has one noisy photo, and was rejected or failed. They are committed in batches, almost in the
planned order, as by a run. `make bench` prints the table, for a local folder and for an S3 server on this
machine (moto, which answers a small request in some 5 ms); as a plain test, some thousand scenes go the same way.

python benchmarks/bench_bridge.py SCENES OUTPUT      one run in this process, as JSON; OUTPUT `s3`: on such a server
"""

import contextlib
import gc
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from rawnind.outcomes import scene_result, uncollected_pair, whole_scene_result
from rawnind.output.journal.journal import Journal, encode_result
from rawnind.output.store import Store
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Reason
from rawnind.recipe import Recipe
from rawnind.records import Cfa, FailedFile, ImageRef, Scene

SCENES, SMALL = 1_000_000, 3_000
BATCH = 31  # bridge_link.MOST_HELD
NAME, SHA1 = "scene0000000", "0" * 40


def make_scene(name, digest):
    photo = ImageRef(cfa=Cfa.BAYER, scene=name, ground_truth=False, iso=3200, sha1=digest,
                     filename=f"{name}.dng", path=f"/photos/{name}.dng")  # fmt: skip
    return Scene(name=name, cfa=Cfa.BAYER, test_reserve=False, unknown_sensor=False, ground_truths=(), noisy=(photo,))  # fmt: skip


def names(count):
    for number in range(count):
        name = f"scene{number:07d}"
        yield name, hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()


def templates(recipe):
    """Encoded results of a rejected and a failed scene; the scene's name and the photo's hash are to be replaced."""
    scene = make_scene(NAME, SHA1)
    broken = FailedFile(photo=scene.noisy[0], reason=Reason.MISSING_FILE, detail=f"{NAME}.dng is not there")
    failed = scene_result(
        scene, recipe, [uncollected_pair(scene.noisy[0], None, Reason.MISSING_FILE, broken.detail)], [broken]
    )
    return [
        encode_result(result)
        for result in (whole_scene_result(scene, recipe, Reason.NO_GROUND_TRUTH), failed)
    ]


def batches(count, recipe):
    """Submissions in batches, each hundred scenes in a random order."""
    from rawnind.bridge.messages import Submission

    rng, kinds, batch = np.random.default_rng(0), templates(recipe), []
    known = list(names(count))
    for start in range(0, count, 100):
        for number in rng.permutation(min(100, count - start)) + start:
            name, digest = known[number]
            data = (
                kinds[int(number % 7 == 0)]
                .replace(NAME.encode(), name.encode())
                .replace(SHA1.encode(), digest.encode())
            )
            batch.append(
                Submission(key=f"bayer/{name}", data=data, telemetry={"read_bytes": 1}, inputs=bytes(16))
            )
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def memory(field):
    """Memory of this process in MB, from /proc: VmRSS, RssAnon or VmHWM."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) / 1024


def call_in_actor(bridge, function, *values):
    """The value of a function in the actor's process."""
    import ray

    return ray.get(bridge.__ray_call__.remote(lambda _, *arguments: function(*arguments), *values))


def cpu_seconds(pid):
    """CPU seconds of a process so far, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def kill_and_restart(bridge):
    """Seconds from the kill of the actor's process to the first answer of the next, its CPU seconds by then, and the answer."""
    import ray

    before = call_in_actor(bridge, os.getpid)
    seconds, snapshot = clocked(
        lambda: (os.kill(before, signal.SIGKILL), ray.get(bridge.snapshot.remote()))[1]
    )
    assert call_in_actor(bridge, os.getpid) != before
    return seconds, call_in_actor(bridge, time.process_time), snapshot


def settled_memory():
    gc.collect()
    return memory("RssAnon")


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")


def clocked(call):
    wall = time.perf_counter()
    answer = call()
    return time.perf_counter() - wall, answer


def measure(count, output, server=None):
    import ray

    from rawnind.options import Options
    from rawnind.pipeline.graph import NAMESPACE, start_bridge
    from rawnind.pipeline.job import Job

    found, before = {"scenes": count}, memory("RssAnon")
    recipe = Recipe()
    found["plan_s"], plan = clocked(
        lambda: make_plan([make_scene(*each) for each in names(count)], SceneFilter(), recipe)
    )
    found["plan_B_per_scene"] = (settled_memory() - before) * 2**20 / count
    Store(output).prepare_root()
    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    job = Job(output=output, run="run", root="/photos", plan=plan, options=Options(recipe=recipe))
    found["empty_start_s"], bridge = clocked(lambda: start_bridge(job, max_scenes=1000))
    ray.get(bridge.begin.remote())
    start = call_in_actor(bridge, settled_memory)
    found["bridge_before_MB"] = start
    load = os.getloadavg()[0]
    pids = {"bridge": call_in_actor(bridge, os.getpid), "driver": os.getpid(), "server": server}
    cpu = {name: cpu_seconds(pid) for name, pid in pids.items() if pid}
    wall = time.perf_counter()
    pending = []
    for batch in batches(count, recipe):
        pending.append(bridge.commit.remote(batch))
        if len(pending) == 3:
            ray.get(pending.pop(0))
    ray.get(pending)
    found["commits_per_s"] = count / (time.perf_counter() - wall)
    found |= {f"{name}_cpu_s": cpu_seconds(pids[name]) - before for name, before in cpu.items()}
    found["load"] = (load + os.getloadavg()[0]) / 2
    found["bridge_B_per_scene"] = (call_in_actor(bridge, settled_memory) - start) * 2**20 / count
    found["commit_peak_MB"] = call_in_actor(bridge, memory, "VmHWM")
    found["parts"] = len(Store(output).list("parts"))
    found["restart_s"], found["restart_cpu_s"], snapshot = kill_and_restart(bridge)
    assert snapshot.scenes.open == 0
    assert snapshot.scenes.failed == -(-count // 7)
    found["restarted_MB"] = call_in_actor(bridge, settled_memory)
    call_in_actor(bridge, reset_peak)
    found["manifest_s"], summary = clocked(lambda: ray.get(bridge.finish.remote({})))
    found["manifest_peak_MB"] = call_in_actor(bridge, memory, "VmHWM") - found["restarted_MB"]
    assert summary.scenes.rejected + summary.scenes.failed == summary.pairs.planned == count
    ray.get(bridge.close.remote())
    ray.kill(bridge)
    found["journal_s"], journal = clocked(lambda: Journal(Store(output)))
    assert len(journal.latest) == count
    ray.shutdown()
    return found


def moto():
    return shutil.which("moto_server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@contextlib.contextmanager
def s3_server():
    """Starts an S3 server: URI of a bucket, and the server's process id; the keys are put into the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with subprocess.Popen([moto(), "-p", str(port)], env=environment, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as server:  # fmt: skip
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
            for _ in range(100):
                with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(request, timeout=5):  # noqa: S310
                    break
                time.sleep(0.1)
            os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
                           "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
            query = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
            yield f"s3://bucket/out?{query}", server.pid
        finally:
            server.terminate()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_million_scenes(benchmark, tmp_path, where):
    if where == "s3" and moto() is None:
        pytest.skip("moto_server is not installed: no S3 server to measure against")
    count = SMALL if benchmark.disabled else SCENES
    call = [sys.executable, __file__, str(count), where if where == "s3" else str(tmp_path / "out")]
    done = benchmark.pedantic(
        subprocess.run, (call,), {"check": True, "stdout": subprocess.PIPE, "text": True}, rounds=1
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{where}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()))
    if not benchmark.disabled:
        assert found["commits_per_s"] >= 2000
        assert found["bridge_B_per_scene"] < 200
        assert found["restart_s"] < 20


def main(scenes, output):
    server = s3_server() if output == "s3" else contextlib.nullcontext((output, None))
    with server as (location, process):
        print(json.dumps(measure(int(scenes), location, process)))


if __name__ == "__main__":
    main(*sys.argv[1:])
