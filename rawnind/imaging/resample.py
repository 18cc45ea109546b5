"""The ground truth (GT) resampled to where the noisy photo stood.

The demosaiced GT is resampled by R. G. Keys's cubic convolution ("Cubic convolution interpolation for digital image
processing", IEEE TASSP 1981, a = -1/2), which reproduces second-order polynomials; beyond the GT's edge its outermost sites
are repeated. The noisy mosaic is never resampled.
"""

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.coordinates import Rect
from rawnind.imaging.demosaic.camera_rgb import CameraRgb
from rawnind.imaging.jit import kernel
from rawnind.imaging.warp import Mesh, Warp
from rawnind.records import Cfa

Float32s = NDArray[np.float32]


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
        for color in range(3):
            for x in range(out.shape[2]):
                out[color, y, x] = row[color, x]


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
    steps = np.arange(spacing).astype(np.float32)  # vectors convert no whole numbers of 64 bits
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
            _weights(at_y - whole_y, slope_y, steps[:count], weights[:4])
            _weights(at_x - whole_x, slope_x, steps[:count], weights[4:])
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
def _weights(first: float, slope: float, steps: Float32s, out: Float32s) -> None:
    """Keys's weights (a = -1/2) of four taps around positions between the second and the third.

    Args:
        first: fraction 0..1 of the first site.
        slope: its increase per site.
        steps: (n,) 0, 1, 2, ...
        out: (4, m) float32, of which n are written.
    """
    half, one = np.float32(0.5), np.float32(1)
    start, step = np.float32(first), np.float32(slope)
    o0, o1, o2, o3 = out[0], out[1], out[2], out[3]
    for j in range(len(steps)):
        t = start + step * steps[j]
        s = one - t
        first_tap, last_tap = -half * t * s * s, -half * s * t * t
        second = one - t * t * (np.float32(2.5) - np.float32(1.5) * t)
        o0[j], o1[j], o2[j], o3[j] = first_tap, second, one - first_tap - second - last_tap, last_tap
