"""Where crops lie: the part that both photos show, the grid of crops on it, and what a mask says about each crop.

Coordinates are sites of the noisy photo's frame (`Photo.mosaic`), y before x. Every rectangle and origin lies on the first
site of a tile, so that a crop of any size starts with the same colour.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


class Rect(NamedTuple):
    """A rectangle of sites: rows top..top+height-1, columns left..left+width-1."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """First row below the rectangle."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """First column right of the rectangle."""
        return self.left + self.width


def overlap(
    shape: tuple[int, int], shift: tuple[int, int], period: int, *, gt_shape: tuple[int, int] | None = None
) -> Rect:
    """The largest rectangle of whole tiles of the noisy frame of which every site has its partner in the GT's frame.

    Args:
        shape: (H, W) of the noisy frame in sites; cut to whole tiles where it is not.
        shift: (dy, dx) in sites, odd or even: GT site (y + dy, x + dx) shows what noisy site (y, x) shows.
        period: of the CFA.
        gt_shape: (H, W) of the GT's frame; None: the noisy frame's.

    Returns:
        A rectangle in noisy coordinates; its height or width is 0 where the frames share no whole tile.

    >>> overlap((8, 8), (0, 3), 2)
    Rect(top=0, left=0, height=8, width=4)
    >>> overlap((8, 8), (-1, 0), 2)
    Rect(top=2, left=0, height=6, width=8)
    """
    spans = [
        _shared(length, gt_length, offset, period)
        for length, gt_length, offset in zip(shape, gt_shape or shape, shift, strict=True)
    ]
    (top, height), (left, width) = spans
    return Rect(top, left, height, width)


def cells_of(rect: Rect, cell: int) -> tuple[slice, slice]:
    """The cells of cell x cell sites that a rectangle of whole cells consists of, as an index of a frame's cells.

    >>> cells_of(Rect(2, 4, 10, 20), 2)
    (slice(1, 6, None), slice(2, 12, None))
    """
    return slice(rect.top // cell, rect.bottom // cell), slice(rect.left // cell, rect.right // cell)


def cells_at_shift(
    cells: NDArray[np.bool_], shift: tuple[int, int], rect: Rect, cell: int
) -> NDArray[np.bool_]:
    """For each noisy cell of a rectangle, whether any of the GT's cells that it touches at the shift is set.

    Args:
        cells: (h, w) of the GT's whole frame.
        shift: (dy, dx) in sites, as for `overlap`.
        rect: whole cells of the noisy frame.
        cell: sites per cell in each direction.

    Returns:
        (rect.height / cell, rect.width / cell).
    """
    tops, lefts = (start + offset for start, offset in zip(rect[:2], shift, strict=True))
    height, width = rect.height // cell, rect.width // cell
    out = np.zeros((height, width), np.bool_)
    for dy in {0, 1 if tops % cell else 0}:
        for dx in {0, 1 if lefts % cell else 0}:
            y, x = tops // cell + dy, lefts // cell + dx
            out |= cells[y : y + height, x : x + width]
    return out


def grid(rect: Rect, size: int, stride: int, period: int) -> NDArray[np.int64]:
    """Origins of all whole crops in a rectangle, row by row from its first site.

    What the stride does not reach at the right and at the bottom (less than one stride) is left out: no crop is moved back
    to the edge, so that crops overlap exactly as much as the stride says.

    Args:
        rect: starts on a tile.
        size: side of a crop in sites.
        stride: sites from one crop to the next; rounded up to a multiple of `period`.
        period: of the CFA.

    Returns:
        (n, 2) int64, rows (y, x) in the coordinates of `rect`; n is 0 where the rectangle is smaller than a crop.

    Raises:
        ValueError: Size or stride is not positive, or the rectangle does not start on a tile.

    >>> grid(Rect(2, 0, 70, 100), size=32, stride=33, period=2).tolist()
    [[2, 0], [2, 34], [2, 68], [36, 0], [36, 34], [36, 68]]
    """
    if size <= 0 or stride <= 0:
        raise ValueError(f"size and stride must be positive, got {size} and {stride}")
    if rect.top % period or rect.left % period:
        raise ValueError(f"{rect} does not start on a tile of {period}x{period}")
    step = -(-stride // period) * period
    ys = np.arange(rect.top, rect.bottom - size + 1, step, dtype=np.int64)
    xs = np.arange(rect.left, rect.right - size + 1, step, dtype=np.int64)
    return np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 2)


def valid_fractions(
    valid: NDArray[np.bool_], origins: NDArray[np.int64], size: int, cell: int
) -> NDArray[np.float64]:
    """Share of each crop's sites that are valid.

    A site is what its cell is: the mask is meant as `valid.repeat(cell, 0).repeat(cell, 1)`. Crops that end within a cell
    (512 is no multiple of X-Trans' 3) count only their own sites. Exact: whole numbers are counted, and divided once.

    Args:
        valid: (h, w) bool, one value per cell of cell x cell sites.
        origins: (n, 2) rows (y, x) in sites, counted from the first site of `valid`'s first cell.
        size: side of a crop in sites.
        cell: sites per value of `valid` in each direction.

    Returns:
        (n,) float64 in 0..1.

    Raises:
        ValueError: A crop reaches outside.

    >>> valid_fractions(np.array([[True, False]]), np.array([[0, 0], [0, 1]]), size=2, cell=2)
    array([1. , 0.5])
    """
    sums = cv2.integral(np.ascontiguousarray(valid).view(np.uint8), sdepth=cv2.CV_32S)
    return _box_sums(sums, origins, size, cell) / size**2


def mask_crop(valid: NDArray[np.bool_], y: int, x: int, size: int, cell: int) -> NDArray[np.bool_]:
    """The mask of one crop, site by site.

    Args:
        valid: (h, w) bool, one value per cell.
        y: the crop's first row in sites, counted from `valid`'s first cell.
        x: the same for columns.
        size: side of the crop in sites.
        cell: sites per value of `valid` in each direction.

    Returns:
        (size, size) bool.

    Raises:
        ValueError: The crop reaches outside.
    """
    _require_inside(np.array([[y, x]]), size, (valid.shape[0] * cell, valid.shape[1] * cell))
    cells = valid[y // cell : -(-(y + size) // cell), x // cell : -(-(x + size) // cell)]
    sites = cells.repeat(cell, axis=1).repeat(cell, axis=0)  # few values one by one, then whole rows
    return sites[y % cell :][:size, x % cell :][:, :size]


def _shared(length: int, gt_length: int, offset: int, period: int) -> tuple[int, int]:
    """First site and number of sites, in whole tiles, that have partners `offset` further in the GT's frame."""
    start = -(-max(0, -offset) // period) * period
    end = min(length, gt_length - offset) // period * period
    return (start, end - start) if end > start else (0, 0)


def _box_sums(sums: NDArray[np.int32], origins: NDArray[np.int64], size: int, cell: int) -> NDArray[np.int32]:
    """Sum over the sites of each box, from the integral image of the cells."""
    _require_inside(origins, size, ((sums.shape[0] - 1) * cell, (sums.shape[1] - 1) * cell))
    y, x = origins[:, 0], origins[:, 1]
    corners = ((y + size, x + size, 1), (y, x + size, -1), (y + size, x, -1), (y, x, 1))
    return sum(sign * _integral(sums, ys, xs, cell) for ys, xs, sign in corners)  # type: ignore[return-value]


def _integral(
    sums: NDArray[np.int32], y: NDArray[np.int64], x: NDArray[np.int64], cell: int
) -> NDArray[np.int32]:
    """Sum over all sites above and left of (y, x): linear in both directions within a cell, so no site is guessed."""
    (row, dy), (column, dx) = np.divmod(y, cell), np.divmod(x, cell)
    below, right = np.minimum(row + 1, len(sums) - 1), np.minimum(column + 1, sums.shape[1] - 1)
    above = (cell - dx) * sums[row, column] + dx * sums[row, right]
    beneath = (cell - dx) * sums[below, column] + dx * sums[below, right]
    return (cell - dy) * above + dy * beneath  # type: ignore[no-any-return]


def _require_inside(origins: NDArray[np.int64], size: int, shape: tuple[int, int]) -> None:
    if len(origins) and (origins.min() < 0 or np.any(origins.max(axis=0) + size > shape)):
        raise ValueError(
            f"crops of {size} must lie within {shape[0]}x{shape[1]} sites, got origins {origins}"
        )
