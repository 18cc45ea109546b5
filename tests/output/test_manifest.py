"""The manifest: plain columns, sorted, complete, and the same bytes whatever the order of the commits."""

import math
from collections import Counter
from dataclasses import asdict, replace

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.errors import ManifestError, OutputError
from rawnind.outcomes import whole_scene_result
from rawnind.output.card import CARD, CROISSANT
from rawnind.output.manifest import (
    MANIFEST,
    MANIFEST_YAML,
    PAIRS,
    read_entries,
    read_head,
    read_summary,
    write_manifest,
)
from rawnind.output.schema import MANIFEST_SCHEMA, PAIRS_SCHEMA, crop_row, pair_row
from rawnind.output.store import Store
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.records import Capture, Cfa
from tests.output.result_maker import FAULTS, RECIPE, make_result, make_scene, make_sensor, results

PROMISED = [
    "crop_id",
    "scene",
    "cfa",
    "pair_id",
    "test_reserve",
    "unknown_sensor",
    "camera",
    "gt_sha1",
    "noisy_sha1",
    "gt_iso",
    "iso",
    "y",
    "x",
    "size",
    "shift_y",
    "shift_x",
    "subpixel_y",
    "subpixel_x",
    "alignment_loss",
    "gain",
    "valid_fraction",
    "msssim",
    "overexposed_fraction",
    "black_level",
    "white_level",
    "overexposure_lb",
    "rgb_xyz_matrix",
    "shard",
    "row_group",
    "shard_sha256",
    "recipe",
]


def ordered(found):
    return sorted(found, key=lambda result: (result.scene.name, result.scene.cfa))


def write(store, found, **changes):
    return write_manifest(
        store, ordered(found), RECIPE, **{"versions": {"rawnind": "1"}, "contents": "c"} | changes
    )


EXAMPLES = [
    make_result(make_scene("kitchen", noisy=8, unknown_sensor=True), seed=1),
    make_result(
        make_scene("attic", Cfa.X_TRANS, truths=2, noisy=4, test_reserve=True), faults=FAULTS, seed=2
    ),
    make_result(make_scene("attic", Cfa.BAYER, noisy=2), faults=(None, Reason.ALIGNMENT_LOSS), seed=3),
    make_result(make_scene("no truth", truths=0, noisy=2)),
    make_result(make_scene("no noise", noisy=0)),
    whole_scene_result(make_scene("über-Größe", noisy=2, test_reserve=True), RECIPE, Reason.TEST_RESERVE),
    whole_scene_result(
        make_scene("slow", noisy=1), RECIPE, Reason.TIMEOUT, 'a "quoted": detail, in stage decode'
    ),
]


@pytest.fixture
def written(store):
    write(store, EXAMPLES)
    return store


def table(store, name):
    return pq.read_table(store.local(name))


def test_the_columns_are_the_promised_ones_with_plain_types(written):
    for name, schema in ((MANIFEST, MANIFEST_SCHEMA), (PAIRS, PAIRS_SCHEMA)):
        found = table(written, name).schema
        assert found.equals(schema)
        assert {str(field.type).split("<")[0] for field in found} <= {
            "string",
            "int32",
            "double",
            "bool",
            "list",
        }
    assert set(PROMISED) <= set(MANIFEST_SCHEMA.names)


def test_rows_are_sorted(written):
    crops, pairs = (table(written, name).to_pylist() for name in (MANIFEST, PAIRS))
    assert crops == sorted(crops, key=lambda row: (row["scene"], row["pair_id"], row["y"], row["x"]))
    assert pairs == sorted(pairs, key=lambda row: (row["scene"], row["pair_id"]))
    assert len({row["crop_id"] for row in crops}) == len(crops) > 10


def test_every_crop_and_every_planned_pair_has_its_row_with_every_number(written):
    crops, pairs = (table(written, name).to_pylist() for name in (MANIFEST, PAIRS))
    by_pair = {(row["cfa"], row["scene"], row["pair_id"]): row for row in pairs}
    assert len(pairs) == sum(len(result.pairs) for result in EXAMPLES) == len(by_pair)
    left = {row["crop_id"]: row for row in crops}
    for result in EXAMPLES:
        for pair in result.pairs:
            row = by_pair[result.scene.cfa, result.scene.name, pair.pair_id]
            assert (row["outcome"], row["reason"], row["detail"]) == (pair.outcome, pair.reason, pair.detail)
            lines = row.pop("noise_lines")
            measured = asdict(pair.measured)
            assert (tuple(lines) if lines else None) == measured.pop("noise_lines")
            assert {name: row[name] for name in measured} == measured
            assert row["gt_sha1"] == (pair.ground_truth.sha1 if pair.ground_truth else None)
            assert row["crops"] == len(pair.crops)
            matrix = pair.gt_sensor.rgb_xyz_matrix if pair.gt_sensor else None
            assert row["gt_rgb_xyz_matrix"] == (list(matrix) if matrix else None)
            for number, crop in enumerate(pair.crops):
                row = left.pop(f"{pair.pair_id}-{crop.y}-{crop.x}")
                assert {name: row[name] for name in asdict(crop)} == asdict(crop)
                assert row["gain"] == pair.measured.gain
                assert (row["shard"], row["shard_sha256"], row["row_group"]) == (
                    pair.shard.path,
                    pair.shard.sha256,
                    number,
                )
                assert tuple(row["black_level"]) == pair.sensor.black_level
                assert tuple(row["rgb_xyz_matrix"]) == pair.sensor.rgb_xyz_matrix
                assert (row["size"], row["recipe"]) == (RECIPE.crop_size, RECIPE.digest)
    assert not left


@pytest.mark.parametrize("schema", [MANIFEST_SCHEMA, PAIRS_SCHEMA])
def test_no_column_stays_without_a_value_and_no_value_without_a_column(schema):
    result = EXAMPLES[0]
    pair = replace(
        result.pairs[0], reason=Reason.EXPOSURE, measured=replace(result.pairs[0].measured, rotation=0.1)
    )
    pair = replace(
        pair,
        sensor=replace(pair.sensor, capture=Capture()),
        gt_sensor=replace(pair.gt_sensor, capture=Capture()),
    )
    rows = {
        MANIFEST_SCHEMA: crop_row(result, pair, 0, pair.crops[0], 32),
        PAIRS_SCHEMA: pair_row(result, pair),
    }
    assert set(rows[schema]) == set(schema.names)


def test_what_was_not_measured_is_null(written):
    rows = table(written, PAIRS).to_pylist()
    broken = [row for row in rows if row["reason"] == "truncated"]
    assert broken
    for row in broken:
        assert all(row[name] is None for name in ("shift_y", "gain", "alignment_loss", "msssim", "mask_mean", "camera",
                                                  "white_level", "black_level", "rgb_xyz_matrix", "shard"))  # fmt: skip
    without = [row for row in rows if row["reason"] == "no_ground_truth"]
    assert without
    assert all(row["gt_sha1"] is row["gt_iso"] is row["gt_file"] is None for row in without)
    unscored = [row for row in table(written, MANIFEST).to_pylist() if row["msssim"] is None]
    assert unscored


def test_null_where_something_must_stand_is_refused_and_leaves_no_manifest(store):
    result = EXAMPLES[0]
    pair = replace(result.pairs[0], measured=replace(result.pairs[0].measured, gain=None))
    with pytest.raises(OutputError, match=r"gain|null"):
        write(store, [replace(result, pairs=(pair, *result.pairs[1:]))])
    assert list(store.local("any").parent.iterdir()) == []


def test_a_pair_with_crops_and_without_a_shard_is_a_bug(store):
    pair = replace(EXAMPLES[0].pairs[0], shard=None)
    with pytest.raises(ValueError, match="no shard"):
        write(store, [replace(EXAMPLES[0], pairs=(pair,))])
    assert not store.exists(MANIFEST)


def test_pandas_duckdb_and_pyarrow_read_the_same(written):
    for name in (MANIFEST, PAIRS):
        path = str(written.local(name))
        expected = table(written, name).to_pylist()
        with duckdb.connect() as connection:
            cursor = connection.execute("SELECT * FROM read_parquet(?)", [path])
            names = [column[0] for column in cursor.description]
            assert [dict(zip(names, row, strict=True)) for row in cursor.fetchall()] == expected
            count = connection.execute(
                "SELECT count(*) FROM read_parquet(?) WHERE msssim > 0.5", [path]
            ).fetchone()
        frame = pd.read_parquet(path)
        assert list(frame.columns) == names
        assert (frame.msssim > 0.5).sum() == count[0]
        for number, row in enumerate(expected):
            for column, value in row.items():
                found = frame[column][number]
                if isinstance(value, list):
                    assert list(found) == value
                elif value is None:
                    assert found is None or math.isnan(found)
                else:
                    assert found == value


def test_the_yaml_is_plain_and_its_counts_add_up(written):
    text = written.read(MANIFEST_YAML).decode()
    assert "!!" not in text
    whole = yaml.safe_load(text)
    for kind in ("scenes", "pairs"):
        counts = whole["counts"][kind]
        assert counts["planned"] == sum(counts[outcome] for outcome in Outcome)
        left, right = whole["conservation"][kind].split(" = ")
        assert (
            int(left.split()[0])
            == sum(int(term.split()[0]) for term in right.split(" + "))
            == counts["planned"]
        )
    outcomes = Counter(entry["outcome"] for entry in whole["scenes"])
    assert {outcome: whole["counts"]["scenes"][outcome] for outcome in outcomes} == outcomes
    assert (
        whole["counts"]["crops"]
        == sum(entry["crops"] for entry in whole["scenes"])
        == table(written, MANIFEST).num_rows
    )
    assert (
        sum(whole["reasons"].values()) + whole["counts"]["pairs"]["collected"]
        == whole["counts"]["pairs"]["planned"]
    )
    assert whole["recipe"] == {"digest": RECIPE.digest, **RECIPE.as_dict()}
    assert whole["files"] == {name: written.digest(name) for name in (MANIFEST, PAIRS, CARD, CROISSANT)}
    assert [(entry["scene"], entry["cfa"]) for entry in whole["scenes"]] == [
        (result.scene.name, result.scene.cfa) for result in ordered(EXAMPLES)]  # fmt: skip


def test_what_is_read_is_what_was_written(store):
    summary = write(store, EXAMPLES)
    assert read_summary(store) == summary
    assert summary.scenes.open == summary.pairs.open == 0
    assert read_head(store)["contents"] == "c"
    assert list(read_entries(store)) == yaml.safe_load(store.read(MANIFEST_YAML))["scenes"]


def test_a_manifest_of_nothing_can_be_read(store):
    summary = write(store, [])
    assert (summary.scenes.planned, summary.pairs.planned, summary.crops) == (0, 0, 0)
    assert yaml.safe_load(store.read(MANIFEST_YAML))["scenes"] == []
    assert list(read_entries(store)) == []
    assert read_summary(store) == summary
    for name in (MANIFEST, PAIRS):
        assert len(pd.read_parquet(store.local(name))) == 0
        with duckdb.connect() as connection:
            assert connection.execute(
                "SELECT count(*) FROM read_parquet(?)", [str(store.local(name))]
            ).fetchone() == (0,)


@settings(max_examples=20, deadline=None)
@given(found=st.lists(results(), max_size=4, unique_by=lambda result: (result.scene.name, result.scene.cfa)))
def test_any_results_give_a_manifest_that_reads_back(tmp_path_factory, found):
    store = Store(str(tmp_path_factory.mktemp("any")))
    summary = write(store, found)
    assert read_summary(store) == summary
    assert list(read_entries(store)) == yaml.safe_load(store.read(MANIFEST_YAML))["scenes"]
    assert table(store, MANIFEST).num_rows == summary.crops
    assert table(store, PAIRS).num_rows == summary.pairs.planned == sum(len(result.pairs) for result in found)
    assert summary.scenes.planned == len(found)


def test_the_bytes_do_not_depend_on_the_place_or_on_what_was_there(tmp_path):
    stores = [Store(str(tmp_path / name)) for name in ("one", "two")]
    write(stores[1], EXAMPLES[:2])
    for store in stores:
        write(store, EXAMPLES)
    for name in (MANIFEST, PAIRS, MANIFEST_YAML):
        assert stores[0].read(name) == stores[1].read(name)
        assert str(tmp_path).encode() not in stores[0].read(name)
        assert b"/photos/" not in stores[0].read(name)


def test_a_new_manifest_replaces_the_old_one_and_a_failed_one_does_not(written):
    before = {name: written.read(name) for name in (MANIFEST, PAIRS, MANIFEST_YAML)}

    def broken():
        yield ordered(EXAMPLES)[0]
        raise ManifestError("the journal is damaged")

    with pytest.raises(ManifestError):
        write_manifest(written, broken(), RECIPE, versions={}, contents="d")
    assert {name: written.read(name) for name in before} == before
    write(written, EXAMPLES[:1], contents="d")
    assert read_head(written)["contents"] == "d"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"- 1\n",
        b"format: 99\nscenes:\n  []\n",
        b"format: 1\n\tx",
        b"\xff\xfe",
        b"!!python/object:os.system {}\n",
    ],
)
def test_a_file_that_is_no_manifest_is_reported(store, text):
    store.write(MANIFEST_YAML, text)
    for call in (read_head, read_summary):
        with pytest.raises(ManifestError, match=r"manifest\.yaml"):
            call(store)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("counts:", "numbers:"), ("planned: 7", "planned: -7"), ("planned: 7", "planned: many"), ("timeout: 1", "tired: 1"),
        ("digest:", "dogest:"), ("files:", "film:"), ("crops: ", "crops: 1."), ("collected:", "connected:"),
    ],
)  # fmt: skip
def test_a_damaged_head_is_reported(written, old, new):
    text = written.read(MANIFEST_YAML).decode()
    assert old in text
    written.write(MANIFEST_YAML, text.replace(old, new, 1).encode(), replace=True)
    with pytest.raises(ManifestError, match=r"manifest\.yaml .* is damaged"):
        read_summary(written)


@pytest.mark.parametrize("tail", [b"- a\n- b: [\n", b"- just words\n", b"- {\n"])
def test_a_damaged_list_of_scenes_is_reported(written, tail):
    written.write(MANIFEST_YAML, written.read(MANIFEST_YAML) + tail, replace=True)
    with pytest.raises(ManifestError, match=r"manifest\.yaml"):
        list(read_entries(written))


def test_without_a_manifest_the_file_is_not_found(store):
    for call in (read_head, read_summary, lambda store: list(read_entries(store))):
        with pytest.raises(FileNotFoundError):
            call(store)


def test_more_rows_than_one_row_group_holds(store):
    result = make_result(make_scene("x", noisy=1))
    crops = tuple(replace(result.pairs[0].crops[0], x=2 * number) for number in range(66_000))
    write(store, [replace(result, pairs=(replace(result.pairs[0], crops=crops),))])
    with pq.ParquetFile(store.local(MANIFEST)) as file:
        assert [file.metadata.row_group(number).num_rows for number in range(2)] == [65_536, 464]
        assert file.read(columns=["x"])["x"].to_pylist() == [crop.x for crop in crops]


def test_sizes_come_from_the_recipe_and_levels_from_each_photo(store):
    recipe = Recipe(crop_size=64, stride=32)
    result = EXAMPLES[0]
    pair = replace(
        result.pairs[0], gt_sensor=make_sensor(white_level=4095.0, black_level=(1.0, 2.0, 3.0, 4.0))
    )
    write_manifest(
        store, [replace(result, pairs=(pair,), recipe=recipe.digest)], recipe, versions={}, contents=""
    )
    row = table(store, MANIFEST).to_pylist()[0]
    assert (row["size"], row["recipe"]) == (64, recipe.digest)
    assert (row["white_level"], row["gt_white_level"]) == (16383.0, 4095.0)
    assert row["gt_black_level"] == [1.0, 2.0, 3.0, 4.0]
