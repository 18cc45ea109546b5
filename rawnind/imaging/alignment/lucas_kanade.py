"""Local shifts between two photos, patch by patch, by least squares.

In each patch the noisy photo is a linear function of the GT and its gradient,

    noisy(p) = a * gt(p + offset) + b . gradient(gt)(p + offset) + c,        local shift = offset + b / a

(B. D. Lucas and T. Kanade, "An iterative image registration technique", IJCAI 1981, with gain a and offset c as further
unknowns). All regressors come from the clean photo: noise in a regressor would bias the shift towards 0.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import tile_colors
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]

WELL_EXPOSED = 0.95  # share of the white level above which sensors may clip
MODEL_ERROR = 0.03  # sites; error of a patch's shift without noise (interpolation, aliasing)
STRAIGHT = 10.0  # times the energy along them that gradients have across straight edges
GAIN_TOLERANCE = 0.25  # relative; beyond this and 3 standard errors, a patch shows another content
SITE_CORRELATION = (
    4.0  # variance of a sum of neighbouring interpolated greens over that of independent samples
)
XTRANS_PERIOD = Cfa.X_TRANS.period
PRODUCTS = 15  # distinct products of five columns
SUMS = PRODUCTS + 1  # and the GT's mean
MIN_SAMPLES = 64  # well-exposed samples of a patch, for the four unknowns


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class LocalShifts:
    """Measured shifts of N patches.

    Attributes:
        at: (N, 2) float64 middles of the patches (y, x) in sites from the middle of the noisy photo.
        shift: (N, 2) float64 local (dy, dx) in sites, GT minus noisy.
        covariance: (N, 2, 2) float64 of `shift`.
        considered: patches that have contrast, with those that were left out because they show another content.
    """

    at: Float64s
    shift: Float64s
    covariance: Float64s
    considered: int


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Matches(LocalShifts):
    """Local shifts with what their gradients' noise needs.

    Attributes:
        offset: (N, 2) int64 (dy, dx) at which the GT's patches were taken.
        inverse: (N, 2, 2) float64 of the mean products of the GT's gradients.
        level: (N,) float64 mean of the GT's patches in sensor values over black.
    """

    offset: Int64s
    inverse: Float64s
    level: Float64s


class View(NamedTuple):
    """A photo as the kernels take it.

    Attributes:
        values: (h, w) float32 reduced green over black, or (H, W) uint16 mosaic.
        black: green's black level, to be subtracted from the mosaic.
        limit: green over black above which a sample is not well exposed.
        green: (period, period) bool: where the CFA's tile is green.
    """

    values: NDArray[Any]
    black: np.float32
    limit: np.float32
    green: NDArray[np.bool_]


def view(photo: Photo, values: NDArray[Any]) -> View:
    """A view of a photo's mosaic or of its reduced green.

    Args:
        photo: sensor levels and CFA.
        values: the mosaic or the reduced green.
    """
    black = photo.sensor.black_level[1]
    return View(
        values=values,
        black=np.float32(black),
        limit=np.float32(WELL_EXPOSED * (photo.sensor.white_level - black)),
        green=tile_colors(photo.cfa) == 1,
    )


def reduced_shifts(  # noqa: PLR0917
    ground_truth: View, noisy: View, corners: Int64s, offsets: Int64s, slopes: Float64s, patch: int
) -> Matches:
    """Local shifts from the reduced greens, all in reduced pixels.

    Args:
        ground_truth: its values are the reduced green.
        noisy: the same of the noisy photo.
        corners: (N, 2) first sample of each patch in the noisy photo.
        offsets: (N, 2) added to the corners in the GT; one more sample around the patch must exist there.
        slopes: (N, 2, 2) expected change of the shift (dy, dx) per sample down and across.
        patch: samples a side.
    """
    sums = _reduced_sums(ground_truth, noisy, corners, offsets, slopes, patch)
    return _solve(sums, corners + (patch - 1) / 2 - _middle(noisy), offsets, 1.0)


def site_shifts(  # noqa: PLR0917
    ground_truth: View, noisy: View, corners: Int64s, offsets: Int64s, slopes: Float64s, patch: int
) -> Matches:
    """Local shifts from the mosaics' green sites, all in sites.

    Args:
        ground_truth: its values are the mosaic.
        noisy: the same of the noisy photo.
        corners: (N, 2) first site of each patch in the noisy photo; two more sites around the patch must exist.
        offsets: (N, 2) added to the corners in the GT; three more sites around the patch must exist there.
        slopes: (N, 2, 2) expected change of the shift (dy, dx) per site down and across.
        patch: sites a side.
    """
    sums = _site_sums(ground_truth, noisy, corners, offsets, slopes, patch)
    return _solve(sums, corners + (patch - 1) / 2 - _middle(noisy), offsets, SITE_CORRELATION)


def _middle(noisy: View) -> Float64s:
    """(2,) position (y, x) of the middle of an image in its own pixels."""
    return (np.array(noisy.values.shape) - 1) / 2


def weighted_median(values: Float64s, weights: Float64s) -> float:
    """The smallest value at which the cumulative weight reaches half of the total; there is at least one value.

    Args:
        values: (n,).
        weights: (n,), not negative.
    """
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])


def _solve(sums: Float64s, at: Float64s, offsets: Int64s, correlation: float) -> Matches:
    """Solves the normal equations of each patch; patches without contrast, or with a gain unlike the photo's, are left out.

    The shift is b / a with one gain a for the whole photo, the weighted median: a patch's own gain is unreliable where it has
    little contrast.

    Args:
        sums: (N, 16) sums of products of (gt, gt_y, gt_x, 1, noisy) with each other, upper triangle, and the GT's mean.
        at: (N, 2) middles of the patches.
        offsets: (N, 2) where the GT's patches were taken.
        correlation: variance of a sum of the samples over that of independent samples.
    """
    full = np.zeros((len(sums), 5, 5))
    rows, columns = np.triu_indices(5)
    full[:, rows, columns] = full[:, columns, rows] = sums[:, :PRODUCTS]
    solvable = (full[:, 3, 3] >= MIN_SAMPLES) & (np.linalg.cond(full[:, :4, :4]) < 1e12)
    full, at, offsets, level = full[solvable], at[solvable], offsets[solvable], sums[solvable, PRODUCTS]
    inverse, right = np.linalg.inv(full[:, :4, :4]), full[:, :4, 4]
    fitted = np.einsum("nij,nj->ni", inverse, right)
    residual = np.maximum(full[:, 4, 4] - np.einsum("ni,ni->n", fitted, right), 0) / (full[:, 3, 3] - 4)
    covariance = correlation * residual[:, None, None] * inverse
    gains, errors = fitted[:, 0], np.sqrt(covariance[:, 0, 0])
    gain = weighted_median(gains, np.abs(gains) / (errors + 1e-9)) if len(gains) else 0.0
    keep = (np.abs(gains - gain) < GAIN_TOLERANCE * gain + 3 * errors) & (gain > 0)
    return Matches(
        at=at[keep],
        shift=offsets[keep] + fitted[keep, 1:3] / (gain or 1.0),
        covariance=covariance[keep, 1:3, 1:3] / (gain or 1.0) ** 2 + _model_error(inverse[keep, 1:3, 1:3]),
        considered=len(gains),
        offset=offsets[keep],
        inverse=inverse[keep, 1:3, 1:3] * full[keep, 3, 3, None, None],
        level=level[keep],
    )


def _model_error(inverse: Float64s) -> Float64s:
    """(N, 2, 2) covariance of the errors without noise, in sites.

    Along straight edges there is hardly a gradient, and part of it is aliasing, which does not move with the scene: it draws the
    shift to where the patch was put. That part is taken to be a share `MODEL_ERROR` of the gradient across the edges.

    Args:
        inverse: (N, 2, 2) of the gradients' products.
    """
    values, directions = np.linalg.eigh(inverse)
    ratio = values[:, 1] / np.maximum(values[:, 0], 1e-30)
    along = directions[:, :, 1]
    weak = (MODEL_ERROR * np.maximum(ratio - STRAIGHT, 0)) ** 2
    return np.asarray(
        MODEL_ERROR**2 * np.eye(2) + weak[:, None, None] * along[:, :, None] * along[:, None, :], np.float64
    )


@kernel
def _mean(values: Float32s) -> np.float32:
    """Mean of an image, summed in float64."""
    total = 0.0
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            total += values[y, x]
    return np.float32(total / values.size)


@kernel(fastmath={"reassoc", "contract", "nsz"})  # sums in any order: the compiler may use vectors
def _products(
    gt: Float32s, noisy: Float32s, limits: tuple[np.float32, np.float32], slope: Float64s, out: Float64s
) -> None:
    """Sums of products of (gt, gt_y, gt_x, 1, noisy) with each other over a patch, means removed.

    The GT is moved, to first order, as the shift is expected to change from the patch's middle.

    Args:
        gt: (n + 2, m + 2) float32 green over black, one more sample than `noisy` on each side.
        noisy: (n, m) float32 green over black.
        limits: of GT and noisy photo: samples from here on are skipped as overexposed.
        slope: (2, 2) change of the shift (dy, dx) per sample down and across.
        out: (16,) float64, written: upper triangle row by row, and the mean of `gt`.
    """
    mean_gt, mean_noisy = _mean(gt), _mean(noisy)
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    y_down, y_across = np.float32(slope[0, 0]), np.float32(slope[0, 1])
    x_down, x_across = np.float32(slope[1, 0]), np.float32(slope[1, 1])
    middle = np.float32((noisy.shape[0] - 1) / 2), np.float32((noisy.shape[1] - 1) / 2)
    out[:] = 0
    out[PRODUCTS] = mean_gt
    for i in range(noisy.shape[0]):
        above, here, below, line = gt[i], gt[i + 1], gt[i + 2], noisy[i]
        down = np.float32(i) - middle[0]
        start_y, start_x = y_down * down, x_down * down
        gg = gy = gx = g1 = gn = yy = yx = y1 = yn = xx = x1 = xn = ones = n1 = nn = zero
        for j in range(noisy.shape[1]):
            use = one if here[j + 1] < limits[0] and line[j] < limits[1] else zero
            y, x = (below[j + 1] - above[j + 1]) * half * use, (here[j + 2] - here[j]) * half * use
            right = np.float32(j) - middle[1]
            moved = (start_y + y_across * right) * y + (start_x + x_across * right) * x
            g, n = (here[j + 1] - mean_gt) * use + moved, (line[j] - mean_noisy) * use
            gg, gy, gx, g1, gn = gg + g * g, gy + g * y, gx + g * x, g1 + g, gn + g * n
            yy, yx, y1, yn = yy + y * y, yx + y * x, y1 + y, yn + y * n
            xx, x1, xn = xx + x * x, x1 + x, xn + x * n
            ones, n1, nn = ones + use, n1 + n, nn + n * n
        for k, row in enumerate((gg, gy, gx, g1, gn, yy, yx, y1, yn, xx, x1, xn, ones, n1, nn)):
            out[k] += row


@kernel
def _reduced_sums(  # noqa: PLR0917
    gt: View, noisy: View, corners: Int64s, offsets: Int64s, slopes: Float64s, patch: int
) -> Float64s:
    """`_products` of each patch of two reduced greens.

    Args:
        gt: the clean photo.
        noisy: the noisy photo.
        corners: (N, 2) int64 first sample of each patch in the noisy photo.
        offsets: (N, 2) int64 added to the corners in the GT.
        slopes: (N, 2, 2) float64 change of the shift per sample.
        patch: samples a side.

    Returns:
        (N, 16) float64.
    """
    out = np.zeros((len(corners), SUMS))
    for i in range(len(corners)):
        y, x = corners[i]
        v, u = y + offsets[i, 0], x + offsets[i, 1]
        gt_patch = gt.values[v - 1 : v + patch + 1, u - 1 : u + patch + 1]
        limits = gt.limit, noisy.limit
        _products(gt_patch, noisy.values[y : y + patch, x : x + patch], limits, slopes[i], out[i])
    return out


@kernel
def _site_sums(  # noqa: PLR0917
    gt: View, noisy: View, corners: Int64s, offsets: Int64s, slopes: Float64s, patch: int
) -> Float64s:
    """`_products` of each patch of two mosaics, with green interpolated at every site.

    Args:
        gt: the clean photo.
        noisy: the noisy photo.
        corners: (N, 2) int64 first site of each patch in the noisy photo.
        offsets: (N, 2) int64 added to the corners in the GT.
        slopes: (N, 2, 2) float64 change of the shift per sample.
        patch: sites a side.

    Returns:
        (N, 16) float64.
    """
    out = np.zeros((len(corners), SUMS))
    gt_patch, noisy_patch = np.empty((patch + 2, patch + 2), np.float32), np.empty((patch, patch), np.float32)
    for i in range(len(corners)):
        y, x = corners[i]
        green_sites(gt, y + offsets[i, 0] - 1, x + offsets[i, 1] - 1, gt_patch)
        green_sites(noisy, y, x, noisy_patch)
        _products(gt_patch, noisy_patch, (gt.limit, noisy.limit), slopes[i], out[i])
    return out


@kernel
def green_sites(photo: View, top: int, left: int, out: Float32s) -> None:
    """Green at each site over black; for X-Trans averaged over 3x3 sites.

    In X-Trans the centroid of the greens among 3x3 sites lies up to 0.4 sites off the middle, in a pattern with a period of
    3 sites: the mean over the period removes it.

    Args:
        photo: its mosaic.
        top: first row.
        left: first column.
        out: (n, m) float32 sensor values over black, written.
    """
    if photo.green.shape[0] != XTRANS_PERIOD:
        _interpolate_green(photo, top, left, out)
        return
    height, width = out.shape
    around = np.empty((height + 2, width + 2), np.float32)
    _interpolate_green(photo, top - 1, left - 1, around)
    line = np.empty(width + 2, np.float32)
    for y in range(height):
        for x in range(width + 2):
            line[x] = around[y, x] + around[y + 1, x] + around[y + 2, x]
        for x in range(width):
            out[y, x] = (line[x] + line[x + 1] + line[x + 2]) * np.float32(1 / 9)


@kernel
def _interpolate_green(photo: View, top: int, left: int, out: Float32s) -> None:
    """Green at each site over black: the mean of the greens among its 3x3 sites without the largest and smallest.

    There are 4 or 5 of them (Bayer) or 5 (X-Trans); a hot pixel is always left out.

    Args:
        photo: its mosaic.
        top: first row.
        left: first column.
        out: (n, m) float32 sensor values over black, written.
    """
    height, width = out.shape
    period, none = photo.green.shape[0], np.float32(1e6)
    is_green, share = _green_lines(photo.green, left, width)
    total, low, high = (
        np.empty(width + 2, np.float32),
        np.empty(width + 2, np.float32),
        np.empty(width + 2, np.float32),
    )
    for y in range(height):
        total[:], low[:], high[:] = 0, none, 0
        for i in range(top + y - 1, top + y + 2):
            line, here = photo.values[i, left - 1 : left + width + 1], is_green[i % period]
            for x in range(width + 2):
                value = np.float32(line[x]) * here[x]
                total[x] += value
                high[x] = max(high[x], value)
                low[x] = min(low[x], value + (np.float32(1) - here[x]) * none)
        portion = share[(top + y) % period]
        for x in range(width):
            most = max(high[x], high[x + 1], high[x + 2])
            least = min(low[x], low[x + 1], low[x + 2])
            out[y, x] = (total[x] + total[x + 1] + total[x + 2] - most - least) * portion[x] - photo.black


@kernel
def _green_lines(green: NDArray[np.bool_], left: int, width: int) -> tuple[Float32s, Float32s]:
    """Where sites are green, and the weight of each in the trimmed mean, for each row of the CFA's tile.

    Args:
        green: (period, period) bool.
        left: first column of the interpolated sites.
        width: their number m.

    Returns:
        (period, m + 2) float32, 1 where sites from `left - 1` on are green, else 0; (period, m) float32
        1 / (greens among 3x3 sites - 2).
    """
    period = green.shape[0]
    is_green = np.empty((period, width + 2), np.float32)
    share = np.zeros((period, width), np.float32)
    for r in range(period):
        for x in range(width + 2):
            is_green[r, x] = np.float32(green[r, (left - 1 + x) % period])
    for r in range(period):
        for x in range(width):
            for i in range(r + period - 1, r + period + 2):
                share[r, x] += (
                    is_green[i % period, x] + is_green[i % period, x + 1] + is_green[i % period, x + 2]
                )
            share[r, x] = np.float32(1) / (share[r, x] - np.float32(2))
    return is_green, share
