"""A manifest of 1,000,000 rows: time and memory to open it and to send it to a spawned worker.

python benchmarks/bench_manifest_view.py ROWS FOLDER CASE     one case in this process, as JSON
"""

import json
import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rawnind.output.manifest import write_manifest
from rawnind.output.schema import MANIFEST_SCHEMA, PAIRS_SCHEMA
from rawnind.output.store import Store
from rawnind.recipe import Recipe

ROWS, PER_PAIR = 1_000_000, 70  # crops of 512 in a 24 MP photo
MATRIX = [0.9, -0.3, -0.1, -0.4, 1.2, 0.2, -0.1, 0.2, 0.6]
TEXTS = {"cfa": "bayer", "camera": "SONY ILCE-7C", "recipe": "0123456789abcdef", "outcome": "collected"}


def hexes(rng, count, digits):
    return np.array([rng.bytes(digits // 2).hex() for _ in range(count)])


def write(folder, rows):
    """A manifest of so many rows as the job writes it, without shards."""
    # here, because the measured child process has no tests on its path
    from tests.output.result_maker import seal

    store = Store(str(folder))
    store.prepare_root()
    write_manifest(store, [], Recipe(), versions={}, contents="made for a benchmark")
    rng, count = np.random.default_rng(0), -(-rows // PER_PAIR)
    noisy, truth = hexes(rng, count, 40), hexes(rng, count, 40)
    names = np.array([f"scene{number // 4:07d}" for number in range(count)])
    ids = np.array([f"{a[:12]}-{b[:12]}" for a, b in zip(noisy, truth, strict=True)])
    order = np.lexsort((ids, names))
    per_pair = {
        "scene": names[order], "pair_id": ids[order], "gt_sha1": truth[order], "noisy_sha1": noisy[order],
        "shard": np.array([f"shards/bayer/{n}/{i}.parquet" for n, i in zip(names[order], ids[order], strict=True)]),
        "shard_sha256": hexes(rng, count, 64),
    }  # fmt: skip
    pq.write_table(
        table(PAIRS_SCHEMA, count, per_pair, np.arange(count), rng),
        folder / "pairs.parquet",
        compression="zstd",
    )
    pair = np.arange(rows) // PER_PAIR
    with pq.ParquetWriter(folder / "manifest.parquet", MANIFEST_SCHEMA, compression="zstd") as writer:
        for first in range(0, rows, 65_536):
            part = pair[first : first + 65_536]
            writer.write_table(table(MANIFEST_SCHEMA, len(part), per_pair, part, rng))
    seal(store)


def table(schema, count, per_pair, pair, rng):
    number = np.arange(count)
    whole = {"row_group": number % PER_PAIR, "y": number % 7 * 512, "x": number // 7 % 10 * 512, "size": np.full(count, 512),
             "iso": pair % 7 * 800 + 100, "white_level": np.full(count, 16383.0),
             "gt_white_level": np.full(count, 16383.0)}  # fmt: skip
    columns = []
    for field in schema:
        if field.name in per_pair:
            values = pa.array(per_pair[field.name][pair])
        elif pa.types.is_list(field.type):
            values = pa.array([MATRIX if "matrix" in field.name else [512.0] * 4] * count, field.type)
        elif field.name in whole:
            values = pa.array(whole[field.name])
        elif pa.types.is_floating(field.type):
            values = pa.array(rng.random(count))
        elif pa.types.is_integer(field.type):
            values = pa.array(np.zeros(count, np.int32))
        elif pa.types.is_boolean(field.type):
            values = pa.array(np.zeros(count, bool))
        else:
            values = pa.array([TEXTS.get(field.name, "")] * count)
        columns.append(values.cast(field.type))
    return pa.table(columns, schema=schema)


def memory():
    """The resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def worker(data, answers):
    """A spawned worker; it imports the package before the measurement."""
    import rawnind.feed.dataset  # noqa: F401

    before, started = memory(), time.perf_counter()
    dataset = pickle.loads(data)  # noqa: S301 made in this very file
    assert dataset.rows.row(len(dataset) - 1, dataset.rows.pair_at(int(dataset.rows.pair[-1]))).row_group >= 0
    answers.put((time.perf_counter() - started, memory() - before))


def measure(folder, filters):
    from rawnind.training import CropDataset

    CropDataset(folder, split="all", iso=(0, 100))  # loads the libraries and warms the file cache
    before, cpu, wall = memory(), time.process_time(), time.perf_counter()
    dataset = CropDataset(folder, split="all", **filters)
    opened = {
        "rows": len(dataset),
        "open_s": time.perf_counter() - wall,
        "open_cpu_s": time.process_time() - cpu,
    }
    opened["open_MB"], opened["peak_MB"] = (
        memory() - before,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    )
    wall = time.perf_counter()
    data = pickle.dumps(dataset)
    opened["pickle_MB"], opened["pickle_s"] = len(data) / 1e6, time.perf_counter() - wall
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    child = context.Process(target=worker, args=(data, answers))
    child.start()
    opened["spawned_s"], opened["spawned_MB"] = answers.get(timeout=120)
    child.join()
    return opened


CASES = {"no filter": {}, "min_msssim, iso": {"min_msssim": 0.5, "iso": (100, 3200)}}


@pytest.mark.parametrize("case", CASES)
def test_a_million_rows(benchmark, tmp_path, case):
    rows = 2_000 if benchmark.disabled else ROWS
    write(tmp_path / "out", rows)
    call = [sys.executable, __file__, str(tmp_path / "out"), case]
    done = benchmark.pedantic(
        subprocess.run, (call,), {"check": True, "capture_output": True, "text": True}, rounds=1
    )
    found = json.loads(done.stdout)
    assert found["spawned_MB"] < 200
    assert found["spawned_s"] < 1
    print(f"\n{rows} rows, {case}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()))


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], CASES[sys.argv[2]])))
