"""Demosaicing: quality on mosaicked photographs and CPU time, compared with OpenCV and LibRaw.

As plain tests, on one photograph. `make bench` prints the table over scikit-image's photographs: PSNR in dB of
white-balanced camera RGB, in linear light and with a display's gamma, and CPU seconds for 24 megapixels.
"""

import time

import cv2
import numpy as np
import pytest
import rawpy

from rawnind.imaging.color import camera_to_rec2020, rec2020_crop
from rawnind.imaging.coordinates import Rect
from rawnind.imaging.demosaic.camera_rgb import demosaic
from rawnind.imaging.levels import planes
from rawnind.imaging.photo import Photo
from rawnind.imaging.resample import warped_planes
from rawnind.imaging.warp import Warp
from rawnind.records import Cfa
from tests.imaging.demosaicers import (
    PHOTOGRAPHS,
    noiseless_photo,
    opencv_demosaic,
    photograph,
    psnr,
    timed_libraw,
)

SITES = 24e6
SONY = (0.7374, -0.2389, -0.0551, -0.5435, 1.3162, 0.2519, -0.1006, 0.1795, 0.6552)  # ILCE-7C, LibRaw's table
LIBRAW = {
    Cfa.BAYER: ("LINEAR", "VNG", "PPG", "AHD", "DCB", "DHT", "AAHD"),
    Cfa.X_TRANS: ("LINEAR", "VNG", "AHD"),  # the last is LibRaw's X-Trans interpolation in three passes
}
OPENCV = {"bilinear": cv2.COLOR_BayerRGGB2RGB, "EA": cv2.COLOR_BayerRGGB2RGB_EA}  # its VNG takes 8 bits only


def timed(function, *arguments):
    start = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - start


def candidates(photo: Photo):
    """Name, levels and CPU seconds of each demosaicing algorithm."""
    demosaic(photo)
    rgb, seconds = timed(demosaic, photo)
    yield "rawnind", rgb.levels(), seconds
    for name, code in OPENCV.items() if photo.cfa is Cfa.BAYER else ():
        _, seconds = timed(cv2.cvtColor, photo.mosaic, code)
        yield f"OpenCV {name}", opencv_demosaic(photo, code), seconds
    for name in LIBRAW[photo.cfa]:
        yield (f"LibRaw {name}", *timed_libraw(photo, rawpy.DemosaicAlgorithm[name]))


def padded(name: str) -> np.ndarray:
    """A photograph, mirrored to at least 528 sites: LibRaw's X-Trans interpolation refuses less than 512."""
    rgb = photograph(name)
    return np.pad(rgb, ((0, 0), *((0, max(0, 528 - length)) for length in rgb.shape[1:])), mode="reflect")


def frame_24mp(cfa: Cfa) -> Photo:
    tile = photograph("astronaut.png")[:, :504, :504]
    repeated = np.tile(tile, (1, 8, 12))[
        :, : 4000 // cfa.period * cfa.period, : 6000 // cfa.period * cfa.period
    ]
    return noiseless_photo(repeated, cfa)


@pytest.fixture
def one_thread():
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("cfa", Cfa)
def test_psnr_exceeds_every_other_algorithm_by_a_decibel(cfa, benchmark):
    names = PHOTOGRAPHS if benchmark.enabled else PHOTOGRAPHS[:1]
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for name in names:
        photo = noiseless_photo(padded(name), cfa)
        truth = padded(name)[:, : photo.mosaic.shape[0], : photo.mosaic.shape[1]]
        for candidate, levels, seconds in candidates(photo):
            quality = psnr(levels, truth), psnr(levels, truth, display=True)
            rows.setdefault(candidate, []).append((*quality, seconds / photo.mosaic.size * SITES))
    means = {candidate: np.mean(values, axis=0) for candidate, values in rows.items()}
    if benchmark.enabled:
        print(f"\n{cfa}, mean of {', '.join(names)}\n{'':18}  linear  display  CPU s per 24 MP")
        for candidate, (linear, display, seconds) in means.items():
            print(f"{candidate:18} {linear:7.2f} {display:8.2f} {seconds:16.2f}")
    photo = noiseless_photo(photograph(names[0]), cfa)
    benchmark(demosaic, photo)
    ours = means.pop("rawnind")
    assert all(ours[0] > linear + 1 and ours[1] > display + 1 for linear, display, _ in means.values())


@pytest.mark.parametrize("cfa", Cfa)
def test_stages_of_a_24_megapixel_photo(cfa, benchmark):
    whole = frame_24mp(cfa) if benchmark.enabled else noiseless_photo(photograph("astronaut.png"), cfa)
    height, width = whole.mosaic.shape
    rgb, matrix = demosaic(whole), camera_to_rec2020(SONY)
    rect = Rect(0, 0, (height - 1) // cfa.period * cfa.period, (width - 1) // cfa.period * cfa.period)
    warp = Warp.constant((height, width), (-0.5, -0.5))
    tops, lefts = range(0, height - 255, 256), range(0, width - 255, 256)
    stages = {
        "planes": lambda: planes(whole),
        "demosaic": lambda: demosaic(whole),
        "planes at half a site": lambda: warped_planes(rgb, warp, cfa, rect),
        "to Rec.2020, in crops": lambda: [rec2020_crop(rgb, y, x, 256, matrix) for y in tops for x in lefts],
    }
    milliseconds = {}
    for name, stage in stages.items():
        assert np.isfinite(stage().levels() if name == "demosaic" else stage()).all()
        milliseconds[name] = 1000 * min(timed(stage)[1] for _ in range(3 if benchmark.enabled else 1))
    if benchmark.enabled:
        print(
            f"\n{cfa}, {height}x{width}: "
            + ", ".join(f"{name} {ms:.0f} ms" for name, ms in milliseconds.items())
        )
    benchmark(planes, whole)
