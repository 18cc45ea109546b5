import pytest
import torch

from rawnind.training import UNet, masked_l1


@pytest.mark.parametrize(("channels", "scale"), [(4, 2), (3, 1)])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48)])
def test_packed_bayer_comes_out_twice_as_large_and_colour_as_large_as_it_was(channels, scale, height, width):
    out = UNet(channels, width=4)(torch.zeros(2, channels, height, width))
    assert out.shape == (2, 3, scale * height, scale * width)


def test_shapes_that_cannot_be_halved_four_times_are_refused():
    with pytest.raises(
        ValueError, match=r"expected \(n, 4, h, w\) with h, w multiples of 16, got \(1, 4, 24, 16\)"
    ):
        UNet(4, width=4)(torch.zeros(1, 4, 24, 16))
    with pytest.raises(ValueError, match="in_channels"):
        UNet(5)


def test_each_output_pixel_pair_comes_from_its_own_input_site():
    torch.manual_seed(0)
    model = UNet(4, width=4)
    x = torch.rand(1, 4, 16, 16, requires_grad=True)
    model(x)[0, :, 10:12, 20:22].sum().backward()
    reach = x.grad.abs().sum(dim=(0, 1))
    assert reach[5, 10] > 10 * reach[0, 0]


def test_the_loss_is_the_mean_over_valid_values_and_nothing_else_reaches_it():
    prediction = torch.rand(2, 3, 8, 8, requires_grad=True)
    target = torch.rand(2, 3, 8, 8)
    target[:, :, 0] = float("nan")  # whatever stands where the mask is False
    mask = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    mask[:, :, 0] = False
    loss = masked_l1(prediction, target, mask.expand(-1, 3, -1, -1))
    assert torch.isclose(loss, (prediction - target)[:, :, 1:].abs().mean())
    loss.backward()
    assert (prediction.grad[:, :, 0] == 0).all()
    assert (prediction.grad[:, :, 1:] != 0).all()


def test_a_batch_without_valid_pixels_costs_nothing():
    nothing = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    assert masked_l1(torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), nothing) == 0
