from dataclasses import replace

import cv2
import numpy as np
import pytest
import rawpy
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.imaging.demosaic.camera_rgb import contrast_gains, demosaic
from rawnind.imaging.levels import mosaic, site_colors, site_planes
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa
from tests.imaging.demosaicers import (
    BALANCE,
    PHOTOGRAPHS,
    libraw_demosaic,
    noiseless_photo,
    opencv_demosaic,
    photograph,
    psnr,
)
from tests.imaging.simulation import make_sensor, noise_at, take, through_filters

cfas = pytest.mark.parametrize("cfa", Cfa)


def own_levels(photo: Photo) -> np.ndarray:
    black = np.array(photo.sensor.black_level)[site_planes(photo.cfa, photo.mosaic.shape)]
    return (photo.mosaic - black) / (photo.sensor.white_level - black)


def noise_photo(cfa: Cfa, shape: tuple[int, int], seed: int = 0, top: int = 16384) -> Photo:
    values = np.random.default_rng(seed).integers(0, top, shape).astype(np.uint16)
    return Photo(mosaic=values, sensor=make_sensor(cfa, shape, black=512.0))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_bayer_is_far_above_opencvs_edge_aware_demosaicing(name):
    photo = noiseless_photo(photograph(name), Cfa.BAYER)
    height, width = photo.mosaic.shape
    truth = photograph(name)[:, :height, :width]
    ours, theirs = demosaic(photo).levels(), opencv_demosaic(photo, cv2.COLOR_BayerRGGB2RGB_EA)
    assert psnr(ours, truth) > psnr(theirs, truth) + 4
    assert psnr(ours, truth, display=True) > psnr(theirs, truth, display=True) + 4


@pytest.mark.parametrize(
    ("cfa", "algorithm"), [(Cfa.BAYER, "AHD"), (Cfa.BAYER, "DHT"), (Cfa.BAYER, "AAHD"), (Cfa.X_TRANS, "AHD")]
)
def test_demosaicing_is_above_libraws(
    cfa, algorithm
):  # for X-Trans LibRaw has one of its own, whatever the name
    truth = np.pad(
        photograph("astronaut.png"), ((0, 0), (0, 16), (0, 16)), mode="reflect"
    )  # it needs 512 sites
    photo = noiseless_photo(truth, cfa)
    truth = truth[:, : photo.mosaic.shape[0], : photo.mosaic.shape[1]]
    ours, theirs = demosaic(photo).levels(), libraw_demosaic(photo, rawpy.DemosaicAlgorithm[algorithm])
    assert psnr(ours, truth) > psnr(theirs, truth) + 2
    assert psnr(ours, truth, display=True) > psnr(theirs, truth, display=True) + 2


@cfas
def test_a_site_keeps_its_sensor_value(cfa):
    photo = noise_photo(cfa, (36, 48))
    np.testing.assert_allclose(mosaic(demosaic(photo).levels(), cfa), own_levels(photo), atol=1e-7)


@cfas
def test_with_different_black_levels_a_site_keeps_its_value_within_half_a_step(cfa):
    black = tuple(500.0 + 7.3 * i for i in range(len(cfa.plane_colors)))
    photo = noise_photo(cfa, (36, 48))
    photo = Photo(mosaic=photo.mosaic, sensor=replace(photo.sensor, black_level=black))
    rgb = demosaic(photo)
    np.testing.assert_allclose(mosaic(rgb.levels(), cfa), own_levels(photo), atol=0.51 / rgb.scale)
    assert 1 / rgb.scale < 1.2 / (photo.sensor.white_level - max(black))


@settings(deadline=None, max_examples=25)
@given(
    cfa=st.sampled_from(Cfa),
    black=st.integers(0, 60000),
    span=st.integers(1, 5535),
    top=st.sampled_from((1, 255, 16383, 65535)),
)
def test_whatever_the_sensor_counts_one_step_holds_at_most_1_2_of_its_steps_and_nothing_wraps(
    cfa, black, span, top
):
    photo = noise_photo(cfa, (12, 12), top=top + 1)
    photo = Photo(
        mosaic=photo.mosaic, sensor=make_sensor(cfa, (12, 12), black=float(black), white=float(black + span))
    )
    rgb = demosaic(photo)
    seen = mosaic(rgb.levels().astype(np.float64), cfa) * span + black
    assert np.abs(seen - photo.mosaic).max() <= 0.62


@cfas
@pytest.mark.parametrize("level", [-0.02, 0.0, 0.3, 1.1])
def test_a_flat_photo_stays_flat_below_black_and_above_white_too(cfa, level):
    value = 1000 + round(level * 10000)
    flat = Photo(
        mosaic=np.full((24, 36), value, np.uint16),
        sensor=make_sensor(cfa, (24, 36), black=1000.0, white=11000.0),
    )
    np.testing.assert_allclose(demosaic(flat).levels(), level, atol=1e-4)


@cfas
def test_a_uniform_colour_stays_that_colour_up_to_the_edge(cfa):
    rgb = np.array([0.1, 0.5, 0.8])[:, None, None] * np.ones((1, 30, 42))
    np.testing.assert_allclose(demosaic(noiseless_photo(rgb, cfa)).levels(), rgb, atol=2e-3)


@cfas
def test_noise_around_black_keeps_its_mean(cfa):
    rng = np.random.default_rng(0)
    dark = np.round(512 + rng.normal(0, 5, (300, 300))).astype(np.uint16)
    levels = demosaic(Photo(mosaic=dark, sensor=make_sensor(cfa, (300, 300), black=512.0))).levels()
    assert levels.min() < -1e-4
    # 5 sensor values are 3.2e-4 levels: the mean moves by less than a twentieth of the noise.
    assert np.abs(levels.mean(axis=(1, 2))).max() < 3.2e-4 / 20


@cfas
@pytest.mark.parametrize("tiles", [(1, 1), (1, 9), (9, 1), (2, 3), (40, 150)])
def test_frames_of_any_whole_number_of_tiles_are_filled(cfa, tiles):
    shape = (tiles[0] * cfa.period, tiles[1] * cfa.period)
    rgb = demosaic(noise_photo(cfa, shape))
    assert rgb.values.shape == (3, *shape)
    assert rgb.values.dtype == np.uint16
    assert np.isfinite(rgb.levels()).all()


@cfas
def test_the_work_in_tiles_leaves_no_seams(cfa):
    # The second frame is the first one moved by half a tile of the work: other sites lie on its seams.
    truth = np.pad(photograph("chelsea.png"), ((0, 0), (0, 0), (0, 120)), mode="reflect")[:, :288]
    one = demosaic(noiseless_photo(truth, cfa)).levels()
    other = demosaic(noiseless_photo(truth[:, 48:, 192:], cfa)).levels()
    inner = other[:, 12:-12, 12:-12]
    gains_differ = np.abs(one[:, 60:-12, 204:][:, : inner.shape[1], : inner.shape[2]] - inner)
    assert np.quantile(gains_differ, 0.999) < 5e-3  # the balance is the frame's own


@cfas
@pytest.mark.parametrize(("top", "left", "size"), [(0, 0, 96), (60, 90, 120), (144, 6, 60)])
def test_a_part_is_demosaiced_like_the_frame_with_the_frames_contrast_gains(cfa, top, left, size):
    frame = noiseless_photo(photograph("chelsea.png"), cfa)
    gains = contrast_gains(frame)
    cut = frame.mosaic[top : top + size, left : left + size]
    part = Photo(mosaic=cut, sensor=replace(frame.sensor, height=size, width=size))
    inner = np.s_[:, 12 : size - 12, 12 : size - 12]
    whole = demosaic(frame).levels()[:, top : top + size, left : left + size]
    np.testing.assert_allclose(demosaic(part, gains).levels()[inner], whole[inner], atol=1e-6)
    assert np.abs(demosaic(part).levels()[inner] - whole[inner]).max() > 1e-4  # with gains of its own


@cfas
@pytest.mark.parametrize(
    ("iso", "lamp", "clip"), [(100, False, 16383), (100, True, 15200), (25600, True, 16383)]
)
def test_neither_a_lamp_nor_noise_is_taken_for_grey(cfa, iso, lamp, clip):
    rng = np.random.default_rng(1)
    patches = rng.uniform(0.02, 0.2, (40, 60)).astype(np.float32)
    light = np.kron(patches, np.ones((12, 12), np.float32))[..., None] * np.float32([0.5, 1, 0.7])
    if lamp:
        glow = np.zeros(light.shape[:2], np.float32)
        glow[100:160, 200:260] = 3
        light += cv2.GaussianBlur(glow, (0, 0), 2)[..., None]
    photo = take(through_filters(light, cfa), make_sensor(cfa, light.shape[:2]), noise_at(iso), rng)
    np.minimum(photo.mosaic, clip, out=photo.mosaic)
    np.testing.assert_allclose(contrast_gains(photo), [2, 1, 1 / 0.7], rtol=0.04)


@cfas
def test_without_edges_above_the_noise_colours_are_not_balanced(cfa):
    flat = np.full((480, 720), 0.01, np.float32)
    photo = take(flat, make_sensor(cfa, flat.shape), noise_at(25600), np.random.default_rng(1))
    np.testing.assert_allclose(contrast_gains(photo), 1, rtol=0.25)


@cfas
def test_demosaicing_twice_gives_the_same_bytes(cfa):
    photo = noise_photo(cfa, (120, 420))
    assert np.array_equal(demosaic(photo).values, demosaic(photo).values)


@cfas
def test_an_illuminant_of_another_colour_does_not_cost_quality(cfa):
    # Tungsten light: red much stronger than blue, without a balance that anybody told.
    truth = photograph("astronaut.png") / BALANCE[:, None, None] * np.array([0.9, 0.6, 0.25])[:, None, None]
    photo = noiseless_photo(truth, cfa)
    truth = truth[:, : photo.mosaic.shape[0], : photo.mosaic.shape[1]]
    scale = (BALANCE / np.array([0.9, 0.6, 0.25]))[:, None, None]
    usual = noiseless_photo(photograph("astronaut.png"), cfa)
    reference = psnr(
        demosaic(usual).levels(), photograph("astronaut.png")[:, : truth.shape[1], : truth.shape[2]]
    )
    assert psnr(demosaic(photo).levels() * scale, truth * scale) > reference - 0.5


def test_colours_are_in_the_order_red_green_blue():
    for color in range(3):
        lit = np.zeros((3, 24, 24))
        lit[color] = 0.5
        for cfa in Cfa:
            photo = noiseless_photo(lit, cfa)
            assert np.array_equal(photo.mosaic > 1000, site_colors(cfa, (24, 24)) == color)
            assert demosaic(photo).levels().mean(axis=(1, 2)).argmax() == color
