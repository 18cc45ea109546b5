"""Colour filter arrays: which colour a site sees, and a colour image seen through the filters."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rawnind.records import Cfa

Number = TypeVar("Number", bound=np.generic)


def tile_colors(cfa: Cfa) -> NDArray[np.intp]:
    """(period, period) colour indices of the repeating tile: 0 red, 1 green, 2 blue.

    >>> tile_colors(Cfa.BAYER)
    array([[0, 1],
           [1, 2]])
    """
    return np.array(cfa.tile, np.intp)


def tile_planes(cfa: Cfa) -> NDArray[np.intp]:
    """(period, period) plane that each site of the tile belongs to: an index into `cfa.plane_colors`.

    >>> tile_planes(Cfa.BAYER)
    array([[0, 1],
           [2, 3]])
    """
    return np.array([[0, 1], [2, 3]], np.intp) if cfa is Cfa.BAYER else tile_colors(cfa)


def site_colors(cfa: Cfa, shape: tuple[int, int]) -> NDArray[np.intp]:
    """(H, W) colour index of every site of a frame that starts on the tile's first site."""
    return _repeat(tile_colors(cfa), shape)


def site_planes(cfa: Cfa, shape: tuple[int, int]) -> NDArray[np.intp]:
    """(H, W) plane of every site of a frame that starts on the tile's first site."""
    return _repeat(tile_planes(cfa), shape)


def mosaic(rgb: NDArray[Number], cfa: Cfa) -> NDArray[Number]:
    """A colour image seen through a filter array: at each site the one colour that the filter lets through.

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
    period = len(tile)
    return tile[np.ix_(np.arange(shape[0]) % period, np.arange(shape[1]) % period)]
