"""Peak memory of one scene, beside what `rawnind.memory` says: with one ground truth, and with more than are kept. Memory of its
stages in a worker that has processed others before, and what measuring it costs.

`make bench` prints the tables; as plain tests, a small scene must stay below the estimate, and its stages below its peak.
"""

import ctypes
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.bench_pair import MATRIX, memory, photos
from rawnind.bridge.stages import Stage
from rawnind.imaging.photo import Photo
from rawnind.memory import PROCESS_BYTES, worker_bytes
from rawnind.output.store import Store
from rawnind.pipeline.malloc import keep_freed_memory
from rawnind.pipeline.scene import Meter, process_scene
from rawnind.pipeline.touched_memory import MOST_TIME, TouchedMemory
from rawnind.reasons import Outcome
from rawnind.recipe import Recipe
from rawnind.records import Cfa, ImageRef, Scene
from rawnind.sample.dng import encode_dng
from rawnind.source.decode import decode


def measure(megapixels: float, cfa: str, truths: int) -> dict:
    """Peak memory of a scene with two noisy photos, in bytes; run it in a child process.

    Args:
        megapixels: size of each photo.
        cfa: `bayer` or `x-trans`.
        truths: number of ground truths.
    """
    keep_freed_memory()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        scene, sites = write_scene(Path(folder), megapixels, Cfa(cfa), truths)
        ctypes.CDLL(None).malloc_trim(0)  # frees what writing the photos used
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        base = memory("VmRSS")
        result = process_scene(
            scene,
            Recipe(),
            Store(folder),
            meter=Meter(),
            read=lambda ref: Photo.from_visible(*decode(ref)),
        )
    assert result.outcome is Outcome.COLLECTED, result
    return {"peak": memory("VmHWM") * 2**20, "base": base * 2**20, "sites": sites}


def measure_stages(megapixels: float, cfa: str, scenes: int) -> dict:
    """Memory of the stages of scenes with two pairs in one process, and CPU seconds with and without measuring; run it in a child process.

    Args:
        megapixels: size of each photo.
        cfa: `bayer` or `x-trans`.
        scenes: how many are measured; as many others are not, in turn, after one that compiles.
    """
    keep_freed_memory()
    cv2.setNumThreads(1)
    memory, found, seconds = TouchedMemory(), [], ([], [])
    with tempfile.TemporaryDirectory() as folder:
        scene, _ = write_scene(Path(folder), megapixels, Cfa(cfa), 1)
        for number in range(2 * scenes + 1):
            meter = Meter(memory=memory if number % 2 else None)
            start = time.process_time()
            process_scene(
                scene,
                Recipe(),
                Store(f"{folder}/{number}"),
                meter=meter,
                read=lambda ref: Photo.from_visible(*decode(ref)),
            )
            seconds[number % 2].append(time.process_time() - start)
            shutil.rmtree(f"{folder}/{number}")
            found.append(meter.done())
    return {
        "telemetry": found[1::2], "without": seconds[0][1:], "with": seconds[1], "spent": memory.spent / scenes,
    }  # fmt: skip


def write_scene(folder: Path, megapixels: float, cfa: Cfa, truths: int) -> tuple[Scene, int]:
    """Writes a scene; the photos of a kind differ in a few sites."""
    taken = photos(megapixels, cfa)
    refs: list[ImageRef] = []
    for number in range(truths + 2):
        is_truth = number < truths
        mosaic = taken[0 if is_truth else 1].mosaic.copy()
        mosaic[0, number] += 1
        path = folder / f"{number}.dng"
        data = encode_dng(mosaic, pattern=np.array(cfa.tile), black_level=(512,), white_level=16383, iso=100,
                          make="SONY", model="ILCE-7C", color_matrix=MATRIX, as_shot_neutral=(0.5, 1, 0.7))  # fmt: skip
        path.write_bytes(data)
        sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        refs.append(ImageRef(cfa=cfa, scene="s", ground_truth=is_truth, iso=100, sha1=sha1, filename=path.name,
                             path=str(path)))  # fmt: skip
    ordered = sorted(refs, key=lambda ref: ref.sha1)
    scene = Scene(
        name="s",
        cfa=cfa,
        test_reserve=False,
        unknown_sensor=False,
        ground_truths=tuple(ref for ref in ordered if ref.ground_truth),
        noisy=tuple(ref for ref in ordered if not ref.ground_truth),
    )
    return scene, mosaic.size


def in_child(call: str, module: str = "bench_scene") -> Any:
    """Runs `call` in a fresh process, with the names of a module of this folder, and returns what it measured."""
    code = f"import json; from benchmarks.{module} import *; print('RESULT', json.dumps({call}))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert found, done.stderr[-2000:]
    return json.loads(found[-1].removeprefix("RESULT "))


def test_a_scene_needs_no_more_memory_than_estimated():
    found = in_child("measure(4, 'bayer', 5)")
    assert found["base"] < found["peak"] <= worker_bytes(found["sites"], 5)


def test_stages_use_less_than_the_process_has():
    (found,) = in_child("measure_stages(4, 'bayer', 1)")["telemetry"]
    for stage in Stage:
        assert 0 < found[f"{stage}_memory_bytes"] < found["peak_memory_bytes"]


@pytest.mark.timeout(1800)
def test_stage_memory(benchmark):
    if benchmark.disabled:
        pytest.skip("a table for `make bench`")
    found = benchmark.pedantic(
        lambda: {str(cfa): in_child(f"measure_stages(24, {str(cfa)!r}, 10)") for cfa in Cfa}, rounds=1
    )
    print(f"\n24 megapixels, MB  {'process':>16}" + "".join(f"{stage:>16}" for stage in Stage))
    for cfa, each in found.items():
        row = f"{cfa:<19}"
        for name in ("peak", *Stage):
            sizes = [telemetry[f"{name}_memory_bytes"] / 1e6 for telemetry in each["telemetry"]]
            row += f"{f'{min(sizes):.0f} to {max(sizes):.0f}':>16}"
        print(row)
        measured, plain = (statistics.median(each[kind]) for kind in ("with", "without"))
        every = each["spent"] / (MOST_TIME * plain)  # see TouchedMemory.is_due
        print(
            f"CPU s a scene, median: {measured:.2f} measured, {plain:.2f} not; marking and adding up {each['spent']:.3f} s; so a worker "
            f"measures every {every:.0f}th scene, for {(measured / plain - 1) / every:.2%} of its CPU time"
        )


@pytest.mark.timeout(1800)
def test_scene_memory(benchmark):
    if benchmark.disabled:
        pytest.skip("a table for `make bench`")
    cases = [(cfa, truths) for cfa in Cfa for truths in (1, 2, 4, 8)]
    found = benchmark.pedantic(
        lambda: [in_child(f"measure(20, {str(cfa)!r}, {truths})") for cfa, truths in cases], rounds=1
    )
    print(
        f"\n20 megapixels{'ground truths':>16}{'peak MB':>9}{'estimate':>10}{'bytes/site':>12}{'estimate':>10}"
    )
    for (cfa, truths), each in zip(cases, found, strict=True):
        estimate, sites = worker_bytes(each["sites"], truths), each["sites"]
        above, expected = (each["peak"] - each["base"]) / sites, (estimate - PROCESS_BYTES) / sites
        print(
            f"{cfa:<13}{truths:>16}{each['peak'] / 1e6:>9.0f}{estimate / 1e6:>10.0f}{above:>12.1f}{expected:>10.1f}"
        )
        assert each["peak"] <= estimate
