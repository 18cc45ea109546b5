"""Shared memory for the batches of DataLoader workers: a worker reuses a block once the consumer has released it.

Torch allocates new shared memory for every batch. That costs more than the samples themselves, because the system clears
every page and both processes map it: 4.2 CPU ms per crop of 512 sites with two workers, against 1.0 with reused blocks
(`python -m benchmarks.bench_feed`). Here a worker keeps its blocks, and torch sends the consumer a handle. A block begins
with a header that holds its state.
"""

import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rawnind.feed.batch import NativeBatch, Shape
from rawnind.feed.extras import Extras

_HEADER = 64  # bytes at the start of a block, of which these int64 are used:
_STATE, _USE, _WORKER = 0, 1, 2
_FREE, _FILLING, _SENT, _DISCARDED = 0, 1, 2, 3
_MAX_FREE = (
    4  # free blocks that a worker keeps; there are more only after the consumer held many batches at once
)

_worker_blocks: dict[int, Tensor] = {}
"""The blocks of this worker, by the address behind the header."""
_mapped_blocks: dict[int, Tensor] = {}
"""The workers' blocks that this consumer has mapped, by the address behind the header."""
_allocating = threading.Lock()


def allocate_shared(nbytes: int) -> Tensor:
    """(nbytes,) uint8 with any contents, for use in a worker; a batch in it reaches the consumer without a copy."""
    with _allocating:
        free = [block for block in _worker_blocks.values() if _header(block)[_STATE] == _FREE]
        for block in free[_MAX_FREE:]:
            _header(block)[_STATE] = _DISCARDED
            del _worker_blocks[_address(block)]
        large = [block for block in free[:_MAX_FREE] if len(block) >= _HEADER + nbytes]
        block = large[0] if large else _new_block(nbytes)
        header = _header(block)
        header[_STATE] = _FILLING
        header[_USE] += 1
    return _memory_of(block, nbytes, _FILLING)


def _new_block(nbytes: int) -> Tensor:
    block = torch.empty(_HEADER + nbytes, dtype=torch.uint8)
    block.share_memory_()  # type: ignore[no-untyped-call]
    _header(block)[:3] = _FREE, 0, os.getpid()
    _worker_blocks[_address(block)] = block
    return block


def _header(block: Tensor) -> NDArray[np.int64]:
    header: NDArray[np.int64] = block.numpy()[:_HEADER].view(np.int64)
    return header


def _address(block: Tensor) -> int:
    return block.data_ptr() + _HEADER


def _memory_of(block: Tensor, nbytes: int, state: int) -> Tensor:
    """The bytes behind the header. When no tensor uses them any more, the block becomes free if it is still in `state`.

    Args:
        block: (header + at least nbytes,) uint8.
        nbytes: how many bytes the batch takes.
        state: the block's state while this process uses it.
    """
    memory = block.numpy()[_HEADER : _HEADER + nbytes]
    use = int(_header(block)[_USE])
    weakref.finalize(memory, _release, block, state, use, os.getpid()).atexit = False
    return torch.from_numpy(memory)


def _release(block: Tensor, state: int, use: int, process: int) -> None:
    header = _header(block)
    if os.getpid() == process and (header[_STATE], header[_USE]) == (state, use):
        header[_STATE] = _FREE


def _reduce(batch: NativeBatch) -> tuple[Callable[..., NativeBatch], tuple[Any, ...]]:
    block = _worker_blocks.get(batch.memory.data_ptr())
    if block is None:
        return NativeBatch, (batch.memory, batch.shapes, batch.damaged, batch.extras)
    _header(block)[_STATE] = _SENT
    return _rebuild, (block, len(batch.memory), batch.shapes, batch.damaged, batch.extras)


def _rebuild(
    block: Tensor, nbytes: int, shapes: tuple[Shape, ...], damaged: tuple[str, ...], extras: Extras
) -> NativeBatch:
    if _address(block) not in _mapped_blocks:
        _unmap_unused()
        _mapped_blocks[_address(block)] = block  # torch finds this mapping when the same block is sent again
    return NativeBatch(_memory_of(block, nbytes, _SENT), shapes, damaged, extras)


def _unmap_unused() -> None:
    """Drops the blocks that no worker will send again."""
    alive = {child.pid for child in multiprocessing.active_children()}
    for address, block in list(_mapped_blocks.items()):
        header = _header(block)
        if header[_STATE] == _DISCARDED or int(header[_WORKER]) not in alive:
            del _mapped_blocks[address]


# Queues between processes pickle with ForkingPickler, as torch does for tensors; a plain pickle copies the batch.
ForkingPickler.register(NativeBatch, _reduce)
