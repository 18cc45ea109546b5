"""Recomputes counts, hashes, coordinates and the recipe of an output folder, and compares them with the manifest."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from rawnind.errors import ConfigError, ManifestError, printable
from rawnind.output.card import CARD, CROISSANT, is_ours
from rawnind.output.journal.journal import Journal
from rawnind.output.manifest import (
    MANIFEST,
    MANIFEST_YAML,
    PAIRS,
    conservation,
    read_entries,
    read_head,
    read_summary,
)
from rawnind.output.schema import MANIFEST_SCHEMA, PAIRS_SCHEMA, crop_row, pair_row, scene_entry
from rawnind.output.store import Store
from rawnind.output.tables import SCHEMAS, open_table, require_values
from rawnind.reasons import Outcome
from rawnind.recipe import Recipe
from rawnind.records import Cfa, PairResult, SceneResult
from rawnind.words import counted

_Row = dict[str, Any]
_ROWS_AT_ONCE = 1024


def verify(store: Store) -> Iterator[str]:
    """Problems of an output folder, one sentence each; none where it is consistent.

    Every number of the manifest is compared with the journal, every shard is read and hashed, every part is hashed.
    Rows and bytes are read in small blocks: memory grows with the number of scenes alone.

    Raises:
        FileNotFoundError: There is no manifest.
        ManifestError: manifest.yaml cannot be read at all.
        OutputError: The storage reports an error.
    """
    return (printable(problem, most=_LONGEST) for problem in _problems(store))


_LONGEST = 2000
"""Characters of a problem, which may quote what is stored."""


def _problems(store: Store) -> Iterator[str]:
    head, summary = read_head(store), read_summary(store)
    broken = False
    for name in SCHEMAS:
        if not store.exists(name):
            yield f"{name} is missing"
            broken = True
        elif store.digest(name) != head["files"][name]:
            yield f"{name} is not the file that {MANIFEST_YAML} was written with"
    yield from _card(store, head["files"])
    for kind, counts in (("scenes", summary.scenes), ("pairs", summary.pairs)):
        if counts.open < 0 or (counts.open and head.get("complete", True)):
            yield f"{kind} are not conserved: {asdict(counts)}"
    if broken:
        return
    try:
        yield from _Comparison(store, head).run()
    except ManifestError as error:
        yield f"{error} Nothing after that was checked."


def _card(store: Store, files: dict[str, str]) -> Iterator[str]:
    """Problems of the data card; someone may have changed it, which is none."""
    for name in (CARD, CROISSANT):
        written = files.get(name)  # earlier versions wrote none
        if written and not store.exists(name):
            yield f"{name} is missing"
        elif written and store.digest(name) != written and is_ours(store, name):
            yield f"{name} is not the file that {MANIFEST_YAML} was written with"


class _Comparison:
    """Compares the manifest with the journal, row by row.

    Raises:
        ManifestError: Something cannot be read, so that the rest cannot be compared.
    """

    def __init__(self, store: Store, head: _Row) -> None:
        self._store = store
        self._summary = read_summary(store)
        self._conservation = head.get("conservation")
        try:
            self._recipe: Final = Recipe.of_folder(
                {key: value for key, value in head["recipe"].items() if key != "digest"}
            )
        except ConfigError as error:
            raise ManifestError(
                f"the recipe in {MANIFEST_YAML} is not one of this version: {error}."
            ) from error
        self._journal = Journal(store)
        self._result: SceneResult | None = None  # rows are sorted by scene: the last one is enough
        self._scenes: Counter[str] = Counter()
        self._scene_reasons: Counter[str] = Counter()
        self._pairs: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._crops = 0
        self._of_scene: dict[str, Counter[str]] = defaultdict(Counter)

    def run(self) -> Iterator[str]:
        if self._recipe.digest != self._summary.recipe:
            yield f"the recipe in {MANIFEST_YAML} does not have the digest {self._summary.recipe}"
        for first, end in self._journal.gaps:
            yield f"parts with the commits {first} to {end - 1} are missing"
        yield from self._rows()
        yield from self._entries()
        yield from self._counts()

    def _rows(self) -> Iterator[str]:
        with (
            _rows(self._store, MANIFEST) as crops,
            _rows(self._store, PAIRS) as pairs,
        ):
            groups = itertools.groupby(crops, key=_place)
            place, group = next(groups, (None, iter(())))
            before: tuple[str, str] | None = None
            for row in pairs:
                here = _place(row)
                if before is not None and here <= before:
                    yield f"{PAIRS} is not in order at pair {row['pair_id']} of {row['scene']}"
                before = here
                while place is not None and place < here:
                    yield f"crops of pair {place[1]} of {place[0]} are in {MANIFEST} and not in {PAIRS}"
                    place, group = next(groups, (None, iter(())))
                listed = list(group) if place == here else []
                if place == here:
                    place, group = next(groups, (None, iter(())))
                self._count(row, len(listed))
                yield from self._pair(row, listed)
            if place is not None:
                yield f"crops of pair {place[1]} of {place[0]} are in {MANIFEST} and not in {PAIRS}, or not in order"

    def _count(self, row: _Row, crops: int) -> None:
        self._pairs.update(["planned", row["outcome"]])
        self._reasons.update([row["reason"]] if row["reason"] else [])
        self._crops += crops
        self._of_scene[f"{row['cfa']}/{row['scene']}"].update([row["outcome"]])

    def _pair(self, row: _Row, listed: list[_Row]) -> Iterator[str]:
        key, name = f"{row['cfa']}/{row['scene']}", row["pair_id"]
        if row["outcome"] == Outcome.FILTERED:
            if listed:
                yield f"pair {name} of {key} was left out and yet has crops"
            return
        result = self._committed(key)
        pair = next((each for each in result.pairs if each.pair_id == name), None) if result else None
        if result is None or pair is None:
            yield f"pair {name} of {key} is in {PAIRS} and was never committed"
        else:
            yield from self._against_commit(result, pair, row, listed)

    def _committed(self, key: str) -> SceneResult | None:
        if self._result is None or self._result.scene.key != key:
            self._result = self._journal.read(key) if key in self._journal.latest else None
        return self._result

    def _against_commit(
        self, result: SceneResult, pair: PairResult, row: _Row, listed: list[_Row]
    ) -> Iterator[str]:
        where = f"pair {pair.pair_id} of {result.scene.key}"
        if result.recipe != self._recipe.digest:
            yield f"{where} was made with recipe {result.recipe}, the manifest's is {self._recipe.digest}"
        for column, _ in _different([row], [pair_row(result, pair)], PAIRS_SCHEMA):
            yield f"{where}: {column} in {PAIRS} is not what was committed"
        if len(listed) != len(pair.crops):
            yield f"{where} has {counted(len(listed), 'crop')} in {MANIFEST}, {len(pair.crops)} were committed"
        expected = [
            crop_row(result, pair, number, crop, self._recipe.crop_size)
            for number, crop in enumerate(pair.crops)
        ]
        for column, found in _different(listed, expected, MANIFEST_SCHEMA):
            yield f"{where}: {column} of crop {found['crop_id']} in {MANIFEST} is not what was committed"
        yield from _off_tile(where, result.scene.cfa, pair, listed)
        if pair.shard:
            yield from self._shard(pair.shard.path, pair.shard.sha256)

    def _shard(self, name: str, sha256: str) -> Iterator[str]:
        if not self._store.exists(name):
            yield f"{name} is missing: run `rawnind prepare` again"
        elif self._store.digest(name) != sha256:
            yield f"{name} was changed after it was written: remove it, and run `rawnind prepare` again"

    def _entries(self) -> Iterator[str]:
        """Compares manifest.yaml's list of scenes with the pairs and the journal."""
        for entry in read_entries(self._store):
            key = f"{entry.get('cfa')}/{entry.get('scene')}"
            self._scenes.update(["planned", str(entry.get("outcome"))])
            if not entry.get("pairs") and entry.get("reason"):
                self._scene_reasons.update([str(entry["reason"])])
            outcomes = dict(self._of_scene.pop(key, Counter()))
            if entry.get("pairs") != outcomes:
                yield f"{MANIFEST_YAML} says of {key} that its pairs are {entry.get('pairs')}, {PAIRS} says {outcomes}"
            if entry.get("outcome") == Outcome.FILTERED:
                continue
            result = self._committed(key)
            if result is None:
                yield f"{key} is in {MANIFEST_YAML} and was never committed"
            elif entry != scene_entry(result):
                yield f"{MANIFEST_YAML} does not say of {key} what was committed"
        for key in self._of_scene:
            yield f"{key} is in {PAIRS} and not in {MANIFEST_YAML}, or twice"

    def _counts(self) -> Iterator[str]:
        summary = self._summary
        for kind, counts, found in (
            ("scenes", summary.scenes, self._scenes),
            ("pairs", summary.pairs, self._pairs),
        ):
            found["planned"] += counts.open
            for name, count in asdict(counts).items():
                if found[name] != count:
                    yield f"there are {found[name]} {name} {kind}, {MANIFEST_YAML} says {count}"
        if self._conservation != {name: conservation(getattr(summary, name)) for name in ("scenes", "pairs")}:
            yield f"the conservation that {MANIFEST_YAML} states is not that of its counts"
        if self._crops != summary.crops:
            yield f"there are {self._crops} crops, {MANIFEST_YAML} says {summary.crops}"
        if dict(self._reasons) != {str(reason): count for reason, count in summary.reasons}:
            yield f"pairs ended for the reasons {dict(self._reasons)}, {MANIFEST_YAML} says otherwise"
        stated = {str(reason): count for reason, count in summary.scene_reasons}
        if stated and dict(self._scene_reasons) != stated:  # earlier versions did not write it
            yield f"scenes without a pair ended for {dict(self._scene_reasons)}, {MANIFEST_YAML} says otherwise"


@contextmanager
def _rows(store: Store, name: str) -> Iterator[Iterator[_Row]]:
    """The rows of a Parquet file, a few thousand in memory at once."""
    with open_table(store, name, {"reason"} & {*SCHEMAS[name].names}) as file:
        yield itertools.chain.from_iterable(_batches(store, name, file))


def _batches(store: Store, name: str, file: pq.ParquetFile) -> Iterator[list[_Row]]:
    for batch in file.iter_batches(_ROWS_AT_ONCE, use_threads=False):
        require_values(batch, name, store.location)
        yield batch.to_pylist()


def _place(row: _Row) -> tuple[str, str]:
    return row["scene"], row["pair_id"]


def _off_tile(where: str, cfa: Cfa, pair: PairResult, listed: list[_Row]) -> Iterator[str]:
    top, left = pair.sensor.origin if pair.sensor else (0, 0)
    for row in listed:
        if (row["y"] - top) % cfa.period or (row["x"] - left) % cfa.period:
            yield f"{where}: crop ({row['y']}, {row['x']}) does not start on a tile"


def _different(found: list[_Row], expected: list[_Row], schema: pa.Schema) -> Iterator[tuple[str, _Row]]:
    """(column, found row) wherever a row is not the expected one, in the columns that the file has."""
    for row, clean in zip(found, pa.Table.from_pylist(expected, schema=schema).to_pylist(), strict=False):
        yield from ((name, row) for name in schema.names if name in row and row[name] != clean[name])
