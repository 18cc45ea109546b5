"""The feed: a map-style torch Dataset over the manifest and the shards."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from rawnind.errors import DamagedShardError
from rawnind.feed.batch import Batch, BatchBuilder, NativeBatch, NativeBatchBuilder, to_device
from rawnind.feed.buffers import BufferPool, in_worker
from rawnind.feed.manifest_view import Pair, Row, load_view, manifest_digest
from rawnind.feed.render import Sample, render
from rawnind.feed.sampling import generator
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
from rawnind.feed.shared_memory import shared
from rawnind.output.shard_reader import ShardReader
from rawnind.output.store import Store
from rawnind.records import Cfa

log = logging.getLogger(__name__)

_PAIRS_AT_HAND = 4096


class CropDataset(Dataset[Batch]):
    """Crops of an output folder as training samples; one item is one row of the manifest.

    An item, and every batch, holds the keys of `Batch`. Item `i` of epoch `e` depends on (seed, e, i) alone, whatever the
    number of workers. `CropLoader` is the fastest way to go through it. Any `torch.utils.data.DataLoader` will do: with fork or
    spawn, with persistent workers, and without a `collate_fn`; its workers send the shards' number types, half the bytes,
    and what arrives is float32. Call `set_epoch` before each epoch then.

    Args:
        output: the folder that `rawnind prepare` wrote: a local path or a URI such as `s3://bucket/folder`.
        split: "train", "val" (whole scenes, chosen by the hash of their name), "test" (the test reserve alone), or "all"
            (train and val).
        crop_size: side of the sub-crops in sites, a multiple of 32, at most the stored size.
        num_crops: sub-crops of each row.
        input: "raw": y is packed Bayer, X-Trans rows are left out (see `rows_without_bayer`); "rgb": y is demosaiced.
        pairing: "x_y": x is the GT, y the noisy photo; "x_x": both are the GT; "y_y": both are the noisy photo.
        match_gain: whether y is brought to the brightness of x.
        augment: random flips and transpositions, and other windows in every epoch; None: in split "train".
        seed: of everything random.
        cfa: "bayer" or "x-trans"; None keeps both.
        min_msssim: lowest mean MS-SSIM of a crop.
        max_alignment_loss: highest alignment loss of a pair.
        min_valid_fraction: smallest share of valid pixels of a stored crop.
        iso: (lowest, highest) ISO of the noisy photo.
        camera: a name, or several, as the manifest spells them.
        expression: a `pyarrow.compute` expression over the manifest's columns.
        least_valid: share of valid pixels that a sub-crop should have.
        tries: windows that are tried for it; the best one is taken.
        validation_share: expected share of scenes in split "val".
        on_damage: "raise", or "skip": the first crop of the next pair stands in for one that cannot be read. It is logged,
            and counted by `CropLoader.counters` and `NativeBatch.damaged`.
        verify: "layout", or "sha256": each process also hashes each shard once before it uses it.

    Raises:
        ConfigError: An option is wrong, or no row is left; the message says which filter removed how many.
        ManifestError: The folder has no manifest that can be read.

    Examples:
        >>> dataset = CropDataset("out", crop_size=256, iso=(800, 12800), min_msssim=0.8)  # doctest: +SKIP
        >>> dataset[0]["x_crops"].shape  # doctest: +SKIP
        torch.Size([1, 3, 256, 256])
        >>> for batch in DataLoader(dataset, batch_size=8, shuffle=True, num_workers=2):  # doctest: +SKIP
        ...     loss = masked_l1(model(batch["y_crops"]), batch["x_crops"], batch["mask_crops"])
    """

    def __init__(
        self,
        output: str | Path,
        *,
        split: str = "train",
        crop_size: int = 256,
        num_crops: int = 1,
        input: str = "raw",  # noqa: A002 the word of the research code
        pairing: str = "x_y",
        match_gain: bool = True,
        augment: bool | None = None,
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
        self.options = SampleOptions(
            crop_size=crop_size,
            num_crops=num_crops,
            input=choice(Input, "input", input),
            pairing=choice(TrainingPairing, "pairing", pairing),
            match_gain=match_gain,
            augment=selection.split is Split.TRAIN if augment is None else augment,
            seed=seed,
            least_valid=least_valid,
            tries=tries,
            on_damage=choice(OnDamage, "on_damage", on_damage),
            verify=choice(Verify, "verify", verify),
        )
        self._store = Store(str(output))
        self.rows = load_view(self._store, selection, self._needs(), validation_share=validation_share)
        self._reader = ShardReader(self._store, verify=self.options.verify is Verify.SHA256)
        self._pool = BufferPool()
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # seen by workers that already run
        self._digest: dict[str, str] | None = None
        self._pairs: dict[int, Pair] = {}
        self._reported: set[str] = set()
        if self.rows_without_bayer:
            log.warning(
                "%d of %d crops are not Bayer and were left out; input='rgb' reads them",
                self.rows_without_bayer,
                self.rows_without_bayer + len(self.rows),
            )

    def _needs(self) -> list[tuple[str, pc.Expression]]:
        size = [("stored size >= crop_size", pc.field("size") >= self.options.crop_size)]
        raw = [("input raw", pc.field("cfa") == str(Cfa.BAYER))]
        return size + (raw if self.options.input is Input.RAW else [])

    @property
    def rows_without_bayer(self) -> int:
        """Rows of the split that were left out because input="raw" reads Bayer alone."""
        return dict(self.rows.left_out).get("input raw", 0)

    @property
    def epoch(self) -> int:
        """The epoch that items are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, in workers that already run as well. Call it between two epochs, not within one."""
        self._epoch.fill_(epoch)

    def digest(self) -> dict[str, str]:
        """What identifies the samples: the manifest, the chosen rows, and the options."""
        if self._digest is None:  # a million rows are 142 MB to hash
            self._digest = {
                "manifest": manifest_digest(self._store),
                "rows": self.rows.digest,
                "options": repr(self.options),
            }
        return self._digest

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        """One row as float32: `num_crops` sub-crops, one colour matrix (4, 3), one gain.

        Raises:
            IndexError: There is no such row.
            DamagedShardError: Its shard is not what the manifest says.
        """
        batch = to_device(self.native([index]))
        batch["rgb_xyz_matrix"] = batch["rgb_xyz_matrix"][0]
        batch["gain"] = float(batch["gain"][0])
        return batch

    def __getitems__(self, indices: Sequence[int]) -> list[NativeBatch]:
        """A whole batch at once, in one piece; torch's DataLoader prefers this to single items."""
        return [self.native(indices)]

    def native(self, indices: Sequence[int]) -> NativeBatch:
        """A batch in the shards' number types. Errors as in `__getitem__`."""
        builder = NativeBatchBuilder(
            len(indices) * self.options.num_crops, shared if in_worker() else self._pool.take
        )
        damaged = self.fill(builder, indices, self.epoch)
        return builder.batch(damaged)

    def fill(self, builder: BatchBuilder, indices: Sequence[int], epoch: int) -> tuple[str, ...]:
        """Gives the samples of some rows to a builder.

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
        for candidate in self._stand_ins(index):
            row = self._row(candidate)
            try:
                crop = self._reader.crop(
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
        raise DamagedShardError(
            f"none of the {len(self.rows.pairs)} shards in {self._store.location} can be read"
        )

    def _stand_ins(self, index: int) -> Iterator[int]:
        """The row, then the first row of each later pair, round to the row's own."""
        yield index
        count, own = len(self.rows.pairs), int(self.rows.pair[index])
        for step in range(1, count):
            yield int(np.searchsorted(self.rows.pair, (own + step) % count))

    def _row(self, index: int) -> Row:
        number = int(self.rows.pair[index])
        if number not in self._pairs:
            if len(self._pairs) >= _PAIRS_AT_HAND:
                self._pairs.clear()
            self._pairs[number] = self.rows.pair_at(number)
        return self.rows.row(index, self._pairs[number])

    def _report(self, shard: str, error: DamagedShardError) -> None:
        if shard not in self._reported:
            self._reported.add(shard)
            log.warning("skipped a damaged shard: %s", error)
