"""Windowed MS-SSIM against pytorch-msssim, window by window, in float64 and in float32."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_msssim import ms_ssim
from skimage import data

from rawnind.imaging.msssim import crop_means, frame_mean, score_map, windowed_ms_ssim

F = np.float32


def reference(x, y, measured, dtype=torch.float64, data_range=1.0):
    """pytorch-msssim on each window alone; in float64 with float64 taps."""
    offsets = torch.arange(11, dtype=torch.float64) - 5
    taps = torch.exp(-(offsets**2) / (2 * 1.5**2))
    taps = (taps / taps.sum()).reshape(1, 1, 1, 11) if dtype == torch.float64 else None
    scores, side = np.empty((len(x), len(measured.tops), len(measured.lefts))), measured.window
    for j, top in enumerate(measured.tops):
        for i, left in enumerate(measured.lefts):
            cut = np.s_[:, None, top : top + side, left : left + side]
            windows = (torch.from_numpy(np.ascontiguousarray(a[cut])).to(dtype) for a in (x, y))
            scores[:, j, i] = ms_ssim(*windows, data_range=data_range, size_average=False, win=taps).numpy()
    return scores


def noisy(x, sigma, rng):
    return (x + rng.normal(0, sigma, x.shape)).astype(F)


def half(left, right, shape=(1, 217, 300)):
    """A plane of two levels."""
    return np.where(np.arange(shape[2]) < 150, F(left), F(right)) * np.ones(shape, F)


@cache
def pairs():
    """Name -> (x, y), where pytorch-msssim in float32 is good to 5e-5; sizes are odd, so that windows are flush."""
    rng = np.random.default_rng(1)
    photo = data.camera()[None, 100:401, 50:399].astype(F) / 255
    uniform = rng.random((3, 209, 333), dtype=F)
    return {
        "equal": (uniform, uniform),
        "unrelated": (uniform, rng.random(uniform.shape, dtype=F)),
        "noise on noise": (uniform, noisy(uniform, 0.1, rng)),
        "photograph": (photo, noisy(photo, 0.03, rng)),
        "photograph under heavy noise": (noisy(photo, 0.3, rng), noisy(photo, 0.3, rng)),
        "clipped photograph": ((photo * 2).clip(0, 1), noisy(photo * 2, 0.05, rng).clip(0, 1)),
        "moved photograph": (photo, np.roll(photo, (3, 5), axis=(1, 2))),
        "negative photograph": (photo, 1 - photo),
        "all black": (np.zeros((1, 200, 208), F), np.zeros((1, 200, 208), F)),
    }


@cache
def hard_pairs():
    """Name -> (x, y), where float32 without care loses more than 5e-5, pytorch-msssim's own too."""
    rng = np.random.default_rng(2)
    bright = np.full((1, 217, 240), 0.95, F)
    return {
        "two flat planes": (bright, np.full_like(bright, 0.2)),
        "flat and noisy": (bright, noisy(bright, 0.01, rng)),
        "saturated half": (half(1, 0.02), noisy(half(1, 0.02), 0.02, rng).clip(0, 1)),
        "crossed halves": (half(1, 0.02), half(0.1, 0.9)),
        "faint noise on halves": (noisy(half(1, 0), 1e-4, rng), noisy(half(1, 0), 1e-4, rng)),
        "far beyond the range": (noisy(half(10, -10), 0.1, rng), noisy(half(10, -10), 0.1, rng)),
    }


@cache
def expected(name):
    x, y = (pairs() | hard_pairs())[name]
    return reference(x, y, windowed_ms_ssim(x, y))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads of torch that wait for each other take longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["numpy", "torch"])
def measure(request):
    """windowed_ms_ssim on NumPy arrays or on CPU tensors; scores as NumPy either way."""
    if request.param == "numpy":
        return windowed_ms_ssim

    def on_tensors(x, y, **options):
        measured = windowed_ms_ssim(torch.from_numpy(x), torch.from_numpy(y), **options)
        assert isinstance(measured.scores, torch.Tensor)
        return type(measured)(
            scores=measured.scores.numpy(),
            tops=measured.tops.numpy(),
            lefts=measured.lefts.numpy(),
            window=measured.window,
        )

    return on_tensors


@pytest.mark.parametrize("name", pairs() | hard_pairs())
def test_every_window_is_within_1e_6_of_the_definition_in_float64(name, measure):
    measured = measure(*(pairs() | hard_pairs())[name])
    assert np.abs(measured.scores - expected(name)).max() < 1e-6


@pytest.mark.parametrize("name", pairs())
def test_every_window_is_within_5e_5_of_pytorch_msssim(name):
    x, y = pairs()[name]
    measured = windowed_ms_ssim(x, y)
    assert np.abs(measured.scores - reference(x, y, measured, torch.float32)).max() < 5e-5


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(176, 330),
    width=st.integers(176, 430),
    window=st.sampled_from((176, 192, 256)),
    stride=st.sampled_from((16, 32, 96, 160, 256)),
    seed=st.integers(0, 99),
)
def test_any_size_window_and_stride_matches_window_by_window(height, width, window, stride, seed):
    rng = np.random.default_rng(seed)
    x = rng.random((1, max(height, window), max(width, window)), dtype=F)
    y = noisy(x, rng.uniform(0.01, 0.3), rng)
    measured = windowed_ms_ssim(x, y, window=window, stride=stride)
    few = type(
        measured
    )(  # a reference for every window would take minutes
        scores=measured.scores[:, -2:, -2:], tops=measured.tops[-2:], lefts=measured.lefts[-2:], window=window
    )
    assert np.abs(few.scores - reference(x, y, few)).max() < 1e-6


def test_windows_cover_all_whole_cells_and_the_last_is_flush():
    x = np.zeros((2, 1000, 305), F)
    measured = windowed_ms_ssim(x, x)
    assert measured.scores.shape == (2, 10, 3)
    assert measured.tops.tolist() == [*range(0, 800, 96), 800]
    assert measured.lefts.tolist() == [0, 96, 112]
    assert windowed_ms_ssim(x[:, :288, :192], x[:, :288, :192]).tops.tolist() == [0, 96]


def test_large_planes_join_bands_and_strips_without_a_seam(measure):
    rng = np.random.default_rng(3)
    x = rng.random((1, 700, 900), dtype=F)
    y = noisy(x, 0.2, rng)
    whole = measure(x, y)
    for j, i in ((0, 0), (3, 4), (4, 7), (5, 8)):
        cut = np.s_[:, whole.tops[j] : whole.tops[j] + 192, whole.lefts[i] : whole.lefts[i] + 192]
        alone = windowed_ms_ssim(np.ascontiguousarray(x[cut]), np.ascontiguousarray(y[cut]))
        assert whole.scores[0, j, i] == pytest.approx(alone.scores[0, 0, 0], abs=1e-7)


def test_views_give_what_copies_give():
    rng = np.random.default_rng(4)
    large = rng.random((2, 300, 500), dtype=F)
    views = [
        large[:, 7:250, 5:400],
        large[:, :, ::2],
        large[:, ::-1],
        large.transpose(0, 2, 1),
        large[::-1, 1:, 1:],
    ]
    for x in views:
        y = (x * F(0.5) + F(0.1)).astype(F)
        x.flags.writeable = False
        copied = windowed_ms_ssim(np.ascontiguousarray(x), y)
        assert np.array_equal(windowed_ms_ssim(x, y).scores, copied.scores)


def test_the_data_range_scales_the_constants():
    x, y = pairs()["photograph"]
    large = windowed_ms_ssim(x * F(255), y * F(255), data_range=255)
    assert np.abs(large.scores - reference(x * F(255), y * F(255), large, data_range=255)).max() < 1e-6
    assert np.abs(large.scores - windowed_ms_ssim(x, y).scores).max() < 1e-6


PLANE = np.zeros((1, 200, 200), F)


@pytest.mark.parametrize(
    ("x", "y", "options", "says"),
    [
        (PLANE, PLANE, {"window": 160}, "multiple of 16 above 160, got 160"),
        (PLANE, PLANE, {"window": 200}, "multiple of 16 above 160, got 200"),
        (PLANE, PLANE, {"stride": 90}, "stride .* got 90"),
        (PLANE, PLANE, {"stride": 0}, "stride .* got 0"),
        (PLANE, PLANE, {"data_range": 0.0}, "data_range"),
        (PLANE[:, :191], PLANE[:, :191], {}, "191 x 200 are smaller than a window of 192"),
        (PLANE, PLANE[:, :, 1:], {}, "one shape"),
        (PLANE[0], PLANE[0], {}, r"\(P, H, W\)"),
        (PLANE[:0], PLANE[:0], {}, r"\(P, H, W\)"),
        (PLANE, PLANE.astype(np.float64), {}, "float32 and float64"),
        (PLANE, torch.from_numpy(PLANE), {}, "both"),
        (torch.from_numpy(PLANE), torch.from_numpy(PLANE).half(), {}, "float16 and float32"),
        (PLANE, PLANE + F(np.nan), {}, "finite"),
        (PLANE, PLANE + F(np.inf), {}, "finite"),
        (
            PLANE,
            np.pad(PLANE[:, :-100, :-100], ((0, 0), (0, 100), (0, 100)), constant_values=1e30),
            {},
            "overflow",
        ),
        (torch.from_numpy(PLANE), torch.from_numpy(PLANE + F(np.nan)), {}, "finite"),
    ],
)
def test_what_cannot_be_measured_is_an_error_that_says_why(x, y, options, says):
    with pytest.raises(ValueError, match=says):
        windowed_ms_ssim(x, y, **options)


def one_bad_pixel(height, width):
    x = np.zeros((1, 224, 240), F)
    x[0, height, width] = np.nan
    return x


@pytest.mark.parametrize("at", [(0, 0), (0, 239), (223, 0), (223, 239), (100, 130)])
def test_a_single_bad_pixel_is_noticed_wherever_it_is(at, measure):
    with pytest.raises(ValueError, match="finite"):
        measure(np.zeros((1, 224, 240), F), one_bad_pixel(*at))


def slow_map(measured, shape):
    """Every pixel's covering windows, one window at a time; NaN where none covers."""
    total, count = np.zeros(shape), np.zeros(shape)
    for j, top in enumerate(measured.tops):
        for i, left in enumerate(measured.lefts):
            cut = np.s_[top : top + measured.window, left : left + measured.window]
            total[cut] += measured.scores[:, j, i].mean()
            count[cut] += 1
    return np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)


@cache
def photo_scores():
    return windowed_ms_ssim(*pairs()["photograph under heavy noise"])


def test_the_map_is_the_mean_of_the_covering_windows_and_its_edge_repeats():
    measured = photo_scores()
    scores, slowly = score_map(measured, (301, 349)), slow_map(measured, (301, 349))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[:288, :336], slowly[:288, :336], rtol=1e-6)
    assert np.isnan(slowly[288:]).all()
    assert np.array_equal(scores, np.pad(scores[:288, :336], ((0, 13), (0, 13)), mode="edge"))


def test_gaps_between_windows_take_the_nearest_score():
    rng = np.random.default_rng(5)
    x = rng.random((1, 192, 576), dtype=F)
    measured = windowed_ms_ssim(x, noisy(x, rng.random(576) / 2, rng), stride=384)
    row = score_map(measured, (192, 576))[0]
    assert measured.lefts.tolist() == [0, 384]
    assert np.array_equal(row, np.repeat(measured.scores[0, 0], 288).astype(F))


@given(data=st.data(), size=st.integers(1, 301))
def test_crop_means_are_means_of_the_map(data, size):
    measured = photo_scores()
    tops = data.draw(st.lists(st.integers(0, 301 - size), min_size=1, max_size=5))
    lefts = data.draw(st.lists(st.integers(0, 349 - size), min_size=len(tops), max_size=len(tops)))
    scores = score_map(measured, (301, 349)).astype(np.float64)
    means = [scores[y : y + size, x : x + size].mean() for y, x in zip(tops, lefts, strict=True)]
    np.testing.assert_allclose(crop_means(measured, (301, 349), tops, lefts, size), means, rtol=1e-6)


def test_the_mean_of_a_frame_is_the_mean_of_its_map():
    measured = photo_scores()
    expected = score_map(measured, (301, 349)).mean(dtype=np.float64)
    assert frame_mean(measured, (301, 349)) == pytest.approx(expected, abs=1e-7)


def test_crops_of_fractions_of_a_pixel_weigh_the_pixels_by_area():
    measured = photo_scores()
    whole = crop_means(measured, (301, 349), [100, 100], [95, 96], 1)
    assert crop_means(measured, (301, 349), [100.25], [95.5], 1) == pytest.approx(whole.mean())


@pytest.mark.parametrize(("top", "size"), [(-1, 10), (292, 10), (0, 0), (0, 302)])
def test_a_crop_outside_the_planes_is_an_error(top, size):
    with pytest.raises(ValueError, match="inside the planes"):
        crop_means(photo_scores(), (301, 349), [top], [0], size)


def test_maps_and_crops_of_tensors_are_those_of_arrays():
    x, y = pairs()["photograph"]
    of_arrays, of_tensors = windowed_ms_ssim(x, y), windowed_ms_ssim(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(score_map(of_tensors, (301, 349)), score_map(of_arrays, (301, 349)), atol=1e-6)
    crops = ((301, 349), [0, 17], [100, 3], 111)
    np.testing.assert_allclose(crop_means(of_tensors, *crops), crop_means(of_arrays, *crops), atol=1e-6)
