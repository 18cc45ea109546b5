"""The networks: a U-Net with the contract of the RawNIND research code's, and one that adds what it computes to a demosaiced input."""

import itertools
from dataclasses import asdict, dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from rawnind.errors import ConfigError
from rawnind.feed.crop_options import Input
from rawnind.imaging.color import XYZ_TO_REC2020
from rawnind.rules import require

_SLOPE = 0.2  # of LeakyReLU, as usual in denoising U-Nets
_DEPTH = 4
MULTIPLE = 2**_DEPTH
"""Height and width of a network's input are multiples of this: they are halved four times."""
_LEAST_FUNIT, _MOST_FUNIT = 4, 128


class ModelKind(StrEnum):
    """How the output is made: by the U-Net alone, as published, or by adding it to the plainly demosaiced input.

    The residual one has no biases: an input that is k times as bright then gives an output that is k times as bright, so
    that it also holds at levels and noise that training did not show (Mohan et al., Robust and interpretable blind image
    denoising via bias-free convolutional neural networks, ICLR 2020).
    """

    UNET = "unet"
    RESIDUAL = "residual"


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """What a network is built from.

    Attributes:
        model: how the output is made.
        funit: channels of the first level, 4 to 128; they double on each of the four levels below.
        input: "raw": packed Bayer levels (n, 4, h, w) in R, G, G, B order to camera RGB (n, 3, 2h, 2w); "rgb": linear
            Rec.2020 (n, 3, h, w) to the same.
        preupsample: whether packed Bayer is enlarged before the U-Net, which takes four times the work.
        conditioned: whether the network also takes the noise (a, b) of its input.

    Raises:
        ConfigError: A value breaks its rule, or two contradict each other.
    """

    model: ModelKind = ModelKind.RESIDUAL
    funit: int = 16
    input: Input = Input.RAW
    preupsample: bool = False
    conditioned: bool = False

    def __post_init__(self) -> None:
        require(
            _LEAST_FUNIT <= self.funit <= _MOST_FUNIT,
            f"funit must be from {_LEAST_FUNIT} to {_MOST_FUNIT}",
            self.funit,
        )
        if self.input is Input.RGB and self.preupsample:
            raise ConfigError("preupsample is for packed Bayer (input raw), not for input rgb")

    def plain(self) -> dict[str, str | int | bool]:
        """The attributes as values that a checkpoint holds."""
        return {
            name: str(value) if isinstance(value, StrEnum) else value for name, value in asdict(self).items()
        }

    @property
    def channels(self) -> int:
        """Channels of the input: 4 for packed Bayer, 3 for colour."""
        return 4 if self.input is Input.RAW else 3


class UNet(nn.Module):
    """A U-Net with four levels, skip connections and no normalisation, which would lose the absolute brightness.

    Args:
        config: what to build; None: the default `NetworkConfig`.

    Examples:
        >>> UNet(NetworkConfig(funit=8))(torch.zeros(1, 4, 32, 48)).shape
        torch.Size([1, 3, 64, 96])
    """

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        self.plain = PlainDemosaic() if config.input is Input.RAW else nn.Identity()
        enlarged = config.input is Input.RAW and not config.preupsample
        widths = [config.funit << level for level in range(_DEPTH + 1)]
        bias = config.model is ModelKind.UNET
        self.first = _Convs(config.channels * (2 if config.conditioned else 1), config.funit, bias=bias)
        self.down = nn.ModuleList(_Convs(*pair, bias=bias) for pair in itertools.pairwise(widths))
        self.up = nn.ModuleList(_Up(*pair, bias=bias) for pair in itertools.pairwise(widths))
        self.last = nn.Conv2d(config.funit, 12 if enlarged else 3, 1, bias=bias)
        self.shuffle = nn.PixelShuffle(2 if enlarged else 1)
        self.apply(_initialise)
        if config.model is ModelKind.RESIDUAL:
            nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Denoised colours from levels.

        Args:
            x: (n, 4, h, w) or (n, 3, h, w); h and w multiples of 16.
            noise: (n, 2, 4) or (n, 2, 3) for a conditioned network, else None: a and b of each channel, where the
                variance of a value of `x` is a * value + b; what is not a number counts as 0.

        Returns:
            (n, 3, 2h, 2w) camera RGB for four channels, (n, 3, h, w) linear Rec.2020 for three.

        Raises:
            ValueError: A shape is another one, or `noise` is missing or given without need.
        """
        self._check(x, noise)
        seen = x if noise is None else torch.cat([x, sigma_map(x, noise)], 1)
        if self.config.preupsample:
            seen = nn.functional.interpolate(seen, scale_factor=2, mode="bilinear", align_corners=False)
        out: Tensor = self.shuffle(self.last(self._features(seen)))
        if self.config.model is ModelKind.RESIDUAL:
            out = out + self.plain(x)
        return out

    def _features(self, x: Tensor) -> Tensor:
        levels: list[Tensor] = [self.first(x)]
        for down in self.down:
            levels.append(down(nn.functional.max_pool2d(levels[-1], 2)))
        y = levels.pop()
        for up, beside in zip(reversed(self.up), reversed(levels), strict=True):
            y = up(y, beside)
        return y

    def _check(self, x: Tensor, noise: Tensor | None) -> None:
        channels = self.config.channels
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % MULTIPLE or x.shape[3] % MULTIPLE:
            raise ValueError(
                f"expected (n, {channels}, h, w) with h, w multiples of {MULTIPLE}, got {tuple(x.shape)}"
            )
        if self.config.conditioned != (noise is not None):
            raise ValueError("a conditioned network takes the noise of its input, another one does not")


def _initialise(module: nn.Module) -> None:
    """Weights with which the signal keeps its variance from layer to layer (He et al. 2015); torch's halve it each time."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=_SLOPE)
    elif isinstance(module, nn.ConvTranspose2d):
        # each output has one of the 2x2 taps of every input channel
        nn.init.normal_(module.weight, std=module.in_channels**-0.5)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


class _Convs(nn.Sequential):
    def __init__(self, inside: int, outside: int, *, bias: bool) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, 3, padding=1, bias=bias),
            nn.LeakyReLU(_SLOPE, inplace=True),
            nn.Conv2d(outside, outside, 3, padding=1, bias=bias),
            nn.LeakyReLU(_SLOPE, inplace=True),
        )


class _Up(nn.Module):
    def __init__(self, small: int, large: int, *, bias: bool) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(large, small, 2, stride=2, bias=bias)
        self.convs = _Convs(2 * small, small, bias=bias)

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        out: Tensor = self.convs(torch.cat([self.grow(below), beside], 1))
        return out


class PlainDemosaic(nn.Module):
    """Bilinear demosaicing of packed Bayer, mirrored at the edges.

    Each missing value is the mean of its two or four nearest neighbours of the colour; measured values stay as they are.

    >>> grey = torch.full((1, 4, 2, 2), 0.5)
    >>> PlainDemosaic()(grey).unique()
    tensor([0.5000])
    """

    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        cross = ((0, 1, 0), (1, 4, 1), (0, 1, 0))
        square = ((1, 2, 1), (2, 4, 2), (1, 2, 1))
        kernels = torch.tensor([square, cross, square], dtype=torch.float32) / 4
        self.register_buffer("weights", kernels[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Camera RGB.

        Args:
            x: (n, 4, h, w) levels in R, G, G, B order; h and w at least 1.

        Returns:
            (n, 3, 2h, 2w).
        """
        red, green1, green2, blue = (plane[:, None] for plane in x.unbind(1))
        none = torch.zeros_like(red)
        sites = [red, none, none, none, none, green1, green2, none, none, none, none, blue]
        sparse = nn.functional.pixel_shuffle(torch.cat(sites, 1), 2)
        mirrored = nn.functional.pad(sparse, (1, 1, 1, 1), mode="reflect")  # keeps the parity of sites
        return nn.functional.conv2d(mirrored, self.weights.to(x.dtype), groups=3)


def sigma_map(x: Tensor, noise: Tensor) -> Tensor:
    """The standard deviation of the noise at each value.

    Args:
        x: (n, c, h, w) levels or colours.
        noise: (n, 2, c): a and b of each channel; what is not a number counts as 0.

    Returns:
        (n, c, h, w): sqrt(a * value + b), with negative values taken as 0.

    Raises:
        ValueError: `noise` has another shape.

    >>> sigma_map(torch.full((1, 3, 1, 1), 0.25), torch.tensor([[[0.01] * 3, [0.0] * 3]])).unique()
    tensor([0.0500])
    """
    if noise.shape != (len(x), 2, x.shape[1]):
        raise ValueError(f"expected noise of shape ({len(x)}, 2, {x.shape[1]}), got {tuple(noise.shape)}")
    a, b = noise.nan_to_num()[..., None, None].unbind(1)
    return (a * x.clamp(min=0) + b).clamp(min=0).sqrt()


def to_rec2020(camera_rgb: Tensor, rgb_xyz_matrix: Tensor) -> Tensor:
    """Linear Rec.2020 from camera RGB, by the formula of `imaging.color.camera_to_rec2020`.

    Args:
        camera_rgb: (n, 3, h, w).
        rgb_xyz_matrix: (n, 4, 3) as in a batch: XYZ -> camera RGB, fourth row unused.

    Returns:
        (n, 3, h, w).
    """
    to_xyz = torch.linalg.inv(rgb_xyz_matrix[:, :3].double())
    matrix = torch.tensor(XYZ_TO_REC2020.tolist(), dtype=torch.float64, device=to_xyz.device) @ to_xyz
    return torch.einsum("nij,njhw->nihw", matrix.to(camera_rgb.dtype), camera_rgb)
