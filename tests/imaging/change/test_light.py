"""Offsets and drift of the light against those that the frames were made with."""

import secrets

import numpy as np
import pytest
from scipy import stats

from rawnind.imaging.change.light import measure_light
from rawnind.imaging.change.moments import block_moments
from rawnind.imaging.change.noise import fit_noise
from rawnind.imaging.gates import margin

SHAPE = (400, 600)


def measured(*, offset=0.0, drift=0.0, sigma=0.01, moved=False):
    rng = np.random.default_rng(2)
    scene = rng.uniform(0.02, 0.5, (SHAPE[0] // 20, SHAPE[1] // 20)).astype(np.float32)
    truth = np.repeat(np.repeat(scene, 20, 0), 20, 1) * np.array([0.5, 1, 1, 0.7], np.float32)[:, None, None]
    light = 1 + np.linspace(-drift, drift, SHAPE[1], dtype=np.float32)
    noisy = truth * light + np.float32(offset)
    if moved:
        noisy[:, 100:300, 100:300] = 0.4
    noisy += rng.normal(0, sigma, noisy.shape).astype(np.float32)
    moments = block_moments(truth, noisy, np.ones(SHAPE, np.bool_))
    changed = np.zeros(moments.n.shape, np.bool_)
    return measure_light(moments, fit_noise(moments), changed)


@pytest.mark.parametrize("offset", [-0.01, 0.0, 0.004])
@pytest.mark.parametrize("drift", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("sigma", [0.001, 0.05])
def test_offset_and_drift_come_out_within_their_errors(offset, drift, sigma):
    light = measured(offset=offset, drift=drift, sigma=sigma)
    assert (np.abs(light.offset - offset) < 4 * light.offset_error + 1e-4).all()
    assert (light.offset_error < 0.1 * light.mean * max(sigma, 0.01)).all()
    assert light.drift == pytest.approx(drift, abs=4 * light.drift_error + 0.01)


def test_what_moved_does_not_count_although_it_was_not_marked():
    light = measured(offset=0.004, drift=0.05, moved=True)
    assert light.offset == pytest.approx(0.004, abs=0.002)
    assert light.drift == pytest.approx(0.05, abs=0.01)


def test_hardly_any_unchanged_blocks_are_no_measurement():
    truth = np.full((3, *SHAPE), 0.2, np.float32)
    moments = block_moments(truth, truth, np.ones(SHAPE, np.bool_))
    assert measure_light(moments, fit_noise(moments), np.ones(moments.n.shape, np.bool_)) is None


def test_an_offset_is_not_known_where_all_patches_have_one_level():
    rng = np.random.default_rng(3)
    truth = (
        np.full((3, *SHAPE), 0.4, np.float32) + np.linspace(-0.01, 0.01, SHAPE[0], dtype=np.float32)[:, None]
    )
    noisy = truth + rng.normal(0, 0.1, truth.shape).astype(np.float32)
    noisy += rng.normal(0, 0.05, (1, SHAPE[0], 1)).astype(np.float32)  # rows, the same in all planes
    moments = block_moments(truth, noisy, np.ones(SHAPE, np.bool_))
    light = measure_light(moments, fit_noise(moments), np.zeros(moments.n.shape, np.bool_))
    assert (abs(light.offset) < 3 * light.offset_error).all()
    assert (light.offset_error > 0.1 * light.mean).all()


def test_errors_are_honest_where_few_rows_of_patches_hold_another_level():
    rng = np.random.default_rng(secrets.randbelow(2**31))
    truth = np.full((3, 200, 300), 0.19, np.float32)
    truth[:, 40:88] = 0.14
    deviates = []
    for _ in range(40):
        noisy = truth + rng.normal(0, 0.02, truth.shape).astype(np.float32)
        noisy += rng.normal(0, 0.02, (1, 200, 1)).astype(np.float32)  # rows, the same in all planes
        moments = block_moments(truth, noisy, np.ones(truth.shape[1:], np.bool_))
        light = measure_light(moments, fit_noise(moments), np.zeros(moments.n.shape, np.bool_))
        tail = stats.t.sf(abs(light.offset) / light.offset_error, light.offset_freedom)
        deviates.append(stats.norm.isf(tail)[0])
        assert (abs(light.offset) < margin(light.offset_error, light.offset_freedom)).all()
    # of 40 normal deviates: 1.45 is exceeded once in 10,000
    assert 0.5 < np.sqrt(np.mean(np.square(deviates))) < 1.45
