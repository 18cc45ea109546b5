"""The noise of one photo against that of the simulated sensor."""

from functools import cache

import cv2
import numpy as np
import pytest

from rawnind.imaging.photo import Photo
from rawnind.imaging.photo_noise import photo_noise
from rawnind.records import Cfa
from tests.imaging.simulation import (
    RESPONSE,
    canvas,
    fixed_pattern,
    make_sensor,
    noise_at,
    take,
    through_filters,
)

SHAPE = (1200, 1800)


@cache
def ramp():
    """(H, W, 3) from black to 0.5, a third of it nearly black: both terms of the noise show."""
    across = np.clip(np.linspace(-0.25, 0.5, SHAPE[1], dtype=np.float32), 0, None)
    return across[:, None] * np.ones((SHAPE[0], 1, 1), np.float32) * RESPONSE


def photo(light, cfa, iso, *, hot_pixels=0.0, row_noise=0.0):
    """A photo, and the slope and floor of its noise."""
    sensor, noise, rng = (
        make_sensor(cfa, light.shape[:2], black=1024),
        noise_at(iso, row_noise),
        np.random.default_rng([4, iso]),
    )
    pattern = fixed_pattern(light.shape[:2], noise, rng, hot_pixels=hot_pixels)
    rounding = 1 / 12 / (sensor.white_level - 1024) ** 2
    taken = take(through_filters(light, cfa), sensor, noise, rng, pattern)
    return taken, 1 / noise.electrons, (noise.read / noise.electrons) ** 2 + rounding


@pytest.mark.parametrize("cfa", Cfa)
@pytest.mark.parametrize(
    ("iso", "trouble"), [(100, {}), (1600, {"hot_pixels": 1e-4}), (6400, {"row_noise": 0.15})]
)
def test_slope_and_floor_are_those_of_the_sensor(cfa, iso, trouble):
    taken, slope, floor = photo(ramp(), cfa, iso, **trouble)
    for color in photo_noise(taken):
        assert color.slope == pytest.approx(slope, rel=0.05)
        assert color.floor == pytest.approx(floor, rel=0.06)
        assert abs(color.slope - slope) < 4 * color.slope_error
    assert photo_noise(taken)[1].measured[0] == photo_noise(taken)[1].slope


@pytest.mark.parametrize("cfa", Cfa)
@pytest.mark.parametrize(("motif", "iso"), [("rocket.jpg", 100), ("moon.png", 400), ("chelsea.png", 6400)])
def test_a_photographs_texture_is_not_taken_for_noise(cfa, motif, iso):
    light = cv2.GaussianBlur(canvas(motif, SHAPE, 1), (0, 0), 0.7) * RESPONSE
    taken, slope, floor = photo(light, cfa, iso)
    green = photo_noise(taken)[1]
    level = float(light[..., 1].mean())
    assert green.variance(level) == pytest.approx(slope * level + floor, rel=0.06)


@pytest.mark.parametrize("cfa", Cfa)
def test_where_texture_exceeds_the_noise_nothing_is_measured(cfa):
    light = cv2.GaussianBlur(canvas("grass.png", (600, 900), 1), (0, 0), 0.7) * RESPONSE
    taken, slope, floor = photo(light, cfa, 100)
    for color in photo_noise(taken)[::2]:
        assert color.measured == (None, None)
        assert color.variance(0.2) > slope * 0.2 + floor


def test_a_photo_of_one_level_has_a_variance_and_no_slope():
    taken, slope, floor = photo(np.full((*SHAPE, 3), 0.2, np.float32), Cfa.BAYER, 1600)
    for color in photo_noise(taken):
        assert color.measured == (None, None)
        assert color.variance(0.2) == pytest.approx(slope * 0.2 + floor, rel=0.05)


@pytest.mark.parametrize("value", [900, 1024, 3000])
def test_a_photo_without_noise_has_none(value):
    flat = np.full((1200, 1200), value, np.uint16)
    for color in photo_noise(Photo(mosaic=flat, sensor=make_sensor(Cfa.BAYER, flat.shape, black=1024))):
        assert 0 <= color.variance(0.1) < 1e-9


@pytest.mark.parametrize(
    ("shape", "value"), [((96, 96), 3000), ((1200, 1200), 16383), ((1200, 1200), 0), ((18, 18), 900)]
)
def test_a_photo_that_is_too_small_or_clipped_has_no_noise(shape, value):
    flat = np.full(shape, value, np.uint16)
    assert photo_noise(Photo(mosaic=flat, sensor=make_sensor(Cfa.BAYER, shape))) is None
