"""The full extent of a change: what the tests detected, and blocks around it that the odds do not exclude.

A change is rarely detectable over its whole area: a shadow is invisible where the scene is black, an object where it is as
bright as what it covers. For each block, the log odds of a change of about a quarter of the level against none measure both
whether a change is visible and whether one would be: they are far below 0 only where a change would be visible and is not.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.jit import kernel

# Log odds and distances were set with benchmarks/bench_mask.py.
_CONTRAST = np.float32(0.25)  # standard deviation of a change relative to the level
_STRONG_ODDS = np.float32(2.5)  # near a change: makes prior odds of 1 to 12 even
_WEAK_ODDS = np.float32(1.0)  # of blocks connected to those above _STRONG_ODDS
_STILL_ODDS = np.float32(-1.0)  # mean of 3x3 blocks, below which a block is unchanged
_STILL_ODDS_BESIDE = np.float32(-1.5)  # of a single block beside a change, below which it is unchanged
_REACH = 8  # steps of the hysteresis, in blocks
_GAP = 4  # blocks without evidence that may lie between parts of one change
# no hull is filled that is more than this many times the change's area: two objects side by side are no compact one
_MAX_HULL_RATIO = 1.3
_SQUARE = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Odds:
    """Likelihood ratio of a change: a contrast of random sign, about a quarter of the level in size.

    All maps are (hb, wb) float32, 0 at blocks already known to have changed; they add up over boxes of blocks.

    Attributes:
        planes: P, how many `white` is summed over.
        white: weighted sum over planes and cells of the residual, in standard deviations of a cell's noise.
        cells: usable cells times the squared weight.
        level: weighted cells times the ground truth's level, in standard deviations of a cell, mean over planes.
        floor: weighted cells times the systematic error of unchanged content, in standard deviations of a cell; fully
            correlated within a box.
        rough: squared weighted cells times the error along edges, in the same unit; uncorrelated between blocks.
    """

    planes: int
    white: NDArray[np.float32]
    cells: NDArray[np.float32]
    level: NDArray[np.float32]
    floor: NDArray[np.float32]
    rough: NDArray[np.float32]

    def log_ratio(self, size: int) -> NDArray[np.float32]:
        """(hb, wb) float32 log odds of the box of size x size blocks around each block; 0 at blocks known to have changed."""
        white, cells, level, floor, rough = (
            cv2.boxFilter(map_, -1, (size, size), normalize=False, borderType=cv2.BORDER_CONSTANT)
            for map_ in (self.white, self.cells, self.level, self.floor, self.rough)
        )
        out: NDArray[np.float32] = np.empty_like(cells)
        _log_odds(white, cells, level, floor, size * rough, np.float32(self.planes), out)
        out[self.cells == 0] = 0
        return out


@kernel
def _log_odds(  # noqa: PLR0917
    white: NDArray[np.float32],
    cells: NDArray[np.float32],
    level: NDArray[np.float32],
    floor: NDArray[np.float32],
    rough: NDArray[np.float32],
    planes: np.float32,
    out: NDArray[np.float32],
) -> None:
    """Log ratio of two zero-mean normal likelihoods of a box's sum: with variance S (unchanged) and C = S + contrast variance.

        log odds = (w^2 (1 / S - 1 / C) - ln(C / S)) / 2,    S = P n + P^2 (f^2 + r),    C = S + (P c l)^2

    with w = white, n = cells, f = floor, r = rough, l = level, c = _CONTRAST.

    Args:
        white: (hb, wb) box sums, see `Odds`; as are the next four.
        cells: box sums.
        level: box sums.
        floor: box sums.
        rough: box sums times the box's side: an edge crosses as many blocks with one sign.
        planes: P.
        out: (hb, wb), written.
    """
    height, width = white.shape
    for y in range(height):
        for x in range(width):
            out[y, x] = 0
            if cells[y, x] > 0:
                still = planes * cells[y, x] + planes * planes * (floor[y, x] ** 2 + rough[y, x])
                changed = still + (planes * _CONTRAST * level[y, x]) ** 2
                fits = white[y, x] ** 2 * (1 / still - 1 / changed)
                out[y, x] = np.float32(0.5) * (fits - np.log(changed / still))


def hysteresis(found: NDArray[np.bool_], weak: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Hysteresis thresholding: detected blocks, and weaker ones connected to them within `_REACH` steps.

    Args:
        found: (hb, wb) bool above the high threshold.
        weak: (hb, wb) bool above the low threshold.

    Returns:
        (hb, wb) bool.
    """
    blocks = found.view(np.uint8)
    for _ in range(_REACH):
        blocks = blocks | (cv2.dilate(blocks, _SQUARE) & weak.view(np.uint8))
    out: NDArray[np.bool_] = blocks.view(np.bool_)
    return out


def changed_area(found: NDArray[np.bool_], odds: Odds, quiet: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The full extent of the detected changes, with a margin for blocks that are covered in part.

    Args:
        found: (hb, wb) bool, detected blocks.
        odds: of the other blocks.
        quiet: (hb, wb) bool, False where another test exceeds a part of its threshold.

    Returns:
        (hb, wb) bool.
    """
    around = odds.log_ratio(3)
    still = (cv2.blur(around, (3, 3)) < _STILL_ODDS) & quiet & ~found
    closed = cv2.morphologyEx(found.view(np.uint8), cv2.MORPH_CLOSE, _SQUARE)
    area = found | (closed.view(np.bool_) & ~still)
    area = _fill_hulls(area, _assign(area, still, around), still)
    margin = cv2.dilate(area.view(np.uint8), _SQUARE).view(np.bool_)
    out: NDArray[np.bool_] = area | (margin & ~((odds.log_ratio(1) < _STILL_ODDS_BESIDE) & quiet))
    return out


def _assign(
    area: NDArray[np.bool_], still: NDArray[np.bool_], odds: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Assigns blocks to changes: those of the area, and those with evidence that are reachable over a gap of `_GAP` blocks.

    The path must not cross unchanged blocks: a change that extends across a block would be visible there, unless none can be.

    Args:
        area: (hb, wb) bool, detected blocks with holes closed.
        still: (hb, wb) bool, unchanged for certain.
        odds: (hb, wb) log odds of 3x3 blocks.

    Returns:
        (hb, wb) float32 number of the change, 0 for none.
    """
    labels = cv2.connectedComponents(area.view(np.uint8))[1].astype(np.float32)
    for _ in range(_GAP):
        labels = np.where((labels == 0) & ~still, cv2.dilate(labels, _SQUARE), labels)
    likely = (odds > _WEAK_ODDS) & (labels > 0)
    count, parts = cv2.connectedComponents(likely.view(np.uint8))
    strong = np.zeros(count, np.bool_)
    strong[parts[likely & (odds > _STRONG_ODDS)]] = True
    return np.where(area | (likely & strong[parts]), labels, 0)


def _fill_hulls(
    area: NDArray[np.bool_], labels: NDArray[np.float32], still: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Fills each change to its convex hull, except for unchanged blocks, and closes small gaps.

    Args:
        area: (hb, wb) bool.
        labels: (hb, wb) number of the change, 0 for none.
        still: (hb, wb) bool, unchanged for certain.

    Returns:
        (hb, wb) bool.
    """
    out = (area | (labels > 0)).astype(np.uint8)
    rows, columns = np.nonzero(labels)
    order = np.argsort(labels[rows, columns], kind="stable")
    points = np.stack([columns, rows], axis=1)[order].astype(np.int32)
    for part in np.split(points, np.flatnonzero(np.diff(labels[rows, columns][order])) + 1):
        left, top, width, height = cv2.boundingRect(part)
        hull = np.zeros((height, width), np.uint8)
        cv2.drawContours(hull, [cv2.convexHull(part)], -1, 1, -1, offset=(-left, -top))
        if np.count_nonzero(hull) <= _MAX_HULL_RATIO * len(part):
            box = np.s_[top : top + height, left : left + width]
            out[box] |= hull & ~still[box].view(np.uint8)
    closed: NDArray[np.bool_] = cv2.morphologyEx(out, cv2.MORPH_CLOSE, _SQUARE).view(np.bool_)
    return closed
