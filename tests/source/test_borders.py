"""Borders of a sensor: what counts as read noise, and how large it is, on fresh noise; the seed is printed."""

import cv2
import numpy as np
import pytest

from rawnind.records import Cfa
from rawnind.source.borders import border_noise

SHAPE, VISIBLE = (660, 900), (30, 40, 600, 800)
BLACK, WHITE, READ, ROW = 512.0, 16383.0, 9.0, 3.0


@pytest.fixture
def rng():
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def frame(rng, *, read=READ, row=ROW, black=BLACK):
    """(660, 900) float sensor values in the dark."""
    return black + read * rng.standard_normal(SHAPE) + row * rng.standard_normal((SHAPE[0], 1))


def measured(values, cfa=Cfa.BAYER, *, black=BLACK, visible=VISIBLE, origin=(0, 0), each=None):
    raw = np.clip(np.rint(values), 0, WHITE).astype(np.uint16)
    return border_noise(raw, visible, cfa, origin, each or (black,) * len(cfa.plane_colors), WHITE)


@pytest.mark.parametrize("cfa", list(Cfa))
def test_borders_show_read_noise_and_row_noise_with_honest_errors(rng, cfa):
    values = frame(rng)
    values[30:630, 40:840] += 3000  # picture
    values[rng.random(SHAPE) < 2e-4] += 400  # hot pixels
    found = measured(values, cfa, origin=(1, 1))
    for b, error in zip(found.b, found.b_error, strict=True):
        assert abs(b - (READ**2 + 1 / 12) / (WHITE - BLACK) ** 2) < 4.5 * error < 0.12 * b
    assert abs(found.row - ROW / (WHITE - BLACK)) < 4.5 * found.row_error < 0.5 * found.row


@pytest.mark.parametrize("row", [3.0, 0.3])
def test_the_errors_of_row_noise_are_honest_and_many_photos_have_no_bias(rng, row):
    """Of weak row noise, half of the photos show less than none."""
    wanted, found = (row / (WHITE - BLACK)) ** 2, []
    for _ in range(40):
        values = BLACK + 9 * rng.standard_normal((660, 120)) + row * rng.standard_normal((660, 1))
        border = measured(values, visible=(30, 40, 600, 40))
        found.append((border.row * abs(border.row), 2 * abs(border.row) * border.row_error))
    variances, errors = np.array(found).T
    off = (variances - wanted) / errors
    assert 0.6 < off.std() < 1.5
    assert abs(off.mean()) < 4.5 / 40**0.5
    if row == 3:
        assert variances.mean() ** 0.5 == pytest.approx(wanted**0.5, rel=0.05)
    else:
        assert variances.min() < 0


def test_each_colour_has_its_own_noise_and_each_plane_its_own_black_level(rng):
    levels, scale = np.array([[254.0, 256], [257, 255]]), np.array([[1.0, 1.2], [1.2, 1.5]])
    values = np.tile(levels, (330, 450)) + READ * np.tile(scale, (330, 450)) * rng.standard_normal(SHAPE)
    found = measured(values, each=(254.0, 256.0, 257.0, 255.0))
    assert np.array(found.b) / found.b[0] == pytest.approx([1, 1.44, 2.25], rel=0.12)


def test_noise_that_0_cuts_off_is_added(rng):
    found = measured(frame(rng, read=20, row=0, black=36), black=36)
    assert found.b == pytest.approx([400 / (WHITE - 36) ** 2] * 3, rel=0.08)


def test_borders_that_hold_anything_else_are_left_out(rng):
    noise = rng.standard_normal(SHAPE)
    ramp = np.linspace(0, 60, SHAPE[1])
    left, wrong = frame(rng), frame(rng)
    wrong[:, :40] = BLACK + 2 * READ * noise[:, :40]
    left[:, :40] = left[:, 840:] = 0
    left[:30] = left[630:] = 0
    others = {
        "picture": frame(rng) + ramp * 20,
        "dim picture": rng.poisson(60 * np.ones(SHAPE)) + frame(rng),
        "zeros": left,
        "one value": np.full(SHAPE, BLACK),
        "another black level": frame(rng, black=BLACK + 9),
        "smoothed": BLACK + cv2.GaussianBlur(READ * noise, (0, 0), 1.0),
        "stripes": frame(rng) + 20 * (np.arange(SHAPE[1]) // 3 % 2) * (np.arange(SHAPE[0])[:, None] // 5 % 2),
        "two noises": wrong,
    }
    for kind, values in others.items():
        assert measured(values) is None, kind
    assert measured(frame(rng), visible=(4, 6, 652, 888)) is None  # too narrow
    assert measured(frame(rng), visible=(0, 0, *SHAPE)) is None
