"""Pairs whose geometry is known: displacement, rotation and scale, with noise, hot pixels and something that moved.

A photograph from scikit-image becomes a canvas in linear light at one pixel per sensor site. Both photos of a pair sample
it through the same colour filter array and the same sensor, at different places and with different noise. The same case
gives the same pair on every machine with the same libraries.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.photo import Photo
from rawnind.records import Cfa
from tests.imaging.simulation import (
    MOTIFS,
    RESPONSE,
    canvas,
    fixed_pattern,
    make_sensor,
    noise_at,
    take,
    through_filters,
    view,
)

STEP = 32  # cv2 resamples at multiples of 1/32 px
MARGIN = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is true of a synthetic pair.

    Attributes:
        displacement: (dy, dx) in sites, multiples of 1/32: GT site (y + dy, x + dx) shows what noisy site (y, x) shows.
        rotation: degrees that the noisy photo's content is turned against the GT's about the centre, counter-clockwise.
        scale: size of the noisy photo's content relative to the GT's, minus one.
        gain: what brings the noisy photo to the GT's level.
        hot_pixels: share of sites that are hot, the same in both photos.
        column_pattern: standard deviation of the columns' offsets in units of the read noise, the same in both photos.
        row_noise: standard deviation of the rows' offsets in units of the read noise, fresh in each photo.
        object_size: diameter in sites of something that is here in one photo and there in the other; 0 for none.
        noisy_motif: what the noisy photo shows; None for the same as the GT.
    """

    seed: int
    cfa: Cfa
    height: int
    width: int
    motif: str
    displacement: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: float = 0.0
    gt_iso: int = 100
    iso: int = 3200
    gain: float = 1.0
    hot_pixels: float = 0.0
    column_pattern: float = 0.0
    row_noise: float = 0.0
    object_size: int = 0
    noisy_motif: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Pair:
    """Both photos, and where (H, W) of the noisy photo something moved."""

    case: Case
    ground_truth: Photo
    noisy: Photo
    moved: NDArray[np.bool_]


def draw_case(seed: int, height: int = 512, width: int = 768, *, max_shift: int = 128) -> Case:
    """A case with everything that goes wrong in practice; half of them with a sub-pixel residual."""
    rng = np.random.default_rng(seed)
    cfa = (Cfa.BAYER, Cfa.X_TRANS)[seed % 2]
    whole = rng.integers(-max_shift, max_shift + 1, 2)
    residual = rng.integers(-13, 14, 2) / STEP if rng.random() < 0.5 else (0.0, 0.0)
    return Case(
        seed=seed,
        cfa=cfa,
        height=height // cfa.period * cfa.period,
        width=width // cfa.period * cfa.period,
        motif=MOTIFS[rng.integers(len(MOTIFS))],
        displacement=(float(whole[0] + residual[0]), float(whole[1] + residual[1])),
        gt_iso=int(rng.choice([50, 100, 200, 400])),
        iso=round(200 * (65535 / 200) ** rng.random()),
        gain=float(2.0 ** rng.uniform(-1, 1)),
        hot_pixels=float(rng.choice([0, 1e-4, 1e-3])),
        column_pattern=float(rng.choice([0, 0.3, 1.0])),
        row_noise=float(rng.choice([0, 0.3])),
        object_size=int(rng.choice([0, height // 5, height // 3])),
    )


def draw_unrelated(seed: int, height: int = 512, width: int = 768) -> Case:
    """A case whose photos show two different motifs through the same sensor."""
    case = draw_case(seed, height, width)
    other = MOTIFS.index(case.motif) + 1 + seed % (len(MOTIFS) - 1)
    return replace(case, noisy_motif=MOTIFS[other % len(MOTIFS)], object_size=0)


def render(case: Case) -> Pair:
    """The pair of a case."""
    shape = (case.height, case.width)
    reach = tuple(int(np.ceil(abs(d))) + MARGIN for d in case.displacement)
    whole = (case.height + 2 * reach[0], case.width + 2 * reach[1])
    gt_canvas = canvas(case.motif, whole, case.seed)
    noisy_canvas = gt_canvas if case.noisy_motif is None else canvas(case.noisy_motif, whole, case.seed + 1)
    moved = np.zeros(whole, np.bool_)
    if case.object_size:
        gt_canvas, noisy_canvas, moved = _move_object(case, gt_canvas, noisy_canvas)
    geometry = {"displacement": case.displacement, "rotation": case.rotation, "scale": case.scale}
    light = through_filters(view(gt_canvas, shape, reach, **geometry) * RESPONSE, case.cfa)
    dark = through_filters(view(noisy_canvas, shape, reach) * RESPONSE, case.cfa) / np.float32(case.gain)
    rng = np.random.default_rng([case.seed, 7])
    return Pair(
        case=case,
        ground_truth=_photo(case, light, case.gt_iso, rng),
        noisy=_photo(case, dark, case.iso, rng),
        moved=moved[reach[0] : reach[0] + case.height, reach[1] : reach[1] + case.width],
    )


def _photo(case: Case, light: NDArray[np.float32], iso: int, rng: np.random.Generator) -> Photo:
    noise = noise_at(iso, case.row_noise)
    own = np.random.default_rng([case.seed, 11])  # the sensor's: equal in both photos
    pattern = fixed_pattern(
        light.shape, noise, own, hot_pixels=case.hot_pixels, column_pattern=case.column_pattern
    )
    return take(light, make_sensor(case.cfa, light.shape), noise, rng, pattern)


def _move_object(case, gt_canvas, noisy_canvas):
    """Puts a disc of another photograph at one place of the GT and at another of the noisy photo."""
    rng = np.random.default_rng([case.seed, 5])
    size, shape = case.object_size, gt_canvas.shape[:2]
    patch = canvas(MOTIFS[(MOTIFS.index(case.motif) + 5) % len(MOTIFS)], (size, size), case.seed)
    axis = (np.arange(size) - (size - 1) / 2) / (size / 2)
    disc = axis[:, None] ** 2 + axis**2 <= 1
    moved, out = np.zeros(shape, np.bool_), []
    for light in (gt_canvas, noisy_canvas):
        top, left = (int(rng.integers(extent - size + 1)) for extent in shape)
        place = np.s_[top : top + size, left : left + size]
        changed = light.copy()
        changed[place][disc] = patch[disc]
        moved[place] |= disc
        out.append(changed)
    return out[0], out[1], moved
