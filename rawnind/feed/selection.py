"""Selects rows of the manifest: splits by scene, and filters on measured numbers, without a new run of `prepare`."""

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


class SplitBy(StrEnum):
    """What train and val have not in common: whole scenes, or cameras (and scenes)."""

    SCENE = "scene"
    CAMERA = "camera"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which rows to keep. A number that was not measured (null) passes no filter on it.

    Attributes:
        split: see `Split`.
        split_by: see `SplitBy`.
        cfa: one colour filter array; None keeps both.
        min_msssim: lowest mean MS-SSIM of a crop.
        max_alignment_loss: highest alignment loss of a pair.
        min_valid_fraction: smallest fraction of valid pixels of a stored crop.
        iso: (lowest, highest) ISO of the noisy photo, both included.
        cameras: names as the manifest's column `camera` spells them; empty keeps all.
        expression: a `pyarrow.compute` expression over the manifest's columns.
    """

    split: Split = Split.TRAIN
    split_by: SplitBy = SplitBy.SCENE
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
