"""MS-SSIM of every window of a pair of planes, equal to pytorch-msssim's definition, from one dense pass per scale.

    MS-SSIM = product over scales s of max(0, mean CS_s)^weight_s,   the last scale with luminance, mean(L CS)
    CS = (2 cov(x, y) + C2) / (var x + var y + C2),   L = (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1),   C_i = (K_i data_range)^2

(Z. Wang, E. P. Simoncelli and A. C. Bovik, "Multiscale structural similarity for image quality assessment", 2003, with the
constants of pytorch-msssim: 11 taps, sigma 1.5, K1 0.01, K2 0.03, relu on each scale.)

With window, stride and origins multiples of 16, the pyramid of a window is a window of the plane's pyramid, and its 'valid'
filter results are the plane's. So each scale is filtered once, and a window's mean is a sum over a box.

`score_map`, `crop_means` and `frame_mean` spread the windows' scores over the pixels that they cover. That map is constant on
coarse pixels, so that its means over crops are computed exactly without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rawnind.imaging.msssim.constants import (
    COARSE_PIXEL,
    GAUSSIAN,
    K1,
    K2,
    SCALES,
    SPAN,
    TOO_SMALL,
    WEIGHTS,
    segment,
)
from rawnind.imaging.msssim.cpu import BAND, PITCH, STEP, STRIP, coarsest_map, contrast_sums

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
        measured: result of `windowed_ms_ssim`.
        shape: (h, w) of the planes.

    Returns:
        (h, w) float32, 0..1.
    """
    coarse = _coarse_map(measured)
    rows, columns = (
        np.minimum(np.arange(n) // COARSE_PIXEL, m - 1) for n, m in zip(shape, coarse.shape, strict=True)
    )
    per_pixel: NDArray[np.float32] = coarse.astype(np.float32)[rows[:, None], columns]
    return per_pixel


def crop_means(
    measured: WindowScores[Any], shape: tuple[int, int], tops: ArrayLike, lefts: ArrayLike, size: float
) -> NDArray[np.float64]:
    """The exact mean of `score_map` over squares, without computing the map.

    Args:
        measured: result of `windowed_ms_ssim`.
        shape: (h, w) of the planes.
        tops: (n,) first rows of the squares, in pixels of the planes; fractions of a pixel are weighted as such.
        lefts: (n,) first columns.
        size: side of the squares, more than 0.

    Returns:
        (n,) float64, 0..1.

    Raises:
        ValueError: A square is empty or not inside the planes.
    """
    coarse = _coarse_map(measured)
    rows, row_of = np.unique(np.asarray(tops, np.float64), return_inverse=True)
    of_rows = _overlaps(rows, size, shape[0], coarse.shape[0]) @ coarse
    of_columns = _overlaps(np.asarray(lefts, np.float64), size, shape[1], coarse.shape[1])
    means: NDArray[np.float64] = np.einsum("nc,nc->n", of_rows[row_of.reshape(-1)], of_columns)
    return means


def frame_mean(measured: WindowScores[Any], shape: tuple[int, ...]) -> float:
    """The mean of `score_map` over the planes of `shape` (h, w), without the map."""
    coarse = _coarse_map(measured)
    down, across = (
        _overlaps(np.zeros(1), length, length, count)[0]
        for length, count in zip(shape, coarse.shape, strict=True)
    )
    return float(down @ coarse @ across)


def _coarse_map(measured: WindowScores[Any]) -> NDArray[np.float64]:
    """(h, w) float64 mean over planes and covering windows, one value per coarse pixel up to the last covered one."""
    scores, tops, lefts = (_as_numpy(a) for a in (measured.scores, measured.tops, measured.lefts))
    down, across = _coverage(tops, measured.window), _coverage(lefts, measured.window)
    coarse: NDArray[np.float64] = down @ scores.mean(axis=0) @ across.T
    return coarse


def _coverage(starts: NDArray[np.int64], window: int) -> NDArray[np.float64]:
    """(coarse pixels, windows) float64: the weight of each window in a coarse pixel's score; rows add up to one."""
    first = np.arange((starts[-1] + window) // COARSE_PIXEL)[:, None] * COARSE_PIXEL
    covers = (starts <= first) & (first < starts + window)
    middle = starts + (window - COARSE_PIXEL) / 2
    gaps = ~covers.any(axis=1)  # only where the stride exceeds the window
    covers[gaps, np.abs(first[gaps] - middle).argmin(axis=1)] = True
    shares: NDArray[np.float64] = covers / covers.sum(axis=1, keepdims=True)
    return shares


def _overlaps(starts: NDArray[np.float64], size: float, length: int, count: int) -> NDArray[np.float64]:
    """The share of each coarse pixel in [start, start + size) along one axis; the last one extends to the end of the plane.

    Args:
        starts: (n,) in pixels.
        size: in pixels.
        length: of the plane.
        count: number of coarse pixels.

    Returns:
        (n, count) float64; rows add up to one.
    """
    if not size > 0 or np.any(starts < 0) or np.any(starts + size > length):
        raise ValueError(f"squares of {size} must lie inside the planes, 0..{length}")
    edges = np.append(np.arange(count) * float(COARSE_PIXEL), length)
    ends = starts[:, None] + size
    overlaps: NDArray[np.float64] = np.minimum(edges[1:], ends) - np.maximum(edges[:-1], starts[:, None])
    return overlaps.clip(0) / size


def _as_numpy(values: Any) -> NDArray[Any]:
    """A NumPy array, copied from its device where it is a tensor."""
    return values if isinstance(values, np.ndarray) else np.asarray(values.cpu())


if TYPE_CHECKING:
    import torch

__all__ = ["WindowScores", "crop_means", "frame_mean", "score_map", "windowed_ms_ssim"]


@overload
def windowed_ms_ssim(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    *,
    window: int = ...,
    stride: int = ...,
    data_range: float = ...,
) -> WindowScores[NDArray[Any]]: ...
@overload
def windowed_ms_ssim(
    x: torch.Tensor, y: torch.Tensor, *, window: int = ..., stride: int = ..., data_range: float = ...
) -> WindowScores[torch.Tensor]: ...
def windowed_ms_ssim(
    x: Any, y: Any, *, window: int = 192, stride: int = 96, data_range: float = 1.0
) -> WindowScores[Any]:
    """MS-SSIM of each window of each plane.

    Windows start every `stride` pixels from (0, 0). Where that leaves 16 rows or more uncovered at the end, one more row of
    windows ends at the last multiple of 16; the same for columns. Each score is within 1e-6 of the definition in exact
    arithmetic. One thread on the CPU, about 10 MB of scratch memory; NumPy arrays run in compiled kernels without the GIL,
    torch tensors on their own device in float32 (see `rawnind.imaging.msssim.torch_backend`).

    Args:
        x: (P, H, W) float32 levels, NumPy or torch.
        y: the same kind and shape.
        window: side of a window, a multiple of 16 above 160: five scales need it.
        stride: pixels from window to window, a multiple of 16.
        data_range: span of the values; 1.0 for levels.

    Raises:
        ValueError: A parameter breaks its rule; the arrays are not two of one shape (P, H, W) and float32; they are
            smaller than a window; or they hold NaN, infinity, or values whose squares overflow.

    >>> x = np.random.default_rng(0).random((4, 300, 400), dtype=np.float32)
    >>> measured = windowed_ms_ssim(x, x)
    >>> measured.tops, measured.lefts
    (array([ 0, 96]), array([  0,  96, 192, 208]))
    >>> measured.scores.shape, measured.scores.min()
    ((4, 2, 4), np.float64(1.0))
    """
    _check_parameters(window, stride, data_range)
    constants = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        _check_planes(x.shape, y.shape, {str(x.dtype), str(y.dtype)}, window)
        tops, lefts = _starts(x.shape[1], window, stride), _starts(x.shape[2], window, stride)
        sums = _segment_sums(x, y, *constants)  # plane by plane
        scores = np.stack([_scores(of_plane, tops, lefts, window) for of_plane in sums])
        return WindowScores(scores=scores, tops=tops, lefts=lefts, window=window)
    from rawnind.imaging.msssim import torch_backend  # noqa: PLC0415 - NumPy's users need not wait for torch

    _check_planes(tuple(x.shape), tuple(y.shape), torch_backend.dtypes(x, y), window)
    rows = torch_backend.like(x, _starts(x.shape[1], window, stride))
    columns = torch_backend.like(x, _starts(x.shape[2], window, stride))
    scores = _scores(torch_backend.segment_sums(x, y, *constants), rows, columns, window)
    return WindowScores(scores=scores, tops=rows, lefts=columns, window=window)


def _check_parameters(window: int, stride: int, data_range: float) -> None:
    """Checks the options of `windowed_ms_ssim`.

    Args:
        window: side of a window in pixels.
        stride: pixels from window to window.
        data_range: span of the values.

    Raises:
        ValueError: One breaks its rule.
    """
    if window % COARSE_PIXEL or window <= TOO_SMALL:
        raise ValueError(f"window must be a multiple of {COARSE_PIXEL} above {TOO_SMALL}, got {window}")
    if stride % COARSE_PIXEL or stride <= 0:
        raise ValueError(f"stride must be a positive multiple of {COARSE_PIXEL}, got {stride}")
    if not 0 < data_range < np.inf:
        raise ValueError(f"data_range must be positive and finite, got {data_range}")


def _check_planes(of_x: tuple[int, ...], of_y: tuple[int, ...], dtypes: set[str], window: int) -> None:
    """Checks the arrays of `windowed_ms_ssim`.

    Args:
        of_x: shape of x.
        of_y: shape of y.
        dtypes: names of their element types.
        window: side of a window in pixels.

    Raises:
        ValueError: They are not two float32 arrays of one shape (P, H, W), or smaller than a window.
    """
    if of_x != of_y or len(of_x) != 3 or of_x[0] == 0:
        raise ValueError(f"x and y must have one shape (P, H, W), got {of_x} and {of_y}")
    if dtypes != {"float32"}:
        raise ValueError(f"x and y must be float32, got {' and '.join(sorted(dtypes))}")
    if min(of_x[1:]) < window:
        raise ValueError(f"planes of {of_x[1]} x {of_x[2]} are smaller than a window of {window}")


def _starts(length: int, window: int, stride: int) -> NDArray[np.int64]:
    """Window origins along one axis; the last window ends at the last multiple of 16.

    Args:
        length: of the plane in pixels.
        window: side of a window.
        stride: pixels from window to window.
    """
    last = length // COARSE_PIXEL * COARSE_PIXEL - window
    return np.append(np.arange(0, last, stride, dtype=np.int64), last)


def _scores(sums: Sequence[Any], tops: Any, lefts: Any, window: int) -> Any:
    """Scores of windows from sums over segments; NumPy and torch alike.

    Args:
        sums: per scale (..., rows, columns): one value per coarse pixel at the last scale, two segments each at all others.
        tops: (ny,) first rows of the windows.
        lefts: (nx,) first columns.
        window: side of a window in pixels.

    Returns:
        (..., ny, nx), 0..1.

    Raises:
        ValueError: A mean is not finite or not below 2 in magnitude.
    """
    scores: Any = 1.0
    for scale, (values, weight) in enumerate(zip(sums, WEIGHTS, strict=True)):
        side = (window >> scale) - SPAN
        whole, rest = divmod(side, segment(scale)[0])
        parts = 1 if scale == SCALES - 1 else 2
        length = whole * parts + (rest > 0)
        columns = _range_sums(values, lefts // COARSE_PIXEL * parts, length)
        total = _range_sums(columns.swapaxes(-1, -2), tops // COARSE_PIXEL * parts, length).swapaxes(-1, -2)
        mean = total / side**2
        if not bool((abs(mean) < 2).all()):  # the terms lie in -1..1; NaN is not less than 2
            raise ValueError("x and y must hold finite values, and not so large that their squares overflow")
        scores = scores * mean.clip(0) ** weight
    return scores


def _range_sums(values: Any, first: Any, length: int) -> Any:
    """Sums over ranges of one length along the last axis.

    Args:
        values: (..., n).
        first: (k,) index of the first value of each range.
        length: of a range.

    Returns:
        (..., k).
    """
    running = values.cumsum(-1)
    return running[..., first + (length - 1)] - running[..., first] + values[..., first]


def _segment_sums(
    x: NDArray[np.float32], y: NDArray[np.float32], c1: float, c2: float
) -> Iterator[list[NDArray[np.float64]]]:
    """Sums over segments per scale, plane by plane: of the contrast term, at the last scale of luminance times contrast.

    Args:
        x: (P, H, W) levels.
        y: (P, H, W) levels.
        c1: luminance constant C1.
        c2: contrast constant C2.

    Yields:
        Four arrays (2 * h, 2 * w), where the planes have h x w whole coarse pixels, and one of (h - SPAN, w - SPAN); they are
        valid until the next plane.
    """
    down, across = x.shape[1] // COARSE_PIXEL, x.shape[2] // COARSE_PIXEL
    widths = [across * COARSE_PIXEL >> k for k in range(SCALES - 1)]
    strips = [-(-(width - SPAN) // STRIP) for width in widths]
    bands = tuple(
        _scratch(2, BAND, -(-(width + STRIP) // COARSE_PIXEL + 1) * COARSE_PIXEL) for width in widths
    )
    histories = tuple(_scratch(n, SPAN, 4, STRIP) for n in strips)
    columns = tuple(_scratch(n, STRIP) for n in strips)
    work, variances = _scratch(BAND + SPAN, 4, PITCH), _scratch(2, STEP, PITCH)
    fine = tuple(np.zeros((2 * down, 2 * across)) for _ in widths)
    coarse, last = np.zeros((2, down, across), np.float32), np.zeros((down - SPAN, across - SPAN))
    for of_x, of_y in zip(x, y, strict=True):
        (x_line, x_pitch), (y_line, y_pitch) = _in_one_line(of_x), _in_one_line(of_y)
        contrast_sums(
            x_line,
            y_line,
            x_pitch,
            y_pitch,
            np.float32(2 * c2),
            bands,
            histories,
            columns,
            work,
            variances,
            fine,
            coarse,
        )
        coarsest_map(coarse, GAUSSIAN, c1, c2, last)
        yield [*fine, last]


def _scratch(*shape: int) -> NDArray[np.float32]:
    """Zeros that start on a cache line: a vector of 16 floats that spans two lines takes twice as long to load."""
    size = math.prod(shape)
    line = np.zeros(size + 16, np.float32)
    start = -line.ctypes.data % 64 // line.itemsize
    return line[start : start + size].reshape(shape)


def _in_one_line(plane: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """All values from a plane's first to its last, including those between rows of a wider array, and the step between rows.

    So a crop of a larger plane is read in place, and the kernel is compiled for one type of array.
    """
    step = plane.itemsize
    whole_steps = plane.strides[0] % step == 0 and plane.strides[0] >= step * plane.shape[1]
    if not (plane.strides[1] == step and whole_steps and plane.flags.aligned):
        plane = np.ascontiguousarray(plane)
    pitch = plane.strides[0] // step
    length = (plane.shape[0] - 1) * pitch + plane.shape[1]
    return np.lib.stride_tricks.as_strided(plane, (length,), (step,), writeable=False), pitch
