"""Batches of a live feed, made of rows that were given."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rawnind.errors import DamagedShardError
from rawnind.storage.shard_reader import ShardReader
from rawnind.storage.store import Store
from rawnind.training.batch import Batch, NativeBatch
from rawnind.training.manifest_view import Row
from rawnind.training.memory import BufferPool, pinned
from rawnind.training.options import OnDamage, SampleOptions, Verify
from rawnind.training.render import Sample, render
from rawnind.training.sampling import generator
from rawnind.training.sinks import NativeSink, PlainSink


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
            plain = PlainSink(len(samples), self._pool.take)
            for sample in samples:
                plain.add(sample)
            return plain.batch()
        native = NativeSink(len(samples), pinned if self._device.type == "cuda" else self._pool.take)
        for sample in samples:
            native.add(sample)
        return native.batch()

    def _samples(self, row: Row) -> list[Sample]:
        pair = row.pair
        crop = self._shards.crop(pair.shard, row.row_group, row.crop_id, pair.size, pair.shard_sha256)
        number = int.from_bytes(hashlib.sha256(row.crop_id.encode()).digest()[:8], "big")
        return render(crop, row, self._options, generator(self._options.seed, 0, number))
