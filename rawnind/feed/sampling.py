"""Random windows and orientations of sub-crops that keep a Bayer mosaic starting on red, and the order of an epoch."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


class Orientation(NamedTuple):
    """One of the eight symmetries of a square: transposed first, then flipped."""

    transpose: bool
    flip_y: bool
    flip_x: bool

    def apply(self, image: NDArray[Scalar]) -> NDArray[Scalar]:
        """Transposes and flips a square image, or each of its channels.

        Args:
            image: (h, h) or (3, h, h).

        Returns:
            The image itself where nothing changes, else a copy whose last axis is contiguous if the image's is.

        >>> Orientation(transpose=True, flip_y=False, flip_x=True).apply(np.array([[1, 2], [3, 4]], np.uint16))
        array([[3, 1],
               [4, 2]], dtype=uint16)
        """
        if self == UPRIGHT:
            return image
        out = np.empty(image.shape, image.dtype)
        # OpenCV is ten times faster here than numpy; it has no float16, so values are moved as integers of the same size.
        bits = {1: np.uint8, 2: np.uint16, 4: np.float32, 8: np.float64}[image.dtype.itemsize]
        channels = (
            zip(image.view(bits), out.view(bits), strict=True)
            if image.ndim == 3
            else [(image.view(bits), out.view(bits))]
        )
        for source, target in channels:
            turned = cv2.transpose(source) if self.transpose else source
            if self.flip_y or self.flip_x:
                cv2.flip(turned, _FLIPS[self.flip_y, self.flip_x], target)
            else:
                target[...] = turned
        return out


_FLIPS = {(True, False): 0, (False, True): 1, (True, True): -1}  # OpenCV's codes

UPRIGHT = Orientation(transpose=False, flip_y=False, flip_x=False)


class Window(NamedTuple):
    """A square of a stored crop, and its orientation.

    Attributes:
        top: first row.
        left: first column.
    """

    top: int
    left: int
    orientation: Orientation

    def cut(self, image: NDArray[Scalar], size: int) -> NDArray[Scalar]:
        """The window of side `size` of (h, h) or (3, h, h) in its orientation; a view where it is upright."""
        return self.orientation.apply(self.upright(image, size))

    def upright(self, image: NDArray[Scalar], size: int) -> NDArray[Scalar]:
        """The window of side `size` without transposition and flips; a view."""
        return image[..., self.top : self.top + size, self.left : self.left + size]


class Grid(NamedTuple):
    """The constraints on windows of a stored crop.

    Attributes:
        stored: side of the stored crop.
        size: side of the window, even and at most `stored`.
        step: windows start on multiples of this from `red`: 2 for Bayer, 6 for X-Trans.
        red: (y, x) of the first red site of the stored crop, for Bayer; (0, 0) otherwise.
        mosaic: whether the oriented window must start on red; colour images allow every orientation.
    """

    stored: int
    size: int
    step: int
    red: tuple[int, int]
    mosaic: bool

    def draw(self, rng: np.random.Generator, *, augment: bool) -> Window:
        """A random window; every position and orientation that the grid allows is equally likely.

        A flipped mosaic starts with its former last site, so a window that will be flipped starts one site beside red. A
        window as large as the stored crop cannot do that: it can only be transposed.

        Args:
            rng: the random generator.
            augment: whether to flip and transpose. Without it a mosaic is flipped only where the stored crop does not
                start on red and the window is as large as the crop.
        """
        (top, flip_y), (left, flip_x) = (self._start(red, rng, augment=augment) for red in self.red)
        transpose = augment and bool(rng.integers(2))
        if transpose:
            flip_y, flip_x = flip_x, flip_y  # flips are applied after the transposition, positions before it
        return Window(top, left, Orientation(transpose, flip_y, flip_x))

    def _start(self, red: int, rng: np.random.Generator, *, augment: bool) -> tuple[int, bool]:
        """First site along one axis, and whether to flip it."""
        room = self.stored - self.size
        upright = range(red, room + 1, self.step)
        flipped = range(1 - red if self.mosaic else red, room + 1, self.step)
        number = int(rng.integers(len(upright) + len(flipped) if augment or not upright else len(upright)))
        return (upright[number], False) if number < len(upright) else (flipped[number - len(upright)], True)


def best_window(
    draw: Callable[[], Window], valid_fraction: Callable[[Window], float], least: float, tries: int
) -> Window:
    """The first window with a valid fraction of at least `least`, or the best of `tries` windows.

    Args:
        draw: returns a random window.
        valid_fraction: returns the fraction of valid pixels of a window.
        least: fraction that is enough, 0..1.
        tries: how many windows to compare, at least 1.
    """
    best, best_fraction = draw(), -1.0
    window = best
    for _ in range(tries):
        if (found := valid_fraction(window)) >= least:
            return window
        if found > best_fraction:
            best, best_fraction = window, found
        window = draw()
    return best


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator of one item in one epoch; the same in every process.

    Args:
        seed: seed of the data set.
        epoch: number of the epoch.
        index: number of the item.

    >>> bool(generator(1, 2, 3).integers(1000) == generator(1, 2, 3).integers(1000))
    True
    """
    return np.random.default_rng((seed, epoch, index))


def epoch_order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of the rows in an epoch, the same for every rank.

    Args:
        rows: number of rows.
        seed: seed of the data set.
        epoch: number of the epoch.

    Returns:
        (rows,) int64, a permutation.
    """
    return generator(seed, epoch, rows).permutation(rows)


def step_size(left: int, ranks: int, batch_size: int, *, drop_last: bool = False) -> int:
    """The number of samples that all ranks together use in the next step; 0 where there is none.

    Every step but the last uses ranks * batch_size. The last but one uses fewer (or, with batches of one, more) where the
    last one could otherwise not give every rank a sample of its own.

    Args:
        left: samples left in the epoch.
        ranks: number of ranks.
        batch_size: samples in a rank's batch.
        drop_last: whether only steps of ranks * batch_size are taken.

    >>> [step_size(left, 2, 4) for left in (20, 9, 2, 1)]
    [8, 7, 2, 1]
    """
    full = ranks * batch_size
    if drop_last:
        return full if left >= full else 0
    if left <= full:
        return left
    if 0 < left - full < ranks:
        return left - ranks if batch_size > 1 else left
    return full


def step_count(rows: int, ranks: int, batch_size: int, *, drop_last: bool = False) -> int:
    """The number of steps of an epoch; arguments as in `step_size`.

    >>> step_count(20, 2, 4), step_count(9, 2, 4, drop_last=True), step_count(3, 2, 1)
    (3, 1, 1)
    """
    full = ranks * batch_size
    if drop_last or batch_size == 1:  # samples that are left after batches of one join the last step
        return max(rows // full, 0 if drop_last else min(rows, 1))
    return -(-rows // full)


def share_of(samples: NDArray[np.int64], rank: int, ranks: int) -> NDArray[np.int64]:
    """The samples of one rank in a step; sizes differ by at most one. With fewer samples than ranks, some are used twice.

    Args:
        samples: (n,) samples of the step.
        rank: number of the rank, from 0.
        ranks: number of ranks.

    >>> [share_of(np.arange(5), rank, 2).tolist() for rank in (0, 1)]
    [[0, 1, 2], [3, 4]]
    """
    if len(samples) < ranks:
        return samples[[rank % len(samples)]]
    return np.array_split(samples, ranks)[rank]
