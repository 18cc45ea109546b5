"""What still texture may differ by after resampling and demosaicing."""

import numpy as np
import pytest

from rawnind.imaging.change.edges import color_leak, errors_within, scene_gradient
from rawnind.imaging.change.moments import Moments, block_moments

SHAPE = (4, 40, 60)
NOISE = np.full(SHAPE, 1e-6, np.float32)


def moments_of(colors, *, leaked=0.0):
    """Blocks of texture whose planes have these mean levels; a share of the squared gradient is in the difference."""
    level = np.ones(SHAPE, np.float32) * np.float32(colors)[:, None, None]
    level[:, :, 30:] = 0.3  # grey, as much as the rest: the gains that give equal contrast stay near 1
    gradient = (0.2 * level) ** 2
    dd = 15 * NOISE + 16 * leaked * gradient
    n = np.full(SHAPE[1:], 16, np.float32)
    return Moments(n=n, g=level, d=np.zeros(SHAPE, np.float32), dd=dd, gradient=gradient)


def test_grey_texture_does_not_leak_between_colours():
    leak = color_leak(moments_of((0.3, 0.3, 0.3, 0.3)))
    assert leak == pytest.approx(0, abs=1e-6)


def test_a_dark_colour_gets_texture_of_a_bright_one():
    moments = moments_of((0.006, 0.3, 0.3, 0.3))
    share = color_leak(moments)[:, :, :30] / moments.gradient[:, :, :30]
    assert share[0].min() > 0.6
    assert share[3].max() < 0.1


@pytest.mark.parametrize("leaked", [0.0, 0.2])
def test_how_much_leaks_is_measured(leaked):
    moments = moments_of((0.02, 0.3, 0.3, 0.3), leaked=leaked)
    leak = color_leak(moments)
    shift, share = errors_within(moments, leak, NOISE)
    explained = shift * moments.gradient + share[:, None, None] * leak
    saturated = np.s_[0, :, :30]
    assert explained[saturated] == pytest.approx(max(leaked, 0.05**2) * moments.gradient[saturated], rel=0.1)


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_noise_of_the_ground_truth_is_no_gradient_of_the_scene(noise):
    rng = np.random.default_rng(4)
    scene = np.full((3, 160, 240), 0.1, np.float32)
    scene[:, :, 120:] += np.arange(120, dtype=np.float32) * 0.01  # steps of 0.01 across
    truth = scene + rng.normal(0, noise, scene.shape).astype(np.float32)
    moments = block_moments(truth, truth, np.ones(scene.shape[1:], np.bool_))
    gradient = scene_gradient(moments, np.full_like(moments.g, 2 * noise**2))
    assert gradient[:, :-1, :29].mean() <= 0.2 * 4 * noise**2
    assert gradient[:, :-1, 31:-1].mean() == pytest.approx(1e-4, rel=0.1)
