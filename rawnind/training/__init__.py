"""The feed and the training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rawnind.training.batch import Batch, NativeBatch, collate, to_device
from rawnind.training.dataset import CropDataset
from rawnind.training.loader import CropLoader
from rawnind.training.model import UNet, masked_l1

if TYPE_CHECKING:
    from rawnind.training.distributed import ray_dataset, train_distributed
    from rawnind.training.live import FeedError, LiveCropDataset, replay

__all__ = [
    "Batch",
    "CropDataset",
    "CropLoader",
    "FeedError",
    "LiveCropDataset",
    "NativeBatch",
    "UNet",
    "collate",
    "masked_l1",
    "ray_dataset",
    "replay",
    "to_device",
    "train_distributed",
]

_WITH_RAY = {
    "FeedError": "live",
    "LiveCropDataset": "live",
    "replay": "live",
    "ray_dataset": "distributed",
    "train_distributed": "distributed",
}


def __getattr__(name: str) -> Any:
    """What needs Ray, without making everybody wait for it."""
    if name in _WITH_RAY:
        return getattr(import_module(f"rawnind.training.{_WITH_RAY[name]}"), name)
    raise AttributeError(f"module 'rawnind.training' has no attribute {name!r}")
