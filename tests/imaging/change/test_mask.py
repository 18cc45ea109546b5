"""Masks: what changed must go, noise must stay, and what is no change of the scene must not be taken for one.

The targets over more than a hundred pairs, and what older rules make of the same pairs, are in benchmarks/bench_mask.py.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.imaging.change.mask import INVALID, Cause, combine, scene_change, valid
from rawnind.imaging.exposure import overexposed
from rawnind.imaging.gains import measured_gain
from rawnind.imaging.hot_pixels import hot_pixels
from rawnind.records import Cfa
from tests.imaging.changed_pairs import Case, Kind, aligned, draw_case, draw_fresh, render
from tests.imaging.scenes import Scene
from tests.imaging.simulation import noise_at

pytestmark = pytest.mark.slow


def judge(case):
    """(pair, usable cells, gain, change) of a case."""
    pair = aligned(render(case))
    cells, photo = pair.cells, pair.noisy_photo
    usable = (pair.ground_truth < 0.99).all(axis=0)
    usable &= ~(overexposed(photo.mosaic, photo.sensor) | hot_pixels(photo.mosaic, photo.sensor))[cells]
    factor = measured_gain(pair.ground_truth, pair.noisy, usable).value
    return (
        pair,
        usable,
        factor,
        scene_change(pair.ground_truth, pair.noisy * np.float32(factor), usable, case.cfa),
    )


def lost(pair, usable, change):
    still = pair.still & usable
    return (change.changed & still).sum() / still.sum()


def found(pair, usable, change):
    """Masked and whole area of the changes above the limit of detection."""
    areas = [changed.cells & usable for changed in pair.changes if changed.detectable]
    return sum((change.changed & area).sum() for area in areas), sum(area.sum() for area in areas)


@pytest.mark.parametrize(("seed", "iso"), [(101, 100), (102, 3200), (103, 25600)])
def test_drawn_changes_are_masked_and_still_area_stays(seed, iso):
    pair, usable, _, change = judge(draw_case(seed, iso))
    hits, total = found(pair, usable, change)
    assert hits >= 0.95 * total
    assert lost(pair, usable, change) <= 0.02


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_change_is_found_at_iso_6400(kind):
    pair, usable, _, change = judge(
        Case(seed=2, cfa=Cfa.BAYER, iso=6400, height=360, width=480, changes=((kind, 120),))
    )
    hits, total = found(pair, usable, change)
    assert total
    assert hits >= 0.97 * total


NO_CHANGE = {
    "noise": {},
    "drift of the light": {"drift": 0.04},
    "another response": {"response": 0.97},
    "a turn": {"rotation": 0.05},
    "a shift": {"residual": (0.45, -0.4)},
    "an odd shift": {"shift": (3, -5)},
    "row noise": {"row_noise": 0.5},
    "hot pixels": {"hot_pixels": 1e-4},
    "a lamp": {"lamp": True},
}


@pytest.mark.parametrize(("iso", "cfa"), [(200, Cfa.X_TRANS), (12800, Cfa.BAYER)])
@pytest.mark.parametrize("trouble", NO_CHANGE)
def test_what_is_no_motion_is_not_masked(trouble, iso, cfa):
    pair, usable, _, change = judge(Case(seed=12, cfa=cfa, iso=iso, **NO_CHANGE[trouble]))
    assert lost(pair, usable, change) <= 0.01


@pytest.mark.parametrize(
    ("seed", "cfa", "shift"), [(0, Cfa.BAYER, (4, -7)), (4, Cfa.BAYER, (4, -7)), (0, Cfa.X_TRANS, (3, -7))]
)
def test_saturated_colours_whose_dark_planes_are_demosaiced_are_not_masked(seed, cfa, shift):
    case = Case(seed=seed, cfa=cfa, iso=6400, scene=Scene.SATURATED, shift=shift)
    pair, usable, _, change = judge(case)
    assert lost(pair, usable, change) <= 0.005


@pytest.mark.parametrize(
    ("seed", "number"), [(71003, 6), (71003, 98), (71004, 49)]
)  # faint objects and shadows
def test_changes_of_a_night_sky_are_seen_between_the_stars(seed, number):
    pair, usable, _, change = judge(draw_fresh(seed, number, still=False))
    hits, total = found(pair, usable, change)
    assert hits >= 0.97 * total > 0
    assert lost(pair, usable, change) <= 0.01


def test_black_surroundings_with_as_little_noise_as_the_ground_truth_are_not_masked():
    pair, usable, _, change = judge(draw_fresh(71003, 108, still=True))  # X-Trans at ISO 100
    assert lost(pair, usable, change) <= 0.002


@pytest.mark.parametrize("iso", [400, 25600])
def test_the_noise_model_is_the_simulators(iso):
    pair, _, factor, change = judge(Case(seed=5, cfa=Cfa.BAYER, iso=iso, gt_iso=50))
    noise = noise_at(iso)
    level = float(np.median(pair.ground_truth[1]))
    expected = factor * level / noise.electrons + (factor * noise.read / noise.electrons) ** 2
    assert change.noise_gain * level + change.noise_floor == pytest.approx(expected, rel=0.2)


def test_scores_lie_on_blocks_of_four_cells_and_begin_at_one():
    pair, _, _, change = judge(Case(seed=2, cfa=Cfa.BAYER, iso=800, changes=((Kind.STRONG, 100),)))
    height, width = pair.noisy.shape[1:]
    assert change.score.shape == (-(-height // 4), -(-width // 4))
    inside = change.score[pair.changes[0].cells[::4, ::4]]
    assert np.median(inside) > 1
    assert np.quantile(change.score[pair.still[::4, ::4]], 0.99) < 1


def test_nothing_usable_changes_nothing():
    levels = np.random.default_rng(0).random((4, 64, 96), np.float32)
    change = scene_change(levels, levels, np.zeros((64, 96), np.bool_), Cfa.BAYER)
    assert not change.changed.any()


@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 70)), cfa=st.sampled_from(Cfa))
@settings(deadline=None, max_examples=15)
def test_any_size_of_frame_is_judged(shape, cfa):
    rng = np.random.default_rng(0)
    levels = rng.random((len(cfa.plane_colors), *shape), np.float32)
    noisy = levels + rng.normal(0, 0.01, levels.shape).astype(np.float32)
    assert scene_change(levels, noisy, np.ones(shape, np.bool_), cfa).changed.shape == shape


@given(bits=st.lists(st.booleans(), min_size=5, max_size=5))
def test_each_cause_is_recorded_and_only_some_spoil(bits):
    names = ("overexposed", "underexposed", "hot", "changed", "misaligned")
    causes = combine(**{name: np.full((2, 3), bit) for name, bit in zip(names, bits, strict=True)})
    expected = sum(flag for flag, bit in zip(Cause, bits, strict=True) if bit)
    assert (causes == expected).all()
    assert valid(causes).all() == (
        not any(bit for name, bit in zip(names, bits, strict=True) if name != "underexposed")
    )
    assert Cause.UNDEREXPOSED not in INVALID
