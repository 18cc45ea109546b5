"""Which cells of an aligned pair are fit for training: what the scene changed, and what exposure and borders spoil."""

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.evidence import changed_blocks
from rawnind.imaging.change.moments import Displacement, Moments, block_moments
from rawnind.imaging.change.noise import fit_noise
from rawnind.imaging.change.nuisance import fit_smooth, measure_displacement, subtract_smooth
from rawnind.imaging.coordinates import cells_of_blocks
from rawnind.records import Cfa


class Cause(IntFlag):
    """Why a cell is remarkable; one byte per cell. `INVALID` names the causes that take it out of training."""

    OVEREXPOSED = 1
    UNDEREXPOSED = 2
    HOT_PIXEL = 4
    CHANGED = 8
    BORDER = 16


INVALID = Cause.OVEREXPOSED | Cause.HOT_PIXEL | Cause.CHANGED | Cause.BORDER
"""Underexposed cells stay: a dark pixel is signal and noise like any other, and a denoiser has to learn what it looks like."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Change:
    """Where the scene differs between two aligned frames, and what the judgement rests on.

    Attributes:
        changed: (h, w) cells.
        score: (ceil(h / 4), ceil(w / 4)) evidence per block of 4x4 cells: the strongest test over its threshold. A
            change begins at 1.
        noise_gain: variance of the gain-matched difference per level, for a single green site.
        noise_floor: the same variance at level 0, in levels squared.
        residual_shift: (dy, dx) in cells, to be added to the shift that was applied; None where it was not measured.
    """

    changed: NDArray[np.bool_]
    score: NDArray[np.float32]
    noise_gain: float
    noise_floor: float
    residual_shift: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class PairStatistics:
    """Two frames in an eighth of their memory: their `moments`, the `displacement` left between them, and their (h, w)."""

    moments: Moments
    displacement: Displacement | None
    shape: tuple[int, int]


def scene_change(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_], cfa: Cfa
) -> Change:
    """Finds what moved, came, went or fell into shadow between two frames, whatever their noise.

    The difference of the frames is judged against what explains it without a change of the scene, all of it measured on the
    pair: noise that grows with the level, a sub-pixel shift or small turn that alignment left, another response, light that
    drifts over the frame, noise of rows and columns. What remains is tested over boxes of 4 to 68 cells: its mean, its
    spread from block to block, and its spread within blocks. Uniform changes below about 5 % of the level stay unseen. What
    is found is filled to a shape without dents, but for blocks in which a change would be seen and is not.

    Args:
        ground_truth: (P, h, w) levels, at the shift that lays it on the noisy frame.
        noisy: (P, h, w) levels, gain-matched to the ground truth.
        usable: (h, w) False where a cell must not be looked at: over- or underexposed, hot, outside.
            Underexposed cells should stay usable: leaving out what noise drove below black biases the rest.
        cfa: of both frames.

    Returns:
        The change, with a noise model for the pair.
    """
    return detect_change(pair_statistics(ground_truth, noisy, usable), cfa)


def pair_statistics(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> PairStatistics:
    """The first half of `scene_change`: all that it needs of the frames, which then need not be kept."""
    ground_truth, noisy = np.ascontiguousarray(ground_truth), np.ascontiguousarray(noisy)
    usable = np.ascontiguousarray(usable)
    displacement = measure_displacement(ground_truth, noisy, usable)
    moments = block_moments(ground_truth, noisy, usable, displacement or Displacement())
    return PairStatistics(
        moments=moments, displacement=displacement, shape=(int(usable.shape[0]), int(usable.shape[1]))
    )


def detect_change(statistics: PairStatistics, cfa: Cfa) -> Change:
    """The second half of `scene_change`."""
    moments, displacement = statistics.moments, statistics.displacement
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
        residual_shift=None if displacement is None else (displacement.dy[0], displacement.dx[0]),
    )


def combine(
    *,
    overexposed: NDArray[np.bool_],
    underexposed: NDArray[np.bool_],
    hot: NDArray[np.bool_],
    changed: NDArray[np.bool_],
    border: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """(h, w) causes as `Cause` bits."""
    causes = np.zeros(changed.shape, np.uint8)
    for flag, cells in (
        (Cause.OVEREXPOSED, overexposed), (Cause.UNDEREXPOSED, underexposed), (Cause.HOT_PIXEL, hot),
        (Cause.CHANGED, changed), (Cause.BORDER, border),
    ):  # fmt: skip
        causes |= cells.view(np.uint8) * np.uint8(flag)
    return causes


def valid(causes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(h, w) cells that are fit for training: no cause among `INVALID`."""
    out: NDArray[np.bool_] = (causes & np.uint8(INVALID)) == 0
    return out
