"""Writes a network as ONNX and compares the file with the network.

torch's first exporter is used, which traces the network. Its successor writes opset 18 and converts down, names dynamic axes by
formulas (`16*height`) where darktable looks for `height` and `width`, and needs onnxscript and ten times as long.
"""

import io
import warnings

import numpy as np
import torch
from torch import Tensor

from rawnind.darktable.check import load_session
from rawnind.darktable.contract import HEIGHT, INPUT, OPSET, OUTPUT, WIDTH
from rawnind.errors import ConfigError
from rawnind.training.loop import torch_cores
from rawnind.training.model import UNet

TOLERANCE = 1e-4
"""Largest difference between onnxruntime's output and torch's, in levels; where outputs exceed 1, as a share of the largest."""

CROP_SIZES = (64, 96, 128)
"""Sides of the crops that are compared, in pixels of the input."""

_CROPS = 8


def encode_onnx(network: UNet) -> bytes:
    """The bytes of a network's ONNX file: opset 17, float32, `input` to `output`, height and width dynamic.

    Raises:
        ConfigError: The network takes more than the photo.
    """
    if network.config.conditioned:
        raise ConfigError(
            "the network also takes the noise of its input, which darktable does not give; train one without"
        )
    network = network.eval().cpu().float()
    example = torch.zeros(1, network.config.channels, 32, 48)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # see above
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean")  # checks of the input
        warnings.filterwarnings("ignore", "Constant folding")  # of the mirrored edge: it stays in the graph
        torch.onnx.export(
            network,
            (example,),
            file,  # type: ignore[arg-type]  # a file object is allowed without dynamo
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={
                INPUT: {2: HEIGHT, 3: WIDTH},
                OUTPUT: {2: f"output_{HEIGHT}", 3: f"output_{WIDTH}"},
            },
        )
    return file.getvalue()


def compare(network: UNet, data: bytes) -> float:
    """The largest difference between onnxruntime and torch on eight crops at each of three sizes.

    Args:
        network: in torch.
        data: its ONNX file.

    Returns:
        In levels; where outputs exceed 1, as a share of the largest.

    Raises:
        ConfigError: It exceeds `TOLERANCE`.
    """
    session = load_session(data, cores=1)
    largest = 0.0
    with torch.inference_mode(), torch_cores(1):
        for size in CROP_SIZES:
            for crop in _crops(network.config.channels, size):
                expected = network(crop[None]).numpy()
                (found,) = session.run([OUTPUT], {INPUT: crop[None].numpy()})
                scale = max(1.0, float(np.abs(expected).max()))
                largest = max(largest, float(np.abs(found - expected).max()) / scale)
    if not largest <= TOLERANCE:
        raise ConfigError(
            f"onnxruntime's output differs from torch's by {largest:.2g}, more than {TOLERANCE:g}; "
            "the network may have diverged: look at `rawnind evaluate`"
        )
    return largest


def _crops(channels: int, size: int) -> Tensor:
    """(8, channels, size, size) pictures from dark to bright: gradients and edges with noise."""
    rng = np.random.default_rng(size)
    y, x = np.mgrid[:size, :size] / size
    pictures = []
    for number in range(_CROPS):
        brightness = 2.0 ** (number - _CROPS + 1)
        edges = (np.sin(2 * np.pi * (number + 1) * (x + y * rng.random())) > 0) * 0.5
        level = brightness * (0.3 * x + 0.2 * y + edges)[None].repeat(channels, 0)
        noise = rng.normal(size=level.shape) * np.sqrt(0.01 * level + 1e-5)
        pictures.append(level + noise)
    return torch.from_numpy(np.stack(pictures).astype(np.float32))
