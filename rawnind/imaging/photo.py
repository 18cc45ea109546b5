"""A decoded photo as the imaging layer sees it: a mosaic that starts on the CFA's first site, and its sensor."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawnind.records import Cfa, Sensor


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Photo:
    """The largest whole-tile part of a photo's visible area.

    Attributes:
        mosaic: (H, W) uint16 sensor values; site (0, 0) is the first of `sensor.cfa.tile`, H and W are multiples of
            the period. It is `visible[oy:oy+H, ox:ox+W]` with `(oy, ox) = sensor.origin`.
        sensor: what the file says about the values.
    """

    mosaic: NDArray[np.uint16]
    sensor: Sensor

    @property
    def cfa(self) -> Cfa:
        """The photo's colour filter array."""
        return self.sensor.cfa

    @classmethod
    def from_visible(cls, visible: NDArray[np.uint16], sensor: Sensor) -> "Photo":
        """Cuts the visible area to whole tiles; a view, not a copy."""
        (top, left), period = sensor.origin, sensor.cfa.period
        height = (visible.shape[0] - top) // period * period
        width = (visible.shape[1] - left) // period * period
        return cls(mosaic=visible[top : top + height, left : left + width], sensor=sensor)
