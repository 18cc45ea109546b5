"""Coordinates of the imaging code: its units, its areas, and one conversion from each to the next.

A position is (y, x) in sites, y downwards, counted from 0. Everything in `rawnind.imaging` counts from the frame's first
site; visible-area coordinates appear once, where a pair's crops leave it (`to_visible`).

    visible area: LibRaw's `raw_image_visible`
    +------------------------------------------------------------+
    |  (oy, ox) = Sensor.origin: first site of the CFA tile      |
    |  +- frame: `Photo.mosaic`, whole tiles -----------------+  |
    |  |  (0, 0)                                              |  |
    |  |         (top, left)                                  |  |
    |  |         +- rect: shown by both photos, whole tiles -+|  |
    |  |         |     (y, x)                                ||  |
    |  |         |     +- crop -----+                        ||  |
    |  |         |     |            | size                   ||  |
    |  |         |     +------------+                        ||  |
    |  |         +-------------------------------------------+|  |
    |  +------------------------------------------------------+  |
    +------------------------------------------------------------+

Units, from small to large; each word has this one meaning in `rawnind.imaging`:

    site    one photosite, which sees one colour: one value of a mosaic
    cell    one sample of a plane, of an exposure map or of a mask: 2x2 sites (Bayer), 3x3 (X-Trans); `Cfa.cell`
    tile    the repeating pattern of the CFA: 2x2 sites (Bayer), 6x6 (X-Trans); `Cfa.period`
    block   one sample of the change test: 4x4 cells; `BLOCK`

Conversions; the shift (dy, dx) leads from the noisy photo to the ground truth (GT):

    visible area -> frame        `frame_in_visible`
    frame -> visible area        `to_visible`
    noisy frame -> GT frame      `Rect.shifted`
    shift of frames -> shift of visible areas   `Sensor.first_tile_from`
    frame -> rect                `to_rect`
    rect -> array index          `Rect.sites`, `cells_of` (cells)
    cells -> blocks -> cells     `block_shape`, `cells_of_blocks`
    cells -> sites               `mask_crop`

Sizes of single modules have other names: a *reduced pixel* is one sample of the green that alignment correlates (4x4 sites
Bayer, 3x3 X-Trans), a *patch* is matched or averaged on its own (alignment, gain, contrast gains), a *window* is what one
MS-SSIM score covers, a *coarse pixel* is 16x16 samples of a plane (MS-SSIM's fifth scale), a *chunk* is what a kernel
processes at a time so that its scratch memory stays in the processor's cache.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

BLOCK = 4
"""Cells that a block spans in each direction: 16 samples, enough for a variance, few enough to be smaller than a change."""


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

    @property
    def sites(self) -> tuple[slice, slice]:
        """The rectangle as an index of an array with one value per site.

        >>> np.arange(20).reshape(4, 5)[Rect(1, 2, 1, 3).sites]
        array([[7, 8, 9]])
        """
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def shifted(self, shift: tuple[int, int]) -> "Rect":
        """What a rectangle of the noisy frame shows, in the GT's frame.

        >>> Rect(2, 4, 10, 20).shifted((-1, 3))
        Rect(top=1, left=7, height=10, width=20)
        """
        return self._replace(top=self.top + shift[0], left=self.left + shift[1])


def frame_in_visible(shape: tuple[int, ...], origin: tuple[int, int], period: int) -> Rect:
    """The frame of a photo as a rectangle of its visible area: all whole tiles from the first one on.

    Args:
        shape: (H, W) of the visible area in sites.
        origin: (oy, ox) in the visible area, first site of the first tile.
        period: of the CFA.

    >>> frame_in_visible((9, 10), (1, 0), 2)
    Rect(top=1, left=0, height=8, width=10)
    """
    height, width = ((length - start) // period * period for length, start in zip(shape, origin, strict=True))
    return Rect(*origin, height, width)


def to_visible(origins: NDArray[np.int64], origin: tuple[int, int]) -> NDArray[np.int64]:
    """Frame coordinates as visible-area coordinates.

    Args:
        origins: (n, 2) rows (y, x) in sites of the frame.
        origin: (oy, ox) of the frame in the visible area.

    Returns:
        (n, 2) int64 rows (y, x) in sites of the visible area.
    """
    return origins + np.array(origin, np.int64)


def to_rect(origins: NDArray[np.int64], rect: Rect) -> NDArray[np.int64]:
    """Frame coordinates counted from a rectangle's first site; both (n, 2) int64 rows (y, x) in sites."""
    return origins - np.array(rect[:2], np.int64)


def cells_of(rect: Rect, cell: int) -> tuple[slice, slice]:
    """A rectangle of whole cells as an index of an array with one value per cell of the frame.

    >>> cells_of(Rect(2, 4, 10, 20), 2)
    (slice(1, 6, None), slice(2, 12, None))
    """
    return slice(rect.top // cell, rect.bottom // cell), slice(rect.left // cell, rect.right // cell)


def block_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(hb, wb) blocks that cover (h, w) cells; the last row and column may be covered in part.

    >>> block_shape((8, 9))
    (2, 3)
    """
    height, width = shape
    return -(-height // BLOCK), -(-width // BLOCK)


def cells_of_blocks(blocks: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(h, w) bool for each cell, from (hb, wb) for each block; `shape` is (h, w)."""
    return np.repeat(np.repeat(blocks, BLOCK, axis=0), BLOCK, axis=1)[: shape[0], : shape[1]]


def grid(rect: Rect, size: int, stride: int, period: int) -> NDArray[np.int64]:
    """Origins of all whole crops in a rectangle, row by row from its first site.

    Every origin lies on a tile's first site, so that each crop starts with the same colour. A margin of less than one stride
    at the right and at the bottom is left out: no crop is moved back to the edge, so all crops overlap by the same amount.

    Args:
        rect: starts on a tile.
        size: side of a crop in sites.
        stride: sites from one crop to the next; rounded up to a multiple of `period`.
        period: of the CFA.

    Returns:
        (n, 2) int64, rows (y, x) in sites of the frame; n is 0 where the rectangle is smaller than a crop.

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

    All sites of a cell have its value, as in `valid.repeat(cell, 0).repeat(cell, 1)`. Crops that end within a cell (512 is
    no multiple of X-Trans' 3) count only their own sites. Exact: integers are summed, and divided once.

    Args:
        valid: (h, w) bool, one value per cell of a rectangle.
        origins: (n, 2) int64 rows (y, x) in sites, counted from the rectangle's first site (`to_rect`).
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
    """The mask of one crop, one value per site.

    Args:
        valid: (h, w) bool, one value per cell of a rectangle.
        y: the crop's first row in sites, counted from the rectangle's first site (`to_rect`).
        x: the crop's first column, counted the same way.
        size: side of the crop in sites.
        cell: sites per value of `valid` in each direction.

    Returns:
        (size, size) bool.

    Raises:
        ValueError: The crop reaches outside.
    """
    _require_inside(np.array([[y, x]]), size, (valid.shape[0] * cell, valid.shape[1] * cell))
    cells = valid[y // cell : -(-(y + size) // cell), x // cell : -(-(x + size) // cell)]
    sites = cells.repeat(cell, axis=1).repeat(cell, axis=0)  # few values along rows, then whole rows
    return sites[y % cell :][:size, x % cell :][:, :size]


def _box_sums(sums: NDArray[np.int32], origins: NDArray[np.int64], size: int, cell: int) -> NDArray[np.int32]:
    """Sum over the sites of each square.

    Args:
        sums: (h + 1, w + 1) int32 integral image of the cells.
        origins: (n, 2) int64 rows (y, x) in sites of the cells' rectangle.
        size: side of a square in sites.
        cell: sites per cell in each direction.

    Returns:
        (n,) sums.
    """
    _require_inside(origins, size, ((sums.shape[0] - 1) * cell, (sums.shape[1] - 1) * cell))
    y, x = origins[:, 0], origins[:, 1]
    corners = ((y + size, x + size, 1), (y, x + size, -1), (y + size, x, -1), (y, x, 1))
    return sum(sign * _integral(sums, ys, xs, cell) for ys, xs, sign in corners)  # type: ignore[return-value]


def _integral(
    sums: NDArray[np.int32], y: NDArray[np.int64], x: NDArray[np.int64], cell: int
) -> NDArray[np.int32]:
    """Sum over all sites above and left of (y, x); exact, as it is bilinear within a cell, whose sites are all equal.

    Args:
        sums: (h + 1, w + 1) int32 integral image of the cells.
        y: (n,) rows in sites.
        x: (n,) columns in sites.
        cell: sites per cell in each direction.

    Returns:
        (n,) sums.
    """
    (row, dy), (column, dx) = np.divmod(y, cell), np.divmod(x, cell)
    below, right = np.minimum(row + 1, len(sums) - 1), np.minimum(column + 1, sums.shape[1] - 1)
    above = (cell - dx) * sums[row, column] + dx * sums[row, right]
    beneath = (cell - dx) * sums[below, column] + dx * sums[below, right]
    return (cell - dy) * above + dy * beneath  # type: ignore[no-any-return]


def _require_inside(origins: NDArray[np.int64], size: int, shape: tuple[int, int]) -> None:
    """Raises an error where a crop reaches outside.

    Args:
        origins: (n, 2) int64 rows (y, x) in sites.
        size: side of a crop in sites.
        shape: (H, W) in sites.

    Raises:
        ValueError: A crop reaches outside.
    """
    if len(origins) and (origins.min() < 0 or np.any(origins.max(axis=0) + size > shape)):
        raise ValueError(
            f"crops of {size} must lie within {shape[0]}x{shape[1]} sites, got origins {origins}"
        )
