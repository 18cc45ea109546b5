"""Reads checkpoints, which may be damaged, of another training or of another program."""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from rawnind.errors import ConfigError, printable

_DAMAGE = (
    OSError, EOFError, KeyError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile, pickle.UnpicklingError,
)  # fmt: skip
"""What zipfile and torch.load raise for damaged bytes."""


class State(BaseModel):
    """The entries of a checkpoint.

    Attributes:
        format: version of the file.
        kind: channels and width of the network.
        model: its parameters.
        optimizer: Adam's state.
        feed: position of the loader.
        losses: the loss of every step so far.
    """

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)

    format: int
    kind: dict[str, int]
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    feed: dict[str, str | int | bool]
    losses: list[float]


_STATE = TypeAdapter(State)


def read_checkpoint(path: Path, device: torch.device) -> State:
    """The entries of a checkpoint; its checksums are compared first.

    Raises:
        ConfigError: The file is no checkpoint, or is damaged.
    """
    advice = "choose another one or remove it"
    if not (path.is_file() and zipfile.is_zipfile(path)):  # torch.save's format
        raise ConfigError(f"{path} is not a checkpoint; {advice}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ConfigError(f"{path} is damaged; {advice}")
        return _STATE.validate_python(torch.load(path, map_location=device, weights_only=True))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(f"{path} is not a checkpoint of rawnind ({printable(where)}); {advice}") from error
    except _DAMAGE as error:
        raise ConfigError(
            f"{path} is not a checkpoint: {printable(' '.join(str(error).split()))}; {advice}"
        ) from error


def fits(found: dict[str, Any], own: dict[str, Any], model: dict[str, Tensor]) -> bool:
    """Whether a state of the optimiser is one of this network.

    Args:
        found: of a checkpoint.
        own: of the optimiser that resumes.
        model: parameters of the network, in the optimiser's order.
    """
    shapes = [value.shape for value in model.values()]
    groups, states = found.get("param_groups"), found.get("state")
    if not (
        isinstance(groups, list) and isinstance(states, dict) and len(groups) == len(own["param_groups"])
    ):
        return False
    same_groups = all(
        isinstance(group, dict)
        and {name: type(value) for name, value in group.items()}
        == {name: type(value) for name, value in mine.items()}
        and [*map(repr, group["params"])] == [*map(repr, mine["params"])]
        for group, mine in zip(groups, own["param_groups"], strict=True)
    )
    return same_groups and all(
        number in range(len(shapes))
        and isinstance(state, dict)
        and {name: getattr(value, "shape", None) for name, value in state.items()}
        == {"step": torch.Size(), "exp_avg": shapes[number], "exp_avg_sq": shapes[number]}
        for number, state in states.items()
    )
