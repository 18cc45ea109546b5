"""The noise of a noisy photo beside its ground truth against that of the simulated sensor, on photos with fine texture."""

from functools import cache

import numpy as np
import pytest

from rawnind.imaging.change.mask import valid
from rawnind.imaging.gates import noise_numbers
from rawnind.imaging.pair import _find_causes, align_pair
from rawnind.imaging.pair_noise import pair_noise
from rawnind.imaging.photo_noise import photo_noise
from rawnind.records import Cfa
from rawnind.sample.simulator import linear_photo
from tests.imaging.rendered_pairs import RECIPE, prepared
from tests.imaging.simulation import RESPONSE, make_sensor, noise_at, take, through_filters, view

SHAPE = (720, 960)


@cache
def noise_of(cfa, motif="grass.png", iso=1600, shift=(4.0, -6.0)):
    """The pair's noise, the noisy photo's alone, and slope and floor of the truth."""
    mirrored = np.pad(
        linear_photo(motif), ((0, 512), (0, 512), (0, 0)), mode="symmetric"
    )  # detail at each site
    light = np.float32(0.4) + 0.3 * mirrored[: SHAPE[0] + 60, : SHAPE[1] + 60]
    light *= RESPONSE
    light *= np.linspace(0.05, 1, light.shape[1], dtype=np.float32)[None, :, None]
    sensor, photos = make_sensor(cfa, SHAPE), []
    for seed, (each, displacement) in enumerate([(100, shift), (iso, (0.0, 0.0))]):
        seen = through_filters(view(light, SHAPE, (30, 30), displacement=displacement), cfa)
        rng = np.random.default_rng([seed, iso])
        photos.append(prepared(take(seen, sensor, noise_at(each), rng)))
    pair = align_pair(*photos, RECIPE)
    causes, _, _ = _find_causes(pair, RECIPE)
    found, noise = pair_noise(pair, valid(causes)), noise_at(iso)
    span = sensor.white_level - sensor.black_level[1]
    floor = (noise.read / noise.electrons) ** 2 + 1 / 12 / span**2
    return pair, found, photo_noise(photos[1].photo), 1 / noise.electrons, floor


@pytest.mark.parametrize("cfa", Cfa)
@pytest.mark.parametrize(
    ("motif", "iso", "shift"), [("brick.png", 3200, (4.0, 2.0)), ("gravel.png", 12800, (2.5, 1.0))]
)
def test_a_and_b_are_those_of_the_sensor(cfa, motif, iso, shift):
    _, found, _, slope, floor = noise_of(cfa, motif, iso, shift)
    for color in found:
        a, b = color.noisy.measured
        assert a is None or a == pytest.approx(slope, rel=0.05)
        assert b is None or b == pytest.approx(floor, rel=0.08)
        assert abs(color.noisy.slope - slope) < 3.5 * color.noisy.slope_error
    assert found[1].noisy.measured[0] is not None


@pytest.mark.parametrize("cfa", Cfa)
def test_texture_as_strong_as_the_noise_is_told_from_it_where_a_photo_alone_cannot(cfa):
    _, found, alone, slope, floor = noise_of(cfa)
    for beside, by_itself in zip(found, alone, strict=True):
        truth = slope * beside.level + floor
        assert beside.noisy.variance(beside.level) == pytest.approx(truth, rel=0.08)
        assert by_itself.variance(beside.level) > 1.5 * truth


@pytest.mark.parametrize("cfa", Cfa)
def test_a_ground_truth_whose_texture_exceeds_its_noise_has_no_numbers(cfa):
    pair, found, *_ = noise_of(cfa)
    assert not [name for name in noise_numbers(pair.truth, found, pair.gain) if name.startswith("gt_")]


def test_a_pair_with_too_little_that_is_usable_has_no_noise():
    pair, *_ = noise_of(Cfa.BAYER)
    cells = pair.rect.height // 2, pair.rect.width // 2
    for usable in (np.zeros(cells, np.bool_), np.zeros((3, 3), np.bool_)):
        assert pair_noise(pair, usable) is None
    assert noise_numbers(pair.truth, None, pair.gain) == {}
