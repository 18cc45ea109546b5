import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.imaging.levels import level_lines, planes, site_colors, site_lines, site_planes
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa
from tests.imaging.simulation import make_sensor

BLACK = {Cfa.BAYER: (500.0, 510.0, 520.0, 530.5), Cfa.X_TRANS: (1020.0, 1024.0, 1030.0)}


def random_photo(cfa: Cfa, tiles: tuple[int, int], seed: int = 0, top: int = 65536) -> Photo:
    shape = (tiles[0] * cfa.period, tiles[1] * cfa.period)
    values = np.random.default_rng(seed).integers(0, top, shape).astype(np.uint16)
    return Photo(mosaic=values, sensor=make_sensor(cfa, shape, black=BLACK[cfa], white=15000.0))


def reference(photo: Photo) -> np.ndarray:
    """Levels and means per cell in float64, one plane after the other."""
    cfa, cell = photo.cfa, photo.cfa.cell
    index = site_planes(cfa, photo.mosaic.shape)
    black = np.array(photo.sensor.black_level)[index]
    levels = (photo.mosaic - black) / (photo.sensor.white_level - black)

    def cells(array):
        height, width = array.shape
        return array.reshape(height // cell, cell, width // cell, cell).sum(axis=(1, 3))

    return np.stack([cells(levels * (index == p)) / cells(index == p) for p in range(len(cfa.plane_colors))])


@settings(deadline=None)  # the first call compiles
@given(cfa=st.sampled_from(Cfa), rows=st.integers(1, 5), columns=st.integers(1, 5), seed=st.integers(0, 99))
def test_planes_are_the_mean_level_of_each_colour_in_each_cell(cfa, rows, columns, seed):
    photo = random_photo(cfa, (rows, columns), seed)
    assert planes(photo).dtype == np.float32
    np.testing.assert_allclose(planes(photo), reference(photo), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("cfa", Cfa)
def test_values_under_black_are_negative_and_values_over_white_above_one(cfa):
    for value, expected in ((0, -0.1), (16000, 1.5)):
        shape = (2 * cfa.period, 3 * cfa.period)
        flat = Photo(
            mosaic=np.full(shape, value, np.uint16),
            sensor=make_sensor(cfa, shape, black=1000.0, white=11000.0),
        )
        np.testing.assert_allclose(planes(flat), expected, atol=1e-6)


@pytest.mark.parametrize("cfa", Cfa)
def test_a_view_into_a_larger_frame_gives_the_same_as_its_copy(cfa):
    photo = random_photo(cfa, (6, 7))
    view = photo.mosaic[cfa.period : -cfa.period, cfa.period : -cfa.period]
    np.testing.assert_array_equal(
        planes(Photo(mosaic=view, sensor=photo.sensor)),
        planes(Photo(mosaic=view.copy(), sensor=photo.sensor)),
    )


@pytest.mark.parametrize("cfa", Cfa)
def test_the_planes_of_a_colour_show_that_colour_alone(cfa):
    shape = (4 * cfa.period, 4 * cfa.period)
    for color in range(3):
        lit = np.where(site_colors(cfa, shape) == color, 15000, 0).astype(np.uint16)
        for plane, own in zip(
            planes(Photo(mosaic=lit, sensor=make_sensor(cfa, shape, black=0.0, white=15000.0))),
            cfa.plane_colors,
            strict=True,
        ):
            np.testing.assert_allclose(plane, float(own == color), atol=1e-6)


@pytest.mark.parametrize("cfa", Cfa)
def test_site_lines_are_the_level_lines_of_each_sites_plane(cfa):
    factor, bias = level_lines(make_sensor(cfa, (6, 6), black=BLACK[cfa]))
    index = site_planes(cfa, (cfa.period, cfa.period))
    np.testing.assert_array_equal(
        site_lines(make_sensor(cfa, (6, 6), black=BLACK[cfa])), [factor[index], bias[index]]
    )


def test_a_white_level_that_is_not_above_black_is_refused():
    with pytest.raises(ValueError, match="must lie above black"):
        level_lines(make_sensor(Cfa.BAYER, (2, 2), black=1000.0, white=1000.0))


def test_black_levels_for_another_filter_array_are_refused():
    with pytest.raises(ValueError, match="black"):
        level_lines(make_sensor(Cfa.X_TRANS, (6, 6), black=(1.0, 1.0, 1.0, 1.0)))
