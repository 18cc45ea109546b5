"""Batches: as they travel between processes (the stored number types), and as a training loop wants them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map


class Batch(TypedDict):
    """What a training loop gets; row k of every tensor belongs to one sub-crop.

    Attributes:
        x_crops: (n, 3, c, c) float32, the target: the GT in linear Rec.2020.
        y_crops: float32, the input: the noisy photo as (n, 4, c/2, c/2) levels in R, G, G, B order, or as (n, 3, c, c)
            linear Rec.2020.
        mask_crops: (n, 3, c, c) bool, True where the pair may be trained on; one plane seen three times, not to be written.
        rgb_xyz_matrix: (n, 4, 3) float32, XYZ -> camera RGB, fourth row 0; (4, 3) for a single item.
        gain: (n,) float32 by which y still has to be multiplied to be as bright as x; a float for a single item.
    """

    x_crops: Tensor
    y_crops: Tensor
    mask_crops: Tensor
    rgb_xyz_matrix: Tensor
    gain: Any


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class NativeBatch:
    """A batch in the number types of the shards: half the bytes, converted where it is used, by `to_device`.

    Attributes:
        x: (n, 3, c, c) float16 or float32, linear Rec.2020.
        y: (n, c, c) uint16 mosaic that starts on red, or (n, 3, c, c) float16 or float32, linear Rec.2020.
        mask: (n, c, c) bool.
        black: (n, 4) float32, sensor values.
        factor: (n, 4) float32, level per sensor value, times the gain where it is matched.
        rgb_xyz_matrix: (n, 4, 3) float32.
        gain: (n,) float32.
        damaged: names of shards that could not be read; other crops stand in their place.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    black: Tensor
    factor: Tensor
    rgb_xyz_matrix: Tensor
    gain: Tensor
    damaged: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def pin_memory(self) -> "NativeBatch":
        """The batch in page-locked memory; torch's DataLoader calls this when it is told to pin."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "NativeBatch":
        """The batch on a device, still in the shards' number types."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _each(self, change: Any) -> "NativeBatch":
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "damaged"}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items()})


def collate(samples: Sequence[NativeBatch]) -> NativeBatch:
    """For `DataLoader(dataset, collate_fn=collate)`: keeps the native types on the way; then call `to_device`."""
    if len(samples) == 1:
        return samples[0]
    joined = {
        f.name: torch.cat([getattr(sample, f.name) for sample in samples])
        for f in fields(NativeBatch)
        if f.name != "damaged"
    }
    return NativeBatch(**joined, damaged=tuple(name for sample in samples for name in sample.damaged))


def to_device(batch: NativeBatch, device: torch.device | str = "cpu") -> Batch:
    """A batch as float32 on a device; the bytes travel there before they are widened.

    Args:
        batch: from `collate`, in pinned memory for an asynchronous copy.
        device: where the training loop runs.
    """
    moved = batch.to(device, non_blocking=True)
    count, size = len(moved), moved.x.shape[-1]
    if moved.y.dtype == torch.uint16:
        y = torch.empty((count, 4, size // 2, size // 2), dtype=torch.float32, device=moved.y.device)
        levels(moved.y, moved.black, moved.factor, out=y)
    else:
        y = moved.y.float()
    return Batch(
        x_crops=moved.x.float(),
        y_crops=y,
        mask_crops=moved.mask[:, None].expand(-1, 3, -1, -1),
        rgb_xyz_matrix=moved.rgb_xyz_matrix,
        gain=moved.gain,
    )


def levels(mosaic: Tensor, black: Tensor, factor: Tensor, *, out: Tensor) -> None:
    """Splits mosaics into planes of levels, (v - black) * factor.

    Args:
        mosaic: (n, c, c) uint16 that starts on red.
        black: (n, 4) per plane.
        factor: (n, 4) per plane.
        out: (n, 4, c/2, c/2) float32.
    """
    count, height, width = mosaic.shape
    sites = mosaic.view(count, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3)
    out.view(count, 2, 2, height // 2, width // 2).copy_(sites)
    out.sub_(black[:, :, None, None]).mul_(factor[:, :, None, None])


def _plain(batch: Sequence[NativeBatch], *, collate_fn_map: object = None) -> Batch:  # noqa: ARG001
    return to_device(collate(batch))


# torch's own hook for batches of a new kind: a DataLoader without collate_fn then gives plain float32 batches.
default_collate_fn_map[NativeBatch] = _plain
