"""What noise of whole rows and columns does to local shifts.

The least squares of a patch take noise to be independent from site to site. A row's noise is the same all along it, and so is the
gradient across a line of text: the patch's shift is then wrong by more than its standard error, and those of the patches beside it
by as much, as in a bend. What a row has in common is the mean product `c_k` of the residual's means over its left half and over
the right half of the row `k` further down. With the sums `S` of the regressors over each row, it adds

    A S' C S A,        A = inverse normal matrix,        C_ij = c_|i-j|

to the covariance of what is fitted (the sandwich of P. J. Huber, 1967, with rows as clusters); columns add the same.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]

LAGS = 4  # rows over which interpolation spreads the noise of one, and one more


def line_covariance(patches: Sequence[tuple[Float32s, Float32s, NDArray[np.bool_]]]) -> Float64s:
    """(N, 2, 2) covariance that noise of rows and columns adds to the local shifts (dy, dx) of N patches, in samples.

    Args:
        patches: of each the (n + 2, m + 2) GT, one more sample on each side, the (n, m) noisy photo, and (n, m) which of its samples
            are well exposed in both.
    """
    out = np.zeros((len(patches), 2, 2))
    if not patches:
        return out
    fits = [_fit(*patch) for patch in patches]
    gain = float(np.median([gain for *_, gain in fits]))
    if gain <= 0:
        return out
    for axis in (2, 1):  # of the sums: over rows, over columns
        common = np.median([_common(rest if axis == 2 else rest.T) for _, rest, _, _ in fits], axis=0)
        for number, (columns, _, inverse, _) in enumerate(fits):
            sums = columns.sum(axis=axis)
            products = sum(
                max(value, 0.0) * (1 if lag == 0 else 2) * sums[:, : sums.shape[1] - lag] @ sums[:, lag:].T
                for lag, value in enumerate(common.tolist())
            )
            out[number] += (inverse @ (products + products.T) @ inverse / 2)[1:3, 1:3] / gain**2
    return out


def _fit(
    gt: Float32s, noisy: Float32s, usable: NDArray[np.bool_]
) -> tuple[Float64s, Float64s, Float64s, float]:
    """(4, n, m) regressors, (n, m) residual, both 0 where not usable, (4, 4) inverse normal matrix, and the gain."""
    here = gt[1:-1, 1:-1].astype(np.float64)
    down, across = (gt[2:, 1:-1] - gt[:-2, 1:-1]) / 2, (gt[1:-1, 2:] - gt[1:-1, :-2]) / 2
    columns = np.stack([here - here.mean(), down, across, np.ones_like(here)]) * usable
    inverse = np.linalg.pinv(np.einsum("aij,bij->ab", columns, columns))
    fitted = inverse @ np.einsum("aij,ij->a", columns, noisy.astype(np.float64))
    rest = (noisy - np.einsum("a,aij->ij", fitted, columns)) * usable
    return columns, rest, inverse, float(fitted[0])


def _common(rest: Float64s) -> Float64s:
    """(LAGS,) what the rows of a residual have in common with the same row, the next one, and so on."""
    half = rest.shape[1] // 2
    left, right = rest[:, :half].mean(axis=1), rest[:, half:].mean(axis=1)
    return np.array(
        [
            (left[: len(left) - lag] @ right[lag:] + right[: len(left) - lag] @ left[lag:])
            / (2 * (len(left) - lag))
            for lag in range(LAGS)
        ]
    )
