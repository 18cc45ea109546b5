"""The contenders of bench_feed: how each writes the same crops, and how it reads them into float32 batches.

Every contender stores the same numbers (uint16 mosaic, float16 target, packed mask). A contender's package is imported where
it is used, because not all of them need be installed.
"""

import hashlib
import importlib.machinery
import importlib.util
import sys

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

BATCH, PER_SHARD = 8, 30
BLACK, WHITE = 512.0, 16000.0


def stored(number, size):
    """Pixels of one crop: the same for all contenders."""
    rng = np.random.default_rng(number)
    return {
        "noisy": rng.integers(0, 16000, (size, size), np.uint16),
        "gt": rng.random((3, size, size), np.float32).astype(np.float16),
        "mask": rng.integers(0, 256, (size, size // 8), np.uint8),
    }


def sample(noisy, gt, mask):
    """A sample of a plain data set: float32 tensors with the keys of the research code."""
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
    from rawnind.output.manifest import write_manifest
    from rawnind.output.shards import CropPixels, crop_name, shard_name, write_shard
    from rawnind.output.store import Store
    from rawnind.recipe import Recipe

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


def ours_new_memory(folder, size, workers):
    """Batches in new memory, which torch copies to new shared memory: what `feed.shared_memory` saves."""
    from rawnind.feed.batch import NativeBatchBuilder
    from rawnind.training import CropDataset, collate, to_device

    class NewMemory(CropDataset):
        def native(self, indices):
            builder = NativeBatchBuilder(len(indices), lambda nbytes: torch.empty(nbytes, dtype=torch.uint8))
            return builder.batch(self.fill(builder, indices, self.epoch))

    dataset = NewMemory(folder, split="all", crop_size=size, augment=False)
    return Mapped(torch_loader(dataset, workers, shuffle=True, collate_fn=collate), to_device)


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
    """Samples for litdata's own data set and loader, shuffled by chunks."""

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
    """MosaicML's package, also where its import of torchvision fails because it does not fit torch."""
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
    "the same in new shared memory": (ours_new_memory, write_ours),
    ".npy": (npy, write_npy),
    ".npy, mapped": (npy_mapped, write_npy),
    "litdata, random": (litdata_random, write_litdata),
    "litdata, its loader": (litdata_loader, write_litdata),
    "mosaic streaming": (mosaic, write_mosaic),
    "WebDataset (sequential)": (webdataset, write_webdataset),
    "Ray Data (sequential)": (ray_batches, write_ours),
}
