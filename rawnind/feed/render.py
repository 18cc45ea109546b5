"""Makes samples of a stored crop: chooses the window, and which photo is x and which is y."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rawnind.feed.crop_options import Input, SampleOptions, TrainingPairing
from rawnind.feed.extras import Value, applied_gain, extras_of
from rawnind.feed.rows import Pair, Row
from rawnind.feed.sampling import Grid, Window, best_window
from rawnind.output.shard_reader import StoredCrop
from rawnind.records import Cfa


class Sample(NamedTuple):
    """One sub-crop in the number types of the shard; arrays may be views of it.

    Attributes:
        x: (3, c, c) float16 or float32.
        y: (c, c) uint16 that starts on red, or (3, c, c) float16 or float32.
        mask: (c, c) bool.
        black: (4,) per plane of y; zeros where y is colour.
        factor: (4,) level per sensor value, times the gain with `match_gain`.
        rgb_xyz_matrix: (4, 3) XYZ -> camera RGB, with a fourth row of zeros for the second green as LibRaw has it.
        gain: the factor by which y still has to be multiplied to be as bright as x.
        extras: what the options ask for beside that, by key.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    mask: NDArray[np.bool_]
    black: NDArray[np.float32]
    factor: NDArray[np.float32]
    rgb_xyz_matrix: NDArray[np.float32]
    gain: float
    extras: Mapping[str, Value]


def render(crop: StoredCrop, row: Row, options: SampleOptions, rng: np.random.Generator) -> list[Sample]:
    """Makes `options.num_crops` samples of one stored crop.

    Args:
        crop: the stored crop.
        row: its row of the manifest.
        options: how to make samples.
        rng: chooses the windows.
    """
    grid = _grid(row, options)
    valid = np.unpackbits(crop.mask, axis=1).view(np.bool_)
    matrix, gain = _matrix(row.pair), _remaining_gain(row.pair, options)
    extras = extras_of(row, options, applied_gain(row, options))
    samples = []
    for _ in range(options.num_crops):
        window = _window(grid, valid, row, options, rng)
        x, y = _photos(crop, row, window, options)
        black, factor = _levels(row, window, options)
        mask = window.cut(valid, options.crop_size)
        samples.append(Sample(x, y, mask, black, factor, matrix, gain, extras))
    return samples


def _remaining_gain(pair: Pair, options: SampleOptions) -> float:
    return 1.0 if options.match_gain or options.pairing is not TrainingPairing.X_Y else pair.gain


def _matrix(pair: Pair) -> NDArray[np.float32]:
    out = np.zeros((4, 3), np.float32)
    out[:3] = np.reshape(pair.rgb_xyz_matrix, (3, 3))
    return out


def _grid(row: Row, options: SampleOptions) -> Grid:
    mosaic = options.input is Input.RAW
    gt_mosaic = mosaic and options.pairing is TrainingPairing.X_X
    return Grid(
        stored=row.pair.size,
        size=options.crop_size,
        step=row.pair.cfa.period,
        red=row.gt_tile if gt_mosaic else (0, 0),
        mosaic=mosaic,
    )


def _window(
    grid: Grid, valid: NDArray[np.bool_], row: Row, options: SampleOptions, rng: np.random.Generator
) -> Window:
    tries = 1 if row.valid_fraction == 1 or grid.size == grid.stored else options.tries
    if tries == 1:
        return grid.draw(rng, augment=options.augment)
    return best_window(
        lambda: grid.draw(rng, augment=options.augment),
        lambda window: np.count_nonzero(window.upright(valid, grid.size)) / grid.size**2,
        options.least_valid,
        tries,
    )


def _photos(
    crop: StoredCrop, row: Row, window: Window, options: SampleOptions
) -> tuple[NDArray[Any], NDArray[Any]]:
    pair, size = row.pair, options.crop_size
    match options.input, options.pairing:
        case Input.RAW, TrainingPairing.X_Y:
            return window.cut(crop.gt_rgb, size), window.cut(crop.noisy_raw, size)
        case Input.RAW, TrainingPairing.X_X:
            return _truth(crop, row, window, size), window.cut(crop.gt_raw, size)
        case Input.RAW, TrainingPairing.Y_Y:
            return _noisy(crop, pair, window, size), window.cut(crop.noisy_raw, size)
        case Input.RGB, TrainingPairing.X_X:
            x = window.cut(crop.gt_rgb, size)
            return x, x
        case _:
            y = _noisy(crop, pair, window, size)
            if options.pairing is TrainingPairing.Y_Y:
                return y, y
            return window.cut(crop.gt_rgb, size), y * np.float32(applied_gain(row, options))


def _truth(crop: StoredCrop, row: Row, window: Window, size: int) -> NDArray[Any]:
    """What the GT's mosaic shows: the stored RGB lies where the noisy photo stood, up to 0.7 sites off and turned.

    In folders of earlier versions it was cut at the mosaic's own place.
    """
    if row.pair.gt_contrast is None:
        return window.cut(crop.gt_rgb, size)
    from rawnind.feed.mosaic_rgb import truth_rgb  # noqa: PLC0415 numba takes a second to import

    return window.orientation.apply(truth_rgb(crop.gt_raw, row, window.top, window.left, size))


def _noisy(crop: StoredCrop, pair: Pair, window: Window, size: int) -> NDArray[np.float32]:
    from rawnind.feed.mosaic_rgb import noisy_rgb  # noqa: PLC0415 numba takes a second to import

    return window.orientation.apply(noisy_rgb(crop.noisy_raw, pair, window.top, window.left, size))


def _levels(
    row: Row, window: Window, options: SampleOptions
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    pair = row.pair
    if options.input is Input.RGB or pair.cfa is not Cfa.BAYER:
        return np.zeros(4, np.float32), np.ones(4, np.float32)
    of_gt = options.pairing is TrainingPairing.X_X
    black = np.array(pair.gt_black if of_gt else pair.black)
    white = pair.gt_white if of_gt else pair.white
    if window.orientation.transpose:  # the two greens are swapped
        black = black[[0, 2, 1, 3]]
    return black.astype(np.float32), (applied_gain(row, options) / (white - black)).astype(np.float32)
