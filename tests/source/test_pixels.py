"""Every decode depends on the file alone, and pixels that the file does not hold end in `incomplete`."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from rawnind.errors import SourceError
from rawnind.reasons import Reason
from rawnind.records import Cfa, ImageRef
from rawnind.sample.dng import encode_dng
from rawnind.source.decode import decode
from rawnind.source.pixels import filled_memory, has_solid_zeros

MATRIX = (0.7374, -0.2389, -0.0551, -0.5435, 1.3162, 0.2519, -0.1006, 0.1795, 0.6552)
HEAD_OF_A_TILE = slice(1_699_776, 1_699_776 + 64)
"""In blackmagic.dng; LibRaw stops decoding there without an error."""


@pytest.fixture
def put(tmp_path):
    """Writes bytes to a file and returns how the index would name it."""

    def write(data, filename="photo.dng"):
        path = tmp_path / filename
        path.write_bytes(data)
        return ImageRef(cfa=Cfa.BAYER, scene="a", ground_truth=True, iso=100, filename=path.name, path=str(path),
                        sha1=hashlib.sha1(data).hexdigest())  # fmt: skip

    return write


def real_file(name):
    if "RAWNIND_DATA" not in os.environ:
        pytest.skip("RAWNIND_DATA does not say where real camera files lie")
    return (Path(os.environ["RAWNIND_DATA"]) / "raw" / name).read_bytes()


def dng(mosaic, black=512):
    return encode_dng(mosaic, pattern=Cfa.BAYER.tile, black_level=(black,), white_level=16383, iso=800, make="SONY",
                      model="ILCE-7C", color_matrix=MATRIX, as_shot_neutral=(0.5, 1.0, 0.7))  # fmt: skip


def refusal(photo):
    with pytest.raises(SourceError) as caught:
        decode(photo)
    return caught.value.reason, caught.value.detail


WARM = """
import sys
from pydantic import TypeAdapter
from rawnind.errors import SourceError
from rawnind.pipeline.malloc import keep_freed_memory
from rawnind.records import ImageRef
from rawnind.source.decode import decode
keep_freed_memory()
whole, damaged = (TypeAdapter(ImageRef).validate_json(text) for text in sys.stdin)
for _ in range(3):
    decode(whole)  # the memory that it frees holds a photo
    try:
        decode(damaged)
    except SourceError as error:
        print(error.reason, error.detail)
"""


@pytest.mark.parametrize(("name", "missing"), [("blackmagic.dng", "50.00%"), ("exiftool_DNG.dng", "100.00%")])
def test_a_part_that_was_never_written_is_found_in_cold_and_warm_workers(put, name, missing):
    whole, data = put(real_file("blackmagic.dng"), "whole.dng"), bytearray(real_file(name))
    if name == "blackmagic.dng":
        data[HEAD_OF_A_TILE] = bytes(64)
    damaged = put(bytes(data), "damaged.dng")
    reason, detail = refusal(damaged)
    assert (reason, detail) == (
        Reason.INCOMPLETE,
        f"damaged.dng: {missing} of its pixels are not in the file; copy it again",
    )
    photos = "\n".join(TypeAdapter(ImageRef).dump_json(photo).decode() for photo in (whole, damaged))
    warm = subprocess.run(
        [sys.executable, "-c", WARM], input=photos, capture_output=True, text=True, check=True
    )
    assert warm.stdout.splitlines() == [f"{reason} {detail}"] * 3


def test_memory_is_filled_only_while_a_photo_is_decoded():
    with filled_memory(0xA5):
        filled = np.empty(1 << 20, np.uint8)
    assert (filled == 0xA5).all()
    with filled_memory(0x5A):
        assert (np.empty(1 << 20, np.uint8) == 0x5A).all()
        assert not np.zeros(1 << 20, np.uint8).any()
    reused = np.ones(1 << 16, np.uint8)
    del reused
    assert not (np.empty(1 << 16, np.uint8) == 0x5A).all()


def test_pixels_that_equal_the_fill_are_no_damage(put):
    mosaic = np.full((80, 80), 0xA5A5, np.uint16)
    data = encode_dng(mosaic, pattern=Cfa.BAYER.tile, black_level=(512,), white_level=65535, iso=800, make="SONY",
                      model="ILCE-7C", color_matrix=MATRIX, as_shot_neutral=(0.5, 1.0, 0.7))  # fmt: skip
    visible, _ = decode(put(data))
    np.testing.assert_array_equal(visible, mosaic)


def dark_frame(height=260, width=300):
    noise = np.random.default_rng(3).normal(512, 4, (height, width))
    return noise.clip(0).round().astype(np.uint16)


@given(top=st.integers(0, 196), left=st.integers(0, 236))
@settings(max_examples=60, deadline=None)
def test_a_solid_square_of_zeros_is_found_wherever_it_lies(top, left):
    mosaic = dark_frame()
    assert not has_solid_zeros(mosaic)
    mosaic[top : top + 64, left : left + 64] = 0
    assert has_solid_zeros(mosaic)


@pytest.mark.parametrize("rows", [slice(0, 65), slice(11, 115), slice(70, 102), slice(228, 260)])
def test_rows_of_zeros_are_incomplete_where_black_is_above_zero(put, rows):
    mosaic = dark_frame()
    mosaic[rows] = 0
    reason, detail = refusal(put(dng(mosaic)))
    assert reason is Reason.INCOMPLETE
    assert "whole blocks of its pixels are zero, and its black level is 512" in detail
    visible, _ = decode(put(dng(mosaic, black=0)))
    np.testing.assert_array_equal(visible, mosaic)


def test_dark_frames_and_values_cut_off_at_zero_are_no_damage(put):
    clipped = np.random.default_rng(4).normal(-40, 30, (400, 400)).clip(0).round().astype(np.uint16)
    assert (clipped == 0).mean() > 0.85
    edge = dark_frame()
    edge[:, -24:] = 0
    for mosaic in (dark_frame(), clipped, edge):
        visible, _ = decode(put(dng(mosaic)))
        np.testing.assert_array_equal(visible, mosaic)
