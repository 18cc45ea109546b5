"""Scores of windows spread over the pixels that they cover, and means of that map over crops."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rawnind.imaging.msssim_definition import CELL

Array = TypeVar("Array")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class WindowScores(Generic[Array]):
    """MS-SSIM of square windows on a grid; arrays of the kind that was measured, NumPy or torch.

    Attributes:
        scores: (P, ny, nx) float64, 0..1; `scores[p, j, i]` is plane p's window with its first pixel at
            (tops[j], lefts[i]).
        tops: (ny,) int64, ascending multiples of 16.
        lefts: (nx,) int64, ascending multiples of 16.
        window: side of a window in pixels.
    """

    scores: Array
    tops: Array
    lefts: Array
    window: int


def score_map(measured: WindowScores[Any], shape: tuple[int, int]) -> NDArray[np.float32]:
    """MS-SSIM per pixel: the mean over planes and over the windows that cover the pixel.

    A pixel that no window covers takes the nearest covered score of its row and column.

    Args:
        measured: what `windowed_ms_ssim` gave.
        shape: (h, w) of the planes.

    Returns:
        (h, w) float32, 0..1.
    """
    cells = _cell_map(measured)
    rows, columns = (np.minimum(np.arange(n) // CELL, m - 1) for n, m in zip(shape, cells.shape, strict=True))
    per_pixel: NDArray[np.float32] = cells.astype(np.float32)[rows[:, None], columns]
    return per_pixel


def crop_means(
    measured: WindowScores[Any], shape: tuple[int, int], tops: ArrayLike, lefts: ArrayLike, size: float
) -> NDArray[np.float64]:
    """The exact mean of `score_map` over squares, without the map: it is constant on cells of 16 pixels.

    Args:
        measured: what `windowed_ms_ssim` gave.
        shape: (h, w) of the planes.
        tops: (n,) first rows of the squares, in pixels of the planes; fractions of a pixel count as such.
        lefts: (n,) first columns.
        size: side of the squares, more than 0.

    Returns:
        (n,) float64, 0..1.

    Raises:
        ValueError: A square is empty or not inside the planes.
    """
    cells = _cell_map(measured)
    rows, row_of = np.unique(np.asarray(tops, np.float64), return_inverse=True)
    of_rows = _overlaps(rows, size, shape[0], cells.shape[0]) @ cells
    of_columns = _overlaps(np.asarray(lefts, np.float64), size, shape[1], cells.shape[1])
    means: NDArray[np.float64] = np.einsum("nc,nc->n", of_rows[row_of.reshape(-1)], of_columns)
    return means


def frame_mean(measured: WindowScores[Any], shape: tuple[int, ...]) -> float:
    """The mean of `score_map` over the planes of `shape` (h, w), without the map."""
    cells = _cell_map(measured)
    down, across = (
        _overlaps(np.zeros(1), length, length, count)[0]
        for length, count in zip(shape, cells.shape, strict=True)
    )
    return float(down @ cells @ across)


def _cell_map(measured: WindowScores[Any]) -> NDArray[np.float64]:
    """(h, w) mean over planes and covering windows, one value per cell of 16 pixels up to the last covered one."""
    scores, tops, lefts = (_as_numpy(a) for a in (measured.scores, measured.tops, measured.lefts))
    down, across = _coverage(tops, measured.window), _coverage(lefts, measured.window)
    cells: NDArray[np.float64] = down @ scores.mean(axis=0) @ across.T
    return cells


def _coverage(starts: NDArray[np.int64], window: int) -> NDArray[np.float64]:
    """(cells, windows): the share of each window in a cell's score; rows add up to one."""
    cell = np.arange((starts[-1] + window) // CELL)[:, None] * CELL
    covers = (starts <= cell) & (cell < starts + window)
    middle = starts + (window - CELL) / 2
    gaps = ~covers.any(axis=1)  # only where the stride exceeds the window
    covers[gaps, np.abs(cell[gaps] - middle).argmin(axis=1)] = True
    shares: NDArray[np.float64] = covers / covers.sum(axis=1, keepdims=True)
    return shares


def _overlaps(starts: NDArray[np.float64], size: float, length: int, cells: int) -> NDArray[np.float64]:
    """(n, cells): the share of each cell in [start, start + size); the last cell reaches to the end of the plane."""
    if not size > 0 or np.any(starts < 0) or np.any(starts + size > length):
        raise ValueError(f"squares of {size} must lie inside the planes, 0..{length}")
    edges = np.append(np.arange(cells) * float(CELL), length)
    ends = starts[:, None] + size
    overlaps: NDArray[np.float64] = np.minimum(edges[1:], ends) - np.maximum(edges[:-1], starts[:, None])
    return overlaps.clip(0) / size


def _as_numpy(values: Any) -> NDArray[Any]:
    return values if isinstance(values, np.ndarray) else np.asarray(values.cpu())
