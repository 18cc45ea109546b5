"""Noise that is cut off at black: its moments against drawn noise, and the gain and mask of dark, noisy pairs."""

import numpy as np
import pytest

from rawnind.imaging.change.cut_noise import CutNoise, match_cut_noise
from rawnind.imaging.change.mask import scene_change
from rawnind.imaging.change.noise import NoiseModel
from rawnind.imaging.exposure import is_cut_at_black
from rawnind.imaging.gains import gain
from rawnind.records import Cfa
from tests.imaging.changed_pairs import STEPS, Case, render
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
    of_means = gain(pair.ground_truth, pair.noisy, usable)
    found, noise = match_cut_noise(pair.ground_truth, pair.noisy, usable, of_means, photo)
    assert found == pytest.approx(1.5, rel=0.1)
    assert abs(found - 1.5) < abs(of_means - 1.5)
    matched = pair.noisy * np.float32(found)
    change = scene_change(noise.seen(pair.ground_truth), matched, usable, cfa)
    assert (change.changed & pair.still & usable).mean() < 0.02
