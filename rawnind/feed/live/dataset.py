"""Training while the run is still in progress: crops are available once their scene is committed."""

import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import torch
from torch.utils.data import IterableDataset, get_worker_info

from rawnind import timing
from rawnind.errors import ConfigError
from rawnind.feed.batch import Batch, NativeBatch, to_device
from rawnind.feed.buffers import BufferPool
from rawnind.feed.crop_options import CropOptions, check_batching, checked_options
from rawnind.feed.live.batching import BatchMaker, BatchResult, Filters, RowQueue
from rawnind.feed.live.connection import BridgeSource, FeedError, Source, history_source
from rawnind.feed.live.history import Consumer
from rawnind.feed.rows import Row
from rawnind.feed.selection import Split, SplitBy
from rawnind.rules import require

__all__ = ["FeedError", "LiveCropDataset", "replay"]

_PREFETCH = 2  # batches per thread


class _PendingBatch(NamedTuple):
    position: int
    rows: list[Row]
    result: Callable[[], BatchResult]


class LiveCropDataset(IterableDataset[Batch]):
    """Batches of an output folder while `rawnind prepare` still fills it, from any process that can reach its Ray cluster.

    One iteration is one epoch: it returns each crop that the run collects once, over all consumers of the feed, and ends
    when the run has finished and every crop was returned. Faster consumers get more crops. A batch is returned as soon as
    it is full; the last one may be smaller. When the bridge dies, the consumer waits for its restart. When the run ends, the
    bridge divides the remaining crops among the consumers, and each continues from the finished folder. For further epochs
    use `CropDataset`.

    Use it directly or with `DataLoader(dataset, batch_size=None)`; it prefetches batches in threads of its own.

    The crops assigned to a consumer that dies stay assigned to it. A process that joins again with the same name gets them
    from the batch after the last one that was finished (the next one was requested), or from the position of
    `load_state_dict`. Torchrun's ranks keep their names; other processes need `consumer` for that.

    A Ray that a program started for itself accepts other processes only with its token: set RAY_AUTH_MODE=token there.

    Args:
        bridge: the bridge's actor handle, its name (`rawnind.pipeline.graph.bridge_name`), or the output folder.
        batch_size: rows in a batch; each becomes `num_crops` sub-crops.
        feed: consumers with the same feed share its crops; another training needs another feed.
        consumer: name of this process in the feed. Default: its rank under torchrun, else a new name.
        max_wait: seconds without a new crop after which iteration fails with a text that says what it waited for.
        rank: number of this consumer, used only when no consumer had joined the feed before the run ended.
        ranks: number of consumers; see `rank`.
        device: the device of the batches.
        workers: threads that prefetch batches; 0 makes each batch when it is requested.
        address: the Ray cluster; None: the one that this process is connected to, or RAY_ADDRESS, or one on this machine.
        options: see `CropOptions`. `split` is "train", or "all" for training and validation scenes; the test reserve is
            never returned. With `on_damage="skip"` a batch lacks the crops that cannot be read (see `skipped`). A sample
            depends on the seed and the crop alone.

    Attributes:
        scenes: keys of the scenes of the crops that were returned.
        crops: number of sub-crops that were returned.
        batches: number of batches that were returned.
        skipped: number of rows that could not be read.
        wait_seconds: seconds that the consumer waited for batches.

    Raises:
        ConfigError: An option is wrong.

    Examples:
        >>> for batch in LiveCropDataset("out", batch_size=8, workers=2, device="cuda"):  # doctest: +SKIP
        ...     loss = masked_l1(model(batch["y_crops"]), batch["x_crops"], batch["mask_crops"])
    """

    def __init__(
        self,
        bridge: Any,
        *,
        batch_size: int,
        feed: str = "train",
        consumer: str | None = None,
        max_wait: float = 600.0,
        rank: int = 0,
        ranks: int = 1,
        device: torch.device | str = "cpu",
        workers: int = 0,
        address: str | None = None,
        **options: Unpack[CropOptions],
    ) -> None:
        check_batching(batch_size, workers, rank, ranks)
        require(max_wait > 0, "max_wait must be above 0", max_wait)
        options.setdefault("augment", True)
        checked = checked_options(**options)
        split = checked.selection.split
        require(split in {Split.TRAIN, Split.ALL}, "split must be train or all in a live feed", str(split))
        require(
            checked.selection.split_by is SplitBy.SCENE,
            "split_by must be scene in a live feed",
            checked.selection.split_by,
        )
        self.options = checked.samples
        self.consumer = Consumer(feed=feed, name=consumer or _default_name(), rank=rank, ranks=ranks)
        self.batch_size = batch_size
        self.workers = workers
        self.device = torch.device(device)
        self.max_wait = max_wait
        self.scenes: set[str] = set()
        self.crops = self.batches = self.skipped = 0
        self.wait_seconds = 0.0
        self.position: int | None = None
        self._open = partial(BridgeSource, bridge, self.consumer, address=address, seed=self.options.seed)
        self._filters = Filters(checked.selection, self.options, checked.validation_share)
        self._pool = BufferPool()
        self._source: Source | None = None

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch, to be saved with a checkpoint."""
        return {"feed": self.consumer.feed, "consumer": self.consumer.name, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from a `state_dict` of the same consumer.

        Raises:
            ConfigError: The state is another consumer's.
        """
        own = self.state_dict()
        for name in ("feed", "consumer"):
            if state.get(name) != own[name]:
                raise ConfigError(
                    f"cannot resume: the state is of {name} {state.get(name)}, not of {own[name]}"
                )
        self.position = state["position"]

    def __iter__(self) -> Iterator[Batch]:
        if get_worker_info() is not None:
            raise ConfigError(
                "LiveCropDataset prefetches in threads of its own; use DataLoader(num_workers=0)"
            )
        return self._batches(self._open(position=self.position))

    def _batches(self, source: Source) -> Iterator[Batch]:
        rows = RowQueue(source, self._filters, self.batch_size)
        pending: deque[_PendingBatch] = deque()
        try:
            with ThreadPoolExecutor(max(1, self.workers), "crops", initializer=_use_one_core) as threads:
                while True:
                    started = time.perf_counter()
                    if not self._await_batch(pending, rows, threads, started):
                        break
                    position, chosen, result = pending.popleft()
                    batch = self._finish(chosen, result(), started)
                    if batch is not None:
                        self._report(source, final=False)
                        yield batch
                    self.position = rows.done = position
        finally:
            self._report(source, final=True)
            source.leave(rows.done)

    def _await_batch(
        self, pending: deque[_PendingBatch], rows: RowQueue, threads: ThreadPoolExecutor, started: float
    ) -> bool:
        """Submits batches and waits until one is pending; False at the end of the feed."""
        self._submit(pending, rows, threads)
        while not pending and not rows.ended:
            self._wait(rows, started)
            self._submit(pending, rows, threads)
        return bool(pending)

    def _submit(self, pending: deque[_PendingBatch], rows: RowQueue, threads: ThreadPoolExecutor) -> None:
        """Submits the batches that the available rows fill."""
        while len(pending) <= _PREFETCH * self.workers and (chosen := rows.batch()):
            position, batch = chosen
            make = self._maker_for(rows.source)
            if self.workers:
                future: Future[BatchResult] = threads.submit(make, batch)
                pending.append(_PendingBatch(position, batch, future.result))
            else:
                pending.append(_PendingBatch(position, batch, partial(make, batch)))

    def _maker_for(self, source: Source) -> BatchMaker:
        if self._source is not source:
            self._source = source
            self._maker = BatchMaker(source.store(), self.options, self.device, self._pool)
        return self._maker

    def _wait(self, rows: RowQueue, started: float) -> None:
        if time.perf_counter() - max(started, rows.last_arrival) > self.max_wait:
            raise FeedError(f"no new crop for {self.max_wait:g} s: {rows.source.missing()}")
        time.sleep(timing.FEED_POLL)

    def _finish(self, rows: Sequence[Row], result: BatchResult, started: float) -> Batch | None:
        batch = result.batch
        if isinstance(batch, NativeBatch):
            batch = to_device(batch, self.device)
        self.wait_seconds += time.perf_counter() - started
        self.skipped += len(result.skipped)
        if batch is not None:
            self.batches += 1
            self.crops += len(batch["x_crops"])
            self.scenes.update(f"{row.pair.cfa}/{row.pair.scene}" for row in rows)
        return batch

    def _report(self, source: Source, *, final: bool) -> None:
        source.report(
            final=final,
            scenes=len(self.scenes),
            crops=self.crops,
            batches=self.batches,
            wait_seconds=self.wait_seconds,
        )


def _default_name() -> str:
    if "RANK" in os.environ:  # set by torchrun; the same after a restart of the rank
        return f"rank-{os.environ['RANK']}"
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def _use_one_core() -> None:
    torch.set_num_threads(1)


def replay(
    output: str | Path,
    *,
    batch_size: int,
    feed: str = "train",
    consumer: str | None = None,
    sequence: int | None = None,
    **options: Unpack[CropOptions],
) -> Iterator[Batch]:
    """Repeats the batches of a live training from the finished folder: the same crops, windows and order.

    Args:
        output: the output folder.
        batch_size: that of the training.
        feed: that of the training.
        consumer: the consumer whose batches to repeat; None: all consumers, in the order in which the bridge assigned the
            crops.
        sequence: repeats only crops of the first `sequence` commits.
        options: those of the training, see `LiveCropDataset`.

    Returns:
        An iterator over the batches.

    Raises:
        ConfigError: No crop is recorded for the consumer.

    Examples:
        >>> batches = list(replay("out", batch_size=8, consumer="rank-0"))  # doctest: +SKIP
    """
    dataset = LiveCropDataset(output, batch_size=batch_size, feed=feed, consumer=consumer, **options)
    source = history_source(output, feed=feed, consumer=consumer, sequence=sequence)
    return dataset._batches(source)
