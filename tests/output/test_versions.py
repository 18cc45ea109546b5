"""Formats that can grow: older folders are read, newer ones are refused with the remedy, and what is unknown is kept."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import rawnind
from rawnind.errors import ConfigError, DamagedShardError, ManifestError, RecipeMismatchError
from rawnind.exporters.check import check
from rawnind.exporters.research_yaml import export
from rawnind.feed import CropDataset
from rawnind.options import Options, load_config
from rawnind.output.journal.journal import Journal, Merging, commit_of, decode_result, encode_result
from rawnind.output.journal.part_file import SCHEMA, commit_table, write_part
from rawnind.output.manifest import MANIFEST, MANIFEST_YAML, read_head, write_manifest
from rawnind.output.schema import MANIFEST_SCHEMA, PAIRS_SCHEMA
from rawnind.output.shard_reader import ShardReader
from rawnind.output.shards import read_crop, shard_schema
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.output.versions import VERSIONS, parquet_metadata, require_readable
from rawnind.recipe import ADDED, GtAlignment, Recipe
from tests.golden.digests import STORED, environment, made
from tests.output.result_maker import RECIPE, make_result, make_scene, seal
from tests.small_set import digests

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = ("format-1", "before-compression")
"""Output folders that earlier versions wrote from golden/source: the first with `crop_size=32, stride=128`, the second the
same before recipes had a compression."""
SIZE = {"crop_size": 32, "stride": 128}


@pytest.fixture(params=FOLDERS)
def golden(request, tmp_path):
    """A copy of an older output folder."""
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / "out"))


def test_an_older_folder_verifies(golden):
    assert list(verify(Store(str(golden)))) == []


def test_an_older_folder_gives_its_crops(golden):
    crops = CropDataset(golden, split="all", crop_size=32, input="rgb")
    assert len(crops) == pq.read_metadata(golden / MANIFEST).num_rows == 8
    assert all(torch.isfinite(crops[index]["y_crops"]).all() for index in range(len(crops)))


def test_an_older_folder_is_exported(golden, tmp_path):
    export(golden, tmp_path / "exported")
    assert list(check(tmp_path / "exported")) == []


@pytest.mark.ray
def test_an_older_folder_is_resumed_without_doing_anything_again(cluster, golden):
    before = digests(golden)
    summary = rawnind.prepare(GOLDEN / "source", golden, **SIZE)
    assert summary.scenes.collected == 2
    events = [json.loads(line) for line in (golden / "events.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "commit" for event in events) == 2
    shards = {name: digest for name, digest in before.items() if name.startswith("shards/")}
    assert shards == {name: digest for name, digest in digests(golden).items() if name.startswith("shards/")}
    assert list(verify(Store(str(golden)))) == []


@pytest.mark.ray
def test_the_same_photos_give_the_bytes_that_are_stored(cluster, tmp_path):
    stored = json.loads(STORED.read_text())
    if (here := environment()) != stored["environment"]:
        pytest.skip(f"digests were stored with {stored['environment']}, this is {here}")
    assert made(tmp_path / "out") == stored["files"]


@pytest.mark.ray
def test_an_older_folder_with_open_scenes_is_not_continued_with_another_algorithm(
    cluster, golden, sample_set
):
    with pytest.raises(RecipeMismatchError, match=r"made with algorithm 1.*Choose a new --output"):
        rawnind.prepare(sample_set, golden, **SIZE)
    assert list(verify(Store(str(golden)))) == []


def test_a_recipe_without_a_key_keeps_the_digest_that_it_had():
    known = {
        name: yaml.safe_load((GOLDEN / name / MANIFEST_YAML).read_text().partition("\nscenes:")[0])["recipe"]
        for name in FOLDERS
    }
    for values in known.values():
        digest = values.pop("digest")
        assert Recipe.of_folder(values).digest == digest
        before = {key: value for key, value in ADDED.items() if key != "compression"}
        assert Recipe.of_folder(values) == Recipe(**SIZE, algorithm=1, **before)
        assert before.pop("gt_alignment") is GtAlignment.INTEGER
        assert before == dict.fromkeys(before)  # no limit
    assert set(known["format-1"]) - set(known["before-compression"]) == {"compression"} < set(ADDED)


def mark(kind, version):
    return {b"rawnind.format": f"{kind} {version}".encode()}


def rewrite(path, metadata):
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(metadata), path)


@pytest.fixture
def finished(tmp_path):
    """A store with a journal of two scenes and a manifest of this version."""
    store = Store(str(tmp_path / "made"))
    results = [make_result(scene, store=store) for scene in (make_scene("a"), make_scene("b"))]
    Journal(store).append(results)
    write_manifest(store, results, RECIPE, versions={}, contents="test")
    return store


@pytest.mark.parametrize("version", [2, 10])
def test_a_newer_manifest_is_refused_with_the_remedy(finished, version):
    rewrite(finished.local(MANIFEST), mark("manifest", version))
    seal(finished)
    with pytest.raises(ManifestError, match=f"format {version} of manifest.*Upgrade rawnind"):
        CropDataset(finished.location, split="all", crop_size=32)
    assert any("Upgrade rawnind" in problem for problem in verify(finished))


def test_a_newer_manifest_yaml_is_refused_with_the_remedy(finished):
    path = finished.local(MANIFEST_YAML)
    path.write_text(path.read_text().replace("format: 1", "format: 2", 1))
    with pytest.raises(ManifestError, match="Upgrade rawnind"):
        read_head(finished)


def test_a_newer_part_is_refused_and_nobody_is_told_to_remove_it(tmp_path):
    store = Store(str(tmp_path))
    table = commit_table([], [], [], []).replace_schema_metadata(mark("journal", 2))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data = sink.getvalue().to_pybytes()
    store.write(f"parts/0000000000-0-{hashlib.sha256(data).hexdigest()[:16]}.parquet", data)
    with pytest.raises(ManifestError, match="Upgrade rawnind") as error:
        Journal(store)
    assert "emove" not in str(error.value)


def test_a_newer_shard_is_refused_with_the_remedy(finished):
    (pair, *_) = (pair for _, result in Journal(finished).since(0) for pair in result.pairs if pair.shard)
    path = finished.local(pair.shard.path)
    rewrite(path, mark("shard", 2))
    row = pq.read_table(finished.local(MANIFEST)).to_pylist()[0]
    for read in (
        lambda: read_crop(finished, pair.shard.path, 0, RECIPE.crop_size),
        lambda: ShardReader(finished).crop(pair.shard.path, 0, row["crop_id"], RECIPE.crop_size, ""),
    ):
        with pytest.raises((DamagedShardError, ManifestError), match=r"Upgrade rawnind|not a shard"):
            read()


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, [1]])
def test_a_version_that_none_ever_had_is_refused(version):
    with pytest.raises(ManifestError, match="no version of rawnind writes"):
        require_readable("journal", version, "part")


def test_what_this_version_writes_it_reads():
    for kind, version in VERSIONS.items():
        require_readable(kind, version, "file")
    assert parquet_metadata("shard")[b"rawnind.format"] == b"shard 1"


def test_shards_say_how_they_are_decoded(finished):
    (pair, *_) = (pair for _, result in Journal(finished).since(0) for pair in result.pairs if pair.shard)
    table = pq.read_table(finished.local(pair.shard.path))
    decoding = json.loads(pq.read_metadata(finished.local(pair.shard.path)).metadata[b"rawnind.columns"])
    crop = read_crop(finished, pair.shard.path, 0, RECIPE.crop_size)
    for name, known in decoding.items():
        array = np.frombuffer(table[name][0].as_py(), known["dtype"]).reshape(known["shape"])
        if "packed_bits" in known:
            array = np.unpackbits(array, axis=1, bitorder=known["packed_bits"]).view(np.bool_)
            np.testing.assert_array_equal(array, crop.valid)
        else:
            np.testing.assert_array_equal(array, getattr(crop, name))


def test_a_measurement_of_a_later_version_is_kept_when_parts_are_merged(tmp_path):
    store = Store(str(tmp_path))
    result = make_result(make_scene("a"), store=store)
    data = json.loads(encode_result(result))
    data["pairs"][0]["measured"]["sharpness"] = 0.25
    later = json.dumps(data).encode()
    assert decode_result(later) == result
    for seq in range(3):
        write_part(store, seq, [commit_table([result.scene.key], [commit_of(result, seq)], [b""], [later])])
    journal = Journal(store, Merging(few=2))
    journal.compact()
    (part,) = store.list("parts")
    kept = pq.read_table(store.local(part.path), columns=["result"])["result"].to_pylist()
    assert kept == [later] * 3
    assert Journal(store).read(result.scene.key) == result


def test_a_reason_of_a_later_version_is_no_damage(tmp_path):
    store = Store(str(tmp_path))
    result = make_result(make_scene("a"), store=store)
    table = commit_table([result.scene.key], [commit_of(result, 0)], [b""], [encode_result(result)])
    changed = table.set_column(
        SCHEMA.get_field_index("reason"), SCHEMA.field("reason"), pa.array(["lens_cap"])
    )
    write_part(store, 0, [changed])
    with pytest.raises(ManifestError, match=r"lens_cap.*Upgrade rawnind"):
        Journal(store)


def test_a_column_of_a_later_version_is_passed_over(finished):
    path = finished.local(MANIFEST)
    table = pq.read_table(path)
    pq.write_table(table.append_column("sharpness", pa.array([0.5] * len(table))), path)
    seal(finished)
    crops = CropDataset(finished.location, split="all", crop_size=32)
    assert len(crops) == len(table)
    assert list(verify(finished)) == []


def test_a_recipe_yaml_is_a_config_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"format": VERSIONS["recipe"], **Recipe(crop_size=64).as_dict()}))
    assert Options.from_dict(load_config(path)).recipe == Recipe(crop_size=64)
    with pytest.raises(ConfigError, match="surprise"):
        Options.from_dict({"surprise": 1})


def columns_in(section):
    """Column names in the first cells of a section's table."""
    text = (GOLDEN.parents[1] / "docs" / "formats.md").read_text()
    table = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize(
    ("section", "schema"),
    [
        ("manifest.parquet", MANIFEST_SCHEMA),
        ("pairs.parquet", PAIRS_SCHEMA),
        ("Shards", shard_schema(32)),
        ("The journal", SCHEMA),
    ],
)
def test_the_page_on_formats_names_every_column_once(section, schema):
    assert sorted(columns_in(section)) == sorted(schema.names)


def test_the_page_on_formats_names_every_kind_with_its_version():
    text = (GOLDEN.parents[1] / "docs" / "formats.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")[2:4]] for line in text.splitlines() if line.startswith("|")
    ]
    assert {kind: version for kind, version in rows if kind in VERSIONS} == {
        k: str(v) for k, v in VERSIONS.items()
    }
