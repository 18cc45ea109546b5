"""How far a change reaches: what was found of it, and what around it a shape without dents covers and nothing denies.

A change is rarely seen all over: a shadow vanishes where the scene is black, an object where it is as bright as what it hides.
So each block is asked two things, whether it shows a change and whether it would have shown one. Both are in the odds of a
contrast against none: low where a change would be seen and is not, even where nothing could be seen.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.jit import kernel

_CONTRAST = np.float32(0.25)  # of the level: the expected size of a change
_STRONG_ODDS = np.float32(
    2.5
)  # log_ratio odds of a change where one is near: one to twelve before, even after
_WEAK_ODDS = np.float32(1.0)  # log_ratio odds of what touches such blocks
_STILL_ODDS = np.float32(-1.0)  # mean log_ratio odds of 3x3 blocks that a change does not pass
_STILL_ODDS_BESIDE = np.float32(-1.5)  # log_ratio odds of a single block beside a change
_REACH = 8  # blocks that evidence is hysteresis through blocks that show some
_GAP = 4  # and through such as would not
_MAX_HULL_RATIO = 2  # a changed area is filled to its convex hull where that is at most so many times larger
_SQUARE = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Odds:
    """How much likelier blocks are with a change than without: a contrast of either sign, about a quarter of the level in size.

    Maps of the blocks that are not yet known to have changed, (hb, wb), 0 elsewhere; all of them sum up over boxes.

    Attributes:
        planes: how many `white` is summed over.
        white: sum over planes and cells of the residual, in deviations of a cell.
        cells: usable cells.
        level: cells times the ground truth's level, in deviations of a cell, mean over planes.
        floor: cells times what still content may differ by, alike; the same sign all over a box.
        rough: the square of the same along edges, where the sign changes from block to block.
    """

    planes: int
    white: NDArray[np.float32]
    cells: NDArray[np.float32]
    level: NDArray[np.float32]
    floor: NDArray[np.float32]
    rough: NDArray[np.float32]

    def log_ratio(self, size: int) -> NDArray[np.float32]:
        """(hb, wb) logarithm of the odds of the box of size x size blocks about each block; 0 about blocks that are 0."""
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
    """Normal likelihoods: the variance of a still block, and that with the contrast's added."""
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
    """What was found, and weaker evidence that touches it, (hb, wb)."""
    blocks = found.view(np.uint8)
    for _ in range(_REACH):
        blocks = blocks | (cv2.dilate(blocks, _SQUARE) & weak.view(np.uint8))
    out: NDArray[np.bool_] = blocks.view(np.bool_)
    return out


def changed_area(found: NDArray[np.bool_], odds: Odds, quiet: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The whole of the changes that were found, and a margin for blocks that are covered in part.

    Args:
        found: (hb, wb) blocks that surely changed.
        odds: of the other blocks.
        quiet: (hb, wb) False where some other test hints at a change.

    Returns:
        (hb, wb) blocks.
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
    """Number of the change that a block belongs to, 0 for none: those of the area, and what is seen a leap away.

    The way there must be open: a change that reaches across a block would show there, unless the block can show none.
    """
    labels = cv2.connectedComponents(area.view(np.uint8))[1].astype(np.float32)
    for _ in range(_GAP):
        labels = np.where((labels == 0) & ~still, cv2.dilate(labels, _SQUARE), labels)
    likely = (odds > _WEAK_ODDS) & (labels > 0)
    count, parts = cv2.connectedComponents(likely.view(np.uint8))
    seen = np.zeros(count, np.bool_)
    seen[parts[likely & (odds > _STRONG_ODDS)]] = True
    return np.where(area | (likely & seen[parts]), labels, 0)


def _fill_hulls(
    area: NDArray[np.bool_], labels: NDArray[np.float32], still: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Each change filled to its convex hull, but for blocks that are still, and small gaps closed."""
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
