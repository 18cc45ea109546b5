"""Bursts and dark frames with noise that the test adds itself, on fresh scenes: the seed is printed."""

import cv2
import numpy as np
import pytest

from rawnind.imaging.levels import mosaic
from rawnind.imaging.photo import Photo
from rawnind.noise.frames import burst_noise, dark_noise
from rawnind.records import Cfa
from tests.imaging.simulation import make_sensor

A, B, ROW = 8e-4, 4e-6, 6e-4


@pytest.fixture
def rng():
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def frame(rng, cfa, light):
    """A photo of (3, H, W) light with photon, read and row noise, with black 512 and white 16383."""
    level = mosaic(light, cfa)
    noise = rng.normal(0, 1, level.shape) * np.sqrt(A * level + B) + rng.normal(0, ROW, (len(level), 1))
    values = (512 + 15871 * (level + noise)).round().clip(0, 16383).astype(np.uint16)
    return Photo.from_visible(values, make_sensor(cfa, level.shape, black=512.0))


def scene(rng):
    """(3, 576, 768) levels of 0.01 to 0.8 with texture at every scale."""
    light = sum(cv2.GaussianBlur(rng.random((576, 768)), (0, 0), size) * size for size in (1, 3, 9, 40))
    light = (light - light.min()) / np.ptp(light)
    ramp = np.geomspace(0.01, 0.8, 768)
    return np.stack([ramp * (0.7 + 0.3 * light) * share for share in (0.6, 1.0, 0.8)])


@pytest.mark.parametrize("cfa", list(Cfa))
def test_a_burst_shows_photon_noise_read_noise_and_row_noise(rng, cfa):
    light = scene(rng)
    for found in burst_noise(frame(rng, cfa, light), frame(rng, cfa, light)):
        assert found.a == pytest.approx(A, rel=0.05)
        assert found.b == pytest.approx(B, rel=0.35)  # a scene has few sites near black
        assert found.row == pytest.approx(ROW, rel=0.2)
        assert abs(found.a - A) < 5 * found.a_error


@pytest.mark.parametrize("cfa", list(Cfa))
def test_dark_frames_show_read_noise_within_2_and_row_noise_within_15_percent(rng, cfa):
    dark = np.zeros((3, 576, 768))
    frames = [frame(rng, cfa, dark) for _ in range(3)]
    for found in dark_noise(frames):
        assert found.a is None
        assert found.b == pytest.approx(B + 1 / 12 / 15871**2, rel=0.02)
        assert found.row == pytest.approx(ROW, rel=0.15)


def test_frames_of_other_sizes_are_no_burst_and_one_dark_frame_is_too_few(rng):
    light = scene(rng)
    one = frame(rng, Cfa.BAYER, light)
    assert burst_noise(one, frame(rng, Cfa.BAYER, light[:, :288])) is None
    with pytest.raises(ValueError, match="two of the same size"):
        dark_noise([one])
