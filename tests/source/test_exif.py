"""How a photo was taken: real headers, written tags, damage."""

import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
import rawpy

from rawnind.records import Capture
from rawnind.sample.dng import encode_dng
from rawnind.source.exif import read_exif, with_libraw

TAKEN = Capture(iso=3200, exposure_time=1 / 125, aperture=5.6, focal_length=35.0,
                captured_at="2026-05-01T12:30:05", lens="X", orientation=6)  # fmt: skip


def dng(capture):
    mosaic = np.random.default_rng(1).integers(600, 4000, (32, 48)).astype(np.uint16)
    return encode_dng(mosaic, pattern=[[0, 1], [1, 2]], black_level=[512], white_level=16383, iso=3200, make="SONY",
                      model="ILCE-7C", color_matrix=np.eye(3).ravel(), as_shot_neutral=[0.5, 1, 0.6], capture=capture)  # fmt: skip


def test_written_tags_are_read_by_exifread_and_by_libraw():
    data = dng(TAKEN)
    assert read_exif(io.BytesIO(data)) == (TAKEN, ("SONY", "ILCE-7C"))
    with rawpy.imread(io.BytesIO(data)) as raw:
        libraw = with_libraw(Capture(orientation=6, captured_at=TAKEN.captured_at), raw.other, raw.lens)
        assert libraw == TAKEN


def test_a_file_that_says_little_has_nothing_made_up():
    bare = read_exif(io.BytesIO(dng(None)))[0]
    assert bare == Capture(iso=3200, orientation=1)


REAL = {
    "exiftool_DNG.dng": ("Canon EOS 350D DIGITAL", 400, 1 / 15, 8.0, 55.0, "2005-08-03T18:59:18"),
    "exiftool_FujiFilm.raf": ("FinePix S5Pro", 100, 1 / 250, 8.0, None, None),
    "exiftool_Panasonic.rw2": ("DMC-LX3", 80, 1 / 250, 4.0, 5.1, "2008-08-06T15:21:56"),
    "gopro_hero6.GPR": ("HERO6 Black", 100, 1 / 455, 2.8, 3.0, "2016-01-01T23:07:27"),
}


@pytest.mark.parametrize("name", REAL)
def test_headers_of_real_cameras(name):
    data = os.environ.get("RAWNIND_DATA")
    if not data:
        pytest.skip("RAWNIND_DATA does not say where the real files lie")
    with (Path(data) / "raw" / name).open("rb") as file:
        capture, (_, model) = read_exif(file)
    expected_model, iso, seconds, aperture, focal_length, taken = REAL[name]
    assert (model, capture.iso, capture.aperture) == (expected_model, iso, aperture)
    assert capture.exposure_time == pytest.approx(seconds, rel=1e-5)
    if focal_length:
        assert (capture.focal_length, capture.captured_at) == (focal_length, taken)


def test_damaged_tags_end_in_unknown_values():
    data, dice = dng(TAKEN), random.Random()
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(dice.randrange(1, 12)):
            damaged[dice.randrange(800)] = dice.randrange(256)
        capture, _ = read_exif(io.BytesIO(damaged[: dice.randrange(len(damaged))]))
        assert capture.iso is None or capture.iso > 0
