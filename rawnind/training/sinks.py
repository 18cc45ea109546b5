"""Where samples are put together into batches."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from rawnind.training.batch import Batch, Native, NativeBatch, Shape, Take, empty_batch, room_for, widen
from rawnind.training.render import Sample

_DTYPES = {"e": torch.float16, "f": torch.float32, "H": torch.uint16, "?": torch.bool}


class Sink(Protocol):
    """A place for the samples of one batch, which come in order."""

    def add(self, sample: Sample) -> None:
        """Copies the next sample, which may be a view."""
        ...


class NativeSink:
    """Keeps the shards' number types, in one piece of memory.

    Args:
        count: samples of the batch.
        take: gives that many bytes of memory.
    """

    def __init__(self, count: int, take: Take) -> None:
        self._count = count
        self._take = take
        self._filled = 0

    def add(self, sample: Sample) -> None:
        """Copies the next sample."""
        arrays = _arrays(sample)
        if not self._filled:
            self._shapes = _shapes(arrays, self._count)
            self._memory = self._take(room_for(self._shapes))
            self._tensors = NativeBatch(self._memory, self._shapes).tensors
        for target, array in zip(self._tensors, arrays, strict=True):
            target[self._filled].copy_(torch.from_numpy(array))
        self._filled += 1

    def batch(self, damaged: tuple[str, ...] = ()) -> NativeBatch:
        """The batch, once all samples were added."""
        return NativeBatch(self._memory, self._shapes, damaged)


class PlainSink:
    """Widens each sample to float32 while its bytes are at hand. Gives what `to_device` gives of a NativeSink's batch.

    Args:
        count: samples of the batch.
        take: gives that many bytes of memory.
    """

    def __init__(self, count: int, take: Take) -> None:
        self._count = count
        self._take = take
        self._filled = 0

    def add(self, sample: Sample) -> None:
        """Copies the next sample."""
        arrays = _arrays(sample)
        if not self._filled:
            self._batch = empty_batch(_shapes(arrays, self._count), self._take)
        widen(Native(*(torch.from_numpy(array)[None] for array in arrays)), self._batch, self._filled)
        self._filled += 1

    def batch(self) -> Batch:
        """The batch, once all samples were added."""
        return self._batch


def _arrays(sample: Sample) -> list[NDArray[np.generic]]:
    return [np.asarray(value, np.float32) if isinstance(value, float) else value for value in sample]


def _shapes(arrays: list[NDArray[np.generic]], count: int) -> tuple[Shape, ...]:
    return tuple((_DTYPES[array.dtype.char], (count, *array.shape)) for array in arrays)
