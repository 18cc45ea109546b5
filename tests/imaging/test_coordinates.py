import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawnind.imaging.coordinates import Rect, grid, mask_crop, valid_fractions
from rawnind.imaging.levels import site_colors
from rawnind.imaging.warp import Warp
from rawnind.records import Cfa

cfas = st.sampled_from(Cfa)
shifts = st.tuples(st.integers(-40, 40), st.integers(-40, 40))


def shapes(cfa):
    return st.tuples(st.integers(1, 12), st.integers(1, 12)).map(
        lambda n: (n[0] * cfa.period, n[1] * cfa.period)
    )


def partners_inside(rect: Rect, shape, gt_shape, shift) -> bool:
    """Whether a rectangle lies in the noisy frame and, shifted, in the GT's."""
    return all(
        start >= 0 and end <= length and start + offset >= 0 and end + offset <= gt_length
        for start, end, length, gt_length, offset in (
            (rect.top, rect.bottom, shape[0], gt_shape[0], shift[0]),
            (rect.left, rect.right, shape[1], gt_shape[1], shift[1]),
        )
    )


@given(data=st.data(), cfa=cfas, shift=shifts, size=st.integers(1, 40), stride=st.integers(1, 40))
def test_cropping_keeps_every_site_on_its_colour_and_inside_both_frames(data, cfa, shift, size, stride):
    shape = data.draw(shapes(cfa))
    rect = Warp.constant(shape, shift).overlap(shape, shape, cfa.period)
    colors, tile = site_colors(cfa, shape), site_colors(cfa, (size, size))
    origins = grid(rect, size, stride, cfa.period)
    for y, x in origins.tolist():
        assert partners_inside(Rect(y, x, size, size), shape, shape, shift)
        np.testing.assert_array_equal(colors[y : y + size, x : x + size], tile)
    assert origins.tolist() == sorted(origins.tolist())


@given(data=st.data(), cfa=cfas, size=st.integers(1, 40), stride=st.integers(1, 40))
def test_no_further_crop_fits_and_crops_lie_one_stride_apart(data, cfa, size, stride):
    height, width = data.draw(shapes(cfa))
    origins = grid(Rect(0, 0, height, width), size, stride, cfa.period)
    step = -(-stride // cfa.period) * cfa.period
    assert stride <= step < stride + cfa.period
    expected = [[y, x] for y in range(0, height - size + 1, step) for x in range(0, width - size + 1, step)]
    assert origins.tolist() == expected


def test_a_24_megapixel_frame_has_the_same_crops_wherever_it_is_cut():
    assert len(grid(Rect(0, 0, 4000, 6000), 512, 512, 2)) == 7 * 11
    moved = grid(Rect(6, 12, 3990, 5988), 512, 512, 6)
    assert moved[0].tolist() == [6, 12]
    assert moved[1].tolist() == [6, 12 + 516]  # 512 is no multiple of X-Trans' six sites


@pytest.mark.parametrize(("size", "stride"), [(0, 8), (8, 0), (-8, 8)])
def test_crops_without_size_or_stride_are_refused(size, stride):
    with pytest.raises(ValueError, match="positive"):
        grid(Rect(0, 0, 64, 64), size, stride, 2)


def test_a_grid_that_does_not_start_on_a_tile_is_refused():
    with pytest.raises(ValueError, match="does not start on a tile"):
        grid(Rect(0, 3, 60, 60), 6, 6, 6)


@given(data=st.data(), cell=st.sampled_from((2, 3)), size=st.integers(1, 30), seed=st.integers(0, 99))
def test_fractions_equal_those_counted_site_by_site(data, cell, size, seed):
    least = -(-size // cell)
    height, width = data.draw(st.integers(least, least + 8)), data.draw(st.integers(least, least + 8))
    rng = np.random.default_rng(seed)
    valid = rng.random((height, width)) < rng.random()
    positions = st.tuples(st.integers(0, height * cell - size), st.integers(0, width * cell - size))
    origins = np.array(data.draw(st.lists(positions, min_size=1, max_size=5)))
    sites = valid.repeat(cell, 0).repeat(cell, 1)
    for (y, x), share in zip(origins, valid_fractions(valid, origins, size, cell), strict=True):
        assert share == sites[y : y + size, x : x + size].mean()
        mask = mask_crop(valid, int(y), int(x), size, cell)
        np.testing.assert_array_equal(mask, sites[y : y + size, x : x + size])
        assert share == mask.mean()


def test_an_all_valid_mask_is_valid_to_the_last_site():
    valid = np.ones((2000, 2000), np.bool_)
    origins = grid(Rect(0, 0, 6000, 6000), 512, 512, 6)
    assert (valid_fractions(valid, origins, 512, 3) == 1).all()


def test_no_crops_have_no_fractions():
    assert valid_fractions(np.ones((4, 4), np.bool_), np.empty((0, 2), np.int64), 4, 2).shape == (0,)


@pytest.mark.parametrize("origin", [(-2, 0), (0, -2), (2, 0), (0, 2)])
def test_crops_outside_of_the_mask_are_refused(origin):
    valid = np.ones((4, 4), np.bool_)
    with pytest.raises(ValueError, match="must lie within 8x8"):
        valid_fractions(valid, np.array([origin]), 8, 2)
    with pytest.raises(ValueError, match="must lie within 8x8"):
        mask_crop(valid, *origin, 8, 2)
