"""Exports an output folder in the layout that the loaders of the RawNIND research code read.

Below DIR: `train.yaml` and `test.yaml` (one entry per pair), `test_reserve.yaml` (the scene names to pass to those loaders),
`crops/` and `masks/`. The crops are aligned: those of the GT show the same sites as those of the noisy photo, the listed
alignment is [0, 0], and the mask and the coordinates, [x, y], are in the noisy photo's visible area.
"""

import io
import itertools
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
import tifffile
import yaml
from numpy.typing import NDArray

from rawnind.documents import json_object
from rawnind.errors import ConfigError, ManifestError, NotPreparedError
from rawnind.feed.manifest_view import manifest_digest, read_groups
from rawnind.feed.mosaic_rgb import noisy_rgb
from rawnind.feed.rows import Pair, colour_matrix, pair_of
from rawnind.imaging.color import camera_to_rec2020
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
TRAIN, TEST, RESERVE = "train.yaml", "test.yaml", "test_reserve.yaml"
MAX_LOSS, MIN_MASK_MEAN = 0.035, 0.8
"""The research code's loaders pass over pairs beyond these by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """How much was written.

    Attributes:
        pairs: entries of train.yaml and test.yaml.
        test_pairs: entries of test.yaml.
        crops: crops of all pairs.
        crop_size: side of the smallest crop in sites.
        left_out: collected pairs that the research code's loaders would pass over: their alignment loss or mask mean is
            beyond its limits, the loss mostly by noise.
    """

    pairs: int
    test_pairs: int
    crops: int
    crop_size: int
    left_out: int


def describe_export(report: ExportReport, to: str | Path, problems: int) -> str:
    """The last lines that `rawnind export` prints.

    Args:
        report: how much was written.
        to: the folder of the export.
        problems: how many problems `check` found.
    """
    found = f"{problems} problems" if problems else "the check found no problem"
    left_out = (
        f"{report.left_out} noisy pairs are left out: the loaders accept an alignment loss of at most {MAX_LOSS}.\n"
        if report.left_out
        else ""
    )
    return left_out + (
        f"{report.crops} crops of {report.pairs} pairs in {to}, {report.test_pairs} of them of the test reserve; {found}.\n"
        f"Pass {to}/{TRAIN} to the loaders for training and {to}/{TEST} for testing, with the test scenes of {to}/{RESERVE}."
    )


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


def image_set(row: dict[str, Any]) -> str:
    """The scene's name in the research code, with the prefixes that its list of test scenes has.

    >>> image_set({"scene": "board", "unknown_sensor": True, "test_reserve": True})
    'UNK_TEST_board'
    """
    return f"{'UNK_' * row['unknown_sensor']}{'TEST_' * row['test_reserve']}{row['scene']}"


_MOST_SITES = 1 << 29
"""Of a photo; the largest cameras have 150 million, and 400 million where they shift the sensor."""


class _Export:
    def __init__(self, source: Store, target: Store, progress: Callable[[int, int], None]) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._names = _pair_columns(source)
        self._written: set[str] = {MARK}
        self._crops = 0
        self._sizes: list[int] = []

    def run(self) -> ExportReport:
        entries: dict[str, list[dict[str, Any]]] = {TRAIN: [], TEST: []}
        reserve: set[str] = set()
        total = _crop_count(self._source)
        left_out = 0
        with ShardReader(self._source, verify=True) as reader:
            for rows in _pairs(self._source):
                if rows[0]["alignment_loss"] > MAX_LOSS or rows[0]["mask_mean"] < MIN_MASK_MEAN:
                    left_out += 1
                    continue
                entry = self._pair(rows, reader)
                entries[TEST if rows[0]["test_reserve"] else TRAIN].append(entry)
                reserve.update([entry["image_set"]] if rows[0]["test_reserve"] else [])
                self._progress(self._crops, total)
        for name, value in (*entries.items(), (RESERVE, {"test_reserve": sorted(reserve)})):
            self._write(name, yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode())
        self._remove_outdated()
        return ExportReport(
            pairs=sum(map(len, entries.values())),
            test_pairs=len(entries[TEST]),
            crops=self._crops,
            crop_size=min(self._sizes, default=0),
            left_out=left_out,
        )

    def _pair(self, rows: list[dict[str, Any]], reader: ShardReader) -> dict[str, Any]:
        """Writes the files of a pair; its entry. The mask is 0 outside the pair's crops."""
        pair, first = pair_of(rows[0]), rows[0]
        size = pair.size
        self._sizes.append(size)
        height, width = (max(row[axis] for row in rows) + size for axis in "yx")
        names = self._names.get((pair.pair_id, str(pair.cfa)))
        if names is None or height * width > _MOST_SITES:
            why = "is not in pairs.parquet" if names is None else f"has {height} x {width} sites"
            raise ManifestError(
                f"{MANIFEST} in {self._source.location} is damaged: pair {pair.pair_id} {why}"
            )
        mask = np.zeros((height, width), np.uint8)
        brightness = np.zeros(2)
        crops = []
        for row in rows:
            name = crop_name(pair.pair_id, row["y"], row["x"])
            stored = reader.crop(pair.shard, row["row_group"], name, size, pair.shard_sha256)
            valid = np.unpackbits(stored.mask, axis=1).view(np.bool_)
            mask[row["y"] : row["y"] + size, row["x"] : row["x"] + size] |= valid.astype(np.uint8) * 255
            noisy = noisy_rgb(stored.noisy_raw, pair, 0, 0, size)
            brightness += [
                stored.gt_rgb[:, valid].sum(dtype=np.float64),
                noisy[:, valid].sum(dtype=np.float64),
            ]
            crops.append(self._crop(row, pair, stored, noisy))
            self._crops += 1
        mask_path = self._write(f"masks/{_folder(first)}/{pair.pair_id}.png", _png(mask))
        score = {} if names["msssim"] is None else {"rgb_msssim_score": names["msssim"]}
        return {
            "image_set": image_set(first),
            "is_bayer": pair.cfa is Cfa.BAYER,
            "f_fpath": names["noisy_file"],
            "gt_fpath": names["gt_file"],
            "mask_fpath": mask_path,
            "best_alignment": [0, 0],
            "best_alignment_loss": first["alignment_loss"],
            "mask_mean": first["mask_mean"],
            "raw_gain": pair.gain,
            "rgb_gain": float(brightness[0] / brightness[1]) if brightness.all() else pair.gain,
            **score,
            "overexposure_lb": first["overexposure_lb"],
            "rgb_xyz_matrix": _four_rows(pair.rgb_xyz_matrix),
            "gt_rgb_xyz_matrix": _four_rows(self._gt_matrix(pair)),
            "crops": crops,
        }

    def _gt_matrix(self, pair: Pair) -> Sequence[float]:
        """XYZ -> camera RGB of the GT; folders of earlier versions have only the noisy photo's."""
        own = self._names[pair.pair_id, str(pair.cfa)].get("gt_rgb_xyz_matrix")
        return colour_matrix(own, pair.pair_id) if own else pair.rgb_xyz_matrix

    def _crop(
        self, row: dict[str, Any], pair: Pair, stored: StoredCrop, noisy: NDArray[np.float32]
    ) -> dict[str, Any]:
        prefix = f"crops/{_folder(row)}/{pair.pair_id}/{row['y']}-{row['x']}"
        files = {
            "f_linrec2020_fpath": (f"{prefix}-noisy.tif", _tiff(noisy)),
            "gt_linrec2020_fpath": (f"{prefix}-gt.tif", _tiff(stored.gt_rgb)),
        }
        if pair.cfa is Cfa.BAYER:
            files["f_bayer_fpath"] = (
                f"{prefix}-noisy.npy",
                _npy(levels(stored.noisy_raw, pair.black, pair.white)),
            )
            files["gt_bayer_fpath"] = (
                f"{prefix}-gt.npy",
                _npy(gt_bayer(stored, pair, (row["shift_y"], row["shift_x"]), self._gt_matrix(pair))),
            )
        paths = {key: self._write(name, data) for key, (name, data) in files.items()}
        return {"coordinates": [row["x"], row["y"]], **paths}

    def _write(self, name: str, data: bytes) -> str:
        """Writes a file unless it exists with these bytes; its absolute path."""
        self._written.add(name)
        path = Path(self._target.full(name))
        if path.is_symlink() or not (
            path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
        ):
            self._target.write(name, data, replace=True)
        return str(path)

    def _remove_outdated(self) -> None:
        for folder in ("crops", "masks"):
            for entry in self._target.list(folder):
                if entry.path not in self._written and _OWN_FILE.fullmatch(entry.path):
                    self._target.remove(entry.path)


def _four_rows(matrix: Sequence[float]) -> list[list[float]]:
    """A 3x3 matrix, with a fourth row of zeros for the second green as LibRaw has it."""
    return [*np.reshape(matrix, (3, 3)).tolist(), [0.0, 0.0, 0.0]]


_PAIR = r"[0-9a-f]{12}-[0-9a-f]{12}"
_OWN_FILE = re.compile(
    rf"crops/(bayer|x-trans)/[^/]+/{_PAIR}/(\d+-\d+-(noisy|gt)\.(tif|npy)|{re.escape(TEMPORARY)}[0-9a-f]{{32}})"
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


def levels(mosaic: NDArray[np.uint16], black: tuple[float, ...], white: float) -> NDArray[np.float32]:
    """The levels of an RGGB mosaic.

    Args:
        mosaic: (h, w) uint16 sensor values that start on red.
        black: black levels of R, G, G, B.
        white: white level.

    Returns:
        (4, h/2, w/2) float32 in R, G, G, B order; 0 is black, 1 white.

    >>> levels(np.array([[3, 5], [7, 9]], np.uint16), (1.0, 1.0, 1.0, 1.0), 5.0).ravel()
    array([0.5, 1. , 1.5, 2. ], dtype=float32)
    """
    planes = np.stack([mosaic[y::2, x::2] for y in (0, 1) for x in (0, 1)]).astype(np.float32)
    offsets = np.array(black, np.float32)[:, None, None]
    return (planes - offsets) / (np.float32(white) - offsets)


def gt_bayer(
    stored: StoredCrop, pair: Pair, shift: tuple[int, int], gt_matrix: Sequence[float]
) -> NDArray[np.float32]:
    """The GT as an RGGB mosaic on the sites of the noisy photo, (4, h/2, w/2) levels.

    Sampled from the stored RGB, which lies where the noisy photo stood. In folders of earlier versions it lay at a whole shift:
    with an even one, the GT's own values are on the same sites.

    Args:
        stored: a crop of the pair.
        pair: black and white levels.
        shift: (dy, dx) of the crop.
        gt_matrix: XYZ -> camera RGB of the GT, 9 numbers row by row.
    """
    if pair.gt_contrast is None and not any(step % 2 for step in shift):
        return levels(stored.gt_raw, pair.gt_black, pair.gt_white)
    to_camera = np.linalg.inv(camera_to_rec2020(gt_matrix)).astype(np.float32)
    camera = np.tensordot(to_camera, stored.gt_rgb.astype(np.float32), 1)
    sites = ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1))  # colour, row, column of R, G, G, B
    return np.stack([camera[color, y::2, x::2] for color, y, x in sites])


def _tiff(image: NDArray[Any]) -> bytes:
    """A float32 TIFF of (3, h, w), which OpenCV reads; only OpenImageIO reads half floats."""
    sink = io.BytesIO()
    pixels = np.ascontiguousarray(np.moveaxis(image, 0, -1), np.float32)
    tifffile.imwrite(sink, pixels, photometric="rgb", metadata=None, software=False)
    return sink.getvalue()


def _npy(planes: NDArray[np.float32]) -> bytes:
    sink = io.BytesIO()
    np.save(sink, planes, allow_pickle=False)
    return sink.getvalue()


def _png(mask: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".png", mask)
    if not done:
        raise ValueError(f"a mask of shape {mask.shape} cannot be encoded as PNG")
    return bytes(data)
