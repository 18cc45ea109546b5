"""MS-SSIM of every window of a pair of planes, exactly as pytorch-msssim defines it, from one dense pass per scale.

With window, stride and origins multiples of 16, the pyramid of a window is a window of the plane's pyramid, and its 'valid'
filter results are the plane's. So each scale is filtered once, and a window's mean is a sum over a box (Wang, Simoncelli
and Bovik 2003, with the constants of pytorch-msssim: 11 taps, sigma 1.5, K1 0.01, K2 0.03, relu on each scale).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.msssim_coarsest import coarsest_map
from rawnind.imaging.msssim_definition import (
    CELL,
    GAUSSIAN,
    K1,
    K2,
    SCALES,
    SPAN,
    TOO_SMALL,
    WEIGHTS,
    segment,
)
from rawnind.imaging.msssim_kernels import BAND, PITCH, STEP, STRIP, contrast_sums
from rawnind.imaging.msssim_map import WindowScores, crop_means, frame_mean, score_map

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
    arithmetic. One thread on the CPU, about 10 MB of scratch; NumPy arrays run in compiled kernels without the GIL,
    torch tensors on their own device in float32 (see `rawnind.imaging.msssim_torch`).

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
    from rawnind.imaging import msssim_torch  # noqa: PLC0415 - NumPy's users need not wait for torch

    _check_planes(tuple(x.shape), tuple(y.shape), msssim_torch.dtypes(x, y), window)
    rows = msssim_torch.like(x, _starts(x.shape[1], window, stride))
    columns = msssim_torch.like(x, _starts(x.shape[2], window, stride))
    scores = _scores(msssim_torch.segment_sums(x, y, *constants), rows, columns, window)
    return WindowScores(scores=scores, tops=rows, lefts=columns, window=window)


def _check_parameters(window: int, stride: int, data_range: float) -> None:
    if window % CELL or window <= TOO_SMALL:
        raise ValueError(f"window must be a multiple of {CELL} above {TOO_SMALL}, got {window}")
    if stride % CELL or stride <= 0:
        raise ValueError(f"stride must be a positive multiple of {CELL}, got {stride}")
    if not 0 < data_range < np.inf:
        raise ValueError(f"data_range must be positive and finite, got {data_range}")


def _check_planes(of_x: tuple[int, ...], of_y: tuple[int, ...], dtypes: set[str], window: int) -> None:
    if of_x != of_y or len(of_x) != 3 or of_x[0] == 0:
        raise ValueError(f"x and y must have one shape (P, H, W), got {of_x} and {of_y}")
    if dtypes != {"float32"}:
        raise ValueError(f"x and y must be float32, got {' and '.join(sorted(dtypes))}")
    if min(of_x[1:]) < window:
        raise ValueError(f"planes of {of_x[1]} x {of_x[2]} are smaller than a window of {window}")


def _starts(length: int, window: int, stride: int) -> NDArray[np.int64]:
    """Window origins along one axis; the last one is flush with the last multiple of 16."""
    last = length // CELL * CELL - window
    return np.append(np.arange(0, last, stride, dtype=np.int64), last)


def _scores(sums: Sequence[Any], tops: Any, lefts: Any, window: int) -> Any:
    """(..., ny, nx) scores from per scale (..., rows, columns) sums over segments; NumPy and torch alike.

    The last scale's sums are pixels, all others' come in two segments per cell.
    """
    scores: Any = 1.0
    for scale, (values, weight) in enumerate(zip(sums, WEIGHTS, strict=True)):
        side = (window >> scale) - SPAN
        cells, rest = divmod(side, segment(scale)[0])
        parts = 1 if scale == SCALES - 1 else 2
        length = cells * parts + (rest > 0)
        columns = _range_sums(values, lefts // CELL * parts, length)
        total = _range_sums(columns.swapaxes(-1, -2), tops // CELL * parts, length).swapaxes(-1, -2)
        mean = total / side**2
        if not bool((abs(mean) < 2).all()):  # the terms lie in -1..1; NaN is not less than 2
            raise ValueError("x and y must hold finite values, and not so large that their squares overflow")
        scores = scores * mean.clip(0) ** weight
    return scores


def _range_sums(values: Any, first: Any, length: int) -> Any:
    """Sums over ranges of one length along the last axis."""
    running = values.cumsum(-1)
    return running[..., first + (length - 1)] - running[..., first] + values[..., first]


def _segment_sums(
    x: NDArray[np.float32], y: NDArray[np.float32], c1: float, c2: float
) -> Iterator[list[NDArray[np.float64]]]:
    """Plane by plane and per scale, sums over segments of the contrast term; at the last of luminance times contrast.

    Yields:
        Four arrays (2 * h, 2 * w), where the planes have h x w whole cells, and one of (h - SPAN, w - SPAN); they are
        valid until the next plane.
    """
    down, across = x.shape[1] // CELL, x.shape[2] // CELL
    widths = [across * CELL >> k for k in range(SCALES - 1)]
    strips = [-(-(width - SPAN) // STRIP) for width in widths]
    bands = tuple(_scratch(2, BAND, -(-(width + STRIP) // CELL + 1) * CELL) for width in widths)
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
    """Zeros that start on a cache line: a vector of 16 floats that lies across two lines costs twice as much."""
    size = math.prod(shape)
    line = np.zeros(size + 16, np.float32)
    start = -line.ctypes.data % 64 // line.itemsize
    return line[start : start + size].reshape(shape)


def _in_one_line(plane: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """All values from a plane's first to its last, rows of a wider array included, and the step between rows.

    So a crop of a larger plane is read where it lies, and there is one type of array to compile for.
    """
    step = plane.itemsize
    whole_steps = plane.strides[0] % step == 0 and plane.strides[0] >= step * plane.shape[1]
    if not (plane.strides[1] == step and whole_steps and plane.flags.aligned):
        plane = np.ascontiguousarray(plane)
    pitch = plane.strides[0] // step
    length = (plane.shape[0] - 1) * pitch + plane.shape[1]
    return np.lib.stride_tricks.as_strided(plane, (length,), (step,), writeable=False), pitch
