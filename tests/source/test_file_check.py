"""What a file is, from its header: real files, made ones, and damage."""

import hashlib
import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import rawpy
import tifffile

from rawnind.errors import SourceError
from rawnind.reasons import Reason
from rawnind.records import Cfa, ImageRef
from rawnind.sample.dng import encode_dng
from rawnind.source.decode import decode, headers
from rawnind.source.file_check import Unusable, check, check_file
from tests.source.tiff_maker import tiff


def dng(cfa=Cfa.BAYER):
    mosaic = np.random.default_rng(2).integers(600, 4000, (60, 72)).astype(np.uint16)
    return encode_dng(mosaic, pattern=cfa.tile, black_level=[512], white_level=16383, iso=100, make="SONY",
                      model="ILCE-7C", color_matrix=np.eye(3).ravel(), as_shot_neutral=[0.5, 1, 0.6])  # fmt: skip


def linear_dng(samples):
    """A DNG of demosaiced pixels; tifffile writes none with a single sample, so the tag is written over."""
    file = io.BytesIO()
    pixels = np.full((48, 64, 3) if samples == 3 else (48, 64), 900, np.uint16)
    tifffile.imwrite(file, pixels, photometric="rgb" if samples == 3 else "minisblack", metadata=None,
                     extratags=[(50706, "B", 4, b"\1\4\0\0", True), (50708, "s", 0, "Leica M", True)])  # fmt: skip
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        struct.pack_into("<H", data, tiff.pages.first.tags[262].valueoffset, 34892)
    return bytes(data)


def sraw():
    """A CR2 of four directories, the last of which points to a lossless JPEG of three components, the first sampled 2x1."""
    frame = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHB", 17, 15, 40, 60, 3) + b"\1\x21\0\2\x11\0\3\x11\0"
    head = b"II*\0\x10\0\0\0CR\2\0" + bytes(4)
    data, start = b"", 16
    for number in range(4):
        following = 0 if number == 3 else start + 18
        data += struct.pack("<HHHIII", 1, 273, 4, 1, 16 + 4 * 18, following)
        start += 18
    return head + data + frame + bytes(5000)


def boxes(*boxes):
    return b"".join(struct.pack(">I4s", 8 + len(content), kind) + content for kind, content in boxes)


FILES = {
    "empty.cr2": (b"", Unusable.EMPTY),
    "page.arw": (b"\n <!DOCTYPE html><html><title>404</title></html>", Unusable.HTML),
    "pointer.arw": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", Unusable.POINTER),
    "picture.nef": (b"\xff\xd8\xff\xe1" + bytes(3000), Unusable.JPEG),
    "picture.orf": (b"\x89PNG\r\n\x1a\n" + zlib.compress(bytes(500)), Unusable.IMAGE),
    "phone.dng": (boxes((b"ftyp", b"heic" + bytes(8)), (b"mdat", bytes(9000))), Unusable.IMAGE),
    "photos.rw2": (b"PK\3\4" + bytes(400), Unusable.ARCHIVE),
    "shell.cr3": (boxes((b"ftyp", b"crx \0\0\0\1crx isom"), (b"moov", bytes(900)), (b"mdat", bytes(8))), Unusable.NO_PIXELS),
    "half.cr3": (boxes((b"ftyp", b"crx \0\0\0\1crx isom"), (b"mdat", bytes(9000)))[:4000], Unusable.CUT),
    "linear.dng": (linear_dng(3), Unusable.DEMOSAICED),
    "sraw.cr2": (sraw(), Unusable.DEMOSAICED),
    "mono.dng": (linear_dng(1), Unusable.MONOCHROME),
    "half.dng": (dng()[:5000], Unusable.CUT),
    "foveon.x3f": (b"FOVb" + bytes(5000), Unusable.FOVEON),
    "scan.nef": (tiff({259: (1,), 262: (2,), 273: 256, 277: (3,), 279: 9000}).ljust(256) + bytes(9000), Unusable.DEMOSAICED),
}  # fmt: skip


def photo(path, data):
    path.write_bytes(data)
    return ImageRef(cfa=Cfa.BAYER, scene="a", ground_truth=True, iso=100, filename=path.name, path=str(path),
                    sha1=hashlib.sha1(data).hexdigest())  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_plan_and_run_name_what_a_file_is(tmp_path, name):
    data, kind = FILES[name]
    assert check(data).unusable is kind
    ref = photo(tmp_path / name, data)
    with (tmp_path / name).open("rb") as file:
        assert check_file(file).unusable is kind
    with pytest.raises(SourceError) as planned:
        headers(ref, delay=0)
    assert (planned.value.reason, planned.value.detail) == (kind.reason, f"{name}: {kind.words}")
    with pytest.raises(SourceError) as run:
        decode(ref, delay=0)
    if kind is not Unusable.CUT:  # of which LibRaw knows more
        assert run.value.detail == planned.value.detail


@pytest.mark.parametrize("cfa", Cfa)
def test_a_photo_is_taken_for_what_it_is(cfa):
    found = check(dng(cfa))
    assert (found.unusable, found.cfa) == (None, cfa)


def mosaic(starts, counts):
    """A RAW file of TIFF's kin that has 10,000 bytes, whatever its directory says of its pixels."""
    return tiff({256: 100, 257: 50, 273: starts, 278: 25, 279: counts}).ljust(10_000, b"\1")


CRW = (
    b"II\x1a\0\0\0HEAPCCDR".ljust(26 + 9000, b"\xff")
    + struct.pack("<H", 2)
    + bytes(20)
    + struct.pack("<I", 9000)
)
"""Its heap begins at 26, and its directory of two entries 9,000 bytes later."""


@pytest.mark.parametrize(
    ("data", "least"),
    [
        (mosaic(1000, 9000), 10_000),  # as ARW, NEF, ORF, PEF and SRW: the pixels end with the file
        (mosaic([1000, 5500], [4500, 4500]), 10_000),
        (
            mosaic([1000, 5500], [4500, 9000]),
            10_000,
        ),  # the last of several strips may be counted as more than its rows
        (tiff({280: 1000, 273: 0xFFFFFFFF, 279: 0}, magic=b"IIU\0").ljust(10_000, b"\1"), 1001),  # as RW2
        (
            tiff({2: 126, 3: 62, 45: (4,), 280: 1000, 273: 0xFFFFFFFF, 279: 0}, magic=b"IIU\0").ljust(
                10_000, b"\1"
            ),
            9928,
        ),
        (CRW, len(CRW)),
    ],
)
def test_a_file_is_cut_where_its_pixels_lie_beyond_its_end(data, least):
    assert check(data).unusable is None
    assert check(data[:least]).unusable is None
    assert check(data[: least - 1]).unusable is Unusable.CUT


def test_a_raf_is_cut_where_its_pixels_are_not_all_there():
    directory = struct.pack(">IHH", 1, 0x131, 36) + bytes(36)
    head = b"FUJIFILMCCD-RAW ".ljust(92, b"\0") + struct.pack(">4I", 148, len(directory), 1000, 9000)
    data = (head.ljust(148, b"\0") + directory).ljust(10_000, b"\1")
    assert (check(data).unusable, check(data).cfa) == (None, Cfa.X_TRANS)
    for length in (9999, 1000, 160, 120):
        assert check(data[:length]).unusable is Unusable.CUT


def test_a_photo_that_was_cut_is_named_as_such_whatever_libraw_makes_of_it(tmp_path):
    with pytest.raises(SourceError) as failed:
        decode(photo(tmp_path / "a.arw", mosaic(1000, 9000)[:5000]), delay=0)
    assert failed.value.reason is Reason.TRUNCATED
    assert failed.value.detail.startswith("a.arw: the file ends before its pixels do (LibRaw reports: ")


def test_rows_that_libraw_repeats_are_no_photo(tmp_path):
    """LibRaw fills what is missing of an ARW with its last row, and raises nothing."""
    tags = {
        256: 64,
        257: 48,
        258: (12,),
        259: (32767,),
        262: (32803,),
        273: 1024,
        277: (1,),
        278: 48,
        279: 64 * 48,
    }
    head = tiff({271: "SONY", 272: "ILCE-7M3", **tags, 33421: (2, 2), 33422: b"\0\1\1\2"})
    data = head.ljust(1024, b"\0") + np.random.default_rng(1).bytes(64 * 48)
    assert decode(photo(tmp_path / "whole.arw", data), delay=0)[0].shape == (48, 64)
    with rawpy.imread(io.BytesIO(data[:2500])) as raw:
        np.testing.assert_array_equal(raw.raw_image[-1], raw.raw_image[-2])
    with pytest.raises(SourceError) as failed:
        decode(photo(tmp_path / "cut.arw", data[:2500]), delay=0)
    assert (failed.value.reason, failed.value.detail) == (
        Reason.TRUNCATED,
        "cut.arw: the file ends before its pixels do",
    )


def test_a_file_that_ends_in_its_directories_is_cut():
    assert check(mosaic([1000, 5500], [4500, 4500])[:60]).unusable is Unusable.CUT


REAL = {
    "blackmagic.dng": None, "kodak_dc50.KDC": None, "quicktake100.QTK": None, "exiftool_DNG.dng": None,
    "exiftool_FujiFilm.raf": Unusable.SUPERCCD, "exiftool_Panasonic.rw2": Unusable.CUT, "gopro_hero6.GPR": Unusable.GPR,
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_files(name):
    data = os.environ.get("RAWNIND_DATA")
    if not data:
        pytest.skip("RAWNIND_DATA does not say where the real files lie")
    assert check((Path(data) / "raw" / name).read_bytes()).unusable is REAL[name]


def test_damaged_headers_end_in_an_answer():
    dice = random.Random()
    sources = [dng(), linear_dng(3), sraw(), FILES["shell.cr3"][0], b"FUJIFILMCCD-RAW " + bytes(200)]
    for _ in range(400):
        data = bytearray(dice.choice(sources))
        for _ in range(dice.randrange(1, 20)):
            data[dice.randrange(min(len(data), 600))] = dice.randrange(256)
        check(bytes(data[: dice.randrange(len(data) + 1)]))


def test_what_libraw_writes_is_given_the_name_of_the_file(tmp_path, capfd):
    ref = photo(tmp_path / "half.dng", dng()[:5000])
    with pytest.raises(SourceError, match=r"half\.dng: LibRaw reports: .*Unexpected end of file"):
        decode(ref, delay=0)
    assert "unknown file" not in capfd.readouterr().err
