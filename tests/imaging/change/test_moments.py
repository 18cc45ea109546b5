"""Block moments against sums written out with numpy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.imaging.change.moments import Displacement, block_moments
from rawnind.imaging.coordinates import BLOCK


def frames(seed, shape, shift=(0, 0)):
    """A scene, the same scene seen by `shift` further on with no cell that stands out, and which cells are usable."""
    rng = np.random.default_rng(seed)
    truth = rng.random(shape, np.float32)
    y, x = (np.indices(shape[1:]) + np.array(shift)[:, None, None]).clip(
        0, np.array(shape[1:])[:, None, None] - 1
    )
    noisy = truth[:, y, x] + rng.choice(np.float32([-0.01, 0.01]), shape)
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
    shape=st.tuples(st.integers(3, 4), st.integers(3, 40), st.integers(3, 150)),
    shift=st.tuples(st.integers(-3, 3), st.integers(-70, 70)),
)
def test_moments_at_a_whole_shift_are_those_of_the_cells_that_both_frames_show(seed, shape, shift):
    truth, noisy, usable = frames(seed, shape, shift)
    found = block_moments(truth, noisy, usable, Displacement(dy=(shift[0], 0, 0), dx=(shift[1], 0, 0)))
    y, x = np.indices(shape[1:]) + np.array(shift)[:, None, None]
    seen = usable & (y >= 1) & (y < shape[1] - 1) & (x >= 1) & (x < shape[2] - 1)
    n = np.nansum(in_blocks(seen.astype(float)), axis=2)
    np.testing.assert_array_equal(found.n, n)
    y, x = y.clip(1, shape[1] - 2), x.clip(1, shape[2] - 2)
    for plane in range(shape[0]):
        g = truth[plane].astype(float)
        steps = (g[y + 1, x] - g[y, x]) ** 2 + (g[y, x + 1] - g[y, x]) ** 2
        d = in_blocks(np.where(seen, g[y, x] - noisy[plane], 0))
        mean = np.nansum(d, axis=2) / n.clip(1)
        np.testing.assert_allclose(found.d[plane], mean, atol=1e-6)
        np.testing.assert_allclose(found.dd[plane], np.nansum(d**2, axis=2) - n * mean**2, atol=1e-6)
        for name, cells in (("g", g[y, x]), ("gradient", steps)):
            expected = np.nansum(in_blocks(np.where(seen, cells, 0)), axis=2) / n.clip(1)
            np.testing.assert_allclose(getattr(found, name)[plane], expected, rtol=1e-5, atol=1e-6)


def test_a_quadratic_scene_is_interpolated_exactly_wherever_the_frames_turn():
    y, x = np.indices((96, 160), np.float64)

    def scene(y, x):
        return 0.2 + 1e-3 * y - 5e-4 * x + 1e-5 * y * y - 4e-6 * x * x

    displacement = Displacement(dy=(0.3, 2e-3, 0.0), dx=(-0.4, 1e-3, 0.0))  # the same all along a row
    middle = y - (96 - 1) / 2
    row = (y // BLOCK * BLOCK + 1.5) - (96 - 1) / 2  # a displacement holds for a block
    assert np.abs(row - middle).max() == 1.5
    noisy = scene(y + 0.3 + 2e-3 * row, x - 0.4 + 1e-3 * row)
    usable = np.ones((96, 160), np.bool_)
    found = block_moments(
        scene(y, x)[None].astype(np.float32), noisy[None].astype(np.float32), usable, displacement
    )
    whole = found.n == BLOCK * BLOCK
    assert whole[1:-1, 1:-1].all()
    assert np.abs(found.d[0][whole]).max() < 1e-6


def test_one_hot_cell_is_left_out_of_its_block_and_only_there():
    truth, noisy, _ = frames(3, (3, 40, 80))
    usable = np.ones((40, 80), np.bool_)
    noisy[1, 10, 21] += 0.5
    cool = usable.copy()
    cool[10, 21] = False
    found, expected = (block_moments(truth, noisy, cells, Displacement()) for cells in (usable, cool))
    np.testing.assert_allclose(found.d[1], expected.d[1], atol=1e-6)
    np.testing.assert_allclose(found.dd[1], expected.dd[1], atol=1e-6)
    assert np.array_equal(found.d[0] != expected.d[0], expected.n != found.n)
