"""How a photo is to be shown, as far as an editor wants to see it: camera, orientation and white balance. None of it changes a sensor value."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import rawpy

from rawnind.records import Capture, Sensor
from rawnind.source.decode import libraw_errors
from rawnind.source.exif import read_exif

_ORIENTATION = {0: 1, 3: 3, 5: 8, 6: 6}
"""LibRaw's flip to Exif's orientation: as it is, half a turn, a quarter counter-clockwise, a quarter clockwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EditorTags:
    """What the file says.

    Attributes:
        make: of the camera; empty where the file does not say.
        model: of the camera.
        camera: make and model, without a make that the model repeats.
        orientation: 1 as it is, 3 half a turn, 6 a quarter clockwise and 8 a quarter counter-clockwise to be upright.
        as_shot_neutral: camera RGB of what the camera took for white, green 1; None where the file does not say.
        capture: exposure, lens and time.
    """

    make: str
    model: str
    camera: str
    orientation: int
    as_shot_neutral: tuple[float, float, float] | None
    capture: Capture


def read_editor_tags(data: bytes, sensor: Sensor, filename: str) -> EditorTags:
    """Reads how a photo is to be shown.

    Args:
        data: the whole file.
        sensor: what `decode` found in it.
        filename: for messages.

    Raises:
        SourceError: truncated or unreadable.
    """
    _, (make, model) = read_exif(io.BytesIO(data))
    with libraw_errors(filename), rawpy.imread(io.BytesIO(data)) as raw:
        balance, flip = raw.camera_whitebalance, raw.sizes.flip
    return EditorTags(
        make=make,
        model=model or sensor.camera,
        camera=sensor.camera,
        orientation=_ORIENTATION.get(flip, 1),
        as_shot_neutral=_neutral(balance),
        capture=sensor.capture or Capture(),
    )


def _neutral(balance: Sequence[float]) -> tuple[float, float, float] | None:
    """Camera RGB of white from the factors that make it grey; None where one is missing."""
    red, green, blue = balance[:3]
    if not (0 < red < 1e6 and 0 < green < 1e6 and 0 < blue < 1e6):
        return None
    return green / red, 1.0, green / blue
