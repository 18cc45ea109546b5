"""Recomputes what an output folder claims: counts, hashes, coordinates, recipe."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rawnind.errors import ManifestError
from rawnind.records import Cfa, Outcome, PairResult, SceneResult
from rawnind.storage.manifest import MANIFEST, PAIRS, crop_row, pair_row, read_head, read_summary
from rawnind.storage.parts import Journal
from rawnind.storage.schema import MANIFEST_SCHEMA, PAIRS_SCHEMA
from rawnind.storage.store import Store


def verify(store: Store) -> Iterator[str]:
    """Everything that is wrong with an output folder, one sentence each; nothing where it is sound.

    Every number of the manifest is compared with the journal, every shard is read and hashed, every part is hashed.

    Raises:
        FileNotFoundError: There is no manifest.
        ManifestError: manifest.yaml or the journal cannot be read at all.
    """
    head, summary = read_head(store), read_summary(store)
    for name, sha256 in head["files"].items():
        if not store.exists(name):
            yield f"{name} is missing"
        elif store.digest(name) != sha256:
            yield f"{name} is not the file that manifest.yaml was written with"
    journal = Journal(store)
    for part in journal.damaged():
        yield f"{part} was changed after it was written"
    crops, pairs = _rows(store, MANIFEST, MANIFEST_SCHEMA), _rows(store, PAIRS, PAIRS_SCHEMA)
    for kind, counts in (("scenes", summary.scenes), ("pairs", summary.pairs)):
        if counts.open:
            yield f"{kind} are not conserved: {asdict(counts)}"
    outcomes = Counter(row["outcome"] for row in pairs)
    expected = {str(outcome): getattr(summary.pairs, outcome) for outcome in Outcome}
    if {outcome: outcomes[outcome] for outcome in expected} != expected:
        yield f"{PAIRS} has {dict(outcomes)}, manifest.yaml says {expected}"
    if len(crops) != summary.crops:
        yield f"{MANIFEST} has {len(crops)} crops, manifest.yaml says {summary.crops}"
    yield from _against_journal(journal, crops, pairs, head["recipe"])
    yield from _shards(store, crops)


def _rows(store: Store, name: str, schema: pa.Schema) -> list[dict[str, Any]]:
    try:
        with store.open(name) as source:
            table = pq.read_table(source)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(f"{name} in {store.location} cannot be read: {error}") from error
    if table.schema.names != schema.names:
        raise ManifestError(f"{name} in {store.location} does not have the columns of this version")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _against_journal(
    journal: Journal, crops: list[dict[str, Any]], pairs: list[dict[str, Any]], recipe: dict[str, Any]
) -> Iterator[str]:
    """Every row must be what the journal's result says, and every result must have its rows."""
    by_pair: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in crops:
        by_pair.setdefault((f"{row['cfa']}/{row['scene']}", row["pair_id"]), []).append(row)
    results: dict[str, SceneResult] = {}
    for row in pairs:
        key, name = f"{row['cfa']}/{row['scene']}", row["pair_id"]
        listed = by_pair.pop((key, name), [])
        if row["outcome"] == Outcome.FILTERED:
            if listed:
                yield f"pair {name} of {key} was left out and yet has crops"
            continue
        if key not in journal.latest:
            yield f"{key} is in {PAIRS} and was never committed"
            continue
        if key not in results:
            results = {key: journal.read(key)}  # rows are sorted by scene: one result is enough
        pair = next((each for each in results[key].pairs if each.pair_id == name), None)
        if pair is None:
            yield f"pair {name} of {key} is in {PAIRS} and was never committed"
        else:
            yield from _pair(results[key], pair, row, listed, recipe)
    for key, name in by_pair:
        yield f"crops of pair {name} of {key} are in {MANIFEST} and not in {PAIRS}"


def _pair(
    result: SceneResult,
    pair: PairResult,
    row: dict[str, Any],
    listed: list[dict[str, Any]],
    recipe: dict[str, Any],
) -> Iterator[str]:
    where = f"pair {pair.pair_id} of {result.scene.key}"
    if result.recipe != recipe["digest"]:
        yield f"{where} was made with recipe {result.recipe}, the manifest's is {recipe['digest']}"
    for column in _different(row, pair_row(result, pair), PAIRS_SCHEMA):
        yield f"{where}: {column} in {PAIRS} is not what was committed"
    if len(listed) != len(pair.crops):
        yield f"{where} has {len(listed)} crops in {MANIFEST}, {len(pair.crops)} were committed"
    for number, (crop, crop_listed) in enumerate(zip(pair.crops, listed, strict=False)):
        for column in _different(
            crop_listed, crop_row(result, pair, number, crop, recipe["crop_size"]), MANIFEST_SCHEMA
        ):
            yield f"{where}: {column} of crop ({crop.y}, {crop.x}) in {MANIFEST} is not what was committed"
        period = Cfa(crop_listed["cfa"]).period
        origin = pair.sensor.origin if pair.sensor else (0, 0)
        if (crop_listed["y"] - origin[0]) % period or (crop_listed["x"] - origin[1]) % period:
            yield f"{where}: crop ({crop_listed['y']}, {crop_listed['x']}) does not start on a tile"


def _different(found: dict[str, Any], expected: dict[str, Any], schema: pa.Schema) -> list[str]:
    clean = pa.Table.from_pylist([expected], schema=schema).to_pylist()[0]
    return [name for name in schema.names if found.get(name) != clean[name]]


def _shards(store: Store, crops: list[dict[str, Any]]) -> Iterator[str]:
    listed: dict[str, str] = {row["shard"]: row["shard_sha256"] for row in crops}
    for name, sha256 in listed.items():
        if not store.exists(name):
            yield f"{name} is missing"
        elif store.digest(name) != sha256:
            yield f"{name} was changed after it was written"
