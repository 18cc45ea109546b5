"""The chain for one pair: what it measures, cuts and rejects, and that coordinates are those of the visible area."""

from dataclasses import replace

import numpy as np
import pytest

from rawnind.imaging.crops import AlignedPair
from rawnind.imaging.gates import Rejection
from rawnind.imaging.pair import FinishedPair, align_pair, finish_pair
from rawnind.imaging.photo import Photo
from rawnind.imaging.prepared import Prepared
from rawnind.reasons import Reason
from rawnind.records import Cfa
from tests.imaging.rendered_pairs import MATRIX, RECIPE, prepared, rendered, visible, whole

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("cfa", Cfa)
@pytest.mark.parametrize("shift", [(0.0, 0.0), (7.0, -4.0), (-31.0, 12.0), (1.0, 1.0)])
@pytest.mark.parametrize("corner", [False, True])
def test_crops_are_the_sensors_values_at_their_coordinates(cfa, shift, corner):
    origin = (cfa.period - 1, 1) if corner else (0, 0)
    truth, noisy = (prepared(photo, origin) for photo in rendered(cfa, shift))
    pair = align_pair(truth, noisy, RECIPE)
    assert isinstance(pair, AlignedPair)
    assert (pair.measured.shift_y, pair.measured.shift_x) == shift
    done = finish_pair(pair, RECIPE)
    assert isinstance(done, FinishedPair)
    assert done.crops
    areas = [visible(photo, origin) for photo in rendered(cfa, shift)]
    for (crop, raw, gt_raw, rgb, valid), listed in zip(done.pixels(RECIPE), done.crops, strict=True):
        assert crop == listed
        assert (crop.y - origin[0]) % cfa.period == (crop.x - origin[1]) % cfa.period == 0
        y, x = crop.y, crop.x
        np.testing.assert_array_equal(raw, areas[1][y : y + 96, x : x + 96])
        assert (crop.shift_y, crop.shift_x) == shift
        y, x = y + crop.shift_y, x + crop.shift_x
        np.testing.assert_array_equal(gt_raw, areas[0][y : y + 96, x : x + 96])
        assert raw.dtype == gt_raw.dtype == np.uint16
        assert (rgb.shape, rgb.dtype, valid.shape, valid.dtype) == (
            (3, 96, 96),
            np.float16,
            (96, 96),
            np.bool_,
        )
        assert np.isfinite(rgb).all()
        assert crop.valid_fraction == pytest.approx(valid.mean(), abs=1e-12)


@pytest.mark.parametrize("cfa", Cfa)
def test_the_frames_place_in_the_visible_area_changes_coordinates_and_nothing_else(cfa):
    here, there = whole(cfa), whole(cfa, origin=(1, cfa.period - 1))
    assert there.measured == here.measured
    moved = [replace(crop, y=crop.y + 1, x=crop.x + cfa.period - 1) for crop in here.crops]
    assert list(there.crops) == moved
    for one, other in zip(here.pixels(RECIPE), there.pixels(RECIPE), strict=True):
        for a, b in zip(one[1:], other[1:], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("cfa", "start"),
    [(Cfa.BAYER, (1, 0)), (Cfa.BAYER, (0, 1)), (Cfa.BAYER, (1, 1)), (Cfa.X_TRANS, (2, 5))],
)
@pytest.mark.parametrize("later", [0, 1])
def test_photos_whose_arrays_start_at_other_sites_are_a_pair(cfa, start, later):
    photos = rendered(cfa, (7.0, -4.0))
    areas, pair = [], []
    for number, photo in enumerate(photos):
        height, width = (side - by for side, by in zip(photo.mosaic.shape, start, strict=True))
        top, left = start if number == later else (0, 0)
        area = photo.mosaic[top : top + height, left : left + width]
        origin = (-top % cfa.period, -left % cfa.period)
        sensor = replace(photo.sensor, origin=origin, height=height, width=width, rgb_xyz_matrix=MATRIX)
        areas.append(area)
        pair.append(Prepared(Photo.from_visible(area, sensor)))
    aligned = align_pair(*pair, RECIPE)
    assert isinstance(aligned, AlignedPair)
    sign = 1 if later else -1
    shift = 7 + sign * start[0], -4 + sign * start[1]
    assert (aligned.measured.shift_y, aligned.measured.shift_x) == shift
    done = finish_pair(aligned, RECIPE)
    plain = whole(cfa).measured
    assert done.measured.alignment_loss == pytest.approx(plain.alignment_loss, rel=0.05)
    for crop, raw, gt_raw, _, _ in done.pixels(RECIPE):
        assert (crop.shift_y, crop.shift_x) == shift
        box = np.s_[crop.y : crop.y + 96, crop.x : crop.x + 96]
        np.testing.assert_array_equal(raw, areas[1][box])
        y, x = crop.y + shift[0], crop.x + shift[1]
        np.testing.assert_array_equal(gt_raw, areas[0][y : y + 96, x : x + 96])


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
def test_the_gain_is_that_of_the_case_and_pixels_are_not_touched_by_it(gain):
    done = whole(gain=gain)
    assert done.measured.gain == pytest.approx(gain, rel=0.01)
    assert done.measured.alignment_loss < 0.02


def test_every_number_of_a_finished_pair_is_measured_and_lies_in_its_range():
    measured = whole().measured
    for name in ("shift_y", "shift_x", "subpixel_y", "subpixel_x", "alignment_score", "alignment_loss", "gain",
                 "overlap_fraction", "mask_mean", "msssim", "overexposed_fraction", "underexposed_fraction",
                 "hot_fraction", "changed_fraction", "noise_gain", "noise_floor", "expected_loss",
                 "contrast_red", "contrast_blue", "gt_contrast_red", "gt_contrast_blue", "residual",
                 "misaligned_fraction"):  # fmt: skip
        assert isinstance(getattr(measured, name), int | float), name
    for name in ("overlap_fraction", "mask_mean", "overexposed_fraction", "underexposed_fraction", "hot_fraction",
                 "changed_fraction"):  # fmt: skip
        assert 0 <= getattr(measured, name) <= 1, name
    assert measured.overlap_fraction == pytest.approx((420 - 8) * (520 - 4) / (420 * 520), abs=0.01)


def test_crops_lie_on_a_grid_inside_what_both_photos_show():
    done = whole(shift=(-31.0, 12.0))
    places = [(crop.y, crop.x) for crop in done.crops]
    assert places == sorted(places)
    for y, x in places:
        assert y >= 31
        assert x >= 0
        assert y + 96 <= 420
        assert x + 96 + 12 <= 520
    assert len({y for y, _ in places}) == (420 - 31 - 1) // 96
    assert {
        b - a
        for a, b in zip(sorted({x for _, x in places})[:-1], sorted({x for _, x in places})[1:], strict=True)
    } == {96}


def test_the_same_pair_gives_the_same_pixels_again():
    one, other = whole(), whole()
    assert (one.measured, one.crops) == (other.measured, other.crops)
    for a, b in zip(one.pixels(RECIPE), other.pixels(RECIPE), strict=True):
        assert all(x.tobytes() == y.tobytes() for x, y in zip(a[1:], b[1:], strict=True))


def test_a_demosaiced_photo_is_the_same_after_its_cache_was_dropped():
    truth, noisy = (prepared(photo) for photo in rendered(Cfa.BAYER, (7.0, -4.0)))
    done = finish_pair(align_pair(truth, noisy, RECIPE), RECIPE)
    before = [rgb.tobytes() for _, _, _, rgb, _ in done.pixels(RECIPE)]
    truth.release_rgb()
    truth.release_rgb()
    assert [rgb.tobytes() for _, _, _, rgb, _ in done.pixels(RECIPE)] == before


def test_a_frame_too_small_for_five_scales_has_no_score_and_still_gives_crops():
    truth, noisy = (
        Photo(mosaic=photo.mosaic[:360, :480], sensor=photo.sensor)
        for photo in rendered(Cfa.BAYER, (7.0, -4.0))
    )
    sizes = {"height": 360, "width": 480}
    pair = align_pair(prepared(truth, **sizes), prepared(noisy, **sizes), RECIPE)
    done = finish_pair(pair, RECIPE)
    assert done.measured.msssim is None
    assert {crop.msssim for crop in done.crops} == {None}
    gated = finish_pair(pair, replace(RECIPE, min_msssim=0.1))
    assert isinstance(gated, Rejection)
    assert gated.reason is Reason.NO_VALID_CROP


def test_crops_that_show_what_moved_are_less_valid_or_left_out():
    still, moved = whole(), whole(object_size=120)
    assert still.measured.changed_fraction < 0.01 < moved.measured.changed_fraction
    strict = whole(object_size=120, recipe=replace(RECIPE, min_valid_fraction=0.999))
    assert 0 < len(strict.crops) < len(moved.crops)
    assert all(crop.valid_fraction >= 0.999 for crop in strict.crops)
    by_place = {(crop.y, crop.x): crop for crop in moved.crops}
    assert all(by_place[crop.y, crop.x] == crop for crop in strict.crops)
