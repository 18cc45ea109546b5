"""The crops that a training learns from, and those that it is validated on."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from rawnind.errors import ConfigError
from rawnind.feed.crop_options import CropOptions
from rawnind.feed.dataset import CropDataset
from rawnind.training.options import TrainOptions

log = logging.getLogger(__name__)

VALIDATION_SIDE = 256
"""Sites; from 161 on MS-SSIM has all its scales. Smaller stored crops are taken as a whole."""
SMALLEST_SIDE = 32
Outputs = str | Path | Sequence[str | Path]

_NOTHING = {
    "val": "no scene is held out for validation",
    "test": "no scene of the test reserve is for this network",
    "all": "no scene is for this network",
}


def training_crops(output: Outputs, options: TrainOptions, crops: CropOptions) -> CropDataset:
    """The crops that are trained on.

    Args:
        output: the folder that `rawnind prepare` wrote, or several.
        options: of the training.
        crops: which crops to read.

    Raises:
        ConfigError: An option is wrong, or no row is left.
        NotPreparedError: The folder has no manifest.
        ManifestError: The manifest cannot be read.
    """
    return CropDataset(output, **wanted_crops(options, crops))


def wanted_crops(options: TrainOptions, crops: CropOptions) -> CropOptions:
    """Which crops to train on, with what the training needs of each.

    Args:
        options: of the training.
        crops: which crops to read.
    """
    wanted = crops.copy()
    if options.conditioned:
        wanted["extras"] = ("noise_a", "noise_b")
    if options.hold_out_camera is not None:
        wanted["split"] = "all"
        wanted["augment"] = crops.get("augment", True)
        wanted["expression"] = _joined(crops, pc.field("camera") != options.hold_out_camera)
    return wanted


def validation_crops(
    output: Outputs,
    options: TrainOptions,
    crops: CropOptions,
    split: Literal["val", "test", "all"] = "val",
) -> CropDataset | None:
    """Crops that the training does not see, each with one fixed window; None where there are none, which is logged.

    Args:
        output: the folder that `rawnind prepare` wrote, or several.
        options: of the training; with `hold_out_camera`, "val" is that camera's scenes.
        crops: which crops the training reads; its filters hold here too.
        split: "val"; "test": the test reserve; "all": training and validation scenes.

    Raises:
        ConfigError: An option is wrong, or the camera that is held out has no crop.
        NotPreparedError: The folder has no manifest.
        ManifestError: The manifest cannot be read.
    """
    wanted: Any = {
        **crops, "split": split, "augment": False, "num_crops": 1, "extras": ("iso", "camera", "noise_a", "noise_b"),
    }  # fmt: skip
    if options.hold_out_camera is not None and split == "val":
        wanted["split"] = "all"
        wanted["expression"] = _joined(crops, pc.field("camera") == options.hold_out_camera)
    try:
        sizes = CropDataset(output, **(wanted | {"crop_size": SMALLEST_SIDE})).rows.pairs["size"]
    except ConfigError as error:
        if options.hold_out_camera is not None and split == "val":
            raise ConfigError(f"no crop of the camera {options.hold_out_camera} is left: {error}") from error
        log.warning("%s: %s", _NOTHING[split], error)
        return None
    side = min(VALIDATION_SIDE, pc.min(sizes).as_py() // SMALLEST_SIDE * SMALLEST_SIDE)
    return CropDataset(output, **(wanted | {"crop_size": side}))


def _joined(crops: CropOptions, condition: pc.Expression) -> pc.Expression:
    given = crops.get("expression")
    return condition if given is None else given & condition
