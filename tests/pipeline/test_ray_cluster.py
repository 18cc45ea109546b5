"""Connecting to a cluster, and starting Ray here: what a worker imports, who can connect, and what is refused at once."""

import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import rawnind
from rawnind import timing
from rawnind.errors import CodeMismatchError, ConfigError
from rawnind.exit_codes import ExitCode
from rawnind.installation import this_installation
from rawnind.options import Options
from rawnind.pipeline.calls import BridgeCalls, RayWatch
from rawnind.pipeline.graph import start_bridge
from rawnind.pipeline.job import Job
from rawnind.pipeline.ray_cluster import cluster_address, connect
from rawnind.planning import SceneFilter, make_plan
from rawnind.recipe import Recipe
from rawnind.source.index import load_index
from tests.polling import free_port


@pytest.fixture
def local_run(environment, small_set, tmp_path):
    """Starts `rawnind prepare` with a Ray of its own, in a folder."""
    started = []

    def local_run(*options, folder=tmp_path, **variables):
        words = [sys.executable, "-P", "-m", "rawnind.cli", "prepare", small_set, "--output", tmp_path / "out",
                 "--crop-size", "64", "--stride", "96", "--address", "local", *options]  # fmt: skip
        process = subprocess.Popen(
            words, cwd=folder, env=environment | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        started.append(process)
        return process

    yield local_run
    for process in started:
        process.kill()
        process.communicate()


def listeners(process):
    """Addresses at which a process and its descendants accept connections."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return {
        each.laddr.ip
        for member in family
        for each in member.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }


def test_a_local_run_imports_nothing_from_its_folder_listens_on_loopback_and_is_resumed_after_its_driver_was_killed(
    local_run, faults, photos, tmp_path, is_whole
):
    folder = tmp_path / "current"
    (folder / "rawnind").mkdir(parents=True)
    for name in ("yaml.py", "rawpy.py", "numba.py", "ray.py", "rawnind/__init__.py"):
        (folder / name).write_text("raise SystemExit('imported from the current folder')")
    faults.inject_on_read(photos.find("_cat_", "ISO1600"), "wait")
    process = local_run(folder=folder)
    faults.wait_until_reached()
    assert listeners(process) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    family = psutil.Process(process.pid).children(recursive=True)
    unused = (
        "ray-dashboard",
        "dashboard/dashboard.py",
        "monitor.py",
        "StatsActor",
        "AutoscalingCoordinator",
        "LocationTracker",
    )
    commands = [" ".join([child.name(), *child.cmdline()]) for child in family]
    assert not [words for words in commands if any(name in words for name in unused)]
    process.kill()
    faults.clear()
    again = local_run(folder=folder)
    _, said = again.communicate(timeout=120)
    assert again.returncode == ExitCode.COMPLETE, said
    assert is_whole(tmp_path / "out")
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


def test_workers_that_no_node_can_run_are_refused_at_once(prepare):
    begun = time.monotonic()
    with pytest.raises(ConfigError, match="--cpus-per-scene 3: the largest of 1 has 2 CPUs"):
        prepare(cpus_per_scene=3)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * 90, "the path of its sockets is too long: set RAY_TMPDIR"),
        ("file", "Set RAY_TMPDIR to a folder"),
    ],
)
def test_a_ray_that_does_not_start_is_one_sentence_with_the_remedy(local_run, tmp_path, name, says):
    (tmp_path / "file").write_text("")
    (tmp_path / ("x" * 90)).mkdir()
    process = local_run("--progress", "none", RAY_TMPDIR=str(tmp_path / name))
    _, said = process.communicate(timeout=60)
    assert (process.returncode, len(said.splitlines())) == (ExitCode.USAGE, 1), said
    assert says in said


def test_a_dead_cluster_is_given_up_soon(monkeypatch):
    monkeypatch.setattr(timing, "CONNECT", 1.0)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=f"no process answers at {address}"):
        connect(address, address)


def test_a_server_that_is_no_cluster_is_given_up_soon(monkeypatch):
    monkeypatch.setattr(timing, "CONNECT", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot connect to a Ray cluster at {address} within 3 s"):
            connect(address, address)


def test_a_text_that_is_no_address_of_a_head_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="nonsense is not a Ray cluster: Invalid address format"):
        cluster_address("nonsense")
    with pytest.raises(
        ConfigError, match=r"ray://head:10001 is the address of Ray Client, .* `ray job submit`"
    ):
        cluster_address("ray://head:10001")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")  # for `ray job submit`
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:8265 is the address of a job server"):
        cluster_address(None)


def test_a_run_whose_ray_ends_can_be_resumed_and_leaves_no_process(
    local_run, faults, photos, tmp_path, prepare, is_whole
):
    for name in ("raylet", "gcs_server"):
        faults.inject_on_read(photos.find("_cat_", "ISO1600"), "wait")
        process = local_run()
        faults.wait_until_reached()
        family = psutil.Process(process.pid).children(recursive=True)
        next(child for child in family if child.name() == name).kill()
        _, said = process.communicate(timeout=60)
        assert process.returncode == ExitCode.STOPPED, said
        last = said.splitlines()[-1]
        assert last.startswith("rawnind: Ray's ")
        assert last.endswith("run the same command again to resume.")
        assert "Traceback" not in said
        _, alive = psutil.wait_procs(family, timeout=60)  # Ray's agents look for their parent now and then
        assert not alive
        faults.clear()
    prepare()
    assert is_whole(tmp_path / "out")


OTHER_CLONE = """
import sys
import ray
import rawnind
from rawnind.errors import CodeMismatchError

source, output, address = sys.argv[1:]
ray.init(address, namespace="rawnind", log_to_driver=False)  # workers import from the current folder first
try:
    rawnind.prepare(source, output, crop_size=64, stride=96)
except CodeMismatchError as error:
    print(error)
"""


def test_workers_that_import_another_clone_stop_the_run(cluster, environment, small_set, tmp_path):
    here = Path(rawnind.__file__).parent
    shutil.copytree(here, tmp_path / "clone" / "rawnind")
    (tmp_path / "clone" / "rawnind" / "more.py").write_text("")
    words = [sys.executable, "-P", "-c", OTHER_CLONE, small_set, tmp_path / "out", cluster]
    done = subprocess.run(
        words, cwd=tmp_path / "clone", env=environment, capture_output=True, text=True, timeout=100, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{tmp_path}/clone/rawnind on" in done.stdout
    assert f"this command runs, {here} on" in done.stdout
    assert not list((tmp_path / "out").rglob("shards/**/*.parquet"))


def test_a_bridge_that_imports_other_code_does_not_start(cluster, sample_set, tmp_path):
    plan = make_plan(load_index(sample_set).scenes, SceneFilter(), Recipe())
    other = replace(this_installation(), digest="0" * 64)
    job = Job(
        output=str(tmp_path / "out"), run="r", root=str(sample_set), plan=plan, options=Options(), installation=other
    )  # fmt: skip
    bridge = BridgeCalls(start_bridge(job, max_scenes=1), RayWatch())
    with pytest.raises(CodeMismatchError, match="other code"):
        bridge("begin")
