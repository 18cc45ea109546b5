"""Crops per second and CPU time per crop of the feed and of other data loaders, with the same crops and batches.

`make bench` prints the table. All contenders run in `.venv-bench`, which it sets up, because some need other versions than
rawnind is tested with; packages that are not installed there are named. To run it alone, with more crops or some contenders:

    make .venv-bench/.ready
    .venv/bin/python -m benchmarks.bench_feed --crops 600 --only CropLoader "litdata, random"

Each contender runs in a process of its own with torch on one core. The first epoch warms the cache; of the others the best
number counts. The contenders take turns, so that other load on the machine affects all of them. CPU time includes that of
the workers.
"""

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks import feed_contenders
from benchmarks.feed_contenders import BATCH, CONTENDERS, npy_mapped, ours, ours_torch, write_npy, write_ours

SIZE = 512
WORKERS = (0, 1, 2)
ROOT = Path(__file__).resolve().parents[1]
APART = ROOT / ".venv-bench/bin/python"
PYTHON = str(APART) if APART.exists() else sys.executable


def cpu_seconds():
    """The CPU time of this process and all its descendants."""
    this = psutil.Process()
    total = 0.0
    for process in [this, *this.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure(name, folder, size, workers, epochs):
    """Crops per second, CPU ms per crop, and seconds to the first batch."""
    started = time.perf_counter()
    loader = CONTENDERS[name][0](folder, size, workers)
    batches = iter(loader)
    next(batches)
    first = time.perf_counter() - started
    for _ in batches:
        pass
    del batches
    gc.collect()
    rates, costs = [], []
    for _ in range(epochs):
        cpu, wall, crops = cpu_seconds(), time.perf_counter(), 0
        for batch in loader:
            crops += len(batch["x_crops"])
        rates.append(crops / (time.perf_counter() - wall))
        costs.append(1000 * (cpu_seconds() - cpu) / crops)
    return {"first": first, "rate": max(rates), "cpu_ms": min(costs), "crops": crops}


def here(task, name, folder, *numbers):
    """Writes the files of a contender, or measures it."""
    if task == "--write":
        getattr(feed_contenders, name)(Path(folder), *map(int, numbers))
        return {}
    return measure(name, Path(folder), *map(int, numbers))


def in_child(*words):
    """The result of `here` in a new process; an error is its last line."""
    call = [PYTHON, "-m", "benchmarks.bench_feed", *map(str, words)]
    one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, check=False, capture_output=True, text=True, cwd=ROOT, env=one_core)
    if done.returncode:
        return {"error": " ".join(done.stderr.strip().splitlines()[-1:])}
    return json.loads(done.stdout.splitlines()[-1])


def compare(root, count, size, epochs, *, workers=WORKERS, rounds=1, only=None, run=in_child):
    """The best numbers of each contender; each round measures all of them in turn."""
    names = [name for name in CONTENDERS if not only or name in only]
    folders = {write: root / write.__name__ for write in {CONTENDERS[name][1] for name in names}}
    failed = {}
    for write, folder in folders.items():
        folder.mkdir()
        failed[write] = run("--write", write.__name__, folder, count, size).get("error")
    found = {(name, number): [] for name in names for number in workers}
    for _ in range(rounds):
        for (name, number), tries in found.items():
            write = CONTENDERS[name][1]
            if failed[write] is None:
                tries.append(run("--one", name, folders[write], size, number, epochs))
    return [best(name, number, tries, failed[CONTENDERS[name][1]]) for (name, number), tries in found.items()]


def best(name, workers, tries, error):
    wrong = [error] if error else [found["error"] for found in tries if "error" in found]
    if wrong:
        return {"name": name, "workers": workers, "error": wrong[0]}
    return {
        "name": name, "workers": workers, "crops": tries[0]["crops"],
        "rate": max(found["rate"] for found in tries), "cpu_ms": min(found["cpu_ms"] for found in tries),
        "first": min(found["first"] for found in tries),
    }  # fmt: skip


def show(results):
    print(f"\n{'':34}{'workers':>8}{'crops/s':>9}{'CPU ms/crop':>13}{'first batch s':>15}")
    for found in results:
        if "error" in found:
            print(f"{found['name']:34}{found['workers']:8}  {found['error']}")
        else:
            print(
                f"{found['name']:34}{found['workers']:8}{found['rate']:9.0f}{found['cpu_ms']:13.2f}{found['first']:15.2f}"
            )


def test_feed(benchmark, tmp_path):
    small = {"workers": (0,), "only": ["CropLoader", ".npy"], "run": here} if benchmark.disabled else {}
    count, size, epochs = (2 * BATCH, 64, 1) if small else (300, SIZE, 3)
    results = benchmark.pedantic(compare, (tmp_path, count, size, epochs), small or {"rounds": 2}, rounds=1)
    if small:
        assert [found["crops"] for found in results] == [16, 16]
    else:
        show(results)


def test_contenders_give_the_same_numbers(tmp_path):
    """The crops of ours and of .npy, whatever the order."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "npy").mkdir()
    write_ours(tmp_path / "ours", BATCH, 64)
    write_npy(tmp_path / "npy", BATCH, 64)
    sums = [
        sorted((float(x.sum()), float(y.sum()), int(m.sum()))
               for batch in make(tmp_path / where, 64, 0)
               for x, y, m in zip(batch["x_crops"], batch["y_crops"], batch["mask_crops"], strict=True))
        for make, where in ((ours, "ours"), (ours_torch, "ours"), (npy_mapped, "npy"))
    ]  # fmt: skip
    assert sums[0] == sums[1]
    assert np.allclose(sums[0], sums[2], rtol=1e-5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--crops", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(CONTENDERS))
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write or options.one:
        torch.set_num_threads(1)
        task, words = ("--write", options.write) if options.write else ("--one", options.one)
        print(json.dumps(here(task, *words)))
    else:
        with tempfile.TemporaryDirectory() as root:
            print(f"in {PYTHON}")
            show(
                compare(
                    Path(root), options.crops, SIZE, options.epochs, rounds=options.rounds, only=options.only
                )
            )


if __name__ == "__main__":
    main()
