"""Local shifts of patches, against the drawn truth."""

import numpy as np
import pytest

from rawnind.imaging.alignment.greens import view
from rawnind.imaging.alignment.lucas_kanade import site_shifts
from rawnind.records import Cfa
from tests.imaging.shifted_pairs import Case, render

TRUE = np.array([1 + 14 / 32, -13 / 32])  # the generator rounds to 1/32 site
PATCH = 64


def mean_error(pair, offset):
    """(2,) mean error in sites of the shifts of 24 patches that are matched at an offset."""
    corners = np.stack(np.meshgrid(range(10, 220, 66), range(10, 340, 66), indexing="ij"), -1).reshape(-1, 2)
    views = (view(photo, photo.mosaic) for photo in (pair.ground_truth, pair.noisy))
    offsets = np.tile(np.asarray(offset, np.float64), (len(corners), 1))
    found = site_shifts(*views, corners, offsets, np.zeros((len(corners), 2, 2)), PATCH)
    assert len(found.at) == len(corners)
    information = np.linalg.inv(found.covariance)
    weighted = np.einsum("nij,nj->i", information, found.shift - TRUE)
    return np.linalg.solve(information.sum(axis=0), weighted)


@pytest.mark.parametrize("cfa", Cfa)
def test_a_patch_matched_between_sites_is_not_off_by_a_share_of_the_fraction(cfa):
    case = Case(seed=2, cfa=cfa, height=300, width=420, motif="gravel.png", iso=100, displacement=tuple(TRUE))
    pair = render(case)
    assert np.abs(mean_error(pair, TRUE + np.array([0.06, -0.05]))).max() < 0.02
    if cfa is Cfa.BAYER:
        assert np.all(mean_error(pair, np.rint(TRUE)) * [1, -1] > 0.03)
