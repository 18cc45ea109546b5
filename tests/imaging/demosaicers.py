"""What demosaicing is judged by: photographs as photos without noise, PSNR, and OpenCV's and LibRaw's demosaicing."""

import io
import time
from functools import cache

import cv2
import numpy as np
import rawpy
from numpy.typing import NDArray

from rawnind.imaging.levels import mosaic
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa
from rawnind.sample.dng import encode_dng
from rawnind.sample.simulator import SRGB_TO_XYZ, linear_photo
from tests.imaging.simulation import make_sensor

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")  # in colour, from scikit-image
BALANCE = np.array([0.5, 1.0, 0.65])  # camera RGB of white, typical under daylight
# Linear sRGB -> camera RGB before the balance: filters overlap. Invented, of the size of real ones.
MIXING = np.array([[0.6, 0.3, 0.1], [0.15, 0.75, 0.1], [0.05, 0.3, 0.65]])
BORDER = 8  # sites that are left out of a comparison


@cache
def photograph(name: str) -> NDArray[np.float64]:
    """(3, H, W) levels 0..1 of one of `PHOTOGRAPHS` in camera RGB, linear light."""
    return np.moveaxis(linear_photo(name) @ MIXING.T * BALANCE, -1, 0)


def noiseless_photo(
    rgb: NDArray[np.float64], cfa: Cfa, black: float = 512.0, white: float = 16383.0
) -> Photo:
    """A photo of a colour image, cut to whole tiles."""
    height, width = (length // cfa.period * cfa.period for length in rgb.shape[1:])
    levels = mosaic(rgb[:, :height, :width], cfa)
    values = np.clip(np.round(levels * (white - black) + black), 0, 65535).astype(np.uint16)
    return Photo(mosaic=values, sensor=make_sensor(cfa, (height, width), black=black, white=white))


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
    """(3, H, W) levels by LibRaw from a DNG of the photo, with its white balance."""
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
        color_matrix=(BALANCE[:, None] * MIXING @ np.linalg.inv(SRGB_TO_XYZ)).ravel(),
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
