"""Pictures of what a network does: for some crops the noisy photo, the network's output, the ground truth, and the error."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rawnind.training.prediction import Prediction
from rawnind.training.validation import Validator, display_encoded

GAP = 8
"""Columns between two pictures."""
_BRIGHTEST = 0.995  # the quantile of the ground truth that is shown as white
_ERROR_FACTOR = 10.0  # the error is shown enlarged by this
_GREY = 64


def strips(validator: Validator, network: torch.nn.Module, count: int) -> list[NDArray[np.uint8]]:
    """A strip of four pictures for each of some crops: noisy, denoised, ground truth, 10 x |denoised - ground truth|.

    Pixels that the mask excludes are grey in the last one. Brightness is that of the crop's ground truth.

    Args:
        validator: has the crops.
        network: a `UNet`.
        count: of crops, evenly spaced over those of a validation.
    """
    return [_strip(noisy, denoised) for noisy, denoised in validator.examples(network, count)]


def _strip(noisy: Prediction, denoised: Prediction) -> NDArray[np.uint8]:
    target, mask = denoised.target[0], denoised.mask[0]
    white = torch.quantile(target.amax(0).flatten(), _BRIGHTEST).clamp(min=1e-3)
    shown = [_bytes(picture / white) for picture in (noisy.output[0], denoised.output[0], target)]
    error = _ERROR_FACTOR * (denoised.output[0] - target).abs() / white
    shown.append(np.where(mask.permute(1, 2, 0).cpu().numpy(), _bytes(error), np.uint8(_GREY)))
    gap = np.full((len(shown[0]), GAP, 3), 255, np.uint8)
    parts = [part for picture in shown for part in (picture, gap)][:-1]
    return np.concatenate(parts, axis=1)


def _bytes(picture: Tensor) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 of (3, h, w) linear values."""
    encoded = (255 * display_encoded(picture)).round().to(torch.uint8)
    return np.ascontiguousarray(encoded.permute(1, 2, 0).cpu().numpy())


def png(picture: NDArray[np.uint8]) -> bytes:
    """A PNG file of (h, w, 3) RGB."""
    _, data = cv2.imencode(".png", picture[:, :, ::-1])
    return data.tobytes()
