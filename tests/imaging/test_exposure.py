"""Exposure: what is clipped, black or hot, and the gain between two photos."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.imaging import exposure, gains
from rawnind.imaging.hot_pixels import hot_pixels
from rawnind.imaging.levels import planes
from rawnind.records import Cfa
from tests.imaging.changed_pairs import Case, Kind, render
from tests.imaging.simulation import make_sensor


def grey(cfa, *, level=0.3, noise=0.0, seed=0, side=60):
    sensor = make_sensor(cfa, (side, side))
    rng = np.random.default_rng(seed)
    values = sensor.black_level[0] + level * (sensor.white_level - sensor.black_level[0])
    return (values + noise * rng.standard_normal((side, side))).astype(np.uint16), sensor


@settings(deadline=None)
@given(cfa=st.sampled_from(Cfa), y=st.integers(0, 59), x=st.integers(0, 59))
def test_one_clipped_site_makes_its_cell_overexposed_and_no_other(cfa, y, x):
    mosaic, sensor = grey(cfa)
    mosaic[y, x] = sensor.white_level
    marks = exposure.overexposed(mosaic, sensor)
    assert marks[y // cfa.cell, x // cfa.cell]
    assert marks.sum() == 1


@settings(deadline=None)
@given(cfa=st.sampled_from(Cfa), y=st.integers(0, 59), x=st.integers(0, 59))
def test_one_lit_site_keeps_its_cell_from_being_underexposed(cfa, y, x):
    mosaic, sensor = grey(cfa, level=-0.01)
    assert exposure.underexposed(mosaic, sensor).all()
    mosaic[y, x] += 1000
    marks = exposure.underexposed(mosaic, sensor)
    assert not marks[y // cfa.cell, x // cfa.cell]
    assert marks.sum() == marks.size - 1


@pytest.mark.parametrize("cfa", Cfa)
def test_a_lone_bright_site_is_hot_and_a_bright_point_with_its_glow_is_not(cfa):
    mosaic, sensor = grey(cfa, noise=30)
    mosaic[31, 20] += 6000
    glow = np.array([0.13, 0.36, 0.13, 0.36, 1, 0.36, 0.13, 0.36, 0.13]).reshape(3, 3)  # blur of 0.7 sites
    mosaic[14:17, 40:43] += (6000 * glow).astype(np.uint16)
    marks = hot_pixels(mosaic, sensor)
    assert np.argwhere(marks).tolist() == [[31 // cfa.cell, 20 // cfa.cell]]


def test_looking_at_many_sites_at_once_misses_none(monkeypatch):
    rng = np.random.default_rng(4)
    mosaic, sensor = grey(Cfa.BAYER, noise=30, side=1000)
    mosaic[tuple(rng.integers(0, 1000, (2, 500)))] += rng.integers(0, 6000, 500).astype(np.uint16)
    marks = hot_pixels(mosaic, sensor)
    monkeypatch.setattr("rawnind.imaging.hot_pixels._CHUNK", 1000)  # one by one, then
    assert np.array_equal(hot_pixels(mosaic, sensor), marks)
    assert 50 < marks.sum() < 500


@pytest.mark.parametrize("cfa", Cfa)
def test_noise_alone_makes_no_hot_pixels(cfa):
    mosaic, sensor = grey(cfa, noise=700, side=600, level=0.4)
    assert not hot_pixels(mosaic, sensor).any()


@pytest.mark.parametrize("cfa", Cfa)
@pytest.mark.parametrize("gain", [0.5, 1.3, 2.0])
def test_the_gain_is_right_within_a_percent_whatever_moves(cfa, gain):
    case = Case(seed=4, cfa=cfa, iso=6400, gain=gain, changes=((Kind.STRONG, 180), (Kind.SHADOW, 150)))
    pair = render(case)
    usable = np.ones(pair.noisy.shape[1:], np.bool_)
    assert gains.measured_gain(pair.ground_truth, pair.noisy, usable).value == pytest.approx(gain, rel=0.01)


def test_no_gain_is_measured_where_nothing_is_usable_or_lit():
    levels = np.full((4, 32, 32), 0.2, np.float32)
    everything = np.ones((32, 32), np.bool_)
    assert gains.measured_gain(levels, levels, ~everything) is None
    assert gains.measured_gain(levels, 0 * levels, everything) is None
    assert gains.alignment_loss(levels, levels, ~everything, 1.0) is None


@settings(deadline=None)
@given(seed=st.integers(0, 100), gain=st.floats(0.5, 2))
def test_the_alignment_loss_is_the_mean_absolute_difference_of_usable_cells(seed, gain):
    rng = np.random.default_rng(seed)
    truth, noisy = rng.random((2, 4, 70, 50), np.float32)
    usable = rng.random((70, 50)) < 0.7
    expected = np.abs(truth - np.float32(gain) * noisy)[:, usable].mean(dtype=np.float64)
    assert gains.alignment_loss(truth, noisy, usable, gain) == pytest.approx(expected, rel=1e-5)


def test_levels_and_limits_agree_for_each_colour():
    sensor = make_sensor(Cfa.BAYER, (4, 4))
    pair = render(Case(seed=1, cfa=Cfa.BAYER, iso=100, height=64, width=96))
    levels = planes(pair.gt_photo)
    expected = (levels >= exposure.OVER * sensor.overexposure_lb).any(axis=0)
    assert np.array_equal(exposure.overexposed(pair.gt_photo.mosaic, pair.gt_photo.sensor), expected)


@pytest.mark.parametrize(("zeros", "cut"), [(0.0, False), (0.0005, False), (0.01, True)])
def test_noise_that_is_cut_at_black_is_noticed(zeros, cut):
    rng = np.random.default_rng(0)
    mosaic = rng.integers(1, 900, (420, 600)).astype(np.uint16)
    mosaic[rng.random(mosaic.shape) < zeros] = 0
    assert exposure.is_cut_at_black(mosaic) is cut
