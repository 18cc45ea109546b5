"""Crops per second and CPU seconds per crop of the feed, beside what people use today: same crops, same batch.

`make bench` prints the table. All contenders run in `.venv-bench`, which it sets up, because some pin other versions than
rawnind is tested with; what is not installed there is named. Alone, with more crops, or some of them only:

    make .venv-bench/.ready
    .venv/bin/python benchmarks/bench_feed.py --crops 600 --only CropLoader "litdata, random"

Every contender stores the same numbers (uint16 mosaic, float16 target, packed mask) and gives float32 batches. Each runs in a
process of its own, torch on one core; an epoch that warms the cache comes first, and of the others each number is the best.
Contenders take turns, so that whatever else the machine does meets all of them. CPU seconds include those of workers.
"""

import argparse
import contextlib
import gc
import hashlib
import importlib.machinery
import importlib.util
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
from torch.utils.data import DataLoader, Dataset

SIZE, BATCH, PER_SHARD = 512, 8, 30
WORKERS = (0, 1, 2)
BLACK, WHITE = 512.0, 16000.0
APART = Path(__file__).resolve().parents[1] / ".venv-bench/bin/python"
PYTHON = str(APART) if APART.exists() else sys.executable


def stored(number, size):
    """Pixels of one crop: the same for all contenders."""
    rng = np.random.default_rng(number)
    return {
        "noisy": rng.integers(0, 16000, (size, size), np.uint16),
        "gt": rng.random((3, size, size), np.float32).astype(np.float16),
        "mask": rng.integers(0, 256, (size, size // 8), np.uint8),
    }


def sample(noisy, gt, mask):
    """What a plain data set makes of them: float32 tensors in the keys of the research code."""
    h, w = noisy.shape
    y = torch.from_numpy(noisy.reshape(h // 2, 2, w // 2, 2).transpose(1, 3, 0, 2).astype(np.float32))
    valid = torch.from_numpy(np.unpackbits(mask, axis=1).view(np.bool_))
    return {
        "x_crops": torch.from_numpy(gt).float(),
        "y_crops": y.reshape(4, h // 2, w // 2).sub_(BLACK).mul_(1 / (WHITE - BLACK)),
        "mask_crops": valid[None].expand(3, -1, -1),
    }


# ---- ours


def write_ours(folder, count, size):
    from rawnind import records
    from rawnind.config import Recipe
    from rawnind.storage.manifest import write_manifest
    from rawnind.storage.shards import CropPixels, crop_name, shard_name, write_shard
    from rawnind.storage.store import Store

    store, results = Store(str(folder)), []
    recipe = Recipe(crop_size=size, stride=size)
    sensor = records.Sensor(cfa=records.Cfa.BAYER, origin=(0, 0), height=4000, width=6000, black_level=(BLACK,) * 4, white_level=WHITE,
                    overexposure_lb=1.0, rgb_xyz_matrix=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0), camera="bench")  # fmt: skip
    measured = records.Measurements(shift_y=0, shift_x=0, subpixel_y=0.0, subpixel_x=0.0, alignment_score=50.0,
                            alignment_loss=0.01, gain=1.0, mask_mean=0.5)  # fmt: skip
    for first in range(0, count, PER_SHARD):
        name = f"scene{first:06d}"
        gt, noisy = (
            records.ImageRef(cfa=records.Cfa.BAYER, scene=name, ground_truth=truth, iso=100, sha1=sha1(f"{name}{truth}"), filename="a",
                     path="a")
            for truth in (True, False)
        )  # fmt: skip
        pair = f"{noisy.sha1[:12]}-{gt.sha1[:12]}"
        numbers = range(first, min(first + PER_SHARD, count))

        def rows(numbers=numbers, pair=pair):
            for number in numbers:
                pixels = stored(number, size)
                valid = np.unpackbits(pixels["mask"], axis=1).view(np.bool_)
                yield CropPixels(crop_id=crop_name(pair, number, 0), noisy_raw=pixels["noisy"], gt_raw=pixels["noisy"],
                                 gt_rgb=pixels["gt"], valid=valid)  # fmt: skip

        shard = write_shard(store, shard_name(records.Cfa.BAYER, name, pair), rows(), size)
        crops = tuple(records.Crop(y=number, x=0, valid_fraction=0.5, msssim=0.9, overexposed_fraction=0.0,
                           underexposed_fraction=0.0, hot_fraction=0.0, changed_fraction=0.0)
                      for number in numbers)  # fmt: skip
        found = records.PairResult(ground_truth=gt, noisy=noisy, outcome=records.Outcome.COLLECTED, reason=None, detail="",
                           measured=measured, sensor=sensor, gt_sensor=sensor, shard=shard, crops=crops)  # fmt: skip
        scene = records.Scene(name=name, cfa=records.Cfa.BAYER, test_reserve=False, unknown_sensor=False, ground_truths=(gt,),
                      noisy=(noisy,))  # fmt: skip
        results.append(records.SceneResult(scene=scene, recipe=recipe.digest, outcome=records.Outcome.COLLECTED, reason=None, detail="",
                                   pairs=(found,), failed_files=()))  # fmt: skip
    write_manifest(store, results, recipe, versions={}, contents="bench")


def sha1(text):
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def crop_dataset(folder, size):
    from rawnind.training import CropDataset

    return CropDataset(folder, split="all", crop_size=size, augment=False)


def ours(folder, size, workers):
    from rawnind.training import CropLoader

    return CropLoader(crop_dataset(folder, size), BATCH, workers=workers)


def ours_torch(folder, size, workers):
    from rawnind.training import collate, to_device

    loader = torch_loader(crop_dataset(folder, size), workers, shuffle=True, collate_fn=collate)
    return Mapped(loader, to_device)


def ours_default(folder, size, workers):
    return torch_loader(crop_dataset(folder, size), workers, shuffle=True)


# ---- the others


class Mapped:
    """A loader whose batches are changed at the consumer."""

    def __init__(self, loader, change):
        self.loader, self.change = loader, change

    def __iter__(self):
        return map(self.change, self.loader)


class Items(Dataset):
    """A map-style data set over anything that gives arrays by number."""

    def __init__(self, count, read):
        self.count, self.read = count, read

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return sample(**self.read(index))


def torch_loader(dataset, workers, **options):
    return DataLoader(
        dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0, **options
    )


def write_npy(folder, count, size):
    for number in range(count):
        for name, values in stored(number, size).items():
            np.save(folder / f"{number}-{name}.npy", values)


class ReadNpy:
    def __init__(self, folder, mode):
        self.folder, self.mode = folder, mode

    def __call__(self, number):
        return {
            name: np.load(self.folder / f"{number}-{name}.npy", mmap_mode=self.mode)
            for name in ("noisy", "gt", "mask")
        }


def npy(folder, size, workers, mode=None):  # noqa: ARG001
    count = len(list(folder.glob("*-gt.npy")))
    return torch_loader(Items(count, ReadNpy(folder, mode)), workers, shuffle=True)


def npy_mapped(folder, size, workers):
    return npy(folder, size, workers, mode="c")


def write_webdataset(folder, count, size):
    import webdataset as wds

    with wds.ShardWriter(f"{folder}/%04d.tar", maxcount=PER_SHARD, verbose=0) as sink:
        for number in range(count):
            pixels = {f"{name}.bin": values.tobytes() for name, values in stored(number, size).items()}
            sink.write({"__key__": f"{number:06d}", **pixels})


def arrays(noisy, gt, mask, size):
    return {
        "noisy": np.frombuffer(bytearray(noisy), np.uint16).reshape(size, size),
        "gt": np.frombuffer(bytearray(gt), np.float16).reshape(3, size, size),
        "mask": np.frombuffer(bytearray(mask), np.uint8).reshape(size, size // 8),
    }


def webdataset(folder, size, workers):
    """Sequential, with a shuffle buffer: it has no random access."""
    import webdataset as wds

    shards = sorted(str(path) for path in folder.glob("*.tar"))
    split = wds.split_by_worker
    read = wds.WebDataset(shards, shardshuffle=len(shards), workersplitter=split, empty_check=False).shuffle(
        PER_SHARD
    )
    dataset = read.map(WebSample(size))
    return torch_loader(dataset, workers)


class WebSample:
    def __init__(self, size):
        self.size = size

    def __call__(self, item):
        return sample(**arrays(*(item[f"{name}.bin"] for name in ("noisy", "gt", "mask")), self.size))


def write_litdata(folder, count, size):
    import litdata

    litdata.optimize(
        LitItem(size), list(range(count)), str(folder), chunk_size=PER_SHARD, num_workers=1, verbose=False
    )


class LitItem:
    def __init__(self, size):
        self.size = size

    def __call__(self, number):
        return stored(number, self.size)


class ReadLit:
    def __init__(self, folder):
        self.folder, self.dataset = str(folder), None

    def __call__(self, number):
        import litdata

        if self.dataset is None:
            self.dataset = litdata.StreamingDataset(self.folder)
        return self.dataset[number]


def litdata_random(folder, size, workers):  # noqa: ARG001
    import litdata

    return torch_loader(
        Items(len(litdata.StreamingDataset(str(folder))), ReadLit(folder)), workers, shuffle=True
    )


class LitSamples:
    """litdata's own way: its data set, its loader, shuffled by chunks."""

    @staticmethod
    def collate(items):
        return torch.utils.data.default_collate([sample(**item) for item in items])


def litdata_loader(folder, size, workers):  # noqa: ARG001
    import litdata

    dataset = litdata.StreamingDataset(str(folder), shuffle=True)
    return litdata.StreamingDataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=LitSamples.collate,
        persistent_workers=workers > 0,
    )


def streaming():
    """MosaicML's package. It imports torchvision for data sets of images; one that does not fit torch must not keep it out."""
    try:
        import torchvision.datasets
        import torchvision.transforms.functional  # noqa: F401
    except (ImportError, RuntimeError):
        for name in ("", ".datasets", ".transforms", ".transforms.functional"):
            spec = importlib.machinery.ModuleSpec(f"torchvision{name}", None)
            sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        sys.modules["torchvision.datasets"].VisionDataset = object
        sys.modules["torchvision.transforms.functional"].to_tensor = None
    import streaming

    return streaming


def write_mosaic(folder, count, size):
    with streaming().MDSWriter(
        out=str(folder), columns=dict.fromkeys(("noisy", "gt", "mask"), "bytes"), size_limit=1 << 26
    ) as sink:
        for number in range(count):
            sink.write({name: values.tobytes() for name, values in stored(number, size).items()})


class ReadMosaic:
    def __init__(self, folder, size):
        self.dataset, self.size = streaming().LocalDataset(str(folder)), size

    def __call__(self, number):
        return arrays(**self.dataset[number], size=self.size)


def mosaic(folder, size, workers):
    read = ReadMosaic(folder, size)
    return torch_loader(Items(len(read.dataset), read), workers, shuffle=True)


def ray_batches(folder, size, workers):
    """Ray Data over our shards; it has its own processes, so `workers` are cores."""
    import ray

    ray.init(num_cpus=max(workers, 1), include_dashboard=False, logging_level="error", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_parquet(str(folder / "shards"), columns=["noisy_raw", "gt_rgb", "mask"])

    def convert(batch):
        pixels = zip(batch["noisy_raw"], batch["gt_rgb"], batch["mask"], strict=True)
        return torch.utils.data.default_collate([sample(**arrays(*crop, size)) for crop in pixels])

    class Batches:
        def __iter__(self):
            return iter(rows.iter_torch_batches(batch_size=BATCH, collate_fn=convert))

    return Batches()


CONTENDERS = {
    "CropLoader": (ours, write_ours),
    "CropDataset, DataLoader, collate": (ours_torch, write_ours),
    "CropDataset, DataLoader": (ours_default, write_ours),
    ".npy": (npy, write_npy),
    ".npy, mapped": (npy_mapped, write_npy),
    "litdata, random": (litdata_random, write_litdata),
    "litdata, its loader": (litdata_loader, write_litdata),
    "mosaic streaming": (mosaic, write_mosaic),
    "WebDataset (sequential)": (webdataset, write_webdataset),
    "Ray Data (sequential)": (ray_batches, write_ours),
}


# ---- measuring


def cpu_seconds():
    """Of this process and everything below it."""
    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
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
    """Writes a contender's files, or measures it."""
    if task == "--write":
        globals()[name](Path(folder), *map(int, numbers))
        return {}
    return measure(name, Path(folder), *map(int, numbers))


def in_child(*words):
    """What `here` answers in a process of its own; an error as its last line."""
    call = [PYTHON, __file__, *map(str, words)]
    done = subprocess.run(
        call, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        return {"error": " ".join(done.stderr.strip().splitlines()[-1:])}
    return json.loads(done.stdout.splitlines()[-1])


def compare(root, count, size, epochs, *, workers=WORKERS, rounds=1, only=None, run=in_child):
    """The best numbers of each contender; rounds go through all of them in turn."""
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
