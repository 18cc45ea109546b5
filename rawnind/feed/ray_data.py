"""An output folder as a Ray Dataset."""

from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import ray.data
from numpy.typing import NDArray

from rawnind.feed.batch import to_device
from rawnind.feed.crop_options import CropOptions
from rawnind.feed.dataset import CropDataset
from rawnind.feed.sampling import epoch_order

_BLOCK = 64 << 20  # bytes of samples in one block; Ray Data's target is at most 128 MiB


def ray_dataset(
    output: str | Path, *, epoch: int = 0, shuffle: bool = True, **options: Unpack[CropOptions]
) -> ray.data.Dataset:
    """Samples of an output folder as a Ray Dataset, one row per sub-crop, made by Ray's workers.

    Columns and values are those of `Batch`: `iter_torch_batches` returns the batches of a `CropLoader`, and `streaming_split`
    divides an epoch among the workers of Ray Train. Texts (`extras` scene, camera and crop_id) are in `iter_batches` alone:
    torch has no tensors of texts.

    Args:
        output: the folder that `rawnind prepare` wrote; every worker must be able to read it under this name.
        epoch: the epoch of the random order and windows.
        shuffle: whether the rows come in a random order, which depends on `seed` and `epoch`.
        options: see `CropOptions`.

    Returns:
        A lazy data set: workers read the shards when it is consumed.

    Raises:
        ConfigError: An option is wrong, or no row is left.
        NotPreparedError: The folder has no manifest.
        ManifestError: The manifest cannot be read.

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
    return {name: np.ascontiguousarray(value) for name, value in samples.items()}


def location_of(output: str | Path) -> str:
    """The output as a URI or an absolute path, valid in other processes."""
    return str(output) if "://" in str(output) else str(Path(output).absolute())
