import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawnind.imaging.levels import mosaic, site_colors, site_planes, tile_colors, tile_planes
from rawnind.records import Cfa

cfas = st.sampled_from(Cfa)


def test_a_bayer_frame_starts_red_green_green_blue():
    assert site_colors(Cfa.BAYER, (3, 4)).tolist() == [[0, 1, 0, 1], [1, 2, 1, 2], [0, 1, 0, 1]]
    assert site_planes(Cfa.BAYER, (2, 2)).tolist() == [[0, 1], [2, 3]]


def test_an_x_trans_tile_has_20_green_8_red_and_8_blue_sites_and_red_and_blue_in_every_row_and_column():
    tile = tile_colors(Cfa.X_TRANS)
    assert np.bincount(tile.ravel()).tolist() == [8, 20, 8]
    for lines in (tile, tile.T):
        assert all(set(line) == {0, 1, 2} for line in lines.tolist())


@pytest.mark.parametrize("cfa", Cfa)
def test_every_cell_holds_every_plane_equally_often(cfa):
    planes = tile_planes(cfa)
    cells = (
        planes.reshape(cfa.period // cfa.cell, cfa.cell, -1, cfa.cell).swapaxes(1, 2).reshape(-1, cfa.cell**2)
    )
    counts = [np.bincount(cell).tolist() for cell in cells]
    assert all(count == counts[0] for count in counts)


@pytest.mark.parametrize("cfa", Cfa)
def test_a_plane_has_the_colour_that_the_records_say(cfa):
    assert np.array_equal(np.array(cfa.plane_colors)[tile_planes(cfa)], tile_colors(cfa))


@given(cfa=cfas, height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 9))
def test_a_mosaic_takes_from_each_site_the_colour_of_its_filter(cfa, height, width, seed):
    rgb = np.random.default_rng(seed).integers(0, 65535, (3, height, width), np.uint16)
    seen = mosaic(rgb, cfa)
    assert seen.dtype == rgb.dtype
    for y, x in np.ndindex(height, width):
        assert seen[y, x] == rgb[cfa.tile[y % cfa.period][x % cfa.period], y, x]
