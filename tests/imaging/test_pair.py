"""The chain for one pair: what it measures, cuts and rejects, and that coordinates are those of the visible area."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from rawnind.imaging.crops import AlignedPair
from rawnind.imaging.gates import Rejection
from rawnind.imaging.levels import site_colors, tile_planes
from rawnind.imaging.pair import FinishedPair, align_pair, finish_pair
from rawnind.imaging.photo import Photo
from rawnind.imaging.prepared import Prepared
from rawnind.reasons import Reason
from rawnind.recipe import Recipe
from rawnind.records import Cfa
from tests.imaging.shifted_pairs import Case, render
from tests.imaging.simulation import MOTIFS

pytestmark = pytest.mark.slow

MATRIX = (0.7374, -0.2389, -0.0551, -0.5435, 1.3162, 0.2519, -0.1006, 0.1795, 0.6552)
RECIPE = Recipe(crop_size=96, stride=96)
SIDES = {Cfa.BAYER: (420, 520), Cfa.X_TRANS: (420, 516)}


@cache
def rendered(cfa, shift, seed=0, **changes):
    height, width = SIDES[cfa]
    pair = render(Case(seed=seed, cfa=cfa, height=height, width=width, motif=MOTIFS[seed % len(MOTIFS)],
                       displacement=shift, **changes))  # fmt: skip
    return pair.ground_truth, pair.noisy


def visible(photo, origin, fill=0):
    """The photo as part of a visible area in which its frame starts at `origin`."""
    height, width = photo.mosaic.shape
    area = np.full((height + origin[0], width + origin[1]), fill, np.uint16)
    area[origin[0] :, origin[1] :] = photo.mosaic
    return area


def prepared(photo, origin=(0, 0), *, matrix=MATRIX, **changes):
    area = visible(photo, origin)
    sensor = replace(
        photo.sensor, origin=origin, height=area.shape[0], width=area.shape[1], rgb_xyz_matrix=matrix
    )
    return Prepared(Photo.from_visible(area, replace(sensor, **changes)))


def whole(cfa=Cfa.BAYER, shift=(7.0, -4.0), origin=(0, 0), recipe=RECIPE, **changes):
    truth, noisy = rendered(cfa, shift, **changes)
    pair = align_pair(prepared(truth, origin), prepared(noisy, origin), recipe)
    return finish_pair(pair, recipe) if isinstance(pair, AlignedPair) else pair


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


def rejection(truth, noisy, recipe=RECIPE):
    pair = align_pair(truth, noisy, recipe)
    found = finish_pair(pair, recipe) if isinstance(pair, AlignedPair) else pair
    assert isinstance(found, Rejection)
    assert found.detail
    assert (found.sensor, found.gt_sensor) == (noisy.photo.sensor, truth.photo.sensor)
    return found


def both(**changes):
    return [prepared(photo, **changes) for photo in rendered(Cfa.BAYER, (7.0, -4.0))]


@pytest.mark.parametrize("sigma", [0.045, 0.07])
def test_a_still_pair_is_not_rejected_for_its_noise(sigma):
    truth, noisy = (prepared(photo) for photo in rendered(Cfa.BAYER, (6.0, -4.0)))
    sensor = noisy.photo.sensor
    span = sensor.white_level - max(sensor.black_level)
    noise = np.random.default_rng(5).normal(0, sigma * span, noisy.photo.mosaic.shape)
    # black is raised, so that no noise is cut off below 0
    raised = tuple(black + 4000 for black in sensor.black_level)
    mosaic = (noisy.photo.mosaic + 4000 + noise).round().clip(0, 65535).astype(np.uint16)
    noisier = Prepared(
        Photo(
            mosaic=mosaic, sensor=replace(sensor, black_level=raised, white_level=sensor.white_level + 4000)
        )
    )
    pair = align_pair(truth, noisier, RECIPE)
    done = finish_pair(pair, RECIPE)
    assert isinstance(done, FinishedPair)
    assert done.measured.alignment_loss > RECIPE.max_alignment_loss
    assert done.measured.expected_loss == pytest.approx(done.measured.alignment_loss, rel=0.05)
    assert done.measured.unexplained_loss < 0.1 * RECIPE.max_alignment_loss


def tinted(photo, factors):
    """A Bayer photo in another light: each colour's level times a factor."""
    sensor, factor = photo.sensor, np.array(factors)[site_colors(photo.cfa, photo.mosaic.shape)]
    black = np.array(sensor.black_level)[0]
    mosaic = ((photo.mosaic - black) * factor + black).round().clip(0, 65535).astype(np.uint16)
    return Photo(mosaic=mosaic, sensor=sensor)


@pytest.mark.parametrize(
    ("factors", "reason"),
    [
        ((1.16, 1.0, 0.89), Reason.COLOR_MISMATCH),  # light of another colour
        ((1.46, 1.0, 0.75), Reason.COLOR_MISMATCH),  # another camera
        ((1.03, 1.0, 0.97), None),
        ((0.5, 0.5, 0.5), None),  # exposure
    ],
)
def test_light_of_another_colour_is_a_colour_mismatch(factors, reason):
    truth, noisy = rendered(Cfa.BAYER, (6.0, -4.0))
    pair = align_pair(prepared(truth), prepared(tinted(noisy, factors)), RECIPE)
    if reason is None:
        assert isinstance(pair, AlignedPair)
        plain = align_pair(prepared(truth), prepared(noisy), RECIPE)
        for name, factor in zip(("gain_red", "gain_green", "gain_blue"), factors, strict=True):
            expected = getattr(plain.measured, name) / factor
            assert getattr(pair.measured, name) == pytest.approx(expected, rel=0.005)
    else:
        assert isinstance(pair, Rejection)
        assert pair.reason is reason
        assert "red x" in pair.detail
        assert isinstance(
            align_pair(
                prepared(truth), prepared(tinted(noisy, factors)), replace(RECIPE, max_color_deviation=None)
            ),
            AlignedPair,
        )


@pytest.mark.parametrize("cfa", Cfa)
@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
def test_a_noisy_photo_listed_as_the_ground_truth_has_its_role_swapped(cfa, gain):
    truth, noisy = (prepared(photo) for photo in rendered(cfa, (6.0, -4.0), iso=6400, gain=gain))
    assert isinstance(align_pair(truth, noisy, RECIPE), AlignedPair)
    found = align_pair(noisy, truth, RECIPE)
    assert isinstance(found, Rejection)
    assert found.reason is Reason.ROLES_SWAPPED
    assert "times the noise variance" in found.detail
    assert isinstance(align_pair(noisy, truth, replace(RECIPE, max_noise_ratio=None)), AlignedPair)


def relit(photo, factors, black=0.0):
    """A photo with (H, W) factors on its levels and a black level that is off by `black` sensor values."""
    level = np.array(photo.sensor.black_level)[tile_planes(photo.cfa)]
    level = np.tile(level, [side // len(level) for side in photo.mosaic.shape])
    mosaic = (photo.mosaic - level) * factors + level + black
    return Photo(mosaic=mosaic.round().clip(0, 65535).astype(np.uint16), sensor=photo.sensor)


def across(photo, change):
    """(1, W) factors from 1 - change to 1 + change."""
    return np.linspace(1 - change, 1 + change, photo.mosaic.shape[1])[None]


@pytest.mark.parametrize("cfa", Cfa)
@pytest.mark.parametrize("iso", [400, 12800])
def test_light_that_differs_across_the_frame_is_a_light_mismatch(cfa, iso):
    truth, noisy = rendered(cfa, (6.0, -4.0), iso=iso)
    found = rejection(prepared(truth), prepared(relit(noisy, across(noisy, 0.15))))
    assert found.reason is Reason.LIGHT_MISMATCH
    assert found.measured.light_drift == pytest.approx(0.15, abs=0.03)
    pair = align_pair(prepared(truth), prepared(relit(noisy, across(noisy, 0.03))), RECIPE)
    done = finish_pair(pair, RECIPE)
    assert isinstance(done, FinishedPair)
    assert done.measured.light_drift == pytest.approx(0.03, abs=0.02)


@pytest.mark.parametrize("cfa", Cfa)
@pytest.mark.parametrize("iso", [400, 1600])
def test_a_black_level_that_is_off_is_a_level_mismatch(cfa, iso):
    truth, noisy = rendered(cfa, (6.0, -4.0), iso=iso, gain=8.0)
    recipe = replace(RECIPE, max_color_deviation=None)
    off = rejection(prepared(truth), prepared(relit(noisy, 1.0, black=24)), recipe)
    assert off.reason is Reason.LEVEL_MISMATCH
    assert "green +" in off.detail
    span = noisy.sensor.white_level - noisy.sensor.black_level[0]
    plain = finish_pair(align_pair(prepared(truth), prepared(noisy), recipe), recipe).measured
    for color in ("red", "green", "blue"):
        moved = getattr(off.measured, f"offset_{color}") - getattr(plain, f"offset_{color}")
        assert moved * span == pytest.approx(24, rel=0.1)
        assert getattr(plain, f"offset_error_{color}") * span < 3


def test_photos_of_two_cameras_are_no_pair():
    truth, noisy = rendered(Cfa.BAYER, (6.0, -4.0))
    found = align_pair(
        prepared(truth, camera="SONY ILCE-7C"), prepared(noisy, camera="Canon EOS 500D"), RECIPE
    )
    assert found.reason is Reason.CAMERA_MISMATCH
    for cameras in (("SONY ILCE-7C", ""), ("", ""), ("SONY ILCE-7C", "SONY ILCE-7C")):
        pair = align_pair(prepared(truth, camera=cameras[0]), prepared(noisy, camera=cameras[1]), RECIPE)
        assert isinstance(pair, AlignedPair)


def test_two_motifs_are_no_pair():
    truth, noisy = rendered(Cfa.BAYER, (0.0, 0.0))[0], rendered(Cfa.BAYER, (0.0, 0.0), seed=1)[1]
    found = rejection(prepared(truth), prepared(noisy))
    assert found.reason is Reason.ALIGNMENT_UNCERTAIN
    assert found.measured.alignment_score < RECIPE.min_alignment_score
    assert found.measured.gain is None
    assert found.measured.alignment_loss is None


def test_different_arrays_or_sizes_are_no_pair():
    truth, noisy = both()
    other = prepared(rendered(Cfa.X_TRANS, (7.0, -4.0))[1])
    assert rejection(truth, other).reason is Reason.CFA_MISMATCH
    smaller = Photo(mosaic=noisy.photo.mosaic[:-2], sensor=noisy.photo.sensor)
    assert rejection(truth, prepared(smaller)).reason is Reason.SIZE_MISMATCH


@pytest.mark.parametrize("which", [0, 1])
def test_without_a_colour_matrix_there_is_no_pair(which):
    photos = rendered(Cfa.BAYER, (7.0, -4.0))
    pair = [
        prepared(photo, matrix=None if number == which else MATRIX) for number, photo in enumerate(photos)
    ]
    found = rejection(*pair)
    assert found.reason is Reason.NO_COLOR_MATRIX
    assert found.measured.shift_y is None


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("value", "word"), [(16383, "overexposed"), (500, "underexposed")])
def test_a_photo_that_is_black_or_clipped_is_rejected_and_named(which, value, word):
    pair = both()
    area = pair[which].photo.mosaic.copy()
    area[: len(area) * 4 // 5 // 6 * 6] = value
    pair[which] = prepared(Photo(mosaic=area, sensor=pair[which].photo.sensor))
    found = rejection(*pair)
    assert found.reason is Reason.EXPOSURE
    assert word in found.detail
    assert ("GT", "noisy photo")[which] in found.detail


def test_what_is_left_of_far_shifted_photos_may_be_too_small():
    recipe = replace(RECIPE, crop_size=416)
    found = rejection(*both(), recipe)
    assert found.reason is Reason.TOO_SMALL
    assert (found.measured.shift_y, found.measured.shift_x) == (7, -4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_alignment_loss": 0.0}, Reason.ALIGNMENT_LOSS),
        ({"min_mask_mean": 1.0}, Reason.MASK_MEAN),
        ({"min_valid_fraction": 1.0, "min_mask_mean": 0.0, "crop_size": 384}, Reason.NO_VALID_CROP),
        ({"min_msssim": 1.0}, Reason.NO_VALID_CROP),
        ({"min_alignment_score": 1e6}, Reason.ALIGNMENT_UNCERTAIN),
    ],
)
def test_each_limit_of_the_recipe_rejects_with_what_was_measured(changes, reason):
    photos = rendered(Cfa.BAYER, (7.0, -4.0), object_size=96)
    found = rejection(*(prepared(photo) for photo in photos), replace(RECIPE, **changes))
    assert found.reason is reason
    assert found.measured.shift_y is not None
    if reason not in {Reason.ALIGNMENT_UNCERTAIN, Reason.ALIGNMENT_LOSS}:
        assert found.measured.changed_fraction > 0
        assert found.measured.mask_mean < 1


def test_crops_that_show_what_moved_are_less_valid_or_left_out():
    still, moved = whole(), whole(object_size=120)
    assert still.measured.changed_fraction < 0.01 < moved.measured.changed_fraction
    strict = whole(object_size=120, recipe=replace(RECIPE, min_valid_fraction=0.999))
    assert 0 < len(strict.crops) < len(moved.crops)
    assert all(crop.valid_fraction >= 0.999 for crop in strict.crops)
    by_place = {(crop.y, crop.x): crop for crop in moved.crops}
    assert all(by_place[crop.y, crop.x] == crop for crop in strict.crops)
