"""The keyword options that `CropDataset`, `LiveCropDataset`, `ray_dataset` and the trainers share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from numbers import Integral
from typing import Literal, TypedDict

import pyarrow.compute as pc

from rawnind.feed.selection import Selection, Split, SplitBy
from rawnind.records import Cfa
from rawnind.rules import member, require


class Input(StrEnum):
    """The kind of y: packed Bayer levels, or demosaiced colour."""

    RAW = "raw"
    RGB = "rgb"


class TrainingPairing(StrEnum):
    """Which photo is the target x and which the input y."""

    X_Y = "x_y"
    X_X = "x_x"
    Y_Y = "y_y"


class OnDamage(StrEnum):
    """What happens at a shard that is not what the manifest says."""

    RAISE = "raise"
    SKIP = "skip"


class Verify(StrEnum):
    """What is checked before a shard is used: its layout and names, or every byte, once per process."""

    LAYOUT = "layout"
    SHA256 = "sha256"


class Extra(StrEnum):
    """What a batch can hold beside pixels, matrix and gain."""

    NOISE_A = "noise_a"
    NOISE_B = "noise_b"
    ISO = "iso"
    SCENE = "scene"
    CAMERA = "camera"
    CROP_ID = "crop_id"


class CropOptions(TypedDict, total=False):
    """Which crops to read and how to make samples of them. All are optional.

    Attributes:
        split: "train" (the default), "val" (whole scenes, chosen by the hash of their name), "test" (the test reserve
            alone), or "all" (train and val).
        split_by: "scene" (the default), or "camera": val has whole cameras that train has not, chosen by the hash of their
            name, at least one.
        cfa: "bayer" or "x-trans"; None keeps both.
        min_msssim: lowest mean MS-SSIM of a crop.
        max_alignment_loss: highest alignment loss of a pair.
        min_valid_fraction: smallest fraction of valid pixels of a stored crop.
        iso: (lowest, highest) ISO of the noisy photo, both included.
        camera: a name, or several, as the manifest spells them.
        expression: a `pyarrow.compute` expression over the manifest's columns.
        validation_share: expected fraction of scenes in split "val". Default: 0.1.
        crop_size: side of the sub-crops in sites, a multiple of 32, at most the stored size. Default: 256.
        num_crops: sub-crops per row. Default: 1.
        input: "raw" (the default): y is packed Bayer, X-Trans rows are left out; "rgb": y is demosaiced.
        pairing: "x_y" (the default): x is the GT, y the noisy photo; "x_x": both are the GT; "y_y": both are the noisy
            photo.
        match_gain: whether y is multiplied by the pair's gain, which makes it as bright as x. Default: True.
        augment: random flips and transpositions, and other windows in every epoch. Default: in split "train" alone;
            in a live feed, always.
        seed: seed of everything random. Default: 0.
        least_valid: fraction of valid pixels that a sub-crop should have. Default: 0.5.
        tries: how many windows are tried to reach `least_valid`; the best one is taken. Default: 8.
        on_damage: what happens at a shard that is not what the manifest says: "raise" (the default), or "skip".
        verify: "layout" (the default), or "sha256": each process also hashes each shard once before it uses it.
        extras: further keys of the batch, see `Batch`: "noise_a", "noise_b", "iso", "scene", "camera", "crop_id". Default:
            none.
    """

    split: Split | Literal["train", "val", "test", "all"]
    split_by: SplitBy | Literal["scene", "camera"]
    cfa: Cfa | Literal["bayer", "x-trans"] | None
    min_msssim: float | None
    max_alignment_loss: float | None
    min_valid_fraction: float | None
    iso: tuple[int, int] | None
    camera: str | Sequence[str] | None
    expression: pc.Expression | None
    validation_share: float
    crop_size: int
    num_crops: int
    input: Input | Literal["raw", "rgb"]
    pairing: TrainingPairing | Literal["x_y", "x_x", "y_y"]
    match_gain: bool
    augment: bool | None
    seed: int
    least_valid: float
    tries: int
    on_damage: OnDamage | Literal["raise", "skip"]
    verify: Verify | Literal["layout", "sha256"]
    extras: Sequence[Extra | Literal["noise_a", "noise_b", "iso", "scene", "camera", "crop_id"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleOptions:
    """Every option that changes a sample, checked; see `CropOptions`."""

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
    extras: tuple[Extra, ...] = field(default=(), repr=False)  # the samples are the same with and without

    def __post_init__(self) -> None:
        for name in ("crop_size", "num_crops", "seed", "tries"):
            value = getattr(self, name)
            require(isinstance(value, Integral), f"{name} must be a whole number", value)
        require(  # the U-Net halves packed Bayer planes four times
            self.crop_size > 0 and self.crop_size % 32 == 0, "crop_size must be a positive multiple of 32", self.crop_size
        )  # fmt: skip
        require(self.num_crops > 0, "num_crops must be at least 1", self.num_crops)
        require(self.seed >= 0, "seed must not be negative", self.seed)
        require(0 <= self.least_valid <= 1, "least_valid must lie between 0 and 1", self.least_valid)
        require(
            not (self.pairing is TrainingPairing.X_X and {Extra.NOISE_A, Extra.NOISE_B} & {*self.extras}),
            "extras noise_a and noise_b are of the noisy photo, which is not in pairing",
            str(self.pairing),
        )
        require(self.tries > 0, "tries must be at least 1", self.tries)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedOptions:
    """`CropOptions` with every value checked.

    Attributes:
        selection: which rows of the manifest to read.
        samples: how to make samples of them.
        validation_share: expected fraction of scenes in split "val".
    """

    selection: Selection
    samples: SampleOptions
    validation_share: float


def checked_options(
    *,
    split: str = "train",
    split_by: str = "scene",
    cfa: str | None = None,
    min_msssim: float | None = None,
    max_alignment_loss: float | None = None,
    min_valid_fraction: float | None = None,
    iso: tuple[int, int] | None = None,
    camera: str | Sequence[str] | None = None,
    expression: pc.Expression | None = None,
    validation_share: float = 0.1,
    crop_size: int = 256,
    num_crops: int = 1,
    input: str = "raw",  # noqa: A002 the research code's name
    pairing: str = "x_y",
    match_gain: bool = True,
    augment: bool | None = None,
    seed: int = 0,
    least_valid: float = 0.5,
    tries: int = 8,
    on_damage: str = "raise",
    verify: str = "layout",
    extras: Sequence[str] = (),
) -> CheckedOptions:
    """Checks options and fills in their defaults.

    Args: those of `CropOptions`.

    Raises:
        ConfigError: An option breaks its rule.

    >>> checked_options(split="val").samples.augment
    False
    """
    selection = Selection(
        split=member(Split, "split", split),
        split_by=member(SplitBy, "split_by", split_by),
        cfa=None if cfa is None else member(Cfa, "cfa", cfa),
        min_msssim=min_msssim,
        max_alignment_loss=max_alignment_loss,
        min_valid_fraction=min_valid_fraction,
        iso=iso,
        cameras=(camera,) if isinstance(camera, str) else tuple(camera or ()),
        expression=expression,
    )
    samples = SampleOptions(
        crop_size=crop_size,
        num_crops=num_crops,
        input=member(Input, "input", input),
        pairing=member(TrainingPairing, "pairing", pairing),
        match_gain=match_gain,
        augment=selection.split is Split.TRAIN if augment is None else augment,
        seed=seed,
        least_valid=least_valid,
        tries=tries,
        on_damage=member(OnDamage, "on_damage", on_damage),
        verify=member(Verify, "verify", verify),
        extras=tuple(dict.fromkeys(member(Extra, "extras", name) for name in _names(extras))),
    )
    return CheckedOptions(selection=selection, samples=samples, validation_share=validation_share)


def _names(extras: Sequence[str]) -> Sequence[str]:
    return (extras,) if isinstance(extras, str) else extras


def check_batching(batch_size: int, workers: int, rank: int, ranks: int) -> None:
    """Checks how a loader makes batches.

    Args:
        batch_size: rows in a batch.
        workers: threads that prefetch batches.
        rank: number of this consumer, from 0.
        ranks: number of consumers.

    Raises:
        ConfigError: A number is out of range.
    """
    require(batch_size >= 1, "batch_size must be at least 1", batch_size)
    require(workers >= 0, "workers must be at least 0", workers)
    require(0 <= rank < ranks, "rank must be at least 0 and below ranks", (rank, ranks))
