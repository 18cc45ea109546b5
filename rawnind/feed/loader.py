"""Going through a CropDataset: batches made by threads, ready on the device, resumable after any of them."""

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
from rawnind.feed.dataset import CropDataset
from rawnind.feed.sampling import epoch_order, share_of, step_size

_AHEAD = 2  # batches per thread, as torch's DataLoader has it

_Made: TypeAlias = tuple[Batch | NativeBatch, int]
_Make: TypeAlias = Callable[[], _Made]


@dataclass(kw_only=True, slots=True)
class Counters:
    """What a loader has given so far.

    Attributes:
        batches: batches given.
        crops: sub-crops given.
        skipped: crops for which another one stood in because their shard is damaged.
        waited: seconds that the consumer waited for a batch.
    """

    batches: int = 0
    crops: int = 0
    skipped: int = 0
    waited: float = 0.0


class CropLoader:
    """Batches of a CropDataset for one rank.

    Each `for` loop gives what is left of the current epoch, then the next epoch begins. Threads make the batches: numpy, torch
    and the demosaicing leave Python's lock while they work on pixels, nothing is copied between processes, and the memory
    of batches that are no longer in use is used again.

    Args:
        dataset: what to give. Its epoch is set by the loader.
        batch_size: rows in a batch; each gives `num_crops` sub-crops.
        workers: threads that work ahead; 0 makes each batch when it is asked for.
        device: where the batches are to be.
        rank: number of this consumer.
        ranks: consumers that share an epoch; all get the same number of batches. When fewer rows than ranks are left at
            the end of an epoch, some of them are given twice.
        shuffle: whether each epoch has its own random order.
        drop_last: leaves out the last step of an epoch when it is smaller than the others.

    Raises:
        ConfigError: A number is out of range.

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
        if batch_size < 1 or workers < 0 or not 0 <= rank < ranks:
            raise ConfigError(
                f"batch_size must be at least 1, workers at least 0, rank below ranks, got {batch_size}, {workers}, "
                f"{rank} of {ranks}"
            )
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
        """Batches that are left in the current epoch."""
        return sum(1 for _ in self._steps())

    def __iter__(self) -> Iterator[Batch]:
        for position, make in self._ahead() if self.workers else self._at_once():
            asked = time.perf_counter()
            made, skipped = make()
            batch = to_device(made, self.device) if isinstance(made, NativeBatch) else made
            self.counters.waited += time.perf_counter() - asked
            self.counters.batches += 1
            self.counters.crops += len(batch["x_crops"])
            self.counters.skipped += skipped
            self.position = position
            yield batch
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins; `position` counts the rows that all ranks were given, in the epoch's order."""
        return {
            **self.dataset.digest(),
            "epoch": self.epoch,
            "position": self.position,
            "shuffle": self.shuffle,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken, with any batch size and any number of workers and ranks.

        Raises:
            ConfigError: The state belongs to another manifest, other filters or other options.
        """
        own = self.state_dict()
        for name in sorted(own.keys() - {"epoch", "position"}):
            if state.get(name) != own[name]:
                raise ConfigError(f"cannot go on: the {name} changed from {state.get(name)} to {own[name]}")
        self.epoch, self.position = state["epoch"], state["position"]

    def _steps(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Position after each step, and this rank's rows of it."""
        rows, position = len(self.dataset), self.position
        order = epoch_order(rows, self.dataset.options.seed, self.epoch) if self.shuffle else np.arange(rows)
        while position < rows:
            size = step_size(rows - position, self.ranks, self.batch_size)
            if self.drop_last and size < self.ranks * self.batch_size:
                return
            yield position + size, share_of(order[position : position + size], self.rank, self.ranks)
            position += size

    def _at_once(self) -> Iterator[tuple[int, _Make]]:
        for position, rows in self._steps():
            yield position, partial(self._make, rows, self.epoch)

    def _ahead(self) -> Iterator[tuple[int, _Make]]:
        waiting: deque[tuple[int, Future[_Made]]] = deque()
        steps, epoch = self._steps(), self.epoch
        threads = _single_threads(self.workers)
        try:
            for position, rows in steps:
                waiting.append((position, threads.submit(self._make, rows, epoch)))
                if len(waiting) > _AHEAD * self.workers:
                    first, future = waiting.popleft()
                    yield first, future.result
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _make(self, rows: NDArray[np.int64], epoch: int) -> _Made:
        count = len(rows) * self.dataset.options.num_crops
        if self.device.type == "cpu":
            plain = FloatBatchBuilder(count, self._pool.take)
            skipped = self.dataset.fill(plain, rows.tolist(), epoch)
            return plain.batch(), len(skipped)
        native = NativeBatchBuilder(count, pinned if self.device.type == "cuda" else self._pool.take)
        skipped = self.dataset.fill(native, rows.tolist(), epoch)
        return native.batch(skipped), len(skipped)


def _single_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which torch uses one core each; elsewhere it goes on with as many as before."""
    cores = torch.get_num_threads()
    threads = ThreadPoolExecutor(count, "crops", initializer=torch.set_num_threads, initargs=(1,))
    all_there = threading.Barrier(count + 1)
    for _ in range(count):
        threads.submit(all_there.wait)
    all_there.wait()
    torch.set_num_threads(cores)  # torch keeps the number per thread, and gives new threads the one set last
    return threads
