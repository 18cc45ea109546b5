"""Batches of a live feed, made of rows that were given."""

import hashlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from rawnind.errors import DamagedShardError
from rawnind.feed.batch import Batch, FloatBatchBuilder, NativeBatch, NativeBatchBuilder
from rawnind.feed.buffers import BufferPool, pinned
from rawnind.feed.live.connection import Source
from rawnind.feed.manifest_view import Filter, Row, apply_filters, pair_of
from rawnind.feed.render import Sample, render
from rawnind.feed.sampling import generator
from rawnind.feed.selection import Input, OnDamage, SampleOptions, Selection, Split, Verify, in_validation
from rawnind.output.shard_reader import ShardReader
from rawnind.output.store import Store
from rawnind.records import Cfa


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A batch, or none where no row of it could be read.

    Attributes:
        skipped: the shard of each row that could not be read.
    """

    batch: Batch | NativeBatch | None
    skipped: tuple[str, ...]


class Maker:
    """Makes batches, in any number of threads.

    Args:
        store: the output folder.
        options: how samples are made.
        device: where the batches are to be.
        pool: memory for them.
    """

    def __init__(self, store: Store, options: SampleOptions, device: torch.device, pool: BufferPool) -> None:
        self._options = options
        self._device = device
        self._pool = pool
        self._shards = ShardReader(store, verify=options.verify is Verify.SHA256)

    def __call__(self, rows: Sequence[Row]) -> Made:
        """One batch.

        Raises:
            DamagedShardError: A shard is not what the manifest says, and that is not to be skipped.
        """
        samples: list[Sample] = []
        skipped: list[str] = []
        for row in rows:
            try:
                samples.extend(self._samples(row))
            except DamagedShardError:
                if self._options.on_damage is OnDamage.RAISE:
                    raise
                skipped.append(row.pair.shard)
        return Made(batch=self._joined(samples) if samples else None, skipped=tuple(skipped))

    def _joined(self, samples: Sequence[Sample]) -> Batch | NativeBatch:
        if self._device.type == "cpu":
            plain = FloatBatchBuilder(len(samples), self._pool.take)
            for sample in samples:
                plain.add(sample)
            return plain.batch()
        native = NativeBatchBuilder(len(samples), pinned if self._device.type == "cuda" else self._pool.take)
        for sample in samples:
            native.add(sample)
        return native.batch()

    def _samples(self, row: Row) -> list[Sample]:
        pair = row.pair
        crop = self._shards.crop(pair.shard, row.row_group, row.crop_id, pair.size, pair.shard_sha256)
        number = int.from_bytes(hashlib.sha256(row.crop_id.encode()).digest()[:8], "big")
        return render(crop, row, self._options, generator(self._options.seed, 0, number))


class Filters:
    """Which of the given rows become samples.

    Unlike `CropDataset` it does not know all scenes: it leaves each one to validation whose hash says so, even where that
    leaves none for training.

    Args:
        selection: what to keep.
        options: how samples are made.
        share: expected share of scenes that are kept for validation.
    """

    def __init__(self, selection: Selection, options: SampleOptions, share: float) -> None:
        self._split = selection.split
        self._share = share
        self._filters: list[Filter] = [
            ("test reserve", ~pc.field("test_reserve")),
            ("stored size >= crop_size", pc.field("size") >= options.crop_size),
            *selection.filters(),
        ]
        if options.input is Input.RAW:
            self._filters.append(("input raw", pc.field("cfa") == str(Cfa.BAYER)))
        self.left_out = dict.fromkeys((name for name, _ in self._filters), 0)

    def __call__(self, rows: pa.Table) -> list[dict[str, Any]]:
        """The rows that are kept, by column name."""
        kept: list[dict[str, Any]] = apply_filters(rows, self._filters, self.left_out).to_pylist()
        return [
            row for row in kept if self._split is Split.ALL or not in_validation(row["scene"], self._share)
        ]


class Rows:
    """Rows of a source, in batches.

    Args:
        source: where they come from.
        filters: which of them to keep.
        batch_size: rows in a batch; the last one may have fewer.

    Attributes:
        done: the consumer is done with everything below this position.
        last_news: when rows came last.
    """

    def __init__(self, source: Source, filters: Filters, batch_size: int) -> None:
        self.source = source
        self._filters = filters
        self._batch_size = batch_size
        self._waiting: deque[tuple[int, Row]] = deque()
        self.done = 0
        self.last_news = 0.0

    @property
    def ended(self) -> bool:
        """Whether all were given."""
        return self.source.ended and not self._waiting

    def batch(self) -> tuple[int, list[Row]] | None:
        """The next batch and the position behind it; None where there are not enough rows for one at the moment."""
        while len(self._waiting) < self._batch_size and not self.source.ended:
            rows = self.source.fetch(self._batch_size - len(self._waiting), self.done)
            if not len(rows):
                break
            self.last_news = time.perf_counter()
            for row in self._filters(rows):
                self._waiting.append((row["position"], _row(row)))
        if not self._waiting or (len(self._waiting) < self._batch_size and not self.source.ended):
            return None
        chosen = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
        return chosen[-1][0] + 1, [row for _, row in chosen]


def _row(values: dict[str, Any]) -> Row:
    return Row(
        crop_id=values["crop_id"],
        pair=pair_of(values),
        row_group=values["row_group"],
        valid_fraction=values["valid_fraction"],
    )
