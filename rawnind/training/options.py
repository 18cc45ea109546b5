"""The options of a training, from keywords or a YAML file, checked when they are made."""

from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Literal

from rawnind.errors import ConfigError
from rawnind.feed.crop_options import CropOptions, Input
from rawnind.rules import is_fraction, is_number, is_whole, member, require
from rawnind.training.losses import Loss
from rawnind.training.model import ModelKind, NetworkConfig

CROP_SIZE = 128
"""Side of the crops that both trainers take by default: small, so that a step is fast without a GPU."""


class GainMatch(StrEnum):
    """What is brought to the ground truth's level: the network's input, its output, or neither."""

    INPUT = "input"
    OUTPUT = "output"
    NONE = "none"


class Schedule(StrEnum):
    """How the learning rate goes on after the warm-up."""

    COSINE = "cosine"
    PLATEAU = "plateau"
    CONSTANT = "constant"


class Precision(StrEnum):
    """The number type of the network's arithmetic; auto: bf16 on a GPU that has it, else fp32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class TrainKeywords(CropOptions, total=False):
    """The keyword options of both trainers: the fields of `TrainOptions`, and those of `CropOptions`."""

    model: ModelKind | Literal["unet", "residual"]
    funit: int
    preupsample: bool
    conditioned: bool
    steps: int
    batch_size: int
    accumulate: int
    loss: Loss | Literal["l1", "ms-ssim", "l1+ms-ssim"]
    balance: bool
    gain: GainMatch | Literal["input", "output", "none"]
    learning_rate: float
    schedule: Schedule | Literal["cosine", "plateau", "constant"]
    warmup: int
    weight_decay: float
    clip: float
    ema: float
    precision: Precision | Literal["auto", "fp32", "bf16", "fp16"]
    compile: bool
    save_every: int
    validate_every: int
    validation_crops: int
    patience: int
    hold_out_camera: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """How a network is trained; the defaults are those that bench_training.py measures.

    Attributes:
        model: how the output is made, see `ModelKind`.
        funit: channels of the network's first level.
        preupsample: whether packed Bayer is enlarged before the U-Net.
        conditioned: whether the network also takes the noise of its input.
        steps: optimiser steps in total, including those before a resume.
        batch_size: rows in a batch of one worker.
        accumulate: batches whose gradients make one step.
        loss: what is minimised.
        balance: whether a crop's loss counts as a share of its plainly demosaiced input's. Otherwise crops of high ISO, whose
            differences are ten times as large, decide alone, and the network smooths those of low ISO.
        gain: what is brought to the ground truth's level.
        learning_rate: the highest, after the warm-up.
        schedule: of the learning rate. "cosine" ends at 0 at the last step; "plateau" halves the rate when two validations
            in a row were not better than the best.
        warmup: steps in which the rate rises from 0.
        weight_decay: of AdamW.
        clip: largest norm of the gradients; 0: not clipped.
        ema: decay of the averaged weights, which validation and `evaluate` take, per step; 0: no average.
        precision: number type of the arithmetic.
        compile: whether `torch.compile` compiles the network.
        save_every: steps between two checkpoints; the last step is always saved.
        validate_every: steps between two validations; 0: only at the end.
        validation_crops: crops that a validation takes at most, evenly spaced; `evaluate` takes all.
        patience: validations without a new best after which training ends; 0: never.
        validation_share: expected fraction of the scenes that are held out for validation.
        hold_out_camera: this camera's photos are for validation alone, and all others for training; None: scenes are held
            out, see `validation_share`.

    Raises:
        ConfigError: A value breaks its rule.
    """

    model: ModelKind = ModelKind.RESIDUAL
    funit: int = 16
    preupsample: bool = False
    conditioned: bool = False
    steps: int = 1000
    batch_size: int = 4
    accumulate: int = 1
    loss: Loss = Loss.L1
    balance: bool = True
    gain: GainMatch = GainMatch.INPUT
    learning_rate: float = 2e-3
    schedule: Schedule = Schedule.COSINE
    warmup: int = 50
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.99
    precision: Precision = Precision.AUTO
    compile: bool = False
    save_every: int = 500
    validate_every: int = 500
    validation_crops: int = 64
    patience: int = 0
    validation_share: float = 0.1
    hold_out_camera: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "save_every", "validation_crops"):
            value = getattr(self, name)
            require(is_whole(value) and value > 0, f"{name} must be a whole number of at least 1", value)
        for name in ("warmup", "validate_every", "patience"):
            value = getattr(self, name)
            require(is_whole(value) and value >= 0, f"{name} must be a whole number of at least 0", value)
        rate, decay = self.learning_rate, self.weight_decay
        require(is_number(rate) and rate > 0, "learning_rate must be a number above 0", rate)
        for name, number in (("weight_decay", decay), ("clip", self.clip)):
            require(is_number(number) and number >= 0, f"{name} must be a number of at least 0", number)
        share = self.validation_share
        require(is_fraction(share), "validation_share must lie between 0 and 1", share)
        require(is_fraction(self.ema) and self.ema < 1, "ema must be at least 0 and below 1", self.ema)
        for name in ("preupsample", "conditioned", "balance", "compile"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"{name} must be true or false", value)
        require(is_whole(self.funit), "funit must be a whole number", self.funit)
        camera = self.hold_out_camera
        require(isinstance(camera, str | None), "hold_out_camera must be the name of a camera", camera)

    def network(self, kind: Input) -> NetworkConfig:
        """The network that is trained.

        Args:
            kind: of its input.
        """
        return NetworkConfig(
            model=self.model,
            funit=self.funit,
            input=kind,
            preupsample=self.preupsample,
            conditioned=self.conditioned,
        )

    def plain(self) -> dict[str, str | int | float | bool | None]:
        """Every option as a value that YAML and JSON have, for checkpoints."""
        return {name: str(v) if isinstance(v, StrEnum) else v for name, v in asdict(self).items()}


_ENUMS: dict[str, type[StrEnum]] = {
    "model": ModelKind, "loss": Loss, "gain": GainMatch, "schedule": Schedule, "precision": Precision,
}  # fmt: skip


def trained_cfa(crops: CropOptions) -> str | None:
    """The CFA that is trained on; None: any. Packed Bayer is Bayer alone.

    Args:
        crops: which crops to read.
    """
    cfa = "bayer" if crops.get("input", Input.RAW) == Input.RAW else crops.get("cfa")
    return None if cfa is None else str(cfa)


def split_keywords(values: dict[str, Any]) -> tuple[TrainOptions, CropOptions]:
    """The options of the training and those of its crops, with the trainers' defaults.

    Args:
        values: the keywords of `TrainKeywords`, at one level.

    Raises:
        ConfigError: A name is unknown, or a value breaks its rule.
    """
    own_names = {each.name for each in fields(TrainOptions)}
    crop_names = set(CropOptions.__annotations__) - {"extras", "match_gain", "validation_share"}
    if unknown := sorted(values.keys() - own_names - crop_names):
        raise ConfigError(
            f"unknown option {unknown[0]!r}; known are {', '.join(sorted(own_names | crop_names))}"
        )
    own: dict[str, Any] = {
        name: member(_ENUMS[name], name, value) if name in _ENUMS else value
        for name, value in values.items()
        if name in own_names
    }
    options = TrainOptions(**own)
    crops: Any = {name: value for name, value in values.items() if name in crop_names}
    crops.setdefault("crop_size", CROP_SIZE)
    crops |= {"match_gain": options.gain is GainMatch.INPUT, "validation_share": options.validation_share}
    return options, crops
