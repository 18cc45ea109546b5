"""What the generators of test pairs share: photographs as light, views of it, and photos by the package's sensor simulator."""

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.levels import mosaic, tile_planes
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa, Sensor
from rawnind.sample.simulator import FULL_WELL, Noise, expose, linear_photo

MOTIFS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "rocket.jpg",
)  # fmt: skip
MAX_ZOOM = 3.0  # a photograph enlarged further has no detail left at the size of a site
RESPONSE = np.array([0.55, 1.0, 0.7], np.float32)  # levels of white in daylight: least red
# Noisier than the sample's sensor, as older cameras are: electrons before the amplifier, and after it at ISO 100.
READ_ELECTRONS, CONVERTER_ELECTRONS = 2.5, 4.7
HOT_LEVEL = 0.3  # mean of the exponential distribution of a hot pixel's level


def make_sensor(cfa: Cfa, shape: tuple[int, int], *, black: tuple[float, ...] | float | None = None,
                white: float = 16383.0) -> Sensor:  # fmt: skip
    """A sensor whose frame starts on the tile.

    Args:
        cfa: its filter array.
        shape: (H, W) in sites.
        black: of each plane, or one for all; None for slightly different ones.
        white: sensor value of level 1.
    """
    if black is None:
        black = {Cfa.BAYER: (512.0, 511.0, 513.0, 512.0), Cfa.X_TRANS: (1022.0, 1023.0, 1021.0)}[cfa]
    levels = black if isinstance(black, tuple) else (black,) * len(cfa.plane_colors)
    return Sensor(
        cfa=cfa, origin=(0, 0), height=shape[0], width=shape[1], black_level=levels, white_level=white,
        overexposure_lb=1.0, rgb_xyz_matrix=None, camera="Test",
    )  # fmt: skip


def noise_at(iso: int, row_noise: float = 0.0, full_well: float = FULL_WELL) -> Noise:
    """Noise of the tests' sensor.

    Args:
        iso: of the photo.
        row_noise: standard deviation of the rows, in units of the read noise.
        full_well: electrons of level 1 at ISO 100.
    """
    amplification = iso / 100
    read = float(np.hypot(READ_ELECTRONS, CONVERTER_ELECTRONS / amplification))
    return Noise(electrons=full_well / amplification, read=read, row=row_noise * read)


def fixed_pattern(shape: tuple[int, int], noise: Noise, rng: np.random.Generator, *, hot_pixels: float,
                  column_pattern: float = 0.0) -> NDArray[np.float32]:  # fmt: skip
    """(H, W) electrons that a sensor adds to every photo.

    Args:
        shape: (H, W) in sites.
        noise: of the photo; it gives the units.
        rng: equal for photos of the same sensor.
        hot_pixels: share of sites.
        column_pattern: standard deviation of the columns' offsets in units of the read noise.
    """
    columns = (rng.standard_normal(shape[1]) * column_pattern * noise.read).astype(np.float32)
    pattern = np.broadcast_to(columns, shape).copy()
    hot = rng.random(shape, np.float32) < hot_pixels
    pattern[hot] += rng.exponential(HOT_LEVEL, int(hot.sum())) * noise.electrons
    return pattern


def take(light: NDArray[np.float32], sensor: Sensor, noise: Noise, rng: np.random.Generator,
         pattern: NDArray[np.float32] | None = None) -> Photo:  # fmt: skip
    """A photo of (H, W) levels at the sensor's sites."""
    black = np.array(sensor.black_level)[tile_planes(sensor.cfa)]
    values = expose(
        light, noise, black=black, white=sensor.white_level, margins=(0, 0, 0, 0), rng=rng, pattern=pattern
    )
    return Photo(mosaic=values, sensor=sensor)


def through_filters(light: NDArray[np.float32], cfa: Cfa) -> NDArray[np.float32]:
    """(H, W): of (H, W, 3) light, at each site the colour that its filter lets through."""
    return mosaic(np.moveaxis(light, -1, 0), cfa)


def canvas(motif: str, shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    """(H, W, 3) linear light, 0.002 to about 0.8: a part of a photograph at up to MAX_ZOOM canvas pixels per pixel.

    Mirrored where the photograph is too small.
    """
    rng = np.random.default_rng([seed, 3])
    light = np.float32(0.01) + np.float32(0.79) * linear_photo(motif)
    zoom = min(max(shape[0] / light.shape[0], shape[1] / light.shape[1], 1.0), MAX_ZOOM)
    large = cv2.resize(light, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    large = np.maximum(large, 0.002)
    lacks = [max(0, need - have) for need, have in zip(shape, large.shape[:2], strict=True)]
    if any(lacks):
        large = np.pad(large, ((0, lacks[0]), (0, lacks[1]), (0, 0)), mode="symmetric")
    top, left = (
        int(rng.integers(have - need + 1)) for need, have in zip(shape, large.shape[:2], strict=True)
    )
    part = large[top : top + shape[0], left : left + shape[1]]
    return np.ascontiguousarray(part[:, :: rng.choice([-1, 1])])


def view(light: NDArray[np.float32], shape: tuple[int, int], reach: tuple[int, int], *,
         displacement: tuple[float, float] = (0.0, 0.0), rotation: float = 0.0, scale: float = 0.0,
         ) -> NDArray[np.float32]:  # fmt: skip
    """(H, W, 3) of a canvas as one photo of a pair shows it; without displacement, rotation and scale, the noisy one.

    With y downwards, noisy = centre + (1 + scale) * R * (gt - displacement - centre), R = [[cos, sin], [-sin, cos]] on
    (x, y): a counter-clockwise turn of the content.

    Args:
        light: the canvas.
        shape: (H, W) of the photo.
        reach: (y, x) of the canvas that the noisy photo's first site shows.
        displacement: (dy, dx) in sites: site (y + dy, x + dx) shows what noisy site (y, x) shows.
        rotation: degrees.
        scale: relative size, minus one.
    """
    angle, size = np.deg2rad(rotation), 1 + scale
    turn = size * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    offset = centre - turn @ (centre + np.array(displacement[::-1])) + np.array(reach[::-1])
    seen = cv2.warpAffine(
        light, np.column_stack([turn, offset]), shape[::-1], borderMode=cv2.BORDER_REFLECT,
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
    )  # fmt: skip
    return np.maximum(seen, 0)
