"""Exports an output folder in the layout that the loaders of the RawNIND research code read.

Below DIR: `dataset.yaml` (one entry per pair, for training, validation and test), `clean.yaml` (one entry per GT that may be
trained on, for clean-clean training), `test_reserve.yaml` (the scene names to pass to those loaders), `crops/` and `masks/`. The crops are aligned: those of the GT show the same sites as those of the noisy photo, the listed
alignment is [0, 0], and the mask and the coordinates, [x, y], are in the noisy photo's visible area.
"""

import itertools
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from rawnind.documents import json_object
from rawnind.errors import ConfigError, ManifestError, NotPreparedError
from rawnind.exporters.parallel import in_order
from rawnind.exporters.pixels import gt_bayer, levels, npy_bytes, png_bytes, tiff_bytes
from rawnind.exporters.rules import (
    CLEAN,
    DATASET,
    MAX_LOSS,
    MIN_MASK_MEAN,
    RESERVE,
    ExportReport,
    image_set,
)
from rawnind.feed.manifest_view import manifest_digest, read_groups
from rawnind.feed.mosaic_rgb import noisy_rgb
from rawnind.feed.rows import Pair, colour_matrix, pair_of
from rawnind.output.atomic_file import TEMPORARY
from rawnind.output.manifest import MANIFEST, PAIRS, incompleteness
from rawnind.output.shard_reader import ShardReader, StoredCrop
from rawnind.output.shards import crop_name
from rawnind.output.store import Store
from rawnind.output.tables import open_table, require_sealed, require_sound
from rawnind.records import Cfa

log = logging.getLogger(__name__)

FORMATS = ("research-yaml",)
MARK = "rawnind-export.json"


def export(
    output: str | Path,
    to: str | Path,
    *,
    format: Literal["research-yaml"] = "research-yaml",  # noqa: A002 the name of the command's option
    progress: Callable[[int, int], None] = lambda *_: None,
) -> ExportReport:
    """Writes every collected pair below `to`; the same output folder gives the same bytes.

    Running it again finishes an export that was stopped; files that no longer belong to the export are removed.

    Args:
        output: the folder that `rawnind prepare` wrote.
        to: a new or empty local folder, or one that an export wrote. The files contain its path: export again after moving it.
        format: "research-yaml".
        progress: called with (crops written, crops in all).

    Returns:
        How many pairs and crops were written.

    Raises:
        ConfigError: The folder holds something else, or the format is unknown.
        NotPreparedError: `output` has no manifest.
        ManifestError: A file in `output` is damaged.
        OutputError: The folder cannot be written.

    Examples:
        >>> rawnind.export("out", "research")  # doctest: +SKIP
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    source, target = Store(str(output)), Store(str(Path(to).absolute()))
    if not source.exists(MANIFEST):
        raise NotPreparedError(f"{source.location} has no {MANIFEST}; run `rawnind prepare` first")
    if missing := incompleteness(source):
        log.warning("%s: %s", source.location, missing)
    require_sealed(source)
    _claim(target, manifest_digest(source))
    report = _Export(source, target, progress).run()
    target.write(MARK, _mark(manifest_digest(source), complete=True), replace=True)
    return report


def _mark(manifest: str, *, complete: bool) -> bytes:
    return json.dumps({"format": FORMATS[0], "manifest": manifest, "complete": complete}).encode() + b"\n"


def _claim(target: Store, manifest: str) -> None:
    folder = Path(target.location)
    if folder.is_dir() and any(folder.iterdir()) and not _is_marked(folder / MARK):
        raise ConfigError(
            f"{target.location} is not empty and was not written by an export; choose another folder"
        )
    target.prepare_root()
    for name in ("crops", "masks"):
        target.require_unlinked(name)
    target.write(MARK, _mark(manifest, complete=False), replace=True)


def _is_marked(path: Path) -> bool:
    """Whether a file is the mark of an export, which is shorter than 1000 bytes."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        mark = json_object(file.read(1000))
    return (
        mark is not None
        and mark.get("format") in FORMATS
        and isinstance(mark.get("manifest"), str)
        and isinstance(mark.get("complete"), bool)
    )


_MOST_SITES = 1 << 29
"""Of a photo; the largest cameras have 150 million, and 400 million where they shift the sensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Exported:
    """An exported pair.

    Attributes:
        entry: of dataset.yaml.
        test: whether it is of the test reserve.
        gt_sha1: of its GT.
        size: side of its crops.
        written: names of its files.
    """

    entry: dict[str, Any]
    test: bool
    gt_sha1: str
    size: int
    written: tuple[str, ...]


class _Export:
    def __init__(self, source: Store, target: Store, progress: Callable[[int, int], None]) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._names = _pair_columns(source)
        self._left_out = 0

    def run(self) -> ExportReport:
        total, crops = _crop_count(self._source), 0
        done: list[_Exported] = []
        with ShardReader(self._source, verify=True) as reader:
            for pair in in_order(lambda rows: self._pair(rows, reader), self._accepted()):
                done.append(pair)
                crops += len(pair.entry["crops"])
                self._progress(crops, total)
        reserve = sorted({pair.entry["image_set"] for pair in done if pair.test})
        listings = (
            (DATASET, [pair.entry for pair in done]),
            (CLEAN, _clean_entries(done)),
            (RESERVE, {"test_reserve": reserve}),
        )
        for name, value in listings:
            self._target.write(
                name,
                yaml.dump(value, Dumper=_DUMPER, sort_keys=False, allow_unicode=True).encode(),
                replace=True,
            )
        self._remove_outdated({name for pair in done for name in pair.written})
        bayer = [pair for pair in done if pair.entry["is_bayer"]]
        return ExportReport(
            pairs=len(done),
            test_pairs=sum(pair.test for pair in done),
            bayer_pairs=sum(not pair.test for pair in bayer),
            bayer_test_pairs=sum(pair.test for pair in bayer),
            crops=crops,
            crop_size=min((pair.size for pair in done), default=0),
            left_out=self._left_out,
            reserve=tuple(reserve),
        )

    def _accepted(self) -> Iterator[list[dict[str, Any]]]:
        for rows in _pairs(self._source):
            if rows[0]["alignment_loss"] > MAX_LOSS or rows[0]["mask_mean"] < MIN_MASK_MEAN:
                self._left_out += 1
            else:
                yield rows

    def _pair(self, rows: list[dict[str, Any]], reader: ShardReader) -> _Exported:
        """Writes the files of a pair; its entry. The mask is 0 outside the pair's crops."""
        pair, first = pair_of(rows[0]), rows[0]
        size = pair.size
        mask = np.zeros(self._extent(rows, pair), np.uint8)
        brightness = np.zeros(2)
        crops: list[dict[str, Any]] = []
        written: list[str] = []
        for row in rows:
            name = crop_name(pair.pair_id, row["y"], row["x"])
            stored = reader.crop(pair.shard, row["row_group"], name, size, pair.shard_sha256)
            valid = np.unpackbits(stored.mask, axis=1).view(np.bool_)
            mask[row["y"] : row["y"] + size, row["x"] : row["x"] + size] |= valid.astype(np.uint8) * 255
            noisy = noisy_rgb(stored.noisy_raw, pair, 0, 0, size)
            brightness += [
                stored.gt_rgb.sum(dtype=np.float64, where=valid),
                noisy.sum(dtype=np.float64, where=valid),
            ]
            crops.append(self._crop(row, pair, stored, noisy, written))
        mask_path = self._write(f"masks/{_folder(first)}/{pair.pair_id}.png", png_bytes(mask), written)
        gain = float(brightness[0] / brightness[1]) if brightness.all() else pair.gain
        return _Exported(
            entry=self._entry(first, pair, mask_path, gain) | {"crops": crops},
            test=first["test_reserve"],
            gt_sha1=first["gt_sha1"],
            size=size,
            written=tuple(written),
        )

    def _extent(self, rows: list[dict[str, Any]], pair: Pair) -> tuple[int, int]:
        """Height and width of the area that a pair's crops cover."""
        height, width = (max(row[axis] for row in rows) + pair.size for axis in "yx")
        if (unknown := (pair.pair_id, str(pair.cfa)) not in self._names) or height * width > _MOST_SITES:
            why = "is not in pairs.parquet" if unknown else f"has {height} x {width} sites"
            raise ManifestError(
                f"{MANIFEST} in {self._source.location} is damaged: pair {pair.pair_id} {why}"
            )
        return height, width

    def _entry(self, first: dict[str, Any], pair: Pair, mask_path: str, rgb_gain: float) -> dict[str, Any]:
        """An entry of dataset.yaml without its crops."""
        names = self._names[pair.pair_id, str(pair.cfa)]
        folder = (
            f"{_IMAGES[pair.cfa]}/{image_set(first)}"  # the research code reads the scene out of this path
        )
        score = {} if names["msssim"] is None else {"rgb_msssim_score": names["msssim"]}
        return {
            "image_set": image_set(first),
            "is_bayer": pair.cfa is Cfa.BAYER,
            "f_fpath": f"{folder}/{PurePosixPath(names['noisy_file']).name}",
            "gt_fpath": f"{folder}/gt/{PurePosixPath(names['gt_file']).name}",
            "mask_fpath": mask_path,
            "best_alignment": [0, 0],
            "best_alignment_loss": first["alignment_loss"],
            "mask_mean": first["mask_mean"],
            "raw_gain": pair.gain,
            "rgb_gain": rgb_gain,
            **score,
            "overexposure_lb": first["overexposure_lb"],
            "rgb_xyz_matrix": _four_rows(pair.rgb_xyz_matrix),
            "gt_rgb_xyz_matrix": _four_rows(self._gt_matrix(pair)),
        }

    def _gt_matrix(self, pair: Pair) -> Sequence[float]:
        """XYZ -> camera RGB of the GT; folders of earlier versions have only the noisy photo's."""
        own = self._names[pair.pair_id, str(pair.cfa)].get("gt_rgb_xyz_matrix")
        return colour_matrix(own, pair.pair_id) if own else pair.rgb_xyz_matrix

    def _crop(
        self,
        row: dict[str, Any],
        pair: Pair,
        stored: StoredCrop,
        noisy: NDArray[np.float32],
        written: list[str],
    ) -> dict[str, Any]:
        name = crop_name(pair.pair_id, row["y"], row["x"])  # unique in the export: losses are cached by it
        prefix = f"crops/{_folder(row)}/{pair.pair_id}/{name}"
        mosaic = gt_bayer(stored, pair, (row["shift_y"], row["shift_x"]), self._gt_matrix(pair))
        files = {
            "f_linrec2020_fpath": (f"{prefix}-noisy.tif", tiff_bytes(noisy)),
            "gt_linrec2020_fpath": (f"{prefix}-gt.tif", tiff_bytes(stored.gt_rgb)),
            "gt_bayer_fpath": (f"{prefix}-gt.npy", npy_bytes(mosaic)),
        }
        if pair.cfa is Cfa.BAYER:
            planes = levels(stored.noisy_raw, pair.black, pair.white)
            files["f_bayer_fpath"] = (f"{prefix}-noisy.npy", npy_bytes(planes))
        paths = {key: self._write(path, data, written) for key, (path, data) in files.items()}
        return {"coordinates": [row["x"], row["y"]], **paths}

    def _write(self, name: str, data: bytes, written: list[str]) -> str:
        """Writes a file unless it exists with these bytes; its absolute path."""
        written.append(name)
        path = Path(self._target.full(name))
        if path.is_symlink() or not (
            path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
        ):
            self._target.write(name, data, replace=True, durable=False)  # an export can be repeated
        return str(path)

    def _remove_outdated(self, written: set[str]) -> None:
        for folder in ("crops", "masks"):
            for entry in self._target.list(folder):
                if entry.path not in written and _OWN_FILE.fullmatch(entry.path):
                    self._target.remove(entry.path)


_IMAGES = {Cfa.BAYER: "Bayer", Cfa.X_TRANS: "X-Trans"}
"""Folders of the data set in the research code."""


def _clean_entries(done: Sequence[_Exported]) -> list[dict[str, Any]]:
    """One entry per GT outside the test reserve: the clean-clean loaders read no list of test scenes."""
    by_photo: dict[str, _Exported] = {}
    reserved = {pair.gt_sha1 for pair in done if pair.test}
    for pair in done:
        if pair.gt_sha1 not in reserved:
            by_photo.setdefault(pair.gt_sha1, pair)
    return [
        {
            "image_set": pair.entry["image_set"],
            "is_bayer": pair.entry["is_bayer"],
            "overexposure_lb": pair.entry["overexposure_lb"],
            "rgb_xyz_matrix": pair.entry["gt_rgb_xyz_matrix"],
            "crops": [
                {key: crop[key] for key in ("coordinates", "gt_linrec2020_fpath", "gt_bayer_fpath")}
                for crop in pair.entry["crops"]
            ],
        }
        for pair in by_photo.values()
    ]


def _four_rows(matrix: Sequence[float]) -> list[list[float]]:
    """A 3x3 matrix, with a fourth row of zeros for the second green as LibRaw has it."""
    return [*np.reshape(matrix, (3, 3)).tolist(), [0.0, 0.0, 0.0]]


_PAIR = r"[0-9a-f]{12}-[0-9a-f]{12}"
_OWN_FILE = re.compile(
    rf"crops/(bayer|x-trans)/[^/]+/{_PAIR}/(({_PAIR}-)?\d+-\d+-(noisy|gt)\.(tif|npy)|{re.escape(TEMPORARY)}[0-9a-f]{{32}})"
    rf"|masks/(bayer|x-trans)/[^/]+/({_PAIR}\.png|{re.escape(TEMPORARY)}[0-9a-f]{{32}})"
)
"""Names of files that an export writes; no other file is removed."""


def _folder(row: dict[str, Any]) -> str:
    return f"{row['cfa']}/{image_set(row)}"


def _crop_count(source: Store) -> int:
    with open_table(source, MANIFEST) as file:
        return int(file.metadata.num_rows)


def _pairs(source: Store) -> Iterator[list[dict[str, Any]]]:
    rows = itertools.chain.from_iterable(
        group.to_pylist() for table in read_groups(source, everything=True) for group in _slices(table)
    )
    for _, group in itertools.groupby(rows, key=lambda row: (row["scene"], row["pair_id"])):
        yield list(group)


def _slices(table: pa.Table) -> Iterable[pa.Table]:
    """Slices of a table: a million rows as Python objects would fill the memory."""
    return (table[start : start + 1024] for start in range(0, len(table), 1024))


def _pair_columns(source: Store) -> dict[tuple[str, str], dict[str, Any]]:
    names = ("pair_id", "cfa", "noisy_file", "gt_file", "msssim", "gt_rgb_xyz_matrix")
    with open_table(source, PAIRS, names[:-1]) as parquet:
        table = parquet.read([name for name in names if name in parquet.schema_arrow.names])
    require_sound(table, PAIRS, source.location)
    return {(row["pair_id"], row["cfa"]): row for row in table.to_pylist()}


_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's where it is there: ten times as fast
