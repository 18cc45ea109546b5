"""What a batch has beside its pixels when `extras=` asks for it: the noise of y, and where each sub-crop is from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rawnind.feed.crop_options import Extra, Input, SampleOptions, TrainingPairing
from rawnind.feed.rows import Row

Value: TypeAlias = tuple[float, ...] | float | str
"""Of one sub-crop: (channels,) numbers, a number, or a text. NaN stands for what was not measured."""

_PLANES = {Input.RAW: (0, 1, 1, 2), Input.RGB: (0, 1, 2)}
"""The colour of each channel of y."""


def extras_of(row: Row, options: SampleOptions, y_gain: float) -> dict[str, Value]:
    """The extras that the options ask for, by their key in the batch.

    Args:
        row: of the manifest.
        options: how samples are made.
        y_gain: the factor by which y was multiplied; the noise is scaled with it.
    """
    pair = row.pair
    values: dict[Extra, Value] = {
        Extra.NOISE_A: _channels(pair.noise_a, y_gain, options),
        Extra.NOISE_B: _channels(pair.noise_b, y_gain**2, options),
        Extra.ISO: math.nan if pair.iso is None else float(pair.iso),
        Extra.SCENE: pair.scene,
        Extra.CAMERA: pair.camera,
        Extra.CROP_ID: row.crop_id,
    }
    return {str(name): values[name] for name in options.extras}


def applied_gain(row: Row, options: SampleOptions) -> float:
    """The factor by which y is multiplied."""
    matched = options.match_gain and options.pairing is TrainingPairing.X_Y
    return row.pair.gain if matched else 1.0


def _channels(values: Sequence[float | None], factor: float, options: SampleOptions) -> tuple[float, ...]:
    """One value per channel of y, from those of red, green and blue."""
    colors = [math.nan if value is None else factor * value for value in values]
    return tuple(colors[color] for color in _PLANES[options.input])


Extras: TypeAlias = Mapping[str, Sequence[Value]]
"""By key, the values of the n sub-crops of a batch."""


def gathered(rows: Sequence[Mapping[str, Value]]) -> dict[str, list[Value]]:
    """The extras of a batch from those of its sub-crops."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def joined(parts: Sequence[Extras]) -> dict[str, list[Value]]:
    """The values of several batches, one after the other."""
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def as_columns(extras: Extras, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Extras as a batch has them: float32 tensors (n, channels) or (n,), and lists of n texts."""
    return {
        name: list(values) if isinstance(values[0], str) else torch.tensor(values, device=device)
        for name, values in extras.items()
    }


def of_single_item(column: Any) -> Any:
    """The value that all sub-crops of one row share."""
    first = column[0]
    return float(first) if isinstance(first, Tensor) and not first.ndim else first


def join_items(values: Sequence[Any], counts: Tensor) -> Any:
    """One column of a batch from the values of single items.

    Args:
        values: of each item.
        counts: (items,) number of its sub-crops.
    """
    if isinstance(values[0], str):
        return [value for value, count in zip(values, counts.tolist(), strict=True) for _ in range(count)]
    if isinstance(values[0], Tensor):
        return torch.stack(list(values)).repeat_interleave(counts, 0)
    return torch.tensor(values).repeat_interleave(counts)
