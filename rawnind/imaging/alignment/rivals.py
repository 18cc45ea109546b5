"""Whether a scene that repeats was matched to itself one period off.

A texture with a period fits as well at the next period. What tells the periods apart is everything else: its ends, its faults,
what lies beside it. Two warps are compared on both photos' green, blurred so that it may be interpolated, of which the square
root is taken, so that noise is the same everywhere. With the GT as each warp shows it, g0 and g1, and d = g1 - g0,

    noisy = a (g0 + g1) / 2 - a u d,        u = 1/2 where the first is right, -1/2 where the second is,

in which both warps have the same part: where they show the same, u is 0 within its error, and neither is chosen.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.alignment.features import READ_NOISE, Features
from rawnind.imaging.alignment.greens import green_sites, view
from rawnind.imaging.alignment.lucas_kanade import weighted_median
from rawnind.imaging.alignment.registration import Registration, register
from rawnind.imaging.alignment.repetition import DISTINCT
from rawnind.imaging.jit import kernel
from rawnind.imaging.photo import Photo
from rawnind.imaging.warp import Warp

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]

SAMPLES = 1.5e6  # of the blurred green; bounds the time on large photos
STRIP = 256  # rows that are interpolated at once
BLOCK = 32  # samples a side: 64 sites or more
FEWEST_BLOCKS = 6  # along an axis
CORRELATION = 4 * np.pi  # variance of a sum of blurred noise over that of independent samples
SURE = 5.0  # standard errors
INTERPOLATION = 0.05  # share of the contrast that two views of the same may differ by, all with one sign
UNLIKE = 0.02  # share of the energy from which two views of a block differ
ROUNDS = 3
MOVED = 0.5  # sites by which the blurred photos may disagree with the sharp ones
SETTLING = 6  # steps of Gauss and Newton
STRIPS = 8  # rows of blocks, or up to twice as many, that these steps look at
EXPECTED_TURN = 0.001  # radians, and relative size, by which a step may turn and scale
NEARBY = 2.0  # samples: a period has its best place within them
SETTLED = 0.02  # samples
MISMATCH = 0.2  # share of the contrast that a right warp may leave; bounds the weight of a block


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Smooth:
    """A photo's green, blurred so that it may be interpolated.

    Attributes:
        values: (h, w) float32 square root of the green at every `step`th site of both axes from the first, under a Gaussian with a
            standard deviation of one step.
        step: in sites, even.
    """

    values: Float32s
    step: int

    @classmethod
    def of(cls, photo: Photo) -> "Smooth":
        """From a photo's mosaic."""
        height, width = photo.mosaic.shape
        step = 2 * max(1, round((photo.mosaic.size / SAMPLES) ** 0.5 / 2))
        margin, edge = 3 * step, 2
        source = view(photo, photo.mosaic)
        out = np.empty((-(-height // step), -(-width // step)), np.float32)
        strip = STRIP // step * step
        for top in range(0, height, strip):
            first, last = max(top - margin, edge), min(top + strip + margin, height - edge)
            green = np.empty((last - first, width - 2 * edge), np.float32)
            green_sites(source, first, edge, green)
            before, after = max(0, first - (top - margin)), max(0, top + strip + margin - last)
            root = np.sqrt(np.maximum(green, 0) + np.float32(READ_NOISE))
            root = cv2.copyMakeBorder(root, before, after, edge, edge, cv2.BORDER_REPLICATE)
            smooth = cv2.GaussianBlur(root, (0, 0), step)[margin : margin + strip : step, ::step]
            rows = out[top // step : (top + strip) // step]
            rows[:] = smooth[: len(rows)]
        return cls(values=out, step=step)

    def warped(self, warp: Warp, y: Float32s) -> Float32s:
        """What rows of a noisy photo of this size show, if the warp is right; nan where the GT ends.

        Args:
            warp: from the noisy photo to this one, the GT.
            y: (n,) rows, in samples.
        """
        ny, nx = warp.nodes.shape[:2]
        x = np.arange(self.values.shape[1], dtype=np.float32)
        rows, columns = (each * np.float32(self.step / warp.spacing) for each in (y, x))
        across, along = np.meshgrid(np.minimum(columns, nx - 1), np.minimum(rows, ny - 1))
        nodes = [np.ascontiguousarray(warp.nodes[..., axis], np.float32) for axis in (0, 1)]
        down = [cv2.remap(each, across, along, cv2.INTER_LINEAR) / np.float32(self.step) for each in nodes]
        at_y, at_x = down[0] + y[:, None], down[1] + x
        seen: Float32s = cv2.remap(self.values, at_x, at_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        height, width = self.values.shape
        seen[(at_y < 0) | (at_y > height - 1) | (at_x < 0) | (at_x > width - 1)] = np.nan
        return seen


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Fit:
    """A warp, moved, turned and scaled as a whole to where the blurred photos fit best nearby.

    Two warps are compared at their best: the rest of a sub-pixel shift is no evidence against a period.

    Attributes:
        seen: (h, w) what the noisy photo shows if it is right; nan where the GT ends.
        warp: the moved one.
        moved: by how many sites, at the middle.
    """

    seen: Float32s
    warp: Warp
    moved: float

    @classmethod
    def of(cls, noisy: Smooth, truth: Smooth, warp: Warp) -> "Fit":
        """From a warp from the noisy photo to the GT."""
        shape = noisy.values.shape
        rows, columns = np.indices(warp.nodes.shape[:2]) * float(warp.spacing)
        middle = (np.array(shape) - 1) / 2 * noisy.step
        from_middle = np.stack([rows - middle[0], columns - middle[1]], axis=-1)
        strips = _Strips.of(shape)
        moved, by = warp, np.zeros(2)
        for _ in range(SETTLING):
            move = _move(
                strips, noisy.values[strips.rows], truth.warped(moved, strips.rows.astype(np.float32))
            )
            if move is None:
                break
            move[:2] = np.clip(move[:2], -1, 1) * noisy.step
            shift = move[:2] + move[2] * from_middle[..., ::-1] * [1, -1] - move[3] * from_middle
            moved = replace(moved, nodes=moved.nodes + shift)
            by += move[:2]
            if np.abs(shift).max() < SETTLED or np.hypot(*by) > NEARBY * noisy.step:
                break
        seen = truth.warped(moved, np.arange(shape[0], dtype=np.float32))
        return cls(seen=seen, warp=moved, moved=float(np.hypot(*by)))

    def middle(self, shape: tuple[int, int]) -> tuple[float, float]:
        """(dy, dx) at the middle of a noisy photo of (H, W) sites."""
        dy, dx = self.warp.at((np.array([shape]) - 1) / 2)[0]
        return float(dy), float(dx)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Strips:
    """Rows of blocks, spread over a photo, each with a row of samples above and below.

    Attributes:
        rows: (strips * (side + 2),) of the photo.
        middles: (strips * across, 2) positions (y, x) of the blocks' middles from the middle of the photo, in samples.
        side: of a block, in samples.
    """

    rows: NDArray[np.intp]
    middles: Float64s
    side: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "_Strips":
        """Of a photo of (h, w) samples."""
        height, width = shape
        side = _side((height - 2, width - 2))
        down, across = (height - 2) // side, (width - 2) // side
        tops = np.arange(0, down, max(1, down // STRIPS)) * side
        y, x = tops + (side + 1) / 2, np.arange(across) * side + (side + 1) / 2
        middles = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)
        rows = (tops[:, None] + np.arange(side + 2)).ravel()
        return cls(rows=rows, middles=middles - (np.array(shape) - 1) / 2, side=side)

    def inner(self, values: Float32s) -> Float32s:
        """(strips, side + 2, w) of values of the rows."""
        return values.reshape(-1, self.side + 2, values.shape[1])


def _move(strips: _Strips, noisy: Float32s, seen: Float32s) -> Float64s | None:
    """(4,) by how many samples (dy, dx), radians and relative size the GT should be seen otherwise; None where it does not fit.

    Args:
        strips: the rows.
        noisy: (n, w) what the noisy photo shows there.
        seen: (n, w) what the GT shows there; nan where nothing.
    """
    seen, noisy = strips.inner(seen), strips.inner(noisy)[:, 1:-1, 1:-1]
    slopes = (seen[:, 2:, 1:-1] - seen[:, :-2, 1:-1]) / 2, (seen[:, 1:-1, 2:] - seen[:, 1:-1, :-2]) / 2
    images = np.stack([seen[:, 1:-1, 1:-1], *slopes, noisy])
    products = _products(images.reshape(4, -1, images.shape[-1]), strips.side)
    whole = np.isfinite(products).all(axis=(1, 2))
    if not whole.any():
        return None
    products = products[whole]
    contrast = products[:, 0, 0] + 1e-6
    gain = weighted_median(products[:, 0, 3] / contrast, np.sqrt(contrast))
    if gain <= 0:
        return None
    y, x = strips.middles[whole].T
    design = np.zeros(
        (len(y), 4, 6)
    )  # of GT, slopes and noisy photo: by gain, dy, dx, rotation, scale; and the noisy photo
    design[:, 0, 0] = design[:, 1, 1] = design[:, 2, 2] = design[:, 3, 5] = 1
    design[:, 1, 3], design[:, 2, 3], design[:, 1, 4], design[:, 2, 4] = x, -y, -y, -x
    rest = np.maximum(products[:, 3, 3] / gain**2 - 2 * products[:, 0, 3] / gain + contrast, 0)
    weighted = products / (rest + MISMATCH**2 * contrast)[:, None, None]
    summed = np.einsum("nia,nij,njb->ab", design, weighted, design)
    summed[[3, 4], [3, 4]] += CORRELATION / strips.side**2 / EXPECTED_TURN**2
    scale = 1 / np.sqrt(np.maximum(np.diag(summed)[:5], 1e-30))
    steps = (
        np.linalg.lstsq(summed[:5, :5] * scale[:, None] * scale, summed[:5, 5] * scale, rcond=1e-3)[0] * scale
    )
    return np.asarray(steps[1:] / steps[0], np.float64) if steps[0] > 0 else None


def sureness(noisy: Float32s, first: Float32s, second: Float32s) -> float:
    """By how many standard errors the first of two views fits better; negative where the second does.

    Args:
        noisy: (h, w) what the noisy photo shows.
        first: (h, w) what the GT shows there by one warp; nan where nothing.
        second: (h, w) by the other.
    """
    side = _side(noisy.shape)
    products = _products(np.stack([noisy, first, second]), side)
    products = products[np.isfinite(products).all(axis=(1, 2))]
    if not len(products):
        return 0.0
    nn, ng, nh, gg, gh, hh = (products[:, i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
    # with middle = (first + second) / 2 and apart = second - first
    nm, mm, na, ma, aa = (ng + nh) / 2, (gg + 2 * gh + hh) / 4, nh - ng, (hh - gg) / 2, gg - 2 * gh + hh
    contrast = mm + aa / 4  # mean energy of the two
    unlike = aa > UNLIKE * contrast
    if not unlike.any():
        return 0.0
    trust = 1 / (contrast + 1e-9)
    gain = float((trust * nm)[unlike].sum() / (trust * mm)[unlike].sum())
    if gain <= 0:
        return 0.0
    nm, mm, na, ma, aa, nn, contrast = (each[unlike] for each in (nm, mm, na, ma, aa, nn, contrast))
    evidence = ma - na / gain  # -(noisy / gain - middle) . apart
    rest = nn / gain**2 - 2 * nm / gain + mm + aa / 4 - abs(evidence)  # of the better one
    count = side**2
    variance = np.maximum(rest, 0) / count
    weight = 1 / (variance + MISMATCH**2 * contrast / count + 1e-9)
    error = np.sqrt((weight**2 * CORRELATION * variance * aa).sum()) * SURE
    error += INTERPOLATION * (weight * np.sqrt(contrast * aa)).sum()
    return float(SURE * (weight * evidence).sum() / error)


def _side(shape: tuple[int, ...]) -> int:
    """Samples a side of the blocks of a photo."""
    return min(BLOCK, max(1, min(shape) // FEWEST_BLOCKS))


@kernel(fastmath={"reassoc", "contract", "nsz"})
def _products(images: Float32s, side: int) -> Float64s:
    """(n, k, k) products of images with each other, less their means, summed over each whole block; nan where a sample is.

    Args:
        images: (k, h, w).
        side: of a block, in samples.
    """
    number, height, width = images.shape
    down, across = height // side, width // side
    found = np.zeros((down, across, number, number))
    sums = np.empty(number)
    for row in range(down):
        for column in range(across):
            left, product = column * side, found[row, column]
            for i in range(number):
                sums[i] = 0.0
                for y in range(row * side, (row + 1) * side):
                    one, total = images[i, y, left : left + side], 0.0
                    for x in range(side):
                        total += one[x]
                    sums[i] += total
                for j in range(i + 1):
                    for y in range(row * side, (row + 1) * side):
                        one, other = images[i, y, left : left + side], images[j, y, left : left + side]
                        total = 0.0
                        for x in range(side):
                            total += np.float64(one[x]) * np.float64(other[x])
                        product[i, j] += total
                    product[i, j] -= sums[i] * sums[j] / side**2
                    product[j, i] = product[i, j]
    return found.reshape(down * across, number, number)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Choice:
    """The warp that fits best, and what it was compared with.

    Attributes:
        registration: of the best.
        rival: (dy, dx) in sites, at the middle, of a warp that fits almost as well; None where none does.
    """

    registration: Registration
    rival: tuple[float, float] | None


def choose(  # noqa: PLR0917
    ground_truth: Features,
    noisy: Features,
    found: Registration,
    starts: list[tuple[float, float]],
    lags: list[tuple[float, float]],
    max_shift: float,
) -> Choice:
    """Registers the photos from other starts too where they fit about as well, and takes the best of all.

    Args:
        ground_truth: features of the clean photo.
        noisy: features of the noisy photo.
        found: the registration so far.
        starts: displacements (dy, dx) in sites at which the photos may fit too.
        lags: (dy, dx) in sites at which the GT resembles itself: starts beside the best.
        max_shift: largest displacement in sites, in each direction.
    """
    truth, seen = Smooth.of(ground_truth.photo), Smooth.of(noisy.photo)
    shape = noisy.photo.mosaic.shape[0], noisy.photo.mosaic.shape[1]

    def lead(fit: Fit, other: Fit) -> float:
        """`sureness` of a fit against another; without limit where that one moves onto the same, or finds no place."""
        if other.moved > NEARBY * seen.step or _alike(fit.warp, other.warp):
            return np.inf
        return sureness(seen.values, fit.seen, other.seen)

    best, fit = found, Fit.of(seen, truth, found.warp)
    for _ in range(ROUNDS):
        rival, by = fit, lead(fit, fit)
        beside = [place for place in _periods(best.displacement, lags) if max(np.abs(place)) <= max_shift + 1]
        for guess in _guesses(best.warp, best.displacement, [*starts, *beside], shape):
            other = Fit.of(seen, truth, guess)
            if (less := lead(fit, other)) < by:
                rival, by = other, less
        if by >= SURE and fit.moved <= MOVED:
            return Choice(registration=best, rival=None)
        again = register(ground_truth, noisy, rival.middle(shape))
        fit_again = Fit.of(seen, truth, again.warp)
        better = by < 0 and _alike(fit_again.warp, rival.warp)
        if not better and (by < SURE or fit_again.moved > MOVED):
            break
        best, fit = again, fit_again
    return Choice(registration=best, rival=rival.middle(shape))


def _periods(
    displacement: tuple[float, float], lags: list[tuple[float, float]]
) -> Iterator[tuple[float, float]]:
    """(dy, dx) in sites one period away from a displacement, and as many periods as bring it the nearest to no shift.

    Args:
        displacement: (dy, dx) in sites.
        lags: (dy, dx) in sites, not 0.
    """
    here = np.array(displacement)
    for lag in map(np.array, lags):
        nearest = round(float(here @ lag / (lag @ lag)))
        for count in dict.fromkeys((1, -1, -nearest)):
            dy, dx = here + count * lag
            yield float(dy), float(dx)


def _guesses(
    warp: Warp,
    displacement: tuple[float, float],
    elsewhere: list[tuple[float, float]],
    shape: tuple[int, int],
) -> Iterator[Warp]:
    """Warps that may fit as well as one: the same elsewhere and, where it is not a mere shift, shifts alone.

    Args:
        warp: the best so far.
        displacement: of its middle.
        elsewhere: (dy, dx) in sites.
        shape: (H, W) of the noisy photo.
    """
    here = np.array(displacement)
    bent = np.abs(warp.nodes - here).max() > DISTINCT / 2
    for middle in elsewhere:
        if np.hypot(*np.subtract(middle, here)) >= DISTINCT:
            yield replace(warp, nodes=warp.nodes + np.subtract(middle, here))
        if bent:
            yield Warp.constant(shape, middle)


def _alike(one: Warp, other: Warp) -> bool:
    """Whether two warps of a photo show the same to within a period."""
    at = np.indices(one.nodes.shape[:2]).reshape(2, -1).T * one.spacing
    return bool(np.median(np.hypot(*(one.at(at) - other.at(at)).T)) < DISTINCT)
