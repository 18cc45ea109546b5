"""A trained network as denoising calls it, from a checkpoint or from a .dtmodel."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from rawnind.darktable.check import load_session, read_dtmodel
from rawnind.darktable.contract import INPUT, MULTIPLE, OUTPUT, SUFFIX
from rawnind.errors import ConfigError
from rawnind.feed.crop_options import Input
from rawnind.records import Cfa
from rawnind.training.checkpoint import load_network
from rawnind.training.model import UNet

REACH = 107
"""Pixels of the U-Net's first level that an output pixel depends on in each direction: 62 down, 45 up; a test measures it."""

Noise = NDArray[np.float32]
"""(2, channels): a and b of each channel of the input; the variance of a value is a * value + b. Not a number: not measured."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Denoiser:
    """A network and what its caller must know of it.

    Attributes:
        input: "raw": packed Bayer levels (4, h, w) to camera RGB (3, 2h, 2w); "rgb": linear Rec.2020 (3, h, w) to the same.
        margin: pixels of the input around a tile on which its output depends, a multiple of 16.
        conditioned: whether it takes the photo's noise.
        run: from (channels, h, w) float32, h and w multiples of 16, and the noise, to (3, H, W) float32.
    """

    input: Input
    margin: int
    conditioned: bool
    run: Callable[[NDArray[np.float32], Noise | None], NDArray[np.float32]]


def open_denoiser(path: Path, cfa: Cfa) -> Denoiser:
    """The network of a file, for photos of one CFA.

    Args:
        path: a checkpoint of `rawnind train`, or a .dtmodel.
        cfa: of the photos.

    Raises:
        ConfigError: The file is neither, is damaged, or holds no network for this CFA.
    """
    found = _of_package(path, cfa) if path.suffix == SUFFIX else _of_checkpoint(path)
    if found.input is Input.RAW and cfa is not Cfa.BAYER:
        raise ConfigError(
            f"the network of {path} is for Bayer sensors, and the photo is {cfa}; train one with --input rgb"
        )
    return found


def _of_checkpoint(path: Path) -> Denoiser:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, _ = load_network(path, device)
    config = network.config
    return Denoiser(
        input=config.input,
        margin=_margin(REACH // 2 + 1 if config.preupsample else REACH),
        conditioned=config.conditioned,
        run=lambda levels, noise: _run_torch(network, device, levels, noise),
    )


def _run_torch(
    network: UNet, device: torch.device, levels: NDArray[np.float32], noise: Noise | None
) -> NDArray[np.float32]:
    """One call of a network in torch.

    Args:
        network: to call.
        device: where it is.
        levels: (channels, h, w).
        noise: for a conditioned network.
    """
    with torch.inference_mode():
        given = None if noise is None else torch.from_numpy(noise)[None].to(device)
        out = network(torch.from_numpy(levels)[None].to(device), given)
        return np.asarray(out[0].cpu().numpy())


def _of_package(path: Path, cfa: Cfa) -> Denoiser:
    networks = read_dtmodel(path).networks
    variant = "bayer" if cfa is Cfa.BAYER and "bayer" in networks else "linear"
    if variant not in networks:
        raise ConfigError(
            f"{path} has no variant for {cfa} sensors; export one that was trained with --input rgb"
        )
    session = load_session(networks[variant])
    return Denoiser(
        input=Input.RAW if variant == "bayer" else Input.RGB,
        margin=_margin(REACH),
        conditioned=False,
        run=lambda levels, _: _run_onnx(session, levels),
    )


def _run_onnx(session: onnxruntime.InferenceSession, levels: NDArray[np.float32]) -> NDArray[np.float32]:
    (out,) = session.run([OUTPUT], {INPUT: levels[None]})
    return np.asarray(out[0])


def _margin(reach: int) -> int:
    return -(-reach // MULTIPLE) * MULTIPLE
