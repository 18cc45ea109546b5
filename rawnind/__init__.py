"""Prepares RAW photo pairs for training denoisers: aligned, masked, scored, cropped, checked and listed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rawnind.api import plan, status, verify
    from rawnind.exporters.research_yaml import export
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
    from rawnind.pipeline.run import prepare
    from rawnind.report.show import show
    from rawnind.source.index import load_index

    __version__: str

_MODULES = {
    "prepare": "rawnind.pipeline.run",
    "plan": "rawnind.api",
    "verify": "rawnind.api",
    "status": "rawnind.api",
    "export": "rawnind.exporters.research_yaml",
    "load_index": "rawnind.source.index",
    "show": "rawnind.report.show",
}

__all__ = [
    "Batch",
    "CropDataset",
    "CropLoader",
    "CropOptions",
    "FeedError",
    "LiveCropDataset",
    "NativeBatch",
    "__version__",
    "collate",
    "export",
    "load_index",
    "plan",
    "prepare",
    "ray_dataset",
    "replay",
    "show",
    "status",
    "to_device",
    "verify",
]

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> Any:
        """Imports a public name when it is first used: Ray, torch and numba take seconds to import."""
        if name == "__version__":
            from importlib.metadata import version

            return version("rawnind")
        if name in __all__:
            return getattr(import_module(_MODULES.get(name, "rawnind.feed")), name)
        raise AttributeError(f"module 'rawnind' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
