"""The warp between two photos.

A warp says for each site of the noisy frame where the ground truth (GT) shows the same point: displacements in sites at the
nodes of a mesh, linear between them along each axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.coordinates import Rect
from rawnind.imaging.jit import kernel

Float64s = NDArray[np.float64]

NODE_SPACINGS = (128, 64, 32)
"""Sites between two nodes of the mesh: the first at which it follows the displacement, else the last."""
_FOLLOWS = 0.01
"""Sites by which the mesh may miss the displacement halfway between nodes."""


class Mesh(NamedTuple):
    """A warp as the kernels take it.

    Attributes:
        nodes: (ny, nx, 2) of the warp.
        spacing: sites between them.
    """

    nodes: Float64s
    spacing: int


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Warp:
    """Where the GT shows what the noisy photo shows.

    Attributes:
        nodes: (ny, nx, 2) float64 displacement (dy, dx) in sites at noisy site (spacing i, spacing j): GT position
            (y + dy, x + dx) shows what noisy site (y, x) shows.
        spacing: sites between two nodes along each axis.
    """

    nodes: Float64s
    spacing: int

    @classmethod
    def of(cls, shape: tuple[int, int], displacement: Callable[[Float64s], Float64s]) -> "Warp":
        """A warp from a function.

        Args:
            shape: (H, W) of the noisy frame.
            displacement: of (n, 2) float64 positions (y, x) in sites from the frame's first site; (n, 2) in sites.
        """
        for spacing in NODE_SPACINGS:
            axes = [np.arange(-(-(length - 1) // spacing) + 1) * float(spacing) for length in shape]
            at = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
            warp = cls(nodes=displacement(at.reshape(-1, 2)).reshape(at.shape), spacing=spacing)
            between = (at[:-1, :-1] + spacing / 2).reshape(-1, 2)
            if np.abs(warp.at(between) - displacement(between)).max(initial=0) <= _FOLLOWS:
                break
        return warp

    @property
    def mesh(self) -> Mesh:
        """What kernels take."""
        return Mesh(nodes=self.nodes, spacing=self.spacing)

    @classmethod
    def constant(cls, shape: tuple[int, int], displacement: tuple[float, float]) -> "Warp":
        """The same displacement (dy, dx) everywhere, for a frame of `shape`.

        >>> Warp.constant((200, 300), (1.5, -2.0)).at(np.array([[10.0, 20.0]]))
        array([[ 1.5, -2. ]])
        """
        return cls.of(shape, lambda at: np.broadcast_to(np.array(displacement, np.float64), at.shape))

    def at(self, positions: NDArray[np.floating] | NDArray[np.integer]) -> Float64s:
        """(n, 2) displacements at (n, 2) positions (y, x) in sites of the noisy frame."""
        last = np.array(self.nodes.shape[:2]) - 1
        place = np.clip(np.asarray(positions, np.float64) / self.spacing, 0, last)
        cell = np.minimum(place.astype(np.int64), np.maximum(last - 1, 0))
        (i, j), (v, u) = cell.T, (place - cell).T[:, :, None]
        below, right = np.minimum(i + 1, last[0]), np.minimum(j + 1, last[1])
        above = (1 - u) * self.nodes[i, j] + u * self.nodes[i, right]
        beneath = (1 - u) * self.nodes[below, j] + u * self.nodes[below, right]
        result: Float64s = (1 - v) * above + v * beneath
        return result

    def shift(self, positions: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.int64]:
        """(n, 2) displacements rounded to whole sites."""
        return np.rint(self.at(positions)).astype(np.int64)

    def distance(self, rect: Rect, shift: tuple[int, int]) -> Float64s:
        """(rect.height, rect.width) distance of the warp from a whole shift in sites, the same within 8 x 8 sites.

        Args:
            rect: sites of the noisy frame.
            shift: (dy, dx).
        """
        ys, xs = (
            np.arange(start + 3.5, start + length + 3.5, 8)
            for start, length in ((rect.top, rect.height), (rect.left, rect.width))
        )
        at = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1)
        left = np.hypot(*(self.at(at.reshape(-1, 2)) - np.array(shift)).T).reshape(at.shape[:2])
        whole: Float64s = left.repeat(8, axis=0).repeat(8, axis=1)[: rect.height, : rect.width]
        return whole

    def overlap(self, shape: tuple[int, int], gt_shape: tuple[int, int], period: int) -> Rect:
        """What both photos show: whole tiles of the noisy frame whose every site lies in the GT's frame, to half a site.

        Args:
            shape: (H, W) of the noisy frame in sites.
            gt_shape: (H, W) of the GT's frame in sites.
            period: of the CFA.

        Returns:
            A rectangle of the noisy frame; its height or width is 0 where the frames share no whole tile.

        >>> Warp.constant((8, 8), (-0.6, 3.2)).overlap((8, 8), (8, 8), 2)
        Rect(top=2, left=0, height=6, width=4)
        """
        top, left, bottom, right = 0, 0, shape[0], shape[1]
        while True:
            before = top, left, bottom, right
            if top >= bottom or left >= right:
                return Rect(0, 0, 0, 0)
            ys, xs = np.arange(top, bottom), np.arange(left, right)
            across = [self.shift(np.stack([np.full_like(xs, y), xs], 1))[:, 0] for y in (top, bottom - 1)]
            down = [self.shift(np.stack([ys, np.full_like(ys, x)], 1))[:, 1] for x in (left, right - 1)]
            top = max(top, -int(across[0].min()))
            bottom = min(bottom, gt_shape[0] - int(across[1].max()))
            left = max(left, -int(down[0].min()))
            right = min(right, gt_shape[1] - int(down[1].max()))
            top, left = -(-top // period) * period, -(-left // period) * period
            bottom, right = bottom // period * period, right // period * period
            if before == (top, left, bottom, right):
                return Rect(top, left, bottom - top, right - left)


def cells_under(cells: NDArray[np.bool_], warp: Warp, rect: Rect, cell: int) -> NDArray[np.bool_]:
    """For each noisy cell of a rectangle, whether any of the GT's cells that it touches is set.

    A noisy site touches the two GT sites around its position along each axis, or one where it lies within 0.1 of it.

    Args:
        cells: (h, w) bool, one value per cell of the GT's whole frame.
        warp: from the noisy photo to the GT.
        rect: whole cells of the noisy frame.
        cell: sites per cell in each direction.

    Returns:
        (rect.height / cell, rect.width / cell) bool.
    """
    out = np.zeros((rect.height // cell, rect.width // cell), np.bool_)
    set_cells = np.argwhere(cells)
    if len(set_cells):
        sites = set_cells * cell
        # a GT position less the displacement there is a noisy position, near enough to take the displacement again
        displacement = warp.at(sites - warp.at(sites))
        low, high = (
            np.floor(displacement + 0.1).astype(np.int64),
            np.ceil(displacement - 0.1).astype(np.int64),
        )
        corner = np.array([rect.top, rect.left])
        _set_ranges((sites - high - corner) // cell, (sites + cell - 1 - low - corner) // cell, out)
    return out


@kernel
def _set_ranges(first: NDArray[np.int64], last: NDArray[np.int64], out: NDArray[np.bool_]) -> None:
    """Sets rectangles of cells, cut to the array.

    Args:
        first: (n, 2) first cell (y, x) of each.
        last: (n, 2) last cell.
        out: (h, w), written.
    """
    for i in range(len(first)):
        for y in range(max(first[i, 0], 0), min(last[i, 0] + 1, out.shape[0])):
            for x in range(max(first[i, 1], 0), min(last[i, 1] + 1, out.shape[1])):
                out[y, x] = True
