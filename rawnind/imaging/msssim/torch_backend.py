"""The torch side of `windowed_ms_ssim`: the same sums on the tensors' device.

The arithmetic is that of `rawnind.imaging.msssim.cpu`, as shifted additions in bands of rows: convolutions may round their
inputs to TensorFloat-32, and are slow on the CPU for one channel. Tested on CPU tensors; it needs no particular device, only
float64 for the sums.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rawnind.imaging.msssim.constants import COARSE_PIXEL, GAUSSIAN, RADIUS, SPAN, segment

TAPS = tuple(float(tap) for tap in GAUSSIAN)
PIXELS_PER_BAND = {"cpu": 1 << 17}  # a dozen temporaries of 512 KiB fit the second- and third-level cache
PIXELS_PER_BAND_ELSEWHERE = 1 << 23  # 32 MiB per temporary: few kernel launches, little of a GPU's memory


def dtypes(x: Any, y: Any) -> set[str]:
    """Names of the element types.

    Raises:
        ValueError: They are not two tensors on one device.
    """
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.device == y.device):
        raise ValueError("x and y must both be NumPy arrays, or both torch tensors on one device")
    return {str(x.dtype).removeprefix("torch."), str(y.dtype).removeprefix("torch.")}


def like(x: Tensor, values: NDArray[Any]) -> Tensor:
    """`values` as a tensor on the device of `x`."""
    return torch.as_tensor(values, device=x.device)


@torch.no_grad()
def segment_sums(x: Tensor, y: Tensor, c1: float, c2: float) -> list[Tensor]:
    """Per scale, sums over segments, as `windowed._segment_sums` yields them for NumPy.

    Args:
        x: (P, H, W) float32.
        y: (P, H, W) float32.
        c1: luminance constant C1.
        c2: contrast constant C2.

    Returns:
        Four tensors (P, 2 * h, 2 * w) and one (P, h - SPAN, w - SPAN), float64.
    """
    height, width = (length // COARSE_PIXEL * COARSE_PIXEL for length in x.shape[1:])
    x, y = x[:, :height, :width], y[:, :height, :width]
    sums, signals = [], None  # s and d of the first scale exist only band by band
    for scale in range(4):
        sums.append(_contrast_sums(x, y, signals, scale, c2))
        signals = _pooled(x, y) if signals is None else functional.avg_pool2d(signals, 2)
    assert signals is not None  # noqa: S101 - four scales were pooled
    sums.append(_coarsest_map(signals.double(), c1, c2))
    return sums


def _rows_per_band(shape: torch.Size, device: torch.device) -> int:
    """Rows, a multiple of 16 at least, that bound the memory of one step."""
    pixels = PIXELS_PER_BAND.get(device.type, PIXELS_PER_BAND_ELSEWHERE)
    return max(pixels // (2 * shape[0] * shape[2] * COARSE_PIXEL), 1) * COARSE_PIXEL


def _signals(x: Tensor, y: Tensor) -> Tensor:
    """(2 * P, H, W) s = x + y, then d = x - y."""
    return torch.cat((x + y, x - y))


def _pooled(x: Tensor, y: Tensor) -> Tensor:
    """(2 * P, H / 2, W / 2) s and d of the second scale."""
    rows = _rows_per_band(x.shape, x.device)
    bands = range(0, x.shape[1], rows)
    return torch.cat(
        [functional.avg_pool2d(_signals(x[:, r : r + rows], y[:, r : r + rows]), 2) for r in bands], dim=1
    )


def _contrast_sums(x: Tensor, y: Tensor, signals: Tensor | None, scale: int, c2: float) -> Tensor:
    """Segment sums of the contrast term at one scale.

    Args:
        x: (P, H, W) at the first scale.
        y: (P, H, W) at the first scale.
        signals: (2 * P, h, w) s and d at this scale; None at the first.
        scale: 0..3.
        c2: contrast constant C2.

    Returns:
        (P, 2 * coarse pixels down, 2 * coarse pixels across) float64.
    """
    shape = x.shape if signals is None else signals.shape
    rows = _rows_per_band(shape, x.device)
    bands = []
    for top in range(0, shape[1] - SPAN, rows):
        part = slice(top, top + rows + SPAN)
        band = _signals(x[:, part], y[:, part]) if signals is None else signals[:, part]
        s, d = _variances(band).chunk(2)
        bands.append(_segments((s - d + 2 * c2) / (s + d + 2 * c2), *segment(scale)))
    sums = torch.cat(bands, dim=1)
    missing = (
        2 * (shape[1] // (COARSE_PIXEL >> scale)) - sums.shape[1],
        2 * (shape[2] // (COARSE_PIXEL >> scale)) - sums.shape[2],
    )
    return functional.pad(sums, (0, missing[1], 0, missing[0]))


def _variances(z: Tensor) -> Tensor:
    """(2 * P, h - SPAN, w - SPAN) Gaussian-weighted variance around each pixel, 'valid' filtering, without cancellation."""
    n = z.shape[2] - SPAN
    mean, variance = _mix(z[..., RADIUS : RADIUS + n], [z[..., k : k + n] for k in range(SPAN + 1)], None)
    n = z.shape[1] - SPAN
    means = [mean[:, k : k + n] for k in range(SPAN + 1)]
    return _mix(means[RADIUS], means, [variance[:, k : k + n] for k in range(SPAN + 1)])[1]


def _mix(center: Tensor, means: list[Tensor], variances: list[Tensor] | None) -> tuple[Tensor, Tensor]:
    """Mean and variance of a mixture of 11 neighbours with Gaussian weights.

    Args:
        center: subtracted before squaring.
        means: of the neighbours.
        variances: of the neighbours; None where they are single pixels.
    """
    shift, total = torch.zeros_like(center), torch.zeros_like(center)
    for k, tap in enumerate(TAPS):
        off = means[k] - center
        shift.add_(off, alpha=tap)
        total.addcmul_(off, off, value=tap)
        if variances is not None:
            total.add_(variances[k], alpha=tap)
    return center + shift, total.addcmul_(shift, shift, value=-1)


def _segments(term: Tensor, side: int, cut: int) -> Tensor:
    """Sums over [0, cut) and [cut, side) of every coarse pixel on both axes, in float64; the last one may be incomplete.

    Args:
        term: (P, h, w) contrast term.
        side: a coarse pixel's side at this scale.
        cut: where a segment ends in it.

    Returns:
        (P, segments down, segments across) float64.
    """
    for axis in (2, 1):
        term = term.movedim(axis, 2)
        term = functional.pad(term, (0, -term.shape[2] % side))
        term = term.reshape(*term.shape[:2], -1, side)
        parts = [part.sum(dim=3, dtype=torch.float64) for part in (term[..., :cut], term[..., cut:])]
        term = torch.stack(parts, dim=3).flatten(2).movedim(2, axis)
    return term


def _coarsest_map(signals: Tensor, c1: float, c2: float) -> Tensor:
    """Luminance times contrast at the fifth scale.

    Args:
        signals: (2 * P, h, w) float64 s and d.
        c1: luminance constant C1.
        c2: contrast constant C2.

    Returns:
        (P, h - SPAN, w - SPAN) float64.
    """
    moments = torch.stack((signals, signals**2))
    for axis in (2, 3):
        n = moments.shape[axis] - SPAN
        moments = sum((moments.narrow(axis, k, n) * tap for k, tap in enumerate(TAPS)), torch.zeros(()))
    s, d = (moments[0] ** 2).chunk(2)
    vs, vd = (moments[1] - moments[0] ** 2).chunk(2)
    return (s - d + 2 * c1) / (s + d + 2 * c1) * (vs - vd + 2 * c2) / (vs + vd + 2 * c2)
