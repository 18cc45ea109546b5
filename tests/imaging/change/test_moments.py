"""Block moments against sums written out with numpy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.imaging.change.moments import block_moments
from rawnind.imaging.coordinates import BLOCK


def frames(seed, shape):
    """A scene, the same scene with no cell that stands out, and which cells are usable."""
    rng = np.random.default_rng(seed)
    truth = rng.random(shape, np.float32)
    noisy = truth + rng.choice(np.float32([-0.01, 0.01]), shape)
    return truth, noisy, rng.random(shape[1:]) < rng.choice([0.5, 0.9, 1.0])


def in_blocks(cells):
    """(hb, wb, 16) cells of each block, NaN beyond the frame."""
    height, width = cells.shape
    padded = np.pad(cells, ((0, -height % BLOCK), (0, -width % BLOCK)), constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK)
    return blocks.swapaxes(1, 2).reshape(*blocks.shape[::2], BLOCK * BLOCK)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(3, 4), st.integers(1, 40), st.integers(1, 150)),
)
def test_moments_are_those_of_the_usable_cells(seed, shape):
    truth, noisy, usable = frames(seed, shape)
    found = block_moments(truth, noisy, usable)
    n = np.nansum(in_blocks(usable.astype(float)), axis=2)
    np.testing.assert_array_equal(found.n, n)
    for plane in range(shape[0]):
        g = truth[plane].astype(float)
        steps = np.diff(g, axis=0, append=g[-1:]) ** 2 + np.diff(g, axis=1, append=g[:, -1:]) ** 2
        d = in_blocks(np.where(usable, g - noisy[plane], 0))
        mean = np.nansum(d, axis=2) / n.clip(1)
        np.testing.assert_allclose(found.d[plane], mean, atol=1e-6)
        np.testing.assert_allclose(found.dd[plane], np.nansum(d**2, axis=2) - n * mean**2, atol=1e-6)
        for name, cells in (("g", g), ("gradient", steps)):
            expected = np.nansum(in_blocks(np.where(usable, cells, 0)), axis=2) / n.clip(1)
            np.testing.assert_allclose(getattr(found, name)[plane], expected, rtol=1e-5, atol=1e-6)


def test_one_hot_cell_is_left_out_of_its_block_and_only_there():
    truth, noisy, _ = frames(3, (3, 40, 80))
    usable = np.ones((40, 80), np.bool_)
    noisy[1, 10, 21] += 0.5
    cool = usable.copy()
    cool[10, 21] = False
    found, expected = (block_moments(truth, noisy, cells) for cells in (usable, cool))
    np.testing.assert_allclose(found.d[1], expected.d[1], atol=1e-6)
    np.testing.assert_allclose(found.dd[1], expected.dd[1], atol=1e-6)
    assert np.array_equal(found.d[0] != expected.d[0], expected.n != found.n)
