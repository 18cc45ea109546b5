"""Makes the batches of a live feed from the rows of its source."""

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
from rawnind.feed.crop_options import Input, OnDamage, SampleOptions, Verify
from rawnind.feed.live.connection import Source
from rawnind.feed.manifest_view import Filter, apply_filters
from rawnind.feed.render import Sample, render
from rawnind.feed.rows import Row, pair_of
from rawnind.feed.sampling import generator
from rawnind.feed.selection import Selection, Split
from rawnind.output.shard_reader import ShardReader
from rawnind.output.store import Store
from rawnind.records import Cfa
from rawnind.splits import in_validation


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchResult:
    """A batch, or None where none of its rows could be read.

    Attributes:
        skipped: the shard of each row that could not be read.
    """

    batch: Batch | NativeBatch | None
    skipped: tuple[str, ...]


class BatchMaker:
    """Makes batches; any number of threads may call it.

    Args:
        store: the output folder.
        options: how samples are made.
        device: the device of the batches.
        pool: memory for the batches.
    """

    def __init__(self, store: Store, options: SampleOptions, device: torch.device, pool: BufferPool) -> None:
        self._options = options
        self._device = device
        self._pool = pool
        self._shards = ShardReader(store, verify=options.verify is Verify.SHA256)

    def __call__(self, rows: Sequence[Row]) -> BatchResult:
        """One batch.

        Raises:
            DamagedShardError: A shard is not what the manifest says, and `on_damage` is "raise".
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
        return BatchResult(batch=self._batch_of(samples) if samples else None, skipped=tuple(skipped))

    def _batch_of(self, samples: Sequence[Sample]) -> Batch | NativeBatch:
        if self._device.type == "cpu":
            plain = FloatBatchBuilder(len(samples), self._pool.allocate)
            for sample in samples:
                plain.add(sample)
            return plain.batch()
        native = NativeBatchBuilder(
            len(samples), pinned if self._device.type == "cuda" else self._pool.allocate
        )
        for sample in samples:
            native.add(sample)
        return native.batch()

    def _samples(self, row: Row) -> list[Sample]:
        pair = row.pair
        crop = self._shards.crop(pair.shard, row.row_group, row.crop_id, pair.size, pair.shard_sha256)
        number = int.from_bytes(hashlib.sha256(row.crop_id.encode()).digest()[:8], "big")
        return render(crop, row, self._options, generator(self._options.seed, 0, number))


class Filters:
    """Selects the rows that become samples.

    Unlike `CropDataset` it cannot see all scenes. Every scene whose hash selects it for validation is left out, even where
    that leaves none for training.

    Args:
        selection: what to keep.
        options: how samples are made.
        share: expected fraction of scenes in the validation split.
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


class RowQueue:
    """Groups the rows of a source into batches.

    Args:
        source: the source of the rows.
        filters: which rows to keep.
        batch_size: rows in a batch; the last batch may have fewer.

    Attributes:
        done: the consumer has finished with all positions below this one.
        last_arrival: `time.perf_counter()` of the last rows.
    """

    def __init__(self, source: Source, filters: Filters, batch_size: int) -> None:
        self.source = source
        self._filters = filters
        self._batch_size = batch_size
        self._pending: deque[tuple[int, Row]] = deque()
        self.done = 0
        self.last_arrival = 0.0

    @property
    def ended(self) -> bool:
        """Whether all rows were returned."""
        return self.source.ended and not self._pending

    def batch(self) -> tuple[int, list[Row]] | None:
        """The next batch and the position after it; None while there are not enough rows for a batch."""
        while len(self._pending) < self._batch_size and not self.source.ended:
            rows = self.source.fetch(self._batch_size - len(self._pending), self.done)
            if not len(rows):
                break
            self.last_arrival = time.perf_counter()
            for row in self._filters(rows):
                self._pending.append((row["position"], _row(row)))
        if not self._pending or (len(self._pending) < self._batch_size and not self.source.ended):
            return None
        chosen = [self._pending.popleft() for _ in range(min(self._batch_size, len(self._pending)))]
        return chosen[-1][0] + 1, [row for _, row in chosen]


def _row(values: dict[str, Any]) -> Row:
    return Row(
        crop_id=values["crop_id"],
        pair=pair_of(values),
        row_group=values["row_group"],
        gt_tile=(values["gt_tile_y"], values["gt_tile_x"]),
        valid_fraction=values["valid_fraction"],
    )
