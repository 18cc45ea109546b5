"""Memory for batches that is used again."""

import weakref
from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

_KEEP = 8  # free blocks of one size; more than two threads' batches ahead are rarely in use


class BufferPool:
    """Memory that comes back by itself once no tensor uses it any more.

    Fresh memory costs more than filling it: the system clears each page first (0.5 ms per MB was measured, against 0.01 for
    writing it).
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)

    def __reduce__(self) -> tuple[type["BufferPool"], tuple[()]]:
        return BufferPool, ()

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


def pinned(nbytes: int) -> Tensor:
    """(nbytes,) uint8 in page-locked memory, from which a GPU copies by itself."""
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)


def in_worker() -> bool:
    """Whether this is a process that torch's DataLoader started."""
    return get_worker_info() is not None
