"""One pair without decoding: CPU ms per stage, memory, growth with megapixels, and one fused operator against several.

`make bench` prints the tables; as a plain test, a small pair must give the same shard twice. Every measurement runs in its
own process, so that peak memory is that of the measurement.
"""

import ctypes
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from rawnind.imaging import coordinates, crops, exposure, gains, levels, pair, prepared
from rawnind.imaging.crops import AlignedPair
from rawnind.imaging.pair import FinishedPair, align_pair, finish_pair
from rawnind.imaging.photo import Photo
from rawnind.imaging.prepared import Prepared
from rawnind.output.shards import CropPixels, write_shard
from rawnind.output.store import Store
from rawnind.pipeline.malloc import keep_freed_memory
from rawnind.recipe import Recipe
from rawnind.records import Cfa, Sensor

OLD_PIPELINE_SECONDS = (26, 34)  # what the Trio pipeline needed for such a pair
MATRIX = (0.7, 0.1, 0.0, -0.3, 1.1, 0.2, 0.0, 0.1, 0.6)
STAGES = {
    "planes": [(levels, "planes")],
    "align": [(prepared, "extract_features"), (pair, "align")],
    "GT warped to planes": [(pair, "warped_planes")],
    "exposure, hot pixels": [
        (exposure, "overexposed"),
        (exposure, "underexposed"),
        (prepared, "hot_pixels"),
    ],
    "gain, loss": [(gains, "measured_gain"), (gains, "alignment_loss")],
    "mask: moments": [(pair, "pair_statistics")],
    "mask: noise, tests": [(pair, "detect_change"), (pair, "combine"), (pair, "valid")],
    "MS-SSIM": [(pair, "windowed_ms_ssim"), (pair, "frame_mean"), (crops, "crop_means")],
    "noise of the photo": [(prepared, "photo_noise")],
    "noise beside the GT": [(pair, "pair_noise")],
    "GT warped to crops": [(pair, "warped_rgb")],
    "crop grid": [(coordinates, "grid"), (coordinates, "valid_fractions")],
    "demosaic GT (once a scene)": [(prepared, "demosaic")],
}


def photos(megapixels: float, cfa: Cfa = Cfa.BAYER) -> tuple[Photo, Photo]:
    """A GT and a noisy photo of fractal noise, shifted by (3, -5), at gain 1.25."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5) // 12 * 12
    width = height * 3 // 2 // 12 * 12
    rng = np.random.default_rng(0)
    light = np.zeros((height + 16, width + 16), np.float32)
    for octave in (4, 16, 64, 256):
        small = rng.random((-(-light.shape[0] // octave) + 1, -(-light.shape[1] // octave) + 1), np.float32)
        light += cv2.resize(small, light.shape[::-1], interpolation=cv2.INTER_CUBIC) * octave**0.5
    light = 0.05 + 0.5 * (light - light.min()) / np.ptp(light)
    sensor = Sensor(cfa=cfa, origin=(0, 0), height=height, width=width,
                    black_level=(512.0,) * len(cfa.plane_colors), white_level=16383.0, overexposure_lb=1.0,
                    rgb_xyz_matrix=MATRIX, camera="synthetic")  # fmt: skip
    taken = []
    for (top, left), gain, electrons in (((8, 8), 1.0, 50_000), ((11, 3), 0.8, 1_500)):
        level = light[top : top + height, left : left + width] * np.float32(gain)
        level = level + rng.standard_normal(level.shape, np.float32) * np.sqrt(level / electrons)
        taken.append(
            Photo(mosaic=np.rint(512 + level * 15871).clip(0, 16383).astype(np.uint16), sensor=sensor)
        )
    return taken[0], taken[1]


def rows(finished: FinishedPair, size: int):
    """The finished pair's crops as input of `write_shard`."""
    for number, (_, noisy_raw, gt_raw, gt_rgb, valid) in enumerate(finished.pixels(Recipe(crop_size=size))):
        yield CropPixels(crop_id=str(number), noisy_raw=noisy_raw, gt_raw=gt_raw, gt_rgb=gt_rgb, valid=valid)


def one_pair(truth: Prepared, photo: Photo, store: Store, recipe: Recipe, name: str) -> str:
    """The chain for one noisy photo; the shard's SHA-256."""
    aligned = align_pair(truth, Prepared(photo), recipe)
    assert isinstance(aligned, AlignedPair), aligned
    finished = finish_pair(aligned, recipe)
    assert isinstance(finished, FinishedPair), finished
    return write_shard(
        store, f"shards/{name}.parquet", rows(finished, recipe.crop_size), recipe.crop_size
    ).sha256


class Stopwatch:
    """CPU milliseconds of named functions, which it wraps in the modules that call them."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        for stage, functions in STAGES.items():
            for module, name in functions:
                setattr(module, name, self._timed(getattr(module, name), stage))

    def _timed(self, function, stage):
        def timed(*args, **kwargs):
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[stage] += (time.thread_time() - start) * 1e3

        return timed


def measure(megapixels: float, threads: int) -> dict:
    """CPU and wall seconds, CPU ms by stage and memory of one pair, in a warm process; run it in a child process.

    One round of pairs warms up: the first access to new memory costs several times as much. Of the three rounds after it, the
    one with the median CPU time counts. The GT is decoded and prepared before. Files are replaced, so that no round writes
    to new pages of the file system's cache. The peak is that of all four rounds, without the generation of the photos.

    Args:
        megapixels: size of each photo.
        threads: pairs at once, of one scene.
    """
    keep_freed_memory()
    cv2.setNumThreads(1)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        small = photos(1.5)
        one_pair(Prepared(small[0]), small[1], store, Recipe(), "warm")  # compiles
        truth_photo, noisy = photos(megapixels)
        ctypes.CDLL(None).malloc_trim(0)  # frees what generating the photos used, which decoding does not
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        base = memory("VmRSS")
        truth = Prepared(truth_photo)
        _ = truth.features, truth.overexposed, truth.underexposed, truth.hot, truth.rgb
        once = {stage: spent for stage, spent in watch.spent.items() if "once" in stage}
        rounds = [_round(truth, noisy, store, watch, threads) for _ in range(4)][1:]
    median = sorted(rounds, key=lambda each: each["cpu"])[1]
    return {
        **median,
        "stages": {**median["stages"], **once},
        "megapixels": noisy.mosaic.size / 1e6,
        "peak": memory("VmHWM"),
        "base": base,
    }


def _round(truth: Prepared, noisy: Photo, store: Store, watch: Stopwatch, threads: int) -> dict:
    """Seconds of CPU and wall, and CPU ms by stage, per pair.

    Args:
        truth: the prepared GT.
        noisy: the noisy photo.
        store: receives the shards.
        watch: wraps the stages.
        threads: pairs at once.
    """
    watch.spent.clear()
    jobs = [
        threading.Thread(target=one_pair, args=(truth, noisy, store, Recipe(), f"pair{number}"))
        for number in range(1, threads)
    ]
    cpu, wall = time.process_time(), time.perf_counter()
    for job in jobs:
        job.start()
    one_pair(truth, noisy, store, Recipe(), "pair0")
    for job in jobs:
        job.join()
    cpu, wall = (time.process_time() - cpu) / threads, (time.perf_counter() - wall) / threads
    spent = {stage: watch.spent[stage] / threads for stage in STAGES if "once" not in stage}
    return {
        "cpu": cpu,
        "wall": wall,
        "stages": {**spent, "cut, colour, write": cpu * 1e3 - sum(spent.values())},
    }


def memory(kind: str) -> float:
    """This process's resident memory in MB: VmRSS now, VmHWM at its highest."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(kind))) / 1024


def measure_ray(megapixels: float, pairs: int, *, fused: bool) -> dict:
    """The same pairs through Ray Data: one fused worker, or one operator per step with the pixels between them."""
    import psutil
    import ray

    ray.init(
        address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR", object_store_memory=4 << 30
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory() as folder:
        graph = _graph(folder, megapixels, pairs, fused=fused)
        peak, stop = [0.0], threading.Event()

        def watch() -> None:
            while not stop.wait(0.1):
                peak[0] = max(peak[0], _tree(psutil)[1])

        thread = threading.Thread(target=watch)
        thread.start()
        wall = time.perf_counter()
        digests = sorted(row["sha256"] for row in graph.iter_rows())
        wall = time.perf_counter() - wall
        cpu = _tree(psutil)[0]
        stop.set()
        thread.join()
    ray.shutdown()
    return {"wall": wall / pairs, "cpu": cpu / pairs, "peak": peak[0] / 2**20, "digest": digests[0]}


def _tree(psutil) -> tuple[float, float]:
    """CPU seconds and memory (without what processes share, plus the object store) of Ray's worker processes."""
    cpu = memory = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray::" in " ".join(process.cmdline()):
                times, info = process.cpu_times(), process.memory_full_info()
                cpu, memory = cpu + times.user + times.system, memory + info.pss
        except psutil.Error:
            continue
    return cpu, memory


def _graph(folder: str, megapixels: float, pairs: int, *, fused: bool):
    import ray
    from ray.data import ActorPoolStrategy

    recipe, scene = Recipe(), {}

    def take() -> tuple[Photo, Photo]:
        if "photos" not in scene:
            scene["photos"] = photos(megapixels)
        return scene["photos"]

    def decode(row):
        truth, noisy = take()
        return {**row, "truth": truth.mosaic, "noisy": noisy.mosaic}

    def align(row):
        sensor = take()[0].sensor
        truth, noisy = (Prepared(Photo(mosaic=row[name], sensor=sensor)) for name in ("truth", "noisy"))
        aligned = align_pair(truth, noisy, recipe)
        # `finish_pair` computes the planes faster than Ray copies them
        return {"id": row["id"], "aligned": aligned if fused else replace(aligned, planes=[])}

    def finish(row):
        return {"id": row["id"], "finished": finish_pair(row["aligned"], recipe)}

    def write(row):
        shard = write_shard(Store(folder), f"shards/{row['id']}.parquet", rows(row["finished"], 512), 512)
        return {"sha256": shard.sha256}

    class Fused:
        def __call__(self, row):
            return write(finish(align(decode(row))))

    items = ray.data.from_items([{"id": number} for number in range(pairs)], override_num_blocks=pairs)
    if fused:
        return items.map(Fused, compute=ActorPoolStrategy(min_size=1, max_size=2))
    graph = items
    for number, step in enumerate((decode, align, finish, write)):
        graph = graph.map(step, num_cpus=1 + number / 1e4)  # unequal requests keep Ray from fusing them
    return graph


def in_child(call: str) -> dict:
    """Runs `call` in a fresh process and returns what it measured."""
    code = f"import json; from benchmarks.bench_pair import *; print('RESULT', json.dumps({call}))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert found, done.stderr[-2000:]
    return json.loads(found[-1].removeprefix("RESULT "))


def test_every_stage_names_functions_that_are_there():
    assert all(callable(getattr(module, name)) for stage in STAGES.values() for module, name in stage)


def test_a_shard_depends_on_the_pair_alone(tmp_path):
    truth, noisy = photos(1.5)
    digests = {one_pair(Prepared(truth), noisy, Store(str(tmp_path)), Recipe(), name) for name in "ab"}
    assert len(digests) == 1
    assert hashlib.sha256((tmp_path / "shards/a.parquet").read_bytes()).hexdigest() in digests


@pytest.mark.timeout(1200)
def test_whole_pair(benchmark):
    if benchmark.disabled:
        pytest.skip("a table for `make bench`")
    one, two = benchmark.pedantic(lambda: [in_child(f"measure(24, {n})") for n in (1, 2)], rounds=1)
    print(f"\nOne pair of {one['megapixels']:.1f} MP, Bayer, decoding left out; CPU ms a pair")
    print(f"{'stage':<28}{'1 thread':>10}{'2 threads':>11}")
    for stage, spent in one["stages"].items():
        print(f"{stage:<28}{spent:>10.0f}{two['stages'][stage]:>11.0f}")
    for name, unit, factor in (("cpu", "CPU ms", 1e3), ("wall", "wall ms", 1e3), ("peak", "peak MB", 1)):
        print(f"{unit:<28}{one[name] * factor:>10.0f}{two[name] * factor:>11.0f}")
    low, high = OLD_PIPELINE_SECONDS
    print(
        f"The Trio pipeline took {low} to {high} CPU s: {low / one['cpu']:.0f} to {high / one['cpu']:.0f} times as many"
    )


@pytest.mark.timeout(1200)
def test_growth(benchmark):
    if benchmark.disabled:
        pytest.skip("a table for `make bench`")
    sizes = (6, 12, 24, 48, 100)
    found = benchmark.pedantic(lambda: [in_child(f"measure({size}, 1)") for size in sizes], rounds=1)
    print(f"\n{'MP':>6}{'CPU ms':>9}{'CPU ms/MP':>11}{'peak MB':>9}{'bytes/site over base':>22}")
    for each in found:
        mp = each["megapixels"]
        above = (each["peak"] - each["base"]) * 2**20 / (mp * 1e6)
        print(
            f"{mp:>6.1f}{each['cpu'] * 1e3:>9.0f}{each['cpu'] * 1e3 / mp:>11.1f}{each['peak']:>9.0f}{above:>22.1f}"
        )


@pytest.mark.timeout(1200)
def test_fused_against_separate_operators(benchmark):
    if benchmark.disabled:
        pytest.skip("a table for `make bench`")
    calls = [f"measure_ray(24, 6, fused={fused})" for fused in (True, False)]
    fused, separate = benchmark.pedantic(lambda: [in_child(call) for call in calls], rounds=1)
    assert fused["digest"] == separate["digest"]
    print(f"\n6 pairs of 24 MP through Ray Data, 2 CPUs{'':<6}{'fused':>8}{'separate':>10}{'ratio':>8}")
    for name, unit in (
        ("cpu", "CPU s a pair"),
        ("wall", "wall s a pair"),
        ("peak", "peak MB of all workers"),
    ):
        print(f"{unit:<47}{fused[name]:>8.2f}{separate[name]:>10.2f}{separate[name] / fused[name]:>8.1f}")
