"""A written DNG is what LibRaw reads back."""

import io

import numpy as np
import pytest
import rawpy
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.records import Cfa
from rawnind.sample.dng import encode_dng

MATRIX = (0.7374, -0.2389, -0.0551, -0.5435, 1.3162, 0.2519, -0.1006, 0.1795, 0.6552)
NEUTRAL = (0.5, 1.0, 0.7)


def dng(mosaic, pattern, **changes):
    arguments = {"black_level": (512,), "white_level": 16383, "iso": 800, "make": "SONY", "model": "ILCE-7C",
                 "color_matrix": MATRIX, "as_shot_neutral": NEUTRAL}  # fmt: skip
    return encode_dng(mosaic, pattern=pattern, **(arguments | changes))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 65536, (height, width), dtype=np.uint16)


@st.composite
def frames(draw):
    """A mosaic, its pattern, its margins and a camera, of any phase that a sensor can have."""
    cfa = draw(st.sampled_from(Cfa))
    phase = draw(st.tuples(*[st.integers(0, cfa.period - 1)] * 2))
    top, left = (cfa.period * draw(st.integers(0, 3)) for _ in "yx")
    bottom, right = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    height, width = draw(st.integers(22, 60)), draw(st.integers(22, 60))
    mosaic = noise(top + height + bottom, left + width + right, draw(st.integers(0, 99)))
    make, model = draw(st.sampled_from([("FUJIFILM", "X-T30"), ("SONY", "ILCE-7C"), ("Nobody", "Knows it")]))
    return (
        mosaic,
        np.roll(cfa.tile, phase, (0, 1)),
        (top, left, bottom, right),
        {"make": make, "model": model},
    )


@settings(deadline=None, max_examples=60)
@given(frame=frames())
def test_libraw_reads_the_written_values_margins_and_colours(frame):
    mosaic, pattern, margins, camera = frame
    top, left, bottom, right = margins
    with rawpy.imread(io.BytesIO(dng(mosaic, pattern, margins=margins, **camera))) as raw:
        np.testing.assert_array_equal(raw.raw_image, mosaic)
        np.testing.assert_array_equal(
            raw.raw_image_visible, mosaic[top : mosaic.shape[0] - bottom, left : mosaic.shape[1] - right]
        )
        colors = [[raw.raw_color(top + y, left + x) for x in range(6)] for y in range(6)]
    period = len(pattern)
    np.testing.assert_array_equal(
        np.where(np.equal(colors, 3), 1, colors), np.tile(pattern, (6 // period,) * 2)
    )


@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_each_colour_of_a_bayer_sensor_has_its_black_level(phase):
    pattern = np.roll(Cfa.BAYER.tile, phase, (0, 1))
    data = dng(noise(32, 32), pattern, black_level=(500, 510, 520, 530))
    with rawpy.imread(io.BytesIO(data)) as raw:
        colors = np.array([[raw.raw_color(y, x) for x in range(2)] for y in range(2)])
        black = np.array(raw.black_level_per_channel)[colors]
    red_row, red_column = np.argwhere(pattern == 0)[0]
    expected = np.roll([[500, 510], [520, 530]], (red_row, red_column), (0, 1))
    np.testing.assert_array_equal(black, expected)


def test_libraw_reads_iso_white_level_and_white_balance():
    with rawpy.imread(io.BytesIO(dng(noise(32, 32), Cfa.BAYER.tile, iso=65535, white_level=15600))) as raw:
        assert raw.other.iso_speed == 65535
        assert raw.white_level == 15600
        np.testing.assert_allclose(raw.camera_whitebalance[:3], [2, 1, 1 / 0.7], rtol=1e-6)


def test_the_file_is_the_same_every_time():
    mosaic = noise(32, 40)
    assert dng(mosaic, Cfa.BAYER.tile) == dng(mosaic, Cfa.BAYER.tile)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"margins": (1, 0, 0, 0)}, "multiples of 2"),
        ({"margins": (0, 0, -1, 0)}, "negative"),
        ({"margins": (0, 0, 12, 0)}, "22x22"),
        ({"iso": 0}, "iso"),
        ({"black_level": (1, 2)}, "black_level"),
        ({"as_shot_neutral": (0, 1, 1)}, "above 0"),
        ({"color_matrix": (1, 2)}, "9 values"),
    ],
)
def test_what_libraw_would_change_is_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        dng(noise(32, 32), Cfa.BAYER.tile, **changes)


def test_other_patterns_and_types_are_refused():
    with pytest.raises(ValueError, match="2x2 or 6x6"):
        dng(noise(32, 32), [[0, 1, 2]])
    with pytest.raises(ValueError, match="uint16"):
        dng(noise(32, 32).astype(np.float32), Cfa.BAYER.tile)
