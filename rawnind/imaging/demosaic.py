"""The two missing colours of every site: mosaics to camera RGB, and camera RGB seen through another photo's filters."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.crop import Rect
from rawnind.imaging.kernels import kernel
from rawnind.imaging.levels import site_lines
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa

_PAD = 6


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class CameraRgb:
    """A demosaiced photo in 6 bytes per site: level = (value - offset) / scale.

    Negative levels and levels above 1 are kept. One step is at most 1.2 steps of the sensor.

    Attributes:
        values: (3, H, W) uint16, red, green, blue; site (y, x) is the mosaic's.
        offset: value at level 0.
        scale: values per level.
    """

    values: NDArray[np.uint16]
    offset: int
    scale: float

    def levels(self) -> NDArray[np.float32]:
        """(3, H, W) float32 levels of the camera's own red, green and blue; no white balance."""
        out = self.values.astype(np.float32)
        out -= np.float32(self.offset)
        out /= np.float32(self.scale)
        return out


def demosaic(photo: Photo) -> CameraRgb:
    """Fills in the two colours that each site did not see; the one that it saw stays as it is.

    Args:
        photo: Bayer or X-Trans.

    Returns:
        Camera RGB of the photo's size.
    """
    offset, scale = _encoding(photo)
    factor, bias = site_lines(photo.sensor)
    encoded = np.empty(photo.mosaic.shape, np.uint16)
    _encode(photo.mosaic, factor * np.float32(scale), bias * np.float32(scale) + np.float32(offset), encoded)
    values = _bayer(encoded) if photo.cfa is Cfa.BAYER else _xtrans(encoded)
    return CameraRgb(values=values, offset=offset, scale=scale)


def planes_at_shift(rgb: CameraRgb, shift: tuple[int, int], cfa: Cfa, rect: Rect) -> NDArray[np.float32]:
    """The ground truth as the noisy photo's filters would have seen it: planes that match the noisy photo's.

    For noisy site (y, x) with colour c it takes `rgb[c, y + dy, x + dx]`, and averages per plane as `levels.planes` does. For
    a shift by whole tiles these are the ground truth's own measured values.

    Args:
        rgb: the ground truth.
        shift: (dy, dx) in sites: GT site (y + dy, x + dx) shows what noisy site (y, x) shows.
        cfa: of the noisy photo.
        rect: sites of the noisy frame; starts on a tile, whole cells.

    Returns:
        (P, rect.height / cell, rect.width / cell) float32 levels.

    Raises:
        ValueError: The shifted rectangle leaves the ground truth's frame, or does not lie on whole cells.
    """
    _, height, width = rgb.values.shape
    top, left = rect.top + shift[0], rect.left + shift[1]
    if min(top, left) < 0 or top + rect.height > height or left + rect.width > width:
        raise ValueError(f"{rect} shifted by {shift} leaves the ground truth's {height}x{width} sites")
    if rect.top % cfa.period or rect.left % cfa.period or rect.height % cfa.cell or rect.width % cfa.cell:
        raise ValueError(f"{rect} does not lie on whole cells of {cfa}")
    out = np.empty((len(cfa.plane_colors), rect.height // cfa.cell, rect.width // cfa.cell), np.float32)
    view = rgb.values[:, top : top + rect.height, left : left + rect.width]
    lookup = _bayer_at if cfa is Cfa.BAYER else _xtrans_at
    lookup(view, np.float32(1 / rgb.scale), np.float32(-rgb.offset / rgb.scale), out)
    return out


def _encoding(photo: Photo) -> tuple[int, float]:
    """Offset and scale that hold every level of the photo, with a margin for what interpolation overshoots."""
    black = np.array(photo.sensor.black_level)
    span = photo.sensor.white_level - black
    low = float(np.min((photo.mosaic.min() - black) / span))
    high = float(np.max((photo.mosaic.max() - black) / span))
    margin = 0.05 * max(high - low, 1e-3)
    low, high = min(low, 0.0) - margin, max(high, 0.0) + margin
    # A whole number of values per sensor step keeps the sensor's own values exactly, where black levels are whole and equal.
    per_step = 65535 / (high - low) / span.min()
    scale = float(span.min()) * (math.floor(per_step) if per_step >= 1 else per_step)
    return round(-low * scale), scale


def _bayer(encoded: NDArray[np.uint16]) -> NDArray[np.uint16]:
    # OpenCV names a pattern by its second row and second column; RGGB is its BayerRGGB since 4.5.1.
    # Its outermost sites are copies of their neighbours, hence the border.
    padded = cv2.copyMakeBorder(encoded, 2, 2, 2, 2, cv2.BORDER_REFLECT_101)
    interleaved = cv2.cvtColor(padded, cv2.COLOR_BayerRGGB2RGB_EA)[2:-2, 2:-2]
    values = np.empty((3, *encoded.shape), np.uint16)
    cv2.split(interleaved, list(values))
    return values


def _xtrans(encoded: NDArray[np.uint16]) -> NDArray[np.uint16]:
    rows, columns = _mirrored(encoded.shape[0]), _mirrored(encoded.shape[1])
    padded = encoded[rows[:, None], columns[None, :]].astype(np.float32)
    colors = np.array(Cfa.X_TRANS.tile, np.int64)
    green = np.empty_like(padded)
    _xtrans_green(padded, colors, green)
    values = np.empty((3, *encoded.shape), np.uint16)
    _xtrans_colors(padded, green, colors, values)
    return values


def _mirrored(length: int) -> NDArray[np.intp]:
    """Site indices -6..length+5 folded back at sites 2 and length-1, where X-Trans is its own mirror image."""
    index = np.abs(np.arange(-_PAD, length + _PAD) - 2) + 2
    index[_PAD : _PAD + 2] = 0, 1
    return np.where(index > length - 1, 2 * (length - 1) - index, index)


@kernel
def _encode(
    mosaic: NDArray[np.uint16],
    factor: NDArray[np.float32],
    bias: NDArray[np.float32],
    out: NDArray[np.uint16],
) -> None:
    period = factor.shape[0]
    for y in range(mosaic.shape[0]):
        a, b = factor[y % period], bias[y % period]
        for x0 in range(0, mosaic.shape[1], period):
            for i in range(period):
                value = np.float32(mosaic[y, x0 + i]) * a[i] + b[i] + np.float32(0.5)
                out[y, x0 + i] = np.uint16(min(max(value, np.float32(0)), np.float32(65535)))


@kernel
def _bayer_at(
    rgb: NDArray[np.uint16], factor: np.float32, bias: np.float32, out: NDArray[np.float32]
) -> None:
    for plane in range(4):
        image = rgb[(plane + 1) // 2]
        for y in range(out.shape[1]):
            row = image[2 * y + plane // 2]
            for x in range(out.shape[2]):
                out[plane, y, x] = np.float32(row[2 * x + plane % 2]) * factor + bias


@kernel
def _xtrans_at(
    rgb: NDArray[np.uint16], factor: np.float32, bias: np.float32, out: NDArray[np.float32]
) -> None:
    # Sites within a cell as in levels.planes: green at five fixed ones, red and blue at two pairs that swap.
    half, fifth = factor * np.float32(0.5), factor * np.float32(0.2)
    for y in range(out.shape[1]):
        red, green, blue = rgb[0, 3 * y : 3 * y + 3], rgb[1, 3 * y : 3 * y + 3], rgb[2, 3 * y : 3 * y + 3]
        for x in range(out.shape[2]):
            i = 3 * x
            total = np.uint32(green[0, i]) + green[0, i + 1] + green[1, i] + green[1, i + 1] + green[2, i + 2]
            out[1, y, x] = np.float32(total) * fifth + bias
            if (x + y) % 2 == 0:
                out[0, y, x] = np.float32(np.uint32(red[0, i + 2]) + red[2, i + 1]) * half + bias
                out[2, y, x] = np.float32(np.uint32(blue[1, i + 2]) + blue[2, i]) * half + bias
            else:
                out[0, y, x] = np.float32(np.uint32(red[1, i + 2]) + red[2, i]) * half + bias
                out[2, y, x] = np.float32(np.uint32(blue[0, i + 2]) + blue[2, i + 1]) * half + bias


@kernel
def _xtrans_green(m: NDArray[np.float32], colors: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Green at red and blue sites from the nearest greens of both axes, weighted against the step across."""
    for y in range(m.shape[0]):
        for x in range(m.shape[1]):
            if colors[y % 6, x % 6] == 1 or y < 3 or x < 3 or y >= m.shape[0] - 3 or x >= m.shape[1] - 3:
                out[y, x] = m[y, x]
                continue
            up = 1 if colors[(y - 1) % 6, x % 6] == 1 else 2
            down = 1 if colors[(y + 1) % 6, x % 6] == 1 else 2
            left = 1 if colors[y % 6, (x - 1) % 6] == 1 else 2
            right = 1 if colors[y % 6, (x + 1) % 6] == 1 else 2
            north, south, west, east = m[y - up, x], m[y + down, x], m[y, x - left], m[y, x + right]
            vertical = (north * down + south * up) / (up + down)
            horizontal = (west * right + east * left) / (left + right)
            wv = 1 / (1 + (north - south) ** 2)
            wh = 1 / (1 + (west - east) ** 2)
            out[y, x] = (vertical * wv + horizontal * wh) / (wv + wh)


@kernel
def _xtrans_colors(
    m: NDArray[np.float32], green: NDArray[np.float32], colors: NDArray[np.int64], out: NDArray[np.uint16]
) -> None:
    """Red and blue from the colour differences of the 5x5 neighbourhood, nearer ones weighing more."""
    for y in range(out.shape[1]):
        for x in range(out.shape[2]):
            totals = np.zeros(3, np.float32)
            weights = np.zeros(3, np.float32)
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    v, u = y + dy + 6, x + dx + 6
                    color = colors[v % 6, u % 6]
                    weight = np.float32(1) / (dy * dy + dx * dx + np.float32(0.5))
                    totals[color] += weight * (m[v, u] - green[v, u])
                    weights[color] += weight
            center = colors[y % 6, x % 6]
            for color in range(3):
                value = green[y + 6, x + 6]
                if color == center:
                    value = m[y + 6, x + 6]
                elif color != 1:
                    value += totals[color] / weights[color]
                out[color, y, x] = np.uint16(
                    min(max(value + np.float32(0.5), np.float32(0)), np.float32(65535))
                )
