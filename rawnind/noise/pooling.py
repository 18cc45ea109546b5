"""Pools measurements of the noise variance = a * level + b by generalised least squares: the error falls with their number."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rawnind.noise.samples import Sample

Array = NDArray[np.float64]

_ROUNDS = 5
_ORDINARY = (
    6.0  # chi-squared of both parts that 95 % of the measurements stay below; what exceeds it counts less
)
_SMALLEST_ERROR = 1e-13  # of levels squared: rounding to 16 bits adds 2e-11
_RIDGE = 1e-10  # where two parameters cannot be told apart: their errors become large, not infinite


def pool(
    samples: Sequence[Sample], design: Callable[[Sample], Array], prior: Array | None = None
) -> tuple[Array, Array]:
    """The parameters that explain a and b of all measurements best, and the covariance of their errors.

    A parameter of which nothing is known is 0, with an infinite error. Measurements that do not fit count less, and where they scatter more than their own errors say, the errors grow with it.

    Args:
        samples: with at least one of a and b; n of them.
        design: gives the (2, k) matrix from the parameters to a and b of a sample.
        prior: (k,) what is known of the parameters beforehand: how far each may be from 0; infinite for nothing.
    """
    designs = np.stack([design(sample) for sample in samples])
    known = np.stack([_information(sample) for sample in samples])
    found = np.array([[sample.a or 0.0, sample.b or 0.0] for sample in samples])
    count = designs.shape[2]
    before = np.zeros(count) if prior is None else np.asarray(prior, np.float64) ** -2.0
    toward = np.swapaxes(designs, 1, 2) @ known  # (n, k, 2)
    squares, weights = np.zeros(len(samples)), np.ones(len(samples))
    parameters, covariance = np.zeros(count), np.zeros((count, count))
    for _ in range(_ROUNDS):
        normal = np.diag(before) + np.einsum("n,nij,njk->ik", weights, toward, designs)
        told = np.flatnonzero(np.diag(normal))
        norms = np.sqrt(np.diag(normal)[told])
        scaled = normal[np.ix_(told, told)] / np.outer(norms, norms) + _RIDGE * np.eye(len(told))
        covariance = np.diag(np.full(count, np.inf))
        covariance[np.ix_(told, told)] = np.linalg.inv(scaled) / np.outer(norms, norms)
        moment = np.einsum("n,nij,nj->i", weights, toward, found)
        parameters[told] = covariance[np.ix_(told, told)] @ moment[told]
        left = found - designs @ parameters
        squares = np.einsum("ni,nij,nj->n", left, known, left)
        weights = np.minimum(1.0, _ORDINARY / np.maximum(squares, _ORDINARY))
    free = int(np.count_nonzero(known.diagonal(axis1=1, axis2=2))) - int(
        np.isfinite(np.diag(covariance)).sum()
    )
    return parameters, covariance * max(1.0, float(np.sum(weights * squares)) / max(free, 1))


def _information(sample: Sample) -> Array:
    """(2, 2) inverse of the covariance of a sample's errors; 0 for what it lacks."""
    information = np.zeros((2, 2))
    errors = [max(error or 0.0, _SMALLEST_ERROR) for error in (sample.a_error, sample.b_error)]
    if sample.a is not None and sample.b is not None:
        correlation = min(max(sample.covariance / (errors[0] * errors[1]), -0.999), 0.999)
        both = -correlation / (errors[0] * errors[1])
        return np.array([[errors[0] ** -2, both], [both, errors[1] ** -2]]) / (1 - correlation**2)
    for part, value in enumerate((sample.a, sample.b)):
        if value is not None:
            information[part, part] = errors[part] ** -2
    return information
