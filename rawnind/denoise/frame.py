"""Denoises a frame in tiles. Memory is bounded by a tile's, beyond the frame and its result; tiles leave no seams.

Each tile is processed with a margin as wide as the network's reach, and starts on a multiple of the network's grid of 16.
So a pixel has the same surroundings in every tiling, beyond the frame too, where the mosaic is mirrored about its first and last
site of a colour.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rawnind.darktable.contract import MULTIPLE
from rawnind.denoise.network import Denoiser, Noise
from rawnind.errors import ConfigError
from rawnind.feed.crop_options import Input
from rawnind.imaging.color import camera_to_rec2020, to_rec2020
from rawnind.imaging.demosaic.camera_rgb import contrast_gains, demosaic
from rawnind.imaging.levels import planes
from rawnind.imaging.photo import Photo
from rawnind.imaging.photo_noise import photo_noise
from rawnind.records import Cfa

TILE = 512
"""Side of a tile without its margin, in pixels of the network's input."""

_DEMOSAIC_REACH = 12  # sites; whole tiles of both CFAs
_DARKEST = 1e-6  # mean level of a photo without light


class Denoised(NamedTuple):
    """A denoised frame.

    Attributes:
        rgb: (3, H, W) float32: camera RGB levels of a network for packed Bayer, else linear Rec.2020; not white-balanced.
        gain: the factor that gave it the brightness of the noisy frame.
    """

    rgb: NDArray[np.float32]
    gain: float


def denoise_frame(
    photo: Photo,
    denoiser: Denoiser,
    *,
    tile: int = TILE,
    progress: Callable[[int, int], None] | None = None,
) -> Denoised:
    """Denoises a frame and matches its mean to that of the noisy one.

    Args:
        photo: Bayer, or X-Trans where the network takes colour.
        denoiser: the network.
        tile: side of a tile in pixels of the network's input, a multiple of 16.
        progress: called after each tile with the number of tiles that are done, and of all; None: nothing is called.

    Raises:
        ConfigError: `tile` is no multiple of 16, the camera's colours are not known where the network takes colour, or its output
            is not finite.
    """
    if tile < MULTIPLE or tile % MULTIPLE:
        raise ConfigError(f"tile must be a positive multiple of {MULTIPLE}, got {tile}")
    height, width = photo.mosaic.shape
    cell = 2 if denoiser.input is Input.RAW else 1
    windows = _packed_windows(photo) if denoiser.input is Input.RAW else _rec2020_windows(photo)
    channels = photo.cfa.plane_colors if denoiser.input is Input.RAW else (0, 1, 2)
    noise = _noise(photo, channels) if denoiser.conditioned else None
    out = np.empty((3, height, width), np.float32)
    sums = np.zeros(2)
    cores = list(_cores(height // cell, width // cell, tile))
    for done, core in enumerate(cores, start=1):
        _denoise_tile(core, cell, windows, denoiser, noise, out, sums)
        if progress is not None:
            progress(done, len(cores))
    gain = _gain(*sums / (height * width))
    out *= np.float32(gain)
    return Denoised(out, gain)


class _Core(NamedTuple):
    """A tile without its margin, in pixels of the network's input."""

    top: int
    left: int
    height: int
    width: int


_Windows = Callable[[int, int, int, int], NDArray[np.float32]]
"""The input's pixels of a rectangle (top, left, height, width), which may reach beyond the frame."""


def _cores(height: int, width: int, tile: int) -> Iterator[_Core]:
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            yield _Core(top, left, min(tile, height - top), min(tile, width - left))


def _denoise_tile(  # noqa: PLR0917
    core: _Core,
    cell: int,
    windows: _Windows,
    denoiser: Denoiser,
    noise: Noise | None,
    out: NDArray[np.float32],
    sums: NDArray[np.float64],
) -> None:
    """Denoises one tile.

    Args:
        core: the tile.
        cell: sites per pixel of the input.
        windows: gives the input.
        denoiser: the network.
        noise: of the photo, for a network that takes it.
        out: (3, H, W) denoised frame, written within the tile.
        sums: of the input's and the output's colours over sites, added to.
    """
    margin = denoiser.margin
    outer_height, outer_width = (
        -(-(side + 2 * margin) // MULTIPLE) * MULTIPLE for side in (core.height, core.width)
    )
    levels = windows(core.top - margin, core.left - margin, outer_height, outer_width)
    result = denoiser.run(levels, noise)
    rows, columns = (slice(cell * margin, cell * (margin + side)) for side in (core.height, core.width))
    found = result[:, rows, columns]
    if not np.isfinite(found).all():
        raise ConfigError("the network's output is not finite; its training may have diverged")
    top, left = cell * core.top, cell * core.left
    out[:, top : top + found.shape[1], left : left + found.shape[2]] = found
    inner = levels[:, margin : margin + core.height, margin : margin + core.width]
    means = inner.mean(axis=(1, 2), dtype=np.float64)
    colors = means if len(means) == 3 else np.array([means[0], (means[1] + means[2]) / 2, means[3]])
    area = found.shape[1] * found.shape[2]
    sums += area * np.array([colors.mean(), found.mean(dtype=np.float64)])


def _gain(before: float, after: float) -> float:
    """Factor from the mean of the network's output to that of its input; 1 where there is no light."""
    if before <= _DARKEST:
        return 1.0
    if after <= _DARKEST * before:
        raise ConfigError("the network's output is black; its training may have diverged")
    return before / after


def _noise(photo: Photo, channels: Sequence[int]) -> Noise:
    """(2, channels) slopes and floors of the photo's noise; not a number where they cannot be measured, as in training.

    Args:
        photo: the frame.
        channels: colour of each channel of the input.
    """
    found = photo_noise(photo)
    lines = [(None, None)] * 3 if found is None else [color.measured for color in found]
    return np.array([[lines[color][part] for color in channels] for part in (0, 1)], np.float32)


def _packed_windows(photo: Photo) -> _Windows:
    """Windows of packed Bayer levels, in pixels of 2x2 sites."""

    def window(top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        part = _sites(photo, 2 * top, 2 * left, 2 * height, 2 * width)
        return planes(part)

    return window


def _rec2020_windows(photo: Photo) -> _Windows:
    """Windows of linear Rec.2020, in sites; demosaiced with the frame's contrast gains, so that all agree."""
    if photo.sensor.rgb_xyz_matrix is None:
        raise ConfigError(
            f"the colours of the camera ({photo.sensor.camera or 'unnamed'}) are not known, and the network takes Rec.2020; "
            "use a network for Bayer (--input raw)"
        )
    matrix = camera_to_rec2020(photo.sensor.rgb_xyz_matrix)
    gains, period = contrast_gains(photo), photo.cfa.period

    def window(top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        first = (top - _DEMOSAIC_REACH) // period * period
        start = (left - _DEMOSAIC_REACH) // period * period
        rows = -(-(top + height + _DEMOSAIC_REACH - first) // period) * period
        columns = -(-(left + width + _DEMOSAIC_REACH - start) // period) * period
        part = _sites(photo, first, start, rows, columns)
        rgb = to_rec2020(demosaic(part, gains), matrix)
        y, x = top - first, left - start
        return np.ascontiguousarray(rgb[:, y : y + height, x : x + width])

    return window


def _sites(photo: Photo, top: int, left: int, height: int, width: int) -> Photo:
    """A rectangle of a frame that starts on a tile of the CFA and may reach beyond it, where the mosaic is mirrored.

    Args:
        photo: the frame.
        top: first row in sites, a multiple of the CFA's period; may be negative.
        left: first column in sites, as `top`.
        height: in sites.
        width: in sites.
    """
    rows = _mirrored(top, height, photo.mosaic.shape[0], photo.cfa)
    columns = _mirrored(left, width, photo.mosaic.shape[1], photo.cfa)
    return Photo(mosaic=photo.mosaic[rows[:, None], columns], sensor=photo.sensor)


def _mirrored(first: int, count: int, length: int, cfa: Cfa) -> NDArray[np.int64]:
    """(count,) int64 indices of sites from `first` on; those beyond the frame are mirrored so that each keeps its colour.

    Bayer is symmetric about every site, X-Trans about sites 2 and 5 of its tile.
    """
    low = 0 if cfa is Cfa.BAYER else 2
    index = np.arange(first, first + count)
    span = max(length - 1 - low, 1)
    folded = low + span - np.abs((index - low) % (2 * span) - span)
    return np.where((index >= 0) & (index < length), index, folded)
