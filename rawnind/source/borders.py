"""The read noise that a sensor's borders show: rows and columns beside the picture that no light reaches.

Files hold there what the camera wrote: masked sites, or picture, zeros, data of its own. So a border counts only where it looks like
read noise: its mean is the black level, neighbouring sites are independent, rounding is not all, and all borders agree.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rawnind.records import BorderNoise, Cfa

_BESIDE_PICTURE, _AT_EDGE = 4, 2  # sites left out: light leaks in, and edges differ
_NARROWEST, _WIDEST, _LONGEST = 4, 32, 2048  # sites of a border that are measured; more add little
_FROM_BLACK = 0.25, 0.5  # of the mean, at most: standard deviations of a site, and sensor values beside them
_LEAST = 0.35  # standard deviation in sensor values; rounding alone has 0.29
_MOST_CUT = 0.1  # share of sites with sensor value 0
_MOST_CORRELATED, _MOST_APART = 0.1, 0.1  # of neighbours; of the borders' variances, as a share
_SURE = 4.0  # standard errors that both may exceed these limits by
_OUTLIER, _ROUNDS = 5.0, 12  # standard deviations; hot pixels
_BISECTIONS = 40
_ROWS = 16  # their mean is taken off: slow drifts are no row noise
_NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Border:
    """What one border shows, in sensor values.

    Attributes:
        variance: (3,) of red, green and blue sites; not a number where it has none.
        sites: (3,) independent ones.
        rows: (h,) mean of each row, without what planes differ by.
        width: sites of a row.
    """

    variance: NDArray[np.float64]
    sites: NDArray[np.float64]
    rows: NDArray[np.float64]
    width: int

    @property
    def mean(self) -> float:
        """Variance over all colours."""
        return float(np.nansum(self.variance * self.sites) / self.sites.sum())


def border_noise(  # noqa: PLR0917
    raw: NDArray[np.uint16],
    visible: tuple[int, int, int, int],
    cfa: Cfa,
    origin: tuple[int, int],
    black: Sequence[float],
    white: float,
) -> BorderNoise | None:
    """Read noise and row noise of red, green and blue sites; None where no border looks like read noise, or two disagree.

    Args:
        raw: (H, W) uint16 sensor values with borders.
        visible: top, left, height and width of the visible area.
        cfa: the pattern.
        origin: (y, x) in the visible area of the first site of `cfa.tile`.
        black: sensor values, in plane order.
        white: sensor value at which the sensor is full.
    """
    first = visible[0] + origin[0], visible[1] + origin[1]
    found = [
        (beside_rows, border)
        for beside_rows, place in _places(raw.shape, visible)
        if (border := _measured(raw[place], _planes(place, first, cfa), cfa, black)) is not None
    ]
    borders = [border for _, border in found]
    if not borders:
        return None
    variance, sites = np.array([(border.variance, border.sites) for border in borders]).swapaxes(0, 1)
    total = sites.sum(axis=0)
    mean = float(np.nansum(variance * sites) / total.sum())
    apart = [abs(border.mean / mean - 1) - _SURE * (2 / border.sites.sum()) ** 0.5 for border in borders]
    if max(apart) > _MOST_APART or not total.all():
        return None
    span = white - np.array(
        [np.mean(np.array(black)[np.array(cfa.plane_colors) == color]) for color in range(3)]
    )
    b = np.nansum(variance * sites, axis=0) / total / span**2
    row = _row_noise([border for beside_rows, border in found if beside_rows], mean)
    return BorderNoise(
        b=tuple(b.tolist()),
        b_error=tuple((b * np.sqrt(2 / total)).tolist()),
        row=row and row[0] / float(span.mean()),
        row_error=row and row[1] / float(span.mean()),
    )


def _planes(place: tuple[slice, slice], first: tuple[int, int], cfa: Cfa) -> NDArray[np.uint8]:
    """(h, w) index of the plane of each site of a place; `first` is a first site of the tile."""
    tile = np.array(cfa.tile, np.uint8) if cfa is Cfa.X_TRANS else np.array([[0, 1], [2, 3]], np.uint8)
    rows, columns = (
        (np.arange(part.start, part.stop) - start) % cfa.period
        for part, start in zip(place, first, strict=True)
    )
    found: NDArray[np.uint8] = tile[rows[:, None], columns]
    return found


def _places(
    shape: Sequence[int], visible: tuple[int, int, int, int]
) -> Iterator[tuple[bool, tuple[slice, slice]]]:
    """The borders at the left, right, top and bottom that are wide enough, and whether they are columns beside all rows."""
    top, left, height, width = visible
    along = [
        slice(start + max(size - _LONGEST, 0) // 2, start + (size + min(size, _LONGEST)) // 2)
        for start, size in ((top, height), (left, width))
    ]
    for axis, (start, size) in enumerate(((left, width), (top, height))):
        end = shape[1 - axis]
        for first, last in (
            (_AT_EDGE, start - _BESIDE_PICTURE),
            (start + size + _BESIDE_PICTURE, end - _AT_EDGE),
        ):
            if last - first >= _NARROWEST:
                inner = first + max(last - first - _WIDEST, 0) // 2
                across = slice(inner, min(inner + _WIDEST, last))
                yield axis == 0, (along[0], across) if axis == 0 else (across, along[1])


def _measured(
    values: NDArray[np.uint16], planes: NDArray[np.uint8], cfa: Cfa, black: Sequence[float]
) -> _Border | None:
    """What a border shows where it looks like read noise.

    Args:
        values: (h, w) sensor values.
        planes: (h, w) of the sites.
        cfa: the pattern.
        black: sensor values, in plane order.
    """
    cut = float(np.mean(values == 0))
    if cut > _MOST_CUT:
        return None
    left = values.astype(np.float64)
    means = np.array(
        [left[planes == plane].mean() if (planes == plane).any() else np.nan for plane in range(len(black))]
    )
    left -= means[planes]
    hot = ~_without_outliers(left)  # one would move the mean of its row, and with it the row's other sites
    rows = np.ma.mean(np.ma.array(left, mask=hot), axis=1).filled(0.0)
    left -= rows[:, None]
    left -= np.ma.mean(np.ma.array(left, mask=hot), axis=0).filled(0.0)
    kept = _without_outliers(left)
    deviation = float(np.sqrt(np.mean(left[kept] ** 2)))
    height, width = left.shape
    free = (1 - 1 / height) * (1 - 1 / width)
    deviation /= free**0.5
    away = np.nanmax(np.abs(means - np.asarray(black)))
    if deviation < _LEAST or away > _FROM_BLACK[0] * deviation + _FROM_BLACK[1]:
        return None
    if not _is_independent(np.where(kept, left, 0.0)):
        return None
    colors = np.array(cfa.plane_colors)[planes]
    sites = np.array([np.count_nonzero(kept & (colors == color)) for color in range(3)]) * free
    variance = np.array(
        [
            np.sum(left[kept & (colors == color)] ** 2) / count if count else np.nan
            for color, count in enumerate(sites)
        ]
    )
    if cut:
        variance = np.array([_before_cut(each, float(np.mean(black))) for each in variance])
    return _Border(variance=variance, sites=sites, rows=rows, width=width)


def _without_outliers(left: NDArray[np.float64]) -> NDArray[np.bool_]:
    kept = np.ones(left.shape, np.bool_)
    for _ in range(_ROUNDS):
        count = np.count_nonzero(kept)
        kept = np.abs(left) <= _OUTLIER * np.sqrt(np.mean(left[kept] ** 2))
        if np.count_nonzero(kept) == count:
            break
    return kept


def _is_independent(left: NDArray[np.float64]) -> bool:
    """Whether neighbours along rows and along columns are uncorrelated, but for the means that were taken off."""
    limit = _MOST_CORRELATED + _SURE / left.size**0.5
    variance = np.mean(left**2)
    products = np.mean(left[1:] * left[:-1]), np.mean(left[:, 1:] * left[:, :-1])
    return all(
        abs(product / variance + 1 / (side - 1)) <= limit
        for product, side in zip(products, left.shape, strict=True)
    )


def _before_cut(variance: float, black: float) -> float:
    """The variance of noise at the black level that 0 cuts off, from what it has once it is cut off (see `cut_noise`)."""
    least, most = variance, 4 * variance
    for _ in range(_BISECTIONS):
        middle = (least + most) / 2
        z = black / middle**0.5
        below, density = _NORMAL.cdf(z), _NORMAL.pdf(z)
        mean = density + z * below
        if middle * ((1 + z * z) * below + z * density - mean * mean) < variance:
            least = middle
        else:
            most = middle
    return (least + most) / 2


def _row_noise(borders: Sequence[_Border], variance: float) -> tuple[float, float] | None:
    """Standard deviation of what all sites of a row have in common, and its standard error, in sensor values.

    Below zero where rows scatter less than single sites explain: without such photos the mean of several would be too high.

    Args:
        borders: those beside the rows.
        variance: of a single site.
    """
    groups = len(borders[0].rows) // _ROWS if borders else 0
    if not groups:
        return None
    width = sum(border.width for border in borders)
    rows = np.sum([border.rows * border.width for border in borders], axis=0)[: groups * _ROWS] / width
    left = rows.reshape(groups, _ROWS)
    left = left - left.mean(axis=1, keepdims=True)
    left = left[_without_outliers(left)]
    free = left.size * (1 - 1 / _ROWS)
    total, single = float(np.sum(left**2)) / free, variance / width
    row = math.copysign(abs(total - single) ** 0.5, total - single)
    return row, total * float(np.sqrt(2 / free)) / (2 * abs(row))
