"""Everything that a report shows of an output folder: from the manifest where it is complete, else from the journal."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from rawnind.documents import read_yaml
from rawnind.errors import ManifestError, NotPreparedError, printable
from rawnind.output.events import NewestEvent
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
from rawnind.output.tables import open_table, require_sealed, require_sound
from rawnind.reasons import Outcome
from rawnind.records import Counts, ImageRef, SceneResult

Row = dict[str, Any]

RECIPE = "recipe.yaml"

_NO_PAIR: Row = dict.fromkeys(PAIRS_SCHEMA.names)
"""Folders of earlier versions lack columns."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Folder:
    """What was committed to an output folder, as rows of the manifest's tables.

    Attributes:
        store: the output folder.
        recipe: parameters by name, `digest` among them.
        versions: of libraries; empty where no manifest is written yet.
        scenes: entries as in manifest.yaml, sorted by (scene, CFA); also those that the run left out.
        pairs: rows of pairs.parquet, sorted by (scene, pair_id).
        crops: rows of manifest.parquet.
        conservation: (what, sum) for scenes and pairs.
        incomplete: what is not there yet, as a sentence; empty where every scene has an outcome.
        manifest: SHA-256 of manifest.parquet; empty where the journal was read.
    """

    store: Store
    recipe: Row
    versions: dict[str, str]
    scenes: tuple[Row, ...]
    pairs: tuple[Row, ...]
    crops: pa.Table
    conservation: tuple[tuple[str, str], ...]
    incomplete: str
    manifest: str


def scene_key(row: Row) -> str:
    """What identifies a scene in an entry or a row: `bayer/kitchen`."""
    return f"{row['cfa']}/{row['scene']}"


def read_folder(store: Store) -> Folder:
    """Reads an output folder, also during a run and after a stopped one.

    Raises:
        NotPreparedError: Nothing was committed there.
        ManifestError: The manifest or the journal is damaged.
        OutputError: The storage reports an error.
    """
    try:
        complete = not read_summary(store).incomplete
    except FileNotFoundError:
        complete = False
    if complete:
        return _from_manifest(store)
    results, next_seq = _committed(store)
    if results:
        return _from_journal(store, results, next_seq)
    if store.exists(MANIFEST_YAML):
        return _from_manifest(store)
    raise NotPreparedError(
        f"{store.location} holds no committed scene; is it the --output of `rawnind prepare`?"
    )


def _from_manifest(store: Store) -> Folder:
    require_sealed(store)
    head, summary = read_head(store), read_summary(store)
    with open_table(store, PAIRS) as file:
        pairs = file.read()
    with open_table(store, MANIFEST) as file:
        crops = file.read()
    for table, name in ((pairs, PAIRS), (crops, MANIFEST)):
        require_sound(table, name, store.location)
    return Folder(
        store=store,
        recipe=head["recipe"],
        versions={str(name): str(version) for name, version in head.get("versions", {}).items()},
        scenes=tuple(_sound_entries(read_entries(store), store)),
        pairs=tuple(_NO_PAIR | row for row in pairs.to_pylist()),
        crops=_with_all_columns(crops),
        conservation=(
            ("scenes", conservation(summary.scenes)),
            ("pairs", conservation(summary.pairs)),
        ),
        incomplete=summary.incomplete,
        manifest=summary.manifest_sha256,
    )


def _with_all_columns(crops: pa.Table) -> pa.Table:
    for field in MANIFEST_SCHEMA:
        if field.name not in crops.column_names:
            crops = crops.append_column(field, pa.nulls(crops.num_rows, field.type))
    return crops


def _sound_entries(entries: Iterable[Row], store: Store) -> Iterator[Row]:
    """The entries, each with every key that the page shows."""
    for entry in entries:
        try:
            yield _Entry.model_validate(entry).model_dump()
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(printable(str(part)) for part in first["loc"])
            raise ManifestError(
                f"{MANIFEST_YAML} in {store.location} is damaged: scenes: {where}: {first['msg']}"
            ) from error


class _FailedFile(BaseModel):
    file: str


class _Entry(BaseModel):
    """What the page shows of a scene's entry in manifest.yaml."""

    model_config = ConfigDict(strict=True)

    scene: str
    cfa: str
    outcome: str
    crops: int
    reason: str = ""
    detail: str = ""
    failed_files: list[_FailedFile] = []


def _committed(store: Store) -> tuple[list[SceneResult], int]:
    """Results sorted as in the manifest, and the journal's next sequence number."""
    journal = Journal(store)
    found = [journal.at(int(seq)) for seq in sorted(journal.latest.all_rows()["seq"])]
    return sorted(found, key=lambda result: (result.scene.name, result.scene.cfa)), journal.next_seq


def _from_journal(store: Store, results: list[SceneResult], next_seq: int) -> Folder:
    recipe = _recipe(store)
    rows = [(result, pair) for result in results for pair in result.pairs]
    crops = [
        crop_row(result, pair, number, crop, int(recipe["crop_size"]))
        for result, pair in rows
        for number, crop in enumerate(pair.crops)
    ]
    pairs = sorted((pair_row(*row) for row in rows), key=lambda row: (row["scene"], row["pair_id"]))
    scenes = tuple(_sound_entries(map(scene_entry, results), store))
    begin = NewestEvent(store, "begin").read() or {}
    left = max(begin.get("open_scenes", 0) - (next_seq - begin.get("next_seq", 0)), 0)
    planned = max(begin.get("planned_scenes", 0), len(scenes) + left)
    found = Counter(entry["outcome"] for entry in scenes)
    found[Outcome.FILTERED] += planned - len(scenes) - left  # a run does not commit what it leaves out
    return Folder(
        store=store,
        recipe={"digest": results[-1].recipe, **recipe},
        versions={},
        scenes=scenes,
        pairs=tuple(_NO_PAIR | row for row in pairs),
        crops=pa.Table.from_pylist(crops, schema=MANIFEST_SCHEMA),
        conservation=(
            ("scenes", conservation(_counts(planned, found))),
            ("pairs", _pairs_so_far(begin.get("planned_pairs", len(pairs)), pairs)),
        ),
        incomplete=f"the run is not complete: {left} of {planned} scenes have no outcome yet; run `rawnind prepare` again "
        "to resume"
        if left
        else "the manifest is not written yet; run `rawnind prepare` again to write it",
        manifest="",
    )


def _counts(planned: int, outcomes: Mapping[str, int]) -> Counts:
    return Counts(planned=planned, **{str(outcome): outcomes.get(outcome, 0) for outcome in Outcome})


def _pairs_so_far(planned: int, pairs: list[Row]) -> str:
    found = conservation(_counts(len(pairs), Counter(row["outcome"] for row in pairs)))
    return f"{found.replace('planned', 'committed')}; {planned} are planned"


def _recipe(store: Store) -> Row:
    place = f"{RECIPE} in {store.location}"
    try:
        found = read_yaml(store.read(RECIPE), place, ManifestError)
    except FileNotFoundError as error:
        raise ManifestError(f"{place} is missing") from error
    if not isinstance(found, dict) or not isinstance(found.get("crop_size"), int):
        raise ManifestError(f"{place} is not a recipe")
    return {str(key): value for key, value in found.items() if key != "format"}


def photos_of(store: Store, keys: Iterable[str]) -> dict[str, ImageRef]:
    """Where the photos of scenes were when they were read: SHA-1 -> photo. Empty where the folder has no journal.

    Args:
        store: the output folder.
        keys: of the scenes.
    """
    journal = Journal(store)
    found: dict[str, ImageRef] = {}
    for key in keys:
        with contextlib.suppress(KeyError):
            scene = journal.read(key).scene
            found |= {photo.sha1: photo for photo in (*scene.ground_truths, *scene.noisy)}
    return found
