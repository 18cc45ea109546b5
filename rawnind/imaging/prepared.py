"""A photo with what the pair chain needs of it, each computed once."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging import exposure
from rawnind.imaging.align import Reference, reference
from rawnind.imaging.demosaic import CameraRgb, demosaic
from rawnind.imaging.hot_pixels import hot_pixels
from rawnind.imaging.photo import Photo


class Prepared:
    """A photo with what the chain needs of it, each computed once, when first asked for.

    Args:
        photo: the decoded photo, a ground truth or a noisy one.
    """

    def __init__(self, photo: Photo) -> None:
        self.photo = photo

    @cached_property
    def reference(self) -> Reference:
        """What alignment needs."""
        return reference(self.photo)

    @cached_property
    def rgb(self) -> CameraRgb:
        """The photo demosaiced; `forget` gives its memory back."""
        return demosaic(self.photo)

    @cached_property
    def overexposed(self) -> NDArray[np.bool_]:
        """(h, w) cells in which a site is overexposed."""
        return exposure.overexposed(self.photo.mosaic, self.photo.sensor)

    @cached_property
    def underexposed(self) -> NDArray[np.bool_]:
        """(h, w) cells in which no site shows anything."""
        return exposure.underexposed(self.photo.mosaic, self.photo.sensor)

    @cached_property
    def hot(self) -> NDArray[np.bool_]:
        """(h, w) cells that a hot pixel spoils."""
        return hot_pixels(self.photo.mosaic, self.photo.sensor)

    def forget(self) -> None:
        """Drops the demosaiced photo; it is computed again when asked for."""
        self.__dict__.pop("rgb", None)
