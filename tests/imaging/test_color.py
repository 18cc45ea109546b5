import numpy as np
import pytest
import skimage.color
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.imaging.color import XYZ_TO_REC2020, _half, camera_to_rec2020, rec2020_crop, to_rec2020
from rawnind.imaging.demosaic.camera_rgb import CameraRgb

D65 = skimage.color.xyz_tristimulus_values(illuminant="D65", observer="2")
# From LibRaw's table.
CAMERAS = {
    "Sony ILCE-7C": (0.7374, -0.2389, -0.0551, -0.5435, 1.3162, 0.2519, -0.1006, 0.1795, 0.6552),
    "Canon EOS 500D": (0.4763, 0.0712, -0.0646, -0.6821, 1.4399, 0.264, -0.1921, 0.3276, 0.6561),
    "Fujifilm X-T30": (1.3426, -0.6334, -0.1177, -0.4244, 1.2136, 0.2371, -0.058, 0.1303, 0.598),
}
cameras = pytest.mark.parametrize("matrix", CAMERAS.values(), ids=CAMERAS.keys())
# Entries around a dominant diagonal, as cameras have: invertible by construction.
matrices = st.lists(st.floats(-0.3, 0.3), min_size=9, max_size=9).map(
    lambda off: tuple((np.array(off).reshape(3, 3) + np.eye(3)).ravel().tolist())
)


def rec2020_from_primaries() -> np.ndarray:
    """XYZ -> linear Rec.2020 from the chromaticities of ITU-R BT.2020."""
    xy = np.array([[0.708, 0.292], [0.170, 0.797], [0.131, 0.046]])
    primaries = np.column_stack([xy, 1 - xy.sum(axis=1)]).T
    return np.linalg.inv(primaries * np.linalg.solve(primaries, D65))


def frame(levels: np.ndarray, offset: int = 8000, scale: float = 40000.0) -> CameraRgb:
    values = np.round(levels * scale + offset).astype(np.uint16)
    return CameraRgb(values=values, offset=offset, scale=scale)


def test_the_constants_are_those_of_bt_2020():
    # The research code rounded D65 a little differently: 9e-5, relative.
    np.testing.assert_allclose(XYZ_TO_REC2020, rec2020_from_primaries(), atol=1.6e-4)


@cameras
def test_a_grey_card_stays_grey(matrix):
    for reflectance in (0.02, 0.18, 0.9):
        seen = np.reshape(matrix, (3, 3)) @ D65 * reflectance
        np.testing.assert_allclose(camera_to_rec2020(matrix) @ seen, reflectance, rtol=2e-4)


@cameras
def test_the_matrix_takes_camera_rgb_back_to_xyz(matrix):
    xyz = np.random.default_rng(0).random((3, 100))
    back = (
        np.linalg.inv(rec2020_from_primaries()) @ camera_to_rec2020(matrix) @ np.reshape(matrix, (3, 3)) @ xyz
    )
    np.testing.assert_allclose(back, xyz, atol=1e-4)


@cameras
def test_an_srgb_photograph_seen_by_a_camera_comes_out_as_that_photograph(matrix):
    photo = skimage.data.astronaut()[::8, ::8] / 255.0
    xyz = np.moveaxis(skimage.color.rgb2xyz(photo), -1, 0)
    levels = np.tensordot(np.reshape(matrix, (3, 3)), xyz, 1)
    converted = to_rec2020(frame(levels), camera_to_rec2020(matrix))
    back = skimage.color.xyz2rgb(
        np.moveaxis(np.tensordot(np.linalg.inv(rec2020_from_primaries()), converted, 1), 0, -1)
    )
    np.testing.assert_allclose(
        back, photo, atol=2e-3
    )  # uint16 steps, blown up by sRGB's slope of 12.92 at black


@settings(deadline=None)
@given(matrix=matrices, seed=st.integers(0, 99))
def test_a_frame_is_its_levels_times_the_matrix_and_a_crop_is_a_part_of_it(matrix, seed):
    rng = np.random.default_rng(seed)
    rgb = frame(rng.uniform(-0.1, 1.2, (3, 20, 30)))
    conversion = camera_to_rec2020(matrix)
    whole = to_rec2020(rgb, conversion)
    np.testing.assert_allclose(whole, np.tensordot(conversion, rgb.levels(), 1), atol=1e-5)
    top, left = int(rng.integers(0, 13)), int(rng.integers(0, 23))
    crop = rec2020_crop(rgb, top, left, 8, conversion)
    assert crop.dtype == np.float16
    assert crop.flags.c_contiguous
    np.testing.assert_array_equal(crop, whole[:, top : top + 8, left : left + 8].astype(np.float16))


@cameras
def test_negative_levels_stay_negative(matrix):
    dark = np.reshape(matrix, (3, 3)) @ D65 * -0.01
    converted = to_rec2020(frame(np.tile(dark[:, None, None], (1, 4, 4))), camera_to_rec2020(matrix))
    np.testing.assert_allclose(converted, -0.01, atol=2e-4)


@pytest.mark.parametrize(
    "matrix",
    [
        (0.0,) * 9,
        (1.0, 0, 0, 0, 1, 0, 0, 0, np.nan),
        (1.0, 0, 0, 0, 1, 0, 0, 0, np.inf),
        (1.0, 2, 3, 2, 4, 6, 0, 0, 1),
        (1.0, 0, 0, 0, 1, 0, 0, 0, 1e-6),
        (1.0, 0, 0, 0, 1, 0, 0, 0),
        (1.0,) * 12,
        (),
    ],
)
def test_matrices_that_no_camera_has_are_refused(matrix):
    with pytest.raises(ValueError, match="colour matrix"):
        camera_to_rec2020(matrix)


@pytest.mark.parametrize(("top", "left"), [(-1, 0), (0, -1), (13, 0), (0, 23)])
def test_crops_outside_of_the_frame_are_refused(top, left):
    with pytest.raises(ValueError, match="must lie within 20x30"):
        rec2020_crop(frame(np.zeros((3, 20, 30))), top, left, 8, np.eye(3))


def test_half_precision_is_rounded_as_numpy_rounds_it():
    halves = (
        np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    )  # every finite one, and ties between
    bits = halves.view(np.uint32).astype(np.int64)
    near = np.concatenate([bits + step for step in (-1, 0, 1, 4095, 4096, 4097)])
    steps = np.arange(4000) * 2.0**-25  # below the smallest normal number
    spread = np.arange(0, 0x7F800000, 65521)
    positive = np.concatenate([near[near >= 0], spread]).astype(np.uint32).view(np.float32)
    row = np.concatenate([positive, -positive, steps.astype(np.float32), [np.inf, -np.inf]]).astype(
        np.float32
    )
    out = [_half(value) for value in row]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out, row.astype(np.float16).view(np.uint16))
