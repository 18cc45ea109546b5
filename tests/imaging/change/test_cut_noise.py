"""Noise that is cut off at black: its moments against drawn noise, and the gain and mask of dark, noisy pairs."""

import re

import numpy as np
import pytest

from rawnind.imaging.change.cut_noise import CutNoise, match_cut_noise
from rawnind.imaging.change.mask import scene_change
from rawnind.imaging.change.noise import NoiseModel
from rawnind.imaging.exposure import is_cut_at_black
from rawnind.imaging.gains import measured_gain
from rawnind.imaging.pair import align_pair, finish_pair
from rawnind.reasons import Reason
from rawnind.recipe import Recipe
from rawnind.records import Cfa
from tests.imaging.changed_pairs import STEPS, Case, draw_fresh, render
from tests.imaging.rendered_pairs import prepared
from tests.imaging.scenes import Scene


@pytest.mark.parametrize("sites", [1, 5])
def test_levels_are_seen_as_the_mean_of_noise_that_is_cut_off(sites):
    black, slope, floor = -0.03, 0.02, 0.004
    noise = NoiseModel(
        slope=np.full(1, slope / sites, np.float32), floor=np.full(1, floor / sites, np.float32)
    )
    cut = CutNoise(noise=noise, black=np.full(1, black), sites=np.full(1, sites))
    levels = np.linspace(0, 0.5, 40, dtype=np.float32)[None, None]
    rng = np.random.default_rng(5)
    drawn = levels + rng.standard_normal((200_000, 1, 40)) * np.sqrt(slope * levels + floor)
    expected = np.maximum(drawn, black).mean(axis=0)
    assert np.abs(cut.seen(levels)[0] - expected).max() < 1e-3
    assert cut.seen(levels)[0, 0, 0] > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("cfa", Cfa)
@pytest.mark.parametrize("scene", [Scene.SATURATED, Scene.BLACK_SURROUNDINGS])
def test_a_dark_still_pair_has_its_gain_and_keeps_its_area(cfa, scene):
    case = Case(seed=3, cfa=cfa, iso=65535, scene=scene, gain=1.5, full_well=STEPS / 1.0)
    pair = render(case)
    photo, usable = pair.noisy_photo, (pair.ground_truth < 0.99).all(axis=0)
    assert is_cut_at_black(photo.mosaic)
    of_means = measured_gain(pair.ground_truth, pair.noisy, usable).value
    found, noise = match_cut_noise(pair.ground_truth, pair.noisy, usable, of_means, photo)
    assert found.value == pytest.approx(1.5, rel=0.1)
    assert abs(found.value - 1.5) < min(abs(of_means - 1.5), 3 * found.error)
    matched = pair.noisy * np.float32(found.value)
    change = scene_change(noise.seen(pair.ground_truth), matched, usable, cfa)
    assert (change.changed & pair.still & usable).mean() < 0.02


@pytest.mark.slow
def test_a_pair_too_dark_for_its_noise_to_have_a_gain_is_rejected():
    pair = render(
        draw_fresh(77120931, 226, still=True)
    )  # stars at ISO 25600; the gain that was found is 64 % too low
    found = align_pair(prepared(pair.gt_photo), prepared(pair.noisy_photo), Recipe(crop_size=256))
    assert found.reason is Reason.EXPOSURE
    assert re.search(r"its gain is known to \d+.\d% only; 5% is needed", found.detail)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "number"), [(77120931, 209), (77120931, 335), (1879401209, 71)])
def test_noise_that_clips_bright_sites_changes_no_gain(seed, number):
    pair = render(
        draw_fresh(seed, number, still=True)
    )  # 30 to 50 % of the noisy photo clip; gains were 2.4 to 5 % off
    found = align_pair(prepared(pair.gt_photo), prepared(pair.noisy_photo), Recipe(crop_size=256))
    assert found.gain == pytest.approx(pair.case.gain, rel=0.02)
    assert finish_pair(found, Recipe(crop_size=256)).reason is Reason.MASK_MEAN
