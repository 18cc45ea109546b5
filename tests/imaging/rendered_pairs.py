"""Drawn pairs as the chain for one pair takes them, each rendered once."""

from dataclasses import replace
from functools import cache

import numpy as np

from rawnind.imaging.crops import AlignedPair
from rawnind.imaging.pair import align_pair, finish_pair
from rawnind.imaging.photo import Photo
from rawnind.imaging.prepared import Prepared
from rawnind.recipe import Recipe
from rawnind.records import Cfa
from tests.imaging.shifted_pairs import Case, render
from tests.imaging.simulation import MOTIFS

MATRIX = (0.7374, -0.2389, -0.0551, -0.5435, 1.3162, 0.2519, -0.1006, 0.1795, 0.6552)
RECIPE = Recipe(crop_size=96, stride=96)
SIDES = {Cfa.BAYER: (420, 520), Cfa.X_TRANS: (420, 516)}


@cache
def rendered(cfa, shift, seed=0, **changes):
    height, width = SIDES[cfa]
    pair = render(Case(seed=seed, cfa=cfa, height=height, width=width, motif=MOTIFS[seed % len(MOTIFS)],
                       displacement=shift, **changes))  # fmt: skip
    return pair.ground_truth, pair.noisy


def visible(photo, origin, fill=0):
    """The photo as part of a visible area in which its frame starts at `origin`."""
    height, width = photo.mosaic.shape
    area = np.full((height + origin[0], width + origin[1]), fill, np.uint16)
    area[origin[0] :, origin[1] :] = photo.mosaic
    return area


def prepared(photo, origin=(0, 0), *, matrix=MATRIX, **changes):
    area = visible(photo, origin)
    sensor = replace(
        photo.sensor, origin=origin, height=area.shape[0], width=area.shape[1], rgb_xyz_matrix=matrix
    )
    return Prepared(Photo.from_visible(area, replace(sensor, **changes)))


def whole(cfa=Cfa.BAYER, shift=(7.0, -4.0), origin=(0, 0), recipe=RECIPE, **changes):
    truth, noisy = rendered(cfa, shift, **changes)
    pair = align_pair(prepared(truth, origin), prepared(noisy, origin), recipe)
    return finish_pair(pair, recipe) if isinstance(pair, AlignedPair) else pair
