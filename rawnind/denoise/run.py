"""Denoises a RAW file and writes a linear DNG or a TIFF."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rawnind.denoise.frame import TILE, Denoised, denoise_frame
from rawnind.denoise.linear_dng import encode_linear_dng
from rawnind.denoise.network import open_denoiser
from rawnind.denoise.srgb_tiff import encode_srgb_tiff
from rawnind.errors import ConfigError, OutputError, SourceError
from rawnind.feed.crop_options import Input
from rawnind.imaging.color import camera_to_rec2020
from rawnind.imaging.photo import Photo
from rawnind.output.atomic_file import atomic_file
from rawnind.records import Cfa, ImageRef, Sensor
from rawnind.source.decode import decode
from rawnind.source.editor_tags import EditorTags, read_editor_tags

SUFFIXES = (".dng", ".tif", ".tiff")
_ROWS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseReport:
    """What was written.

    Attributes:
        output: the file.
        width: of the sensor's picture, before it is turned upright.
        height: as `width`.
        cfa: of the sensor.
        gain: factor that gave the network's output the brightness of the photo.
        colour_known: whether the file says how the camera sees colours.
    """

    output: Path
    width: int
    height: int
    cfa: Cfa
    gain: float
    colour_known: bool

    def __str__(self) -> str:
        unknown = (
            ""
            if self.colour_known
            else "; its camera's colours are not known, choose a profile in the editor"
        )
        return f"wrote {self.output}: {self.width} x {self.height}, {self.cfa}, gain {self.gain:.3f}{unknown}"


def denoise(
    photo: str | Path,
    output: str | Path,
    *,
    checkpoint: str | Path,
    tile: int = TILE,
    progress: Callable[[int, int], None] | None = None,
) -> DenoiseReport:
    """Denoises a RAW file.

    Args:
        photo: any RAW file of a Bayer or X-Trans sensor that LibRaw decodes.
        output: a new file: `.dng` for a linear DNG with the sensor's own colours, `.tif` for sRGB with 16 bits.
        checkpoint: what `rawnind train` wrote, or a .dtmodel.
        tile: side of a tile in pixels of the network's input; smaller ones need less memory and more time.
        progress: called after each tile with the number of tiles that are done, and of all; None: nothing is called.

    Raises:
        ConfigError: A file or an option is wrong, or they do not go together.
        OutputError: The output cannot be written.

    Examples:
        >>> denoise("DSC01234.ARW", "DSC01234.dng", checkpoint="out/checkpoint.pt")  # doctest: +SKIP
    """
    source, target = Path(photo), Path(output)
    _check_target(target)
    visible, sensor, tags = _read(source)
    denoiser = open_denoiser(Path(checkpoint), sensor.cfa)
    if target.suffix != ".dng" and sensor.rgb_xyz_matrix is None:
        raise ConfigError(f"the colours of {source.name}'s camera are not known; write a .dng instead")
    frame = Photo.from_visible(visible, sensor)
    del visible
    done = denoise_frame(frame, denoiser, tile=tile, progress=progress)
    del frame
    levels = done.rgb
    if denoiser.input is Input.RGB:
        _to_camera(levels, camera_to_rec2020(sensor.rgb_xyz_matrix or ()))
    if target.suffix == ".dng":
        data = encode_linear_dng(levels, tags, sensor.rgb_xyz_matrix)
    else:
        data = encode_srgb_tiff(levels, tags, sensor.rgb_xyz_matrix or ())
    _write(target, data)
    return _report(target, done, sensor)


def _report(target: Path, done: Denoised, sensor: Sensor) -> DenoiseReport:
    _, height, width = done.rgb.shape
    return DenoiseReport(
        output=target,
        width=width,
        height=height,
        cfa=sensor.cfa,
        gain=done.gain,
        colour_known=sensor.rgb_xyz_matrix is not None,
    )


def _check_target(target: Path) -> None:
    if target.suffix not in SUFFIXES:
        raise ConfigError(f"{target} must end in one of {', '.join(SUFFIXES)}")
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists already; choose another name or remove it")
    if not target.parent.is_dir():
        raise ConfigError(f"the folder of {target} does not exist; make it first")


def _read(source: Path) -> tuple[NDArray[np.uint16], Sensor, EditorTags]:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    ref = ImageRef(
        cfa=Cfa.BAYER,  # what it is, decoding finds out
        scene="photo",
        ground_truth=False,
        iso=None,
        sha1=hashlib.sha1(data, usedforsecurity=False).hexdigest(),
        filename=source.name,
        path=str(source),
    )
    try:
        visible, sensor = decode(ref, delay=0)
        return visible, sensor, read_editor_tags(data, sensor, source.name)
    except SourceError as error:
        raise ConfigError(f"{source} cannot be denoised: {error}") from error


def _to_camera(levels: NDArray[np.float32], to_rec2020: NDArray[np.float64]) -> None:
    """Linear Rec.2020 to camera RGB, in place.

    Args:
        levels: (3, H, W).
        to_rec2020: (3, 3) from camera RGB.
    """
    matrix = np.linalg.inv(to_rec2020).astype(np.float32)
    for top in range(0, levels.shape[1], _ROWS):
        rows = levels[:, top : top + _ROWS]
        rows[:] = np.einsum("ij,jyx->iyx", matrix, rows)


def _write(target: Path, data: bytes) -> None:
    try:
        with atomic_file(target, replace=False) as file:
            file.write(data)
    except FileExistsError:
        raise ConfigError(f"{target} exists already; choose another name or remove it") from None
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error
