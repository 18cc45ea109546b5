"""Simulates a camera: photographs as scenes in linear light, colour filter array, and sensor noise.

A scene is a function of continuous coordinates, so that two photos of it may lie any part of a pixel apart.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import cv2
import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from rawnind.errors import ConfigError
from rawnind.sample.truth import Ellipse

SRGB_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))  # IEC 61966-2-1
FULL_WELL = 50_000.0  # electrons at ISO 100, as a full-frame sensor
READ_ELECTRONS, CONVERTER_ELECTRONS = 1.2, 3.0  # before the amplifier, and after it at ISO 100
ROW_ELECTRONS = 0.3
VEIL = 0.004  # light that a lens scatters: no level of a photograph is exactly 0
DETAIL_ZOOM, DETAIL_CONTRAST = 1.5, 0.25
SMALLEST_ZOOM, LARGEST_ZOOM = 1.25, 3.0  # sites per pixel: below the first, photos would alias
LAMP_LEVEL = 4.0
BAND = 384  # rows worked on at once, to keep memory small; a multiple of both periods

Levels = NDArray[np.float32]
Sites = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Rows and columns in scene coordinates."""


@lru_cache(maxsize=4)
def linear_photo(name: str) -> Levels:
    """(H, W, 3) linear sRGB in 0..1 of a photograph that the scikit-image package carries.

    Raises:
        ConfigError: The installed scikit-image does not carry it.
    """
    try:
        data = (files("skimage") / "data" / name).read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(
            f"the installed scikit-image lacks {name}; install the one in constraints.txt"
        ) from error
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    encoded = np.arange(256) / 255  # IEC 61966-2-1
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    photo = (VEIL + (1 - VEIL) * linear).astype(np.float32)[image]
    photo.flags.writeable = False  # shared by all callers
    return photo


@lru_cache(maxsize=4)
def camera_rgb(
    name: str, xyz_to_camera: tuple[float, ...], mean: float, brightest: float
) -> tuple[Levels, float]:
    """A photograph as (H, W, 3) camera RGB levels, and the factor between linear light and these levels.

    The green plane's mean is `mean`, or less where the brightest 0.1 % of the values would pass `brightest`.
    """
    matrix = np.reshape(xyz_to_camera, (3, 3)) @ SRGB_TO_XYZ
    pixels = np.einsum("yxc,kc->yxk", linear_photo(name), matrix.astype(np.float32))
    green, bright = float(pixels[..., 1].mean(dtype=np.float64)), float(np.quantile(pixels, 0.999))
    exposure = min(mean / green, brightest / bright)
    pixels *= np.float32(exposure)
    pixels.flags.writeable = False
    return pixels, exposure


def texture(name: str) -> Levels:
    """A photograph of a surface as (H, W, 3) factors around 1."""
    surface = linear_photo(name)
    return 1 + np.float32(DETAIL_CONTRAST) * (surface / np.float32(surface.mean(dtype=np.float64)) - 1)


def fill_zoom(photo: Levels, size: tuple[int, int]) -> float:
    """Fills the frame where LARGEST_ZOOM allows it; beyond, the photo is mirrored."""
    fill: float = max(want / have for want, have in zip(size, photo.shape[:2], strict=True))
    return min(max(fill, SMALLEST_ZOOM), LARGEST_ZOOM)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """A photo that fills the plane: enlarged, and mirrored at its edges.

    Attributes:
        pixels: (h, w, 3).
        zoom: sites per pixel of the photo.
        at: (y, x) of the photo, in its pixels, at the scene's point (0, 0).
    """

    pixels: Levels
    zoom: float
    at: tuple[float, float]

    def sample(self, y: NDArray[np.float64], x: NDArray[np.float64], tile: NDArray[np.uint8]) -> Levels:
        """(len(y), len(x)): at scene row y[i] and column x[j] the colour `tile[i % period, j % period]`.

        Args:
            y: (h,) scene rows.
            x: (w,) scene columns.
            tile: (period, period) colour indices.
        """
        height, width, _ = self.pixels.shape
        period = len(tile)
        rows = _catmull_rom(y / self.zoom + self.at[0], height)
        columns = _catmull_rom(x / self.zoom + self.at[1], width)
        enlarged = (rows @ self.pixels.reshape(height, -1)).reshape(len(y), width, 3)
        mosaic = np.empty((len(y), len(x)), np.float32)
        for i in range(period):
            for j in range(period):
                plane = np.ascontiguousarray(enlarged[i::period, :, tile[i, j]].T)
                mosaic[i::period, j::period] = (columns[j::period] @ plane).T
        return np.maximum(mosaic, 0, out=mosaic)


def _catmull_rom(positions: NDArray[np.float64], size: int) -> scipy.sparse.csr_array:
    """Weights (len(positions), size) of Catmull-Rom's cubic on `size` mirrored samples."""
    base = np.floor(positions)
    t = positions - base
    weights = np.stack(
        [
            ((-0.5 * t + 1) * t - 0.5) * t,
            (1.5 * t - 2.5) * t * t + 1,
            ((-1.5 * t + 2) * t + 0.5) * t,
            (0.5 * t - 0.5) * t * t,
        ],
        axis=1,
    )
    index = base.astype(np.int64)[:, None] + np.arange(-1, 3)
    index = (size - 1) - np.abs((size - 1) - index % (2 * size - 2))
    starts = np.arange(0, 4 * len(positions) + 1, 4)
    shape = (len(positions), size)
    return scipy.sparse.csr_array((weights.astype(np.float32).ravel(), index.ravel(), starts), shape=shape)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scenery:
    """The scene in front of the camera; levels are those of the scene's exposure.

    Attributes:
        view: in camera RGB levels.
        detail: a texture of mean 1 that the view is multiplied with.
        lamp: in scene coordinates.
        dark: the region that is dark, in scene coordinates.
        thing: the photo of the object that moves, in camera RGB levels; (0, 0) is the object's centre.
    """

    view: Picture
    detail: Picture
    lamp: Ellipse | None
    dark: Ellipse | None
    thing: Picture

    def levels(self, offset: tuple[float, float], size: tuple[int, int], tile: NDArray[np.uint8],
               thing_at: Ellipse | None) -> Levels:  # fmt: skip
        """(height, width) levels from the scene's point `offset` on, before noise, not clipped at 1."""
        y, x = (start + np.arange(count, dtype=np.float64) for start, count in zip(offset, size, strict=True))
        levels = np.empty(size, np.float32)
        for top in range(0, size[0], BAND):
            rows = slice(top, top + BAND)
            levels[rows] = self.view.sample(y[rows], x, tile) * self.detail.sample(y[rows], x, tile)
        if thing_at is not None:
            _put(levels, self.thing, thing_at, (y, x), tile)
        if self.dark is not None:
            _darken(levels, self.dark, (y, x))
        if self.lamp is not None:
            _shine(levels, self.lamp, (y, x))
        return levels


def _put(levels: Levels, thing: Picture, at: Ellipse, sites: Sites, tile: NDArray[np.uint8]) -> None:
    """Lays an object over `levels`, with an edge of one site that counts by the share that it covers."""
    y, x = sites
    if (covered := _cover(at, sites)) is None:
        return
    i, j, cover = covered
    box = np.s_[i[0] : i[-1] + 1, j[0] : j[-1] + 1]
    seen = thing.sample(y[i] - at.y, x[j] - at.x, np.roll(tile, (-i[0], -j[0]), (0, 1)))
    levels[box] += cover * (seen - levels[box])


def _darken(levels: Levels, at: Ellipse, sites: Sites) -> None:
    """Takes all light from a region of `levels`."""
    if (covered := _cover(at, sites)) is not None:
        i, j, cover = covered
        levels[i[0] : i[-1] + 1, j[0] : j[-1] + 1] *= 1 - cover


def _cover(at: Ellipse, sites: Sites) -> tuple[NDArray[np.intp], NDArray[np.intp], Levels] | None:
    """Rows and columns around a region, and the share of each of their sites that it covers; None where it is not in the frame."""
    y, x = sites
    i = np.flatnonzero(np.abs(y - at.y) <= at.semi_y + 1)
    j = np.flatnonzero(np.abs(x - at.x) <= at.semi_x + 1)
    if not (i.size and j.size):
        return None
    radius = np.hypot((y[i] - at.y)[:, None] / at.semi_y, (x[j] - at.x)[None, :] / at.semi_x)
    return i, j, np.clip((1 - radius) * min(at.semi_y, at.semi_x) + 0.5, 0, 1).astype(np.float32)


def _shine(levels: Levels, lamp: Ellipse, sites: Sites) -> None:
    """Adds a disc of LAMP_LEVEL with a glow around it that falls off like a Gaussian."""
    y, x = sites
    reach = 3 * lamp.semi_y
    i = np.flatnonzero(np.abs(y - lamp.y) <= reach)
    j = np.flatnonzero(np.abs(x - lamp.x) <= reach)
    if not (i.size and j.size):
        return
    radius = np.hypot((y[i] - lamp.y)[:, None], (x[j] - lamp.x)[None, :])
    away = np.maximum(radius - lamp.semi_y, 0) / (0.4 * lamp.semi_y)
    levels[i[0] : i[-1] + 1, j[0] : j[-1] + 1] += (LAMP_LEVEL * np.exp(-0.5 * away * away)).astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """A sensor's noise at one ISO.

    Attributes:
        electrons: at level 1.
        read: standard deviation per site, in electrons.
        row: standard deviation per row, in electrons.
    """

    electrons: float
    read: float
    row: float

    @classmethod
    def at(cls, iso: int) -> "Noise":
        """A full-frame sensor: at ISO 65535 a level of 0.17 has a standard deviation of 0.05.

        >>> noise = Noise.at(65535)
        >>> round((0.17 / noise.electrons + (noise.read / noise.electrons) ** 2) ** 0.5, 3)
        0.05
        """
        amplification = iso / 100
        read = float(np.hypot(READ_ELECTRONS, CONVERTER_ELECTRONS / amplification))
        return cls(electrons=FULL_WELL / amplification, read=read, row=ROW_ELECTRONS)


def expose(levels: Levels, noise: Noise, *, black: NDArray[np.number], white: float, margins: tuple[int, int, int, int],
           rng: np.random.Generator, pattern: NDArray[np.float32] | None = None) -> NDArray[np.uint16]:  # fmt: skip
    """Sensor values with photon, read and row noise, rounded and cut to 0..white.

    Args:
        levels: (H, W) of the visible area; more than 1 is overexposed.
        noise: at the photo's ISO.
        black: (period, period) sensor value of level 0 for each site of the pattern.
        white: sensor value of level 1.
        margins: top, left, bottom, right; they get no light. Top and left are multiples of the period.
        rng: where the noise comes from.
        pattern: (top + H + bottom, left + W + right) electrons that the sensor adds at each site, such as hot pixels.

    Returns:
        (top + H + bottom, left + W + right).
    """
    top, left, bottom, right = margins
    height, width = levels.shape[0] + top + bottom, levels.shape[1] + left + right
    repeats = (-(-BAND // len(black)), -(-width // len(black)))
    floor = np.tile(black, repeats)[:, :width].astype(np.float32)
    values = np.empty((height, width), np.uint16)
    for start in range(0, height, BAND):
        lit = levels[max(start - top, 0) : max(start + BAND - top, 0)]
        rows = min(BAND, height - start)
        light = np.zeros((rows, width))
        first = max(top - start, 0)
        light[first : first + len(lit), left : left + levels.shape[1]] = lit
        electrons = rng.poisson(light * noise.electrons).astype(np.float32)
        electrons += np.float32(noise.read) * rng.standard_normal((rows, width), np.float32)
        electrons += np.float32(noise.row) * rng.standard_normal((rows, 1), np.float32)
        if pattern is not None:
            electrons += pattern[start : start + rows]
        signal = electrons * ((np.float32(white) - floor[:rows]) / np.float32(noise.electrons)) + floor[:rows]
        values[start : start + rows] = np.clip(np.rint(signal), 0, white)
    return values
