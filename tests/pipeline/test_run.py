"""Running again: what is done anew, and what is not."""

import os
import shutil

import pytest
import yaml

import rawnind
from rawnind.errors import ConfigError, RecipeMismatchError
from rawnind.output.attempts import Ledger
from rawnind.output.events import read_events
from rawnind.output.store import Store
from rawnind.reasons import Reason
from rawnind.source.index import index_to_yaml, load_index
from tests.small_set import leftovers


def commits(output):
    """Scenes committed by each run, oldest run first."""
    runs = {}
    for line in read_events(Store(str(output))):
        if line["event"] == "commit":
            runs.setdefault(line["run"], []).append(line["scene"])
    return [sorted(scenes) for scenes in runs.values()]


ALL = ["bayer/cameraman", "bayer/cat", "bayer/coins", "bayer/moon", "x-trans/tissue"]


def test_a_changed_photo_and_a_removed_shard_are_detected_and_only_their_scenes_are_processed_again(
    prepare, photos, finished, is_whole
):
    photo, output = photos.find("_cat_", "ISO1600"), finished
    good = photo.read_bytes()
    photo.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    summary = prepare()
    assert commits(output) == [ALL, ["bayer/cat"]]
    assert (Reason.SHA1_MISMATCH, 2) in summary.reasons  # the sample has one of its own
    photo.write_bytes(good)
    prepare()
    assert commits(output)[2:] == [["bayer/cat"]]
    assert is_whole(output)
    moon = photos.find("_moon_", "ISO3200")
    for path in (photos.find("_tissue_", "GT"), moon):  # touched, as by a copy, with the same bytes
        os.utime(path, (1, 1))
    damaged = next((output / "shards" / "bayer" / "cat").iterdir())
    damaged.write_bytes(b"")
    assert any("remove it" in problem for problem in rawnind.verify(output))
    damaged.unlink()
    prepare()
    # a truncated file may have been fetched again
    assert commits(output)[3:] == [["bayer/cat", "bayer/moon"]]
    assert is_whole(output)


def test_a_missing_file_is_detected_when_it_appears(prepare, photos, tmp_path, is_whole):
    photo, output = photos.find("_tissue_", "GT"), tmp_path / "out"
    index = tmp_path / "small" / "dataset_index.yaml"
    index.write_text(index_to_yaml(load_index(photo.parent)))
    away = shutil.move(photo, tmp_path / photo.name)
    summary = prepare()
    assert (Reason.MISSING_FILE, 1) in summary.reasons
    assert prepare(retry_failed="missing_file").reasons == summary.reasons
    shutil.move(away, photo)
    prepare()
    assert commits(output)[1:] == [["x-trans/tissue"], ["x-trans/tissue"]]
    assert is_whole(output)


def test_retry_failed_takes_the_scenes_with_that_failure_and_no_other(prepare, finished, is_whole):
    output = finished
    prepare()
    assert commits(output) == [ALL]
    prepare(retry_failed="truncated")
    assert commits(output)[1:] == [["bayer/moon"]]
    prepare(retry_failed=True)
    assert commits(output)[2:] == [["bayer/coins", "bayer/moon"]]
    prepare(retry_failed="worker_died")
    assert len(commits(output)) == 3
    assert is_whole(output)


def test_another_recipe_is_refused_with_the_difference(prepared, sample_set):
    with pytest.raises(
        RecipeMismatchError, match="crop_size 64 there and 96 now, pairing best there and all now"
    ):
        rawnind.prepare(sample_set, prepared, crop_size=96, stride=96, pairing="all")


def test_the_manifest_that_people_read_adds_up(prepared):
    manifest = yaml.safe_load((prepared / "manifest.yaml").read_text())
    assert manifest["conservation"] == {
        "scenes": "12 planned = 9 collected + 0 filtered + 2 rejected + 1 failed",
        "pairs": "22 planned = 18 collected + 0 filtered + 2 rejected + 2 failed",
    }
    assert len(manifest["scenes"]) == 12


def test_running_again_changes_nothing(prepared, sample_set):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.is_file()}
    rawnind.prepare(sample_set, prepared, crop_size=64, stride=96)
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.is_file()} == before


def test_running_again_removes_what_a_worker_left_after_its_run_had_lost_its_lease(
    prepared, sample_set, tmp_path
):
    output = shutil.copytree(prepared, tmp_path / "out")
    Ledger(Store(str(output)), "late", "bayer/cat").begin()
    rawnind.prepare(sample_set, output, crop_size=64, stride=96)
    assert leftovers(output) == []


def test_files_of_the_manifest_that_are_damaged_or_missing_are_written_again(prepared, sample_set, tmp_path):
    output = shutil.copytree(prepared, tmp_path / "out")
    names = ("manifest.yaml", "manifest.parquet", "pairs.parquet", "README.md", "croissant.json")
    before = {name: (output / name).read_bytes() for name in names}
    for name, rest in (*((name, None) for name in names), *((name, slice(99)) for name in names[:3])):
        (output / name).unlink()
        if rest:
            (output / name).write_bytes(before[name][rest])
        rawnind.prepare(sample_set, output, crop_size=64, stride=96)
        assert {name: (output / name).read_bytes() for name in names} == before


def test_an_output_that_is_a_file_is_refused_and_kept(sample_set, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        rawnind.prepare(sample_set, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
