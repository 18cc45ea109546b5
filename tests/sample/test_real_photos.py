"""Real photos, and small pairs whose right answer is known, through the whole chain of a scene."""

import hashlib
import json

import numpy as np
import pytest

from rawnind.imaging.photo import Photo
from rawnind.outcomes import planned_pairs, problems
from rawnind.output.shards import read_crop
from rawnind.output.store import Store
from rawnind.pipeline.scene import Meter, process_scene
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.records import Cfa, ImageRef, Scene
from rawnind.sample.dng import encode_dng
from rawnind.source.decode import decode
from rawnind.source.index import load_index


def read(ref):
    return Photo.from_visible(*decode(ref))


def test_each_missing_file_of_the_real_index_fails_its_pairs_and_nothing_crashes(real_data, tmp_path):
    scenes = load_index(real_data / "rawnind").scenes
    assert len(scenes) == 307
    store, recipe = Store(str(tmp_path)), Recipe()
    for scene in scenes:
        result = process_scene(scene, recipe, store, meter=Meter(), read=read)
        assert list(problems(result, scene, recipe)) == []
        planned = planned_pairs(scene, recipe.pairing)
        assert len(result.pairs) == len(planned) > 0
        assert {pair.reason for pair in result.pairs} == {Reason.MISSING_FILE}
        assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.MISSING_FILE)
        photos = {(ref.sha1, ref.ground_truth) for ref in (*scene.ground_truths, *scene.noisy)}
        assert {(file.photo.sha1, file.photo.ground_truth) for file in result.failed_files} == photos
    assert store.list("shards") == []


REAL = {
    "blackmagic.dng": None,
    "kodak_dc50.KDC": Reason.NO_COLOR_MATRIX,
    "quicktake100.QTK": None,  # LibRaw knows this camera
}


def _ref(path, data, *, ground_truth, iso):
    return ImageRef(cfa=Cfa.BAYER, scene="real", ground_truth=ground_truth, iso=iso,
                    sha1=hashlib.sha1(data, usedforsecurity=False).hexdigest(), filename=path.name,
                    path=str(path))  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_a_real_photo_and_its_shifted_noisy_copy_pass_the_whole_chain(real_data, name, tmp_path):
    path = real_data / "raw" / name
    clean = _ref(path, path.read_bytes(), ground_truth=True, iso=100)
    visible, sensor = decode(clean)
    shift, gain = (6, -10), 1.25
    rng = np.random.default_rng(0)
    black = np.array(sensor.black_level).mean()
    moved = (np.roll(visible, (-shift[0], -shift[1]), (0, 1)) - black) / gain + black
    noise = rng.normal(0, 0.004 * (sensor.white_level - black), visible.shape)
    values = np.clip(np.rint(moved + noise), 0, sensor.white_level).astype(np.uint16)
    tile = np.roll(np.array(sensor.cfa.tile), sensor.origin, (0, 1))
    matrix = sensor.rgb_xyz_matrix or (0.8, -0.25, -0.07, -0.4, 1.2, 0.2, -0.08, 0.2, 0.55)
    make, _, model = sensor.camera.partition(" ")
    data = encode_dng(values, pattern=tile, black_level=(round(black),), white_level=int(sensor.white_level),
                      iso=1600, make=make or "Homemade", model=model or "Camera One", color_matrix=matrix,
                      as_shot_neutral=(0.5, 1.0, 0.7))  # fmt: skip
    noisy_path = tmp_path / "noisy.dng"
    noisy_path.write_bytes(data)
    noisy = _ref(noisy_path, data, ground_truth=False, iso=1600)
    scene = Scene(name="real", cfa=Cfa.BAYER, test_reserve=False, unknown_sensor=False,
                  ground_truths=(clean,), noisy=(noisy,))  # fmt: skip
    recipe, store = Recipe(crop_size=192, stride=768), Store(str(tmp_path / "out"))
    result = process_scene(scene, recipe, store, meter=Meter(), read=read)
    assert list(problems(result, scene, recipe)) == []
    (pair,) = result.pairs
    assert pair.reason is REAL[name], pair.detail
    if pair.outcome is Outcome.COLLECTED:
        assert (pair.measured.shift_y, pair.measured.shift_x) == shift
        assert pair.measured.gain == pytest.approx(gain, rel=0.01)
        for number, crop in enumerate(pair.crops):
            stored = read_crop(store, pair.shard.path, number, 192)
            box = np.s_[crop.y : crop.y + 192, crop.x : crop.x + 192]
            np.testing.assert_array_equal(stored.noisy_raw, values[box])
            y, x = crop.y + shift[0], crop.x + shift[1]
            np.testing.assert_array_equal(stored.gt_raw, visible[y : y + 192, x : x + 192])


@pytest.mark.parametrize("name", ["subpixel_bggr", "still_iso800"])
def test_a_still_pair_keeps_its_area_at_a_fraction_of_a_site(real_data, name, tmp_path):
    folder = real_data / "cases" / name
    truth = json.loads((folder / "truth.json").read_text())
    (scene,) = load_index(folder).scenes
    recipe = Recipe(crop_size=192, stride=192)
    result = process_scene(scene, recipe, Store(str(tmp_path)), meter=Meter(), read=read)
    assert list(problems(result, scene, recipe)) == []
    assert len(result.pairs) == len(truth["shifts"])
    for pair in result.pairs:
        assert pair.outcome is Outcome.COLLECTED, pair.detail
        measured, shift = pair.measured, truth["shifts"][pair.noisy.filename]
        assert measured.changed_fraction <= 0.01
        assert measured.misaligned_fraction == 0
        found = measured.shift_y + measured.subpixel_y, measured.shift_x + measured.subpixel_x
        assert found == pytest.approx(shift, abs=0.05)
        assert measured.gain == pytest.approx(truth["gain"], rel=0.01)
