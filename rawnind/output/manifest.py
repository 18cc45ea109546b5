"""The manifest: manifest.parquet (crops), pairs.parquet (planned pairs) and manifest.yaml (a summary of the run)."""

import io
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rawnind.documents import SETTINGS, read_yaml
from rawnind.errors import DamagedManifestError, ManifestError, printable
from rawnind.output.atomic_file import HashingSink
from rawnind.output.card import Contents, write_card
from rawnind.output.schema import MANIFEST_SCHEMA, PAIRS_SCHEMA, crop_row, pair_row, scene_entry
from rawnind.output.store import Store
from rawnind.output.versions import VERSIONS, require_readable
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.records import Counts, PairResult, SceneResult, Sha256, Summary

MANIFEST = "manifest.parquet"
PAIRS = "pairs.parquet"
MANIFEST_YAML = "manifest.yaml"

_ROWS_PER_BATCH, _BATCHES_PER_GROUP = 1024, 64


def write_manifest(
    store: Store,
    results: Iterable[SceneResult],
    recipe: Recipe,
    *,
    versions: Mapping[str, str],
    contents: str,
    unlisted: tuple[int, int] = (0, 0),
) -> Summary:
    """Writes the manifest and its card, holding one scene at a time; manifest.yaml, with the hashes of the others, is last.

    Args:
        store: the output folder.
        results: planned scenes, each once, sorted by (scene name, CFA).
        recipe: of the results.
        versions: library versions, for the record in manifest.yaml.
        contents: digest of what the manifest is made from, for manifest.yaml.
        unlisted: how many planned scenes and pairs are not among the results, because a run was stopped.

    Raises:
        OutputError: The storage reports an error; the old manifest is unchanged.
    """
    tally, card = _Tally(), Contents()
    with tempfile.SpooledTemporaryFile(max_size=1 << 24) as entries:
        with (
            store.create(MANIFEST, replace=True) as manifest,
            store.create(PAIRS, replace=True) as pairs,
            _Rows(manifest, MANIFEST_SCHEMA) as crop_rows,
            _Rows(pairs, PAIRS_SCHEMA) as pair_rows,
        ):
            for scene, pair in _pairs_in_order(_counted(results, tally, card, entries)):
                pair_rows.add(pair_row(scene, pair))
                for number, crop in enumerate(pair.crops):
                    crop_rows.add(crop_row(scene, pair, number, crop, recipe.crop_size))
        summary = tally.summary(recipe, manifest.sha256, unlisted)
        files = {MANIFEST: manifest.sha256, PAIRS: pairs.sha256}
        files |= write_card(store, card, summary, recipe, files)
        head = _head(summary, recipe, versions) | {"contents": contents, "files": files}
        with store.create(MANIFEST_YAML, replace=True) as sink:
            sink.write(_yaml(head) + b"scenes:\n")
            entries.seek(0)
            while block := entries.read(1 << 20):
                sink.write(block)
            if summary.scenes.planned == unlisted[0]:
                sink.write(b"  []\n")
    return summary


class _Files(BaseModel):
    manifest: Sha256 = Field(alias="manifest.parquet")
    pairs: Sha256 = Field(alias="pairs.parquet")


class _Head(BaseModel):
    """What every manifest.yaml has had above its list of scenes; the rest depends on the version."""

    model_config = ConfigDict(strict=True)

    recipe: dict[str, Any]
    counts: dict[str, Any]
    reasons: dict[str, int]
    scene_reasons: dict[str, int] = {}
    contents: str
    files: _Files


def read_head(store: Store) -> dict[str, Any]:
    """Everything of manifest.yaml above its list of scenes.

    Raises:
        FileNotFoundError: There is no manifest yet.
        DamagedManifestError: It is damaged.
        ManifestError: It is of a newer format.
    """
    place = f"{MANIFEST_YAML} in {store.location}"
    text = store.read(MANIFEST_YAML, SETTINGS + len(_SCENES)).partition(_SCENES)[0]
    head = read_yaml(text, place, DamagedManifestError)
    if not isinstance(head, dict) or "format" not in head:
        raise DamagedManifestError(f"{place} is not a manifest")
    require_readable("manifest.yaml", head["format"], place)
    try:
        _Head.model_validate(head)
    except ValidationError as error:
        raise _damaged(place, error) from error
    return head


_SCENES = b"\nscenes:\n"


def _damaged(place: str, error: ValidationError) -> DamagedManifestError:
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(printable(str(part)) for part in first["loc"])
    return DamagedManifestError(f"{place} is damaged: {where}: {first['msg']}; run `rawnind prepare` again")


def read_summary(store: Store) -> Summary:
    """The summary that `write_manifest` returned when it wrote the manifest. Errors as in `read_head`."""
    head = read_head(store)
    values = {
        "recipe": head["recipe"].get("digest"),
        **head["counts"],
        "reasons": list(head["reasons"].items()),
        "manifest_sha256": head["files"][MANIFEST],
        "scene_reasons": list(head.get("scene_reasons", {}).items()),
    }
    try:
        return _SUMMARY.validate_json(json.dumps(values))
    except ValidationError as error:
        raise _damaged(f"{MANIFEST_YAML} in {store.location}", error) from error


_SUMMARY = TypeAdapter(Summary)


def incompleteness(store: Store) -> str:
    """`Summary.incomplete` of the folder's manifest. Errors as in `read_head`."""
    return read_summary(store).incomplete


def read_entries(store: Store) -> Iterator[dict[str, Any]]:
    """The entries of manifest.yaml's list of scenes, one by one. Errors as in `read_head`."""
    with store.open(MANIFEST_YAML) as source, io.BufferedReader(source) as file:
        lines = itertools.dropwhile(
            lambda line: line != b"scenes:\n", iter(lambda: file.readline(_LONGEST_ENTRY), b"")
        )
        next(lines, None)
        block = bytearray()
        for line in itertools.chain(lines, [b"- end"]):
            if line.startswith(b"- ") and block:
                yield from _entries(bytes(block), store)
                block.clear()
            block += line
            if len(block) > _LONGEST_ENTRY:
                break
        else:
            return
    raise ManifestError(
        f"{MANIFEST_YAML} in {store.location} is damaged: an entry has more than {_LONGEST_ENTRY} bytes"
    )


_LONGEST_ENTRY = 1 << 24
"""Bytes of a scene's entry, which names each file that failed."""


def _entries(block: bytes, store: Store) -> list[dict[str, Any]]:
    found = read_yaml(block, f"{MANIFEST_YAML} in {store.location}", ManifestError, most=_LONGEST_ENTRY)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ManifestError(f"{MANIFEST_YAML} in {store.location} is damaged: its scenes are no list")
    return found


class _Rows:
    """Writes rows to a Parquet file in row groups, buffered as columns."""

    def __init__(self, sink: HashingSink, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._pack()
            self._flush()
        self._writer.close()

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= _ROWS_PER_BATCH:
            self._pack()
        if len(self._batches) >= _BATCHES_PER_GROUP:
            self._flush()

    def _pack(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._batches, schema=self._schema))
        self._batches.clear()


class _Tally:
    """Counts scenes, pairs and crops."""

    def __init__(self) -> None:
        self._scenes: Counter[str] = Counter()
        self._pairs: Counter[str] = Counter()
        self._reasons: Counter[Reason] = Counter()
        self._scene_reasons: Counter[Reason] = Counter()
        self._crops = 0

    def add(self, result: SceneResult) -> None:
        self._scenes.update(["planned", result.outcome])
        self._scene_reasons.update([result.reason] if result.reason and not result.pairs else [])
        for pair in result.pairs:
            self._pairs.update(["planned", pair.outcome])
            self._reasons.update([pair.reason] if pair.reason else [])
            self._crops += len(pair.crops)

    def summary(self, recipe: Recipe, manifest_sha256: str, unlisted: tuple[int, int]) -> Summary:
        self._scenes["planned"] += unlisted[0]
        self._pairs["planned"] += unlisted[1]
        return Summary(
            recipe=recipe.digest,
            scenes=Counts(**self._scenes),
            pairs=Counts(**self._pairs),
            crops=self._crops,
            reasons=tuple(sorted(self._reasons.items())),
            manifest_sha256=manifest_sha256,
            scene_reasons=tuple(sorted(self._scene_reasons.items())),
        )


def _counted(
    results: Iterable[SceneResult], tally: _Tally, card: Contents, entries: IO[bytes]
) -> Iterator[SceneResult]:
    for result in results:
        tally.add(result)
        card.add(result)
        entries.write(_yaml([scene_entry(result)]))
        yield result


def _pairs_in_order(results: Iterable[SceneResult]) -> Iterator[tuple[SceneResult, PairResult]]:
    for _, group in itertools.groupby(results, key=lambda result: result.scene.name):
        pairs = ((scene, pair) for scene in group for pair in scene.pairs)
        yield from sorted(pairs, key=lambda item: item[1].pair_id)


def _head(summary: Summary, recipe: Recipe, versions: Mapping[str, str]) -> dict[str, Any]:
    counts = {"scenes": asdict(summary.scenes), "pairs": asdict(summary.pairs), "crops": summary.crops}
    return {
        "format": VERSIONS["manifest.yaml"],
        "complete": not summary.incomplete,
        "recipe": {"digest": recipe.digest, **recipe.as_dict()},
        "versions": dict(versions),
        "counts": counts,
        "conservation": {name: conservation(getattr(summary, name)) for name in ("scenes", "pairs")},
        "reasons": {str(reason): count for reason, count in summary.reasons},
        "scene_reasons": {str(reason): count for reason, count in summary.scene_reasons},
    }


def conservation(counts: Counts) -> str:
    """The conservation sum as text: planned items equal the sum of all outcomes, and of those without one yet.

    >>> conservation(Counts(planned=4, collected=2, failed=1))
    '4 planned = 2 collected + 0 filtered + 0 rejected + 1 failed + 1 open'
    """
    terms = [f"{getattr(counts, outcome)} {outcome}" for outcome in Outcome]
    terms += [f"{counts.open} open"] * (counts.open != 0)
    return f"{counts.planned} planned = {' + '.join(terms)}"


def _yaml(value: object) -> bytes:
    text: str = yaml.dump(value, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=120)
    return text.encode()


_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's where it is there: five times as fast
