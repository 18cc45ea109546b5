"""One scene from photos to shards, without Ray."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from rawnind.imaging.photo import Photo
from rawnind.outcomes import problems
from rawnind.output.store import Store
from rawnind.pipeline.scene import Meter, process_scene
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Compression, Pairing, Recipe
from rawnind.records import Cfa
from rawnind.source.decode import decode
from rawnind.source.index import load_index

pytestmark = pytest.mark.slow

RECIPE = Recipe(crop_size=64, stride=96)


def read(ref):
    return Photo.from_visible(*decode(ref))


@pytest.fixture
def scenes(sample_set):
    return {scene.name: scene for scene in load_index(sample_set).scenes}


def process(scene, tmp_path, recipe=RECIPE):
    return process_scene(scene, recipe, Store(str(tmp_path)), meter=Meter(), read=read)


def test_photos_of_another_cfa_than_the_index_says_are_rejected_and_the_result_is_sound(scenes, tmp_path):
    scene = scenes["retina"]
    listed = replace(
        scene,
        cfa=Cfa.BAYER,
        ground_truths=tuple(replace(ref, cfa=Cfa.BAYER) for ref in scene.ground_truths),
        noisy=tuple(replace(ref, cfa=Cfa.BAYER) for ref in scene.noisy),
    )
    result = process(listed, tmp_path)
    assert (result.outcome, result.reason) == (Outcome.REJECTED, Reason.CFA_MISMATCH)
    assert "x-trans" in result.pairs[0].detail
    assert not list(problems(result, listed, RECIPE))


def test_pairing_all_gives_every_ground_truth_with_every_noisy_photo(scenes, tmp_path):
    scene = scenes["coffee-cup"]
    recipe = replace(RECIPE, pairing=Pairing.ALL)
    result = process(scene, tmp_path, recipe)
    assert len(result.pairs) == len(scene.ground_truths) * len(scene.noisy) == 6
    assert all(pair.outcome is Outcome.COLLECTED for pair in result.pairs)
    assert not list(problems(result, scene, recipe))


def test_pairing_best_takes_the_lowest_loss(scenes, tmp_path):
    scene = scenes["coffee-cup"]
    every = process(scene, tmp_path / "all", replace(RECIPE, pairing=Pairing.ALL)).pairs
    for pair in process(scene, tmp_path / "best").pairs:
        losses = {
            each.ground_truth: each.measured.alignment_loss for each in every if each.noisy == pair.noisy
        }
        assert pair.measured.alignment_loss == min(losses.values()) == losses[pair.ground_truth]


def test_a_pair_is_the_same_whatever_photos_were_processed_before_it(scenes, tmp_path):
    scene = scenes["coffee-cup"]
    first, *others = scene.noisy

    def read_first_a_row_lower(ref):
        visible, sensor = decode(ref)
        if ref == first:  # its frame begins and ends on another row: the ground truth is cut to it
            visible, sensor = np.roll(visible, 1, axis=0), replace(sensor, origin=(1, 1))
        return Photo.from_visible(visible, sensor)

    def pairs(noisy):
        store = Store(str(tmp_path / str(len(noisy))))
        chosen = replace(scene, noisy=tuple(noisy))
        return process_scene(chosen, RECIPE, store, meter=Meter(), read=read_first_a_row_lower).pairs

    assert {pair for pair in pairs(scene.noisy) if pair.noisy in others} == set(pairs(others))


def test_a_missing_ground_truth_costs_no_pair_if_another_one_is_there(scenes, tmp_path):
    scene = scenes["coffee-cup"]
    first, second = scene.ground_truths
    gone = replace(first, path=str(tmp_path / "gone.dng"))
    result = process(replace(scene, ground_truths=(gone, second)), tmp_path)
    assert {pair.ground_truth for pair in result.pairs} == {second}
    assert [(file.photo, file.reason) for file in result.failed_files] == [(gone, Reason.MISSING_FILE)]


def test_a_photo_is_never_paired_with_itself(scenes, tmp_path):
    scene = scenes["coffee-cup"]
    truth = scene.ground_truths[0]
    itself = replace(truth, ground_truth=False)
    result = process(replace(scene, ground_truths=(truth,), noisy=(itself,)), tmp_path)
    assert (result.outcome, result.reason) == (Outcome.REJECTED, Reason.NO_GROUND_TRUTH)


def test_a_compressed_shard_holds_the_same_crops(scenes, tmp_path):
    plain, packed = (
        process(scenes["cat"], tmp_path / kind, replace(RECIPE, compression=kind)).pairs
        for kind in Compression
    )
    assert [pair.crops for pair in packed] == [pair.crops for pair in plain]
    for one, other in zip(plain, packed, strict=True):
        if one.shard:
            tables = [pq.read_table(tmp_path / kind / one.shard.path) for kind in Compression]
            assert tables[0].equals(tables[1])
            assert other.shard.size < one.shard.size
    assert any(pair.shard for pair in plain)
