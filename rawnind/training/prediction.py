"""What a network makes of a batch, in the colours and at the level of its target."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rawnind.feed.batch import Batch
from rawnind.feed.crop_options import Input
from rawnind.training.model import NetworkConfig, PlainDemosaic, to_rec2020
from rawnind.training.options import GainMatch

_LEAST_LEVEL = 1e-6


class Prediction(NamedTuple):
    """A network's output and what it should have been.

    Attributes:
        output: (n, 3, c, c) linear Rec.2020.
        target: (n, 3, c, c) linear Rec.2020.
        mask: (n, 3, c, c) bool, True where a value counts.
    """

    output: Tensor
    target: Tensor
    mask: Tensor


def predict(
    network: Callable[..., Tensor], config: NetworkConfig, gain: GainMatch, batch: Batch
) -> Prediction:
    """The network's output for a batch.

    Args:
        network: a `UNet`, or a wrapper of one.
        config: what it was built from.
        gain: whether the output is brought to the target's level.
        batch: with `noise_a` and `noise_b` where the network is conditioned.
    """
    y = batch["y_crops"]
    if config.conditioned:
        out = network(y, torch.stack([batch["noise_a"], batch["noise_b"]], 1))
    else:
        out = network(y)
    return _finished(out.float(), config, gain, batch)


def plainly_demosaiced(config: NetworkConfig, gain: GainMatch, batch: Batch) -> Prediction:
    """The noisy input itself in the place of a network's output; packed Bayer is demosaiced bilinearly.

    Args:
        config: of the network that it is compared with.
        gain: whether it is brought to the target's level.
        batch: of the feed.
    """
    y = batch["y_crops"]
    out = PlainDemosaic().to(y.device)(y) if config.input is Input.RAW else y
    return _finished(out, config, gain, batch)


def _finished(out: Tensor, config: NetworkConfig, gain: GainMatch, batch: Batch) -> Prediction:
    target, mask = batch["x_crops"], batch["mask_crops"]
    if config.input is Input.RAW:
        out = to_rec2020(out, batch["rgb_xyz_matrix"])
    if gain is GainMatch.OUTPUT:
        out = out * _level_ratio(out, target, mask)
    return Prediction(out, target, mask)


def _level_ratio(out: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """(n, 1, 1, 1): the target's mean over valid values by the output's; 1 where that is not above 0."""
    wanted, found = (torch.where(mask, v, 0).sum((1, 2, 3), keepdim=True) for v in (target, out))
    return torch.where(found > _LEAST_LEVEL, wanted / found.clamp(min=_LEAST_LEVEL), torch.ones_like(found))
