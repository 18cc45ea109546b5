"""Alignment: what it measures on pairs whose truth is known, and what it does where there is nothing to measure."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.ndimage import generic_filter, uniform_filter
from skimage.registration import phase_cross_correlation

from rawnind.imaging.alignment.align import align, extract_features
from rawnind.imaging.alignment.features import reduced_green
from rawnind.imaging.alignment.greens import View, green_sites
from rawnind.imaging.levels import site_colors
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa
from tests.imaging.shifted_pairs import Case, draw_case, draw_unrelated, render
from tests.imaging.simulation import make_sensor

GATE = 8.0  # between unrelated motifs (at most 6.7) and true pairs (at least 8.8) among 500 of each
both_cfas = pytest.mark.parametrize("cfa", Cfa)


def measured(case):
    pair = render(case)
    return align(extract_features(pair.ground_truth), extract_features(pair.noisy))


def total(alignment):
    return np.add(alignment.shift, alignment.subpixel)


def photo(mosaic, cfa=Cfa.BAYER):
    sensor = make_sensor(cfa, mosaic.shape)
    return Photo.from_visible(np.clip(np.rint(mosaic), 0, 16383).astype(np.uint16), sensor)


def aligned(ground_truth, noisy, cfa=Cfa.BAYER, **options):
    return align(extract_features(photo(ground_truth, cfa)), extract_features(photo(noisy, cfa)), **options)


@cache
def plain(cfa, **changes):
    """A pair without noise worth speaking of."""
    return Case(seed=2, cfa=cfa, height=300, width=420, motif="gravel.png", iso=100, **changes)


@pytest.mark.parametrize("seed", range(10))
def test_drawn_pairs_are_aligned_to_the_site(seed):
    case = draw_case(seed)
    found = measured(case)
    assert found.shift == tuple(np.rint(case.displacement))
    assert_allclose(total(found), case.displacement, atol=0.15)
    assert found.score > GATE


@pytest.mark.parametrize("seed", range(10))
def test_photos_of_two_motifs_score_below_the_gate(seed):
    assert measured(draw_unrelated(seed)).score < GATE


@given(dy=st.integers(-80, 80), dx=st.integers(-80, 80), cfa=st.sampled_from(Cfa))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_every_whole_shift_is_found_not_only_multiples_of_the_period(dy, dx, cfa):
    assert measured(replace(plain(cfa), displacement=(dy, dx))).shift == (dy, dx)


@given(dy=st.integers(-14, 14), dx=st.integers(-14, 14), cfa=st.sampled_from(Cfa))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_a_fraction_of_a_site_is_measured(dy, dx, cfa):
    displacement = (17 + dy / 32, -9 + dx / 32)
    assert_allclose(total(measured(replace(plain(cfa), displacement=displacement))), displacement, atol=0.05)


@both_cfas
def test_swapping_the_photos_swaps_the_sign(cfa):
    pair = render(replace(plain(cfa), displacement=(13.25, -22.0), rotation=0.05, scale=0.001))
    there = align(extract_features(pair.ground_truth), extract_features(pair.noisy))
    back = align(extract_features(pair.noisy), extract_features(pair.ground_truth))
    assert_allclose(total(there), -total(back), atol=0.05)
    assert_allclose(there.rotation, -back.rotation, atol=0.01)
    assert_allclose(there.scale, -back.scale, atol=3e-4)


@both_cfas
@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
def test_gain_does_not_matter(cfa, gain):
    found = measured(replace(plain(cfa), displacement=(-31, 8), gain=gain, iso=3200))
    assert_allclose(total(found), (-31, 8), atol=0.1)


@both_cfas
def test_agrees_with_scikit_image_on_a_clean_pair(cfa):
    pair = render(replace(plain(cfa), displacement=(12.0, -6.0)))
    greens = [reduced_green(photo) for photo in (pair.ground_truth, pair.noisy)]
    window = np.outer(*(np.hanning(size) for size in greens[0].shape))
    shift, _, _ = phase_cross_correlation(
        *((green - green.mean()) * window for green in greens), upsample_factor=20
    )
    found = align(extract_features(pair.ground_truth), extract_features(pair.noisy))
    assert_allclose(shift * extract_features(pair.noisy).reduction, total(found), atol=0.5)


@both_cfas
@pytest.mark.parametrize("iso", [400, 25600])
def test_small_rotation_and_scale_are_reported(cfa, iso):
    case = Case(seed=4, cfa=cfa, height=510, width=768, motif="astronaut.png", displacement=(9, -14), iso=iso,
                rotation=0.05, scale=-0.001)  # fmt: skip
    found = measured(case)
    assert_allclose(found.rotation, 0.05, atol=0.015)
    assert_allclose(found.scale, -0.001, atol=2.5e-4)
    assert found.shift == (9, -14)


@both_cfas
def test_a_turn_beyond_the_reach_of_one_refinement_is_followed(cfa):
    found = measured(
        Case(
            seed=4, cfa=cfa, height=720, width=1080, motif="hubble_deep_field.jpg", rotation=-0.3, scale=0.004
        )
    )
    assert_allclose(found.rotation, -0.3, atol=0.02)
    assert_allclose(found.scale, 0.004, atol=4e-4)
    assert_allclose(total(found), 0, atol=0.2)


@both_cfas
def test_without_rotation_none_is_seen(cfa):
    found = measured(replace(plain(cfa), displacement=(5, 3), iso=800))
    assert abs(found.rotation) < 0.01
    assert abs(found.scale) < 3e-4


@both_cfas
def test_the_sensors_fixed_pattern_does_not_decide_the_shift(cfa):
    case = replace(
        plain(cfa), displacement=(3, 41), iso=51200, column_pattern=5.0, row_noise=2.0, hot_pixels=0.01
    )
    assert measured(case).shift == (3, 41)
    assert measured(replace(case, noisy_motif="moon.png")).score < GATE


def test_a_moved_object_does_not_decide_the_shift_against_a_background_of_low_contrast():
    case = draw_case(
        4
    )  # a third of the height of night sky is covered, and nearly all contrast is in what moved
    assert case.object_size == 170
    assert case.motif == "rocket.jpg"
    assert measured(case).shift == tuple(np.rint(case.displacement))


@both_cfas
@pytest.mark.parametrize("value", [0, 1000, 5000, 16383])
def test_the_alignment_of_flat_photos_is_uncertain(cfa, value):
    found = aligned(np.full((240, 360), value), np.full((240, 360), value), cfa)
    assert found.score == 0
    assert found.rotation is None
    assert found.scale is None


@both_cfas
def test_the_alignment_of_noise_alone_is_uncertain(cfa):
    rng = np.random.default_rng(1)
    first, second = rng.normal(3000, 200, (2, 240, 360))
    assert aligned(first, second, cfa).score < GATE


@both_cfas
@pytest.mark.parametrize("size", [0, 6, 12, 24, 48, 66, 72, 96])
def test_tiny_photos_are_aligned_or_uncertain(cfa, size):
    mosaic = np.random.default_rng(size).integers(500, 9000, (size, 2 * size))
    found = aligned(mosaic, mosaic, cfa)
    assert found.shift == (0, 0)
    assert found.score == 0 or found.score > GATE


@both_cfas
@pytest.mark.parametrize("cell", [16, 24, 37])
def test_the_alignment_of_a_checkerboard_is_uncertain(cfa, cell):
    y, x = np.mgrid[:510, :768]
    rng = np.random.default_rng(cell)
    board, moved = (800 + 8000 * (((y + dy) // cell + (x + dx) // cell) % 2) for dy, dx in ((0, 0), (6, -11)))
    found = aligned(board + rng.normal(0, 20, board.shape), moved + rng.normal(0, 200, board.shape), cfa)
    assert found.score < GATE


@both_cfas
def test_the_alignment_along_a_straight_edge_is_uncertain(cfa):
    x = np.broadcast_to(np.arange(768), (510, 768))
    noise = np.random.default_rng(3).normal(0, 30, (2, 510, 768))
    assert aligned(800 + 8000 * (x > 300) + noise[0], 800 + 8000 * (x > 307) + noise[1], cfa).score < GATE


@both_cfas
def test_a_shift_beyond_the_range_is_uncertain_not_another_shift(cfa):
    pair = render(replace(plain(cfa), height=480, width=720, displacement=(0, 100), iso=800))
    first, second = extract_features(pair.ground_truth), extract_features(pair.noisy)
    assert align(first, second, max_shift=64).score == 0
    assert align(first, second, max_shift=100).shift == (0, 100)


@both_cfas
@pytest.mark.parametrize("limit", [0, 1, 5])
def test_a_short_range_is_judged_like_a_long_one(cfa, limit):
    found = measured(replace(plain(cfa), iso=6400))
    pair = render(replace(plain(cfa), iso=6400))
    short = align(extract_features(pair.ground_truth), extract_features(pair.noisy), max_shift=limit)
    assert short.shift == found.shift == (0, 0)
    assert short.score > GATE


def test_photos_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="one size"):
        aligned(np.zeros((120, 120)), np.zeros((120, 126)))


def test_the_same_photos_give_the_same_bits():
    pair = render(draw_case(1))
    first, second = (
        align(extract_features(pair.ground_truth), extract_features(pair.noisy)) for _ in range(2)
    )
    assert replace(first, registration=None) == replace(second, registration=None)
    np.testing.assert_array_equal(first.registration.warp.nodes, second.registration.warp.nodes)


@both_cfas
def test_reduced_greens_are_means_without_extremes(cfa):
    mosaic = np.random.default_rng(5).integers(600, 16000, (48, 60))
    block = {Cfa.BAYER: 4, Cfa.X_TRANS: 3}[cfa]
    green = site_colors(cfa, mosaic.shape) == 1
    found = reduced_green(photo(mosaic, cfa))
    for y, x in np.ndindex(found.shape):
        site = np.s_[y * block : (y + 1) * block, x * block : (x + 1) * block]
        values = np.sort(mosaic[site][green[site]])
        assert found[y, x] == pytest.approx(
            values[1:-1].mean() - make_sensor(cfa, (1, 1)).black_level[1], abs=0.01
        )


@both_cfas
@pytest.mark.parametrize("corner", [(5, 7), (6, 6), (9, 8)])
def test_green_at_sites_is_the_mean_without_extremes_wherever_the_tile_starts(cfa, corner):
    mosaic = np.random.default_rng(6).integers(600, 16000, (48, 60)).astype(np.uint16)
    green = site_colors(cfa, mosaic.shape) == 1
    values = np.where(green, mosaic, np.nan).astype(float)

    def trimmed(window):
        greens = np.sort(window[~np.isnan(window)])
        return greens[1:-1].mean()

    expected = generic_filter(values, trimmed, size=3, mode="mirror")
    if cfa is Cfa.X_TRANS:
        expected = uniform_filter(expected, 3, mode="mirror")
    out = np.empty((20, 30), np.float32)
    view = View(
        values=mosaic, black=np.float32(512), limit=np.float32(1e5), green=green[: cfa.period, : cfa.period]
    )
    green_sites(view, *corner, out)
    window = np.s_[corner[0] : corner[0] + 20, corner[1] : corner[1] + 30]
    assert_allclose(out, expected[window] - 512, rtol=1e-5, atol=0.01)


@both_cfas
def test_a_hot_pixel_leaves_no_trace(cfa):
    clean = np.full((96, 96), 3000)
    hot = clean.copy()
    hot[41, 40] = hot[64, 71] = 16383
    assert_allclose(reduced_green(photo(hot, cfa)), reduced_green(photo(clean, cfa)))


def test_features_are_small():
    found = extract_features(photo(np.zeros((1000, 1500)), Cfa.X_TRANS))
    assert found.green.nbytes + found.contrast.nbytes + found.spectrum.nbytes < 60e6 / 16  # 60 MB at 24 MP
