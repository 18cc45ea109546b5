"""The tests for a changed scene, on block moments."""

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.difference import FLOOR, subtract_lines
from rawnind.imaging.moments import Moments
from rawnind.imaging.noise import NoiseModel

_MEAN_BOXES = (1, 3, 5, 9, 17)
_TEXTURE_BOXES = (3, 5, 9)
_MIN_CELLS = 6
THRESHOLDS = {"mean": 6.5, "energy": 9.0, "lost": 7.0, "excess": 5.0}
EXCESS = [0.15, 4.0]
LOST = [0.1, 0.1]


def changed_blocks(
    moments: Moments, residual: NDArray[np.float32], noise: NoiseModel
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Blocks where the scene changed, grown by one block, and the strongest evidence of each block over its threshold."""
    known = moments.n >= _MIN_CELLS
    n = np.where(known, moments.n, 0).astype(np.float32)
    variance = noise.variance(moments.g)
    tau2 = _interpolation_error(moments, variance)
    floor = (FLOOR * moments.g) ** 2 + tau2 * moments.gradient
    sigma = np.sqrt(variance / np.maximum(n, 1) + floor)
    subtract_lines(residual, sigma, n)
    seeds, score = evidence(moments, residual, n, variance, floor, tau2)
    return _grown(seeds), score


def _interpolation_error(moments: Moments, variance: NDArray[np.float32]) -> float:
    """Squared shift, in cells, that texture differs by although nothing moved: interpolation, demosaicing, a local warp."""
    n = moments.n
    excess = moments.dd - np.maximum(n - 1, 0) * variance
    energy = n * moments.gradient
    chosen = (n >= 12) & (energy * 0.1**2 > 2 * variance * np.sqrt(2 * np.maximum(n - 1, 0)))
    if chosen.sum() < 50:
        return 0.05**2
    ratio = excess[chosen] / energy[chosen]
    return float(np.clip(np.quantile(ratio[:: max(1, len(ratio) // 20000)], 0.7), 0.04**2, 0.35**2))


def _box(map_: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    if size == 1:
        return map_
    return cv2.boxFilter(map_, -1, (size, size), normalize=False, borderType=cv2.BORDER_CONSTANT)


def evidence(moments, residual, n, variance, floor, tau2):
    planes = len(residual)
    nu = np.maximum(n - 1, 0)
    relative = np.zeros_like(n)
    blur = np.zeros_like(n)
    lost = np.zeros_like(n)
    lost_floor = np.zeros_like(n)
    lost_noise = np.zeros_like(n)
    for p in range(planes):
        relative += moments.dd[p] / variance[p] - nu
        blur += moments.gradient[p] * n * tau2 / variance[p]
        lost += moments.dg[p] / variance[p]
        lost_noise += moments.gg[p] / variance[p]
        lost_floor += (moments.gg[p] * LOST[0] + LOST[1] * moments.gradient[p] * n) / variance[p]
    found = np.zeros(n.shape, bool)
    score = np.zeros(n.shape, np.float32)
    energy = None
    for size in _MEAN_BOXES:
        here = cv2.dilate(found.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
        here = (here & (n > 0)).astype(np.float32)
        nn = n * here
        maps = {}
        count = np.maximum(_box(nn, size), 1e-3)
        chi = np.zeros_like(n)
        for p in range(planes):
            mean = _box(residual[p] * nn, size) / count
            chi += mean**2 / (
                _box(variance[p] * nn, size) / count**2 + _box(floor[p] * nn, size) / count + 1e-12
            )
        enough = count >= max(_MIN_CELLS, 0.25 * 16 * size * size)
        maps["mean", size] = np.where(enough, _gauss(chi, planes), 0)
        if size == 1:
            energy = np.where(enough, np.minimum(chi, 400), 0)
        if size in _TEXTURE_BOXES:
            dof = planes * _box(here, size)
            maps["energy", size] = np.where(
                enough, (_box(energy * here, size) - dof) / np.sqrt(2 * np.maximum(dof, 1)), 0
            )
            dof = np.maximum(_box(nu * here * planes, size), 1)
            e, bl = _box(relative * here, size) / dof, _box(blur * here, size) / dof
            maps["excess", size] = np.where(
                enough, (e - bl) / np.sqrt(2 / dof + EXCESS[0] ** 2 + (EXCESS[1] * bl) ** 2), 0
            )
            sl, sn, sf = (_box(m * here, size) for m in (lost, lost_noise, lost_floor))
            maps["lost", size] = np.where(enough, sl / np.sqrt(sn + sf**2 + 1e-6), 0)
        new = np.zeros_like(found)
        for (test, _), z in maps.items():
            z = z / THRESHOLDS[test]
            score = np.maximum(score, z)
            new |= _extent(z, size)
            if HITS is not None:
                HITS[test, size] = _extent(z, size)
        found |= new
    return found, score


HITS = None


def _gauss(chi, dof):
    """Wilson and Hilferty: a chi-square as a standard normal."""
    a = 2 / (9 * dof)
    return ((np.cbrt(chi / dof)) - (1 - a)) / np.sqrt(a)


def _extent(z, size):
    if size == 1:
        return z >= 1
    peak = cv2.dilate(z, np.ones((size, size), np.uint8))
    return (z >= 0.4 * peak) & (peak >= 1) & (z >= 0.5)


def _grown(seeds):
    blocks = seeds.astype(np.uint8)
    blocks = cv2.morphologyEx(blocks, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return cv2.dilate(blocks, np.ones((3, 3), np.uint8)).astype(bool)
