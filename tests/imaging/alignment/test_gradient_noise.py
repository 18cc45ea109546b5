"""Noise in the ground truth's gradients pulls a patch to where it was matched, and is taken out again."""

from dataclasses import replace

import numpy as np

from rawnind.imaging.alignment.gradient_noise import MOST_NOISE, gradient_noise, without_pull
from rawnind.imaging.alignment.lucas_kanade import Matches

TRUE = np.array([3.4, -7.45])
ERROR = 0.05  # sites


def matched(offset, seed):
    """300 patches of one shift, matched at an offset: of some the texture lies in one direction, of some it is noise alone."""
    rng = np.random.default_rng(seed)
    count = 300
    level = np.random.default_rng(1).uniform(100, 3000, count)
    noise = 5 + level / 100
    texture = noise[:, None] * 10.0 ** np.random.default_rng(2).uniform(-2, 2, (count, 2))
    angle = np.random.default_rng(3).uniform(0, np.pi, count)
    turn = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], 1).reshape(-1, 2, 2)
    energy = np.einsum("nij,nj,nkj->nik", turn, texture + noise[:, None], turn)
    pull = noise[:, None, None] * np.linalg.inv(energy)
    shift = TRUE - pull @ (TRUE - offset) + ERROR * rng.standard_normal((count, 2))
    at = np.stack([np.arange(count) // 20, np.arange(count) % 20], axis=1) * 64.0
    return noise, Matches(
        at=at, shift=shift, covariance=np.tile(ERROR**2 * np.eye(2), (count, 1, 1)), considered=count,
        offset=np.broadcast_to(offset, (count, 2)), inverse=np.linalg.inv(energy), level=level,
    )  # fmt: skip


def test_noise_is_found_as_a_line_over_the_level_from_patches_that_follow_one_site_aside():
    noise, here = matched(np.array([3, -7]), 4)
    _, aside = matched(np.array([4, -8]), 5)
    some = np.arange(20, 300)
    missing = replace(
        aside, at=aside.at[some], shift=aside.shift[some], offset=aside.offset[some]
    )  # patches may be left out
    np.testing.assert_allclose(gradient_noise(here, missing), noise, rtol=0.05)


def test_shifts_without_the_pull_are_true_within_their_errors():
    noise, here = matched(np.array([3, -7]), 6)
    values = np.linalg.eigvalsh(noise[:, None, None] * here.inverse)
    found = without_pull(here, noise)
    assert len(found.at) == np.count_nonzero(values[:, 0] < MOST_NOISE)
    information = np.linalg.inv(found.covariance)
    distance = np.einsum("ni,nij,nj->n", found.shift - TRUE, information, found.shift - TRUE)
    assert 0.3 < distance.mean() / 2 < 1.2  # directions that are noise have wide errors
    mean = np.linalg.solve(information.sum(axis=0), np.einsum("nij,nj->i", information, found.shift))
    biased = np.linalg.inv(here.covariance)
    plain = np.linalg.solve(biased.sum(axis=0), np.einsum("nij,nj->i", biased, here.shift))
    assert np.abs(mean - TRUE).max() < 0.02
    assert np.abs(plain - TRUE).max() > 0.1


def test_patches_of_which_none_was_matched_twice_have_no_known_noise():
    _, here = matched(np.array([3, -7]), 7)
    elsewhere = replace(here, at=here.at + 20)
    assert not gradient_noise(here, elsewhere).any()
