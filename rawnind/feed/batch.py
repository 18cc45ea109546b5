"""Batches in the number types of the shards, as processes exchange them, and in float32, as a training loop uses them."""

import math
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from rawnind.feed.buffers import BufferPool, in_worker
from rawnind.feed.extras import Extras, Value, as_columns, gathered, join_items, joined
from rawnind.feed.render import Sample

_ALIGNMENT = 64  # bytes; every tensor of a native batch starts on a multiple of it

Allocate = Callable[[int], Tensor]
"""Returns (nbytes,) uint8 with any contents."""

Shape = tuple[torch.dtype, tuple[int, ...]]


class Batch(TypedDict):
    """A batch for a training loop; row k of every tensor belongs to one sub-crop.

    Attributes:
        x_crops: (n, 3, c, c) float32, the target: the GT in linear Rec.2020.
        y_crops: float32, the input: the noisy photo as (n, 4, c/2, c/2) levels in R, G, G, B order, or as (n, 3, c, c)
            linear Rec.2020.
        mask_crops: (n, 3, c, c) bool, True where the pair may be trained on; one plane expanded to three channels: do not write to it.
        rgb_xyz_matrix: (n, 4, 3) float32, XYZ -> camera RGB, fourth row 0; (4, 3) for a single item.
        gain: (n,) float32, the factor by which y still has to be multiplied to be as bright as x; a float for a single item.
        noise_a: (n, 4) or (n, 3) float32, one per channel of y: a site of y has the noise variance noise_a * y + noise_b;
            NaN where it was not measured. With input="rgb" of the sites before demosaicing. This and all below only
            where `extras` asks for it; a single item has one row of it.
        noise_b: of the same shape.
        iso: (n,) float32, of the noisy photo; NaN where it is unknown.
        scene: n names of scenes.
        camera: n names of cameras.
        crop_id: n names of stored crops.
    """

    x_crops: Tensor
    y_crops: Tensor
    mask_crops: Tensor
    rgb_xyz_matrix: Tensor
    gain: Any
    noise_a: NotRequired[Tensor]
    noise_b: NotRequired[Tensor]
    iso: NotRequired[Any]
    scene: NotRequired[Any]
    camera: NotRequired[Any]
    crop_id: NotRequired[Any]


class Native(NamedTuple):
    """Samples in the number types of the shards.

    Attributes:
        x: (n, 3, c, c) float16 or float32, linear Rec.2020.
        y: (n, c, c) uint16 mosaic that starts on red, or (n, 3, c, c) float16 or float32, linear Rec.2020.
        mask: (n, c, c) bool.
        black: (n, 4) float32, sensor values.
        factor: (n, 4) float32, level per sensor value, times the gain where it is matched.
        rgb_xyz_matrix: (n, 4, 3) float32.
        gain: (n,) float32.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    black: Tensor
    factor: Tensor
    rgb_xyz_matrix: Tensor
    gain: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class NativeBatch:
    """A batch in the number types of the shards: half the bytes of float32, in one block of memory. `to_device` converts it.

    Attributes:
        memory: (nbytes,) uint8, all tensors one after the other.
        shapes: number type and shape of each tensor, in the order of `Native`.
        damaged: names of shards that could not be read; other crops replace theirs.
        extras: what the options ask for beside pixels, matrix and gain.
    """

    memory: Tensor
    shapes: tuple[Shape, ...]
    damaged: tuple[str, ...] = ()
    extras: Extras = field(default_factory=dict)

    def __len__(self) -> int:
        return self.shapes[0][1][0]

    @property
    def tensors(self) -> Native:
        """Views of the memory."""
        return Native(*_views(self.memory, self.shapes))

    def pin_memory(self) -> "NativeBatch":
        """The batch in page-locked memory; torch's DataLoader calls this with `pin_memory=True`."""
        return replace(self, memory=self.memory.pin_memory())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "NativeBatch":
        """The batch on a device, still in the number types of the shards."""
        return replace(self, memory=self.memory.to(device, non_blocking=non_blocking))


def memory_size(shapes: Sequence[Shape]) -> int:
    """Bytes that tensors of these types and shapes take in a native batch.

    >>> memory_size([(torch.uint16, (2, 3)), (torch.bool, (1,))])
    128
    """
    return sum(_padded_size(shape) for shape in shapes)


def _padded_size(shape: Shape) -> int:
    return -(-_nbytes(shape) // _ALIGNMENT) * _ALIGNMENT


def _nbytes(shape: Shape) -> int:
    return shape[0].itemsize * math.prod(shape[1])


def _views(memory: Tensor, shapes: Sequence[Shape]) -> Iterator[Tensor]:
    start = 0
    for shape in shapes:
        yield memory[start : start + _nbytes(shape)].view(shape[0]).view(shape[1])
        start += _padded_size(shape)


def collate(samples: Sequence[NativeBatch]) -> NativeBatch:
    """For `DataLoader(dataset, collate_fn=collate)`: keeps the number types of the shards; call `to_device` on the result.

    Raises:
        TypeError: These are single items, as a ConcatDataset requests them.

    Examples:
        >>> loader = DataLoader(CropDataset("out"), 8, num_workers=2, collate_fn=collate)  # doctest: +SKIP
    """
    if not isinstance(samples[0], NativeBatch):
        raise TypeError(
            "collate joins whole batches of a CropDataset, got single items; give the DataLoader the CropDataset itself or "
            "a Subset of it, or leave collate_fn out. CropDataset([out1, out2]) joins folders."
        )
    if len(samples) == 1:
        return samples[0]
    count = sum(map(len, samples))
    shapes = tuple((dtype, (count, *rest)) for dtype, (_, *rest) in samples[0].shapes)
    damaged = tuple(name for sample in samples for name in sample.damaged)
    memory = torch.empty(memory_size(shapes), dtype=torch.uint8)
    whole = NativeBatch(memory, shapes, damaged, joined([sample.extras for sample in samples]))
    for target, parts in zip(
        whole.tensors, zip(*(sample.tensors for sample in samples), strict=True), strict=True
    ):
        torch.cat(parts, out=target)
    return whole


def to_device(batch: NativeBatch | Batch, device: torch.device | str = "cpu") -> Batch:
    """Copies a batch to a device and converts it to float32 there.

    Args:
        batch: from `collate`, in pinned memory for an asynchronous copy. One that is float32 already is only copied.
        device: the device of the training loop.

    Returns:
        The batch on the device; on a CPU its memory is reused once no tensor uses it any more.

    Examples:
        >>> loader = DataLoader(CropDataset("out"), 8, num_workers=2, pin_memory=True, collate_fn=collate)  # doctest: +SKIP
        >>> for batch in loader:  # doctest: +SKIP
        ...     batch = to_device(batch, "cuda")
    """
    if not isinstance(batch, NativeBatch):
        return _move(batch, device)
    moved = batch.to(device, non_blocking=True)
    where = moved.memory.device
    allocate = (
        _pool.allocate if where.type == "cpu" else partial(torch.empty, dtype=torch.uint8, device=where)
    )
    plain = empty_batch(moved.shapes, allocate)
    to_float32(moved.tensors, plain)
    return with_extras(plain, as_columns(batch.extras, where))


def with_extras(batch: Batch, extras: dict[str, Any]) -> Batch:
    """The batch with further keys."""
    return cast("Batch", {**batch, **extras}) if extras else batch


_pool = BufferPool()


def _move(batch: Batch, device: torch.device | str) -> Batch:
    mask = batch["mask_crops"][:, :1].to(device, non_blocking=True)
    moved = Batch(
        x_crops=batch["x_crops"].to(device, non_blocking=True),
        y_crops=batch["y_crops"].to(device, non_blocking=True),
        mask_crops=mask.expand(-1, 3, -1, -1),
        rgb_xyz_matrix=batch["rgb_xyz_matrix"].to(device, non_blocking=True),
        gain=torch.as_tensor(batch["gain"]).to(device),
    )
    others = {name: value for name, value in batch.items() if name not in moved}
    return with_extras(moved, {k: v.to(device) if isinstance(v, Tensor) else v for k, v in others.items()})


def empty_batch(shapes: Sequence[Shape], allocate: Allocate) -> Batch:
    """A batch with any contents.

    Args:
        shapes: number types and shapes of the native batch.
        allocate: returns memory for a tensor.
    """
    (_, (count, _, size, _)), (y_type, _), *_ = shapes

    def tensor(dtype: torch.dtype, *shape: int) -> Tensor:
        return allocate(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)

    half = size // 2
    y = (4, half, half) if y_type == torch.uint16 else (3, size, size)
    return Batch(
        x_crops=tensor(torch.float32, count, 3, size, size),
        y_crops=tensor(torch.float32, count, *y),
        mask_crops=tensor(torch.bool, count, 1, size, size).expand(-1, 3, -1, -1),
        rgb_xyz_matrix=tensor(torch.float32, count, 4, 3),
        gain=tensor(torch.float32, count),
    )


def to_float32(native: Native, plain: Batch, first: int = 0) -> None:
    """Writes native samples into a float32 batch.

    Args:
        native: n samples.
        plain: a batch with at least `first` + n rows.
        first: the row of `plain` for the first sample.
    """
    rows = slice(first, first + len(native.x))
    plain["x_crops"][rows].copy_(native.x)
    y = plain["y_crops"][rows]
    if native.y.dtype == torch.uint16:
        _levels(native.y, native.black, native.factor, out=y)
    else:
        y.copy_(native.y)
    plain["mask_crops"][rows, 0].copy_(native.mask)
    plain["rgb_xyz_matrix"][rows].copy_(native.rgb_xyz_matrix)
    plain["gain"][rows].copy_(native.gain)


def _levels(mosaic: Tensor, black: Tensor, factor: Tensor, *, out: Tensor) -> None:
    """Splits mosaics into planes of levels, (v - black) * factor.

    Args:
        mosaic: (n, c, c) uint16 that starts on red.
        black: (n, 4) per plane.
        factor: (n, 4) per plane.
        out: (n, 4, c/2, c/2) float32.
    """
    count, height, width = mosaic.shape
    sites = mosaic.view(count, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3)
    out.view(count, 2, 2, height // 2, width // 2).copy_(sites)
    out.sub_(black[:, :, None, None]).mul_(factor[:, :, None, None])


class _LazyBatch(UserDict[str, Any]):
    """A float32 batch in a worker. It is converted at first access, which is in the consumer unless a worker reads it."""

    def __init__(self, native: NativeBatch) -> None:  # UserDict's would set `data`
        self._native = native

    @cached_property
    def data(self) -> Batch:  # type: ignore[override]
        return to_device(self._native)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (dict, (self.data,)) if "data" in vars(self) else (to_device, (self._native,))


def _collate_plain(batch: Sequence[NativeBatch], *, collate_fn_map: object = None) -> Batch | _LazyBatch:  # noqa: ARG001
    whole = collate(batch)
    return _LazyBatch(whole) if in_worker() else to_device(whole)


class _Item(dict[str, Any]):
    """A single item; its type makes a DataLoader join items as `_collate_items` does."""


def as_item(batch: Batch) -> Batch:
    """The same values as a single item of a data set; `default_collate` makes a `Batch` of items."""
    return cast("Batch", _Item(batch))


def _collate_items(items: Sequence[_Item], *, collate_fn_map: object = None) -> Batch:  # noqa: ARG001
    """Joins items, as a ConcatDataset requests them, into the batch that `__getitems__` makes of the same rows."""
    counts = torch.tensor([len(item["x_crops"]) for item in items])
    mask = torch.cat([item["mask_crops"][:, :1] for item in items])
    plain = Batch(
        x_crops=torch.cat([item["x_crops"] for item in items]),
        y_crops=torch.cat([item["y_crops"] for item in items]),
        mask_crops=mask.expand(-1, 3, -1, -1),
        rgb_xyz_matrix=torch.stack([item["rgb_xyz_matrix"] for item in items]).repeat_interleave(counts, 0),
        gain=torch.tensor([item["gain"] for item in items]).repeat_interleave(counts),
    )
    others = [name for name in items[0] if name not in plain]
    return with_extras(plain, {name: join_items([item[name] for item in items], counts) for name in others})


# The documented way to extend torch.utils.data.default_collate: a DataLoader without collate_fn gives float32 batches.
default_collate_fn_map[NativeBatch] = _collate_plain
default_collate_fn_map[_Item] = _collate_items


_DTYPES = {"e": torch.float16, "f": torch.float32, "H": torch.uint16, "?": torch.bool}


class BatchBuilder(Protocol):
    """Collects the samples of one batch in order."""

    def add(self, sample: Sample) -> None:
        """Copies the next sample, which may be a view."""
        ...


class NativeBatchBuilder:
    """Builds a batch in the number types of the shards, in one block of memory.

    Args:
        count: samples of the batch.
        allocate: returns that many bytes of memory.
    """

    def __init__(self, count: int, allocate: Allocate) -> None:
        self._count = count
        self._allocate = allocate
        self._extras: list[Mapping[str, Value]] = []

    def add(self, sample: Sample) -> None:
        """Copies the next sample."""
        arrays = _arrays(sample)
        if not self._extras:
            self._shapes = _shapes(arrays, self._count)
            self._memory = self._allocate(memory_size(self._shapes))
            self._tensors = NativeBatch(self._memory, self._shapes).tensors
        for target, array in zip(self._tensors, arrays, strict=True):
            target[len(self._extras)].copy_(torch.from_numpy(array))
        self._extras.append(sample.extras)

    def batch(self, damaged: tuple[str, ...] = ()) -> NativeBatch:
        """The batch, once all samples were added."""
        return NativeBatch(self._memory, self._shapes, damaged, gathered(self._extras))


class FloatBatchBuilder:
    """Builds a float32 batch, each sample converted while its bytes are in the cache.

    The result is that of `NativeBatchBuilder` and `to_device`.

    Args:
        count: samples of the batch.
        allocate: returns that many bytes of memory.
    """

    def __init__(self, count: int, allocate: Allocate) -> None:
        self._count = count
        self._allocate = allocate
        self._extras: list[Mapping[str, Value]] = []

    def add(self, sample: Sample) -> None:
        """Copies the next sample."""
        arrays = _arrays(sample)
        if not self._extras:
            self._batch = empty_batch(_shapes(arrays, self._count), self._allocate)
        native = Native(*(torch.from_numpy(array)[None] for array in arrays))
        to_float32(native, self._batch, len(self._extras))
        self._extras.append(sample.extras)

    def batch(self) -> Batch:
        """The batch, once all samples were added."""
        return with_extras(self._batch, as_columns(gathered(self._extras)))


def _arrays(sample: Sample) -> list[NDArray[np.generic]]:
    return [np.asarray(value, np.float32) if isinstance(value, float) else value for value in sample[:-1]]


def _shapes(arrays: list[NDArray[np.generic]], count: int) -> tuple[Shape, ...]:
    return tuple((_DTYPES[array.dtype.char], (count, *array.shape)) for array in arrays)
