"""Other light for training crops: other colours, and a sensor that saturates earlier.

A network that has seen few cameras and few bright places otherwise shifts the colours of a new camera, and makes rings around lamps.
"""

import torch
from torch import Tensor

from rawnind.feed.batch import Batch
from rawnind.feed.crop_options import Input

DRAWS = 5
"""Random numbers that `other_light` takes per crop."""
_FACTOR = 2**0.5  # largest factor of a channel; the smallest is its inverse. 2 cost 0.2 to 0.6 dB at high ISO
_SATURATED = 0.25  # of the crops
_NEAR = 0.99  # share of the level of saturation from which a site is not valid, as `imaging.exposure.OVER`
_CHANNELS = {Input.RAW: (0, 1, 1, 2), Input.RGB: (0, 1, 2)}  # the colour of each channel of y


def other_light(batch: Batch, kind: Input, draws: Tensor) -> Batch:
    """The batch as if light of another colour had fallen on the scenes, and some noisy photos had been exposed for too long.

    Each colour is multiplied by a factor from 0.7 to 1.4: a packed Bayer input and the matrix of its camera, so that the
    target stays as it is, or Rec.2020 of input and target. A fourth of the crops saturates at a level between their own mean and
    their brightest value; what that reaches is no longer valid. Levels are not scaled back to 1: the residual network and
    the balanced loss do not depend on brightness.

    Args:
        batch: of the feed; `noise_a` and `noise_b` are scaled too, where it has them.
        kind: of y.
        draws: (n, DRAWS) random numbers from 0 to 1.

    Examples:
        >>> grey, mask = torch.full((1, 3, 1, 2), 0.25), torch.ones(1, 3, 1, 2, dtype=torch.bool)
        >>> batch = Batch(x_crops=grey, y_crops=grey, mask_crops=mask, rgb_xyz_matrix=torch.zeros(1, 4, 3), gain=1)
        >>> lit = other_light(batch, Input.RGB, torch.tensor([[1.0, 0.5, 0.0, 1.0, 0.0]]))
        >>> lit["x_crops"][0, :, 0, 0]
        tensor([0.3536, 0.2500, 0.1768])
    """
    factors = _FACTOR ** (2 * draws[:, :3] - 1)
    of_y = factors[:, list(_CHANNELS[kind])]
    y = batch["y_crops"] * of_y[..., None, None]
    level = _level(y, draws[:, 3], draws[:, 4])
    below = (y < _NEAR * level).all(1, keepdim=True)
    lit = batch.copy()
    if kind is Input.RAW:
        lit["rgb_xyz_matrix"] = batch["rgb_xyz_matrix"].clone()
        lit["rgb_xyz_matrix"][:, :3] *= factors[..., None]
        below = below.repeat_interleave(2, 2).repeat_interleave(2, 3)  # a cell has four sites
    else:
        lit["x_crops"] = batch["x_crops"] * factors[..., None, None]
    lit["y_crops"] = torch.minimum(y, level)
    lit["mask_crops"] = (batch["mask_crops"][:, :1] & below).expand(-1, 3, -1, -1)
    if "noise_a" in batch:
        lit["noise_a"], lit["noise_b"] = batch["noise_a"] * of_y, batch["noise_b"] * of_y**2
    return lit


def _level(y: Tensor, chosen: Tensor, place: Tensor) -> Tensor:
    """(n, 1, 1, 1) level at which each crop saturates: infinite, or from its brightest value (place 0) to its mean (1), in equal ratios."""
    mean = y.mean((1, 2, 3)).clamp(min=1e-6)
    brightest = torch.maximum(y.amax((1, 2, 3)), mean)
    level = brightest * (mean / brightest) ** place
    return torch.where(chosen < _SATURATED, level, torch.inf)[:, None, None, None]
