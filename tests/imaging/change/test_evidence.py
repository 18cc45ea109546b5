"""A shadow over stars: the sky is darker than the noise, and each star alone may be wrong by a part of itself."""

import numpy as np

from rawnind.imaging.change.evidence import changed_blocks
from rawnind.imaging.change.moments import Moments
from rawnind.imaging.change.noise import NoiseModel

SHAPE, SIGMA = (72, 108), 1e-3
SHADOW = np.s_[20:44, 30:54]


def starry(seed, *, depth):
    """Moments and residual of a night sky, a part of which is darker by the share `depth` in the noisy photo."""
    rng = np.random.default_rng(seed)
    stars = rng.random(SHAPE) < 0.15
    level = np.where(stars, rng.exponential(0.01, SHAPE), 2e-4)
    wrong = 0.1 * rng.standard_normal(SHAPE) * level * stars  # what a displacement leaves of a star
    shade = np.zeros(SHAPE)
    shade[SHADOW] = depth
    residual = wrong + shade * level + rng.normal(0, SIGMA / 4, (3, *SHAPE))
    g = (level * np.ones((3, 1, 1))).astype(np.float32)
    spread = SIGMA**2 * rng.chisquare(15, (3, *SHAPE))
    moments = Moments(
        n=np.full(SHAPE, 16, np.float32), g=g, d=residual.astype(np.float32),
        dd=(spread + 16 * 0.1 * wrong**2).astype(np.float32), gradient=(4 * g**2 * stars).astype(np.float32),
    )  # fmt: skip
    return moments, moments.d.copy()


def masked(moments, residual):
    noise = NoiseModel(slope=np.zeros(3, np.float32), floor=np.full(3, SIGMA**2, np.float32))
    return changed_blocks(moments, residual, noise)[0]


def test_a_shadow_over_stars_is_found_by_all_of_them():
    for seed in range(1, 4):
        found = masked(*starry(seed, depth=0.22))
        assert found[SHADOW].mean() > 0.9
        found[SHADOW] = False
        assert found.mean() < 0.05


def test_stars_that_are_wrong_one_by_one_are_no_shadow():
    assert not any(masked(*starry(seed, depth=0)).any() for seed in range(5))
