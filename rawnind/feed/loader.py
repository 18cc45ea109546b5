"""Batches of a CropDataset, made by threads, on the device of the training; it can be resumed after any batch."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from rawnind.errors import ConfigError
from rawnind.feed.batch import Batch, FloatBatchBuilder, NativeBatch, NativeBatchBuilder, to_device
from rawnind.feed.buffers import BufferPool, pinned
from rawnind.feed.crop_options import check_batching
from rawnind.feed.dataset import CropDataset
from rawnind.feed.sampling import epoch_order, share_of, step_count, step_size
from rawnind.rules import is_whole

_PREFETCH = 2  # batches per thread, as in torch's DataLoader

_Result: TypeAlias = tuple[Batch | NativeBatch, int]
"""A batch, and how many of its crops were replaced."""


@dataclass(kw_only=True, slots=True)
class Counters:
    """What a loader has returned so far.

    Attributes:
        batches: batches returned.
        crops: sub-crops returned.
        skipped: crops that were replaced because their shard is damaged.
        waited: seconds that the consumer waited for batches.
    """

    batches: int = 0
    crops: int = 0
    skipped: int = 0
    waited: float = 0.0


class CropLoader:
    """Batches of a CropDataset for one rank.

    Each `for` loop iterates over the rest of the current epoch; the next loop starts the next epoch. Threads make the batches:
    numpy, torch and the demosaicing release the GIL while they process pixels, nothing is copied between processes, and the
    memory of released batches is reused.

    Args:
        dataset: the data set; the loader counts its own epochs.
        batch_size: rows in a batch; each becomes `num_crops` sub-crops.
        workers: threads that prefetch batches; 0 makes each batch when it is requested.
        device: the device of the batches.
        rank: number of this consumer, from 0.
        ranks: consumers that share an epoch; all get the same number of batches. When fewer rows than ranks are left at
            the end of an epoch, some rows are used twice.
        shuffle: whether each epoch has its own random order.
        drop_last: whether to leave out the last step of an epoch when it is smaller than the others.

    Raises:
        ConfigError: A number is out of range.
        TypeError: `dataset` is another data set, such as a ConcatDataset.

    Examples:
        >>> loader = CropLoader(CropDataset("out"), batch_size=8, workers=2, device="cuda")  # doctest: +SKIP
        >>> for epoch in range(10):  # doctest: +SKIP
        ...     for batch in loader:
        ...         loss = masked_l1(model(batch["y_crops"]), batch["x_crops"], batch["mask_crops"])
        ...     torch.save({"feed": loader.state_dict(), "model": model.state_dict()}, "checkpoint.pt")
    """

    def __init__(
        self,
        dataset: CropDataset,
        batch_size: int,
        *,
        workers: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        ranks: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        if not isinstance(dataset, CropDataset):
            raise TypeError(
                f"CropLoader reads a CropDataset, got {type(dataset).__name__}. CropDataset([out1, out2]) joins folders, and its "
                "options select rows; torch's DataLoader reads a ConcatDataset or a Subset."
            )
        check_batching(batch_size, workers, rank, ranks)
        self.dataset = dataset
        self.batch_size = batch_size
        self.workers = workers
        self.device = torch.device(device)
        self.rank, self.ranks = rank, ranks
        self.shuffle, self.drop_last = shuffle, drop_last
        self.epoch = 0
        self.position = 0
        self.counters = Counters()
        self._pool = BufferPool()

    def __len__(self) -> int:
        """Number of batches of a whole epoch, also in the middle of one."""
        return step_count(len(self.dataset), self.ranks, self.batch_size, drop_last=self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        for position, make in self._prefetched() if self.workers else self._on_request():
            started = time.perf_counter()
            result, skipped = make()
            batch = to_device(result, self.device) if isinstance(result, NativeBatch) else result
            self.counters.waited += time.perf_counter() - started
            self.counters.batches += 1
            self.counters.crops += len(batch["x_crops"])
            self.counters.skipped += skipped
            self.position = position
            yield batch
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch starts; `position` counts the rows of this epoch that all ranks together have used."""
        return {
            **self.dataset.digest(),
            "epoch": self.epoch,
            "position": self.position,
            "shuffle": self.shuffle,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from a `state_dict`, with any batch size and any number of workers and ranks.

        Raises:
            ConfigError: The state is of another manifest, other filters or other options, or is damaged.
        """
        own = self.state_dict()
        for name in sorted(own.keys() - {"epoch", "position"}):
            if state.get(name) != own[name]:
                raise ConfigError(f"cannot resume: the {name} changed from {state.get(name)} to {own[name]}")
        epoch, position = state.get("epoch"), state.get("position")
        if not (is_whole(epoch) and is_whole(position) and epoch >= 0 and 0 <= position <= len(self.dataset)):
            raise ConfigError(f"cannot resume: there is no position {position!r} of epoch {epoch!r}")
        self.epoch, self.position = epoch, position

    def _steps(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """The position after each step, and the rows of this rank in the step."""
        rows, position = len(self.dataset), self.position
        order = epoch_order(rows, self.dataset.options.seed, self.epoch) if self.shuffle else np.arange(rows)
        while size := step_size(rows - position, self.ranks, self.batch_size, drop_last=self.drop_last):
            yield position + size, share_of(order[position : position + size], self.rank, self.ranks)
            position += size

    def _on_request(self) -> Iterator[tuple[int, Callable[[], _Result]]]:
        for position, rows in self._steps():
            yield position, partial(self._make, rows, self.epoch)

    def _prefetched(self) -> Iterator[tuple[int, Callable[[], _Result]]]:
        pending: deque[tuple[int, Future[_Result]]] = deque()
        steps, epoch = self._steps(), self.epoch
        threads = _single_threads(self.workers)
        try:
            for position, rows in steps:
                pending.append((position, threads.submit(self._make, rows, epoch)))
                if len(pending) > _PREFETCH * self.workers:
                    first, future = pending.popleft()
                    yield first, future.result
            while pending:
                first, future = pending.popleft()
                yield first, future.result
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _make(self, rows: NDArray[np.int64], epoch: int) -> _Result:
        count = len(rows) * self.dataset.options.num_crops
        if self.device.type == "cpu":
            plain = FloatBatchBuilder(count, self._pool.allocate)
            skipped = self.dataset.fill(plain, rows.tolist(), epoch)
            return plain.batch(), len(skipped)
        native = NativeBatchBuilder(count, pinned if self.device.type == "cuda" else self._pool.allocate)
        skipped = self.dataset.fill(native, rows.tolist(), epoch)
        return native.batch(skipped), len(skipped)


def _single_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which torch uses one core each; the number of cores in other threads does not change."""
    cores = torch.get_num_threads()
    threads = ThreadPoolExecutor(count, "crops", initializer=torch.set_num_threads, initargs=(1,))
    all_started = threading.Barrier(count + 1)
    for _ in range(count):
        threads.submit(all_started.wait)
    all_started.wait()
    torch.set_num_threads(
        cores
    )  # torch stores the number per thread, and new threads inherit the last one that was set
    return threads
