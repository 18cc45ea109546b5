"""A photo and what all its pairs need of it, computed once."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging import exposure
from rawnind.imaging.alignment.align import Features, extract_features
from rawnind.imaging.clipping import data_white_level
from rawnind.imaging.demosaic.camera_rgb import CameraRgb, contrast_gains, demosaic
from rawnind.imaging.hot_pixels import hot_pixels
from rawnind.imaging.photo import Photo
from rawnind.imaging.photo_noise import ColorNoise, photo_noise


class Prepared:
    """A photo and what all its pairs need of it; each part is computed when first used, and cached.

    Args:
        photo: the decoded photo, a ground truth (GT) or a noisy one.
        is_cut: whether `cut_to` has made it of a larger one, for one pair.
    """

    def __init__(self, photo: Photo, *, is_cut: bool = False) -> None:
        self.photo = photo
        self.is_cut = is_cut

    @cached_property
    def features(self) -> Features:
        """Input of alignment."""
        return extract_features(self.photo)

    @cached_property
    def contrast(self) -> NDArray[np.float32]:
        """(3,) float32 factors that give red, green and blue equal contrast in demosaicing."""
        return contrast_gains(self.photo, self.overexposed)

    @cached_property
    def rgb(self) -> CameraRgb:
        """The demosaiced photo, 6 bytes per site; `release_rgb` frees it."""
        return demosaic(self.photo, self.contrast)

    @cached_property
    def clipped_at(self) -> float | None:
        """Sensor value at which the data clip; None where nothing clips."""
        return data_white_level(self.photo.mosaic, self.photo.sensor.white_level)

    @cached_property
    def overexposed(self) -> NDArray[np.bool_]:
        """(h, w) bool per cell of the frame: any site is overexposed."""
        return exposure.overexposed(self.photo.mosaic, self.photo.sensor, self.clipped_at)

    @cached_property
    def underexposed(self) -> NDArray[np.bool_]:
        """(h, w) bool per cell of the frame: all sites are underexposed."""
        return exposure.underexposed(self.photo.mosaic, self.photo.sensor)

    @cached_property
    def hot(self) -> NDArray[np.bool_]:
        """(h, w) bool per cell of the frame: a site is a hot pixel."""
        return hot_pixels(self.photo.mosaic, self.photo.sensor)

    @cached_property
    def noise(self) -> tuple[ColorNoise, ColorNoise, ColorNoise] | None:
        """Of red, green and blue; None where the photo has too few blocks that are not clipped."""
        return photo_noise(self.photo)

    def cut_to(self, shape: tuple[int, int]) -> "Prepared":
        """The photo without what its frame has more of at the bottom and at the right; itself where that is nothing.

        Args:
            shape: (H, W) in sites, whole tiles.
        """
        if self.photo.mosaic.shape == shape:
            return self
        mosaic = np.ascontiguousarray(self.photo.mosaic[: shape[0], : shape[1]])
        return Prepared(Photo(mosaic=mosaic, sensor=self.photo.sensor), is_cut=True)

    def release_rgb(self) -> None:
        """Frees the demosaiced photo; its next use computes it again."""
        self.__dict__.pop("rgb", None)
