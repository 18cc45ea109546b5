"""The noise model and the robust fit that the masks stand on."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.imaging.change.moments import block_moments
from rawnind.imaging.change.noise import block_noise, fit_noise, robust_fit


def frames(slope, floor, *, seed=0, shape=(200, 300)):
    """A ground truth that changes slowly, and the same with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j]
    truth = np.stack([0.05 + 0.6 * (x + y) / 2, 0.1 + 0.5 * x, 0.1 + 0.5 * y]).astype(np.float32)
    return truth, (truth + np.sqrt(slope * truth + floor) * rng.standard_normal(truth.shape)).astype(
        np.float32
    )


@pytest.mark.parametrize(("slope", "floor"), [(2e-5, 1e-7), (1e-3, 1e-5), (2e-2, 1e-3)])
def test_shot_and_read_noise_come_out_within_a_tenth(slope, floor):
    truth, noisy = frames(slope, floor)
    model = fit_noise(block_moments(truth, noisy, np.ones(truth.shape[1:], np.bool_)))
    levels = np.full((3, 1), 0.3, np.float32)
    assert model.variance(levels) == pytest.approx(slope * 0.3 + floor, rel=0.1)


@given(seed=st.integers(0, 1000), black=st.floats(0.02, 0.6), dim=st.floats(0.001, 0.01))
@settings(deadline=None, max_examples=25)
def test_the_floor_is_that_of_black_blocks_beside_slightly_brighter_ones(seed, black, dim):
    slope, floor = 2.2e-4, 1e-7
    rng = np.random.default_rng(seed)
    truth = np.linspace(0.02, 0.5, 300, dtype=np.float32) * np.ones((1, 400, 1), np.float32)
    truth[:, : int(400 * black)] = 0
    truth[:, int(400 * black) : int(400 * black) + 60] = dim
    noisy = truth + np.sqrt(slope * truth + floor) * rng.standard_normal(truth.shape).astype(np.float32)
    model = fit_noise(block_moments(truth, noisy, np.ones(truth.shape[1:], np.bool_)))
    assert model.variance(np.zeros((1, 1), np.float32)) == pytest.approx(floor, rel=0.15)
    assert model.variance(np.full((1, 1), 0.3, np.float32)) == pytest.approx(slope * 0.3 + floor, rel=0.1)


def test_a_fifth_of_the_frame_with_other_content_does_not_move_the_model():
    truth, noisy = frames(1e-3, 1e-5)
    noisy[:, :80, :150] += np.random.default_rng(1).normal(0, 0.2, (3, 80, 150)).astype(np.float32)
    model = fit_noise(block_moments(truth, noisy, np.ones(truth.shape[1:], np.bool_)))
    assert model.variance(np.full((3, 1), 0.3, np.float32)) == pytest.approx(3.1e-4, rel=0.25)


@given(seed=st.integers(0, 50), broken=st.floats(0, 0.3))
@settings(deadline=None)
def test_a_third_of_wrong_rows_leaves_the_fit_alone(seed, broken):
    rng = np.random.default_rng(seed)
    design = rng.standard_normal((600, 3))
    truth = np.array([0.3, -0.2, 0.1])
    target = design @ truth + 0.01 * rng.standard_normal(600)
    wrong = rng.random(600) < broken
    target[wrong] += rng.uniform(1, 5)
    found = robust_fit(design, target, np.full(600, 0.01), np.full(3, 10.0))
    assert found == pytest.approx(truth, abs=0.01)


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_moments_are_numpys_means_and_sums_of_squares(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random((1, 16, 80), np.float32)
    noisy = rng.random((1, 16, 80), np.float32)
    moments = block_moments(truth, noisy, np.ones((16, 80), np.bool_))
    blocks = (truth - noisy)[0].reshape(4, 4, 20, 4).swapaxes(1, 2)[1:3, 1:-1].reshape(2, 18, 16)
    assert moments.d[0, 1:3, 1:-1] == pytest.approx(blocks.mean(-1), abs=1e-5)
    assert moments.dd[0, 1:3, 1:-1] == pytest.approx(blocks.var(-1) * 16, abs=1e-4)


def test_a_hot_pixel_does_not_count():
    truth, noisy = frames(1e-4, 1e-6)
    everything = np.ones(truth.shape[1:], np.bool_)
    clean = block_moments(truth, noisy, everything)
    noisy[1, 101, 53] += 0.5
    spoilt = block_moments(truth, noisy, everything)
    assert spoilt.d[1, 25, 13] == pytest.approx(clean.d[1, 25, 13], abs=0.01)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_noise_that_is_spread_over_neighbours_varies_more_between_blocks(spread):
    frames = np.random.default_rng(3).normal(0, 0.01, (3, 400, 600)).astype(np.float32)
    blurred = np.stack([cv2.blur(frame, (3, 3)) for frame in frames])
    blocks = ((1 - spread) * frames + spread * blurred).reshape(3, 100, 4, 150, 4)
    residual = np.ascontiguousarray(blocks.mean(axis=(2, 4)))
    within = np.broadcast_to(blocks.var(axis=(2, 4), ddof=1).mean((1, 2))[:, None, None], residual.shape)
    factors = block_noise(
        np.full(residual.shape[1:], 16, np.float32),
        residual,
        np.ascontiguousarray(within),
        np.zeros_like(residual),
        np.zeros_like(residual),
    )
    expected = residual.var(axis=(1, 2)) * 16 / within[:, 0, 0]
    assert factors == pytest.approx(expected, rel=0.2)
    assert (factors > 1.5).all() == (spread > 0)
