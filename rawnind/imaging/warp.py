"""The warp between two photos, and the ground truth (GT) resampled to where the noisy photo stood.

A warp says for each site of the noisy frame where the GT shows the same point: displacements in sites at the nodes of a mesh,
linear between them along each axis. The demosaiced GT is resampled by R. G. Keys's cubic convolution ("Cubic convolution
interpolation for digital image processing", IEEE TASSP 1981, a = -1/2), which reproduces second-order polynomials; beyond
the GT's edge its outermost sites are repeated. The noisy mosaic is never resampled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.coordinates import Rect
from rawnind.imaging.demosaic.camera_rgb import CameraRgb
from rawnind.imaging.jit import kernel
from rawnind.records import Cfa

Float64s = NDArray[np.float64]
Float32s = NDArray[np.float32]

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


def warped_planes(rgb: CameraRgb, warp: Warp, cfa: Cfa, rect: Rect) -> Float32s:
    """The GT sampled where the noisy photo's sites lie, with the noisy photo's colour filter array.

    Args:
        rgb: the GT.
        warp: from the noisy photo to the GT.
        cfa: of the noisy photo.
        rect: sites of the noisy frame; starts on a tile, whole cells.

    Returns:
        (P, rect.height / cell, rect.width / cell) float32 levels, averaged per plane as `levels.planes` does.

    Raises:
        ValueError: The rectangle does not lie on whole cells.
    """
    if rect.top % cfa.period or rect.left % cfa.period or rect.height % cfa.cell or rect.width % cfa.cell:
        raise ValueError(f"{rect} does not lie on whole cells of {cfa}")
    out = np.empty((len(cfa.plane_colors), rect.height // cfa.cell, rect.width // cfa.cell), np.float32)
    sample = _bayer_planes if cfa is Cfa.BAYER else _xtrans_planes
    encoding = np.float32(1 / rgb.scale), np.float32(-rgb.offset / rgb.scale)
    sample(rgb.values, warp.mesh, (rect.top, rect.left), encoding, out)
    return out


def warped_rgb(rgb: CameraRgb, warp: Warp, rect: Rect) -> CameraRgb:
    """The GT at the noisy sites of a rectangle: (3, rect.height, rect.width) float32 values, encoded as in `rgb`."""
    out = np.empty((3, rect.height, rect.width), np.float32)
    _warp_rect(rgb.values, warp.mesh, rect.top, rect.left, out)
    return CameraRgb(values=out, offset=rgb.offset, scale=rgb.scale)


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


@kernel
def _warp_rect(values: NDArray[np.uint16], mesh: Mesh, top: int, left: int, out: Float32s) -> None:
    """`warp_row` of each row of a rectangle.

    Args:
        values: (3, H, W) of the GT.
        mesh: of the warp.
        top: first row in the noisy frame.
        left: its first column.
        out: (3, h, w), written.
    """
    row = np.empty((3, out.shape[2]), np.float32)
    for y in range(out.shape[1]):
        warp_row(values, mesh, (top + y, left), (0, 3), row)
        out[:, y] = row


@kernel
def _bayer_planes(
    values: NDArray[np.uint16],
    mesh: Mesh,
    corner: tuple[int, int],
    encoding: tuple[np.float32, np.float32],
    out: Float32s,
) -> None:
    """Planes of Bayer cells.

    Args:
        values: (3, H, W) of the GT.
        mesh: of the warp.
        corner: first (y, x) of the rectangle in the noisy frame.
        encoding: factor and bias from values to levels.
        out: (4, h, w) levels, written.
    """
    factor, bias = encoding
    row = np.empty((3, 2 * out.shape[2]), np.float32)
    for y in range(2 * out.shape[1]):
        first = y % 2  # red and green, then green and blue
        warp_row(values, mesh, (corner[0] + y, corner[1]), (first, first + 2), row)
        for column in range(2):
            target, source = out[2 * first + column, y // 2], row[first + column]
            for x in range(len(target)):
                target[x] = source[2 * x + column] * factor + bias


@kernel
def _xtrans_planes(
    values: NDArray[np.uint16],
    mesh: Mesh,
    corner: tuple[int, int],
    encoding: tuple[np.float32, np.float32],
    out: Float32s,
) -> None:
    """Planes of X-Trans cells, sites within a cell as in `levels.planes`; arguments as for `_bayer_planes`."""
    half, fifth, bias = encoding[0] * np.float32(0.5), encoding[0] * np.float32(0.2), encoding[1]
    rows = np.empty((3, 3, 3 * out.shape[2]), np.float32)
    red, green, blue = rows[:, 0], rows[:, 1], rows[:, 2]
    for y in range(out.shape[1]):
        for i in range(3):
            warp_row(values, mesh, (corner[0] + 3 * y + i, corner[1]), (0, 3), rows[i])
        for x in range(out.shape[2]):
            i = 3 * x
            total = green[0, i] + green[0, i + 1] + green[1, i] + green[1, i + 1] + green[2, i + 2]
            out[1, y, x] = total * fifth + bias
            if (x + y) % 2 == 0:
                out[0, y, x] = (red[0, i + 2] + red[2, i + 1]) * half + bias
                out[2, y, x] = (blue[1, i + 2] + blue[2, i]) * half + bias
            else:
                out[0, y, x] = (red[1, i + 2] + red[2, i]) * half + bias
                out[2, y, x] = (blue[0, i + 2] + blue[2, i + 1]) * half + bias


@kernel
def warp_row(
    values: NDArray[np.uint16],
    mesh: Mesh,
    start: tuple[int, int],
    colors: tuple[int, int],
    out: Float32s,
) -> None:
    """The GT at the noisy sites of part of a row.

    Args:
        values: (3, H, W) of the GT.
        mesh: of the warp.
        start: (y, x) of the first noisy site.
        colors: first colour, and the one after the last.
        out: (3, n) values, written for these colours.
    """
    y, left = start
    right = left + out.shape[1]
    nodes, spacing = mesh.nodes, mesh.spacing
    i = min(y // spacing, max(nodes.shape[0] - 2, 0))
    below = min(i + 1, nodes.shape[0] - 1)
    v = y / spacing - i
    weights, taps = np.empty((8, spacing), np.float32), np.empty((4, spacing + 3), np.uint16)
    x = left
    while x < right:
        j = min(x // spacing, max(nodes.shape[1] - 2, 0))
        end = right if j >= nodes.shape[1] - 2 else min(right, (j + 1) * spacing)
        next_node = min(j + 1, nodes.shape[1] - 1)
        dy = (1 - v) * nodes[i, j, 0] + v * nodes[below, j, 0]
        dx = (1 - v) * nodes[i, j, 1] + v * nodes[below, j, 1]
        slope_y = ((1 - v) * nodes[i, next_node, 0] + v * nodes[below, next_node, 0] - dy) / spacing
        slope_x = ((1 - v) * nodes[i, next_node, 1] + v * nodes[below, next_node, 1] - dx) / spacing
        while x < end:
            along = x - j * spacing
            at_y, at_x = y + dy + slope_y * along, dx + slope_x * along
            count = min(end - x, _sites_within(at_y, slope_y, spacing), _sites_within(at_x, slope_x, spacing))
            whole_y, whole_x = np.floor(at_y), np.floor(at_x)
            _weights(at_y - whole_y, slope_y, weights[:4])
            _weights(at_x - whole_x, slope_x, weights[4:])
            corner = int(whole_y) - 1, int(whole_x) + x - 1
            for color in range(colors[0], colors[1]):
                _run(values[color], corner, weights, taps, out[color, x - left : x - left + count])
            x += count


@kernel
def _sites_within(at: float, slope: float, most: int) -> int:
    """Sites from the first on whose position has its whole part.

    Args:
        at: position of the first.
        slope: its increase per site.
        most: of them.
    """
    whole = np.floor(at)
    if slope == 0:
        return most
    steps = (whole + 1 - at) / slope if slope > 0 else (whole - at) / slope
    return min(most, max(1, int(np.floor(steps))))


@kernel
def _run(
    values: NDArray[np.uint16],
    corner: tuple[int, int],
    weights: Float32s,
    taps: NDArray[np.uint16],
    target: Float32s,
) -> None:
    """Cubic convolution of sites of one colour whose 4 x 4 taps move by one column from each to the next.

    Args:
        values: (H, W) of the GT.
        corner: (y, x) of the first site's first tap; may lie outside.
        weights: (8, n) of each site's four rows and four columns of taps.
        taps: (4, n + 3) scratch.
        target: (m,) values, written; m is at most n.
    """
    height, width = values.shape
    top, left = corner
    end = left + len(target) + 3
    if 0 <= top <= height - 4 and left >= 0 and end <= width:
        part = slice(left, end)
        rows = values[top, part], values[top + 1, part], values[top + 2, part], values[top + 3, part]
        _convolve(rows, weights, target)
        return
    for k in range(4):
        line = values[min(max(top + k, 0), height - 1)]
        for j in range(end - left):
            taps[k, j] = line[min(max(left + j, 0), width - 1)]
    _convolve((taps[0], taps[1], taps[2], taps[3]), weights, target)


@kernel(fastmath={"contract", "nsz"})
def _convolve(
    taps: tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]],
    weights: Float32s,
    target: Float32s,
) -> None:
    """`_run` of taps that lie side by side.

    Args:
        taps: four (n,) rows of the GT, from the first site's first on.
        weights: as in `_run`.
        target: (m,) values, written; m is at most n - 3.
    """
    f32 = np.float32
    a0, a1, a2, a3 = weights[0], weights[1], weights[2], weights[3]
    b0, b1, b2, b3 = weights[4], weights[5], weights[6], weights[7]
    r0, r1, r2, r3 = taps
    for j in range(len(target)):
        c0, c1, c2, c3 = b0[j], b1[j], b2[j], b3[j]
        target[j] = (
            a0[j] * (c0 * f32(r0[j]) + c1 * f32(r0[j + 1]) + c2 * f32(r0[j + 2]) + c3 * f32(r0[j + 3]))
            + a1[j] * (c0 * f32(r1[j]) + c1 * f32(r1[j + 1]) + c2 * f32(r1[j + 2]) + c3 * f32(r1[j + 3]))
            + a2[j] * (c0 * f32(r2[j]) + c1 * f32(r2[j + 1]) + c2 * f32(r2[j + 2]) + c3 * f32(r2[j + 3]))
            + a3[j] * (c0 * f32(r3[j]) + c1 * f32(r3[j + 1]) + c2 * f32(r3[j + 2]) + c3 * f32(r3[j + 3]))
        )


@kernel(fastmath={"contract"})
def _weights(first: float, slope: float, out: Float32s) -> None:
    """Keys's weights (a = -1/2) of four taps around positions between the second and the third.

    Args:
        first: fraction 0..1 of the first site.
        slope: its increase per site.
        out: (4, n) float32, written.
    """
    half, one = np.float32(0.5), np.float32(1)
    start, step = np.float32(first), np.float32(slope)
    o0, o1, o2, o3 = out[0], out[1], out[2], out[3]
    for j in range(out.shape[1]):
        t = start + step * np.float32(j)
        s = one - t
        first_tap, last_tap = -half * t * s * s, -half * s * t * t
        second = one - t * t * (np.float32(2.5) - np.float32(1.5) * t)
        o0[j], o1[j], o2[j], o3[j] = first_tap, second, one - first_tap - second - last_tap, last_tap
