"""Brightness of a pair's photos against each other: gains, of all and of each colour, and the alignment loss that is left."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.coordinates import Rect
from rawnind.imaging.jit import kernel
from rawnind.imaging.levels import site_lines, tile_colors
from rawnind.imaging.photo import Photo
from rawnind.imaging.warp import Warp

_PATCH = 16  # cells a side: noise averages out, and most patches show one object
_FEWEST_PATCHES = 24
_PATCH_ROWS = 32  # rows of patches that are sampled from a large photo
_LEAST_SITES = 16  # of a colour in a patch


class Gain(NamedTuple):
    """A measured gain.

    Attributes:
        value: factor from the noisy photo's levels to the GT's.
        error: its standard error.
        freedom: degrees of freedom of `error`.
    """

    value: float
    error: float
    freedom: float


def measured_gain(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> Gain | None:
    """Factor that brings the noisy photo to the ground truth's level: mean(GT) / mean(noisy) over what both show.

    Iteratively reweighted over patches of 16x16 cells with Tukey's biweight, so that patches with another ratio (moved
    objects, shadows) have little or no weight.

    Args:
        ground_truth: (P, h, w) float32 levels, shifted onto the noisy frame.
        noisy: (P, h, w) float32 levels.
        usable: (h, w) bool: well exposed in both.

    Returns:
        The gain, or None where no cell is usable or the noisy photo is black.
    """
    return _ratio(_sums_of_patches(ground_truth, noisy, usable))


def channel_gains(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> tuple[Gain, ...] | None:
    """`measured_gain` of red, green and blue by itself.

    Args:
        ground_truth: (P, h, w) float32 levels, shifted onto the noisy frame; R, G, G, B or R, G, B.
        noisy: (P, h, w) float32 levels.
        usable: (h, w) bool: well exposed in both.

    Returns:
        Of red, green and blue; None where one of them is not measurable.
    """
    last = len(ground_truth) - 1
    colors = (slice(0, 1), slice(1, last), slice(last, None))
    return _all_measured(
        [_ratio(_sums_of_patches(ground_truth[planes], noisy[planes], usable)) for planes in colors]
    )


def site_gains(
    truth: Photo, noisy: Photo, warp: Warp, rect: Rect, usable: NDArray[np.bool_]
) -> tuple[Gain, tuple[Gain, ...]] | None:
    """`measured_gain` and `channel_gains` of the sensors' own values: each patch against the GT's sites at its whole shift.

    A demosaiced colour is an estimate. Where all light is in points finer than the colour filter array, as in a star field, it
    was 15 % off for red over the whole frame; sensor values are not, they only scatter more from patch to patch.

    Args:
        truth: the GT.
        noisy: the noisy photo.
        warp: where the noisy photo's sites lie in the GT.
        rect: what both photos show, in the noisy frame.
        usable: (h, w) bool per cell of `rect`: well exposed in both.

    Returns:
        The gain of all sites, and those of red, green and blue; None where one of them is not measurable.
    """
    cell, side = noisy.cfa.cell, _PATCH * noisy.cfa.cell
    rows, columns = rect.height // side, rect.width // side
    chosen = np.arange(0, rows, max(1, rows // _PATCH_ROWS))
    at = np.stack(np.meshgrid(chosen * side, np.arange(columns) * side, indexing="ij"), axis=-1)
    tops_and_lefts = at.reshape(-1, 2) + np.array([rect.top, rect.left])
    shifts = warp.shift(tops_and_lefts + side / 2)
    sums = np.zeros((3, 2, len(chosen) * columns))
    for number, ((top, left), (y, x)) in enumerate(
        zip(tops_and_lefts.tolist(), shifts.tolist(), strict=True)
    ):
        here = Rect(top, left, side, side)
        there = here.shifted((y, x))
        if min(there.top, there.left) < 0 or np.any(
            np.array(truth.mosaic.shape) < (there.bottom, there.right)
        ):
            continue
        first_row, first_column = (top - rect.top) // cell, (left - rect.left) // cell
        use = usable[first_row : first_row + _PATCH, first_column : first_column + _PATCH]
        sites = use.repeat(cell, axis=0).repeat(cell, axis=1)
        (count, total), (gt_count, gt_total) = (
            _color_sums(noisy, here, sites),
            _color_sums(truth, there, sites),
        )
        enough = np.minimum(count, gt_count) >= _LEAST_SITES
        sums[enough, 0, number] = (gt_total * count)[enough] / gt_count[enough]
        sums[enough, 1, number] = total[enough]
    patches = sums.reshape(3, 2, len(chosen), columns)
    gain, channels = _ratio(patches.sum(axis=0)), _all_measured([_ratio(each) for each in patches])
    return None if gain is None or channels is None else (gain, channels)


def _color_sums(
    photo: Photo, rect: Rect, use: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(3,) used sites and (3,) sum of their levels of red, green and blue.

    Args:
        photo: a mosaic.
        rect: sites of its frame.
        use: (height, width) bool of `rect`.
    """
    tile = tile_colors(photo.cfa)
    place = np.ix_(np.arange(rect.top, rect.bottom) % len(tile), np.arange(rect.left, rect.right) % len(tile))
    factor, bias = (line[place] for line in site_lines(photo.sensor))
    levels, colors = photo.mosaic[rect.sites] * factor + bias, tile[place][use]
    total: NDArray[np.float64] = np.bincount(colors, weights=levels[use], minlength=3).astype(np.float64)
    return np.bincount(colors, minlength=3), total


def _all_measured(gains: list[Gain | None]) -> tuple[Gain, ...] | None:
    measured = tuple(each for each in gains if each is not None)
    return measured if len(measured) == len(gains) else None


def channel_lines(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> tuple[tuple[float, float], ...] | None:
    """For each colour the line GT = factor * noisy + offset through patches of both photos.

    The GT is the regressor, because it has less noise: noise in a regressor lowers slopes.

    Args:
        ground_truth: (P, h, w) float32 levels, shifted onto the noisy frame; R, G, G, B or R, G, B.
        noisy: (P, h, w) float32 levels.
        usable: (h, w) bool: well exposed in both.

    Returns:
        (factor, offset in the GT's levels) of red, green and blue; None where a colour has no range of levels.
    """
    last = len(ground_truth) - 1
    whole = _patch_means(usable[None].astype(np.float32))[0] == 1
    found = []
    for planes in (slice(0, 1), slice(1, last), slice(last, None)):
        g, n = (_patch_means(photo[planes])[:, whole].mean(axis=0) for photo in (ground_truth, noisy))
        if len(g) < _FEWEST_PATCHES or np.ptp(g) == 0:
            return None
        design = np.stack([g, np.ones_like(g)], axis=1).astype(np.float64)
        weights = np.ones(len(g))
        for _ in range(12):
            slope, offset = np.linalg.lstsq(design * weights[:, None], n * weights, rcond=None)[0]
            error = np.abs(n - design @ [slope, offset])
            weights = 1 / np.sqrt(np.maximum(error, 1e-3 * n.mean() + 1e-9))  # least absolute deviations
        if slope <= 0:
            return None
        found.append((1 / float(slope), -float(offset / slope)))
    return tuple(found)


def _patch_means(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P, n, m) means of whole patches of (P, h, w)."""
    planes = planes[:, : planes.shape[1] // _PATCH * _PATCH, : planes.shape[2] // _PATCH * _PATCH]
    rows = planes.reshape(len(planes), -1, _PATCH, planes.shape[2] // _PATCH, _PATCH)
    means: NDArray[np.float32] = rows.mean(axis=(2, 4))
    return means


def _sums_of_patches(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(2, n, m) sums of GT and noisy levels over n rows of m patches."""
    height, width = usable.shape
    step = _PATCH * max(1, height // (_PATCH * _PATCH_ROWS))
    tops = np.arange(0, max(1, height - _PATCH + 1), step)
    sums = np.zeros((2, len(tops), -(-width // _PATCH)), np.float64)
    _patch_sums(ground_truth, noisy, usable.view(np.uint8), tops, sums)
    return sums


def _ratio(sums: NDArray[np.float64]) -> Gain | None:
    """The ratio of `measured_gain` for (2, n, m) sums of patches; None where there is none."""
    g, n = sums
    weights, ratio = np.ones_like(g), 0.0
    for _ in range(12):
        total = float((weights * n).sum())
        if total <= 0 or (weights * g).sum() <= 0:
            return None
        ratio = float((weights * g).sum()) / total
        error = np.abs(g - ratio * n)
        # shot noise, and a floor for dark patches
        scale = np.sqrt(np.maximum(g, 0) * g.mean()) + 1e-3 * g.mean()
        relative = error / scale
        # Tukey's constant for 95 % efficiency on Gaussian errors; 1.4826: median absolute deviation to sigma
        unit = 4.685 * 1.4826 * float(np.median(relative[g > 0])) + 1e-9
        weights = np.clip(1 - (relative / unit) ** 2, 0, None) ** 2
    return _with_error(ratio, weights * g, weights * n, (weights * scale) ** 2)


def _with_error(
    ratio: float, g: NDArray[np.float64], n: NDArray[np.float64], expected: NDArray[np.float64]
) -> Gain:
    """The ratio with its jackknife error over patches, rows of patches, or columns of them: whichever is the largest.

    Noise of rows and columns is common to their patches, and a few of them may hold all the light.

    Args:
        ratio: of the sums.
        g: (n, m) weighted sums of the GT.
        n: the same of the noisy photo.
        expected: (n, m) in what ratio the patches' variances are expected.
    """
    found = Gain(ratio, float("inf"), 1.0)
    errors = []
    for axes in ((), (0,), (1,)):
        of_gt, of_noisy, share = (each.sum(axis=axes).ravel() for each in (g, n, expected))
        there = share > 0
        if np.count_nonzero(there) < 2 or (left := of_noisy.sum() - of_noisy[there]).min() <= 0:
            return found
        without = (of_gt.sum() - of_gt[there]) / left
        count = len(without)
        error = float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))
        freedom = float(share.sum() ** 2 / (share**2).sum()) - 1
        errors.append(Gain(ratio, error, max(freedom, 1.0)))
    return max(errors, key=lambda each: each.error)


def alignment_loss(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.bool_], gain: float
) -> float | None:
    """Mean absolute difference of the aligned, gain-matched pair, as in the research code: mean |gt - gain * noisy|.

    Args:
        ground_truth: (P, h, w) float32 levels, shifted onto the noisy frame.
        noisy: (P, h, w) float32 levels.
        usable: (h, w) bool: cells that count.
        gain: factor of the noisy levels.

    Returns:
        Levels; None where no cell is usable.
    """
    count = int(np.count_nonzero(usable)) * len(noisy)
    if not count:
        return None
    return float(_absolute(ground_truth, noisy, usable.view(np.uint8), np.float32(gain))) / count


@kernel(fastmath={"contract"})
def _patch_sums(
    ground_truth: NDArray[np.float32],
    noisy: NDArray[np.float32],
    usable: NDArray[np.uint8],
    tops: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    """Sums over usable cells and planes of each patch.

    Args:
        ground_truth: (P, h, w) levels.
        noisy: (P, h, w) levels.
        usable: (h, w) 0 or 1.
        tops: (n,) first rows of the patches.
        out: (2, n, patches across) float64 sums of GT and noisy, added to.
    """
    height, width = usable.shape
    columns = np.empty((2, width), np.float32)
    for i in range(len(tops)):
        columns[:] = 0
        gs, ns = columns[0], columns[1]
        for y in range(tops[i], min(tops[i] + _PATCH, height)):
            use = usable[y]
            for plane in range(len(noisy)):
                g, n = ground_truth[plane, y], noisy[plane, y]
                for x in range(width):
                    gs[x] += g[x] * np.float32(use[x])
                    ns[x] += n[x] * np.float32(use[x])
        for x in range(width):
            out[0, i, x // _PATCH] += gs[x]
            out[1, i, x // _PATCH] += ns[x]


@kernel(fastmath={"contract"})
def _absolute(
    ground_truth: NDArray[np.float32], noisy: NDArray[np.float32], usable: NDArray[np.uint8], gain: np.float32
) -> float:
    """Sum of |gt - gain * noisy| over usable cells and planes; float32 over 64 rows, then float64.

    Args:
        ground_truth: (P, h, w) levels.
        noisy: (P, h, w) levels.
        usable: (h, w) 0 or 1.
        gain: factor of the noisy levels.
    """
    height, width = usable.shape
    columns = np.empty(width, np.float32)
    total = 0.0
    for plane in range(len(noisy)):
        for top in range(0, height, 64):
            columns[:] = 0
            for y in range(top, min(top + 64, height)):
                g, n, use = ground_truth[plane, y], noisy[plane, y], usable[y]
                for x in range(width):
                    columns[x] += abs(g[x] - gain * n[x]) * np.float32(use[x])
            for x in range(width):
                total += columns[x]
    return total
