"""Prepares RAW photo pairs for training denoisers: aligned, masked, scored, cropped, checked and listed."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rawnind.pipeline.run import prepare

__all__ = ["prepare"]


def __getattr__(name: str) -> Any:
    """`rawnind.prepare`, without making `import rawnind` wait for Ray."""
    if name == "prepare":
        from rawnind.pipeline.run import prepare  # noqa: PLC0415

        return prepare
    raise AttributeError(f"module 'rawnind' has no attribute {name!r}")
