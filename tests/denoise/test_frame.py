"""Tiles leave no seams, and the brightness stays."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from rawnind.denoise.frame import denoise_frame
from rawnind.denoise.network import REACH, open_denoiser
from rawnind.errors import ConfigError
from rawnind.feed.crop_options import Input
from rawnind.imaging.color import camera_to_rec2020, to_rec2020
from rawnind.imaging.demosaic.camera_rgb import demosaic
from rawnind.imaging.levels import mosaic
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa, Sensor
from rawnind.training.model import ModelKind, NetworkConfig, UNet
from tests.networks import write_checkpoint

MATRIX = (0.7374, -0.2389, -0.0551, -0.5435, 1.3162, 0.2519, -0.1006, 0.1795, 0.6552)


def photo(cfa, height, width, seed=None):
    """Gradients with edges and noise, a new photo in every run."""
    seed = time.time_ns() % 2**31 if seed is None else seed
    print(f"photo: seed {seed}")
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 100
    level = 0.2 + 0.1 * np.sin(3 * x + y) + 0.2 * (np.cos(7 * x * y) > 0.5)
    rgb = np.stack([level * factor for factor in (0.5, 1, 0.7)])
    noisy = rgb + rng.normal(size=rgb.shape) * np.sqrt(0.002 * rgb)
    values = np.clip(512 + noisy * 15000, 0, 16383).astype(np.uint16)
    planes = 4 if cfa is Cfa.BAYER else 3
    sensor = Sensor(
        cfa=cfa, origin=(0, 0), height=height, width=width, black_level=(512.0,) * planes, white_level=16383.0,
        overexposure_lb=1.0, rgb_xyz_matrix=MATRIX, camera="SONY ILCE-7C",
    )  # fmt: skip
    return Photo(mosaic=mosaic(values, cfa), sensor=sensor)


def rgb_network(**changes):
    return NetworkConfig(funit=4, input=Input.RGB, **changes)


@pytest.mark.parametrize(
    ("cfa", "config"),
    [
        (Cfa.BAYER, NetworkConfig(funit=4, model=ModelKind.UNET)),
        (Cfa.BAYER, NetworkConfig(funit=4, preupsample=True)),
        (Cfa.BAYER, rgb_network(model=ModelKind.UNET)),
        (Cfa.X_TRANS, rgb_network()),
    ],
)
def test_the_size_of_the_tiles_does_not_change_the_picture(cfa, config, tmp_path):
    frame = photo(cfa, 180, 240)
    denoiser = open_denoiser(write_checkpoint(tmp_path / "c.pt", config, spread=0.05), cfa)
    whole = denoise_frame(frame, denoiser, tile=256).rgb
    tiled = denoise_frame(frame, denoiser, tile=80).rgb
    assert np.abs(tiled - whole).max() < 1e-4 * np.abs(whole).max()


@pytest.mark.parametrize("cfa", Cfa)
def test_a_network_that_adds_nothing_gives_the_plainly_demosaiced_photo(cfa, tmp_path):
    frame = photo(cfa, 150, 204)
    denoiser = open_denoiser(write_checkpoint(tmp_path / "c.pt", rgb_network()), cfa)
    done = denoise_frame(frame, denoiser, tile=96)
    plain = to_rec2020(demosaic(frame), camera_to_rec2020(MATRIX))
    assert done.gain == pytest.approx(1, abs=1e-5)
    assert np.abs(done.rgb - plain).max() < 1e-4


def test_a_network_may_give_any_gain(tmp_path):
    frame = photo(Cfa.BAYER, 96, 128)
    denoiser = open_denoiser(write_checkpoint(tmp_path / "c.pt", spread=0.05), Cfa.BAYER)
    dark = replace(denoiser, run=lambda levels, noise: denoiser.run(levels, noise) / 1000)
    expected = denoise_frame(frame, denoiser)
    found = denoise_frame(frame, dark)
    assert found.gain == pytest.approx(1000 * expected.gain, rel=1e-4)
    assert np.allclose(found.rgb, expected.rgb, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(22, 22), (24, 30)])
@pytest.mark.parametrize("cfa", Cfa)
def test_the_smallest_photos_are_denoised(cfa, size, tmp_path):
    period = cfa.period
    frame = photo(cfa, *(side // period * period for side in size))
    denoiser = open_denoiser(write_checkpoint(tmp_path / "c.pt", rgb_network()), cfa)
    assert np.isfinite(denoise_frame(frame, denoiser).rgb).all()


def test_a_network_that_diverged_is_an_error(tmp_path):
    frame = photo(Cfa.BAYER, 64, 64)
    denoiser = open_denoiser(write_checkpoint(tmp_path / "c.pt"), Cfa.BAYER)
    with pytest.raises(ConfigError, match="not finite"):
        denoise_frame(
            frame, replace(denoiser, run=lambda levels, noise: denoiser.run(levels, noise) * np.nan)
        )
    with pytest.raises(ConfigError, match="black"):
        denoise_frame(frame, replace(denoiser, run=lambda levels, noise: -denoiser.run(levels, noise)))


def test_a_tile_must_fit_the_networks_grid(tmp_path):
    denoiser = open_denoiser(write_checkpoint(tmp_path / "c.pt"), Cfa.BAYER)
    with pytest.raises(ConfigError, match="multiple of 16"):
        denoise_frame(photo(Cfa.BAYER, 64, 64), denoiser, tile=100)


def test_the_noise_of_the_photo_goes_to_a_network_that_takes_it(tmp_path):
    frame = photo(Cfa.BAYER, 384, 512)
    config = NetworkConfig(funit=4, conditioned=True)
    denoiser = open_denoiser(write_checkpoint(tmp_path / "c.pt", config), Cfa.BAYER)
    seen = []

    def run(levels, noise):
        seen.append(noise)
        return denoiser.run(levels, noise)

    denoise_frame(frame, replace(denoiser, run=run))
    assert seen[0].shape == (2, 4)
    assert np.isnan(seen[0][0]).all() or seen[0][0] == pytest.approx([0.002] * 4, rel=0.5)


def test_pixels_depend_on_nothing_beyond_the_reach():
    network = UNet(NetworkConfig(funit=4, input=Input.RGB, model=ModelKind.UNET)).double().eval()
    for parameter in network.parameters():
        parameter.data.abs_()  # nothing cancels out
    dark = torch.zeros(1, 3, 16, 240, dtype=torch.double)
    reaches = []
    with torch.inference_mode():
        unlit = network(dark)
    for column in range(120, 136):
        lit = dark.clone()
        lit[..., 8, column] = 1000
        with torch.inference_mode():
            changed = ((network(lit) - unlit).abs() > 1e-12).flatten(0, 2).any(0).nonzero()
        reaches += [column - int(changed.min()), int(changed.max()) - column]
    assert max(reaches) == REACH
