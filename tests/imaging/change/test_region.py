"""How far a change reaches: through what cannot show it, not through what would."""

import numpy as np
import pytest

from rawnind.imaging.change.region import Odds, changed_area, hysteresis

SHAPE = (40, 60)
FOUND = np.zeros(SHAPE, np.bool_)
FOUND[10:30, 20:40] = True
FOUND[15:25, 32:40] = False  # a dent in one side of a square
INSIDE = np.s_[16:24, 34:40]


def odds_of(white, level):
    """Odds of blocks of 16 cells in one plane; levels and what differs in deviations of a cell."""
    cells = np.where(FOUND, 0, 16).astype(np.float32)
    full = [(cells * value).astype(np.float32) for value in (white, level, 0.02 * level)]
    return Odds(
        planes=1, white=full[0], cells=cells, level=full[1], floor=full[2], rough=np.zeros_like(cells)
    )


@pytest.mark.parametrize(("white", "level", "low", "high"), [
    (0, 0, 0, 0),
    (0, 0.1, -0.1, 0),
    (0, 50, -3, -2),
    (5, 20, 5, np.inf),
    (-5, 20, 5, np.inf),
])  # fmt: skip
def test_odds_are_even_where_nothing_can_be_seen_low_where_nothing_is_and_high_where_something_is(
    white, level, low, high
):
    odds = odds_of(np.full(SHAPE, white), np.full(SHAPE, level)).log_ratio(1)
    assert low <= odds[~FOUND].min() <= odds[~FOUND].max() <= high
    assert not odds[FOUND].any()


@pytest.mark.parametrize(("level", "reaches"), [(0, True), (50, False)])
def test_a_dent_is_filled_unless_a_change_would_be_seen_there(level, reaches):
    area = changed_area(FOUND, odds_of(np.zeros(SHAPE), np.full(SHAPE, level)), np.ones(SHAPE, np.bool_))
    assert area[FOUND].all()
    assert (area[INSIDE] == reaches).all()
    assert not area[:, 44:].any()


def test_two_objects_side_by_side_are_not_filled_to_one():
    found = np.zeros(SHAPE, np.bool_)
    found[10:30, 20:24] = found[10:14, 20:40] = True
    even = odds_of(np.zeros(SHAPE), np.zeros(SHAPE))
    assert not changed_area(found, even, np.ones(SHAPE, np.bool_))[22:, 28:].any()


def test_texture_that_differs_is_not_taken_for_still():
    quiet = np.ones(SHAPE, np.bool_)
    quiet[INSIDE] = False
    area = changed_area(FOUND, odds_of(np.zeros(SHAPE), np.full(SHAPE, 50)), quiet)
    assert area[INSIDE].all()
    assert not area[:, 44:].any()


@pytest.mark.parametrize("gap", [0, 50])
def test_what_is_seen_beyond_a_gap_belongs_to_the_change_unless_the_gap_is_still(gap):
    level = np.full(SHAPE, 20.0)
    level[:, 40:42] = gap
    white = np.zeros(SHAPE)
    white[12:28, 42:44] = 5
    area = changed_area(FOUND, odds_of(white, level), np.ones(SHAPE, np.bool_))
    assert area[14:26, 42:44].all() == (gap == 0)


def test_weak_evidence_counts_where_it_touches_what_was_found():
    weak = np.zeros(SHAPE, np.bool_)
    weak[8:10, 20:30] = weak[35:37, 50:55] = True
    blocks = hysteresis(FOUND, weak)
    assert blocks[8:10, 20:30].all()
    assert not blocks[35:37, 50:55].any()
