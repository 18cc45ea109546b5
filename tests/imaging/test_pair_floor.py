"""The noise at level 0 against that of the simulated sensor: dark and bright scenes, both CFAs, noise that 0 cuts off."""

import numpy as np
import pytest

from rawnind.imaging.change.mask import valid
from rawnind.imaging.pair import _find_causes, align_pair
from rawnind.imaging.pair_floor import pair_floors
from rawnind.imaging.pair_noise import _blocks
from rawnind.records import Cfa
from rawnind.sample.simulator import linear_photo
from tests.imaging.rendered_pairs import RECIPE, prepared
from tests.imaging.simulation import RESPONSE, make_sensor, noise_at, take, through_filters, view

SHAPE = (576, 768)


def floors(cfa, iso, *, darkest):
    """Of a pair whose light falls off to the left, and the truth; a fresh seed is printed."""
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")
    mirrored = np.pad(linear_photo("gravel.png"), ((0, 300), (0, 500), (0, 0)), mode="symmetric")
    light = (np.float32(0.4) + 0.3 * mirrored[: SHAPE[0] + 60, : SHAPE[1] + 60]) * RESPONSE
    light *= np.maximum(np.linspace(-0.3, 0.8, light.shape[1], dtype=np.float32), darkest)[None, :, None]
    sensor, photos = make_sensor(cfa, SHAPE), []
    for number, (each, shift) in enumerate([(100, (3.0, -2.0)), (iso, (0.0, 0.0))]):
        seen = through_filters(view(light, SHAPE, (30, 30), displacement=shift), cfa)
        photos.append(prepared(take(seen, sensor, noise_at(each), np.random.default_rng([seed, number]))))
    pair = align_pair(*photos, RECIPE)
    causes, _, _ = _find_causes(pair, RECIPE)
    noise, span = noise_at(iso), sensor.white_level - sensor.black_level[1]
    truth = (noise.read / noise.electrons) ** 2 + 1 / 12 / span**2
    return pair_floors(pair, _blocks(valid(causes), cfa, pair.rect)), truth


@pytest.mark.parametrize(("cfa", "iso"), [(Cfa.BAYER, 6400), (Cfa.X_TRANS, 65535)])
def test_dark_sites_show_b_within_its_error(cfa, iso):
    found, truth = floors(cfa, iso, darkest=1e-4)
    for floor in found:
        assert abs(floor.value - truth) < 4.5 * floor.error < 0.25 * truth


def test_where_nothing_is_dark_b_is_known_to_be_unknown():
    found, truth = floors(Cfa.BAYER, 800, darkest=0.2)
    assert all(floor is None or floor.error > truth for floor in found)
