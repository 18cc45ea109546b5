"""Losses and measures over the valid pixels of a batch: L1, PSNR and MS-SSIM."""

from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional

from rawnind.imaging.msssim.constants import GAUSSIAN, K1, K2, SPAN, WEIGHTS

_C1, _C2 = K1**2, K2**2
_MSSSIM_SHARE = 0.84  # of MS-SSIM in the sum with L1: Zhao et al., Loss Functions for Image Restoration, 2017


class Loss(StrEnum):
    """What training minimises."""

    L1 = "l1"
    MS_SSIM = "ms-ssim"
    BOTH = "l1+ms-ssim"


def sample_losses(kind: Loss, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The loss of each sample over its valid values; (n,), 0 where nothing is valid.

    Args:
        kind: of the loss.
        prediction: (n, 3, h, w).
        target: (n, 3, h, w).
        mask: (n, 3, h, w) bool, True where a value counts.
    """
    differences = torch.zeros(len(target), device=target.device)
    if kind is not Loss.MS_SSIM:
        sums = torch.where(mask, prediction - target, 0).abs().sum((1, 2, 3))
        differences = sums / mask.sum((1, 2, 3)).clamp(min=1)
    if kind is Loss.L1:
        return differences
    structure = 1 - masked_ms_ssim(prediction, target, mask)
    return (
        structure if kind is Loss.MS_SSIM else _MSSSIM_SHARE * structure + (1 - _MSSSIM_SHARE) * differences
    )


def masked_l1(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference over valid values.

    Args:
        prediction: (n, 3, h, w).
        target: (n, 3, h, w).
        mask: (n, 3, h, w) bool, True where a value counts.

    Returns:
        A scalar; 0 where nothing is valid.

    >>> mask = torch.tensor([True, False]).expand(1, 3, 1, 2)
    >>> float(masked_l1(torch.ones(1, 3, 1, 2), torch.zeros(1, 3, 1, 2), mask))
    1.0
    """
    difference = torch.where(mask, prediction - target, 0).abs()
    return difference.sum() / mask.sum().clamp(min=1)


def masked_psnr(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each sample over its valid values, with a peak of 1.

    Args:
        prediction: (n, 3, h, w).
        target: (n, 3, h, w).
        mask: (n, 3, h, w) bool, True where a value counts.

    Returns:
        (n,) dB, at most 120; not a number where nothing is valid.

    >>> mask = torch.tensor([True, False]).expand(1, 3, 1, 2)
    >>> masked_psnr(torch.full((1, 3, 1, 2), 0.1), torch.zeros(1, 3, 1, 2), mask)
    tensor([20.])
    """
    squares = torch.where(mask, prediction - target, 0).square().sum((1, 2, 3))
    return -10 * torch.log10((squares / mask.sum((1, 2, 3))).clamp(min=1e-12))


def masked_ms_ssim(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """MS-SSIM of each sample, with pytorch-msssim's constants, as means over the windows around valid pixels.

    A window counts on each scale as far as its pixels are valid; invalid pixels take the target's values in both. Without a
    mask, and with a side above 160, this is pytorch-msssim's value. Smaller samples have as many scales as their size
    allows, with the weights of these.

    Args:
        prediction: (n, 3, h, w).
        target: (n, 3, h, w), for values of 0..1.
        mask: (n, 3, h, w) bool, True where a value counts; equal in all three channels.

    Returns:
        (n,) 0..1; 1 where nothing is valid.

    Raises:
        ValueError: A side is shorter than the window, 11.
    """
    scales = _scales(min(prediction.shape[-2:]))
    weights = torch.tensor(WEIGHTS[:scales], device=target.device)
    x, y = torch.where(mask, prediction, target).float(), target.float()
    valid = mask[:, :1].float()
    total = torch.ones(x.shape[:2], device=x.device)
    for scale, weight in enumerate(weights / weights.sum()):
        contrast, ssim, counted = _ssim(x, y, valid)
        last = scale == scales - 1
        mean = ((ssim if last else contrast) * counted).sum((2, 3)) / counted.sum((2, 3)).clamp(min=1e-6)
        mean = torch.where(counted.sum((2, 3)) > 0, mean, torch.ones_like(mean))
        total = total * mean.clamp(min=1e-6) ** weight  # 0 to a power has no gradient
        if not last:
            x, y, valid = (functional.avg_pool2d(v, 2, padding=_odd(v)) for v in (x, y, valid))
    return total.mean(1)


def _scales(side: int) -> int:
    """Scales of a picture whose shorter side this is: all five from 161 on."""
    if side <= SPAN:
        raise ValueError(f"MS-SSIM needs sides of at least {SPAN + 1}, got {side}")
    scales = 1
    while scales < len(WEIGHTS) and side > SPAN * 2**scales:
        scales += 1
    return scales


def _odd(v: Tensor) -> tuple[int, int]:
    """Padding of sides that cannot be halved, as in pytorch-msssim."""
    return v.shape[2] % 2, v.shape[3] % 2


def _ssim(x: Tensor, y: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Contrast-structure and SSIM of each window, and how much of the window is valid: (n, c, h - 10, w - 10) each."""
    n = len(x)
    moments = _blurred(torch.cat([x, y, x * x, y * y, x * y, valid], 1))
    c = x.shape[1]
    mx, my, xx, yy, xy, counted = torch.split(moments, [c, c, c, c, c, 1], 1)
    contrast = (2 * (xy - mx * my) + _C2) / (xx - mx * mx + yy - my * my + _C2)
    ssim = contrast * (2 * mx * my + _C1) / (mx * mx + my * my + _C1)
    return contrast, ssim, counted.expand(n, c, -1, -1)


def _blurred(v: Tensor) -> Tensor:
    """Each channel under the Gaussian window, without padding."""
    channels = v.shape[1]
    taps = torch.tensor(GAUSSIAN, dtype=v.dtype, device=v.device).view(1, 1, -1, 1).repeat(channels, 1, 1, 1)
    down = functional.conv2d(v, taps, groups=channels)
    return functional.conv2d(down, taps.transpose(2, 3), groups=channels)
