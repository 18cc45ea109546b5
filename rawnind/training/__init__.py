"""Trains on an output folder. All public names of `rawnind.feed` can be imported from here as well."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rawnind import feed

if TYPE_CHECKING:
    from rawnind.feed import (
        Batch,
        CropDataset,
        CropLoader,
        CropOptions,
        FeedError,
        LiveCropDataset,
        NativeBatch,
        collate,
        ray_dataset,
        replay,
        to_device,
    )
    from rawnind.training.distributed import train_distributed
    from rawnind.training.losses import masked_l1, masked_ms_ssim, masked_psnr
    from rawnind.training.model import NetworkConfig, UNet, to_rec2020

_MODULES = {
    "NetworkConfig": "model", "UNet": "model", "masked_l1": "losses", "masked_ms_ssim": "losses", "masked_psnr": "losses",
    "to_rec2020": "model", "train_distributed": "distributed",
}  # fmt: skip

__all__ = [
    "Batch",
    "CropDataset",
    "CropLoader",
    "CropOptions",
    "FeedError",
    "LiveCropDataset",
    "NativeBatch",
    "NetworkConfig",
    "UNet",
    "collate",
    "masked_l1",
    "masked_ms_ssim",
    "masked_psnr",
    "ray_dataset",
    "replay",
    "to_device",
    "to_rec2020",
    "train_distributed",
]

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> Any:
        """Imports a public name when it is first used: torch and Ray take seconds to import."""
        if name in _MODULES:
            return getattr(import_module(f"rawnind.training.{_MODULES[name]}"), name)
        if name in __all__:
            return getattr(feed, name)
        raise AttributeError(f"module 'rawnind.training' has no attribute {name!r}")
