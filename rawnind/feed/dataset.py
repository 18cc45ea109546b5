"""A map-style torch Dataset over the manifests and shards of one or more output folders."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from rawnind.errors import DamagedShardError
from rawnind.feed.batch import (
    Batch,
    BatchBuilder,
    NativeBatch,
    NativeBatchBuilder,
    as_item,
    to_device,
    with_extras,
)
from rawnind.feed.buffers import BufferPool, in_worker
from rawnind.feed.crop_options import CropOptions, Input, OnDamage, Verify, checked_options
from rawnind.feed.extras import of_single_item
from rawnind.feed.manifest_view import load_view, manifest_digest
from rawnind.feed.render import Sample, render
from rawnind.feed.rows import Pair, Row
from rawnind.feed.sampling import generator
from rawnind.feed.shared_memory import allocate_shared
from rawnind.output.manifest import MANIFEST, incompleteness
from rawnind.output.shard_reader import ShardReader
from rawnind.output.store import Store
from rawnind.records import Cfa
from rawnind.rules import require
from rawnind.words import counted

log = logging.getLogger(__name__)

_MAX_CACHED_PAIRS = 4096
_OPEN_SHARDS = 128


class CropDataset(Dataset[Batch]):
    """Crops of output folders as training samples; one item is one row of a manifest.

    An item, and every batch, has the keys of `Batch`. Item `i` of epoch `e` depends on (seed, e, i) alone, whatever the
    number of workers. `CropLoader` is the fastest way to iterate over it. Any `torch.utils.data.DataLoader` works as well:
    with fork or spawn, with persistent workers, and without a `collate_fn`; its workers send the number types of the
    shards, half the bytes, and the consumer gets float32. With a DataLoader, call `set_epoch` before each epoch.

    Several folders, also of different recipes, are joined in their order. A scene is then in one split alone, in whichever
    folder its photos are and under whichever name. torch's `ConcatDataset` and `Subset` can be given to a DataLoader as
    well, but each data set in a ConcatDataset makes its own splits, and samples are converted one by one.

    Args:
        output: the folder that `rawnind prepare` wrote: a local path or a URI such as `s3://bucket/folder`; or several.
        options: which crops to read and how to make samples of them, see `CropOptions`: for example `split`, `crop_size`,
            `input`, `iso`, `min_msssim`. With `on_damage="skip"`, a crop that cannot be read is replaced by the first crop
            of the next pair, logged, and counted by `CropLoader.counters` and `NativeBatch.damaged`.

    Raises:
        ConfigError: An option is wrong, or no row is left; the message says how many rows each filter removed.
        NotPreparedError: The folder has no manifest.
        ManifestError: A manifest cannot be read.

    Examples:
        >>> dataset = CropDataset("out", crop_size=256, iso=(800, 12800), min_msssim=0.8)  # doctest: +SKIP
        >>> dataset[0]["x_crops"].shape  # doctest: +SKIP
        torch.Size([1, 3, 256, 256])
        >>> for batch in DataLoader(dataset, batch_size=8, shuffle=True, num_workers=2):  # doctest: +SKIP
        ...     loss = masked_l1(model(batch["y_crops"]), batch["x_crops"], batch["mask_crops"])
    """

    def __init__(self, output: str | Path | Sequence[str | Path], **options: Unpack[CropOptions]) -> None:
        checked = checked_options(**options)
        self.options = checked.samples
        self._stores = _stores(output)
        self.rows = load_view(
            self._stores, checked.selection, self._required(), validation_share=checked.validation_share
        )
        self._readers = [
            ShardReader(
                store,
                verify=self.options.verify is Verify.SHA256,
                keep=max(_OPEN_SHARDS // len(self._stores), 1),
            )
            for store in self._stores
        ]
        self._pool = BufferPool()
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # seen by workers that already run
        self._digest: dict[str, str] | None = None
        for store in self._stores:
            if missing := incompleteness(store):
                log.warning("%s: %s", store.location, missing)
        self._split = checked.selection.split
        self._pairs: dict[int, Pair] = {}
        self._reported: set[str] = set()
        if self.rows_without_bayer:
            log.warning(
                "%d of %d crops are not Bayer and were left out; input='rgb' reads them",
                self.rows_without_bayer,
                self.rows_without_bayer + len(self.rows),
            )

    def _required(self) -> list[tuple[str, pc.Expression]]:
        size = [("stored size >= crop_size", pc.field("size") >= self.options.crop_size)]
        raw = [("input raw", pc.field("cfa") == str(Cfa.BAYER))]
        return size + (raw if self.options.input is Input.RAW else [])

    @property
    def rows_without_bayer(self) -> int:
        """Number of rows of the split that were left out because input="raw" reads Bayer alone."""
        return dict(self.rows.left_out).get("input raw", 0)

    @property
    def epoch(self) -> int:
        """The epoch that items are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, also in workers that already run. Call it between two epochs, not within one."""
        self._epoch.fill_(epoch)

    def digest(self) -> dict[str, str]:
        """What identifies the samples: hashes of the manifests and of the selected rows, and the options."""
        if self._digest is None:  # a million rows are 142 MB to hash
            self._digest = {
                "manifest": " ".join(map(manifest_digest, self._stores)),
                "rows": self.rows.digest,
                "options": repr(self.options),
            }
        return self._digest

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        pairs, options = self.rows.pairs, self.options
        scenes = len(pairs.group_by(["cfa", "scene"]).aggregate([]))
        isos = pc.min_max(pairs["iso"]).as_py()
        iso = f"ISO {isos['min']} to {isos['max']}" if isos["min"] is not None else "ISO unknown"
        removed = ", ".join(f"{name} {count}" for name, count in self.rows.left_out if count)
        return (
            f"CropDataset of {', '.join(store.location for store in self._stores)}: split {self._split}, {counted(len(self), 'crop')} of "
            f"{counted(len(pairs), 'pair')}, {counted(scenes, 'scene')}, cameras {', '.join(sorted(pairs['camera'].unique().to_pylist()))}, {iso}; "
            f"{options.num_crops} x {options.crop_size} sites, input {options.input}, pairing {options.pairing}"
            + (f", extras {', '.join(options.extras)}" if options.extras else "")
            + (f"; rows removed: {removed}" if removed else "")
        )

    def __getitem__(self, index: int) -> Batch:
        """One row as float32: `num_crops` sub-crops, one colour matrix (4, 3), one gain.

        Raises:
            IndexError: There is no such row.
            DamagedShardError: Its shard is not what the manifest says.
        """
        batch = to_device(self.native([index]))
        batch["rgb_xyz_matrix"] = batch["rgb_xyz_matrix"][0]
        batch["gain"] = float(batch["gain"][0])
        shared = {str(name): of_single_item(batch[name.value]) for name in self.options.extras}
        return as_item(with_extras(batch, shared))

    def __getitems__(self, indices: Sequence[int]) -> list[NativeBatch]:
        """A whole batch in one block of memory; torch's DataLoader calls this instead of `__getitem__`."""
        return [self.native(indices)]

    def native(self, indices: Sequence[int]) -> NativeBatch:
        """A batch in the number types of the shards. Errors as in `__getitem__`."""
        builder = NativeBatchBuilder(
            len(indices) * self.options.num_crops, allocate_shared if in_worker() else self._pool.allocate
        )
        damaged = self.fill(builder, indices, self.epoch)
        return builder.batch(damaged)

    def fill(self, builder: BatchBuilder, indices: Sequence[int], epoch: int) -> tuple[str, ...]:
        """Adds the samples of some rows to a batch.

        Args:
            builder: receives the samples.
            indices: rows of `self.rows`.
            epoch: decides the random windows.

        Returns:
            The shard of each crop that could not be read; see `on_damage`.
        """
        damaged: list[str] = []
        for index in indices:
            for sample in self._samples(index, epoch, damaged):
                builder.add(sample)
        return tuple(damaged)

    def _samples(self, index: int, epoch: int, damaged: list[str]) -> list[Sample]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        rng = generator(self.options.seed, epoch if self.options.augment else 0, index)
        failed = []
        for candidate in self._candidates(index):
            row = self._row(candidate)
            try:
                crop = self._readers[row.pair.folder].crop(
                    row.pair.shard, row.row_group, row.crop_id, row.pair.size, row.pair.shard_sha256
                )
            except DamagedShardError as error:
                if self.options.on_damage is OnDamage.RAISE:
                    raise
                self._report(row.pair.shard, error)
                failed.append(row.pair.shard)
            else:
                damaged.extend(failed[:1])
                return render(crop, row, self.options, rng)
        where = ", ".join(store.location for store in self._stores)
        raise DamagedShardError(f"none of the {len(self.rows.pairs)} shards in {where} can be read")

    def _candidates(self, index: int) -> Iterator[int]:
        """The row, then the first row of every other pair, in order from the next pair on."""
        yield index
        count, pair = len(self.rows.pairs), int(self.rows.pair[index])
        for step in range(1, count):
            yield int(np.searchsorted(self.rows.pair, (pair + step) % count))

    def _row(self, index: int) -> Row:
        number = int(self.rows.pair[index])
        if number not in self._pairs:
            if len(self._pairs) >= _MAX_CACHED_PAIRS:
                self._pairs.clear()
            self._pairs[number] = self.rows.pair_at(number)
        return self.rows.row(index, self._pairs[number])

    def _report(self, shard: str, error: DamagedShardError) -> None:
        if shard not in self._reported:
            self._reported.add(shard)
            log.warning("skipped a damaged shard: %s", error)


def _stores(output: str | Path | Sequence[str | Path]) -> list[Store]:
    folders = [output] if isinstance(output, str | Path) else list(output)
    stores = [Store(str(folder)) for folder in folders]
    require(bool(stores), "output must name a folder", folders)
    places = [store.full(MANIFEST) for store in stores]
    require(
        len(set(places)) == len(places), "output must name each folder once", [s.location for s in stores]
    )
    return stores
