"""Reads an output folder as batches of training samples."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rawnind.feed.batch import Batch, NativeBatch, collate, to_device
    from rawnind.feed.crop_options import CropOptions
    from rawnind.feed.dataset import CropDataset
    from rawnind.feed.live.connection import FeedError
    from rawnind.feed.live.dataset import LiveCropDataset, replay
    from rawnind.feed.loader import CropLoader
    from rawnind.feed.ray_data import ray_dataset

_MODULES = {
    "Batch": "batch",
    "CropDataset": "dataset",
    "CropOptions": "crop_options",
    "CropLoader": "loader",
    "FeedError": "live.connection",
    "LiveCropDataset": "live.dataset",
    "NativeBatch": "batch",
    "collate": "batch",
    "ray_dataset": "ray_data",
    "replay": "live.dataset",
    "to_device": "batch",
}

__all__ = [
    "Batch",
    "CropDataset",
    "CropLoader",
    "CropOptions",
    "FeedError",
    "LiveCropDataset",
    "NativeBatch",
    "collate",
    "ray_dataset",
    "replay",
    "to_device",
]

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> Any:
        """Imports a public name when it is first used: torch and Ray take seconds to import."""
        if name in _MODULES:
            return getattr(import_module(f"rawnind.feed.{_MODULES[name]}"), name)
        raise AttributeError(f"module 'rawnind.feed' has no attribute {name!r}")
