"""Training crops in other light."""

import numpy as np
import pytest
import torch

from rawnind.feed.crop_options import Input
from rawnind.training.augmentation import DRAWS, other_light
from rawnind.training.model import NetworkConfig, UNet, sigma_map
from rawnind.training.options import GainMatch
from rawnind.training.prediction import plainly_demosaiced, predict

COUNT, SIDE = 6, 32


@pytest.fixture
def rng():
    seed = np.random.SeedSequence().entropy % 2**31
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def batch_of(kind, rng):
    y_shape = (COUNT, 4, SIDE // 2, SIDE // 2) if kind is Input.RAW else (COUNT, 3, SIDE, SIDE)
    matrix = np.zeros((COUNT, 4, 3))
    matrix[:, :3] = np.eye(3) + rng.uniform(-0.2, 0.2, (COUNT, 3, 3))

    def tensor(values):
        return torch.from_numpy(np.asarray(values, np.float32))

    return {
        "x_crops": tensor(rng.uniform(0, 1, (COUNT, 3, SIDE, SIDE))),
        "y_crops": tensor(rng.uniform(0, 1, y_shape)),
        "mask_crops": torch.from_numpy(rng.random((COUNT, 1, SIDE, SIDE)) < 0.9).expand(-1, 3, -1, -1),
        "rgb_xyz_matrix": tensor(matrix),
        "gain": torch.ones(COUNT),
        "noise_a": tensor(rng.uniform(1e-4, 1e-2, y_shape[:2])),
        "noise_b": tensor(rng.uniform(1e-6, 1e-4, y_shape[:2])),
    }


def drawn(rng, *, saturated):
    draws = rng.random((COUNT, DRAWS), np.float32)
    draws[:, 3] = 0 if saturated else 1
    return torch.from_numpy(draws)


def noise_of(batch):
    return sigma_map(batch["y_crops"], torch.stack([batch["noise_a"], batch["noise_b"]], 1))


def test_light_of_another_colour_leaves_the_target_of_a_mosaic_and_the_input_beside_it(rng):
    batch = batch_of(Input.RAW, rng)
    lit = other_light(batch, Input.RAW, drawn(rng, saturated=False))
    config = NetworkConfig()
    before, after = (plainly_demosaiced(config, GainMatch.NONE, each) for each in (batch, lit))
    assert (lit["y_crops"] / batch["y_crops"]).flatten(2).std(2).max() < 1e-5  # a factor per plane
    assert not torch.allclose(lit["y_crops"], batch["y_crops"], rtol=0.05)
    assert torch.equal(after.target, before.target)
    assert torch.equal(after.mask, before.mask)
    torch.testing.assert_close(after.output, before.output, rtol=1e-4, atol=1e-4)


def test_demosaiced_input_and_target_change_their_colour_together(rng):
    batch = batch_of(Input.RGB, rng)
    lit = other_light(batch, Input.RGB, drawn(rng, saturated=False))
    factors = lit["x_crops"] / batch["x_crops"]
    torch.testing.assert_close(lit["y_crops"], batch["y_crops"] * factors)
    assert factors.flatten(2).std(2).max() < 1e-5
    assert 0.707 < factors.min() < factors.max() < 1.415


@pytest.mark.parametrize("kind", Input)
def test_the_noise_follows_the_levels(rng, kind):
    batch = batch_of(kind, rng)
    lit = other_light(batch, kind, drawn(rng, saturated=False))
    torch.testing.assert_close(noise_of(lit) / lit["y_crops"], noise_of(batch) / batch["y_crops"])


@pytest.mark.parametrize("kind", Input)
def test_what_saturates_is_not_valid_and_the_rest_stays(rng, kind):
    batch, draws = batch_of(kind, rng), drawn(rng, saturated=True)
    without = draws.clone()
    without[:, 3] = 1
    lit, unclipped = (other_light(batch, kind, each) for each in (draws, without))
    level = lit["y_crops"].amax((1, 2, 3), keepdim=True)
    mean, most = unclipped["y_crops"].mean((1, 2, 3)), unclipped["y_crops"].amax((1, 2, 3))
    assert torch.all((level.flatten() >= 0.999 * mean) & (level.flatten() <= 1.001 * most))
    assert torch.equal(lit["y_crops"], torch.minimum(unclipped["y_crops"], level))
    reached = (lit["y_crops"] >= 0.99 * level).any(1)
    if kind is Input.RAW:
        reached = reached.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert reached.any((1, 2)).all()
    assert torch.equal(lit["mask_crops"], batch["mask_crops"] & ~reached[:, None])


def test_a_network_learns_the_same_from_a_brighter_photo(rng):
    """Why levels are not scaled back to 1: output and target of a residual network scale with its input."""
    batch = batch_of(Input.RAW, rng)
    config = NetworkConfig(funit=4)
    network = UNet(config)
    torch.nn.init.normal_(network.last.weight, std=0.1)
    bright = batch | {"y_crops": 4 * batch["y_crops"]}
    one, other = (predict(network, config, GainMatch.NONE, each).output for each in (batch, bright))
    torch.testing.assert_close(other, 4 * one, rtol=1e-3, atol=1e-4)


def test_a_dark_crop_stays_finite(rng):
    batch = batch_of(Input.RAW, rng)
    batch["y_crops"] = -batch["y_crops"]
    lit = other_light(batch, Input.RAW, drawn(rng, saturated=True))
    assert torch.isfinite(lit["y_crops"]).all()
