"""Checkpoints without a training."""

import time

import torch

from rawnind.output.versions import VERSIONS
from rawnind.training.model import NetworkConfig, UNet


def write_checkpoint(path, config=None, *, spread=0.0):
    """Writes a checkpoint of a network with random weights, drawn anew in every run.

    Args:
        path: of the file.
        config: of the network.
        spread: standard deviation of the last layer's weights; 0 leaves a residual network at plain demosaicing.
    """
    config = config or NetworkConfig(funit=4)
    seed = time.time_ns() % 2**31
    print(f"weights of {path.name}: seed {seed}")
    torch.manual_seed(seed)
    network = UNet(config)
    if spread:
        torch.nn.init.normal_(network.last.weight, std=spread)
    if network.last.bias is not None:
        torch.nn.init.ones_(network.last.bias)  # an output with a mean of 0 has no brightness
    state = {
        "format": VERSIONS["checkpoint"],
        "network": config.plain(),
        "cfa": None,
        "options": {},
        "model": network.state_dict(),
        "average": None,
        "optimizer": {},
        "scaler": {},
        "feed": {},
        "losses": [],
        "scores": [],
    }
    torch.save(state, path)
    return path
