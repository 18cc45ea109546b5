"""The options of `prepare`, from keywords or a YAML file, checked when they are made."""

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

from rawnind.documents import SETTINGS, read_yaml
from rawnind.errors import ConfigError
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Compression, GtAlignment, Pairing, Recipe
from rawnind.records import Cfa
from rawnind.rules import is_number, is_whole, member, require


class RunOptions(TypedDict, total=False):
    """The keyword options of `rawnind.prepare` and `rawnind.plan`: the fields of `Options` and of `Recipe`.

    An option that is left out takes its default there. `retry_failed` is True for all failed scenes, or the names of the
    reasons to try again.
    """

    max_scenes: int | None
    limit: int | None
    timeout: int | None
    scene_timeout: float | None
    cfa: Cfa | Literal["bayer", "x-trans"] | None
    exclude_test_reserve: bool
    follow_links: bool
    keep_raw: bool
    disk_budget: float | None
    cpus_per_scene: float
    address: str | None
    dashboard: bool
    retry_failed: bool | str | Collection[str]
    strict: bool

    crop_size: int
    stride: int
    pairing: Pairing | Literal["best", "all"]
    min_msssim: float | None
    min_valid_fraction: float
    max_shift: int
    min_alignment_score: float
    max_alignment_loss: float
    min_mask_mean: float
    max_bad_exposure: float
    max_color_deviation: float | None
    max_noise_ratio: float | None
    gt_alignment: GtAlignment | Literal["warp", "integer"]
    max_residual: float | None
    max_light_drift: float | None
    max_level_offset: float | None
    compression: Compression | Literal["none", "zstd"]
    algorithm: int


_YEAR = 31_536_000
"""Seconds; timers of the operating system do not take numbers that are very much larger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of a run; only `recipe` changes its results.

    Attributes:
        recipe: every parameter that changes a pair's pixels, numbers or bytes.
        max_scenes: scenes in flight at once, and workers at most; None: as many workers as have as much to do as their start
            takes, with the scenes that they process and up to 31 results of each that are being committed.
        limit: scenes in all; None: every one.
        timeout: seconds from the start of the first scene after which the run stops cleanly and can be resumed; None:
            no limit.
        scene_timeout: seconds after which one scene fails, or a large one of which a chunk took so long; None: no limit.
        cfa: only scenes with this CFA; None: all.
        exclude_test_reserve: leave out the scenes that are reserved for testing.
        follow_links: read files that links in the source lead to, outside of it too.
        keep_raw: whether photos that the run fetches itself stay in the output folder, in `raw`.
        disk_budget: GB that photos of scenes in flight may take, which the run fetches itself; None: unlimited.
        cpus_per_scene: CPUs that a worker takes.
        address: a Ray cluster; None: that of RAY_ADDRESS, else one that runs on this machine, else a new local one.
        dashboard: whether a new local Ray has its dashboard; it takes 1 GB of memory.
        retry_failed: reasons for which failed scenes are tried again; empty: none.
        strict: whether the command fails when a scene or a pair failed.
    """

    recipe: Recipe = field(default_factory=Recipe)
    max_scenes: int | None = None
    limit: int | None = None
    timeout: int | None = None
    scene_timeout: float | None = None
    cfa: Cfa | None = None
    exclude_test_reserve: bool = False
    follow_links: bool = False
    keep_raw: bool = False
    disk_budget: float | None = None
    cpus_per_scene: float = 1.0
    address: str | None = None
    dashboard: bool = False
    retry_failed: frozenset[Reason] = frozenset()
    strict: bool = False

    def __post_init__(self) -> None:
        for name in ("max_scenes", "limit", "timeout"):
            value = getattr(self, name)
            require(
                value is None or (is_whole(value) and value > 0),
                f"{name} must be a whole number of at least 1",
                value,
            )
        seconds, cpus = self.scene_timeout, self.cpus_per_scene
        require(
            seconds is None or (is_number(seconds) and seconds > 0),
            "scene_timeout must be a number of seconds above 0",
            seconds,
        )
        for name in ("timeout", "scene_timeout"):
            value = getattr(self, name)
            require(value is None or value <= _YEAR, f"{name} must be at most a year, {_YEAR} seconds", value)
        require(is_number(cpus) and cpus > 0, "cpus_per_scene must be a number above 0", cpus)
        budget = self.disk_budget
        require(
            budget is None or (is_number(budget) and budget > 0),
            "disk_budget must be a number of GB above 0",
            budget,
        )
        for name in ("exclude_test_reserve", "follow_links", "keep_raw", "dashboard", "strict"):
            require(
                isinstance(getattr(self, name), bool), f"{name} must be true or false", getattr(self, name)
            )
        require(isinstance(self.address, str | None), "address must be text", self.address)
        require(isinstance(self.cfa, Cfa | None), f"cfa must be one of {', '.join(Cfa)}", self.cfa)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Options from plain values, with the keys of `Options` and of `Recipe` at one level.

        Raises:
            ConfigError: A name is unknown or a value breaks its rule.
        """
        recipe_keys = set(Recipe.names())
        own_keys = {each.name for each in fields(cls)} - {"recipe"}
        for key in values:
            if key not in recipe_keys | own_keys:
                known = ", ".join(sorted(recipe_keys | own_keys))
                raise ConfigError(f"unknown option {key!r}; known are {known}")
        own = {key: value for key, value in values.items() if key in own_keys}
        if own.get("cfa") is not None:
            own["cfa"] = member(Cfa, "cfa", own["cfa"])
        if "retry_failed" in own:
            own["retry_failed"] = _reasons(own["retry_failed"])
        recipe = Recipe.from_dict({key: value for key, value in values.items() if key in recipe_keys})
        return cls(recipe=recipe, **own)


def load_config(path: Path) -> dict[str, Any]:
    """Reads plain values from a YAML file, with the keys of `Options` and of `Recipe` at one level; `-` may replace `_`.

    Raises:
        ConfigError: The file cannot be read or is not a YAML mapping.
    """
    try:
        with path.open("rb") as file:
            data = file.read(SETTINGS + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    values = read_yaml(data, str(path), ConfigError)
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path} must hold option names with values, such as `crop_size: 512`")
    values.pop("format", None)  # of a folder's recipe.yaml
    names = [key.replace("-", "_") for key in values]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path} gives {', '.join(twice)} twice")
    return dict(zip(names, values.values(), strict=True))


def _reasons(value: object) -> frozenset[Reason]:
    """Every reason of a failure for True or `all`, none for False, else the named ones."""
    failures = frozenset(reason for reason in Reason if reason.outcome is Outcome.FAILED)
    if value == "all" or isinstance(value, bool):
        return failures if value else frozenset()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple | set | frozenset):
        raise ConfigError(f"retry_failed must be true or a list of reasons, got {value!r}")
    if wrong := [str(name) for name in names if name not in list(failures)]:
        raise ConfigError(
            f"retry_failed takes all, {', '.join(sorted(failures))}, got {', '.join(sorted(wrong))}"
        )
    return frozenset(map(Reason, names))
