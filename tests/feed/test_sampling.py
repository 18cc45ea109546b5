import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rawnind.feed.sampling import (
    UPRIGHT,
    Grid,
    Orientation,
    Window,
    best_window,
    epoch_order,
    generator,
    share_of,
    step_size,
)
from rawnind.imaging.levels import site_colors
from rawnind.records import Cfa

sizes = st.integers(1, 4).map(lambda n: 32 * n)
seeds = st.integers(0, 2**32)


@given(
    stored=sizes,
    size=sizes,
    red=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    augment=st.booleans(),
    seed=seeds,
)
def test_a_laid_window_of_a_mosaic_starts_on_red(stored, size, red, augment, seed):
    size = min(size, stored)
    grid = Grid(stored=stored, size=size, step=2, red=red, mosaic=True)
    window = grid.draw(generator(seed, 0, 0), augment=augment)
    sites = site_colors(Cfa.BAYER, (stored + 2, stored + 2))[
        red[0] : red[0] + stored, red[1] : red[1] + stored
    ]
    laid = window.cut(sites, size)
    assert laid.shape == (size, size)
    assert np.array_equal(laid, site_colors(Cfa.BAYER, (size, size)))


@given(
    shape=st.sampled_from([(5, 5), (3, 4, 4)]),
    kind=st.sampled_from([np.uint16, np.float16, np.float32, np.bool_]),
    turned=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_laying_is_a_transposition_and_then_flips(shape, kind, turned):
    wide = np.random.default_rng(0).integers(0, 3, (*shape[:-1], 2 * shape[-1]))
    values = wide.astype(kind)[..., : shape[-1]]  # not contiguous, as a window is not
    transpose, flip_y, flip_x = turned
    expected = values.swapaxes(-1, -2) if transpose else values
    expected = np.flip(expected, -2) if flip_y else expected
    expected = np.flip(expected, -1) if flip_x else expected
    assert np.array_equal(Orientation(*turned).apply(values), expected)


def test_all_eight_orientations_come_up_equally_often_where_there_is_room():
    grid = Grid(stored=64, size=32, step=2, red=(0, 0), mosaic=True)
    rng = generator(0, 0, 0)
    drawn = [grid.draw(rng, augment=True).orientation for _ in range(2000)]
    counts = [drawn.count(orientation) for orientation in set(drawn)]
    assert len(counts) == 8
    assert min(counts) > 180  # 250 expected, standard deviation 15


def test_a_window_as_large_as_the_crop_is_only_transposed():
    grid = Grid(stored=32, size=32, step=2, red=(0, 0), mosaic=True)
    rng = generator(0, 0, 0)
    drawn = {grid.draw(rng, augment=True) for _ in range(50)}
    assert drawn == {Window(0, 0, UPRIGHT), Window(0, 0, UPRIGHT._replace(transpose=True))}


@given(stored=sizes, seed=seeds)
def test_colour_windows_of_x_trans_start_on_tiles(stored, seed):
    window = Grid(stored=stored, size=32, step=6, red=(0, 0), mosaic=False).draw(
        generator(seed, 0, 0), augment=True
    )
    assert window.top % 6 == window.left % 6 == 0
    assert max(window.top, window.left) + 32 <= stored


@given(shares=st.lists(st.floats(0, 1), min_size=8, max_size=8), least=st.floats(0, 1))
def test_the_first_window_with_enough_valid_pixels_is_taken_or_else_the_best(shares, least):
    windows = [Window(number, 0, UPRIGHT) for number in range(9)]
    drawn = iter(windows)
    taken = best_window(lambda: next(drawn), lambda window: shares[window.top], least, tries=8)
    enough = [number for number, share in enumerate(shares) if share >= least]
    expected = enough[0] if enough else shares.index(max(shares))
    assert taken.top == expected


@given(seed=seeds, epoch=st.integers(0, 1000), rows=st.integers(1, 200))
def test_an_epoch_goes_through_every_row_once(seed, epoch, rows):
    order = epoch_order(rows, seed, epoch)
    assert sorted(order) == list(range(rows))
    assert np.array_equal(order, epoch_order(rows, seed, epoch))


@given(rows=st.integers(1, 300), ranks=st.integers(1, 7), batch_size=st.integers(1, 9))
def test_ranks_take_equally_many_steps_and_together_every_row(rows, ranks, batch_size):
    taken = [[] for _ in range(ranks)]
    left = rows
    while left:
        size = step_size(left, ranks, batch_size)
        samples = np.arange(rows - left, rows - left + size)
        for rank in range(ranks):
            taken[rank].append(share_of(samples, rank, ranks))
        left -= size
    assert len({len(steps) for steps in taken}) == 1
    assert all(1 <= len(batch) <= max(batch_size, 2) for steps in taken for batch in steps)
    given_out = np.concatenate([batch for steps in taken for batch in steps])
    assert set(given_out) == set(range(rows))
    assert len(given_out) == max(rows, ranks)
