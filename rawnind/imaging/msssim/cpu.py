"""The CPU side of `windowed_ms_ssim`: one dense pass per scale over a plane; its intermediate results stay in the cache.

The pass works on s = x + y and d = x - y. With V(.) for the Gaussian-weighted variance around a pixel,

    4 cov(x, y) = V(s) - V(d)    and    2 (var x + var y) = V(s) + V(d),

so that two variances per pixel replace five moments, and s and d of the next scale are the 2x2 means of this one's.

A variance is never computed as E[z^2] - E[z]^2: in float32 that cancels where a bright area is flat. Each pass first subtracts
its own centre, and the variance of the whole is combined from the rows' means m_r and variances V_r (law of total variance):

    V = sum_r g_r (V_r + (m_r - c)^2) - (sum_r g_r (m_r - c))^2    for any c, here the mean of the middle row.

A plane is read in bands of `BAND` rows, a band in strips of `STRIP` columns, so that the filtered rows (4 values per pixel)
that give `STEP` rows of results are still in the cache when they are reused. Segments and pooling have even sizes: results
are processed two rows at a time. The fifth scale has 1/256 of the pixels: plain loops in float64 suffice.
"""

# ruff: noqa: PLR0917 - a kernel takes plain arrays and numbers, by position

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.jit import kernel
from rawnind.imaging.msssim.constants import COARSE_PIXEL, GAUSSIAN, RADIUS, SPAN

STRIP = 256  # columns
BAND = 64  # rows; each strip's history is copied twice per band, so that a smaller one would copy more
STEP = 4  # rows of results at a time: 14 filtered rows serve four, where one alone needs 11
# floats per row: whole cache lines; a power of two would map all rows to the same cache sets
PITCH = STRIP + 16

Plane = NDArray[np.float32]
Planes = tuple[Plane, ...]
Sums = NDArray[np.float64]

# As float32 the taps do not add up to one. E[z^2] - E[z]^2 would be wrong by (1 - their sum) times the squared mean;
# differences to a centre leave no mean to weigh.
_G0, _G1, _G2, _G3, _G4, _G5 = (np.float32(tap) for tap in GAUSSIAN[: RADIUS + 1])
_QUARTER = np.float32(0.25)


@kernel(fastmath={"contract"})
def _rows_to_bands(x: Plane, y: Plane, x_start: int, y_start: int, width: int, band: Plane, row: int) -> None:
    """One row of s and d.

    Args:
        x: a plane's values in one line.
        y: the same of the other plane.
        x_start: index of the row's first value in `x`.
        y_start: the same in `y`.
        width: values of the row.
        band: (2, BAND, ...) s and d.
        row: of the band, written.
    """
    of_x, of_y = x[x_start : x_start + width], y[y_start : y_start + width]
    s, d = band[0, row], band[1, row]
    for i in range(width):
        s[i] = of_x[i] + of_y[i]
        d[i] = of_x[i] - of_y[i]


@kernel(fastmath={"contract"})
def _pool(source: Plane, target: Plane, first: int, rows: int, width: int) -> None:
    """2x2 means.

    Args:
        source: (2 * rows, 2 * width) or larger.
        target: written from row `first` on.
        first: row of the target.
        rows: of the target.
        width: columns of the target.
    """
    for r in range(rows):
        upper, lower, out = source[2 * r], source[2 * r + 1], target[first + r]
        for i in range(width):
            out[i] = ((upper[2 * i] + upper[2 * i + 1]) + (lower[2 * i] + lower[2 * i + 1])) * _QUARTER


@kernel(fastmath={"contract"})
def _filter_along_row(source: Plane, start: int, out: Plane) -> None:
    """Gaussian-weighted mean and variance along a row, for STRIP columns.

    Args:
        source: (n,) values of the row.
        start: index of the first of STRIP + SPAN values.
        out: (2, PITCH) mean and variance, written.
    """
    z = source[start : start + STRIP + SPAN]
    mean, variance = out[0], out[1]
    for i in range(STRIP):
        c = z[i + 5]
        a0, b0 = z[i] - c, z[i + 10] - c
        a1, b1 = z[i + 1] - c, z[i + 9] - c
        a2, b2 = z[i + 2] - c, z[i + 8] - c
        a3, b3 = z[i + 3] - c, z[i + 7] - c
        a4, b4 = z[i + 4] - c, z[i + 6] - c
        e = _G0 * (a0 + b0) + _G1 * (a1 + b1) + _G2 * (a2 + b2) + _G3 * (a3 + b3) + _G4 * (a4 + b4)
        q0, q1, q2 = a0 * a0 + b0 * b0, a1 * a1 + b1 * b1, a2 * a2 + b2 * b2
        q3, q4 = a3 * a3 + b3 * b3, a4 * a4 + b4 * b4
        mean[i] = c + e
        variance[i] = _G0 * q0 + _G1 * q1 + _G2 * q2 + _G3 * q3 + _G4 * q4 - e * e


@kernel(fastmath={"contract"})
def _filter_down(z: Plane, signal: int, out: Plane) -> None:
    """Variance in the plane, four rows, from 14 rows of means and variances.

    `z` is indexed in place, without views per row: only then does LLVM see one array and vectorise.

    Args:
        z: (14, 4, PITCH) mean and variance of s, then of d.
        signal: 0 for s, 1 for d.
        out: (2, STEP, PITCH) variances, written for the signal.
    """
    m, v = 2 * signal, 2 * signal + 1
    v0, v1, v2, v3 = out[signal, 0], out[signal, 1], out[signal, 2], out[signal, 3]
    for i in range(STRIP):
        c = z[6, m, i]
        e0, e1, e2, e3, e4 = z[0, m, i] - c, z[1, m, i] - c, z[2, m, i] - c, z[3, m, i] - c, z[4, m, i] - c
        e5, e7, e8, e9, e10 = z[5, m, i] - c, z[7, m, i] - c, z[8, m, i] - c, z[9, m, i] - c, z[10, m, i] - c
        e11, e12, e13 = z[11, m, i] - c, z[12, m, i] - c, z[13, m, i] - c
        t0, t1, t2 = z[0, v, i] + e0 * e0, z[1, v, i] + e1 * e1, z[2, v, i] + e2 * e2
        t3, t4, t5 = z[3, v, i] + e3 * e3, z[4, v, i] + e4 * e4, z[5, v, i] + e5 * e5
        t6, t7, t8 = z[6, v, i], z[7, v, i] + e7 * e7, z[8, v, i] + e8 * e8
        t9, t10, t11 = z[9, v, i] + e9 * e9, z[10, v, i] + e10 * e10, z[11, v, i] + e11 * e11
        t12, t13 = z[12, v, i] + e12 * e12, z[13, v, i] + e13 * e13
        e = _G0 * (e0 + e10) + _G1 * (e1 + e9) + _G2 * (e2 + e8) + _G3 * (e3 + e7) + _G4 * e4 + _G5 * e5
        t = (
            _G0 * (t0 + t10)
            + _G1 * (t1 + t9)
            + _G2 * (t2 + t8)
            + _G3 * (t3 + t7)
            + _G4 * (t4 + t6)
            + _G5 * t5
        )
        v0[i] = t - e * e
        e = _G0 * (e1 + e11) + _G1 * (e2 + e10) + _G2 * (e3 + e9) + _G3 * (e4 + e8) + _G4 * (e5 + e7)
        t = (
            _G0 * (t1 + t11)
            + _G1 * (t2 + t10)
            + _G2 * (t3 + t9)
            + _G3 * (t4 + t8)
            + _G4 * (t5 + t7)
            + _G5 * t6
        )
        v1[i] = t - e * e
        e = _G0 * (e2 + e12) + _G1 * (e3 + e11) + _G2 * (e4 + e10) + _G3 * (e5 + e9) + _G4 * e8 + _G5 * e7
        t = (
            _G0 * (t2 + t12)
            + _G1 * (t3 + t11)
            + _G2 * (t4 + t10)
            + _G3 * (t5 + t9)
            + _G4 * (t6 + t8)
            + _G5 * t7
        )
        v2[i] = t - e * e
        e = _G0 * (e3 + e13) + _G1 * (e4 + e12) + _G2 * (e5 + e11) + _G3 * e10 + _G4 * (e7 + e9) + _G5 * e8
        t = (
            _G0 * (t3 + t13)
            + _G1 * (t4 + t12)
            + _G2 * (t5 + t11)
            + _G3 * (t6 + t10)
            + _G4 * (t7 + t9)
            + _G5 * t8
        )
        v3[i] = t - e * e


@kernel(fastmath={"contract"})
def _add_contrast(variances: Plane, row: int, sums: Plane, c2: np.float32) -> None:
    """Adds the contrast term (2 cov + C2) / (var x + var y + C2) of two rows to sums per column.

    One division for two quotients: a / b + c / d = (a d + c b) / (b d).

    Args:
        variances: (2, STEP, PITCH) of s and of d.
        row: the first of the two.
        sums: (STRIP,), added to.
        c2: 2 * C2.
    """
    s0, s1, d0, d1 = variances[0, row], variances[0, row + 1], variances[1, row], variances[1, row + 1]
    for i in range(STRIP):
        b0, b1 = s0[i] + d0[i] + c2, s1[i] + d1[i] + c2
        a0, a1 = s0[i] - d0[i] + c2, s1[i] - d1[i] + c2
        sums[i] += (a0 * b1 + a1 * b0) / (b0 * b1)


@kernel
def _flush_segments(sums: Plane, width: int, side: int, pairs: Sums, out: Sums) -> None:
    """Adds columns up to segments in float64, and resets their sums; all segments have even sizes.

    Args:
        sums: (STRIP,) sums per column, set to 0.
        width: columns, whole coarse pixels.
        side: a coarse pixel's side at this scale.
        pairs: (STRIP // 2,) scratch memory.
        out: (2 * coarse pixels,), written.
    """
    for i in range(STRIP // 2):
        pairs[i] = np.float64(sums[2 * i]) + np.float64(sums[2 * i + 1])
    sums[:] = 0
    if side == 16:
        for j in range(width // 16):
            p = 8 * j
            out[2 * j] = pairs[p] + pairs[p + 1] + pairs[p + 2]
            out[2 * j + 1] = (pairs[p + 3] + pairs[p + 4]) + (pairs[p + 5] + pairs[p + 6]) + pairs[p + 7]
    elif side == 8:
        for j in range(width // 8):
            out[2 * j] = pairs[4 * j] + pairs[4 * j + 1] + pairs[4 * j + 2]
            out[2 * j + 1] = pairs[4 * j + 3]
    elif side == 4:
        for i in range(width // 2):
            out[i] = pairs[i]
    else:
        for j in range(width // 2):
            out[2 * j] = pairs[j]


@kernel
def _copy_rows(source: Plane, target: Plane) -> None:
    """NumPy's `target[:] = source` for rows of strips; numba's own is four times slower in three dimensions."""
    for r in range(SPAN):
        for moment in range(4):
            of, to = source[r, moment], target[r, moment]
            for i in range(STRIP):
                to[i] = of[i]


@kernel
def _scale_band(
    band: Plane,
    rows: int,
    top: int,
    valid: int,
    side: int,
    cut: int,
    c2: np.float32,
    history: Plane,
    sums: Plane,
    work: Plane,
    variances: Plane,
    out: Sums,
) -> None:
    """Contrast sums of `rows` more rows of one scale.

    Args:
        band: (2, BAND, width) rows of s and d.
        rows: how many of them are new; even. Those up to the next multiple of STEP are read and have no effect.
        top: the result row that the first of them completes, less than 0 at the top of the plane.
        valid: columns of results.
        side: a coarse pixel's side at this scale.
        cut: where a segment ends in it.
        c2: 2 * C2.
        history: (strips, SPAN, 4, STRIP) filtered rows before this band, replaced by this band's last ones.
        sums: (strips, STRIP) column sums of the segment in progress.
        work: (BAND + SPAN, 4, PITCH) scratch memory: mean and variance of s, then of d.
        variances: (2, STEP, PITCH) scratch memory.
        out: (2 * coarse pixels down, 2 * coarse pixels across) float64 segment sums.
    """
    pairs = np.empty(STRIP // 2)
    for strip in range(history.shape[0]):
        left = strip * STRIP
        width = min(STRIP, (valid - left + side - 1) // side * side)
        _copy_rows(history[strip], work)
        for r in range(0, rows, STEP):
            for new in range(r, r + STEP):
                for signal in range(2):
                    _filter_along_row(band[signal, new], left, work[SPAN + new, 2 * signal : 2 * signal + 2])
            if top + r + STEP <= 0:
                continue
            for signal in range(2):
                _filter_down(work[r : r + STEP + SPAN], signal, variances)
            for k in range(0, min(STEP, rows - r), 2):
                row = top + r + k
                if row >= 0:
                    _add_contrast(variances, k, sums[strip], c2)
                    if (row + 2) % side in (0, cut):
                        line = 2 * (row // side) + (row % side >= cut)
                        _flush_segments(sums[strip], width, side, pairs, out[line, 2 * (left // side) :])
        _copy_rows(work[rows:], history[strip])


@kernel
def contrast_sums(
    x: Plane,
    y: Plane,
    x_pitch: int,
    y_pitch: int,
    c2: np.float32,
    bands: Planes,
    histories: Planes,
    sums: Planes,
    work: Plane,
    variances: Plane,
    out: tuple[Sums, ...],
    coarse: Plane,
) -> None:
    """Segment sums of the contrast term for scales 0 to 3, and s and d at scale 4.

    Args:
        x: a plane's values in one line, row after row, x_pitch apart.
        y: the same, y_pitch apart.
        x_pitch: values from one row to the next.
        y_pitch: values from one row to the next.
        c2: 2 * C2.
        bands: per scale (2, BAND, width + STRIP + SPAN), zero beyond the width.
        histories: per scale, see `_scale_band`.
        sums: per scale, see `_scale_band`.
        work: see `_scale_band`.
        variances: see `_scale_band`.
        out: per scale (2 * coarse pixels down, 2 * coarse pixels across) float64, written.
        coarse: (2, coarse pixels down, coarse pixels across), written.
    """
    height, width = coarse.shape[1] * COARSE_PIXEL, coarse.shape[2] * COARSE_PIXEL
    filled, done = np.zeros(5, np.int64), np.zeros(5, np.int64)
    for k in range(4):
        sums[k][:] = 0  # the previous plane may have ended within a segment
    for top in range(0, height, BAND):
        filled[0] = min(BAND, height - top)
        for r in range(filled[0]):
            _rows_to_bands(x, y, (top + r) * x_pitch, (top + r) * y_pitch, width, bands[0], r)
        for k in range(4):
            rows = filled[k]
            if rows < BAND and top + BAND < height:  # a coarser scale waits until its band is full
                break
            side = COARSE_PIXEL >> k
            cut = 6 if k < 2 else 2  # `segment`
            _scale_band(
                bands[k], rows, done[k] - SPAN, (width >> k) - SPAN, side, cut, c2,
                histories[k], sums[k], work, variances, out[k],
            )  # fmt: skip
            for signal in range(2):
                if k < 3:
                    _pool(bands[k][signal], bands[k + 1][signal], filled[k + 1], rows // 2, width >> (k + 1))
                else:
                    _pool(bands[k][signal], coarse[signal], done[4], rows // 2, width >> 4)
            done[k] += rows
            filled[k] = 0
            filled[k + 1] += rows // 2
        done[4] += filled[4]
        filled[4] = 0


@kernel
def coarsest_map(
    coarse: NDArray[np.float32], taps: NDArray[np.float64], c1: float, c2: float, out: NDArray[np.float64]
) -> None:
    """SSIM (luminance times contrast) of the fifth scale, in float64.

    Args:
        coarse: (2, h, w) s and d, one value per coarse pixel.
        taps: (11,) float64.
        c1: C1.
        c2: C2.
        out: (h - SPAN, w - SPAN) float64, written.
    """
    height, width = out.shape
    along, down = np.zeros((height + SPAN, 4, width)), np.zeros((4, width))
    for r in range(height + SPAN):
        for k in range(taps.size):
            for i in range(width):
                s, d = np.float64(coarse[0, r, i + k]), np.float64(coarse[1, r, i + k])
                along[r, 0, i] += taps[k] * s
                along[r, 1, i] += taps[k] * d
                along[r, 2, i] += taps[k] * s * s
                along[r, 3, i] += taps[k] * d * d
    for r in range(height):
        down[:] = 0
        for k in range(taps.size):
            for moment in range(4):
                for i in range(width):
                    down[moment, i] += taps[k] * along[r + k, moment, i]
        for i in range(width):
            ss, dd = down[0, i] ** 2, down[1, i] ** 2
            vs, vd = down[2, i] - ss, down[3, i] - dd
            luminance = (ss - dd + 2 * c1) / (ss + dd + 2 * c1)
            out[r, i] = luminance * (vs - vd + 2 * c2) / (vs + vd + 2 * c2)
