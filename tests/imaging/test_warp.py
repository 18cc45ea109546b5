"""The warp: its mesh, what both photos show, and the ground truth resampled by it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.imaging.coordinates import Rect, grid
from rawnind.imaging.demosaic.camera_rgb import CameraRgb, demosaic
from rawnind.imaging.levels import mosaic, planes, site_planes
from rawnind.imaging.photo import Photo
from rawnind.imaging.resample import warped_planes, warped_rgb
from rawnind.imaging.warp import NODE_SPACINGS, Warp, cells_under
from rawnind.records import Cfa
from tests.imaging.simulation import make_sensor

cfas = pytest.mark.parametrize("cfa", Cfa)
drawn_cfas = st.sampled_from(Cfa)
shifts = st.tuples(st.integers(-40, 40), st.integers(-40, 40))


def shapes(cfa):
    return st.tuples(st.integers(1, 12), st.integers(1, 12)).map(
        lambda n: (n[0] * cfa.period, n[1] * cfa.period)
    )


def turned(shape, degrees: float, zoom: float = 0.0, move=(0.0, 0.0)) -> Warp:
    """A rotation and a zoom about the middle, to first order."""
    middle, angle = (np.array(shape) - 1) / 2, np.deg2rad(degrees)

    def displacement(at):
        y, x = (at - middle).T
        return np.stack([move[0] + angle * x - zoom * y, move[1] - angle * y - zoom * x], axis=1)

    return Warp.of(shape, displacement)


def random_rgb(shape, seed=0) -> CameraRgb:
    values = np.random.default_rng(seed).integers(0, 65536, (3, *shape)).astype(np.uint16)
    return CameraRgb(values=values, offset=9000, scale=40000.0)


def keys(t):
    """The kernel of R. G. Keys with a = -1/2, as his paper writes it."""
    t = np.abs(t)
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0))


def resampled(values, warp: Warp, rect: Rect):
    """Cubic convolution tap by tap, with the outermost sites repeated."""
    ys, xs = np.mgrid[rect.top : rect.bottom, rect.left : rect.right]
    moved = warp.at(np.stack([ys.ravel(), xs.ravel()], axis=1)).reshape(*ys.shape, 2)
    y, x = ys + moved[..., 0], xs + moved[..., 1]
    out = np.zeros((3, *ys.shape))
    for i in range(-1, 3):
        for j in range(-1, 3):
            row, column = np.floor(y).astype(int) + i, np.floor(x).astype(int) + j
            inside = np.clip(row, 0, values.shape[1] - 1), np.clip(column, 0, values.shape[2] - 1)
            out += keys(y - row) * keys(x - column) * values[:, *inside]
    return out


@given(data=st.data(), cfa=drawn_cfas, shift=shifts)
def test_the_overlap_is_the_largest_rectangle_of_whole_tiles_that_both_frames_show(data, cfa, shift):
    shape, gt_shape = data.draw(shapes(cfa)), data.draw(shapes(cfa))
    rect, p = Warp.constant(shape, shift).overlap(shape, gt_shape, cfa.period), cfa.period
    rows = [y for y in range(0, shape[0], p) if y + shift[0] >= 0 and y + shift[0] + p <= gt_shape[0]]
    columns = [x for x in range(0, shape[1], p) if x + shift[1] >= 0 and x + shift[1] + p <= gt_shape[1]]
    if rows and columns:
        assert rect == (rows[0], columns[0], p * len(rows), p * len(columns))
    else:
        assert rect.height * rect.width == 0
        assert len(grid(rect, p, p, p)) == 0


@pytest.mark.parametrize(("degrees", "zoom"), [(0.3, 0.0), (-1.0, 0.0), (0.0, 0.02), (0.5, -0.01)])
@cfas
def test_every_site_of_a_turned_overlap_lies_in_the_ground_truth(cfa, degrees, zoom):
    shape = (600, 840)
    warp = turned(shape, degrees, zoom, (11.3, -7.8))
    rect = warp.overlap(shape, shape, cfa.period)
    ys, xs = np.meshgrid(
        np.arange(rect.top, rect.bottom), np.arange(rect.left, rect.right), indexing="ij", sparse=False
    )
    at = np.stack([ys.ravel(), xs.ravel()], axis=1)
    there = at + warp.at(at)
    assert there.min() >= -0.5
    assert (there.max(axis=0) <= np.array(shape) - 0.5).all()
    slope = np.deg2rad(abs(degrees)) + abs(zoom)
    assert rect.height * rect.width > (600 - 26 - 840 * slope) * (840 - 22 - 840 * slope)


@pytest.mark.parametrize("degrees", [0.0, 0.05, 1.0])
def test_resampling_is_keyss_cubic_convolution(degrees):
    shape = (300, 420)
    rgb, warp = random_rgb(shape), turned(shape, degrees, 0.003, (1.37, -2.62))
    for rect in (Rect(0, 0, 40, 420), Rect(120, 100, 64, 200), Rect(260, 300, 40, 120)):
        found = warped_rgb(rgb, warp, rect)
        np.testing.assert_allclose(found.values, resampled(rgb.values, warp, rect), atol=0.1)
        assert (found.offset, found.scale) == (rgb.offset, rgb.scale)


def test_a_surface_of_second_order_is_reproduced():
    shape = (200, 300)
    y, x = np.mgrid[:200, :300] / 300

    def surface(y, x):
        return 20000 + 9000 * x - 7000 * y + 8000 * x * x + 5000 * x * y

    values = np.stack([np.rint(surface(y, x))] * 3).astype(np.uint16)
    warp, rect = Warp.constant(shape, (0.4, -0.3)), Rect(10, 10, 150, 250)
    found = warped_rgb(CameraRgb(values=values, offset=0, scale=1.0), warp, rect).values[0]
    expected = surface(y + 0.4 / 300, x - 0.3 / 300)[rect.sites]
    np.testing.assert_allclose(found, expected, atol=1)  # rounding of the values


@settings(deadline=None, max_examples=40)
@given(cfa=drawn_cfas, shift=st.tuples(st.integers(-13, 13), st.integers(-13, 13)), seed=st.integers(0, 9))
def test_planes_at_a_whole_shift_are_what_the_noisy_photos_filters_would_have_seen(cfa, shift, seed):
    shape = (48, 60)
    rgb, warp = random_rgb(shape, seed), Warp.constant((48, 60), shift)
    rect = warp.overlap(shape, shape, cfa.period)
    moved = np.zeros((3, *shape))
    rows, columns = (np.arange(a, a + n) for a, n in ((rect.top, rect.height), (rect.left, rect.width)))
    moved[:, rows[:, None], columns] = rgb.levels()[:, rows[:, None] + shift[0], columns + shift[1]]
    expected = plane_means(moved, cfa)
    part = np.s_[
        :, rect.top // cfa.cell : rect.bottom // cfa.cell, rect.left // cfa.cell : rect.right // cfa.cell
    ]
    np.testing.assert_allclose(warped_planes(rgb, warp, cfa, rect), expected[part], atol=2e-6)


@cfas
def test_planes_of_a_warp_are_those_of_the_warped_photo(cfa):
    shape = (240, 300)
    rgb, warp = random_rgb(shape), turned(shape, 0.4, 0.002, (3.3, -5.6))
    rect = warp.overlap(shape, shape, cfa.period)
    whole = np.zeros((3, *shape))
    whole[:, *rect.sites] = warped_rgb(rgb, warp, rect).levels()
    cells = np.s_[
        :, rect.top // cfa.cell : rect.bottom // cfa.cell, rect.left // cfa.cell : rect.right // cfa.cell
    ]
    np.testing.assert_allclose(warped_planes(rgb, warp, cfa, rect), plane_means(whole, cfa)[cells], atol=1e-6)


def plane_means(levels, cfa: Cfa):
    """(P, h, w): the mean of the sites of each plane in each cell."""
    shape, cell = levels.shape[1:], cfa.cell
    seen, index = mosaic(levels, cfa), site_planes(cfa, shape)

    def cells(array):
        return array.reshape(shape[0] // cell, cell, shape[1] // cell, cell).sum(axis=(1, 3))

    return np.stack([cells(seen * (index == p)) / cells(index == p) for p in range(len(cfa.plane_colors))])


@cfas
def test_at_a_shift_by_whole_tiles_planes_are_the_ground_truths_own(cfa):
    values = np.random.default_rng(0).integers(0, 16384, (48, 60)).astype(np.uint16)
    photo = Photo(mosaic=values, sensor=make_sensor(cfa, (48, 60), black=512.0))
    shift = (cfa.period, -2 * cfa.period)
    warp = Warp.constant((48, 60), shift)
    rect = warp.overlap((48, 60), (48, 60), cfa.period)
    moved = planes(photo)[:, (rect.top + shift[0]) // cfa.cell :, (rect.left + shift[1]) // cfa.cell :]
    seen = warped_planes(demosaic(photo), warp, cfa, rect)
    np.testing.assert_allclose(seen, moved[:, : seen.shape[1], : seen.shape[2]], atol=2e-7)


@pytest.mark.parametrize("rect", [Rect(1, 0, 6, 6), Rect(0, 0, 7, 6)])
@cfas
def test_rectangles_that_cut_cells_are_refused(cfa, rect):
    with pytest.raises(ValueError, match="whole cells"):
        warped_planes(random_rgb((12, 12)), Warp.constant((12, 12), (0, 0)), cfa, rect)


@settings(deadline=None)
@given(data=st.data(), cfa=drawn_cfas)
def test_a_noisy_cell_is_marked_where_a_site_beside_its_position_is(data, cfa):
    shape = data.draw(shapes(cfa))
    move = data.draw(st.tuples(*[st.sampled_from([-7.5, -3.0, -1.05, 0.0, 0.3, 2.0, 4.95, 8.7])] * 2))
    cell, warp = cfa.cell, Warp.constant(shape, move)
    rect = warp.overlap(shape, shape, cfa.period)
    cells = (
        np.random.default_rng(data.draw(st.integers(0, 99))).random((shape[0] // cell, shape[1] // cell))
        < 0.1
    )
    sites = cells.repeat(cell, 0).repeat(cell, 1)
    beside = [{int(np.floor(d + 0.1)), int(np.ceil(d - 0.1))} for d in move]
    touched = np.zeros(shape, np.bool_)
    for y in range(rect.top, rect.bottom):
        for x in range(rect.left, rect.right):
            near = [(y + dy, x + dx) for dy in beside[0] for dx in beside[1]]
            touched[y, x] = any(sites[i, j] for i, j in near if 0 <= i < shape[0] and 0 <= j < shape[1])
    inside = touched[rect.sites]
    expected = inside.reshape(rect.height // cell, cell, rect.width // cell, cell).any(axis=(1, 3))
    np.testing.assert_array_equal(cells_under(cells, warp, rect, cell), expected)


def test_between_nodes_the_displacement_is_linear_along_each_axis():
    warp = Warp.of((300, 400), lambda at: at @ np.array([[0.01, 0.002], [-0.003, 0.02]]) + [1, -2])
    at = np.random.default_rng(0).uniform(0, 299, (50, 2))
    expected = at @ np.array([[0.01, 0.002], [-0.003, 0.02]]) + [1, -2]
    np.testing.assert_allclose(warp.at(at), expected, atol=1e-9)
    assert warp.spacing == NODE_SPACINGS[0]
    assert warp.nodes.shape == (-(-299 // warp.spacing) + 1, -(-399 // warp.spacing) + 1, 2)
    distance = warp.distance(Rect(40, 80, 64, 64), (1, -2))
    exact = np.hypot(*(warp.at(np.argwhere(np.ones((64, 64))) + np.array([40, 80])) - [1, -2]).T).reshape(
        64, 64
    )
    np.testing.assert_allclose(distance, exact, atol=0.12)  # the same within 8 x 8 sites


@pytest.mark.parametrize(("period", "spacing"), [(6000, 128), (2000, 64), (960, 32), (200, 32)])
def test_the_mesh_is_as_fine_as_the_displacement_needs(period, spacing):
    def wave(at):
        return 1.5 * np.sin(2 * np.pi * at[:, ::-1] / period)

    warp = Warp.of((1000, 1500), wave)
    assert warp.spacing == spacing
    at = np.random.default_rng(0).uniform(0, 999, (2000, 2))
    error = np.abs(warp.at(at) - wave(at)).max()
    assert error <= (0.03 if period > 200 else 0.3)
    rect = Rect(100, 300, 4, 500)
    values = np.broadcast_to(np.arange(1500, dtype=np.uint16) * 8, (3, 1000, 1500)).copy()
    shown = warped_rgb(CameraRgb(values=values, offset=0, scale=1), warp, rect).values[0]
    sites = np.argwhere(np.ones((4, 500))) + np.array([rect.top, rect.left])
    expected = 8 * (sites[:, 1] + warp.at(sites)[:, 1]).reshape(4, 500)
    np.testing.assert_allclose(shown, expected, atol=0.02)
