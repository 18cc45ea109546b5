"""One scene of 48 noisy photos of 1.5 megapixels: `rawnind prepare` with one worker and with two.

python -m benchmarks.bench_large_scene WORKERS     one run of the command, as JSON
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.bench_small_scenes import Watch
from rawnind.sample import make_sample

PHOTOS, HEIGHT, WIDTH = 48, 1000, 1500


def write_scene(folder):
    """A scene whose noisy photos are one of the sample's cat, with other bytes behind its end."""
    make_sample(folder / "sample", height=HEIGHT, width=WIDTH)
    (folder / "source").mkdir()
    for kind, count in (("GT_ISO100", 1), ("ISO65535", PHOTOS)):
        (photo,) = (folder / "sample").glob(f"*_cat_{kind}_*")
        for number in range(count):
            data = photo.read_bytes() + bytes(number)
            sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
            (folder / "source" / f"Bayer_large_{kind}_sha1={sha1}.dng").write_bytes(data)
    return folder / "source"


def measure(workers):
    """One run: its seconds, those from the start of the first worker to the commit, CPU time of all workers and of the one that took
    most, which other load on the machine does not change, and photos decoded."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = write_scene(Path(folder)), Path(folder) / "out"
        words = [sys.executable, "-m", "rawnind.cli", "prepare", str(source), "--output", str(output), "--address", "local",
                 "--crop-size", "256", "--stride", "256", "--max-scenes", str(workers), "--quiet"]  # fmt: skip
        begun = time.perf_counter()
        process = subprocess.Popen(words)
        watch = Watch(process.pid)
        assert process.wait() == 0
        wall = time.perf_counter() - begun
        watch.join()
        events = list(map(json.loads, (output / "events.jsonl").read_text().splitlines()))
    (commit,) = (line for line in events if line["event"] == "commit")
    (begin,) = (line for line in events if line["event"] == "begin")
    assert commit["pairs"]["collected"] == PHOTOS
    return {
        "workers": workers,
        "load": os.getloadavg()[0],
        "wall_s": round(wall, 1),
        "begin_to_commit_s": round(commit["time"] - begin["time"], 1),
        "worker_cpu_s": round(watch.seconds()["workers"], 1),
        "busiest_worker_cpu_s": round(
            max(each for (kind, _), each in watch.cpu.items() if kind == "workers"), 1
        ),
        "photos_decoded": round(commit["telemetry"]["decoded_bytes"] / (2 * HEIGHT * WIDTH)),
    }


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2])
def test_a_large_scene(benchmark, workers):
    if benchmark.disabled:
        pytest.skip("a line for `make bench`")
    print(json.dumps(benchmark.pedantic(measure, args=(workers,), rounds=1), indent=2))


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
