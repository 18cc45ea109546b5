"""A decoded photo as the imaging code takes it: its frame's sensor values (see `coordinates`), and its sensor."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.coordinates import frame_in_visible
from rawnind.records import Cfa, Sensor


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Photo:
    """The frame of a photo: the largest part of its visible area that consists of whole CFA tiles.

    Attributes:
        mosaic: (H, W) uint16 sensor values; site (0, 0) is the first of `sensor.cfa.tile`, H and W are multiples of
            the period. It is `visible[oy:oy+H, ox:ox+W]` with `(oy, ox) = sensor.origin`.
        sensor: CFA, black and white levels and colour matrix of the file.
    """

    mosaic: NDArray[np.uint16]
    sensor: Sensor

    @property
    def cfa(self) -> Cfa:
        """The photo's colour filter array."""
        return self.sensor.cfa

    @classmethod
    def from_visible(cls, visible: NDArray[np.uint16], sensor: Sensor) -> "Photo":
        """Cuts the frame out of the visible area. Contiguous in memory, so that kernels compile for one layout only.

        Args:
            visible: (H, W) uint16 sensor values of the visible area.
            sensor: CFA, black and white levels and colour matrix of the file.
        """
        return cls(
            mosaic=np.ascontiguousarray(
                visible[frame_in_visible(visible.shape, sensor.origin, sensor.cfa.period).sites]
            ),
            sensor=sensor,
        )
