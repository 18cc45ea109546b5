"""The tests for a change in boxes of 1 to 17 blocks a side, by the statistics of `box_statistics`.

Boxes grow from small to large; what a size detects is dropped before the next, so that a small strong change does not raise the
statistic of every large box around it.
"""

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.change.box_statistics import box_scores, deviations, fill_maps, fill_shade
from rawnind.imaging.change.edges import color_leak, errors_between, errors_within, scene_gradient
from rawnind.imaging.change.moments import Moments
from rawnind.imaging.change.noise import NoiseModel, block_noise
from rawnind.imaging.change.nuisance import subtract_lines
from rawnind.imaging.change.region import Odds, changed_area, hysteresis

# Thresholds and errors were set with benchmarks/bench_mask.py: 108 drawn pairs, ISO 100 to 65535, with known changes.
_BOXES = (1, 3, 5, 9, 17)  # blocks a side
# sizes that are tested for energy and excess: one block has too few degrees of freedom
_TEXTURE_BOXES = (3, 5, 9)
_MIN_CELLS = 6  # usable cells of a block's 16; with fewer the block is ignored
_MIN_SHARE = 0.25  # of a box's cells that must be usable
_MEAN = np.float32(6.0)  # standard deviations; half a million unchanged blocks stay below 5.3
_ALIKE = 3  # blocks over which errors along an edge keep their sign
_NEAR = 5  # blocks a side: boxes up to this show what belongs to a change that such boxes show
_RELAXATION = {
    1: 1.0,
    3: 0.9,
    5: 0.87,
    9: 0.85,
    17: 0.8,
}  # of the threshold: larger boxes are fewer independent tests
_WEAK = np.float32(0.5)  # of the threshold: smallest statistic of a block within the extent of a detection
# of the local maximum: a box filter's response falls to a half on the edge of an object
_EXTENT = np.float32(0.5)
_WEAK_BESIDE = np.float32(0.5)  # low threshold of the hysteresis, relative to the high one
_WEAK_BESIDE_LARGE = np.float32(
    0.7
)  # the same beside what only large boxes show: noise reaches a half over whole boxes
_NEXT = {3: 5, 5: 9, 9: 17}  # side of the boxes that a faint change is left to, if they show it more clearly
_CLEARER = np.float32(1.1)  # times the statistic of the smaller boxes
_FAINT = np.float32(1.5)  # of the threshold: a stronger change would spread over the whole of the larger box
_QUIET = np.float32(0.25)  # of the threshold, below which no test indicates a change


def changed_blocks(
    moments: Moments, residual: NDArray[np.float32], noise: NoiseModel
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Blocks where the scene changed, with a margin, and each block's largest test statistic over its threshold.

    Args:
        moments: of the frame.
        residual: (P, hb, wb) mean differences without response and drift, in levels; line noise is subtracted in place.
        noise: variance of the difference.

    Returns:
        (hb, wb) bool, and (hb, wb) float32.
    """
    n = np.where(moments.n >= _MIN_CELLS, moments.n, 0).astype(np.float32)
    variance = noise.variance(moments.g)
    moments = replace(moments, gradient=scene_gradient(moments, variance))
    leak = color_leak(moments)
    shift, share = errors_within(moments, leak, variance)
    fine = np.float32(shift) * moments.gradient + share[:, None, None] * leak
    sigma = np.empty_like(residual)
    deviations(n, variance, moments.g, fine, sigma)
    left = subtract_lines(residual, sigma, variance, n)
    between, leaked = errors_between(moments, leak, variance, residual)
    # what moves a block's mean moves its cells
    shift, share = max(shift, between), np.maximum(share, leaked)
    fine = np.float32(shift) * moments.gradient + share[:, None, None] * leak
    coarse = np.float32(shift) * moments.gradient + leaked[:, None, None] * leak
    wider = block_noise(n, residual, variance, moments.g, coarse)
    maps = _Maps(n, len(residual))
    fill_maps(
        n, residual, variance, wider, moments.g, moments.dd, coarse, fine, left, maps.white, maps.cells, maps.level, maps.floor,
        maps.rough, maps.rest,
    )  # fmt: skip
    fill_shade(n, residual, variance, wider, moments.g, coarse, left, maps.shade)
    # elsewhere systematic errors dominate the noise, and a single block already separates a change from none
    noisy = maps.cells > maps.floor**2 + maps.rough
    rest = maps.copy()
    found, score, near, large = _search(maps)
    found = hysteresis(found, (near >= _WEAK_BESIDE) & noisy)
    found |= hysteresis(large, (score >= _WEAK_BESIDE_LARGE) & noisy)
    if found.any():
        rest.drop(found)
        odds = Odds(planes=len(residual), white=rest.white.sum(axis=0), cells=rest.cells, level=rest.level,
                    floor=rest.floor, rough=rest.rough)  # fmt: skip
        found = changed_area(found, odds, rest.scores(3) < _QUIET)
    return found, score


class _Maps:
    """Maps of blocks that add up over boxes; blocks that were detected are set to 0 in all of them.

    Each block has a weight, n / (n + r) with `n` its usable cells and `r` its error along edges in the same unit: a box is mostly
    judged by those of its blocks that can judge.

    Attributes:
        usable: (hb, wb) usable cells.
        white: (P, hb, wb) weighted sums of the residual over a block's cells, in standard deviations of a cell's noise.
        cells: (hb, wb) usable cells times the squared weight.
        level: (hb, wb) weighted cells times the level, in standard deviations of a cell, mean over planes.
        floor: (hb, wb) weighted cells times the systematic error by level and by line noise, in standard deviations of a cell,
            mean over planes; fully correlated within a box.
        rough: (hb, wb) squared weighted cells times the systematic error by gradient, in the same unit; of one
            sign over some `_ALIKE` blocks.
        shade: (3, hb, wb): sum over planes of residual times level over the variance of a block's mean, of blocks bright
            enough to show a shadow; its variance; its systematic error, fully correlated within a box.
        rest: (5, hb, wb): energy of the block; 1 where it is usable; variance beyond the noise's, in units of it; the part of
            that which a residual shift of the texture explains; degrees of freedom.
    """

    _NAMES = ("usable", "white", "cells", "level", "floor", "rough", "shade", "rest")

    def __init__(self, n: NDArray[np.float32], planes: int) -> None:
        self.usable = n
        self.white = np.empty((planes, *n.shape), np.float32)
        self.cells = np.empty_like(n)
        self.level = np.empty_like(n)
        self.floor = np.empty_like(n)
        self.rough = np.empty_like(n)
        self.shade = np.empty((3, *n.shape), np.float32)
        self.rest = np.empty((5, *n.shape), np.float32)

    def copy(self) -> "_Maps":
        """A deep copy: what is dropped here stays there."""
        out = _Maps(self.usable.copy(), len(self.white))
        for name in self._NAMES[1:]:
            np.copyto(getattr(out, name), getattr(self, name))
        return out

    def cut(self, box: tuple[slice, slice]) -> "_Maps":
        """A copy of the blocks of a box of rows and columns."""
        out = _Maps(np.ascontiguousarray(self.usable[box]), len(self.white))
        for name in self._NAMES[1:]:
            np.copyto(getattr(out, name), getattr(self, name)[..., *box])
        return out

    def drop(self, blocks: NDArray[np.bool_]) -> None:
        """Sets blocks to 0 in every map, so that no later box contains them; `blocks` is (hb, wb) bool."""
        gone = np.flatnonzero(blocks)
        for map_ in (getattr(self, name) for name in self._NAMES):
            map_.reshape(-1, blocks.size)[:, gone] = 0

    def scores(self, size: int) -> NDArray[np.float32]:
        """(hb, wb) float32: largest test statistic over its threshold of the box of size x size blocks around each block."""
        texture = size in _TEXTURE_BOXES
        rest = _box(self.rest, size) if texture else self.rest
        least = max(_MIN_CELLS, _MIN_SHARE * 16 * size * size)
        z = np.empty_like(self.cells)
        box_scores(
            _box(self.usable, size), _box(self.white, size), _box(self.cells, size), _box(self.floor, size), min(size, _ALIKE) * _box(self.rough, size),
            _box(self.shade, size), rest, np.float32(least), _MEAN * np.float32(_RELAXATION[size]), texture, z,
        )  # fmt: skip
        return z


def _search(
    maps: _Maps,
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Tests boxes of growing size, dropping what each size detects.

    Returns:
        (hb, wb) bool detected blocks; (hb, wb) float32 largest statistic over its threshold, of all boxes and of those up to
        `_NEAR`; (hb, wb) bool blocks that only larger boxes detected.
    """
    found, large = np.zeros((2, *maps.cells.shape), np.bool_)
    score, near = np.zeros((2, *maps.cells.shape), np.float32)
    for size in _BOXES:
        z = maps.scores(size)
        np.maximum(score, z, out=score)
        new = _extent(z, size)
        if size in _NEXT:
            new &= ~_clearer(maps, z, new, _NEXT[size])
        if size <= _NEAR:
            np.maximum(near, z, out=near)
        else:
            large |= new
        if new.any():
            found |= new
            maps.drop(cv2.dilate(new.view(np.uint8), np.ones((3, 3), np.uint8)).view(np.bool_))
    return found, score, near, large


def _clearer(maps: _Maps, z: NDArray[np.float32], found: NDArray[np.bool_], larger: int) -> NDArray[np.bool_]:
    """Blocks of faint changes that larger boxes show more clearly.

    They show more of its extent, and would not without what the smaller ones found of it.

    Args:
        maps: what the boxes add up.
        z: (hb, wb) statistic of the smaller boxes over its threshold.
        found: (hb, wb) bool, blocks that they detect.
        larger: side of the larger boxes in blocks.

    Returns:
        (hb, wb) bool, of those of `found`.
    """
    around = np.ones((larger, larger), np.uint8)
    limit = _CLEARER * cv2.dilate(z, around)
    faint: NDArray[np.bool_] = found & (limit <= _FAINT)
    if not faint.any():
        return faint
    left, top, width, height = cv2.boundingRect(faint.view(np.uint8))
    box = (
        slice(max(top - larger, 0), top + height + larger),
        slice(max(left - larger, 0), left + width + larger),
    )
    highest = cv2.dilate(maps.cut(box).scores(larger), around)
    faint[box] &= (highest > limit[box]) & (highest <= _FAINT)
    return faint


def _box(map_: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Sums over boxes of size x size blocks around each block, of an (hb, wb) map or of each of (K, hb, wb)."""
    if size == 1:
        return map_
    out = np.empty_like(map_)
    for source, target in zip(map_, out, strict=True) if map_.ndim == 3 else ((map_, out),):
        cv2.boxFilter(source, -1, (size, size), target, normalize=False, borderType=cv2.BORDER_CONSTANT)
    return out


def _extent(z: NDArray[np.float32], size: int) -> NDArray[np.bool_]:
    """(hb, wb) bool: the blocks that a detected change covers, from the response of its box near its local maximum."""
    if size == 1:
        return z >= 1
    peak = cv2.dilate(z, np.ones((size, size), np.uint8))
    out: NDArray[np.bool_] = (peak >= 1) & (z >= _EXTENT * peak) & (z >= _WEAK)
    return out
