"""The recipe: every parameter that changes a pair's pixels, numbers or bytes."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

from rawnind.rules import is_fraction, is_number, is_whole, require

ALGORITHM = 2
"""Raised by every change of what a recipe computes, so that old and new results never mix. Folders of earlier algorithms can be
read, and are not continued."""


class Pairing(StrEnum):
    """Which GT meets which noisy photo."""

    BEST = "best"
    ALL = "all"


class GtAlignment(StrEnum):
    """How the stored RGB of the GT is brought to where the noisy photo stood."""

    WARP = "warp"
    INTEGER = "integer"


class Compression(StrEnum):
    """Compression of a shard's pixels."""

    NONE = "none"
    ZSTD = "zstd"


ADDED: dict[str, Any] = {
    "compression": Compression.NONE,
    "max_color_deviation": None,
    "max_noise_ratio": None,
    "gt_alignment": GtAlignment.INTEGER,
    "max_residual": None,
    "max_light_drift": None,
    "max_level_offset": None,
}
"""Keys that the first recipes did not have, with the value that was in force without them. A key that is added to
`Recipe` is added here, with the behaviour before it."""


_LIMITS = ("max_color_deviation", "max_noise_ratio", "max_residual", "max_light_drift", "max_level_offset")
"""Limits that may be None: no limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Parameters of the pair chain. The digest identifies results of the same parameters.

    Attributes:
        crop_size: side of a crop in sites, a multiple of 32.
        stride: sites between two crops; rounded up to the CFA period when used.
        pairing: `best`: each noisy photo with the GT that aligns best; `all`: with every GT.
        min_msssim: a crop with a lower score is left out; None keeps all.
        min_valid_fraction: a crop with fewer valid pixels is left out.
        max_shift: largest shift that is searched, in sites.
        min_alignment_score: a lower correlation peak means: not the same scene. Unrelated photos reached 6.6 and true
            pairs at least 8.9 in 500 drawn cases of each (benchmarks/bench_align.py).
        max_alignment_loss: a pair whose photos differ by more, beyond what noise explains, is rejected. The research code has
            0.035 for the whole difference, which noise alone exceeds at high ISO.
        min_mask_mean: a pair with fewer valid pixels is rejected (0.8 in the research code).
        max_bad_exposure: largest share of over- or underexposed cells in either photo (0.75 in the research code).
        max_color_deviation: a pair is rejected where the gain of red, green or blue alone differs from the pair's gain by a
            larger share, beyond what noise gives once in 100,000; None: no limit. Drawn pairs of one camera whose response
            differs by an exponent of 0.02 reach 0.065, light of another colour begins at about 0.1.
        max_noise_ratio: a pair is rejected where the ground truth has more than this times the noise variance of the noisy
            photo at the same level; None: no limit. One step of ISO is 2.
        gt_alignment: `warp`: the demosaiced GT is resampled where the noisy photo's sites lie in it; `integer`: it is cut at
            each crop's own whole shift. A warped GT is 7 dB closer to the truth at sub-pixel shifts (benchmarks/bench_geometry.py).
        max_residual: sites; where local shifts show that more is left, or 2.5 standard errors of a smooth surface exceed a fifth
            of it, pixels are masked; None: no limit.
        max_light_drift: a pair is rejected where the light deviates from its mean over the frame by a larger share, and by
            half of it beyond what noise gives once in 100,000; None: no limit. Drawn pairs with a drift of 3 % reach 0.05, a
            gradient of 15 % begins at 0.14.
        max_level_offset: a pair is rejected where the noisy photo's level at black, by colour, is off by a larger share of its
            mean level, beyond what noise gives once in 100,000; None: no limit. Drawn pairs whose response differs by an
            exponent of 0.02 reach 0.05.
        compression: of the shards. `zstd` is for storage that is slow to read: a crop then costs more CPU than it saves on
            a local disk.
        absent: keys of `ADDED` that the folder's recipe.yaml does not have because it is older than they are. They are no
            part of the digest, so that a folder keeps the digest that its scenes were committed with.
    """

    crop_size: int = 512
    stride: int = 512
    pairing: Pairing = Pairing.BEST
    min_msssim: float | None = None
    min_valid_fraction: float = 0.5
    max_shift: int = 128
    min_alignment_score: float = 8.0
    max_alignment_loss: float = 0.035
    min_mask_mean: float = 0.8
    max_bad_exposure: float = 0.75
    max_color_deviation: float | None = 0.08
    max_noise_ratio: float | None = 2.0
    gt_alignment: GtAlignment = GtAlignment.WARP
    max_residual: float | None = 0.75
    max_light_drift: float | None = 0.12
    max_level_offset: float | None = 0.065
    compression: Compression = Compression.NONE
    algorithm: int = ALGORITHM
    absent: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        require(is_whole(self.crop_size) and self.crop_size > 0 and self.crop_size % 32 == 0,
                 "crop_size must be a positive multiple of 32", self.crop_size)  # fmt: skip
        require(
            is_whole(self.stride) and self.stride > 0, "stride must be a positive whole number", self.stride
        )
        require(isinstance(self.pairing, Pairing), "pairing must be 'best' or 'all'", self.pairing)
        require(
            isinstance(self.gt_alignment, GtAlignment),
            "gt_alignment must be 'warp' or 'integer'",
            self.gt_alignment,
        )
        require(
            isinstance(self.compression, Compression),
            "compression must be 'none' or 'zstd'",
            self.compression,
        )
        require(self.min_msssim is None or is_fraction(self.min_msssim),
                 "min_msssim must lie between 0 and 1", self.min_msssim)  # fmt: skip
        for name in ("min_valid_fraction", "min_mask_mean", "max_bad_exposure"):
            require(is_fraction(getattr(self, name)), f"{name} must lie between 0 and 1", getattr(self, name))
        for name in ("min_alignment_score", "max_alignment_loss", *_LIMITS):
            value = getattr(self, name)
            if value is None and name in _LIMITS:
                continue
            require(is_number(value) and value >= 0, f"{name} must be a number of at least 0", value)
        require(is_whole(self.max_shift) and 0 <= self.max_shift <= 1024,
                 "max_shift must lie between 0 and 1024", self.max_shift)  # fmt: skip
        require(
            is_whole(self.algorithm) and 1 <= self.algorithm <= ALGORITHM,
            f"this version has the algorithms 1 to {ALGORITHM}",
            self.algorithm,
        )
        for name in ("min_valid_fraction", "min_mask_mean", "max_bad_exposure", "min_msssim", "min_alignment_score",
                     "max_alignment_loss", *_LIMITS):  # fmt: skip
            value = getattr(self, name)
            if value is not None:  # 1 and 1.0, 0.0 and -0.0 are one value and must have one digest
                object.__setattr__(self, name, float(value) + 0.0)

    @property
    def residual_limit(self) -> float:
        """`max_residual`, infinite where there is no limit."""
        return math.inf if self.max_residual is None else self.max_residual

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 over the recipe's canonical JSON."""
        return _digest(self, self.absent)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in recipe.yaml, in manifest.yaml and in a config file."""
        return {
            key: str(value) if isinstance(value, StrEnum) else value
            for key, value in asdict(self).items()
            if key not in {"absent", *self.absent}
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """A recipe from plain values.

        Raises:
            ConfigError: A name is unknown or a value breaks its rule.
        """
        names = cls.names()
        for key in values:
            require(key in names, f"unknown recipe key; known are {', '.join(names)}", key)
        values = dict(values)
        for name, kind in (("pairing", Pairing), ("compression", Compression), ("gt_alignment", GtAlignment)):
            if name in values:
                known = " or ".join(repr(str(each)) for each in kind)
                require(values[name] in list(kind), f"{name} must be {known}", values[name])
                values[name] = kind(values[name])
        return cls(**values)

    @classmethod
    def of_folder(cls, values: dict[str, Any]) -> "Recipe":
        """The recipe of an output folder, which may be older than some keys. Errors as in `from_dict`.

        Args:
            values: of its recipe.yaml or manifest.yaml.

        >>> old = Recipe().as_dict()
        >>> del old["compression"]
        >>> Recipe.of_folder(old) == Recipe(), Recipe.of_folder(old).digest == Recipe().digest
        (True, False)
        """
        absent = frozenset(set(ADDED) - set(values))
        recipe = cls.from_dict({**{key: ADDED[key] for key in absent}, **values})
        return replace(recipe, absent=absent)

    @classmethod
    def names(cls) -> list[str]:
        """Names of the parameters."""
        return [each.name for each in fields(cls) if each.compare]


@lru_cache(maxsize=16)
def _digest(recipe: Recipe, absent: frozenset[str]) -> str:  # noqa: ARG001 - recipes that differ in it alone are equal
    """Called for every scene."""
    return hashlib.sha256(json.dumps(recipe.as_dict(), sort_keys=True).encode()).hexdigest()[:16]
