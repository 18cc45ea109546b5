"""The feed and the training."""

from rawnind.training.batch import Batch, NativeBatch, collate, to_device
from rawnind.training.dataset import CropDataset
from rawnind.training.loader import CropLoader
from rawnind.training.model import UNet, masked_l1

__all__ = ["Batch", "CropDataset", "CropLoader", "NativeBatch", "UNet", "collate", "masked_l1", "to_device"]
