"""Fixtures that many folders use: one Ray and one prepared sample per session, and injected faults."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

import rawnind
from rawnind.output.store import Store
from rawnind.records import Cfa
from rawnind.sample import make_sample
from tests import s3_server
from tests.feed.folder_maker import FolderMaker
from tests.polling import free_port, poll
from tests.small_set import CROPS, SAMPLE_SIZE, copy_small_set, digests, leftovers

# torch's threads spin: two on two busy cores are many times slower than one
os.environ["OMP_NUM_THREADS"] = "1"

FAULTS = Path(__file__).parent / "faults"


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items):
    """Marks what uses the session's Ray, and puts it first: under xdist the long files then start before the short ones."""
    for item in items:
        if "_ray" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


class Faults:
    """Injects faults into worker, bridge and command processes (see faults/sitecustomize.py)."""

    def __init__(self, folder):
        self.folder = folder

    def inject(self, place, action, how_often="once"):
        (self.folder / place).write_text(f"{action} {how_often}")

    def inject_on_read(self, photo, action, how_often="once"):
        """Injects a fault where LibRaw opens this photo."""
        self.inject(f"imread-{hashlib.sha1(photo.read_bytes()).hexdigest()}", action, how_often)

    def clear(self):
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)

    def triggered(self, place):
        return not (self.folder / place).exists()

    def wait_until_reached(self):
        """Blocks until a process waits at a place with the action `wait`; its process id."""
        mark = poll(lambda: next(self.folder.glob("waiting-*"), None))
        return int(mark.name.rsplit("-", 1)[1])

    def release(self):
        """Lets waiting processes continue."""
        for path in self.folder.glob("waiting-*"):
            path.unlink()


@pytest.fixture(scope="session")
def _faults():
    folder = Path(tempfile.mkdtemp(prefix="rawnind-faults-"))
    yield Faults(folder)
    shutil.rmtree(folder)


@pytest.fixture
def faults(_faults):
    yield _faults
    _faults.clear()


@pytest.fixture(scope="session")
def environment(_faults):
    """Environment of processes that tests start: they run with fault injection."""
    path = os.pathsep.join(filter(None, [str(FAULTS), os.environ.get("PYTHONPATH")]))
    return os.environ | s3_server.CREDENTIALS | {"PYTHONPATH": path, "RAWNIND_FAULTS": str(_faults.folder)}


@pytest.fixture(scope="session")
def _ray(environment):
    """The session's Ray in processes of its own, on free ports; the context of the connection to it.

    `ray.init` could start one too, but always has the job agent listen on port 52365, which another Ray may occupy.
    """
    folder = Path(tempfile.mkdtemp(prefix="rn-", dir="/tmp"))  # a socket's path must be short
    words = [
        Path(sys.executable).parent / "ray", "start", "--head", "--block", "--num-cpus=2", "--port=0",
        "--dashboard-port=0", "--dashboard-agent-listen-port=0", f"--ray-client-server-port={free_port()}",
        "--include-dashboard=true", f"--object-store-memory={200 << 20}", f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip
    log = (folder / "start.log").open("w")
    settings = {
        "RAY_AUTH_MODE": "disabled",  # Ray reads a token at import only, which this process has behind it
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # bridges of finished runs would hold it up for 30 s
    }
    head = subprocess.Popen(words, env=environment | settings, stdout=log, stderr=subprocess.STDOUT)

    def started():
        assert head.poll() is None, (folder / "start.log").read_text()
        return (folder / "ray_current_cluster").exists()

    poll(started, timeout=120)
    address = (folder / "ray_current_cluster").read_text()
    yield ray.init(address, namespace="rawnind", log_to_driver=False)
    ray.shutdown()
    head.terminate()
    head.wait(60)
    log.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(_ray):
    """Address of the session's Ray."""
    return _ray.address_info["gcs_address"]


@pytest.fixture(scope="session")
def dashboard(_ray):
    """URL of the dashboard and job server of the session's Ray."""
    return f"http://{_ray.dashboard_url}"


@pytest.fixture(scope="session")
def s3():
    """URI query of a bucket `bucket` on an S3 server of its own."""
    if s3_server.PROGRAM is None:
        pytest.skip("moto_server is not installed: no S3 server to test against")
    with s3_server.s3_server() as port, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.CREDENTIALS.items():
            patch.setenv(name, value)
        yield s3_server.uri_query(port)


@pytest.fixture(scope="session")
def sample_set(tmp_path_factory):
    """The whole sample, small."""
    folder = tmp_path_factory.mktemp("sample") / "pairs"
    make_sample(folder, **SAMPLE_SIZE)
    return folder


@pytest.fixture(scope="session")
def prepared(cluster, sample_set, tmp_path_factory):
    """What `prepare` makes of the whole sample. Read only."""
    output = tmp_path_factory.mktemp("prepared") / "out"
    rawnind.prepare(sample_set, output, **CROPS, max_scenes=64)  # two workers
    return output


@pytest.fixture
def small_set(sample_set, tmp_path):
    """Five scenes of the sample, to be damaged at will."""
    return copy_small_set(sample_set, tmp_path / "small")


class Photos:
    """Finds a photo of a set by what its name says."""

    def __init__(self, folder):
        self.folder = folder

    def find(self, *parts):
        (path,) = (path for path in self.folder.glob("*.dng") if all(part in path.name for part in parts))
        return path


@pytest.fixture
def photos(small_set):
    return Photos(small_set)


@pytest.fixture(scope="session")
def undisturbed_output(cluster, sample_set, tmp_path_factory):
    """What an undisturbed run makes of the five scenes. Read only."""
    source = copy_small_set(sample_set, tmp_path_factory.mktemp("undisturbed") / "small")
    output = source.parent / "out"
    rawnind.prepare(source, output, **CROPS)
    assert leftovers(output) == []
    return output


@pytest.fixture(scope="session")
def undisturbed(undisturbed_output):
    """Digests of what an undisturbed run makes of the five scenes."""
    return digests(undisturbed_output)


@pytest.fixture
def finished(undisturbed_output, tmp_path):
    """A copy of what an undisturbed run makes of the small set, as if it had been made of this one."""
    return shutil.copytree(undisturbed_output, tmp_path / "out")


@pytest.fixture
def is_whole(undisturbed):
    """Says whether an output folder is what an undisturbed run makes of the five scenes, and nothing else."""

    def is_whole(output):
        return digests(output) == undisturbed and leftovers(output) == []

    return is_whole


@pytest.fixture
def start(cluster, small_set, tmp_path):
    """Starts `prepare` in the background; its future. Few small scenes have one worker, unless `max_scenes` says how many."""
    with ThreadPoolExecutor(1) as pool:

        def start(source=small_set, output=tmp_path / "out", **options):
            return pool.submit(rawnind.prepare, source, output, **CROPS | options)

        yield start


@pytest.fixture
def prepare(start):
    """Runs `prepare`; its summary."""
    return lambda *args, **options: start(*args, **options).result()


@pytest.fixture
def store(tmp_path):
    """An output folder in which nothing is yet."""
    return Store(str(tmp_path / "out"))


@pytest.fixture
def maker(tmp_path):
    return FolderMaker(tmp_path / "out")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Six Bayer scenes, one X-Trans, one of the test reserve."""
    maker = FolderMaker(tmp_path_factory.mktemp("data") / "out")
    for number in range(6):
        maker.scene(f"scene{number}", crops=5)
    maker.scene("tree", cfa=Cfa.X_TRANS, crops=3).scene("secret", test=True, crops=2)
    maker.finish()
    return maker
