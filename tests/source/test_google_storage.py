"""Photos and output on Google Cloud Storage, through an emulator of its API."""

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from rawnind.errors import SourceError
from rawnind.output.store import Store
from rawnind.reasons import Reason
from rawnind.source.decode import decode, headers
from rawnind.source.index import load_index
from tests.polling import free_port, poll

PROGRAM = shutil.which("gcp-storage-emulator", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def _answers(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/storage/v1/b/bucket/o", timeout=5).close()
    except urllib.error.URLError:
        return False
    return True


@pytest.fixture
def bucket():
    """URI of a folder in a bucket that anyone may use."""
    if PROGRAM is None:
        pytest.skip("gcp-storage-emulator is not installed")
    port = free_port()
    words = [PROGRAM, "start", "--host=127.0.0.1", f"--port={port}", "--in-memory", "--default-bucket=bucket"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    server = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        poll(lambda: _answers(port))
        yield f"gs://anonymous@bucket/photos?scheme=http&endpoint_override=127.0.0.1%3A{port}"
    finally:
        server.terminate()
        server.wait()


def test_a_google_bucket_has_the_scenes_and_pixels_of_the_folder_and_takes_files(bucket, small_set):
    store = Store(bucket)
    assert "anonymous@bucket" in store.location
    for path in small_set.glob("*_cat_*.dng"):
        store.write(path.name, path.read_bytes())
    with pytest.raises(FileExistsError):
        store.write(path.name, b"other")
    (there,) = load_index(bucket).scenes
    here = next(scene for scene in load_index(small_set).scenes if scene.name == "cat")
    refs = [(far, near) for role in ("ground_truths", "noisy") for far, near in zip(getattr(there, role), getattr(here, role), strict=True)]  # fmt: skip
    for far, near in refs:
        assert far.path.startswith("gs://anonymous@bucket/photos/")
        pixels, sensor = decode(far)
        np.testing.assert_array_equal(pixels, decode(near)[0])
        assert (sensor.height, sensor.width) == (headers(far).height, headers(far).width)
    store.remove(far.filename)
    with pytest.raises(SourceError) as found:
        decode(far, delay=0)
    assert found.value.reason is Reason.MISSING_FILE
    assert sorted(entry.path for entry in store.list()) == sorted(each.filename for each, _ in refs[:-1])
