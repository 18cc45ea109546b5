"""Which cells of an aligned pair are fit for training: causes of exclusion per cell, and the detection of changes."""

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.evidence import changed_blocks
from rawnind.imaging.change.light import Light, measure_light
from rawnind.imaging.change.moments import Moments, block_moments
from rawnind.imaging.change.noise import fit_noise
from rawnind.imaging.change.nuisance import fit_smooth, subtract_smooth
from rawnind.imaging.coordinates import cells_of_blocks
from rawnind.records import Cfa


class Cause(IntFlag):
    """Properties of a cell as bits; `INVALID` has those that exclude it from training."""

    OVEREXPOSED = 1
    UNDEREXPOSED = 2
    HOT_PIXEL = 4
    CHANGED = 8
    MISALIGNED = 16


INVALID = Cause.OVEREXPOSED | Cause.HOT_PIXEL | Cause.CHANGED | Cause.MISALIGNED
"""Underexposed cells stay valid: a dark pixel is signal and noise like any other, and a denoiser has to learn it."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Change:
    """Where the scene differs between two aligned frames, and the estimates that the tests used.

    Attributes:
        changed: (h, w) bool per cell.
        score: (hb, wb) float32 per block of 4x4 cells: the largest test statistic over its threshold; detected from 1 on.
        noise_gain: d(variance)/d(level) of the gain-matched difference of single green sites, in levels.
        noise_floor: variance of the same at level 0, in levels squared.
        expected_loss: mean absolute difference of the frames that noise alone gives, in levels.
        light: offset of the levels and drift of the light; None where too little is unchanged.
    """

    changed: NDArray[np.bool_]
    score: NDArray[np.float32]
    noise_gain: float
    noise_floor: float
    expected_loss: float
    light: Light | None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class PairStatistics:
    """All that the tests need of two frames, in an eighth of their memory.

    Attributes:
        moments: sums over blocks.
        shape: (h, w) of the frames in cells.
    """

    moments: Moments
    shape: tuple[int, int]


def scene_change(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_], cfa: Cfa
) -> Change:
    """Detects what moved, appeared, vanished or fell into shadow between two frames.

    Everything that makes the frames differ without a change of the scene is estimated on the pair and removed or allowed for:
    noise whose variance grows with the level, a different response, a drift of the light, noise
    of rows and columns. The rest is tested over boxes of 4 to 68 cells: mean, energy of the block means, variance within
    blocks. Uniform changes below about 5 % of the level are not detected. Detected regions are filled to their convex
    hull, except for blocks where a change would be visible and is not.

    Args:
        ground_truth: (P, h, w) float32 levels, shifted onto the noisy frame.
        noisy: (P, h, w) float32 levels times the gain.
        usable: (h, w) bool; False where a cell must not take part: overexposed, hot, outside. Underexposed cells should stay
            usable: to drop the values that noise drove below black would bias the rest.
        cfa: of both frames.

    Returns:
        The change, with the pair's noise model.
    """
    return detect_change(pair_statistics(ground_truth, noisy, usable), cfa)


def pair_statistics(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> PairStatistics:
    """First half of `scene_change`: everything that reads the frames, which can be freed afterwards.

    Args:
        ground_truth: (P, h, w) float32 levels, shifted onto the noisy frame.
        noisy: (P, h, w) float32 levels times the gain.
        usable: (h, w) bool; False where a cell must not take part.
    """
    ground_truth, noisy = np.ascontiguousarray(ground_truth), np.ascontiguousarray(noisy)
    usable = np.ascontiguousarray(usable)
    moments = block_moments(ground_truth, noisy, usable)
    return PairStatistics(moments=moments, shape=(int(usable.shape[0]), int(usable.shape[1])))


def detect_change(statistics: PairStatistics, cfa: Cfa, *, brightest: float = np.inf) -> Change:
    """Second half of `scene_change`: the tests.

    Args:
        statistics: of the pair.
        cfa: of both frames.
        brightest: level of the ground truth from which on the noisy photo says nothing of the light, because it clips.
    """
    moments = statistics.moments
    noise = fit_noise(moments)
    smooth = fit_smooth(moments, noise)
    residual = np.empty_like(moments.d)
    subtract_smooth(moments.d, moments.g, smooth.response, smooth.drift, residual)
    blocks, score = changed_blocks(moments, residual, noise)
    changed = cells_of_blocks(blocks, statistics.shape)
    sites = {Cfa.BAYER: 1, Cfa.X_TRANS: 5}[cfa]  # green sites in a plane sample
    return Change(
        changed=changed,
        score=score,
        noise_gain=float(noise.slope[1]) * sites,
        noise_floor=float(noise.floor[1]) * sites,
        expected_loss=noise.mean_absolute(moments),
        light=measure_light(moments, noise, blocks | (moments.g >= brightest).any(axis=0)),
    )


def combine(
    *,
    overexposed: NDArray[np.bool_],
    underexposed: NDArray[np.bool_],
    hot: NDArray[np.bool_],
    changed: NDArray[np.bool_],
    misaligned: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """(h, w) uint8 `Cause` bits per cell.

    Args:
        overexposed: (h, w) bool, a site is overexposed in either photo.
        underexposed: (h, w) bool, all sites of the noisy photo are underexposed.
        hot: (h, w) bool, a hot pixel in either photo.
        changed: (h, w) bool, the scene changed.
        misaligned: (h, w) bool, a larger displacement is left than the recipe allows.
    """
    causes = np.zeros(changed.shape, np.uint8)
    for flag, cells in (
        (Cause.OVEREXPOSED, overexposed), (Cause.UNDEREXPOSED, underexposed), (Cause.HOT_PIXEL, hot),
        (Cause.CHANGED, changed), (Cause.MISALIGNED, misaligned),
    ):  # fmt: skip
        causes |= cells.view(np.uint8) * np.uint8(flag)
    return causes


def valid(causes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(h, w) bool per cell: no cause among `INVALID`, so fit for training."""
    out: NDArray[np.bool_] = (causes & np.uint8(INVALID)) == 0
    return out
