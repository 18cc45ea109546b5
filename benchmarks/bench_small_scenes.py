"""What a scene costs besides its pixels: `rawnind prepare` on 20,000 scenes whose photos are missing, and on 1,000 with tiny photos.

python benchmarks/bench_small_scenes.py SCENES [tiny]     one run of the command, as JSON
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rawnind.sample import make_sample

SCENES, TINY, SMALL = 20_000, 1_000, 20
KINDS = {"ray::MapWorker": "workers", "ray::Bridge": "bridge", "raylet": "raylet", "gcs_server": "GCS"}


def write_index(path, count):
    """An index of scenes with one ground truth and one noisy photo each, none of which exists."""
    lines = ["Bayer:"]
    for number in range(count):
        name = f"s{number:06d}"
        lines.append(f"  {name}:")
        for kind, gt, sha1 in (("clean_images", "GT_", 2 * number), ("noisy_images", "", 2 * number + 1)):
            lines.append(f"    {kind}:")
            lines.append(
                f"    - {{filename: 'Bayer_{name}_{gt}ISO100_sha1={sha1:040x}.dng', sha1: '{sha1:040x}'}}"
            )
        lines += ["    test_reserve: false", "    unknown_sensor: false"]
    path.write_text("\n".join(lines) + "\n")


def write_photos(folder, count):
    """Scenes of one pair each: the sample's cat, with other bytes behind the end of each file."""
    make_sample(folder / "sample", height=288, width=384)
    (folder / "source").mkdir()
    for kind in ("GT_ISO100", "ISO1600"):
        (photo,) = (folder / "sample").glob(f"*_cat_{kind}_*")
        data = photo.read_bytes()
        for number in range(count):
            text = data + os.urandom(16)
            name = (
                f"Bayer_s{number:06d}_{kind}_sha1={hashlib.sha1(text, usedforsecurity=False).hexdigest()}.dng"
            )
            (folder / "source" / name).write_bytes(text)
    return folder / "source"


class Watch(threading.Thread):
    """Samples CPU seconds and memory of a command and the processes below it."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.root = psutil.Process(pid)
        self.cpu = defaultdict(float)
        self.peak = defaultdict(int)
        self.start()

    def run(self):
        while self.root.is_running() and self.root.status() != psutil.STATUS_ZOMBIE:
            with suppress(psutil.Error):
                for process in [self.root, *self.root.children(recursive=True)]:
                    with suppress(psutil.Error):
                        self._sample(process)
            time.sleep(0.2)

    def _sample(self, process):
        words = process.cmdline()
        name = (
            words[0].rpartition("/")[2] if words and not words[0].startswith("ray::") else "".join(words[:1])
        )
        kind = next((kind for start, kind in KINDS.items() if name.startswith(start)), "other")
        kind = "driver" if process == self.root else kind
        times = process.cpu_times()
        self.cpu[kind, process.pid] = times.user + times.system
        self.peak[kind] = max(self.peak[kind], process.memory_info().rss)

    def seconds(self):
        found = defaultdict(float)
        for (kind, _), seconds in self.cpu.items():
            found[kind] += seconds
        return dict(found)


def measure(count, *, tiny=False):
    """One run of the command: scenes a second, and each kind of process's CPU time and peak of memory."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "index.yaml", Path(folder) / "out"
        if tiny:
            source = write_photos(Path(folder), count)
        else:
            write_index(source, count)
        words = [sys.executable, "-m", "rawnind.cli", "prepare", str(source), "--output", str(output), "--address", "local",
                 "--crop-size", "64", "--stride", "96", "--quiet"]  # fmt: skip
        begun = time.perf_counter()
        process = subprocess.Popen(words)
        watch = Watch(process.pid)
        code = process.wait()
        wall = time.perf_counter() - begun
        watch.join()
        assert code == (0 if tiny else 4), code  # nothing is collected where nothing is there
        lines = map(json.loads, (output / "events.jsonl").read_text().splitlines())
        times = [line["time"] for line in lines if line["event"] == "commit"]
    assert len(times) == count
    commits = max(times) - min(times)
    return {
        "scenes": count,
        "load": os.getloadavg()[0],
        "wall_s": round(wall, 1),
        "scenes_per_s": round(count / wall, 1),
        "first_to_last_commit_s": round(commits, 1),
        "cpu_ms_per_scene": {kind: round(1000 * each / count, 2) for kind, each in watch.seconds().items()},
        "peak_MB": {kind: round(peak / 1e6) for kind, peak in watch.peak.items()},
    }


@pytest.mark.ray
@pytest.mark.parametrize("tiny", [False, True])
def test_small_scenes(benchmark, tiny):
    count = (TINY if tiny else SCENES) if benchmark.enabled else SMALL
    found = benchmark.pedantic(measure, args=(count,), kwargs={"tiny": tiny}, rounds=1)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), tiny="tiny" in sys.argv), indent=2))
