"""Memory that a DataLoader's worker fills, its consumer reads, and the worker fills again.

Torch takes fresh shared memory for each batch, which costs eight times what writing to it does (1.8 ms per crop of 512 against
0.2 were measured): the system clears every page, and both sides have to map it. Here a worker keeps its blocks, and torch
only tells the consumer which one it is. A block begins with a header that says whether it is in use.
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

_HEADER = 64  # bytes, of which these int64 are used:
_STATE, _LEASE, _WORKER = 0, 1, 2
_FREE, _FILLING, _SENT, _FORGOTTEN = 0, 1, 2, 3
_KEEP = 4  # free blocks of a worker; more are free only after the consumer held many batches at once

_own: dict[int, Tensor] = {}
"""A worker's blocks, by the address of what follows the header."""
_known: dict[int, Tensor] = {}
"""Those of its workers that a consumer has mapped."""
_taking = threading.Lock()


def shared(nbytes: int) -> Tensor:
    """(nbytes,) uint8 in a worker's process; a batch in it reaches the consumer without a copy."""
    with _taking:
        free = [block for block in _own.values() if _header(block)[_STATE] == _FREE]
        for block in free[_KEEP:]:
            _header(block)[_STATE] = _FORGOTTEN
            del _own[_address(block)]
        large = [block for block in free[:_KEEP] if len(block) >= _HEADER + nbytes]
        block = large[0] if large else _new(nbytes)
        header = _header(block)
        header[_STATE] = _FILLING
        header[_LEASE] += 1
    return _lease(block, nbytes, _FILLING)


def _new(nbytes: int) -> Tensor:
    # What torch's own collate does; share_memory_() would copy.
    storage = torch.UntypedStorage._new_shared(_HEADER + nbytes, device="cpu")  # type: ignore[no-untyped-call]
    block = torch.empty(0, dtype=torch.uint8).set_(storage)
    _header(block)[:3] = _FREE, 0, os.getpid()
    _own[_address(block)] = block
    return block


def _header(block: Tensor) -> NDArray[np.int64]:
    header: NDArray[np.int64] = block.numpy()[:_HEADER].view(np.int64)
    return header


def _address(block: Tensor) -> int:
    return block.data_ptr() + _HEADER


def _lease(block: Tensor, nbytes: int, state: int) -> Tensor:
    """What follows the header; the block is free again once nothing refers to it, if it is still in `state` then."""
    lease = block.numpy()[_HEADER : _HEADER + nbytes]
    number = int(_header(block)[_LEASE])
    weakref.finalize(lease, _free, block, state, number, os.getpid()).atexit = False
    return torch.from_numpy(lease)


def _free(block: Tensor, state: int, number: int, process: int) -> None:
    header = _header(block)
    if os.getpid() == process and (header[_STATE], header[_LEASE]) == (state, number):
        header[_STATE] = _FREE


def _send(batch: NativeBatch) -> tuple[Callable[..., NativeBatch], tuple[Any, ...]]:
    block = _own.get(batch.memory.data_ptr())
    if block is None:
        return NativeBatch, (batch.memory, batch.shapes, batch.damaged)
    _header(block)[_STATE] = _SENT
    return _arrive, (block, len(batch.memory), batch.shapes, batch.damaged)


def _arrive(block: Tensor, nbytes: int, shapes: tuple[Shape, ...], damaged: tuple[str, ...]) -> NativeBatch:
    if _address(block) not in _known:
        _forget()
        _known[_address(block)] = block  # torch finds the mapping when the block comes again
    return NativeBatch(_lease(block, nbytes, _SENT), shapes, damaged)


def _forget() -> None:
    """Drops blocks that will not come again."""
    alive = {child.pid for child in multiprocessing.active_children()}
    for address, block in list(_known.items()):
        header = _header(block)
        if header[_STATE] == _FORGOTTEN or int(header[_WORKER]) not in alive:
            del _known[address]


ForkingPickler.register(NativeBatch, _send)  # what queues between processes use
