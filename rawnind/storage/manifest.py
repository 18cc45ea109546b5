"""The manifest: manifest.parquet (crops), pairs.parquet (planned pairs) and manifest.yaml (the run, for people)."""

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from rawnind.config import Recipe
from rawnind.errors import ManifestError
from rawnind.records import (
    ALWAYS_MEASURED,
    Counts,
    Crop,
    Outcome,
    PairResult,
    Reason,
    SceneResult,
    Sensor,
    Summary,
)
from rawnind.storage.schema import MANIFEST_SCHEMA, PAIRS_SCHEMA, SOMETIMES_MEASURED
from rawnind.storage.shards import crop_name
from rawnind.storage.store import HashingSink, Store

MANIFEST = "manifest.parquet"
PAIRS = "pairs.parquet"
MANIFEST_YAML = "manifest.yaml"
FORMAT = 1

_ROWS_PER_GROUP = 65_536


def write_manifest(
    store: Store,
    results: Iterable[SceneResult],
    recipe: Recipe,
    *,
    versions: Mapping[str, str],
    contents: str,
) -> Summary:
    """Writes the three files, holding one scene at a time; manifest.yaml, which seals the others, comes last.

    Args:
        store: the output folder.
        results: every planned scene once, sorted by (scene name, CFA).
        recipe: what the results were made with.
        versions: library versions, for the record in manifest.yaml.
        contents: names what the manifest is made from; kept in manifest.yaml.

    Raises:
        OutputError: The storage refuses; the old manifest is then still there.
    """
    tally = _Tally()
    with tempfile.SpooledTemporaryFile(max_size=1 << 24) as entries:
        with (
            store.create(MANIFEST, replace=True) as manifest,
            store.create(PAIRS, replace=True) as pairs,
            _Rows(manifest, MANIFEST_SCHEMA) as crop_rows,
            _Rows(pairs, PAIRS_SCHEMA) as pair_rows,
        ):
            for scene, pair in _pairs_in_order(_counted(results, tally, entries)):
                pair_rows.add(pair_row(scene, pair))
                for number, crop in enumerate(pair.crops):
                    crop_rows.add(crop_row(scene, pair, number, crop, recipe.crop_size))
        summary = tally.summary(recipe, manifest.sha256)
        head = _head(summary, recipe, versions) | {
            "contents": contents,
            "files": {MANIFEST: manifest.sha256, PAIRS: pairs.sha256},
        }
        with store.create(MANIFEST_YAML, replace=True) as sink:
            sink.write(_yaml(head) + b"scenes:\n")
            entries.seek(0)
            while block := entries.read(1 << 20):
                sink.write(block)
            if not summary.scenes.planned:
                sink.write(b"  []\n")
    return summary


def read_head(store: Store) -> dict[str, Any]:
    """Everything of manifest.yaml above its list of scenes.

    Raises:
        FileNotFoundError: There is no manifest yet.
        ManifestError: It is not a manifest of this format.
    """
    text = store.read(MANIFEST_YAML).partition(b"\nscenes:\n")[0]
    try:
        head = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ManifestError(f"{MANIFEST_YAML} in {store.location} is not YAML: {error}") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ManifestError(f"{MANIFEST_YAML} in {store.location} is not a manifest of format {FORMAT}")
    return head


def read_summary(store: Store) -> Summary:
    """The summary that `write_manifest` returned when it wrote the manifest. Errors as in `read_head`."""
    head = read_head(store)
    try:
        return Summary(
            recipe=head["recipe"]["digest"],
            scenes=Counts(**head["counts"]["scenes"]),
            pairs=Counts(**head["counts"]["pairs"]),
            crops=head["counts"]["crops"],
            reasons=tuple((Reason(reason), count) for reason, count in head["reasons"].items()),
            manifest_sha256=head["files"][MANIFEST],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(f"{MANIFEST_YAML} in {store.location} is damaged: {error!r}") from error


class _Rows:
    """Rows of one Parquet file, written in groups."""

    def __init__(self, sink: HashingSink, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()


class _Tally:
    """Counts scenes, pairs and crops while they pass."""

    def __init__(self) -> None:
        self._scenes: Counter[str] = Counter()
        self._pairs: Counter[str] = Counter()
        self._reasons: Counter[Reason] = Counter()
        self._crops = 0

    def add(self, result: SceneResult) -> None:
        self._scenes.update(["planned", result.outcome])
        for pair in result.pairs:
            self._pairs.update(["planned", pair.outcome])
            self._reasons.update([pair.reason] if pair.reason else [])
            self._crops += len(pair.crops)

    def summary(self, recipe: Recipe, manifest_sha256: str) -> Summary:
        return Summary(
            recipe=recipe.digest,
            scenes=Counts(**self._scenes),
            pairs=Counts(**self._pairs),
            crops=self._crops,
            reasons=tuple(sorted(self._reasons.items())),
            manifest_sha256=manifest_sha256,
        )


def _counted(results: Iterable[SceneResult], tally: _Tally, entries: IO[bytes]) -> Iterator[SceneResult]:
    for result in results:
        tally.add(result)
        entries.write(_yaml([_scene_entry(result)]))
        yield result


def _pairs_in_order(results: Iterable[SceneResult]) -> Iterator[tuple[SceneResult, PairResult]]:
    for _, group in itertools.groupby(results, key=lambda result: result.scene.name):
        pairs = ((scene, pair) for scene in group for pair in scene.pairs)
        yield from sorted(pairs, key=lambda item: item[1].pair_id)


def crop_row(result: SceneResult, pair: PairResult, number: int, crop: Crop, size: int) -> dict[str, Any]:
    """One row of manifest.parquet, by column name.

    Raises:
        ValueError: The pair was not collected.
    """
    if pair.shard is None or pair.ground_truth is None or pair.sensor is None or pair.gt_sensor is None:
        raise ValueError(f"pair {pair.pair_id} has crops but no shard, GT or sensor")
    return {
        "crop_id": crop_name(pair.pair_id, crop.y, crop.x),
        "scene": result.scene.name,
        "cfa": str(result.scene.cfa),
        "pair_id": pair.pair_id,
        "test_reserve": result.scene.test_reserve,
        "unknown_sensor": result.scene.unknown_sensor,
        "gt_sha1": pair.ground_truth.sha1,
        "noisy_sha1": pair.noisy.sha1,
        "gt_iso": pair.ground_truth.iso,
        "iso": pair.noisy.iso,
        "size": size,
        **{name: getattr(pair.measured, name) for name in (*ALWAYS_MEASURED, *SOMETIMES_MEASURED)},
        **asdict(crop),
        **_sensor_columns(pair.sensor),
        "gt_black_level": pair.gt_sensor.black_level,
        "gt_white_level": pair.gt_sensor.white_level,
        "shard": pair.shard.path,
        "row_group": number,
        "shard_sha256": pair.shard.sha256,
        "recipe": result.recipe,
    }


def pair_row(result: SceneResult, pair: PairResult) -> dict[str, Any]:
    """One row of pairs.parquet, by column name; a column that is not there is null."""
    truth, shard = pair.ground_truth, pair.shard
    return {
        "scene": result.scene.name,
        "cfa": str(result.scene.cfa),
        "pair_id": pair.pair_id,
        "test_reserve": result.scene.test_reserve,
        "unknown_sensor": result.scene.unknown_sensor,
        "noisy_sha1": pair.noisy.sha1,
        "noisy_file": pair.noisy.filename,
        "gt_sha1": truth.sha1 if truth else None,
        "gt_file": truth.filename if truth else None,
        "iso": pair.noisy.iso,
        "gt_iso": truth.iso if truth else None,
        "outcome": str(pair.outcome),
        "reason": str(pair.reason) if pair.reason else None,
        "detail": pair.detail,
        **asdict(pair.measured),
        **(_sensor_columns(pair.sensor) if pair.sensor else {}),
        "crops": len(pair.crops),
        "shard": shard.path if shard else None,
        "shard_sha256": shard.sha256 if shard else None,
        "recipe": result.recipe,
    }


def _sensor_columns(sensor: Sensor) -> dict[str, Any]:
    names = ("camera", "black_level", "white_level", "overexposure_lb", "rgb_xyz_matrix")
    return {name: getattr(sensor, name) for name in names}


def _scene_entry(result: SceneResult) -> dict[str, Any]:
    pairs = Counter(str(pair.outcome) for pair in result.pairs)
    entry: dict[str, Any] = {
        "scene": result.scene.name,
        "cfa": str(result.scene.cfa),
        "outcome": str(result.outcome),
        "pairs": dict(sorted(pairs.items())),
        "crops": sum(len(pair.crops) for pair in result.pairs),
    }
    if result.reason:
        entry |= {"reason": str(result.reason), "detail": result.detail}
    if result.failed_files:
        entry["failed_files"] = [
            {"file": file.photo.filename, "reason": str(file.reason), "detail": file.detail}
            for file in result.failed_files
        ]
    return entry


def _head(summary: Summary, recipe: Recipe, versions: Mapping[str, str]) -> dict[str, Any]:
    counts = {"scenes": asdict(summary.scenes), "pairs": asdict(summary.pairs), "crops": summary.crops}
    return {
        "format": FORMAT,
        "recipe": {"digest": recipe.digest, **recipe.as_dict()},
        "versions": dict(versions),
        "counts": counts,
        "conservation": {name: _sum(getattr(summary, name)) for name in ("scenes", "pairs")},
        "reasons": {str(reason): count for reason, count in summary.reasons},
    }


def _sum(counts: Counts) -> str:
    terms = [f"{getattr(counts, outcome)} {outcome}" for outcome in Outcome]
    return f"{counts.planned} planned = {' + '.join(terms)}"


def _yaml(value: object) -> bytes:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
    return text.encode()
