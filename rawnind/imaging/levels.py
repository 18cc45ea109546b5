"""Levels, planes and colour filter arrays: sensor values on a scale from black (0) to the white level (1), split by colour.

A CFA's tile gives each site a colour; a mosaic is a colour image seen through it. Planes hold one sample per cell and colour.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.coordinates import Rect
from rawnind.imaging.jit import kernel
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa, Sensor

Number = TypeVar("Number", bound=np.generic)


def tile_colors(cfa: Cfa) -> NDArray[np.intp]:
    """(period, period) colour index of each site of the CFA's tile: 0 red, 1 green, 2 blue.

    >>> tile_colors(Cfa.BAYER)
    array([[0, 1],
           [1, 2]])
    """
    return np.array(cfa.tile, np.intp)


def tile_planes(cfa: Cfa) -> NDArray[np.intp]:
    """(period, period) plane of each site of the CFA's tile: an index into `cfa.plane_colors`.

    >>> tile_planes(Cfa.BAYER)
    array([[0, 1],
           [2, 3]])
    """
    return np.array([[0, 1], [2, 3]], np.intp) if cfa is Cfa.BAYER else tile_colors(cfa)


def site_colors(cfa: Cfa, shape: tuple[int, int]) -> NDArray[np.intp]:
    """(H, W) colour index of every site of a frame."""
    return _repeat(tile_colors(cfa), shape)


def site_planes(cfa: Cfa, shape: tuple[int, int]) -> NDArray[np.intp]:
    """(H, W) plane of every site of a frame."""
    return _repeat(tile_planes(cfa), shape)


def mosaic(rgb: NDArray[Number], cfa: Cfa) -> NDArray[Number]:
    """A colour image seen through a colour filter array: at each site the one colour that the filter transmits.

    Args:
        rgb: (3, H, W), any unit.
        cfa: its tile's first site lies at (0, 0).

    Returns:
        (H, W) in the unit and type of `rgb`.

    >>> mosaic(np.arange(12).reshape(3, 2, 2), Cfa.BAYER)
    array([[ 0,  5],
           [ 6, 11]])
    """
    return np.take_along_axis(rgb, site_colors(cfa, rgb.shape[1:])[None], axis=0).squeeze(0)


def _repeat(tile: NDArray[np.intp], shape: tuple[int, int]) -> NDArray[np.intp]:
    """(H, W) from the (period, period) values of the CFA's tile."""
    period = len(tile)
    return tile[np.ix_(np.arange(shape[0]) % period, np.arange(shape[1]) % period)]


def planes(photo: Photo, rect: Rect | None = None) -> NDArray[np.float32]:
    """Splits a photo's mosaic by colour into planes of levels.

    A level is (v - black[p]) / (white - black[p]) for sensor value v in plane p: below 0 where noise falls under the black
    level, above 1 where the sensor counts past its white level; nothing is clipped.

    Args:
        photo: Bayer or X-Trans; its mosaic consists of whole cells and starts on the CFA's first site.
        rect: whole tiles of the frame; None: all of it.

    Returns:
        (P, h, w) float32 levels. Bayer: (4, H/2, W/2) in R, G, G, B order, G of the red row first. X-Trans:
        (3, H/3, W/3), each sample the mean of its colour in a 3x3 cell (2 red, 5 green, 2 blue sites).

    >>> sensor = Sensor(cfa=Cfa.BAYER, origin=(0, 0), height=2, width=2, black_level=(100, 100, 100, 100),
    ...                 white_level=1100, overexposure_lb=1.0, rgb_xyz_matrix=None, camera="")
    >>> planes(Photo(mosaic=np.array([[100, 600], [50, 1100]], np.uint16), sensor=sensor)).ravel()
    array([ 0.  ,  0.5 , -0.05,  1.  ], dtype=float32)
    """
    factor, bias = level_lines(photo.sensor)
    top, left, height, width = rect or Rect(0, 0, *photo.mosaic.shape)
    cell = photo.cfa.cell
    # NumPy allocates with huge pages, numba does not: allocated inside the kernel, this would take twice as long.
    out = np.empty((len(factor), height // cell, width // cell), np.float32)
    (_bayer_planes if photo.cfa is Cfa.BAYER else _xtrans_planes)(photo.mosaic, top, left, factor, bias, out)
    return out


def level_lines(sensor: Sensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coefficients of `level = factor[p] * value + bias[p]` for each plane p.

    Returns:
        (P,) float32 factors, 1 / (white - black), and (P,) float32 biases, -black / (white - black).

    Raises:
        ValueError: The sensor's white level does not lie above each of its black levels.
    """
    black = np.array(sensor.black_level, np.float64)
    span = sensor.white_level - black
    if len(black) != len(sensor.cfa.plane_colors) or not np.all(span > 0):
        raise ValueError(
            f"{sensor.camera}: white {sensor.white_level} must lie above black {sensor.black_level}"
        )
    return (1 / span).astype(np.float32), (-black / span).astype(np.float32)


def site_lines(sensor: Sensor) -> NDArray[np.float32]:
    """`level_lines` for each site of the CFA's tile: (2, period, period) float32, the factors and the biases."""
    return np.stack(level_lines(sensor))[:, tile_planes(sensor.cfa)]


@kernel
def _bayer_planes(  # noqa: PLR0917
    mosaic: NDArray[np.uint16],
    first_row: int,
    first_column: int,
    factor: NDArray[np.float32],
    bias: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Planes of a rectangle of a Bayer mosaic.

    Args:
        mosaic: (H, W) sensor values of the frame.
        first_row: of the rectangle.
        first_column: of the rectangle.
        factor: (4,) see `level_lines`.
        bias: (4,) see `level_lines`.
        out: (4, h, w) levels, written.
    """
    height, width = out.shape[1:]
    for plane in range(4):
        a, b = factor[plane], bias[plane]
        for y in range(height):
            row = mosaic[first_row + 2 * y + plane // 2, first_column : first_column + 2 * width]
            for x in range(width):
                out[plane, y, x] = np.float32(row[2 * x + plane % 2]) * a + b


@kernel
def _xtrans_planes(  # noqa: PLR0917
    mosaic: NDArray[np.uint16],
    first_row: int,
    first_column: int,
    factor: NDArray[np.float32],
    bias: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Planes of a rectangle of an X-Trans mosaic.

    Each 3x3 cell has green at the same five sites; red and blue swap their two pairs of sites from cell to cell.

    Args:
        mosaic: (H, W) sensor values of the frame.
        first_row: of the rectangle.
        first_column: of the rectangle.
        factor: (3,) see `level_lines`.
        bias: (3,) see `level_lines`.
        out: (3, h, w) levels, written.
    """
    height, width = out.shape[1:]
    two, five = np.float32(0.5), np.float32(0.2)
    for y in range(height):
        row, columns = first_row + 3 * y, slice(first_column, first_column + 3 * width)
        top, middle, bottom = mosaic[row, columns], mosaic[row + 1, columns], mosaic[row + 2, columns]
        for x in range(width):
            i = 3 * x
            green = np.uint32(top[i]) + top[i + 1] + middle[i] + middle[i + 1] + bottom[i + 2]
            out[1, y, x] = np.float32(green) * (five * factor[1]) + bias[1]
            first = np.float32(np.uint32(top[i + 2]) + bottom[i + 1])
            second = np.float32(np.uint32(middle[i + 2]) + bottom[i])
            odd = (x + y) % 2 == 1
            out[0, y, x] = (second if odd else first) * (two * factor[0]) + bias[0]
            out[2, y, x] = (first if odd else second) * (two * factor[2]) + bias[2]
