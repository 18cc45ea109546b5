"""Reads checkpoints, which may be damaged, of another training or of another program, and builds their networks."""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from rawnind.errors import ConfigError, printable
from rawnind.output.versions import VERSIONS
from rawnind.training.model import NetworkConfig, UNet

_DAMAGE = (
    OSError, EOFError, KeyError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile, pickle.UnpicklingError,
)  # fmt: skip
"""What zipfile and torch.load raise for damaged bytes."""
_ADVICE = "choose another one or remove it"


class State(BaseModel):
    """The entries of a checkpoint.

    Attributes:
        format: version of the file.
        network: what the network is built from, see `NetworkConfig`: model, funit, input, preupsample, conditioned.
        cfa: "bayer" or "x-trans" where it was trained on one alone.
        options: of the training, see `TrainOptions`, and its crops' `validation_share`.
        model: the network's parameters.
        average: their moving average; None where none was kept.
        optimizer: AdamW's state.
        scaler: of the loss, for fp16.
        feed: position of the loader.
        losses: the loss of every step so far.
        scores: (step, mean PSNR in dB) of every validation so far.
    """

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)

    format: int
    network: dict[str, str | int | bool]
    cfa: Literal["bayer", "x-trans"] | None
    options: dict[str, str | int | float | bool | None]
    model: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    feed: dict[str, str | int | bool]
    losses: list[float]
    scores: list[tuple[int, float]]

    def config(self) -> NetworkConfig:
        """What the network is built from.

        Raises:
            ConfigError: This version of rawnind has no such network.
        """
        try:
            return _CONFIG.validate_python(self.network)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise ConfigError(f"the checkpoint's network ({printable(where)}) is unknown") from error


_STATE = TypeAdapter(State)
_CONFIG = TypeAdapter(NetworkConfig, config=None)


def read_checkpoint(path: Path, device: torch.device) -> State:
    """The entries of a checkpoint; its checksums are compared first.

    Raises:
        ConfigError: The file does not exist, is no checkpoint, of another version, or damaged.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist or is no file; `rawnind train` writes checkpoints")
    if not zipfile.is_zipfile(path):  # torch.save's format
        raise ConfigError(f"{path} is not a checkpoint; {_ADVICE}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ConfigError(f"{path} is damaged; {_ADVICE}")
        entries = torch.load(path, map_location=device, weights_only=True)
        _require_version(path, entries)
        return _STATE.validate_python(entries)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(f"{path} is not a checkpoint of rawnind ({printable(where)}); {_ADVICE}") from error
    except _DAMAGE as error:
        raise ConfigError(
            f"{path} is not a checkpoint: {printable(' '.join(str(error).split()))}; {_ADVICE}"
        ) from error


def _require_version(path: Path, entries: object) -> None:
    version = entries.get("format") if isinstance(entries, dict) else None
    if isinstance(version, int) and version != VERSIONS["checkpoint"]:
        raise ConfigError(
            f"{path} has format {version} of checkpoints, this rawnind reads {VERSIONS['checkpoint']}; {_ADVICE}"
        )


def load_network(path: Path, device: torch.device | str = "cpu") -> tuple[UNet, State]:
    """The trained network, with the averaged parameters where there are any, and the checkpoint's entries.

    Args:
        path: file that `rawnind train` wrote.
        device: of the network.

    Raises:
        ConfigError: The file does not exist, is no checkpoint, or is damaged.
    """
    state = read_checkpoint(path, torch.device(device))
    network = UNet(state.config()).to(device).eval()
    weights = state.model if state.average is None else state.average
    require_shapes(path, weights, network)
    network.load_state_dict(weights)
    return network, state


def require_shapes(path: Path, found: dict[str, Tensor], network: UNet) -> None:
    """Checks that parameters are those of a network.

    Args:
        path: file of the checkpoint.
        found: its parameters.
        network: that takes them.

    Raises:
        ConfigError: Names or shapes differ.
    """
    own = {name: value.shape for name, value in network.state_dict().items()}
    if {name: value.shape for name, value in found.items()} != own:
        raise ConfigError(f"{path} does not fit the network; {_ADVICE}")


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
