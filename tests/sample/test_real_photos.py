"""Real photos, and small pairs whose right answer is known, through the whole chain of a scene."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rawnind.imaging.demosaic.camera_rgb import demosaic
from rawnind.imaging.levels import mosaic
from rawnind.imaging.photo import Photo
from rawnind.outcomes import planned_pairs, problems
from rawnind.output.shards import read_crop
from rawnind.output.store import Store
from rawnind.pipeline.scene import Meter, process_scene
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.records import Cfa, ImageRef, Scene, Sensor
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


@dataclass(frozen=True, kw_only=True)
class Real:
    """A real photo, and what makes noisy copies of it."""

    clean: ImageRef
    visible: NDArray[np.uint16]
    sensor: Sensor
    folder: Path

    def noisy(self, shift, *, own_pattern):
        """A noisy copy: site (y, x) shows what (y + dy, x + dx) of the photo shows. Its reference and its values.

        Args:
            shift: (dy, dx).
            own_pattern: with the photo's CFA, from its demosaiced colours; else with the photo's own values, whose CFA starts
                at another site after an odd shift.
        """
        sensor = self.sensor
        black = np.array(sensor.black_level).mean()
        tile = np.roll(np.array(sensor.cfa.tile), sensor.origin, (0, 1))
        light, moved = self.visible - black, (-shift[0], -shift[1])
        if own_pattern:
            colors = demosaic(Photo.from_visible(self.visible, sensor)).levels()
            light = mosaic(np.roll(colors, moved, (1, 2)), sensor.cfa) * (sensor.white_level - black)
        else:
            tile, light = np.roll(tile, moved, (0, 1)), np.roll(light, moved, (0, 1))
        noise = np.random.default_rng(0).normal(0, 0.004 * (sensor.white_level - black), light.shape)
        values = np.rint(light / GAIN + black + noise).clip(0, sensor.white_level).astype(np.uint16)
        matrix = sensor.rgb_xyz_matrix or (0.8, -0.25, -0.07, -0.4, 1.2, 0.2, -0.08, 0.2, 0.55)
        make, _, model = sensor.camera.partition(" ")
        data = encode_dng(values, pattern=tile, black_level=(round(black),), white_level=int(sensor.white_level),
                          iso=1600, make=make or "Homemade", model=model or "Camera One", color_matrix=matrix,
                          as_shot_neutral=(0.5, 1.0, 0.7))  # fmt: skip
        path = self.folder / f"noisy{shift}.dng"
        path.write_bytes(data)
        return _ref(path, data, ground_truth=False, iso=1600), values

    def pairs(self, noisy):
        """The pairs of these copies with the photo, and the stored crops of each."""
        scene = Scene(name="real", cfa=Cfa.BAYER, test_reserve=False, unknown_sensor=False,
                      ground_truths=(self.clean,), noisy=noisy)  # fmt: skip
        store = Store(str(self.folder / "out"))
        result = process_scene(scene, RECIPE, store, meter=Meter(), read=read)
        assert list(problems(result, scene, RECIPE)) == []
        of = {pair.noisy.sha1: pair for pair in result.pairs}
        for ref in noisy:
            pair = of[ref.sha1]
            path = pair.shard.path if pair.shard else ""
            yield pair, [read_crop(store, path, number, 192) for number in range(len(pair.crops))]

    def require_exact(self, pair, stored, shift, values):
        """The shift, the gain and the pixels are those that the copy was made with."""
        assert (pair.measured.shift_y, pair.measured.shift_x) == shift
        assert pair.measured.gain == pytest.approx(GAIN, rel=0.01)
        for crop, pixels in zip(pair.crops, stored, strict=True):
            assert (crop.shift_y, crop.shift_x) == shift
            np.testing.assert_array_equal(
                pixels.noisy_raw, values[crop.y : crop.y + 192, crop.x : crop.x + 192]
            )
            y, x = crop.y + shift[0], crop.x + shift[1]
            np.testing.assert_array_equal(pixels.gt_raw, self.visible[y : y + 192, x : x + 192])


GAIN, RECIPE = 1.25, Recipe(crop_size=192, stride=768)


def real(path, folder):
    clean = _ref(path, path.read_bytes(), ground_truth=True, iso=100)
    visible, sensor = decode(clean)
    return Real(clean=clean, visible=visible, sensor=sensor, folder=folder)


@pytest.mark.parametrize("name", REAL)
def test_a_real_photo_and_its_shifted_noisy_copy_pass_the_whole_chain(real_data, name, tmp_path):
    photo, shift = real(real_data / "raw" / name, tmp_path), (6, -10)
    ref, values = photo.noisy(shift, own_pattern=False)
    ((pair, stored),) = photo.pairs((ref,))
    assert pair.reason is REAL[name], pair.detail
    if pair.outcome is Outcome.COLLECTED:
        photo.require_exact(pair, stored, shift, values)


@pytest.mark.parametrize("own_pattern", [True, False])
def test_every_parity_of_the_shift_is_exact_on_real_pixels(real_data, own_pattern, tmp_path):
    photo = real(real_data / "raw" / "blackmagic.dng", tmp_path)
    shifts = [(6, -10), (7, -10), (6, -11), (-7, 9)]
    copies = [photo.noisy(shift, own_pattern=own_pattern) for shift in shifts]
    found = photo.pairs(tuple(ref for ref, _ in copies))
    for shift, (_, values), (pair, stored) in zip(shifts, copies, found, strict=True):
        assert pair.outcome is Outcome.COLLECTED, pair.detail
        photo.require_exact(pair, stored, shift, values)


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
