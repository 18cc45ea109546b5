"""An output folder as a Ray Dataset."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
from numpy.typing import NDArray

from rawnind.feed.batch import to_device
from rawnind.feed.dataset import CropDataset
from rawnind.feed.sampling import epoch_order

_BLOCK = 64 << 20  # bytes of samples in one block; Ray Data aims at 128 MiB at most


def ray_dataset(
    output: str | Path, *, epoch: int = 0, shuffle: bool = True, **options: Any
) -> ray.data.Dataset:
    """Samples of an output folder as a Ray Dataset, one row per sub-crop, read and rendered by Ray's workers.

    Columns and values are those of `Batch`: `iter_torch_batches` gives what a `CropLoader` gives, and `streaming_split` shares
    an epoch between Ray Train's workers.

    Args:
        output: the folder that `rawnind prepare` wrote; workers must see it by the same name.
        epoch: of the random order and windows.
        shuffle: whether the rows come in a random order of the epoch, which `seed` decides.
        options: as in `CropDataset`.

    Raises:
        ConfigError: An option is wrong, or no row is left.
        ManifestError: The folder has no manifest that can be read.

    Examples:
        >>> for batch in ray_dataset("out", crop_size=128).iter_torch_batches(batch_size=8):  # doctest: +SKIP
        ...     print(batch["y_crops"].shape)
    """
    crops = CropDataset(location_of(output), **options)
    crops.set_epoch(epoch)
    order = epoch_order(len(crops), crops.options.seed, epoch) if shuffle else np.arange(len(crops))
    size = (
        crops.options.num_crops * crops.options.crop_size**2 * 19
    )  # x 12, y 4 (12 for colour), mask 3 bytes
    blocks = min(len(order), -(-len(order) * size // _BLOCK))
    rows = ray.data.from_numpy([part for part in np.array_split(order, blocks) if len(part)])
    return rows.map_batches(partial(_rendered, crops=crops), batch_size=None, batch_format="numpy")


def _rendered(batch: dict[str, NDArray[np.int64]], *, crops: CropDataset) -> dict[str, NDArray[Any]]:
    samples = to_device(crops.native(batch["data"].tolist()))
    return {name: np.ascontiguousarray(value.numpy()) for name, value in samples.items()}  # type: ignore[attr-defined]


def location_of(output: str | Path) -> str:
    """A name that means the same in other processes."""
    return str(output) if "://" in str(output) else str(Path(output).absolute())
