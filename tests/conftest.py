"""One local Ray and one prepared sample for the whole session, and accidents that happen where a test wants them."""

import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import ray

import rawnind
from rawnind.sample import make_sample

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
def environment(_accidents):
    """Environment of processes that tests start; the session's Ray has it too."""
    path = os.pathsep.join(filter(None, [str(ACCIDENTS), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "RAWNIND_ACCIDENTS": str(_accidents.folder)}


@pytest.fixture(scope="session")
def cluster(environment):
    """The session's Ray; its address."""
    folder = tempfile.mkdtemp(prefix="rn-", dir="/tmp")  # noqa: S108 - a socket's path must be short
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PYTHONPATH", "RAWNIND_ACCIDENTS"):
            patch.setenv(name, environment[name])
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
