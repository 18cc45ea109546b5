"""Selects rows of the manifest: splits by scene, and filters on measured numbers, without a new run of `prepare`."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow.compute as pc

from rawnind.errors import ConfigError
from rawnind.records import Cfa


class Split(StrEnum):
    """Parts of a data set. Scenes of the test reserve are in `test` alone; `all` leaves them out as well."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"
    ALL = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which rows to keep. A number that was not measured (null) passes no filter on it.

    Attributes:
        split: see `Split`.
        cfa: one colour filter array; None keeps both.
        min_msssim: lowest mean MS-SSIM of a crop.
        max_alignment_loss: highest alignment loss of a pair.
        min_valid_fraction: smallest fraction of valid pixels of a stored crop.
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
        """Name and expression of each filter that is set, without the split."""
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


def validation_scenes(scenes: Iterable[str], share: float = 0.1) -> frozenset[str]:
    """The scenes of the validation split: those whose SHA-256(name) is below `share` * 2^256.

    The split of a scene depends on its name alone, so it does not change when scenes are added. Where every scene would be
    selected, the one with the largest hash is left for training.

    Args:
        scenes: names, without those of the test reserve.
        share: expected fraction of scenes, 0..1.

    >>> sorted(validation_scenes(["kitchen", "fabrics", "7D-2", "plant"], share=0.5))
    ['kitchen']
    """
    ranked = sorted((_fraction(scene), scene) for scene in set(scenes))
    return frozenset(scene for fraction, scene in ranked[:-1] if fraction < share)


def in_validation(scene: str, share: float = 0.1) -> bool:
    """Whether a scene's hash alone selects it for validation, for use while the other scenes are unknown.

    >>> in_validation("kitchen", share=0.5)
    True
    """
    return _fraction(scene) < share


def _fraction(scene: str) -> float:
    return int.from_bytes(hashlib.sha256(scene.encode()).digest()[:8], "big") / 2**64
