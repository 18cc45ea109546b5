"""Where data clip: on scenes with known clipping, and on scenes without; seeds are fresh and printed."""

import cv2
import numpy as np
import pytest

from rawnind.imaging import exposure
from rawnind.imaging.clipping import data_white_level
from rawnind.imaging.photo import Photo
from rawnind.imaging.prepared import Prepared
from rawnind.records import Cfa
from tests.imaging.simulation import make_sensor


@pytest.fixture
def rng():
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def scene(rng, brightest, a=2e-4):
    """(480, 640) levels with photon noise; `brightest` is the level of its brightest part."""
    light = cv2.GaussianBlur(rng.random((480, 640)), (0, 0), 25)
    light = (light - light.min()) / np.ptp(light) * brightest
    return light + rng.normal(0, 1, light.shape) * np.sqrt(a * light + 1e-6)


def stored(level, clip, *, white=16383, black=512, step=1):
    """Sensor values that clip at `clip`; a camera may store every `step`-th value alone."""
    values = black + level * (white - black)
    return (values / step).round().clip(0, clip // step).astype(np.uint16) * np.uint16(step)


@pytest.mark.parametrize("clip", [16383, 15520, 13000, 9000])
@pytest.mark.parametrize("a", [2e-4, 1e-2])
def test_the_plateau_is_where_the_data_clip(rng, clip, a):
    assert data_white_level(stored(scene(rng, 1.3 * clip / 16383, a), clip), 16383.0) == clip


@pytest.mark.parametrize("step", [1, 4, 16])
def test_nothing_clips_in_a_photo_that_stays_below_white_whatever_values_it_may_store(rng, step):
    mosaic = stored(scene(rng, 0.7), 16383, step=step)
    assert data_white_level(mosaic, 16383.0) is None
    mosaic[rng.integers(0, 480, 40), rng.integers(0, 640, 40)] = 16383  # hot pixels
    assert data_white_level(mosaic, 16383.0) is None


def test_values_that_calibration_has_spread_are_one_plateau(rng):
    mosaic = stored(scene(rng, 1.4), 15000)
    spread = mosaic.astype(np.int64) + np.where(mosaic == 15000, rng.integers(-6, 7, mosaic.shape), 0)
    assert abs(data_white_level(spread.astype(np.uint16), 16383.0) - 15000) <= 6


def test_dark_frames_flat_frames_and_black_have_no_plateau(rng):
    assert data_white_level(stored(rng.normal(0, 1e-3, (480, 640)), 16383), 16383.0) is None
    assert data_white_level(np.full((480, 640), 12000, np.uint16), 16383.0) is None
    assert data_white_level(np.zeros((480, 640), np.uint16), 16383.0) is None


@pytest.mark.parametrize("clip", [13000, 16383])
def test_overexposure_is_taken_from_the_data(rng, clip):
    sensor = make_sensor(Cfa.BAYER, (480, 640), black=512.0)
    photo = Photo.from_visible(stored(scene(rng, 1.4), clip), sensor)
    over = Prepared(photo).overexposed
    clipped = (photo.mosaic == clip).reshape(240, 2, 320, 2).any(axis=(1, 3))
    assert over[clipped].all()
    assert over.mean() < clipped.mean() + 0.05
    assert exposure.overexposed(photo.mosaic, sensor).any() == (clip == 16383)
