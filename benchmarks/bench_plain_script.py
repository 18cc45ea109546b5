"""Whole pairs, from files to written crops, beside the plain script that a user would write; and `rawnind prepare` beside a loop.

The script decodes with rawpy, finds a whole shift with scikit-image, masks what differs by more than noise, scores all windows with
pytorch-msssim (channels_last, the fastest way to call it) and writes crops as .npz. It undoes no rotation or part of a site, tests
nothing, and hashes nothing. The loop runs `process_scene` in a pool of processes, over the same scenes as `rawnind prepare`.

`make bench` prints CPU seconds a pair, and the wall time of both from the first to the last scene; as a plain test, the script finds
the shift to a site.

RAWNIND_BENCH_SCENES sets how many scenes the loop goes over.
"""

import hashlib
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.bench_msssim import in_best_batches, pytorch_msssim_metric
from benchmarks.bench_scene import in_child, write_scene
from benchmarks.bench_small_scenes import watched
from rawnind.imaging.photo import Photo
from rawnind.output.store import Store
from rawnind.pipeline.malloc import keep_freed_memory
from rawnind.pipeline.scene import Meter, process_scene
from rawnind.reasons import Outcome
from rawnind.recipe import Recipe
from rawnind.records import Cfa, Scene
from rawnind.source.decode import decode
from rawnind.source.index import load_index

SCENES = int(os.environ.get("RAWNIND_BENCH_SCENES", "12"))
CROP = Recipe().crop_size
"""Sites of a crop's side; the script's crops lie side by side."""


def read_planes(path):
    """Visible values, planes in 0..1 (4, H / 2, W / 2), and linear RGB in 16 bits (H, W, 3)."""
    import rawpy

    with rawpy.imread(path) as raw:
        visible = raw.raw_image_visible.copy()
        rgb = raw.postprocess(gamma=(1, 1), no_auto_bright=True, output_bps=16, use_camera_wb=True)
        level = (visible.astype(np.float32) - raw.black_level_per_channel[0]) / raw.white_level
    planes = np.stack([level[y::2, x::2] for y in (0, 1) for x in (0, 1)])
    return visible, planes, rgb


def plain_script(scene: Scene, folder: Path, *, scores: bool = True) -> list[tuple[int, int]]:
    """What a user would write for one scene; the shifts of its noisy photos in sites."""
    from scipy.ndimage import gaussian_filter
    from skimage.registration import phase_cross_correlation

    truth, truth_planes, rgb = read_planes(scene.ground_truths[0].path)
    shifts = []
    for ref in scene.noisy:
        noisy, planes, _ = read_planes(ref.path)
        found, *_ = phase_cross_correlation(truth_planes[1], planes[1])
        dy, dx = (2 * int(each) for each in found)
        shifts.append((dy, dx))
        height, width = (side - abs(shift) for side, shift in zip(noisy.shape, (dy, dx), strict=True))
        here = [slice(max(-shift, 0), max(-shift, 0) + side) for shift, side in ((dy, height), (dx, width))]
        there = [slice(max(shift, 0), max(shift, 0) + side) for shift, side in ((dy, height), (dx, width))]
        half = [tuple(slice(each.start // 2, each.stop // 2) for each in cut) for cut in (here, there)]
        mine, theirs = planes[:, *half[0]], truth_planes[:, *half[1]]
        mine = mine * (theirs.mean() / mine.mean())
        differs = gaussian_filter(np.abs(mine - theirs).mean(axis=0), 3)
        mask = np.kron(differs < 3 * np.median(differs), np.ones((2, 2), bool))
        score = in_best_batches(theirs, mine, pytorch_msssim_metric, "channels_last")[0] if scores else ()
        for top in range(0, height - CROP + 1, CROP):
            for left in range(0, width - CROP + 1, CROP):
                cut = np.s_[top : top + CROP, left : left + CROP]
                np.savez(
                    folder / f"{ref.sha1[:12]}-{top}-{left}.npz", noisy=noisy[*here][cut], gt=truth[*there][cut],
                    rgb=rgb[*there][cut], mask=np.packbits(mask[cut]), score=score,
                )  # fmt: skip
    return shifts


def chain(scene: Scene, folder: Path):
    """The same scene as a worker of `rawnind prepare` processes it."""
    result = process_scene(
        scene, Recipe(), Store(str(folder)), meter=Meter(), read=lambda ref: Photo.from_visible(*decode(ref))
    )
    assert result.outcome is Outcome.COLLECTED, result
    return result


WAYS = {
    "rawnind": chain,
    "plain script": plain_script,
    "without MS-SSIM": lambda scene, folder: plain_script(scene, folder, scores=False),
}


def measure(way: str, megapixels: float, cfa: str) -> float:
    """CPU seconds a pair of one of `WAYS`, after a small scene that loads what it needs; run it in a child process."""
    keep_freed_memory()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        spent = 0.0
        for size in (2, megapixels):
            folder = Path(name) / str(size)
            (folder / "out").mkdir(parents=True)
            scene, _ = write_scene(folder, size, Cfa(cfa), 1)
            spent = time.process_time()
            WAYS[way](scene, folder / "out")
            spent = time.process_time() - spent
    return spent / len(scene.noisy)


def test_the_script_finds_the_shift_to_a_site(tmp_path):
    scene, _ = write_scene(tmp_path, 0.5, Cfa.BAYER, 1)
    for shift in plain_script(scene, tmp_path, scores=False):
        assert np.abs(np.subtract(shift, (3, -5))).max() <= 1  # as bench_pair.photos shifts them
    assert len(list(tmp_path.glob("*.npz"))) == 2


@pytest.mark.timeout(1800)
def test_whole_pairs_beside_the_script(benchmark):
    if benchmark.disabled:
        pytest.skip("a table for `make bench`")
    cases = [("rawnind", Cfa.BAYER), ("rawnind", Cfa.X_TRANS), ("plain script", Cfa.BAYER), ("without MS-SSIM", Cfa.BAYER)]  # fmt: skip
    found = benchmark.pedantic(
        lambda: [in_child(f"measure({way!r}, 24, {str(cfa)!r})", "bench_plain_script") for way, cfa in cases],
        rounds=1,
    )
    print(
        f"\n{'24 MP, uncompressed, 2 pairs of a ground truth':<48}CPU s a pair  load {os.getloadavg()[0]:.0f}"
    )
    for (way, cfa), spent in zip(cases, found, strict=True):
        print(f"{f'{way}, {cfa}':<48}{spent:>12.2f}")


def write_scenes(folder: Path, count: int, megapixels: float) -> Path:
    """A source of scenes with two noisy photos each: the photos of one scene, with other bytes behind their ends."""
    folder.mkdir()
    one, _ = write_scene(folder, megapixels, Cfa.BAYER, 1)
    source = folder / "source"
    source.mkdir()
    for ref in (*one.ground_truths, *one.noisy):
        data, kind = Path(ref.path).read_bytes(), "GT_ISO100" if ref.ground_truth else "ISO1600"
        for number in range(count):
            text = data + number.to_bytes(8, "little")
            sha1 = hashlib.sha1(text, usedforsecurity=False).hexdigest()
            (source / f"Bayer_s{number:04d}_{kind}_sha1={sha1}.dng").write_bytes(text)
    return source


def loop(source: Path, folder: Path, workers: int) -> tuple[list[float], float]:
    """When each scene was done, in a pool of processes that have imported everything; and CPU seconds a scene."""
    times, spent = [], []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for call in as_completed(
            [pool.submit(_loop_scene, scene, folder) for scene in load_index(source).scenes]
        ):
            spent.append(call.result())
            times.append(time.time())
    return times, sum(sorted(spent)[:-workers]) / (len(spent) - workers)  # without the first of each process


def _loop_scene(scene: Scene, folder: Path) -> float:
    keep_freed_memory()
    cv2.setNumThreads(1)
    began = time.process_time()
    chain(scene, folder)
    return time.process_time() - began


@pytest.mark.ray
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [1, 2])
def test_prepare_beside_a_loop(benchmark, tmp_path, workers):
    if benchmark.disabled:
        pytest.skip("a table for `make bench`")
    source, output = write_scenes(tmp_path / "photos", SCENES, 24), tmp_path / "out"
    words = [sys.executable, "-m", "rawnind.cli", "prepare", str(source), "--output", str(output), "--address", "local",
             "--cpus-per-scene", str(2 / workers), "--quiet"]  # fmt: skip
    times, cpu = loop(source, tmp_path / "loop", workers)
    shutil.rmtree(tmp_path / "loop")
    run = benchmark.pedantic(watched, args=(words, output, SCENES, 0), rounds=1)
    plain, own = max(times) - min(times), run["first_to_last_commit_s"]
    per_scene = {kind: spent * SCENES / (SCENES - 1) / 1000 for kind, spent in run["after_start"].items()}
    print(f"\n{SCENES} scenes of two pairs of 24 MP, {workers} workers, load {run['load']:.0f}")
    print(f"{'between the first scene and the last':<40}{'wall s':>8}{'CPU s a scene':>15}")
    print(f"{'a loop of processes':<40}{plain:>8.1f}{cpu:>15.2f}")
    print(
        f"{'rawnind prepare':<40}{own:>8.1f}{per_scene.pop('workers'):>15.2f} + {sum(per_scene.values()):.2f} beside the workers"
    )
    print(
        f"{plain / own:.0%} of the loop's speed; {run['wall_s'] - own:.1f} s to start, for the first scenes, and to end"
    )


if __name__ == "__main__":
    print(measure(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
