"""Training while the job still runs: batches of crops from the moment their scene is committed."""

import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import torch
from torch.utils.data import IterableDataset, get_worker_info

from rawnind.errors import ConfigError
from rawnind.feed.batch import Batch, NativeBatch, to_device
from rawnind.feed.buffers import BufferPool
from rawnind.feed.live.batching import Filters, Made, Maker, Rows
from rawnind.feed.live.connection import BridgeSource, FeedError, Source, record_source
from rawnind.feed.live.replay import Who
from rawnind.feed.manifest_view import Row
from rawnind.feed.selection import (
    VALIDATION_SHARE,
    Input,
    OnDamage,
    SampleOptions,
    Selection,
    Split,
    TrainingPairing,
    Verify,
    choice,
)
from rawnind.records import Cfa

__all__ = ["FeedError", "LiveCropDataset", "replay"]

_POLL = 0.1  # seconds between two questions while there is nothing
_AHEAD = 2  # batches per thread


class _Begun(NamedTuple):
    position: int
    rows: list[Row]
    make: Callable[[], Made]


class LiveCropDataset(IterableDataset[Batch]):
    """Batches of an output folder that `rawnind prepare` is still filling: in this process, in another, or in another job.

    Going through it once is one epoch: it gives each crop that the run collects, once over all consumers of the feed, and ends
    when the run has finished and everything is given. Whoever is faster gets more. A batch comes as soon as it can be
    filled; the last one may be smaller. A bridge that dies is waited for. When the run ends, the bridge divides what is left
    among the consumers, and each goes on from the finished folder. Further epochs are for `CropDataset`.

    Give the dataset to `DataLoader(dataset, batch_size=None)`, or go through it as it is; it works ahead in threads.

    A consumer that dies keeps what it was given. A process that comes back by the same name gets it again, from behind the
    last batch that was done with (the next one was asked for), or from where `load_state_dict` says. Torchrun's ranks have
    lasting names; others need `consumer` for that.

    A Ray that a program started for itself lets no other process in without its token: set RAY_AUTH_MODE=token there.

    Args:
        bridge: the bridge's actor handle, its name (`rawnind.pipeline.graph.bridge_name`), or the output folder.
        batch_size: rows in a batch; each gives `num_crops` sub-crops.
        feed: consumers with the same feed share its crops; another training needs another feed.
        consumer: this process's name among them. Default: its rank under torchrun, else a new name.
        max_wait: seconds without a new crop after which it gives up and says what it waited for.
        split: "train", or "all" for training and validation scenes; the test reserve never comes out.
        rank: of this consumer, which matters only where nobody had joined the feed when the run ended.
        ranks: consumers in all; see `rank`.
        device: where the batches are to be.
        workers: threads that make batches ahead; 0 makes each when it is asked for.
        address: the Ray cluster; None: the one that this process has, or RAY_ADDRESS, or the one on this machine.
        verify: "layout", or "sha256".
        on_damage: "raise", or "skip": a batch then lacks the crops that cannot be read (see `skipped`).
        crop_size: this and all that follow are as in `CropDataset`. Samples depend on the seed and the crop alone.

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
        split: str = "train",
        rank: int = 0,
        ranks: int = 1,
        device: torch.device | str = "cpu",
        workers: int = 0,
        address: str | None = None,
        crop_size: int = 256,
        num_crops: int = 1,
        input: str = "raw",  # noqa: A002 the word of the research code
        pairing: str = "x_y",
        match_gain: bool = True,
        augment: bool = True,
        seed: int = 0,
        cfa: str | None = None,
        min_msssim: float | None = None,
        max_alignment_loss: float | None = None,
        min_valid_fraction: float | None = None,
        iso: tuple[int, int] | None = None,
        camera: str | Sequence[str] | None = None,
        expression: pc.Expression | None = None,
        least_valid: float = 0.5,
        tries: int = 8,
        validation_share: float = VALIDATION_SHARE,
        on_damage: str = "raise",
        verify: str = "layout",
    ) -> None:
        if batch_size < 1 or workers < 0 or not 0 <= rank < ranks or max_wait <= 0:
            raise ConfigError(
                "batch_size must be at least 1, workers at least 0, rank below ranks, max_wait above 0, got "
                f"{batch_size}, {workers}, {rank} of {ranks}, {max_wait}"
            )
        selection = Selection(
            split=choice(Split, "split", split),
            cfa=None if cfa is None else choice(Cfa, "cfa", cfa),
            min_msssim=min_msssim,
            max_alignment_loss=max_alignment_loss,
            min_valid_fraction=min_valid_fraction,
            iso=iso,
            cameras=(camera,) if isinstance(camera, str) else tuple(camera or ()),
            expression=expression,
        )
        if selection.split not in {Split.TRAIN, Split.ALL}:
            raise ConfigError(f"split must be train or all while the job runs, got {split!r}")
        self.options = SampleOptions(
            crop_size=crop_size,
            num_crops=num_crops,
            input=choice(Input, "input", input),
            pairing=choice(TrainingPairing, "pairing", pairing),
            match_gain=match_gain,
            augment=augment,
            seed=seed,
            least_valid=least_valid,
            tries=tries,
            on_damage=choice(OnDamage, "on_damage", on_damage),
            verify=choice(Verify, "verify", verify),
        )
        self.who = Who(feed=feed, consumer=consumer or _own_name(), rank=rank, ranks=ranks)
        self.batch_size = batch_size
        self.workers = workers
        self.device = torch.device(device)
        self.max_wait = max_wait
        self.scenes: set[str] = set()
        self.crops = self.batches = self.skipped = 0
        self.wait_seconds = 0.0
        self.position: int | None = None
        self._open = partial(BridgeSource, bridge, self.who, address=address, seed=seed)
        self._filters = Filters(selection, self.options, validation_share)
        self._pool = BufferPool()
        self._made_for: Source | None = None

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins: what to keep with a checkpoint."""
        return {"feed": self.who.feed, "consumer": self.who.consumer, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken, by the same consumer's name.

        Raises:
            ConfigError: The state is another consumer's.
        """
        own = self.state_dict()
        for name in ("feed", "consumer"):
            if state.get(name) != own[name]:
                raise ConfigError(
                    f"cannot go on: the state is of {name} {state.get(name)}, not of {own[name]}"
                )
        self.position = state["position"]

    def __iter__(self) -> Iterator[Batch]:
        if get_worker_info() is not None:
            raise ConfigError(
                "LiveCropDataset works ahead in threads of its own; use DataLoader(num_workers=0)"
            )
        return self._batches(self._open(position=self.position))

    def _batches(self, source: Source) -> Iterator[Batch]:
        rows = Rows(source, self._filters, self.batch_size)
        waiting: deque[_Begun] = deque()
        try:
            with ThreadPoolExecutor(max(1, self.workers), "crops", initializer=_one_thread) as threads:
                while True:
                    asked = time.perf_counter()
                    if not self._begin(waiting, rows, threads, asked):
                        break
                    position, chosen, make = waiting.popleft()
                    batch = self._taken(chosen, make(), asked)
                    if batch is not None:
                        self._report(source, final=False)
                        yield batch
                    self.position = rows.done = position
        finally:
            self._report(source, final=True)
            source.leave(rows.done)

    def _begin(self, waiting: deque["_Begun"], rows: Rows, threads: ThreadPoolExecutor, asked: float) -> bool:
        """Begins batches, and waits until there is one; False when there will be none."""
        self._fill(waiting, rows, threads)
        while not waiting and not rows.ended:
            self._wait(rows, asked)
            self._fill(waiting, rows, threads)
        return bool(waiting)

    def _fill(self, waiting: deque["_Begun"], rows: Rows, threads: ThreadPoolExecutor) -> None:
        """Begins batches of what there is, without waiting for more."""
        while len(waiting) <= _AHEAD * self.workers and (chosen := rows.batch()):
            position, batch = chosen
            make = self._maker(rows.source)
            if self.workers:
                future: Future[Made] = threads.submit(make, batch)
                waiting.append(_Begun(position, batch, future.result))
            else:
                waiting.append(_Begun(position, batch, partial(make, batch)))

    def _maker(self, source: Source) -> Maker:
        if self._made_for is not source:
            self._made_for = source
            self._make = Maker(source.store(), self.options, self.device, self._pool)
        return self._make

    def _wait(self, rows: Rows, asked: float) -> None:
        if time.perf_counter() - max(asked, rows.last_news) > self.max_wait:
            raise FeedError(f"no new crop for {self.max_wait:g} s: {rows.source.missing()}")
        time.sleep(_POLL)

    def _taken(self, rows: Sequence[Row], made: Made, asked: float) -> Batch | None:
        batch = to_device(made.batch, self.device) if isinstance(made.batch, NativeBatch) else made.batch
        self.wait_seconds += time.perf_counter() - asked
        self.skipped += len(made.skipped)
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


def _own_name() -> str:
    if "RANK" in os.environ:  # set by torchrun, and kept when it starts a rank anew
        return f"rank-{os.environ['RANK']}"
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def _one_thread() -> None:
    torch.set_num_threads(1)


def replay(
    output: str | Path,
    *,
    batch_size: int,
    feed: str = "train",
    consumer: str | None = None,
    sequence: int | None = None,
    **options: Any,
) -> Iterator[Batch]:
    """The batches that a live training got, made anew from the finished folder: the same crops, windows and order.

    Args:
        output: the output folder.
        batch_size: the training's.
        feed: the training's.
        consumer: whose batches; None: those of all consumers, in the order in which the bridge gave the crops.
        sequence: only crops of the first `sequence` commits, that is of the manifest as it would have been then.
        options: the training's, as in `LiveCropDataset`.

    Raises:
        ConfigError: Nothing is on record.
    """
    dataset = LiveCropDataset(output, batch_size=batch_size, feed=feed, consumer=consumer, **options)
    source = record_source(output, feed=feed, consumer=consumer, sequence=sequence)
    return dataset._batches(source)
