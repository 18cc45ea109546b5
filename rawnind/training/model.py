"""A small U-Net for packed Bayer or colour input, and a loss over valid pixels."""

import itertools

import torch
from torch import Tensor, nn

_SLOPE = 0.2  # of LeakyReLU, as usual in denoising U-Nets
_DEPTH = 4


class UNet(nn.Module):
    """A U-Net with four levels, skip connections and no normalisation, which would lose the absolute brightness.

    Args:
        in_channels: 4 for packed Bayer (the output has twice the height and width), 3 for colour (the same size).
        width: channels of the first level; they double on each level below.

    Raises:
        ValueError: `in_channels` is neither 3 nor 4.
    """

    def __init__(self, in_channels: int = 4, width: int = 16) -> None:
        super().__init__()
        if in_channels not in {3, 4}:
            raise ValueError(f"in_channels must be 4 (packed Bayer) or 3 (colour), got {in_channels}")
        self.in_channels = in_channels
        self.width = width
        scale = 2 if in_channels == 4 else 1
        widths = [width << level for level in range(_DEPTH + 1)]
        self.first = _Convs(in_channels, width)
        self.down = nn.ModuleList(_Convs(small, large) for small, large in itertools.pairwise(widths))
        self.up = nn.ModuleList(_Up(large, small) for small, large in itertools.pairwise(widths))
        self.last = nn.Conv2d(width, 3 * scale**2, 1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Linear Rec.2020 from levels.

        Args:
            x: (n, 4, h, w) or (n, 3, h, w); h and w multiples of 16.

        Returns:
            (n, 3, 2h, 2w) for four channels, (n, 3, h, w) for three.

        Raises:
            ValueError: The shape is another one.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.shape[2] % 16 or x.shape[3] % 16:
            raise ValueError(
                f"expected (n, {self.in_channels}, h, w) with h, w multiples of 16, got {tuple(x.shape)}"
            )
        levels = [self.first(x)]
        for down in self.down:
            levels.append(down(nn.functional.max_pool2d(levels[-1], 2)))
        y = levels.pop()
        for up, beside in zip(reversed(self.up), reversed(levels), strict=True):
            y = up(y, beside)
        out: Tensor = self.shuffle(self.last(y))
        return out


class _Convs(nn.Sequential):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, 3, padding=1),
            nn.LeakyReLU(_SLOPE, inplace=True),
            nn.Conv2d(outside, outside, 3, padding=1),
            nn.LeakyReLU(_SLOPE, inplace=True),
        )


class _Up(nn.Module):
    def __init__(self, large: int, small: int) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(large, small, 2, stride=2)
        self.convs = _Convs(2 * small, small)

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        out: Tensor = self.convs(torch.cat([self.grow(below), beside], 1))
        return out


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
