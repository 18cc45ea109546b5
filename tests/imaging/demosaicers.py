"""Photographs as a camera sees them, and mosaics of them, for tests and benchmarks of demosaicing and colour."""

import io
import time
from functools import cache

import cv2
import numpy as np
import rawpy
import skimage
from numpy.typing import NDArray

from rawnind.imaging.levels import mosaic
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa, Sensor
from rawnind.sample.dng import encode_dng

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")  # those in colour that come with scikit-image
BALANCE = np.array([0.5, 1.0, 0.65])  # camera RGB of white, typical under daylight
# Linear sRGB -> camera RGB before the balance: filters overlap. Invented, of the size of real ones.
MIXING = np.array([[0.6, 0.3, 0.1], [0.15, 0.75, 0.1], [0.05, 0.3, 0.65]])
# IEC 61966-2-1, linear.
XYZ_TO_SRGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.204, 1.057]])
BORDER = 8  # sites that are left out of a comparison


@cache
def photograph(name: str) -> NDArray[np.float64]:
    """(3, H, W) levels 0..1 of one of `PHOTOGRAPHS` in camera RGB, linear light."""
    coded = getattr(skimage.data, name)()[..., :3] / 255.0
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    return np.moveaxis(linear @ MIXING.T * BALANCE, -1, 0)


def sensor(
    cfa: Cfa, shape: tuple[int, int], black: tuple[float, ...] | float = 512.0, white: float = 16383.0
) -> Sensor:
    """A sensor of the given size whose frame starts on the pattern."""
    levels = black if isinstance(black, tuple) else (black,) * len(cfa.plane_colors)
    return Sensor(
        cfa=cfa,
        origin=(0, 0),
        height=shape[0],
        width=shape[1],
        black_level=levels,
        white_level=white,
        overexposure_lb=1.0,
        rgb_xyz_matrix=None,
        camera="Test",
    )


def expose(rgb: NDArray[np.float64], cfa: Cfa, black: float = 512.0, white: float = 16383.0) -> Photo:
    """A photo of a colour image, cut to whole tiles, without noise."""
    height, width = (length // cfa.period * cfa.period for length in rgb.shape[1:])
    levels = mosaic(rgb[:, :height, :width], cfa)
    values = np.clip(np.round(levels * (white - black) + black), 0, 65535).astype(np.uint16)
    return Photo(mosaic=values, sensor=sensor(cfa, (height, width), black, white))


def psnr(image: NDArray[np.floating], truth: NDArray[np.floating], *, display: bool = False) -> float:
    """Peak signal-to-noise ratio in dB of white-balanced camera RGB, in linear light or as a display shows it."""
    (height, width), white = image.shape[1:], BALANCE[:, None, None]
    pair = [a[:, BORDER : height - BORDER, BORDER : width - BORDER] / white for a in (image, truth)]
    if display:
        pair = [np.clip(a, 0, 1) ** (1 / 2.2) for a in pair]
    return float(-10 * np.log10(np.mean((pair[0] - pair[1]) ** 2)))


def opencv_demosaic(photo: Photo, code: int) -> NDArray[np.float64]:
    """(3, H, W) levels by OpenCV from a Bayer photo without noise; its own border is left as it is."""
    black, span = photo.sensor.black_level[0], photo.sensor.white_level - photo.sensor.black_level[0]
    return (np.moveaxis(cv2.cvtColor(photo.mosaic, code), -1, 0).astype(np.float64) - black) / span


def libraw_demosaic(photo: Photo, algorithm: rawpy.DemosaicAlgorithm) -> NDArray[np.float64]:
    """(3, H, W) levels by LibRaw from a DNG of the photo, balanced as it wants it."""
    return timed_libraw(photo, algorithm)[0]


def timed_libraw(photo: Photo, algorithm: rawpy.DemosaicAlgorithm) -> tuple[NDArray[np.float64], float]:
    """`libraw_demosaic`, and the CPU seconds that LibRaw took after unpacking."""
    data = encode_dng(
        photo.mosaic,
        pattern=photo.cfa.tile,
        black_level=[round(level) for level in photo.sensor.black_level][
            : 4 if photo.cfa is Cfa.BAYER else 1
        ],
        white_level=round(photo.sensor.white_level),
        iso=100,
        make="Test",
        model="Test",
        color_matrix=(BALANCE[:, None] * MIXING @ XYZ_TO_SRGB).ravel(),
        as_shot_neutral=BALANCE,
    )
    with rawpy.imread(io.BytesIO(data)) as raw:
        raw.raw_image_visible.max()  # unpacks
        start = time.process_time()
        image = raw.postprocess(
            demosaic_algorithm=algorithm, output_color=rawpy.ColorSpace.raw, gamma=(1, 1), output_bps=16,
            no_auto_bright=True, use_camera_wb=True, user_flip=0,
        )  # fmt: skip
        seconds = time.process_time() - start
    return np.moveaxis(image, -1, 0) / 65535 * BALANCE[:, None, None], seconds
