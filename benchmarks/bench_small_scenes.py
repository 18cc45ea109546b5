"""What a scene costs besides its pixels: on 20,000 scenes whose photos are missing, on 1,000 with tiny photos, and with workers that sleep.

python benchmarks/bench_small_scenes.py SCENES [tiny]        one run of the command, as JSON
python benchmarks/bench_small_scenes.py RATE sleep [ROWS]    workers that sleep instead of processing, RATE scenes a second
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
RATES, SLEEPERS, SECONDS = (10, 100, 1000), 4, 10
"""Scenes a second that sleeping workers ask for, how many workers, and for how long."""

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


def sleep_on(source, output, seconds, rows):
    """`rawnind.prepare` with workers that sleep for some seconds in place of each scene; run it in a process of its own.

    Driver, bridge, journal and the workers' calls are those of every run.

    Args:
        source: the index.
        output: the output folder.
        seconds: of each scene.
        rows: scenes in a block of Ray Data; 0: as many as a run would have.
    """
    import uuid

    import ray

    import rawnind
    from rawnind.bridge.messages import Submission
    from rawnind.outcomes import whole_scene_result
    from rawnind.output.journal.journal import encode_result
    from rawnind.pipeline import graph, worker
    from rawnind.pipeline.bridge_link import BridgeLink
    from rawnind.reasons import Reason

    class Sleeper:
        def __init__(self, assignment):
            self._recipe = assignment.recipe
            self._link = BridgeLink(
                assignment.bridge, (ray.get_runtime_context().get_actor_id(), uuid.uuid4().hex)
            )

        def __call__(self, block):
            for row in block.to_pylist():
                scene = worker._SCENE.validate_json(row["scene"])
                if self._link.admitted(scene.key):
                    time.sleep(seconds)
                    data = encode_result(whole_scene_result(scene, self._recipe, Reason.TIMEOUT))
                    self._link.add(Submission(key=scene.key, data=data))
            self._link.commit()
            return {"scenes": [block.num_rows], "trouble": [""]}

    graph.SceneWorker = Sleeper
    if rows:
        graph.rows_per_block = lambda *_: rows
    ray.init(
        address="local", num_cpus=SLEEPERS, namespace="rawnind", include_dashboard=False, log_to_driver=False
    )
    rawnind.prepare(source, output, max_scenes=32 * SLEEPERS)
    ray.shutdown()


class Watch(threading.Thread):
    """Samples CPU seconds and memory of a command and the processes below it."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.root = psutil.Process(pid)
        self.cpu = defaultdict(float)
        self.peak = defaultdict(int)
        self.history = []
        self.start()

    def run(self):
        while self.root.is_running() and self.root.status() != psutil.STATUS_ZOMBIE:
            with suppress(psutil.Error):
                for process in [self.root, *self.root.children(recursive=True)]:
                    with suppress(psutil.Error):
                        self._sample(process)
            self.history.append((time.time(), self.seconds()))
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

    def between(self, first, last):
        """CPU seconds by kind between two times: without the start and the end of a run."""
        before, after = ([found for when, found in self.history if when <= end][-1] for end in (first, last))
        return {kind: seconds - before.get(kind, 0.0) for kind, seconds in after.items()}


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
        return watched(words, output, count, 0 if tiny else 4)  # nothing is collected where nothing is there


def measure_sleeping(rate, *, rows=0, seconds=SECONDS):
    """Some seconds of sleeping workers: `rate` scenes a second, in blocks of so many rows."""
    count = max(round(rate * seconds), SLEEPERS)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "index.yaml", Path(folder) / "out"
        write_index(source, count)
        call = f"bench_small_scenes.sleep_on({str(source)!r}, {str(output)!r}, {SLEEPERS / rate}, {rows})"
        words = [sys.executable, "-c", f"from benchmarks import bench_small_scenes; {call}"]
        return {"asked_for_per_s": rate, "rows": rows} | watched(words, output, count, 0)


def watched(words, output, count, expected):
    """A process that commits so many scenes: scenes a second, and each kind of process's CPU time and peak of memory."""
    begun = time.perf_counter()
    process = subprocess.Popen(words)
    watch = Watch(process.pid)
    code = process.wait()
    wall = time.perf_counter() - begun
    watch.join()
    assert code == expected, code
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
        "after_start": {
            kind: round(1000 * each / count, 2)
            for kind, each in watch.between(min(times), max(times)).items()
        },
        "peak_MB": {kind: round(peak / 1e6) for kind, peak in watch.peak.items()},
    }


@pytest.mark.ray
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["missing", "tiny", "sleep"])
def test_small_scenes(benchmark, kind):
    if kind == "sleep":
        rates = RATES if benchmark.enabled else (RATES[1],)
        found = [
            benchmark.pedantic(
                measure_sleeping,
                args=(rates[0],),
                kwargs={"seconds": SECONDS if benchmark.enabled else 0.2},
                rounds=1,
            ),
            *(measure_sleeping(rate, rows=rows) for rate in rates[1:] for rows in (1, 0)),
        ]
    elif (
        benchmark.enabled or kind == "tiny"
    ):  # as a plain test, sleeping workers stand for photos that are missing
        count = {"tiny": TINY, "missing": SCENES}[kind] if benchmark.enabled else SMALL
        found = benchmark.pedantic(measure, args=(count,), kwargs={"tiny": kind == "tiny"}, rounds=1)
    else:
        pytest.skip("takes as long as sleeping workers")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    first, *rest = sys.argv[1:]
    if rest[:1] == ["sleep"]:
        print(json.dumps(measure_sleeping(float(first), rows=int(rest[1]) if rest[1:] else 0), indent=2))
    else:
        print(json.dumps(measure(int(first), tiny="tiny" in rest), indent=2))
