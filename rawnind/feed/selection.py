"""Which rows of the manifest a data set gives: splits by scene, and filters that need no new run of the job."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from numbers import Integral
from typing import Any, TypeVar

import pyarrow.compute as pc

from rawnind.errors import ConfigError
from rawnind.records import Cfa

Choice = TypeVar("Choice", bound=StrEnum)


class Input(StrEnum):
    """What the network sees of y: packed Bayer levels, or demosaiced colour."""

    RAW = "raw"
    RGB = "rgb"


class TrainingPairing(StrEnum):
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
    pairing: TrainingPairing
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


VALIDATION_SHARE = 0.1


class Split(StrEnum):
    """Parts of a data set. Scenes of the test reserve are in `test` alone; `all` leaves them out as well."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"
    ALL = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What to keep. A score that was not measured (null) passes no filter that asks for it.

    Attributes:
        split: see `Split`.
        cfa: one colour filter array; None keeps both.
        min_msssim: lowest mean MS-SSIM of a crop.
        max_alignment_loss: highest alignment loss of a pair.
        min_valid_fraction: smallest share of valid pixels of a stored crop.
        iso: (lowest, highest) ISO of the noisy photo, both included.
        cameras: names as the manifest's column `camera` spells them; empty keeps all.
        expression: a `pyarrow.compute` expression over the manifest's columns.
    """

    split: Split = Split.TRAIN
    cfa: Cfa | None = None
    min_msssim: float | None = None
    max_alignment_loss: float | None = None
    min_valid_fraction: float | None = None
    iso: tuple[int, int] | None = None
    cameras: tuple[str, ...] = ()
    expression: pc.Expression | None = None

    def __post_init__(self) -> None:
        if self.iso is not None and not (len(self.iso) == 2 and self.iso[0] <= self.iso[1]):
            raise ConfigError(f"iso must be (lowest, highest), got {self.iso!r}")
        if self.expression is not None and not isinstance(self.expression, pc.Expression):
            raise ConfigError(f"expression must be a pyarrow.compute expression, got {self.expression!r}")

    def filters(self) -> list[tuple[str, pc.Expression]]:
        """Name and expression of each filter that was asked for, the split left out."""
        field = pc.field
        chosen: list[tuple[str, Any, Any]] = [
            ("cfa", self.cfa, field("cfa") == str(self.cfa)),
            ("min_msssim", self.min_msssim, field("msssim") >= self.min_msssim),
            (
                "max_alignment_loss",
                self.max_alignment_loss,
                field("alignment_loss") <= self.max_alignment_loss,
            ),
            (
                "min_valid_fraction",
                self.min_valid_fraction,
                field("valid_fraction") >= self.min_valid_fraction,
            ),
            ("camera", self.cameras or None, field("camera").isin(list(self.cameras))),
            ("expression", self.expression, self.expression),
        ]
        if self.iso is not None:
            low, high = self.iso
            chosen.append(("iso", self.iso, (field("iso") >= low) & (field("iso") <= high)))
        return [(name, expression) for name, value, expression in chosen if value is not None]


def validation_scenes(scenes: Iterable[str], share: float = VALIDATION_SHARE) -> frozenset[str]:
    """The scenes that are kept for validation: those whose name's SHA-256, read as a fraction, lies below `share`.

    A scene's place depends on its name alone, so that it stays where it is when scenes are added. Where that would take every
    scene, the one with the largest hash goes to training.

    Args:
        scenes: names, without the test reserve's.
        share: expected share of scenes, 0..1.

    >>> sorted(validation_scenes(["kitchen", "fabrics", "7D-2", "plant"], share=0.5))
    ['kitchen']
    """
    ranked = sorted((_fraction(scene), scene) for scene in set(scenes))
    return frozenset(scene for fraction, scene in ranked[:-1] if fraction < share)


def in_validation(scene: str, share: float = VALIDATION_SHARE) -> bool:
    """Whether a scene's hash alone keeps it for validation, for those who do not know the other scenes yet.

    >>> in_validation("kitchen", share=0.5)
    True
    """
    return _fraction(scene) < share


def _fraction(scene: str) -> float:
    return int.from_bytes(hashlib.sha256(scene.encode()).digest()[:8], "big") / 2**64
