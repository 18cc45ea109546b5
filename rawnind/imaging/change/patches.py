"""Patches: squares of blocks, over which noise averages out, so that what is fitted to them robustly sees what changed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST = 1500  # patches that a frame is split into, about
_SMALLEST = 4  # blocks a side: 16 cells
_LEAST_SHARE = 0.25  # of a patch's cells that must be usable


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Patches:
    """A frame's blocks in squares; N of these have enough usable cells.

    Attributes:
        side: blocks.
        weights: (hb, wb) float32 usable cells of each block.
        there: (hp, wp) bool: a quarter of the cells is usable.
        cells: (N,) float64 usable cells.
        surface: (N, 5) float64 the terms of a drift of the light: y, x, y^2, y x, x^2 with y and x from -1 to 1.
    """

    side: int
    weights: NDArray[np.float32]
    there: NDArray[np.bool_]
    cells: NDArray[np.float64]
    surface: NDArray[np.float64]

    @classmethod
    def of(cls, weights: NDArray[np.float32]) -> "Patches":
        """Some 1500 patches of a frame.

        Args:
            weights: (hb, wb) usable cells of each block.
        """
        side = max(_SMALLEST, int(np.ceil((weights.size / _MOST) ** 0.5)))
        count = _sums(weights, side)
        there = count >= _LEAST_SHARE * 16 * side**2
        y, x = (
            2 * (position + 0.5) / extent - 1
            for position, extent in zip(np.nonzero(there), there.shape, strict=True)
        )
        return cls(
            side=side,
            weights=weights,
            there=there,
            cells=count[there].astype(np.float64),
            surface=np.stack([y, x, y * y, y * x, x * x], axis=1),
        )

    def means(self, map_: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N,) mean over each patch's usable cells of an (hb, wb) map of block means."""
        sums = _sums(map_ * self.weights, self.side)[self.there]
        mean: NDArray[np.float64] = sums.astype(np.float64) / self.cells
        return mean


def _sums(map_: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """(ceil(hb / side), ceil(wb / side)) sums over squares of blocks of an (hb, wb) map."""
    for axis in (0, 1):
        map_ = np.add.reduceat(map_, np.arange(0, map_.shape[axis], side), axis=axis)
    return map_
