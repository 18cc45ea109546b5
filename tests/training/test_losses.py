import pytest
import torch
from pytorch_msssim import ms_ssim

from rawnind.training import masked_l1, masked_ms_ssim, masked_psnr
from rawnind.training.losses import Loss, sample_losses


def noisy_pair(side, seed=0):
    chance = torch.Generator().manual_seed(seed)
    target = (
        torch.rand(2, 3, side // 8, side // 8, generator=chance)
        .repeat_interleave(8, 2)
        .repeat_interleave(8, 3)
    )
    return target + 0.1 * torch.randn(target.shape, generator=chance), target


def everything(target):
    return torch.ones_like(target, dtype=torch.bool)


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


@pytest.mark.parametrize("kind", Loss)
def test_a_batch_without_valid_pixels_costs_nothing(kind):
    nothing = torch.zeros(1, 3, 32, 32, dtype=torch.bool)
    assert sample_losses(kind, torch.ones(1, 3, 32, 32), torch.zeros(1, 3, 32, 32), nothing) == 0


def test_the_loss_of_a_sample_depends_on_it_alone():
    prediction, target = noisy_pair(64)
    mask = everything(target)
    mask[0, :, :20] = False
    for kind in Loss:
        both = sample_losses(kind, prediction, target, mask)
        alone = [
            sample_losses(kind, *(v[number : number + 1] for v in (prediction, target, mask)))
            for number in range(2)
        ]
        assert torch.allclose(both, torch.cat(alone), atol=1e-6)
    assert torch.isclose(sample_losses(Loss.L1, prediction[:1], target[:1], mask[:1]),
                         masked_l1(prediction[:1], target[:1], mask[:1]))  # fmt: skip


@pytest.mark.parametrize("side", [176, 200, 256])
def test_without_a_mask_ms_ssim_is_that_of_pytorch_msssim(side):
    prediction, target = noisy_pair(side)
    expected = ms_ssim(prediction, target, data_range=1, size_average=False)
    assert torch.allclose(masked_ms_ssim(prediction, target, everything(target)), expected, atol=5e-5)


@pytest.mark.parametrize("side", [32, 64, 128])
def test_small_crops_have_an_ms_ssim_too_and_it_falls_with_the_noise(side):
    prediction, target = noisy_pair(side)
    less = target + 0.3 * (prediction - target)
    scores = [masked_ms_ssim(each, target, everything(target)).mean() for each in (target, less, prediction)]
    assert scores[0] > 0.9999
    assert scores[0] > scores[1] > scores[2]


def test_what_the_mask_excludes_changes_neither_psnr_nor_ms_ssim():
    prediction, target = noisy_pair(192)
    mask = everything(target)
    mask[:, :, :70, 100:] = False
    changed = torch.where(mask, prediction, 7.0)
    for measure in (masked_psnr, masked_ms_ssim):
        assert torch.equal(measure(changed, target, mask), measure(prediction, target, mask))
    whole = masked_ms_ssim(prediction, target, everything(target))
    assert torch.allclose(masked_ms_ssim(prediction, target, mask), whole, atol=0.03)


def test_the_gradient_of_ms_ssim_is_finite_also_where_pictures_are_flat_or_opposite():
    for prediction in (torch.zeros(1, 3, 64, 64), -torch.rand(1, 3, 64, 64)):
        x = prediction.requires_grad_()
        sample_losses(Loss.BOTH, x, torch.rand(1, 3, 64, 64), everything(x)).sum().backward()
        assert x.grad.isfinite().all()
