"""Small pictures of photos whose pair was not collected, from their RAW files where these still are."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.errors import SourceError
from rawnind.imaging.color import camera_to_rec2020
from rawnind.imaging.levels import planes
from rawnind.imaging.photo import Photo
from rawnind.records import ImageRef
from rawnind.report.pixels import Rgb, exposure_of, to_srgb
from rawnind.source.decode import decode


def preview(photo: ImageRef, width: int) -> Rgb | None:
    """A photo at its own brightness; None where its file is not here any more, or is another one.

    Only a file with the photo's SHA-1 is decoded.

    Args:
        photo: one that was decoded when the pair was processed: LibRaw may crash on others.
        width: of the picture in pixels, at most.
    """
    try:
        visible, sensor = decode(photo, delay=0.0)
    except (SourceError, MemoryError):
        return None
    levels = planes(Photo.from_visible(visible, sensor))
    camera = np.stack([levels[0], levels[1:-1].mean(axis=0), levels[-1]], axis=-1)
    step = max(math.ceil(camera.shape[1] / width), 1)
    size = (camera.shape[1] // step, camera.shape[0] // step)
    small = np.asarray(cv2.resize(camera, size, interpolation=cv2.INTER_AREA), np.float32)
    rgb = np.clip(small @ _matrix(sensor.rgb_xyz_matrix, small).T.astype(np.float32), 0, None)
    return to_srgb(rgb, exposure_of(rgb))


def _matrix(rgb_xyz_matrix: tuple[float, ...] | None, camera: NDArray[np.float32]) -> NDArray[np.float64]:
    """To linear Rec.2020; for an unknown camera one that makes the photo grey on average."""
    if rgb_xyz_matrix is not None:
        return camera_to_rec2020(rgb_xyz_matrix)
    means = np.maximum(camera.mean(axis=(0, 1), dtype=np.float64), 1e-6)
    return np.diag(means[1] / means)
