"""Noise from several frames of one motif: two frames differ by their noise alone, whatever they show; dark frames show nothing.

The sum and the difference of two frames have independent noise. So blocks may be chosen by how flat their sum is, without a
bias of the difference. Differences of neighbours along a row cancel what a row has in common.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.levels import site_lines, tile_planes
from rawnind.imaging.photo import Photo

_BLOCK = 16  # sites of one tile position, in each direction
_BRIGHTEST = 0.9  # level
_FLATTEST = 0.5  # share of the blocks of each group of levels; in the others a residual shift shows texture
_GROUPS = 24  # of levels
_FEWEST = 24  # blocks
_OUTLIER = 4.5  # standard deviations: hot pixels of dark frames


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameNoise:
    """The noise of one colour: variance = a * level + b of a single site, in levels squared.

    Attributes:
        a: None where no light was measured.
        a_error: its standard error.
        b: at level 0: read noise and rounding.
        b_error: its standard error.
        row: standard deviation of what all sites of a row have in common, in levels.
    """

    a: float | None
    a_error: float | None
    b: float
    b_error: float
    row: float


def burst_noise(first: Photo, second: Photo) -> tuple[FrameNoise, ...] | None:
    """The noise of red, green and blue, from two frames of one motif by one camera with the same settings.

    Args:
        first: a frame.
        second: another one, from the same place.

    Returns:
        Of each colour; None where the frames have too few blocks that are not clipped, or different sizes.
    """
    if first.mosaic.shape != second.mosaic.shape:
        return None
    found = []
    row = _row_sigma(first, second)
    for color in range(3):
        parts = [_blocks(one, other) for one, other in _tile_sites(first, second, color)]
        level, variance, flat = (np.concatenate(values) for values in zip(*parts, strict=True))
        chosen = _flattest(level, flat)
        if len(chosen) < _FEWEST:
            return None
        found.append(_line(level[chosen], variance[chosen], row))
    return tuple(found)


def dark_noise(frames: Sequence[Photo]) -> tuple[FrameNoise, ...]:
    """The read noise and the row noise of red, green and blue, from frames that saw no light.

    Args:
        frames: at least two, of one camera at one ISO.

    Raises:
        ValueError: There is one frame alone, or their sizes differ.
    """
    if len(frames) < 2 or len({frame.mosaic.shape for frame in frames}) > 1:
        raise ValueError("dark frames are compared with each other: two of the same size are needed")
    pairs = list(pairwise(frames))
    row = float(np.sqrt(np.mean([_row_sigma(one, other) ** 2 for one, other in pairs])))
    found = []
    for color in range(3):
        variances, count = [], 0
        for first, second in pairs:
            for one, other in _tile_sites(first, second, color):
                steps = np.diff(one - other, axis=1)
                variances.append(_clipped_variance(steps) / 4)
                count += steps.size
        b = float(np.mean(variances))
        found.append(FrameNoise(a=None, a_error=None, b=b, b_error=b * float(np.sqrt(3 / count)), row=row))
    return tuple(found)


def _clipped_variance(values: NDArray[np.float32]) -> float:
    spread = 1.4826 * float(np.median(np.abs(values))) or float(np.std(values))
    return float(np.mean(values[np.abs(values) <= _OUTLIER * spread].astype(np.float64) ** 2))


def _tile_sites(
    first: Photo, second: Photo, color: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """(h, w) levels of both frames at each position of the CFA's tile that has a colour; the second as bright as the first."""
    planes = tile_planes(first.cfa)
    colors = np.array(first.cfa.plane_colors)[planes]
    period = len(planes)
    lines = site_lines(first.sensor), site_lines(second.sensor)
    for y, x in np.argwhere(colors == color):
        one, other = (
            frame.mosaic[y::period, x::period] * factor[y, x] + bias[y, x]
            for frame, (factor, bias) in zip((first, second), lines, strict=True)
        )
        means = float(one.mean()), float(other.mean())
        yield one, other * np.float32(means[0] / means[1] if min(means) > 0.01 else 1.0)


def _blocks(
    one: NDArray[np.float32], other: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(N,) mean level, variance of a single site, and how much the mean of both frames varies, of the unclipped blocks."""
    height, width = (side // _BLOCK * _BLOCK for side in one.shape)
    one, other = one[:height, :width], other[:height, :width]
    clipped = _per_block(np.maximum(one, other)).max(axis=(1, 3)) >= _BRIGHTEST
    cut_off = _per_block(np.minimum(one, other) == one.min()).sum(axis=(1, 3)) > 2
    difference, mean = one - other, (one + other) * np.float32(0.5)
    steps = _per_block(_steps(difference) ** 2).mean(axis=(1, 3)) / 4
    texture = _per_block(_steps(mean) ** 2).mean(axis=(1, 3))
    usable = ~(clipped | cut_off)
    return (
        _per_block(mean).mean(axis=(1, 3))[usable].astype(np.float64),
        steps[usable].astype(np.float64) * _BLOCK / (_BLOCK - 1),
        texture[usable].astype(np.float64),
    )


def _steps(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Differences of neighbours along rows within blocks; 0 in each block's last column."""
    steps = np.zeros_like(values)
    steps[:, :-1] = np.diff(values, axis=1)
    steps[:, _BLOCK - 1 :: _BLOCK] = 0
    return steps


def _per_block(values: NDArray[Any]) -> NDArray[Any]:
    """(rows, 16, columns, 16) view."""
    height, width = values.shape
    return values.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)


def _flattest(level: NDArray[np.float64], texture: NDArray[np.float64]) -> NDArray[np.intp]:
    order = np.argsort(level)
    groups = np.array_split(order, min(_GROUPS, max(len(order) // _FEWEST, 1)))
    kept = [
        group[np.argsort(texture[group])[: max(int(len(group) * _FLATTEST), 1)]]
        for group in groups
        if len(group)
    ]
    return np.concatenate(kept) if kept else np.empty(0, np.intp)


def _line(level: NDArray[np.float64], variance: NDArray[np.float64], row: float) -> FrameNoise:
    """Weighted least squares without outliers: the standard error of a variance is a share of itself."""
    design = np.stack([np.maximum(level, 0), np.ones_like(level)], axis=1)
    fitted = np.full_like(level, np.median(variance))
    kept = np.ones(len(level), np.bool_)
    for _ in range(8):
        weighted = design[kept] / fitted[kept, None]
        covariance = np.linalg.pinv(weighted.T @ weighted)
        line = covariance @ (weighted.T @ (variance[kept] / fitted[kept]))
        fitted = np.maximum(design @ line, 1e-3 * float(np.median(variance)))
        ratio = variance / fitted
        kept = np.abs(ratio - np.median(ratio)) <= 4 * 1.4826 * np.median(np.abs(ratio - np.median(ratio)))
    scatter = float(np.mean((variance[kept] / fitted[kept] - 1) ** 2))
    errors = np.sqrt(np.diag(covariance) * scatter)
    return FrameNoise(
        a=float(line[0]),
        a_error=float(errors[0]),
        b=max(float(line[1]), 0.0),
        b_error=float(errors[1]),
        row=row,
    )


def _row_sigma(first: Photo, second: Photo) -> float:
    """Standard deviation of a row's common offset, of one frame, in levels.

    Second differences of the rows' means, of every second or sixth row so that the colours are the same, cancel what differs
    smoothly between the frames; what the noise of single sites adds is subtracted.
    """
    squared = []
    period = len(tile_planes(first.cfa))
    factor, _ = site_lines(first.sensor)
    difference = (first.mosaic.astype(np.float32) - second.mosaic) * factor.mean()
    for start in range(period):
        rows = difference[start::period]
        if len(rows) < 3:
            continue
        spread = 1.4826 * np.median(np.abs(rows - np.median(rows, axis=1, keepdims=True)), axis=1)
        limit = np.maximum(4 * spread, 1e-9)[:, None]
        middle = np.median(rows, axis=1, keepdims=True)
        away = np.clip(rows - middle, -limit, limit)
        means = (middle[:, 0] + away.mean(axis=1)).astype(np.float64)
        bend = means[:-2] - 2 * means[1:-1] + means[2:]
        single = (
            float(away.var(axis=1, dtype=np.float64).mean()) / rows.shape[1]
        )  # not of the spread: bright sites are noisier
        typical = np.abs(bend) <= 3 * 1.4826 * np.median(np.abs(bend))
        squared.append(
            (float(np.mean(bend[typical] ** 2)) / 0.9733 / 6 - single) / 2
        )  # 0.9733: variance within 3 sigma
    return float(np.sqrt(max(np.mean(squared), 0.0))) if squared else 0.0
