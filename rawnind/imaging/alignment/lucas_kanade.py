"""Local shifts between two photos, patch by patch, by least squares.

In each patch the noisy photo is a linear function of the GT and its gradient,

    noisy(p) = a * gt(p + offset) + b . gradient(gt)(p + offset) + c,        local shift = offset + b / a

(B. D. Lucas and T. Kanade, "An iterative image registration technique", IJCAI 1981, with gain a and offset c as further
unknowns). All regressors come from the clean photo: noise in a regressor would bias the shift towards 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.alignment.greens import View, green_sites
from rawnind.imaging.jit import kernel

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]

MODEL_ERROR = 0.03  # sites; error of a patch's shift without noise (interpolation, aliasing)
STRAIGHT = 10.0  # times the energy along them that gradients have across straight edges
GAIN_TOLERANCE = 0.25  # relative; beyond this and 3 standard errors, a patch shows another content
SITE_CORRELATION = (
    4.0  # variance of a sum of neighbouring interpolated greens over that of independent samples
)
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
        offset: (N, 2) float64 (dy, dx) in sites at which the GT's patches were taken.
        inverse: (N, 2, 2) float64 of the mean products of the GT's gradients.
        level: (N,) float64 mean of the GT's patches in sensor values over black.
    """

    offset: Float64s
    inverse: Float64s
    level: Float64s


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
    return _solve(sums, corners + (patch - 1) / 2 - _middle(noisy), offsets.astype(np.float64), 1.0)


def site_shifts(  # noqa: PLR0917
    ground_truth: View, noisy: View, corners: Int64s, offsets: Float64s, slopes: Float64s, patch: int
) -> Matches:
    """Local shifts from the mosaics' green sites, all in sites.

    Args:
        ground_truth: its values are the mosaic.
        noisy: the same of the noisy photo.
        corners: (N, 2) first site of each patch in the noisy photo; two more sites around the patch must exist.
        offsets: (N, 2) added to the corners in the GT, which is interpolated where they are not whole; three more sites around the
            patch must exist there, or five.
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


def _solve(sums: Float64s, at: Float64s, offsets: Float64s, correlation: float) -> Matches:
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
    gt: View, noisy: View, corners: Int64s, offsets: Float64s, slopes: Float64s, patch: int
) -> Float64s:
    """`_products` of each patch of two mosaics, with green interpolated at every site.

    Args:
        gt: the clean photo.
        noisy: the noisy photo.
        corners: (N, 2) int64 first site of each patch in the noisy photo.
        offsets: (N, 2) float64 added to the corners in the GT.
        slopes: (N, 2, 2) float64 change of the shift per sample.
        patch: sites a side.

    Returns:
        (N, 16) float64.
    """
    out = np.zeros((len(corners), SUMS))
    gt_patch, noisy_patch = np.empty((patch + 2, patch + 2), np.float32), np.empty((patch, patch), np.float32)
    around = np.empty((patch + 5, patch + 5), np.float32)
    for i in range(len(corners)):
        y, x = corners[i]
        dy, dx = int(np.floor(offsets[i, 0])), int(np.floor(offsets[i, 1]))
        down, across = np.float32(offsets[i, 0] - dy), np.float32(offsets[i, 1] - dx)
        if down == 0 and across == 0:
            green_sites(gt, y + dy - 1, x + dx - 1, gt_patch)
        else:
            green_sites(gt, y + dy - 2, x + dx - 2, around)
            _between(around, down, across, gt_patch)
        green_sites(noisy, y, x, noisy_patch)
        _products(gt_patch, noisy_patch, (gt.limit, noisy.limit), slopes[i], out[i])
    return out


@kernel
def _between(values: Float32s, down: np.float32, across: np.float32, out: Float32s) -> None:
    """An image between its samples, by cubic convolution (R. G. Keys, 1981).

    Args:
        values: (n + 3, m + 3); its second sample along both axes lies up to one sample before the first of `out`.
        down: 0..1, by how much.
        across: the same.
        out: (n, m), written.
    """
    a0, a1, a2, a3 = _keys(down)
    b0, b1, b2, b3 = _keys(across)
    line = np.empty(values.shape[1], np.float32)
    for y in range(out.shape[0]):
        first, second, third, fourth = values[y], values[y + 1], values[y + 2], values[y + 3]
        for x in range(len(line)):
            line[x] = a0 * first[x] + a1 * second[x] + a2 * third[x] + a3 * fourth[x]
        for x in range(out.shape[1]):
            out[y, x] = b0 * line[x] + b1 * line[x + 1] + b2 * line[x + 2] + b3 * line[x + 3]


@kernel
def _keys(t: np.float32) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Weights of four samples for a place `t` (0..1) of the way from the second to the third."""
    one, half = np.float32(1), np.float32(0.5)
    u = one - t
    return (
        -half * t * u * u,
        one + t * t * (np.float32(1.5) * t - np.float32(2.5)),
        one + u * u * (np.float32(1.5) * u - np.float32(2.5)),
        -half * u * t * t,
    )
