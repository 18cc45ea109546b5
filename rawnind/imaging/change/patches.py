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
        weights: (hb, wb) float32 of each block.
        there: (hp, wp) bool: a quarter of the cells is usable.
        total: (N,) float64 sums of the weights.
        cells: (N,) float64 how many independent cells have the weighted mean's variance.
        surface: (N, 5) float64 the terms of a drift of the light: y, x, y^2, y x, x^2 with y and x from -1 to 1.
    """

    side: int
    weights: NDArray[np.float32]
    there: NDArray[np.bool_]
    total: NDArray[np.float64]
    cells: NDArray[np.float64]
    surface: NDArray[np.float64]

    @classmethod
    def of(cls, n: NDArray[np.float32], trust: NDArray[np.float32] | None = None) -> "Patches":
        """Some 1500 patches of a frame.

        Args:
            n: (hb, wb) usable cells of each block.
            trust: (hb, wb) weight of a cell of each block; None: all have the same.
        """
        side = max(_SMALLEST, int(np.ceil((n.size / _MOST) ** 0.5)))
        weights = n if trust is None else n * trust
        total = count = _sums(n, side)
        squares = total
        if trust is not None:
            total, squares = _sums(weights, side), _sums(weights * trust, side)
        there = (count >= _LEAST_SHARE * 16 * side**2) & (total > 0)
        y, x = (
            2 * (position + 0.5) / extent - 1
            for position, extent in zip(np.nonzero(there), there.shape, strict=True)
        )
        weight = total[there].astype(np.float64)
        return cls(
            side=side,
            weights=weights,
            there=there,
            total=weight,
            cells=weight**2 / squares[there],
            surface=np.stack([y, x, y * y, y * x, x * x], axis=1),
        )

    def means(self, map_: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N,) weighted mean over each patch of an (hb, wb) map of block means."""
        sums = _sums(map_ * self.weights, self.side)[self.there]
        mean: NDArray[np.float64] = sums.astype(np.float64) / self.total
        return mean


def _sums(map_: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """(ceil(hb / side), ceil(wb / side)) sums over squares of blocks of an (hb, wb) map."""
    for axis in (0, 1):
        map_ = np.add.reduceat(map_, np.arange(0, map_.shape[axis], side), axis=axis)
    return map_
