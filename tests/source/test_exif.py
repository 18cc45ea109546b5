"""How a photo was taken: real headers, written tags, damage."""

import io
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import rawpy

from rawnind.records import Capture
from rawnind.sample.dng import encode_dng
from rawnind.source.exif import read_exif, with_libraw
from tests.source.tiff_maker import directory, tiff

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


FIRST = {271: "Make", 272: "Model", 274: (6,)}
EXIF = {
    33434: ((1, 125),),
    33437: ((56, 10),),
    34855: (3200,),
    36867: "2026:05:01 12:30:05",
    37386: ((35, 1),),
    42036: "X",
}


def boxes(*contents):
    return b"".join(struct.pack(">I4s", 8 + len(content), kind) + content for kind, content in contents)


CONTAINERS = {
    "CR3": boxes((b"ftyp", b"crx \0\0\0\1"), (b"moov", boxes((b"CMT1", tiff(FIRST)), (b"CMT2", tiff(EXIF))))),
    "MRW": b"\0MRM"
    + bytes(4)
    + b"\0PRD"
    + struct.pack(">I", 4)
    + bytes(4)
    + b"\0TTW"
    + bytes(4)
    + tiff(FIRST, exif=EXIF),
    "ORF": tiff(FIRST, exif=EXIF, magic=b"IIRO"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_tags_are_found_where_each_format_has_them(name):
    assert read_exif(io.BytesIO(CONTAINERS[name])) == (TAKEN, ("Make", "Model"))


def canon(at):
    return directory({0x95: "EF50mm f/1.4 USM"}, at)


def panasonic(at):
    return b"Panasonic\0\0\0" + directory({0x51: "LUMIX G 20/F1.7"}, at + 12)


def olympus(at):
    equipment = directory({0x203: "OLYMPUS M.17mm F1.8"}, at + 30, base=at)
    return b"OLYMPUS\0II\3\0" + directory({0x2010: 30}, at + 12, base=at) + equipment


def nikon(at):
    """With a TIFF of its own, as since the D100."""
    tags = directory(
        {2: (0, 200), 0x84: ((18, 1), (70, 1), (7, 2), (9, 2))}, at + 18, order=">", base=at + 10
    )
    return b"Nikon\0\2\x10\0\0MM\0*\0\0\0\x08" + tags


def old_nikon(at):
    """As of the D1."""
    return directory({2: (0, 200), 0x84: ((20, 1), (20, 1), (28, 10), (28, 10))}, at)


NOTES = {
    "Canon": (canon, None, "EF50mm f/1.4 USM"),
    "Panasonic": (panasonic, None, "LUMIX G 20/F1.7"),
    "OLYMPUS IMAGING CORP.": (olympus, None, "OLYMPUS M.17mm F1.8"),
    "NIKON CORPORATION": (nikon, 200, "18-70mm f/3.5-4.5"),
    "NIKON": (old_nikon, 200, "20mm f/2.8"),
    "SONY": (canon, None, None),
}


@pytest.mark.parametrize("make", NOTES)
def test_the_makers_notes_say_what_the_tags_leave_out(make):
    note, iso, lens = NOTES[make]
    data = tiff({271: make, 272: "Model"}, exif={33434: ((1, 125),), 37500: note})
    assert read_exif(io.BytesIO(data)) == (
        Capture(iso=iso, exposure_time=1 / 125, lens=lens),
        (make, "Model"),
    )


def test_the_tags_come_before_the_makers_notes():
    data = tiff({271: "NIKON CORPORATION"}, exif={34855: (400,), 37500: nikon, 42036: "Zoom"})
    assert read_exif(io.BytesIO(data))[0] == Capture(iso=400, lens="Zoom")


@pytest.mark.parametrize("tag", [0x8831, 0x8832, 0x8833])
def test_an_iso_beyond_16_bits_is_in_another_tag(tag):
    assert read_exif(io.BytesIO(tiff(FIRST, exif={34855: (65535,), tag: 204_800})))[0].iso == 204_800
    assert read_exif(io.BytesIO(tiff(FIRST, exif={34855: (51_200,), tag: 25_600})))[0].iso == 51_200
    assert read_exif(io.BytesIO(tiff(FIRST, exif={34855: (65535,)})))[0].iso == 65535


def test_dashes_are_no_lens():
    assert read_exif(io.BytesIO(tiff(FIRST, exif={42036: "----"})))[0].lens is None


def test_a_lens_without_a_name_has_its_focal_lengths():
    data = tiff(FIRST, exif={42034: ((18, 1), (55, 1), (28, 10), (4, 1))})
    assert read_exif(io.BytesIO(data))[0].lens == "18-55mm f/2.8-4"


@pytest.mark.parametrize(
    "values", ["18mm", "18m", 50, ((18, 1), (55, 1)), ((18, 0), (55, 0), (3, 0), (4, 0))]
)
def test_a_lens_with_other_numbers_is_unknown(values):
    data = tiff({271: "Make"}, exif={33434: ((1, 125),), 42034: values})
    assert read_exif(io.BytesIO(data)) == (Capture(exposure_time=1 / 125), ("Make", ""))


def test_damaged_notes_end_in_unknown_values():
    dice = random.Random()
    for make, (note, *_) in NOTES.items():
        data = tiff({271: make}, exif={37500: note})
        for _ in range(40):
            damaged = bytearray(data)
            for _ in range(dice.randrange(1, 8)):
                damaged[dice.randrange(20, len(data))] = dice.randrange(256)
            capture, _ = read_exif(io.BytesIO(damaged[: dice.randrange(20, len(data) + 1)]))
            assert capture.iso is None or capture.iso > 0


def test_damaged_tags_end_in_unknown_values():
    data, dice = dng(TAKEN), random.Random()
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(dice.randrange(1, 12)):
            damaged[dice.randrange(800)] = dice.randrange(256)
        capture, _ = read_exif(io.BytesIO(damaged[: dice.randrange(len(damaged))]))
        assert capture.iso is None or capture.iso > 0
