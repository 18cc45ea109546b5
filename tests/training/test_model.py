import numpy as np
import pytest
import torch

from rawnind.errors import ConfigError
from rawnind.feed.crop_options import Input
from rawnind.imaging.color import camera_to_rec2020
from rawnind.training import NetworkConfig, UNet, to_rec2020
from rawnind.training.model import ModelKind, PlainDemosaic, sigma_map

CONFIGS = [
    NetworkConfig(model=model, funit=4, input=kind, preupsample=preupsample)
    for model in ModelKind
    for kind, preupsample in ((Input.RAW, False), (Input.RAW, True), (Input.RGB, False))
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48)])
def test_packed_bayer_comes_out_twice_as_large_and_colour_as_large_as_it_was(config, height, width):
    scale = 2 if config.input is Input.RAW else 1
    out = UNet(config)(torch.zeros(2, config.channels, height, width))
    assert out.shape == (2, 3, scale * height, scale * width)


def test_shapes_that_cannot_be_halved_four_times_are_refused():
    with pytest.raises(
        ValueError, match=r"expected \(n, 4, h, w\) with h, w multiples of 16, got \(1, 4, 24, 16\)"
    ):
        UNet(NetworkConfig(funit=4))(torch.zeros(1, 4, 24, 16))
    with pytest.raises(ConfigError, match="funit must be from 4 to 128, got 2"):
        NetworkConfig(funit=2)
    with pytest.raises(ConfigError, match="preupsample is for packed Bayer"):
        NetworkConfig(input=Input.RGB, preupsample=True)


def test_each_output_pixel_pair_comes_from_its_own_input_site():
    torch.manual_seed(0)
    model = UNet(NetworkConfig(model=ModelKind.UNET, funit=4))
    x = torch.rand(1, 4, 16, 16, requires_grad=True)
    model(x)[0, :, 10:12, 20:22].sum().backward()
    reach = x.grad.abs().sum(dim=(0, 1))
    assert reach[5, 10] > 10 * reach[0, 0]


@pytest.mark.parametrize("preupsample", [False, True])
def test_a_residual_network_starts_as_plain_demosaicing(preupsample):
    x = torch.rand(1, 4, 16, 32)
    assert torch.equal(UNet(NetworkConfig(funit=4, preupsample=preupsample))(x), PlainDemosaic()(x))
    colour = torch.rand(1, 3, 16, 32)
    assert torch.equal(UNet(NetworkConfig(funit=4, input=Input.RGB))(colour), colour)


@pytest.mark.parametrize("kind", Input)
def test_a_residual_network_is_as_bright_as_its_input(kind):
    torch.manual_seed(0)
    config = NetworkConfig(funit=4, input=kind)
    network = UNet(config)
    torch.nn.init.normal_(network.last.weight, std=0.1)
    x = torch.rand(1, config.channels, 16, 32)
    assert torch.allclose(network(4 * x), 4 * network(x), rtol=1e-4, atol=1e-6)


def test_plain_demosaicing_keeps_what_was_measured_and_is_exact_on_a_slope():
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(24.0), indexing="ij")
    picture = torch.stack([0.1 + y + x, 2 * y - x, 3 + x])
    packed = torch.stack(
        [picture[0, ::2, ::2], picture[1, ::2, 1::2], picture[1, 1::2, ::2], picture[2, 1::2, 1::2]]
    )
    out = PlainDemosaic()(packed[None])[0]
    assert torch.allclose(out[:, 1:-1, 1:-1], picture[:, 1:-1, 1:-1], atol=1e-4)
    assert torch.equal(out[0, ::2, ::2], packed[0])
    assert torch.equal(out[2, 1::2, 1::2], packed[3])


def test_a_conditioned_network_takes_the_noise_and_another_one_does_not():
    noise = torch.tensor([[[1e-4] * 4, [1e-6] * 4]])
    x = torch.rand(1, 4, 16, 16)
    torch.manual_seed(1)
    network = UNet(NetworkConfig(model=ModelKind.UNET, funit=4, conditioned=True))
    assert not torch.equal(network(x, noise), network(x, 4 * noise))
    with pytest.raises(ValueError, match="a conditioned network takes the noise"):
        network(x)
    with pytest.raises(ValueError, match=r"expected noise of shape \(1, 2, 4\)"):
        network(x, noise[:, :, :3])


def test_the_sigma_map_is_the_noise_of_each_level():
    noise = torch.tensor([[[0.01, 0.02, 0.02, 0.04], [1e-4, 0.0, float("nan"), 0.0]]])
    found = sigma_map(torch.tensor([0.5, 0.25, 0.25, -1.0]).view(1, 4, 1, 1), noise).flatten()
    assert torch.allclose(found, torch.tensor([0.0051, 0.005, 0.005, 0.0]).sqrt())


def test_colours_are_those_that_prepare_stores():
    matrix = (0.7374, -0.2389, -0.0551, -0.5435, 1.3162, 0.2519, -0.1006, 0.1795, 0.6552)
    given = torch.zeros(2, 4, 3)
    given[:, :3] = torch.tensor(matrix).view(3, 3)
    rgb = torch.rand(2, 3, 4, 5)
    expected = np.einsum("ij,njhw->nihw", camera_to_rec2020(matrix), rgb.numpy())
    assert np.allclose(to_rec2020(rgb, given).numpy(), expected, atol=1e-5)
