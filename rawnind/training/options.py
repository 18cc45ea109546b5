"""How a data set makes samples of the rows it gives."""

from dataclasses import dataclass
from enum import StrEnum
from numbers import Integral
from typing import TypeVar

from rawnind.errors import ConfigError

Choice = TypeVar("Choice", bound=StrEnum)


class Input(StrEnum):
    """What the network sees of y: packed Bayer levels, or demosaiced colour."""

    RAW = "raw"
    RGB = "rgb"


class Pairing(StrEnum):
    """Which photo is the target x and which the input y."""

    X_Y = "x_y"
    X_X = "x_x"
    Y_Y = "y_y"


class OnDamage(StrEnum):
    """What to do about a shard that is not what the manifest says."""

    RAISE = "raise"
    SKIP = "skip"


class Verify(StrEnum):
    """How far a shard is checked before it is used: its layout and names, or every byte, once per process."""

    LAYOUT = "layout"
    SHA256 = "sha256"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleOptions:
    """Every choice that changes a sample; it checks itself.

    Attributes:
        crop_size: side of a sub-crop in sites, a multiple of 32: the U-Net halves packed Bayer planes four times.
        num_crops: sub-crops of each row.
        augment: random flips and transpositions, and other windows in every epoch.
        least_valid: share of valid pixels that a window should have.
        tries: windows that are tried for it; the best one is taken.
    """

    crop_size: int
    num_crops: int
    input: Input
    pairing: Pairing
    match_gain: bool
    augment: bool
    seed: int
    least_valid: float
    tries: int
    on_damage: OnDamage
    verify: Verify

    def __post_init__(self) -> None:
        for name in ("crop_size", "num_crops", "seed", "tries"):
            if not isinstance(value := getattr(self, name), Integral):
                raise ConfigError(f"{name} must be a whole number, got {value!r}")
        rules = (
            (self.crop_size > 0 and self.crop_size % 32 == 0, "crop_size must be a positive multiple of 32", self.crop_size),
            (self.num_crops > 0, "num_crops must be at least 1", self.num_crops),
            (self.seed >= 0, "seed must not be negative", self.seed),
            (0 <= self.least_valid <= 1, "least_valid must lie between 0 and 1", self.least_valid),
            (self.tries > 0, "tries must be at least 1", self.tries),
        )  # fmt: skip
        for holds, rule, value in rules:
            if not holds:
                raise ConfigError(f"{rule}, got {value!r}")


def choice(kind: type[Choice], name: str, value: str) -> Choice:
    """A word from outside as a member of `kind`.

    Raises:
        ConfigError: It is none.

    >>> choice(Input, "input", "rgb")
    <Input.RGB: 'rgb'>
    """
    if value not in list(kind):
        raise ConfigError(f"{name} must be one of {', '.join(kind)}, got {value!r}")
    return kind(value)
