"""What a .dtmodel is: the contract between a trained network and darktable's raw denoiser, as data.

A .dtmodel is a zip archive with one folder that is named like the archive. It holds `config.json` and one ONNX file per variant:

    rawdenoise-mine.dtmodel
        rawdenoise-mine/config.json
        rawdenoise-mine/model_bayer.onnx        for Bayer sensors
        rawdenoise-mine/model_linear.onnx       for X-Trans and everything that comes demosaiced

darktable reads `id`, `name`, `description`, `task`, `version`, `model_card` and `attributes`; it takes keys that it does not
read without complaint, and values that it does not understand as its own defaults. That is why values are fixed here.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

CONFIG = "config.json"
SUFFIX = ".dtmodel"
OPSET = 17
INPUT, OUTPUT = "input", "output"
HEIGHT, WIDTH = "height", "width"
"""Names of the input's dynamic axes: darktable fixes axes of these names to its tile size."""

MULTIPLE = 16
"""Height and width of an input are multiples of this."""

INPUT_SIZES = (2048, 1536, 1024, 768, 512, 384, 256)
"""Sides of the tiles that darktable tries, the largest that fits its memory first."""


def _safe(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError("it must consist of letters, digits, '.', '_' and '-', because it names a folder")
    return name


def _onnx_file(name: str) -> str:
    if not _safe(name).endswith(".onnx"):
        raise ValueError("it must end in .onnx")
    return name


def _tile_side(side: int) -> int:
    if side < MULTIPLE or side % MULTIPLE:
        raise ValueError(f"it must be a positive multiple of {MULTIPLE}")
    return side


ModelId = Annotated[str, AfterValidator(_safe)]
OnnxFile = Annotated[str, AfterValidator(_onnx_file)]
TileSide = Annotated[int, AfterValidator(_tile_side)]
Text = Annotated[str, Field(min_length=1, max_length=10_000)]


class _Part(BaseModel):
    """A mapping of config.json; keys that are not listed are ignored, as darktable does."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class ModelCard(_Part):
    """Provenance and licences, which darktable shows with the model; what is not known says so.

    Attributes:
        long_description: what the network does, and its weaknesses.
        scope: the task in a few words.
        author: who trained it.
        source: where its code is from.
        paper: the publication behind it.
        license: of the weights.
        training_data: what it was trained on, with counts.
        training_data_license: of the photos.
        notes: caveats.
    """

    long_description: Text
    scope: Text
    author: Text
    source: Text
    paper: Text
    license: Text
    training_data: Text
    training_data_license: Text
    notes: Text


class BayerVariant(_Part):
    """How darktable calls the network for Bayer sensors.

    Attributes:
        onnx: name of the network's file.
        input_kind: packed R, G, G, B levels, (1, 4, H, W), to camera RGB, (1, 3, 2H, 2W).
        bayer_orientation: every pattern is cropped so that it starts on red.
        edge_pad: tiles that reach beyond the cropped photo are mirrored there.
        wb_norm: levels are not white-balanced.
        output_scale: the output's mean is matched to the input's.
    """

    onnx: OnnxFile
    input_kind: Literal["bayer_v1"]
    bayer_orientation: Literal["force_rggb"]
    edge_pad: Literal["mirror_cropped"]
    wb_norm: Literal["none"]
    output_scale: Literal["match_gain"]


class LinearVariant(_Part):
    """How darktable calls the network for colour that is demosaiced already.

    Attributes:
        onnx: name of the network's file.
        input_kind: colour, (1, 3, H, W), to the same.
        input_colorspace: linear Rec.2020.
        wb_norm: it is not white-balanced.
        output_scale: the output's mean is matched to the input's.
        target_mean: null, which darktable 5.6 takes as its default of 0.3: it brightens a photo whose mean is lower, at most
            100 times, and darkens the output as much; or the text "null": as it is. A network without biases, which the
            residual one is, gives the same picture either way.
    """

    onnx: OnnxFile
    input_kind: Literal["linear_v1"]
    input_colorspace: Literal["lin_rec2020"]
    wb_norm: Literal["none"]
    output_scale: Literal["match_gain"]
    target_mean: Literal["null"] | None


class Variants(_Part):
    """One network per kind of sensor; a missing one is null or left out."""

    bayer: BayerVariant | None = None
    linear: LinearVariant | None = None


class Attributes(_Part):
    """What darktable asks for while it runs the networks.

    Attributes:
        input_sizes: sides of the tiles that it tries, in pixels of the input.
        variants: of which at least one is there.
    """

    input_sizes: Annotated[list[TileSide], Field(min_length=1)]
    variants: Variants


class Config(_Part):
    """`config.json`.

    Attributes:
        id: name of the archive and its folder.
        name: for menus.
        description: one line.
        task: which of darktable's features uses it.
        type: several networks in one archive.
        arch: of the networks; for people.
        backend: what runs the files.
        version: of this model; darktable compares it to find updates.
        tiling: whether a photo may be processed in tiles.
        model_card: provenance and licences.
        attributes: how the networks are called.
    """

    id: ModelId
    name: Text
    description: Text
    task: Literal["rawdenoise"]
    type: Literal["multi"] = "multi"
    arch: Text
    backend: Literal["onnx"]
    version: Text
    tiling: Literal[True] = True
    model_card: ModelCard
    attributes: Attributes


REQUIRED = frozenset({"id", "name", "description", "task", "backend", "version"})
"""Keys that darktable's own validator demands; ours demands `model_card` and `attributes` too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensors:
    """Shapes of a variant's network: (1, channels, H, W) to (1, 3, scale H, scale W), both float32.

    Attributes:
        channels: of the input.
        scale: of height and width.
    """

    channels: int
    scale: int


TENSORS = {"bayer": Tensors(channels=4, scale=2), "linear": Tensors(channels=3, scale=1)}
"""By the variant's name in `attributes.variants`."""

ONNX_FILES = {"bayer": "model_bayer.onnx", "linear": "model_linear.onnx"}
"""Names of the files that an export writes; others are read as well."""
