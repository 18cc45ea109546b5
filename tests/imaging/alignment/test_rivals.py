"""Scenes that repeat: the true period is found by what does not repeat, or none is taken."""

import numpy as np
import pytest

from rawnind.imaging.alignment.align import align, extract_features
from rawnind.imaging.alignment.repetition import repeats
from rawnind.imaging.alignment.rivals import SURE, Fit, Smooth, sureness
from rawnind.imaging.warp import Warp
from rawnind.records import Cfa
from tests.imaging.periodic import Beside, Periodic, Texture
from tests.imaging.warped_pairs import WarpCase, draw_repeating, render_warp

# Drawn pairs that were kept a period off, or bent along stripes, by earlier versions.
FOUND = {
    1211764695: "fabric in perspective, with folds",
    585173863: "a grille in perspective beside a photograph",
    1885964346: "rows of plants",
}


@pytest.mark.parametrize("seed", FOUND, ids=FOUND.get)
def test_what_does_not_repeat_decides(seed):
    made = render_warp(draw_repeating(np.random.default_rng(seed), 768, 1024))
    found = align(extract_features(made.ground_truth), extract_features(made.noisy))
    assert found.rival is None
    at = np.argwhere(np.ones(made.displacement.shape[:2]))[::997]
    off = found.registration.warp.at(at) - made.displacement[at[:, 0], at[:, 1]]
    assert np.hypot(*off.T).max() < 0.3


@pytest.mark.parametrize("cfa", Cfa)
@pytest.mark.parametrize("texture", [Texture.FABRIC, Texture.GRILLE])
def test_where_nothing_decides_the_pair_has_a_rival(cfa, texture):
    found = align(*map(extract_features, _photos(cfa, texture, Beside.NOTHING)))
    assert found.score == 0
    assert found.rival is not None or found.registration is None


def test_the_surer_of_two_warps_is_the_true_one_and_nothing_is_sure_between_periods():
    for beside, sure in ((Beside.HALF, True), (Beside.NOTHING, False)):
        ground_truth, noisy = (Smooth.of(photo) for photo in _photos(Cfa.BAYER, Texture.FABRIC, beside))
        true, false = (
            Fit.of(noisy, ground_truth, Warp.constant((384, 576), displacement)).seen
            for displacement in ((3.0, -2.0), (3.0, 10.0))
        )
        lead = sureness(noisy.values, true, false)
        assert (lead > SURE) is sure
        assert abs(lead) < SURE or sureness(noisy.values, false, true) < -SURE


def test_a_fabric_repeats_and_a_photograph_does_not():
    lags = repeats(_photos(Cfa.BAYER, Texture.FABRIC, Beside.NOTHING)[0])
    assert any(np.allclose(np.abs(lag), (6, 6), atol=1) for lag in lags)  # a chequerboard's diagonal
    plain = WarpCase(seed=3, cfa=Cfa.BAYER, height=384, width=576, motif="gravel.png")
    assert repeats(render_warp(plain).ground_truth) == []


def _photos(cfa, texture, beside):
    """The GT and the noisy photo of a texture with a period of 12 sites, shifted by (3, -2)."""
    scene = Periodic(texture=texture, period=12.0, turn=0.0, beside=beside)
    made = render_warp(
        WarpCase(seed=5, cfa=cfa, height=384, width=576, motif="", displacement=(3.0, -2.0), periodic=scene)
    )
    return made.ground_truth, made.noisy
