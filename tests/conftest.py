"""One local Ray and one prepared sample for the whole session, and accidents that happen where a test wants them."""

import hashlib
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

import rawnind
from rawnind.records import Cfa
from rawnind.sample import make_sample
from tests.feed.made import FolderMaker

ACCIDENTS = Path(__file__).parent / "accidents"
SIZE = {"crop_size": 64, "stride": 96}
"""Recipe of every test run: few small crops."""


class Accidents:
    """Plants accidents for worker, bridge and command processes (see accidents/sitecustomize.py)."""

    def __init__(self, folder):
        self.folder = folder

    def plant(self, place, action, how_often="once"):
        (self.folder / place).write_text(f"{action} {how_often}")

    def plant_at(self, photo, action, how_often="once"):
        self.plant(f"imread-{hashlib.sha1(photo.read_bytes()).hexdigest()}", action, how_often)

    def remove(self):
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)

    def happened(self, place):
        return not (self.folder / place).exists()

    def waiting(self, timeout=60):
        """Waits until a process waits at a planted place; its pid."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for path in self.folder.glob("waiting-*"):
                return int(path.name.rsplit("-", 1)[1])
            time.sleep(0.01)
        raise TimeoutError(f"nobody came by in {timeout} s")

    def go_on(self):
        for path in self.folder.glob("waiting-*"):
            path.unlink()


@pytest.fixture(scope="session")
def _accidents():
    folder = Path(tempfile.mkdtemp(prefix="rawnind-accidents-"))
    yield Accidents(folder)
    shutil.rmtree(folder)


@pytest.fixture
def accidents(_accidents):
    yield _accidents
    _accidents.remove()


@pytest.fixture(scope="session")
def _settings(_accidents):
    path = os.pathsep.join(filter(None, [str(ACCIDENTS), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "RAWNIND_ACCIDENTS": str(_accidents.folder)}


@pytest.fixture
def environment(_settings):
    """Environment of processes that tests start, with what `ray.init` has put there (its token)."""
    return os.environ | _settings


@pytest.fixture(scope="session")
def cluster(_settings):
    """The session's Ray; its address."""
    folder = tempfile.mkdtemp(prefix="rn-", dir="/tmp")  # a socket's path must be short
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _settings.items():
            patch.setenv(name, value)
        context = ray.init(
            address="local",
            num_cpus=2,
            namespace="rawnind",
            log_to_driver=False,
            include_dashboard=True,  # the job server
            dashboard_port=0,
            object_store_memory=200 << 20,
            _temp_dir=folder,
        )
    yield context.address_info["gcs_address"]
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sample_set(tmp_path_factory):
    """The whole sample, small."""
    folder = tmp_path_factory.mktemp("sample") / "pairs"
    make_sample(folder, height=288, width=384)
    return folder


@pytest.fixture(scope="session")
def prepared(cluster, sample_set, tmp_path_factory):
    """What `prepare` makes of the whole sample. Read only."""
    output = tmp_path_factory.mktemp("prepared") / "out"
    rawnind.prepare(sample_set, output, **SIZE)
    return output


SMALL = ("cameraman", "cat", "coins", "moon", "tissue")
"""Five scenes: test reserve, a clean one, one with a damaged noisy photo, one that fails, and an X-Trans one."""


@pytest.fixture
def small_set(sample_set, tmp_path):
    """Five scenes of the sample, to be damaged at will."""
    return _copy_small(sample_set, tmp_path / "small")


def _copy_small(sample_set, folder):
    folder.mkdir()
    for path in sample_set.glob("*.dng"):
        if any(f"_{scene}_" in path.name for scene in SMALL):
            shutil.copy2(path, folder)
    return folder


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


def digests(output):
    """SHA-256 of everything that must not depend on what happened on the way."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(output).rglob("*"))
        if path.is_file() and (path.suffix == ".parquet" and path.parent.name != "parts")
    }


@pytest.fixture(scope="session")
def undisturbed(cluster, sample_set, tmp_path_factory):
    """Digests of what an undisturbed run makes of the five scenes."""
    source = _copy_small(sample_set, tmp_path_factory.mktemp("undisturbed") / "small")
    output = source.parent / "out"
    rawnind.prepare(source, output, **SIZE)
    assert leftovers(output) == []
    return digests(output)


def leftovers(output):
    """Files and folders that a finished run must not leave behind."""
    known = {"manifest.parquet", "pairs.parquet", "manifest.yaml", "recipe.yaml", "events.jsonl"}
    found = [path for path in Path(output).rglob("*") if path.name.startswith(".tmp-")]
    found += [path for path in Path(output).iterdir() if path.name not in known | {"shards", "parts"}]
    return found


@pytest.fixture
def is_whole(undisturbed):
    """Says whether an output folder is what an undisturbed run makes of the five scenes, and nothing else."""

    def is_whole(output):
        return digests(output) == undisturbed and leftovers(output) == []

    return is_whole


@pytest.fixture
def start(cluster, small_set, tmp_path):
    """Starts `prepare` in the background; its future."""
    with ThreadPoolExecutor(1) as pool:

        def start(source=small_set, output=tmp_path / "out", **options):
            return pool.submit(rawnind.prepare, source, output, **SIZE | options)

        yield start


@pytest.fixture
def prepare(start):
    """Runs `prepare`; its summary."""
    return lambda *args, **options: start(*args, **options).result()


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
