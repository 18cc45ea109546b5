"""Errors of local shifts by noise of rows and columns, beside their scatter in drawn patches."""

import cv2
import numpy as np
import pytest

from rawnind.imaging.alignment.line_noise import line_covariance

SIDE, GAIN = 96, 0.5


def patch(rng, turned):
    """The light of lines of text, or of columns, one more sample on each side."""
    light = rng.random((SIDE + 2, SIDE + 2)) * (np.sin(np.arange(SIDE + 2) / 3) > 0)[:, None]
    light = cv2.GaussianBlur(light, (0, 0), 1.2).astype(np.float32)
    return np.ascontiguousarray(light.T) if turned else light


def shift_of(light, noisy):
    """Local shift (dy, dx) by NumPy's least squares."""
    slopes = (light[2:, 1:-1] - light[:-2, 1:-1]) / 2, (light[1:-1, 2:] - light[1:-1, :-2]) / 2
    columns = [each.ravel() for each in (light[1:-1, 1:-1], *slopes, np.ones((SIDE, SIDE)))]
    fitted = np.linalg.lstsq(np.stack(columns, axis=1), noisy.ravel(), rcond=None)[0]
    return fitted[1:3] / fitted[0]


def add_noise(rng, light, sigma, of_row, of_column):
    noise = sigma * rng.standard_normal((SIDE, SIDE))
    lines = rng.standard_normal(SIDE) * of_row, rng.standard_normal(SIDE) * of_column
    return (GAIN * light[1:-1, 1:-1] + noise + lines[0][:, None] + lines[1]).astype(np.float32)


@pytest.mark.parametrize(("turned", "lines"), [(False, (0.05, 0.0)), (True, (0.0, 0.05))])
def test_line_noise_adds_to_the_errors_what_it_adds_to_the_scatter(turned, lines):
    """Across the lines of a text it is most of the error; along them nothing."""
    rng = np.random.default_rng(3)
    lights = [patch(rng, turned) for _ in range(24)]
    everywhere = np.ones((SIDE, SIDE), np.bool_)
    found, shifts, plain = [], [], []
    for _ in range(40):
        noisy = [add_noise(rng, light, 0.1, *lines) for light in lights]
        found.append(
            line_covariance([(light, here, everywhere) for light, here in zip(lights, noisy, strict=True)])
        )
        shifts.append([shift_of(light, here) for light, here in zip(lights, noisy, strict=True)])
        plain.append([shift_of(light, add_noise(rng, light, 0.1, 0, 0)) for light in lights])
    added = np.var(shifts, axis=0) - np.var(plain, axis=0)
    across = 1 if turned else 0
    ratio = np.mean(found, axis=0)[:, across, across].mean() / added[:, across].mean()
    assert ratio == pytest.approx(1, abs=0.15)
    assert added[:, across].mean() > 4 * np.var(plain, axis=0)[:, across].mean()
    assert np.mean(found, axis=0)[:, 1 - across, 1 - across].mean() < 0.05 * added[:, across].mean()


def test_independent_noise_adds_nothing():
    rng = np.random.default_rng(4)
    lights = [patch(rng, turned=False) for _ in range(24)]
    everywhere = np.ones((SIDE, SIDE), np.bool_)
    noisy = [add_noise(rng, light, 0.1, 0, 0) for light in lights]
    found = line_covariance([(light, here, everywhere) for light, here in zip(lights, noisy, strict=True)])
    scatter = np.var(
        [[shift_of(light, add_noise(rng, light, 0.1, 0, 0)) for light in lights] for _ in range(40)], axis=0
    )
    assert found[:, 0, 0].mean() < 0.2 * scatter[:, 0].mean()
    assert np.array_equal(found, found.transpose(0, 2, 1))


def test_nothing_to_see_adds_nothing():
    flat, dark = np.ones((SIDE + 2, SIDE + 2), np.float32), np.zeros((SIDE, SIDE), np.bool_)
    for usable in (dark, ~dark):
        found = line_covariance([(flat, flat[1:-1, 1:-1], usable)] * 3)
        assert np.array_equal(found, np.zeros((3, 2, 2)))
    assert line_covariance([]).shape == (0, 2, 2)
