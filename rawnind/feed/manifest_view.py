"""The selected rows of the manifest in a form small enough to be sent to every worker."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rawnind.errors import ConfigError, NotPreparedError
from rawnind.feed.rows import COLORS, Pair, Row, pair_of
from rawnind.feed.selection import Selection, Split, SplitBy
from rawnind.output.manifest import MANIFEST, PAIRS
from rawnind.output.schema import MANIFEST_SCHEMA
from rawnind.output.shards import crop_name
from rawnind.output.store import Store
from rawnind.output.tables import open_table, require_sealed, require_sound
from rawnind.records import Cfa
from rawnind.splits import held_out_cameras, validation_scenes

log = logging.getLogger(__name__)

_NOISE_COLUMNS = tuple(f"noise_{part}_{color}" for color in COLORS for part in "ab")
_CROP_COLUMNS = ("row_group", "y", "x", "valid_fraction", "gt_tile_y", "gt_tile_x")
_PAIR_COLUMNS = (
    "scene", "cfa", "pair_id", "size", "gain", "black_level", "white_level", "gt_black_level",
    "gt_white_level", "rgb_xyz_matrix", "contrast_red", "contrast_blue", "gt_rgb_xyz_matrix",
    "gt_contrast_red", "gt_contrast_blue", "iso", "camera", *_NOISE_COLUMNS, "shard", "shard_sha256",
)  # fmt: skip
_NEWER_COLUMNS = (
    "contrast_red", "contrast_blue", "gt_rgb_xyz_matrix", "gt_contrast_red", "gt_contrast_blue", *_NOISE_COLUMNS,
    "gt_tile_y", "gt_tile_x",
)  # fmt: skip
"""Columns that manifests of earlier versions lack; they are null there."""
_SHIFT = ("shift_y", "shift_x")
_FILTER_COLUMNS = (
    "test_reserve", "gt_sha1", "noisy_sha1", "msssim", "alignment_loss",
)  # fmt: skip
_FILTERED_BY = {*_FILTER_COLUMNS, "iso", "camera", "scene", "cfa", "size", "valid_fraction"}
_ROW_NUMBER = "number of the row"
_FOLDER = "number of the folder"
_REPEATED = ("scene", "cfa", "pair_id", "camera", "gt_sha1", "noisy_sha1", "shard", "shard_sha256", "recipe")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class ManifestView:
    """The selected rows, in the order of the folders and of their manifests: 22 bytes per row, and the common values of a pair once per pair.

    Attributes:
        pairs: one row per pair.
        pair: (n,) index into `pairs`.
        row_group: (n,) number of the crop's row group in its shard.
        y: (n,) first row of the crop in the noisy photo's visible area.
        x: (n,) first column.
        valid_fraction: (n,) fraction of valid pixels, 0..1.
        gt_tile_y: (n,) row of the stored GT crop on which its first CFA tile starts.
        gt_tile_x: (n,) the same for columns.
        left_out: how many rows each filter removed, in the order of the filters.
    """

    pairs: pa.Table
    pair: NDArray[np.int32]
    row_group: NDArray[np.int32]
    y: NDArray[np.int32]
    x: NDArray[np.int32]
    valid_fraction: NDArray[np.float32]
    gt_tile_y: NDArray[np.int8]
    gt_tile_x: NDArray[np.int8]
    left_out: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def digest(self) -> str:
        """SHA-256 that changes when the selected rows change."""
        digest = hashlib.sha256()
        for name in ("shard", "shard_sha256"):
            digest.update("\n".join(self.pairs[name].to_pylist()).encode())
        for values in (self.pair, self.row_group):
            digest.update(values.tobytes())
        return digest.hexdigest()

    def row(self, index: int, pair: Pair) -> Row:
        """Row number `index`, whose pair is `pair_at(self.pair[index])`."""
        return Row(
            crop_id=crop_name(pair.pair_id, int(self.y[index]), int(self.x[index])),
            pair=pair,
            row_group=int(self.row_group[index]),
            gt_tile=(int(self.gt_tile_y[index]), int(self.gt_tile_x[index])),
            valid_fraction=float(self.valid_fraction[index]),
        )

    def pair_at(self, number: int) -> Pair:
        """Pair number `number`."""
        values = {name: self.pairs[name][number].as_py() for name in _PAIR_COLUMNS}
        return pair_of(values, self.pairs[_FOLDER][number].as_py())


Filter = tuple[str, pc.Expression]


def load_view(
    stores: Sequence[Store], selection: Selection, extra: Sequence[Filter] = (), *, validation_share: float
) -> ManifestView:
    """Reads the manifests one row group at a time and keeps the selected rows.

    Args:
        stores: the output folders; the splits are made over all of them.
        selection: which rows to keep.
        extra: further filters, applied after the split and before those of the selection.
        validation_share: expected fraction of scenes in split "val".

    Raises:
        NotPreparedError: There is no manifest.
        ManifestError: It cannot be read.
        ConfigError: No row is left, or an expression does not fit the columns.
    """
    if missing := [store.location for store in stores if not store.exists(MANIFEST)]:
        raise NotPreparedError(f"{missing[0]} has no {MANIFEST}; run `rawnind prepare` first")
    for store in stores:
        require_sealed(store)
    split = split_filters(stores, selection.split, validation_share, selection.split_by)
    filters = [*split, *extra, *selection.filters()]
    left_out = dict.fromkeys((name for name, _ in filters), 0)
    parts, total = [], 0
    for folder, store in enumerate(stores):
        for table in read_groups(store, everything=selection.expression is not None):
            total += len(table)
            if len(kept := apply_filters(table, filters, left_out)):
                parts.append(_split_pairs(kept, folder))
    if not parts:
        raise ConfigError(_nothing_left(stores, total, left_out))
    offsets = np.cumsum([0, *(len(pairs) for pairs, _, _ in parts[:-1])])
    columns = {name: np.concatenate([crops[name] for _, _, crops in parts]) for name in _CROP_COLUMNS}
    return ManifestView(
        pairs=pa.concat_tables([pairs for pairs, _, _ in parts]).combine_chunks(),
        pair=np.concatenate(
            [pair + offset for (_, pair, _), offset in zip(parts, offsets, strict=True)]
        ).astype(np.int32),
        row_group=columns["row_group"],
        y=columns["y"],
        x=columns["x"],
        valid_fraction=columns["valid_fraction"].astype(np.float32),
        gt_tile_y=columns["gt_tile_y"].astype(np.int8),
        gt_tile_x=columns["gt_tile_x"].astype(np.int8),
        left_out=tuple(left_out.items()),
    )


def manifest_digest(store: Store) -> str:
    """SHA-256 of manifest.parquet."""
    return store.digest(MANIFEST)


def read_groups(store: Store, *, everything: bool) -> Iterator[pa.Table]:
    """The manifest's row groups; repeated texts are dictionary-encoded, which keeps a million rows small.

    Args:
        store: the output folder.
        everything: whether to read every column, or only those that a data set needs.

    Raises:
        ManifestError: The manifest is missing or cannot be read.
    """
    used = {*_CROP_COLUMNS, *_PAIR_COLUMNS, *_FILTER_COLUMNS, *_SHIFT}
    names = None if everything else sorted(used)
    needed = used - {*_NEWER_COLUMNS}
    with open_table(store, MANIFEST, needed, dictionary=_REPEATED) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=names)
            require_sound(table, MANIFEST, store.location)
            for name in _NEWER_COLUMNS:
                if name not in table.column_names:
                    table = table.append_column(name, pa.nulls(len(table), MANIFEST_SCHEMA.field(name).type))
            yield _with_tiles(table)


def _with_tiles(table: pa.Table) -> pa.Table:
    """Rows of earlier versions with the GT's first tile: both photos' visible areas started with the same site of the CFA."""
    for axis in "yx":
        name = f"gt_tile_{axis}"
        if table[name].null_count:
            period = np.where(pc.equal(table["cfa"], str(Cfa.BAYER)), Cfa.BAYER.period, Cfa.X_TRANS.period)
            start = pa.array(-table[f"shift_{axis}"].to_numpy() % period, pa.int32())
            filled = pc.coalesce(table[name], start)
            table = table.set_column(table.column_names.index(name), MANIFEST_SCHEMA.field(name), filled)
    return table


def split_filters(
    stores: Sequence[Store], split: Split, share: float, split_by: SplitBy = SplitBy.SCENE
) -> list[Filter]:
    """The split as filters. Splits have no scene and no photo in common, over all folders and under any name.

    Args:
        stores: the output folders.
        split: the split.
        share: expected fraction of scenes, or cameras, in the validation split.
        split_by: whether validation has scenes or cameras of its own.

    Raises:
        ManifestError: The list of pairs cannot be read.
        ConfigError: A split by camera of one camera.
    """
    if split is Split.TEST:
        return [("split", pc.field("test_reserve"))]
    pairs = pa.concat_tables([_read_pairs(store) for store in stores])
    test = pairs.filter(pc.field("test_reserve"))
    collected = pairs.filter(~pc.field("test_reserve") & (pc.field("outcome") == "collected"))
    in_validation = _validation(collected, share, split_by)
    filters = [
        ("test reserve", ~(pc.field("test_reserve") | _shows_scene_of(test))),
        ("photo of the test reserve", ~_shows_photo_of(test)),
    ]
    if split is Split.VAL:
        filters.append(("split val", in_validation))
    elif split is Split.TRAIN:
        filters += [
            ("split train", ~in_validation),
            ("photo of split val", ~_shows_photo_of(collected.filter(in_validation))),
        ]
        if split_by is SplitBy.CAMERA:
            filters.append(("scene of split val", ~_shows_scene_of(collected.filter(in_validation))))
    return filters


def _validation(collected: pa.Table, share: float, split_by: SplitBy) -> pc.Expression:
    """Whether a row is one of validation."""
    names = collected[str(split_by)].unique().to_pylist()
    try:
        chosen = (held_out_cameras if split_by is SplitBy.CAMERA else validation_scenes)(names, share)
    except ValueError as error:
        raise ConfigError(f"split_by='camera' cannot be used here: {error}, there is {len(names)}") from error
    return pc.field(str(split_by)).isin(pa.array(sorted(chosen), pa.string()))


def _read_pairs(store: Store) -> pa.Table:
    columns = ["scene", "cfa", "test_reserve", "outcome", "gt_sha1", "noisy_sha1", "camera"]
    with open_table(store, PAIRS, columns) as file:
        pairs = file.read(columns)
    require_sound(pairs, PAIRS, store.location)
    return pairs


def _shows_scene_of(pairs: pa.Table) -> pc.Expression:
    """Whether a row is of a scene of these pairs, by name and CFA."""
    found = pc.scalar(False)  # noqa: FBT003 - an expression
    for cfa in Cfa:
        names = pairs.filter(pc.field("cfa") == str(cfa))["scene"].unique()
        found |= (pc.field("cfa") == str(cfa)) & pc.field("scene").isin(names)
    return found


def _shows_photo_of(pairs: pa.Table) -> pc.Expression:
    """Whether a row shows a photo of these pairs, by its SHA-1."""
    chunks = [*pairs["gt_sha1"].chunks, *pairs["noisy_sha1"].chunks]
    photos = pc.unique(pa.chunked_array(chunks, pa.string())).drop_null()
    return pc.field("gt_sha1").isin(photos) | pc.field("noisy_sha1").isin(photos)


def apply_filters(table: pa.Table, filters: Sequence[Filter], left_out: dict[str, int]) -> pa.Table:
    """The rows that pass every filter.

    Args:
        table: rows of the manifest.
        filters: name and expression of each filter.
        left_out: for each filter, the number of rows that it removed is added here.

    Raises:
        ConfigError: A filter's expression does not fit the columns.
    """
    rows = table.append_column(_ROW_NUMBER, pa.array(np.arange(len(table), dtype=np.int32)))
    if (
        "expression" not in left_out
    ):  # an expression may use any column; otherwise the unused ones need not be copied for each filter
        rows = rows.select([_ROW_NUMBER, *(name for name in table.column_names if name in _FILTERED_BY)])
    for name, expression in filters:
        try:
            kept = rows.filter(expression)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ConfigError(f"filter {name} does not fit the manifest: {error}") from error
        left_out[name] += len(rows) - len(kept)
        rows = kept
    return table if len(rows) == len(table) else table.take(rows[_ROW_NUMBER])


def _split_pairs(table: pa.Table, folder: int) -> tuple[pa.Table, NDArray[np.int64], dict[str, NDArray[Any]]]:
    """A table with one row per pair, (n,) the pair of each row, and the columns that differ within a pair."""
    shard = table["shard"].combine_chunks()
    codes = np.asarray((shard if pa.types.is_dictionary(shard.type) else shard.dictionary_encode()).indices)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    pair = np.cumsum(np.diff(codes, prepend=-1) != 0) - 1
    pairs = table.select(_PAIR_COLUMNS).take(starts)
    plain = pa.schema(
        [(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in pairs.schema]
    )
    folders = pa.array(np.full(len(pairs), folder, np.int32))
    return (
        pairs.cast(plain).append_column(_FOLDER, folders),
        pair,
        {name: table[name].to_numpy() for name in _CROP_COLUMNS},
    )


def _nothing_left(stores: Sequence[Store], total: int, left_out: dict[str, int]) -> str:
    where = ", ".join(store.location for store in stores)
    if not total:
        return f"the manifest of {where} lists no crop; `rawnind status` says why"
    removed = ", ".join(f"{name} {count}" for name, count in left_out.items() if count)
    advice = "; ".join(text for name, text in _ADVICE.items() if left_out.get(name))
    return f"no crop is left of the {total} in {where}; rows removed by each filter, in order: {removed}" + (
        f" ({advice})" if advice else ""
    )


_ADVICE = {
    "stored size >= crop_size": "choose a smaller crop_size, or run `rawnind prepare` with a larger --crop-size",
    "input raw": "input='rgb' reads X-Trans as well",
    "camera": "names are those of the manifest's column camera",
}
