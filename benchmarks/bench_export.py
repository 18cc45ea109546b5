"""The export for the research code with one core and with two, beside the plain script that a user would write.

The script writes the same files in one process: it reads shards with pyarrow, demosaics the noisy crops with OpenCV, and writes with
tifffile, numpy and OpenCV. It checks no hash, moves no ground truth to the noisy photo's colours, and replaces what is there.

`make bench` prints wall and CPU seconds; as a plain test, both write the same files. To run it alone:

    python -m benchmarks.bench_export --pairs 24 --crops 10
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import tifffile
import yaml

from rawnind.exporters.research_yaml import export
from rawnind.feed.rows import pair_of
from rawnind.imaging.color import camera_to_rec2020
from rawnind.records import Cfa
from tests.feed.folder_maker import FolderMaker

SIZE, PAIRS, CROPS = 512, 24, 5
ROUNDS = 5
ROOT = Path(__file__).resolve().parents[1]


def make(folder, pairs, crops, size):
    """An output folder of Bayer pairs, and a sixth as many X-Trans ones."""
    maker = FolderMaker(folder, size=size)
    for number in range(pairs):
        cfa = Cfa.X_TRANS if number % 6 == 5 else Cfa.BAYER
        contrast = {"contrast": (1.2, 1.1), "gt_contrast": (1.2, 1.1)}
        maker.scene(f"scene{number}", cfa=cfa, crops=crops, valid=0.9, **contrast)
    maker.finish()


def plain_script(output, to):
    """What a user would write: every file of the export, one after another."""
    rows = pq.read_table(output / "manifest.parquet").to_pylist()
    masks, entries = {}, {}
    for row in rows:
        pair, size, y, x = pair_of(row), row["size"], row["y"], row["x"]
        bayer = row["cfa"] == "bayer"
        shard = pq.ParquetFile(output / row["shard"]).read_row_group(row["row_group"]).to_pylist()[0]
        noisy, gt = (
            np.frombuffer(shard[f"{kind}_raw"], np.uint16).reshape(size, size) for kind in ("noisy", "gt")
        )
        gt_rgb = np.frombuffer(shard["gt_rgb"], np.float16).reshape(3, size, size)
        valid = np.unpackbits(np.frombuffer(shard["mask"], np.uint8)).reshape(size, size)
        name = f"{row['cfa']}/{row['scene']}/{row['pair_id']}"
        mask = masks.setdefault(
            name, np.zeros([max(each[a] for each in rows) + size for a in "yx"], np.uint8)
        )
        mask[y : y + size, x : x + size] = valid * 255
        prefix = to / "crops" / name / row["crop_id"]
        prefix.parent.mkdir(parents=True, exist_ok=True)
        levels = (noisy.astype(np.float32) - pair.black[0]) / (pair.white - pair.black[0])
        # X-Trans is not in OpenCV: a person would take another library, and more time
        rgb = cv2.demosaicing(
            (levels.clip(0, 1) * 65535).astype(np.uint16), cv2.COLOR_BayerRG2RGB
        ) / np.float32(65535)
        rgb = rgb @ np.asarray(camera_to_rec2020(pair.rgb_xyz_matrix), np.float32).T
        pictures = {"noisy": rgb, "gt": gt_rgb.transpose(1, 2, 0).astype(np.float32)}
        for kind, picture in pictures.items():
            tifffile.imwrite(f"{prefix}-{kind}.tif", np.ascontiguousarray(picture), photometric="rgb")
        truth = (gt.astype(np.float32) - pair.gt_black[0]) / (pair.gt_white - pair.gt_black[0])
        for kind, mosaic in {"noisy": levels, "gt": truth}.items() if bayer else [("gt", truth)]:
            np.save(f"{prefix}-{kind}.npy", np.stack([mosaic[i::2, j::2] for i in (0, 1) for j in (0, 1)]))
        entry = entries.setdefault(name, {"image_set": row["scene"], "is_bayer": bayer, "crops": []})
        entry["crops"].append({"coordinates": [x, y], "f_linrec2020_fpath": f"{prefix}-noisy.tif"})
    for name, mask in masks.items():
        path = to / f"masks/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), mask)
    (to / "dataset.yaml").write_text(yaml.safe_dump(list(entries.values())))


WAYS = {"export": export, "script": plain_script}


def one(way, cores, output, to):
    """Seconds of one export in this process, after a crop-sized one has loaded and compiled what is needed."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "out", 6, 1, 64)
        WAYS[way](Path(folder) / "out", Path(folder) / "to")
    usage, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    WAYS[way](output, to)
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall": wall,
        "cpu": after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime,
        "user": after.ru_utime - usage.ru_utime,
    }


def in_child(way, cores, output, to):
    """The result of `one` in a new process."""
    call = [sys.executable, "-m", "benchmarks.bench_export", "--one", way, str(cores), str(output), str(to)]
    done = subprocess.run(call, check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def files(folder):
    """Pictures, mosaics and masks below a folder, and their bytes."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.suffix in {".tif", ".npy", ".png"}
    }


def compare(pairs, crops, rounds):
    """Prints the median of each way; they take turns."""
    tries = {("export", 1): [], ("export", 2): [], ("script", 1): []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "out", pairs, crops, SIZE)
        stored = sum(path.stat().st_size for path in (folder / "out/shards").rglob("*") if path.is_file())
        for number in range(rounds):
            for (way, cores), found in tries.items():
                to = folder / f"{way}-{cores}-{number}"
                found.append(in_child(way, cores, folder / "out", to))
                written = sum(files(to).values())
                shutil.rmtree(to)
    print(
        f"\n{pairs} pairs of {crops} crops of {SIZE}: {stored / 1e6:.0f} MB of shards become {written / 1e6:.0f} MB, "
        f"median of {rounds}, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':26}{'wall s':>8}{'CPU s':>8}{'of it user':>12}{'cores used':>12}")
    for (way, cores), found in tries.items():
        wall, cpu, user = (statistics.median(each[key] for each in found) for key in ("wall", "cpu", "user"))
        name = "rawnind export" if way == "export" else "a plain script"
        print(
            f"{f'{name}, {cores} core' + 's' * (cores > 1):26}{wall:8.2f}{cpu:8.2f}{user:12.2f}{cpu / wall:12.2f}"
        )


def test_the_export_and_a_plain_script_write_the_same_files(benchmark, tmp_path):
    make(tmp_path / "out", 6, 2, 64)
    for way, work in WAYS.items():
        work(tmp_path / "out", tmp_path / way)
    assert files(tmp_path / "export").keys() == files(tmp_path / "script").keys()
    for name in files(tmp_path / "script"):
        if name.endswith("gt.tif"):
            one, other = (tifffile.imread(tmp_path / way / name) for way in WAYS)
            assert np.array_equal(one, other)
    if benchmark.enabled:
        compare(PAIRS, CROPS, ROUNDS)
    benchmark(lambda: None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--crops", type=int, default=CROPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--one", nargs=4)
    arguments = parser.parse_args()
    if arguments.one:
        way, cores, output, to = arguments.one
        print(json.dumps(one(way, int(cores), Path(output), Path(to))))
    else:
        compare(arguments.pairs, arguments.crops, arguments.rounds)
