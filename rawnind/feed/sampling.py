"""Where sub-crops lie and how they are turned, such that a Bayer mosaic starts on red all the same."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


class Orientation(NamedTuple):
    """One of the eight ways to lay a square: transposed first, then flipped."""

    transpose: bool
    flip_y: bool
    flip_x: bool

    def lay(self, image: NDArray[Scalar]) -> NDArray[Scalar]:
        """A square image, or each channel of one, laid so.

        Args:
            image: (h, h) or (3, h, h).

        Returns:
            The image itself where nothing is to be done, else a copy; the last axis is contiguous where the image's is.

        >>> Orientation(transpose=True, flip_y=False, flip_x=True).lay(np.array([[1, 2], [3, 4]], np.uint16))
        array([[3, 1],
               [4, 2]], dtype=uint16)
        """
        if self == UPRIGHT:
            return image
        out = np.empty(image.shape, image.dtype)
        # OpenCV moves pixels ten times faster than numpy's strides do; it knows no float16, bits are moved all the same.
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
    """A square of a stored crop, and how it is laid.

    Attributes:
        top: first row.
        left: first column.
    """

    top: int
    left: int
    orientation: Orientation

    def cut(self, image: NDArray[Scalar], size: int) -> NDArray[Scalar]:
        """The window of side `size` out of (h, h) or (3, h, h), laid as said; a view where it is upright."""
        return self.orientation.lay(self.upright(image, size))

    def upright(self, image: NDArray[Scalar], size: int) -> NDArray[Scalar]:
        """The window of side `size` as it lies in the image; a view."""
        return image[..., self.top : self.top + size, self.left : self.left + size]


class Grid(NamedTuple):
    """What binds windows to the sites of a stored crop.

    Attributes:
        stored: side of the stored crop.
        size: side of the window, even and at most `stored`.
        step: windows start on multiples of this from `red`: 2 for Bayer, 6 for X-Trans.
        red: (y, x) of the first red site of the stored crop, for Bayer; (0, 0) otherwise.
        mosaic: whether the window must start on red after it was laid; colour images may be laid in any way.
    """

    stored: int
    size: int
    step: int
    red: tuple[int, int]
    mosaic: bool

    def draw(self, rng: np.random.Generator, *, turn: bool) -> Window:
        """A random window; every place and every orientation that the grid allows is equally likely.

        A flipped mosaic starts with what was its last site, so that a window to be flipped starts one site beside red. A
        window as large as the stored crop leaves no room for that: it may only be transposed.

        Args:
            rng: the source of chance.
            turn: whether to flip and transpose. Without it a mosaic is flipped only where the stored crop does not start
                on red and has no room for another place.
        """
        (top, flip_y), (left, flip_x) = (self._start(red, rng, turn=turn) for red in self.red)
        transpose = turn and bool(rng.integers(2))
        if transpose:
            flip_y, flip_x = flip_x, flip_y  # flips come after the transposition, places before it
        return Window(top, left, Orientation(transpose, flip_y, flip_x))

    def _start(self, red: int, rng: np.random.Generator, *, turn: bool) -> tuple[int, bool]:
        """First site along one axis, and whether to flip it."""
        room = self.stored - self.size
        upright = range(red, room + 1, self.step)
        flipped = range(1 - red if self.mosaic else red, room + 1, self.step)
        number = int(rng.integers(len(upright) + len(flipped) if turn or not upright else len(upright)))
        return (upright[number], False) if number < len(upright) else (flipped[number - len(upright)], True)


def best_window(
    draw: Callable[[], Window], share: Callable[[Window], float], least: float, tries: int
) -> Window:
    """The first window with at least the share `least` of valid pixels, or the best of `tries`.

    Args:
        draw: gives a window.
        share: what part of a window is valid.
        least: 0..1.
        tries: at least 1.
    """
    best, best_share = draw(), -1.0
    window = best
    for _ in range(tries):
        if (found := share(window)) >= least:
            return window
        if found > best_share:
            best, best_share = window, found
        window = draw()
    return best


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The source of chance of one item in one epoch, whoever asks for it.

    >>> bool(generator(1, 2, 3).integers(1000) == generator(1, 2, 3).integers(1000))
    True
    """
    return np.random.default_rng((seed, epoch, index))


def epoch_order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which an epoch goes through the rows, the same for every rank."""
    return generator(seed, epoch, rows).permutation(rows)


def step_size(left: int, ranks: int, batch_size: int) -> int:
    """How many samples all ranks take together in the next step.

    Every step but the last takes ranks * batch_size. The one before the last takes a little less (or, with batches of one, a
    little more) where the last could not give every rank a sample of its own.

    >>> [step_size(left, 2, 4) for left in (20, 9, 2, 1)]
    [8, 7, 2, 1]
    """
    full = ranks * batch_size
    if left <= full:
        return left
    if 0 < left - full < ranks:
        return left - ranks if batch_size > 1 else left
    return full


def share_of(samples: NDArray[np.int64], rank: int, ranks: int) -> NDArray[np.int64]:
    """What one rank takes of a step; sizes differ by one at most. With fewer samples than ranks some are taken twice.

    >>> [share_of(np.arange(5), rank, 2).tolist() for rank in (0, 1)]
    [[0, 1, 2], [3, 4]]
    """
    if len(samples) < ranks:
        return samples[[rank % len(samples)]]
    return np.array_split(samples, ranks)[rank]
