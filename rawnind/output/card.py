"""The data card of an output folder: README.md for people and Hugging Face, croissant.json for data set search and loaders.

Both depend on the rows of the manifest and the recipe alone. Licence and source stand as unknown in the card: nothing in RAW
files says them. People write them in, and a card that they changed is never overwritten.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from rawnind.output.schema import MANIFEST_SCHEMA, PAIRS_SCHEMA
from rawnind.output.shards import shard_schema
from rawnind.output.store import Store
from rawnind.recipe import Recipe
from rawnind.records import SceneResult, Summary
from rawnind.splits import held_out_cameras, validation_scenes
from rawnind.words import counted

log = logging.getLogger(__name__)

CARD, CROISSANT = "README.md", "croissant.json"

_SEAL = "\n<!-- Made by rawnind, which replaces this file until someone changes it. "
_MOST = 1 << 20  # bytes of a card that is looked at
_IDENTIFIER = "rawnind:"


class Contents:
    """What the card says of the collected pairs, counted scene by scene."""

    def __init__(self) -> None:
        self.crops: Counter[tuple[str, int | None]] = Counter()
        self.pairs: Counter[tuple[str, int | None]] = Counter()
        self.scene_crops: Counter[str] = Counter()
        self.test_crops: Counter[str] = Counter()
        self.training_cameras: set[str] = set()
        self.iso_crops: Counter[tuple[str, int | None, bool]] = Counter()

    def add(self, result: SceneResult) -> None:
        """Counts the pairs of a scene."""
        for pair in result.pairs:
            if pair.sensor and pair.crops:
                self.crops[pair.sensor.camera, pair.noisy.iso] += len(pair.crops)
                self.pairs[pair.sensor.camera, pair.noisy.iso] += 1
                self.training_cameras.update([] if result.scene.test_reserve else [pair.sensor.camera])
                by_scene = self.test_crops if result.scene.test_reserve else self.scene_crops
                by_scene[result.scene.name] += len(pair.crops)
                self.iso_crops[result.scene.name, pair.noisy.iso, result.scene.test_reserve] += len(
                    pair.crops
                )


def write_card(
    store: Store, contents: Contents, summary: Summary, recipe: Recipe, files: Mapping[str, str]
) -> dict[str, str]:
    """Writes both files, except where someone else's or a changed one is in their place.

    Args:
        store: the output folder.
        contents: of the manifest.
        summary: of the run.
        recipe: of the run.
        files: SHA-256 of manifest.parquet and pairs.parquet, by name.

    Returns:
        SHA-256 of what was written, by file name.

    Raises:
        OutputError: The storage reports an error.
    """
    made = {CARD: _sealed(_card(contents, summary, recipe)), CROISSANT: _croissant(summary, recipe, files)}
    written = {}
    for name, data in made.items():
        if is_ours(store, name):
            written[name] = store.write(name, data, replace=True)
        else:
            log.warning("%s in %s was changed by someone and is kept as it is", name, store.location)
    return written


def is_ours(store: Store, name: str) -> bool:
    """Whether a file is one that `write_card` wrote and nobody changed, or is not there at all."""
    if not store.exists(name):
        return True
    data = store.read(name, _MOST)
    if name == CARD:
        text, found, _ = data.partition(_SEAL.encode())
        return bool(found) and data == _sealed(text.decode(errors="replace"))
    return f'"identifier": "{_IDENTIFIER}'.encode() in data


def _sealed(text: str) -> bytes:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}{_SEAL}{digest} -->\n".encode()


_FRONT = """---
pretty_name: RAW photo pairs for training denoisers
license: unknown
task_categories:
- image-to-image
tags:
- raw
- denoising
- demosaicing
- croissant
size_categories:
- {size}
configs:
- config_name: crops
  default: true
  data_files:
  - split: unsplit
    path: manifest.parquet
- config_name: pairs
  data_files:
  - split: unsplit
    path: pairs.parquet
{pixels}---
"""
_PIXELS = """- config_name: pixels
  data_files:
  - split: unsplit
    path: shards/*/*/*.parquet
"""
_TEXT = """
# RAW photo pairs for training denoisers

{crops} of {size} x {size} sites from {pairs} of a clean and a noisy RAW photo, {scenes}; prepared by rawnind:
aligned, masked, scored and cropped. {complete}

| Config | File | One row is |
|---|---|---|
| `crops` | `manifest.parquet` | a crop: its place, what was measured, in which shard its pixels are |
| `pairs` | `pairs.parquet` | a planned pair, also one that was not collected: outcome, reason, every measured number |
| `pixels` | `shards/<cfa>/<scene>/<pair_id>.parquet` | a crop's pixels, by `crop_id` |

```python
from datasets import load_dataset

crops = load_dataset("{where}", "crops", split="unsplit")
```

`noisy_raw` and `gt_raw` are uint16 (size, size), LibRaw's values; `gt_rgb` is float16 (3, size, size), linear Rec.2020; `mask` is
(size, size / 8) packed bits, most significant first, 1 = may be trained on. All are little-endian in C order.

## Licence and source

Licence: unknown. Source: unknown. RAW files do not state them: write them here, and into `license:` above, before you publish.
A prepared set has the licence of its photos.

## Counts

Scenes: {scene_sum}. Pairs: {pair_sum}.

| Camera | ISO | Pairs | Crops |
|---|---|---|---|
{isos}
## Splits

| Split | Scenes | Crops | Chosen by |
|---|---|---|---|
| test | {test_scenes} | {test_crops} | column `test_reserve`: never train on it |
| val | {val_scenes} | {val_crops} | 10 % of the other scenes, by the SHA-256 of their name |
| train | {train_scenes} | {train_crops} | the rest, without photos of other splits |

Scenes are not chosen by their ISO. What each ISO has in the splits:

| ISO | Crops of train | of val | of test |
|---|---|---|---|
{strata}
`CropDataset(..., split=...)` of rawnind makes them{cameras}. The Hugging Face configs are not split: filter by `test_reserve` and `scene`.

## Limits

- A number that was not measured is null.
- Masks find changes that exceed what noise explains; a change below 5 % of the level is not found.
- A ground truth has noise too: it is a photo at low ISO.

## Citation

Cite the data set that the photos are from, and rawnind. Recipe `{recipe}`, manifest `{manifest}`.
"""


def _card(contents: Contents, summary: Summary, recipe: Recipe) -> str:
    scenes, test = contents.scene_crops, contents.test_crops
    validation = validation_scenes(scenes)
    val_crops = sum(scenes[name] for name in validation)
    front = _FRONT.format(size=_size_category(summary.crops), pixels=_PIXELS if summary.crops else "")
    return front + _TEXT.format(
        crops=counted(summary.crops, "crop"),
        size=recipe.crop_size,
        pairs=counted(summary.pairs.collected, "pair"),
        scenes=counted(summary.scenes.collected, "scene"),
        complete=summary.incomplete.capitalize() + "." * bool(summary.incomplete) or "Complete.",
        where="path/to/this/folder",
        scene_sum=_sum(summary.scenes),
        pair_sum=_sum(summary.pairs),
        isos=_iso_table(contents),
        test_scenes=len(test),
        test_crops=test.total(),
        val_scenes=len(validation),
        val_crops=val_crops,
        train_scenes=len(scenes) - len(validation),
        train_crops=scenes.total() - val_crops,
        strata=_strata(contents, validation),
        cameras=_cameras(contents),
        recipe=summary.recipe,
        manifest=summary.manifest_sha256[:16],
    )


def _sum(counts: Any) -> str:
    names = ("collected", "filtered", "rejected", "failed")
    return f"{counts.planned} planned, " + ", ".join(f"{getattr(counts, name)} {name}" for name in names)


def _iso_table(contents: Contents) -> str:
    cells = sorted(contents.crops, key=lambda cell: (cell[0], cell[1] is None, cell[1] or 0))
    return "".join(
        f"| {_plain(camera)} | {iso or 'unknown'} | {contents.pairs[camera, iso]} | {contents.crops[camera, iso]} |\n"
        for camera, iso in cells
    )


def _strata(contents: Contents, validation: frozenset[str]) -> str:
    """Crops per ISO and split."""
    table: dict[int | None, list[int]] = {}
    for (scene, iso, test), count in contents.iso_crops.items():
        table.setdefault(iso, [0, 0, 0])[2 if test else int(scene in validation)] += count
    isos = sorted(table, key=lambda iso: (iso is None, iso or 0))
    return "".join(f"| {iso or 'unknown'} | {' | '.join(map(str, table[iso]))} |\n" for iso in isos)


def _cameras(contents: Contents) -> str:
    """What a split by camera would hold out."""
    if len(contents.training_cameras) < 2:
        return ""
    held = ", ".join(_plain(camera) for camera in sorted(held_out_cameras(contents.training_cameras)))
    return f'; with `split_by="camera"` val has {held} and train the other cameras'


def _plain(name: str) -> str:
    """A camera's name, which a file may spell in any way, in a table cell."""
    return "".join(letter if letter.isalnum() or letter in " -_.+/()" else "?" for letter in name)[:80]


def _size_category(count: int) -> str:
    """Hugging Face's name for a number of rows.

    >>> _size_category(12), _size_category(40_000), _size_category(2_000_000)
    ('n<1K', '10K<n<100K', '1M<n<10M')
    """
    limits = ("1K", 1e3), ("10K", 1e4), ("100K", 1e5), ("1M", 1e6), ("10M", 1e7), ("100M", 1e8)
    above = [name for name, limit in limits if count >= limit]
    below = [name for name, limit in limits if count < limit]
    if not above:
        return "n<1K"
    return f"{above[-1]}<n<{below[0]}" if below else "n>100M"


_CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/", "examples": {"@id": "cr:examples", "@type": "@json"}, "equivalentProperty": "cr:equivalentProperty", "extract": "cr:extract",
    "field": "cr:field", "fileProperty": "cr:fileProperty", "fileObject": "cr:fileObject", "fileSet": "cr:fileSet",
    "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath",
    "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "recordSet": "cr:recordSet",
    "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated", "replace": "cr:replace",
    "sc": "https://schema.org/", "samplingRate": "cr:samplingRate", "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform",
}  # fmt: skip
"""The context that the Croissant 1.0 specification gives."""

_PARQUET = "application/x-parquet"


def _croissant(summary: Summary, recipe: Recipe, files: Mapping[str, str]) -> bytes:
    tables = {"crops": ("manifest.parquet", MANIFEST_SCHEMA), "pairs": ("pairs.parquet", PAIRS_SCHEMA)}
    distribution: list[dict[str, Any]] = [
        {"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name, "encodingFormat": _PARQUET,
         "sha256": files[name]}
        for name, _ in tables.values()
    ]  # fmt: skip
    distribution.append({"@type": "cr:FileSet", "@id": "shards", "name": "shards", "encodingFormat": _PARQUET,
                         "includes": "shards/*/*/*.parquet"})  # fmt: skip
    records = [
        _record_set(name, {"fileObject": {"@id": file}}, schema) for name, (file, schema) in tables.items()
    ]
    records.append(_record_set("pixels", {"fileSet": {"@id": "shards"}}, shard_schema(recipe.crop_size)))
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "rawnind-pairs",
        "description": f"{counted(summary.crops, 'aligned, masked and scored crop')} of {counted(summary.pairs.collected, 'pair')} of a clean and a "
        "noisy RAW photo, for training denoisers. The record set pixels has the bytes of each crop: how to decode them is said in "
        "the metadata of the files' schema.",
        "identifier": f"{_IDENTIFIER}{summary.manifest_sha256}",
        "isLiveDataset": bool(summary.incomplete),
        "distribution": distribution,
        "recordSet": records,
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _record_set(name: str, source: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    fields = []
    for field in schema:
        values = pa.types.is_list(field.type)
        entry: dict[str, Any] = {
            "@type": "cr:Field",
            "@id": f"{name}/{field.name}",
            "name": field.name,
            "dataType": _data_type(field.type.value_type if values else field.type),
            "source": {**source, "extract": {"column": field.name}},
        }
        fields.append(entry | ({"repeated": True} if values else {}))
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def _data_type(kind: pa.DataType) -> str:
    """Croissant 1.0 has no type for bytes; mlcroissant gives texts as bytes, as they are stored."""
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
