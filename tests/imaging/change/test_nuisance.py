"""What is no change of the scene and is taken out of the difference: it must not leave marks of its own."""

import numpy as np
import pytest

from rawnind.imaging.change.moments import Moments
from rawnind.imaging.change.noise import NoiseModel
from rawnind.imaging.change.nuisance import fit_smooth, subtract_lines, subtract_smooth

SHAPE = (2, 60, 80)


def lines_of(values, axis):
    return np.expand_dims(values, axis) * np.ones(SHAPE, np.float32)


@pytest.mark.parametrize("axis", [1, 2])
def test_noise_of_lines_is_taken_out(axis):
    rng = np.random.default_rng(0)
    blocks = rng.normal(0, 1, SHAPE).astype(np.float32)
    lines = lines_of(rng.normal(0, 2, (2, SHAPE[3 - axis])).astype(np.float32), axis)
    sigma, n = np.ones(SHAPE, np.float32), np.full(SHAPE[1:], 16, np.float32)
    residual = blocks + lines
    subtract_lines(residual, sigma, 16 * sigma**2, n)
    assert np.std(residual - blocks) < 0.3 * np.std(
        lines
    )  # but for what changes slowly: the mean over 17 lines


@pytest.mark.parametrize("axis", [1, 2])
def test_bright_edges_along_some_lines_leave_no_streak_where_the_lines_are_dark(axis):
    rng = np.random.default_rng(1)
    bright = lines_of(np.ones((2, SHAPE[3 - axis]), np.float32), axis)
    dark = np.s_[:, : SHAPE[1] // 3] if axis == 1 else np.s_[:, :, : SHAPE[2] // 3]
    bright[dark] = 0
    sigma = (0.02 + bright).astype(np.float32)
    residual = (sigma * rng.standard_normal(SHAPE, np.float32)).astype(np.float32)
    edge = np.zeros((2, SHAPE[3 - axis]), np.float32)
    edge[:, 3::10] = 3
    noise = rng.normal(0, 0.05, (2, SHAPE[3 - axis])).astype(np.float32)
    residual += bright * lines_of(edge, axis) * rng.choice([-1, 1], SHAPE) + lines_of(noise, axis)
    subtract_lines(residual, sigma, 16 * sigma**2, np.full(SHAPE[1:], 16, np.float32))
    streaks = np.abs(residual[dark].mean(axis) / 0.02)
    assert streaks.max() < 3
    assert np.median(streaks) < 0.75


def test_a_faint_shadow_in_deep_noise_does_not_bend_the_light():
    rng = np.random.default_rng(2)
    shape, noise = (4, 72, 108), NoiseModel(slope=np.zeros(4, np.float32), floor=np.full(4, 3e-4, np.float32))
    level = np.full(shape, 0.03, np.float32)
    shadow = np.zeros(shape, np.float32)
    shadow[:, 26:50, 28:56] = (
        0.25 * level[0, 0, 0]
    )  # a twelfth of the frame, 1.7 standard deviations of a block
    moments = Moments(
        n=np.full(shape[1:], 16, np.float32),
        g=level,
        d=shadow + rng.normal(0, (3e-4 / 16) ** 0.5, shape).astype(np.float32),
        dd=np.full(shape, 15 * 3e-4, np.float32),
        gradient=np.zeros(shape, np.float32),
    )
    smooth = fit_smooth(moments, noise)
    residual = np.empty_like(moments.d)
    subtract_smooth(moments.d, moments.g, smooth.response, smooth.drift, residual)
    bent = moments.d - residual
    assert abs(bent).max() < 0.15 * shadow.max()


@pytest.mark.parametrize("contrast", [0.0048, 8e-4])
def test_objects_that_moved_do_not_determine_the_response_of_a_dark_scene(contrast):
    rng = np.random.default_rng(5)
    shape, noise = (3, 60, 90), NoiseModel(slope=np.zeros(3, np.float32), floor=np.full(3, 1e-8, np.float32))
    level, moved = np.full(shape, 2e-4, np.float32), np.zeros(shape, np.float32)
    level[:, 12:28, 12:36] += contrast  # 7 % of the frame: here only in the ground truth,
    moved[:, 12:28, 12:36] = contrast
    moved[:, 36:52, 52:76] = -contrast  # and there only in the noisy photo
    moments = Moments(
        n=np.full(shape[1:], 16, np.float32),
        g=level,
        d=moved + rng.normal(0, 1e-4 / 4, shape).astype(np.float32),
        dd=np.full(shape, 15e-8, np.float32),
        gradient=np.zeros(shape, np.float32),
    )
    smooth = fit_smooth(moments, noise)
    residual = np.empty_like(moments.d)
    subtract_smooth(moments.d, moments.g, smooth.response, smooth.drift, residual)
    taken = moments.d - residual
    assert abs(taken[moved == 0]).max() < 4e-6
    assert abs(taken).max() < 0.01 * contrast


def test_the_response_holds_at_the_levels_of_stars():
    rng = np.random.default_rng(7)
    shape, noise = (3, 60, 90), NoiseModel(slope=np.zeros(3, np.float32), floor=np.full(3, 1e-8, np.float32))
    stars = rng.random(shape[1:]) < 0.05
    level = np.where(stars, rng.exponential(0.02, shape[1:]), 3e-4).astype(np.float32) * np.ones(
        (3, 1, 1), np.float32
    )
    response = 0.03 * level
    moments = Moments(
        n=np.full(shape[1:], 16, np.float32),
        g=level,
        d=response + rng.normal(0, 1e-4 / 4, shape).astype(np.float32),
        dd=np.full(shape, 15e-8, np.float32),
        gradient=(10 * level**2 * stars).astype(np.float32),
    )
    smooth = fit_smooth(moments, noise)
    residual = np.empty_like(moments.d)
    subtract_smooth(moments.d, moments.g, smooth.response, smooth.drift, residual)
    assert abs(residual[:, stars].mean()) < 0.3 * response[:, stars].mean()


@pytest.mark.parametrize("axis", [1, 2])
def test_a_change_in_half_of_the_dark_part_of_a_line_leaves_no_streak(axis):
    rng = np.random.default_rng(6)
    bright = np.ones(
        SHAPE, np.float32
    )  # each line is dark in the first half, and bright and noisier in the other
    dark = np.s_[:, : SHAPE[1] // 2] if axis == 1 else np.s_[:, :, : SHAPE[2] // 2]
    bright[dark] = 0
    sigma = (0.02 + 0.3 * bright).astype(np.float32)
    residual = (sigma * rng.standard_normal(SHAPE, np.float32)).astype(np.float32)
    changed = np.zeros(SHAPE, np.bool_)
    lines, across = slice(24, 34), slice(4, SHAPE[axis] * 28 // 100)
    changed[:, across, lines] = axis == 1
    if axis == 2:
        changed[:, lines, across] = True
    residual[changed] += 3
    subtract_lines(residual, sigma, 16 * sigma**2, np.full(SHAPE[1:], 16, np.float32))
    still = np.where(changed | (bright > 0), np.nan, residual)
    assert np.nanmax(np.abs(np.nanmean(still, axis=axis))) < 0.012


@pytest.mark.parametrize("axis", [1, 2])
def test_an_object_that_determines_its_lines_leaves_no_streak_and_lines_beside_it_are_as_they_were(axis):
    rng = np.random.default_rng(7)
    sigma = np.full(SHAPE, 1.0, np.float32)
    few = (slice(None), slice(12, None)) if axis == 1 else (slice(None), slice(None), slice(12, None))
    sigma[few] = 30  # most of each line is too bright to say much
    residual = (sigma * rng.standard_normal(SHAPE, np.float32)).astype(np.float32)
    plain, changed = residual.copy(), np.zeros(SHAPE, np.bool_)
    lines, most = slice(20, 34), slice(3, 12)
    changed[(slice(None), most, lines) if axis == 1 else (slice(None), lines, most)] = True
    residual[changed] -= 400
    n = np.full(SHAPE[1:], 16, np.float32)
    subtract_lines(residual, sigma, 16 * sigma**2, n)
    assert np.abs(residual - plain)[~changed].max() < 3  # of a block's standard deviation


@pytest.mark.parametrize("axis", [1, 2])
def test_the_variance_that_lines_leave_is_that_of_the_mean_that_stays(axis):
    rng = np.random.default_rng(8)
    n, sigma = np.full(SHAPE[1:], 16, np.float32), np.full(SHAPE, 1e-3, np.float32)
    stayed, said = [], []
    for _ in range(300):
        residual = lines_of(rng.normal(0, 1, (2, SHAPE[3 - axis])).astype(np.float32), axis).astype(
            np.float32
        )
        residual += rng.normal(0, 1e-3, SHAPE).astype(np.float32)
        left = subtract_lines(residual, sigma, 16 * sigma**2, n)
        stayed.append((residual.mean(axis=axis) ** 2).mean(axis=0))
        said.append(left.mean(axis=(0, axis)))
    stayed, said = np.mean(stayed, axis=0), np.mean(said, axis=0)
    for part in (slice(0, 3), slice(20, -20)):  # at the border half of the lines count twice
        assert said[part].mean() == pytest.approx(stayed[part].mean(), rel=0.3)
    assert said[0] > 1.5 * said[len(said) // 2]
