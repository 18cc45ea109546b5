"""Where samples are put together into batches, and the memory that batches use again."""

import math
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from rawnind.training.batch import Batch, NativeBatch, levels
from rawnind.training.render import Sample

_DTYPES = {"e": torch.float16, "f": torch.float32, "H": torch.uint16, "?": torch.bool}
_KEEP = 8  # free blocks of one size; more than two threads' batches ahead are rarely in use


class Sink(Protocol):
    """A place for the samples of one batch, which come in order."""

    def add(self, sample: Sample) -> None:
        """Copies the next sample, which may be a view."""
        ...


class NativeSink:
    """Keeps the shards' number types; in a DataLoader's worker straight in the memory that the consumer will see.

    Args:
        count: samples of the batch.
        pinned: whether to use page-locked memory, from which a GPU copies by itself.
    """

    def __init__(self, count: int, *, pinned: bool = False) -> None:
        self._count = count
        self._pinned = pinned
        self._filled = 0
        self._tensors: dict[str, Tensor] = {}

    def add(self, sample: Sample) -> None:
        """Copies the next sample."""
        for name, value in sample._asdict().items():
            array = np.asarray(value, np.float32) if isinstance(value, float) else value
            if name not in self._tensors:
                self._tensors[name] = self._allocate((self._count, *array.shape), _DTYPES[array.dtype.char])
            self._tensors[name][self._filled].copy_(torch.from_numpy(array))
        self._filled += 1

    def batch(self, damaged: tuple[str, ...]) -> NativeBatch:
        """The batch, once all samples were added."""
        return NativeBatch(**self._tensors, damaged=damaged)

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if get_worker_info() is None:
            return torch.empty(shape, dtype=dtype, pin_memory=self._pinned)
        nbytes = math.prod(shape) * dtype.itemsize
        # What torch's own collate does; share_memory_() would copy.
        storage = torch.UntypedStorage._new_shared(nbytes, device="cpu")  # type: ignore[no-untyped-call]
        return torch.empty(0, dtype=torch.uint8).set_(storage).view(dtype).view(shape)


class PlainSink:
    """Widens each sample to float32 while its bytes are at hand. Gives what `to_device` gives of a NativeSink's batch.

    Args:
        count: samples of the batch.
        take: gives that many bytes of memory.
    """

    def __init__(self, count: int, take: Callable[[int], Tensor]) -> None:
        self._count = count
        self._take = take
        self._filled = 0
        self._tensors: dict[str, Tensor] = {}

    def add(self, sample: Sample) -> None:
        """Copies the next sample."""
        k, size = self._filled, sample.x.shape[-1]
        self._at("x_crops", (3, size, size), torch.float32)[k].copy_(torch.from_numpy(sample.x))
        if sample.y.dtype == np.uint16:
            y = self._at("y_crops", (4, size // 2, size // 2), torch.float32)[k : k + 1]
            black, factor = (torch.from_numpy(line)[None] for line in (sample.black, sample.factor))
            levels(torch.from_numpy(sample.y)[None], black, factor, out=y)
        else:
            self._at("y_crops", (3, size, size), torch.float32)[k].copy_(torch.from_numpy(sample.y))
        self._at("mask_crops", (1, size, size), torch.bool)[k, 0].copy_(torch.from_numpy(sample.mask))
        self._at("rgb_xyz_matrix", (4, 3), torch.float32)[k].copy_(torch.from_numpy(sample.rgb_xyz_matrix))
        self._at("gain", (), torch.float32)[k] = sample.gain
        self._filled += 1

    def batch(self) -> Batch:
        """The batch, once all samples were added."""
        mask = self._tensors["mask_crops"].expand(-1, 3, -1, -1)
        return Batch(**{**self._tensors, "mask_crops": mask})  # type: ignore[typeddict-item]

    def _at(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if name not in self._tensors:
            full = (self._count, *shape)
            self._tensors[name] = self._take(math.prod(full) * dtype.itemsize).view(dtype).view(full)
        return self._tensors[name]


class BufferPool:
    """Memory that comes back by itself once no tensor uses it any more.

    Fresh memory costs more than filling it: the system clears each page first (0.5 ms per MB was measured, against 0.01 for
    writing it).
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)

    def take(self, nbytes: int) -> Tensor:
        """(nbytes,) uint8 with any contents; views of it keep it in use."""
        free = self._free[nbytes]
        try:
            block = free.pop()
        except IndexError:
            block = np.empty(nbytes, np.uint8)
        lease = block[:]  # lives as long as the tensor's memory is referred to, from Python or from autograd
        weakref.finalize(lease, _give_back, free, block).atexit = False
        return torch.from_numpy(lease)


def _give_back(free: list[NDArray[np.uint8]], block: NDArray[np.uint8]) -> None:
    if len(free) < _KEEP:
        free.append(block)
