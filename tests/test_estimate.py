"""What `plan` foretells, beside what a run really does, and what it refuses."""

import os
import shutil
from dataclasses import replace

import pytest

from rawnind.errors import ConfigError, IndexInvalidError
from rawnind.estimate import estimate
from rawnind.imaging.photo import Photo
from rawnind.options import Options
from rawnind.output.store import Store
from rawnind.pipeline.scene import Meter, process_scene
from rawnind.recipe import Pairing
from rawnind.records import Cfa
from rawnind.sample import make_sample
from rawnind.source.decode import decode
from tests.source.huge_photo import TILE, add_huge_scene

SMALL = Options.from_dict({"crop_size": 96, "stride": 96})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimate") / "sample"
    make_sample(folder, height=288, width=384)
    return folder


def test_the_estimate_counts_scenes_pairs_and_crops_of_the_sample(source):
    found = estimate(source, SMALL)
    assert len(found.plan.scenes) == len(found.plan.selected) == 12
    assert found.pairs == 22
    assert (found.missing, found.too_small) == (0, 0)
    assert (found.without_truth, found.without_noisy) == (("deep-field",), ("moon",))
    assert "1 without a ground truth that can be opened: deep-field" in "\n".join(found.lines())
    # ((288 - 96) // 96 + 1) * ((384 - 96) // 96 + 1) crops of each Bayer pair but theirs; X-Trans steps are 96 too
    assert found.crops == 20 * 3 * 4
    everything = estimate(source, replace(SMALL, recipe=replace(SMALL.recipe, pairing=Pairing.ALL)))
    assert everything.pairs == 25


def test_a_run_gives_no_more_crops_and_takes_no_more_disk_than_estimated(source, tmp_path):
    options = replace(SMALL, cfa=Cfa.X_TRANS)
    found, store = estimate(source, options), Store(str(tmp_path))
    crops = 0
    for scene in found.plan.selected:
        result = process_scene(
            scene, options.recipe, store, meter=Meter(), read=lambda ref: Photo.from_visible(*decode(ref))
        )
        crops += sum(len(pair.crops) for pair in result.pairs)
    disk = sum(entry.size for entry in store.list("shards"))
    assert found.crops / 2 <= crops <= found.crops
    per_crop = found.disk_bytes / found.crops
    assert per_crop * crops <= disk <= per_crop * crops * 1.02  # names and footers


def test_memory_follows_the_largest_photo(source):
    small = estimate(source, SMALL).pool.needed
    assert 350e6 < small < 400e6


def test_the_estimate_lists_scenes_pairs_crops_and_workers(source):
    text = "\n".join(
        estimate(source, replace(SMALL, cfa=Cfa.BAYER, exclude_test_reserve=True, limit=3)).lines()
    )
    for part in ("3 to process (3 bayer, 0 x-trans)", "left out: The scene is reserved for testing.",
                 "left out: Another colour filter array was asked for.", "left out: The scene is beyond --limit.",
                 "Pairs:", "Crops:   at most", "Workers:"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("options", "workers"),
    [({}, 1), ({"max_scenes": 99, "limit": 1}, 1), ({"max_scenes": 99, "cpus_per_scene": 1e-3}, 12)],
)
def test_workers_are_bounded_by_scenes_and_options(source, options, workers):
    assert (
        estimate(source, Options.from_dict({"crop_size": 96, "stride": 96} | options)).pool.workers == workers
    )


def test_scenes_without_a_photo_that_can_be_opened_are_counted(source, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    for path in source.glob("*.dng"):
        data = path.read_bytes()
        (folder / path.name).write_bytes(b"" if "_moon_" in path.name else data)
    noisy = next(path for path in sorted(folder.iterdir()) if "_cat_ISO" in path.name)
    noisy.write_bytes(b"no photo")  # another photo of the scene opens
    found = estimate(folder, SMALL)
    assert found.missing == 1
    assert "1 without a photo that can be opened" in "\n".join(found.lines())


def test_a_photo_that_claims_too_many_pixels_is_named_and_the_others_are_planned(source, tmp_path):
    folder = tmp_path / "some"
    shutil.copytree(source, folder)
    before = estimate(folder, SMALL)
    side = 240 * TILE
    add_huge_scene(folder, side, side)
    found = estimate(folder, SMALL)
    assert (found.crops, found.pool) == (before.crops, before.pool)
    assert found.pairs == before.pairs + 1
    text = "\n".join(found.lines())
    assert text.count("this machine has too little memory for Bayer_huge_") == 2
    assert f"{side} x {side} pixels" in text
    alone = tmp_path / "alone"
    alone.mkdir()
    add_huge_scene(alone, side, side)
    with pytest.raises(ConfigError, match="too little for each of the photos, such as Bayer_huge_"):
        estimate(alone, SMALL)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "every photo is smaller than a crop of 512"),
        ({"crop_size": 96, "stride": 96, "cpus_per_scene": 10_000}, "one worker would need 10000 CPUs"),
    ],
)
def test_what_cannot_run_is_refused(source, options, says):
    with pytest.raises(ConfigError, match=says):
        estimate(source, Options.from_dict(options))


def test_a_cluster_may_have_more_cpus_than_this_machine(source):
    options = {
        "crop_size": 96,
        "stride": 96,
        "cpus_per_scene": 2 * (os.cpu_count() or 1),
        "address": "10.0.0.1:6379",
    }
    assert estimate(source, Options.from_dict(options)).pool.workers == 1


def test_a_source_of_nothing_but_left_out_scenes_is_refused(source, tmp_path):
    folder = tmp_path / "reserve"
    folder.mkdir()
    for path in source.glob("*_TEST_*"):
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match="no scene is left"):
        estimate(folder, replace(SMALL, exclude_test_reserve=True))


def test_files_that_are_not_there_are_refused(source, tmp_path):
    folder = tmp_path / "empty files"
    folder.mkdir()
    for path in source.glob("*.dng"):
        (folder / path.name).touch()
    with pytest.raises(ConfigError, match="no photo of these scenes can be opened"):
        estimate(folder, SMALL)


def test_no_source_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(IndexInvalidError):
            estimate(path, SMALL)
