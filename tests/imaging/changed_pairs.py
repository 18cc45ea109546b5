"""Pairs with known changes of the scene: what appears, goes, moves, changes its texture, or falls into shadow.

Both photos of a pair are simulated and processed like real ones: light through the colour filters, shot, read and row noise,
hot pixels, rounding, demosaicing of the ground truth, planes at the whole shift, gain. Every change comes with its truth:
where it is, and its contrast to the noise.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.alignment.align import align, extract_features
from rawnind.imaging.coordinates import Rect, cells_of
from rawnind.imaging.demosaic.camera_rgb import demosaic
from rawnind.imaging.levels import planes, site_colors
from rawnind.imaging.pair import MIN_AGREEMENT
from rawnind.imaging.photo import Photo
from rawnind.imaging.resample import warped_planes
from rawnind.imaging.warp import Warp
from rawnind.recipe import Recipe
from rawnind.records import Cfa
from rawnind.sample.simulator import FULL_WELL
from tests.imaging.scenes import Scene, draw_light
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

ISOS = (100, 400, 1600, 6400, 25600, 65535)
MARGIN = 24  # sites of the canvas around the frame
INNER = np.s_[MARGIN:-MARGIN, MARGIN:-MARGIN]
STEPS = (
    15871  # sensor values between black and white, so that STEPS / full_well are DN per electron at ISO 100
)
OPTICS = 0.7  # standard deviation in sites of what a lens and its low-pass filter blur
CLIPPED = 0.99  # level from which a site is overexposed
GAP = 16  # sites around a change that belong neither to it nor to the still area


class Kind(StrEnum):
    STRONG = "strong"
    MODERATE = "moderate"
    TEXTURE = "texture"
    SHADOW = "shadow"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """How a pair is made.

    Attributes:
        shift: whole sites: GT site (y + dy, x + dx) shows what noisy site (y, x) shows.
        residual: sites to be added to `shift`.
        rotation: degrees.
        gain: what brings the noisy photo to the GT's level.
        row_noise: of both photos, in units of the read noise.
        hot_pixels: share of the noisy photo's sites.
        drift: largest relative change of the light across the frame.
        response: exponent of the noisy photo's response.
        lamp: whether something is overexposed.
        changes: (kind, diameter in sites) of each.
        scene: what the photos show.
        full_well: electrons of level 1 at ISO 100.
    """

    seed: int
    cfa: Cfa
    iso: int
    height: int = 576
    width: int = 864
    gt_iso: int = 100
    shift: tuple[int, int] = (0, 0)
    residual: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    gain: float = 1.0
    row_noise: float = 0.0
    hot_pixels: float = 0.0
    drift: float = 0.0
    response: float = 1.0
    lamp: bool = False
    changes: tuple[tuple[Kind, int], ...] = ()
    scene: Scene = Scene.PHOTOGRAPH
    full_well: float = FULL_WELL


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Changed:
    """One change: (h, w) cells it covers, and how far it stands out.

    Attributes:
        contrast: mean contrast of a site to the noise, or for texture its root mean square.
        sites: sites it covers.
    """

    kind: Kind
    size: int
    cells: NDArray[np.bool_]
    contrast: float
    sites: int

    @property
    def detectable(self) -> bool:
        """Above the limit of detection."""
        if self.kind is Kind.TEXTURE:
            return self.contrast >= 1 and self.size >= 48
        return self.contrast * self.sites**0.5 >= 20


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class MaskPair:
    """Planes of both photos on the noisy frame, and the truth in cells.

    Attributes:
        cells: which cells of the noisy photo the planes show.
        ground_truth: (P, h, w).
        noisy: (P, h, w), not gain-matched.
        still: (h, w) cells at least 16 sites from every change.
    """

    case: Case
    gt_photo: Photo
    noisy_photo: Photo
    cells: tuple[slice, slice]
    ground_truth: NDArray[np.float32]
    noisy: NDArray[np.float32]
    changes: tuple[Changed, ...]
    still: NDArray[np.bool_]


def draw_case(seed: int, iso: int) -> Case:
    """A case with the troubles of practice, each in some of the pairs."""
    rng = np.random.default_rng([seed, iso])
    cfa = (Cfa.BAYER, Cfa.X_TRANS)[seed % 2]
    residual = tuple(rng.uniform(-0.5, 0.5, 2)) if rng.random() < 0.5 else (0.0, 0.0)
    kinds = rng.choice(list(Kind), rng.integers(1, 5))
    return Case(
        seed=seed,
        cfa=cfa,
        iso=iso,
        gt_iso=int(rng.choice([50, 100, 200])),
        shift=tuple(int(s) for s in rng.integers(-9, 10, 2)),
        residual=residual,
        gain=float(2 ** rng.uniform(-1, 1)),
        row_noise=float(rng.choice([0, 0.15, 0.4])),
        hot_pixels=float(rng.choice([0, 2e-5, 1e-4])),
        drift=float(rng.choice([0, 0.03])),
        response=float(rng.choice([1, 1, 0.98, 1.02])),
        lamp=bool(rng.random() < 0.3),
        changes=tuple((Kind(kind), round(24 * (200 / 24) ** rng.random())) for kind in kinds),
    )


def draw_fresh(seed: int, number: int, *, still: bool) -> Case:
    """One of many cases of a seed: every ISO in turn, all kinds of scene, sensor, shift and gain.

    A frame begins on red: the four Bayer patterns differ in the parity of shifts alone.

    Args:
        seed: of the draw.
        number: of the case.
        still: without a change of the scene.
    """
    rng = np.random.default_rng([seed, number, still])
    iso = ISOS[number % len(ISOS)]
    residuals = ((0.0, 0.0), tuple(rng.choice([-0.5, 0.0, 0.5], 2)), tuple(rng.uniform(-0.5, 0.5, 2)))
    case = draw_case(int(rng.integers(2**31)), iso)
    return replace(
        case,
        residual=tuple(float(part) for part in residuals[rng.integers(3)]),
        gain=float(2 ** rng.uniform(-2, 2)),
        scene=Scene(rng.choice(list(Scene))),
        full_well=STEPS / float(rng.choice([0.1, 0.2, 0.4, 0.7, 1.0])),
        changes=() if still else case.changes,
    )


def render(case: Case) -> MaskPair:
    """The pair of a case."""
    rng = np.random.default_rng([case.seed, case.iso, 1])
    shape = (case.height, case.width)
    light = _light(case, rng)
    gt_light, noisy_light, places = _place_changes(case, light, rng)
    displacement = (case.shift[0] + case.residual[0], case.shift[1] + case.residual[1])
    gt_seen = view(gt_light, shape, (MARGIN, MARGIN), displacement=displacement, rotation=case.rotation)
    noisy_seen = noisy_light[INNER] ** case.response * _drift(case, rng)[..., None] / np.float32(case.gain)
    sensor = make_sensor(case.cfa, shape)
    gt_noise, noise = (noise_at(iso, case.row_noise, case.full_well) for iso in (case.gt_iso, case.iso))
    gt_photo = take(through_filters(gt_seen, case.cfa), sensor, gt_noise, rng)
    pattern = fixed_pattern(shape, noise, rng, hot_pixels=case.hot_pixels)
    noisy_photo = take(through_filters(noisy_seen, case.cfa), sensor, noise, rng, pattern)
    warp = Warp.constant(shape, case.shift)
    rect = warp.overlap(shape, shape, case.cfa.period)
    cells = cells_of(rect, case.cfa.cell)
    contrast = through_filters((noisy_light - gt_light)[INNER], case.cfa) / _sigma(
        light, case, gt_noise, noise
    )
    # what is overexposed shows no change, however much its light falls
    for seen in (gt_light[INNER], noisy_seen):
        contrast[through_filters(seen, case.cfa) >= CLIPPED] = 0
    changes = tuple(_measured(place, case, contrast, cells) for place in places)
    near = np.zeros(shape, np.uint8)
    for _, _, mask in places:
        near |= mask[INNER]
    near = cv2.dilate(near, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * GAP + 1, 2 * GAP + 1)))
    return MaskPair(
        case=case,
        gt_photo=gt_photo,
        noisy_photo=noisy_photo,
        cells=cells,
        ground_truth=warped_planes(demosaic(gt_photo), warp, case.cfa, rect),
        noisy=np.ascontiguousarray(planes(noisy_photo)[(slice(None), *cells)]),
        changes=tuple(change for change in changes if change.sites),
        still=~_cells(near, case.cfa, any_=True)[cells],
    )


def aligned(pair: MaskPair) -> MaskPair | None:
    """The pair with the ground truth warped as alignment measures it; None where it would be rejected for its alignment."""
    found = align(extract_features(pair.gt_photo), extract_features(pair.noisy_photo))
    if found.registration is None or found.score < Recipe().min_alignment_score:
        return None
    if found.registration.agreement < MIN_AGREEMENT:
        return None
    cell, (rows, columns) = pair.case.cfa.cell, pair.cells
    rect = Rect(
        *(cell * n for n in (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start))
    )
    warped = warped_planes(demosaic(pair.gt_photo), found.registration.warp, pair.case.cfa, rect)
    return replace(pair, ground_truth=warped)


def _light(case, rng):
    """The canvas in front of both cameras, before anything changes."""
    shape = (case.height + 2 * MARGIN, case.width + 2 * MARGIN)
    if case.scene is Scene.PHOTOGRAPH:
        light = canvas(MOTIFS[rng.integers(len(MOTIFS))], shape, case.seed)
    else:
        light = draw_light(case.scene, shape, rng)
    light = light * RESPONSE * np.float32(rng.uniform(0.3, 1.0))
    light = cv2.GaussianBlur(light, (0, 0), OPTICS)
    if case.lamp:
        _lamp(light, rng)
    return light


def _lamp(light, rng):
    radius = int(rng.integers(10, 50))
    y, x = (int(rng.integers(radius, extent - radius)) for extent in light.shape[:2])
    glow = np.zeros(light.shape[:2], np.float32)
    cv2.circle(glow, (x, y), radius, 3.0, -1)
    light += cv2.GaussianBlur(glow, (0, 0), 2.0)[..., None]


def _drift(case, rng):
    y, x = np.mgrid[-1 : 1 : case.height * 1j, -1 : 1 : case.width * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    wave = np.sin(1.2 * (np.cos(angle) * x + np.sin(angle) * y) + rng.uniform(-0.5, 0.5))
    return 1 + np.float32(case.drift) * wave.astype(np.float32)


def _sigma(light, case, gt_noise, noise):
    """(H, W): standard deviation of the gain-matched difference of the photos: photon, read and row noise, in levels."""
    light = through_filters(light[INNER], case.cfa)
    photons = case.gain * light / noise.electrons + light / gt_noise.electrons
    reading = (case.gain * noise.read / noise.electrons) ** 2 + (gt_noise.read / gt_noise.electrons) ** 2
    return np.sqrt(photons + (1 + case.row_noise**2) * reading)


def _place_changes(case, light, rng):
    """GT's light, the noisy photo's light, and (kind, size, mask) of each change on the canvas."""
    gt, noisy, taken, places = light.copy(), light.copy(), np.zeros(light.shape[:2], np.uint8), []
    for kind, size in case.changes:
        look = rng.integers(2**31)
        where = rng.choice(["gt", "noisy", "both"]) if kind in (Kind.STRONG, Kind.MODERATE) else "noisy"
        for target in {"gt": [gt], "noisy": [noisy], "both": [gt, noisy]}[where]:
            mask = _free_place(size, taken, rng)
            if mask is None:
                continue
            taken |= cv2.dilate(mask, np.ones((2 * GAP + 1, 2 * GAP + 1), np.uint8))
            target[:] = _painted(kind, target, mask, np.random.default_rng(look))
            places.append((kind, size, mask))
    return gt, noisy, places


def _free_place(size, taken, rng):
    """A blob inside the frame that touches no other; None where no room is found."""
    for _ in range(20):
        y, x = (rng.uniform(MARGIN + size / 2 + 2, extent - MARGIN - size / 2 - 2) for extent in taken.shape)
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        radius = (
            size
            / 2
            * (1 - 0.15 * rng.random() * (1 + np.sin(rng.integers(2, 5) * angles + rng.uniform(0, 6))))
        )
        points = np.stack(
            [x + radius * np.cos(angles), y + radius * np.sin(angles) * rng.uniform(0.7, 1)], axis=1
        )
        mask = np.zeros(taken.shape, np.uint8)
        cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1)
        if not (mask & taken).any():
            return mask
    return None


def _painted(kind, light, mask, rng):
    """The light with the change painted where the mask is."""
    inside = mask > 0
    mean = light[inside].mean(axis=0)
    if kind is Kind.SHADOW:
        alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), rng.uniform(1, 4))
        return light * (1 - alpha * np.float32(rng.uniform(0.12, 0.5)))[..., None]
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7)[..., None]
    texture = _texture(light.shape[:2], rng)
    if kind is Kind.TEXTURE:
        smooth = cv2.GaussianBlur(light, (0, 0), 8)
        new = smooth * (1 + np.float32(rng.uniform(0.15, 0.45)) * texture)
        new[inside] += mean - new[inside].mean(axis=0)
    else:
        low, high = {Kind.STRONG: (0.6, 1.6), Kind.MODERATE: (0.15, 0.45)}[kind]
        ratio = np.exp(rng.choice([-1, 1]) * rng.uniform(low, high)) * rng.uniform(0.93, 1.07, 3)
        new = (mean * ratio * (1 + 0.08 * texture)).astype(np.float32)
    return np.where(alpha > 0, np.maximum(light + alpha * (new - light), 0.001), light)


def _texture(shape, rng):
    """(H, W, 1) band-limited noise of unit variance."""
    scale = rng.uniform(1.2, 4)
    grain = rng.standard_normal(shape, np.float32)
    band = cv2.GaussianBlur(grain, (0, 0), scale) - cv2.GaussianBlur(grain, (0, 0), 3 * scale)
    return np.clip(band / band.std(), -2, 2)[..., None]


def _measured(place, case, contrast, cells):
    """A change as its truth; `contrast` is (H, W), in standard deviations of the noise."""
    kind, size, mask = place
    inside = mask[INNER] > 0
    z, color = contrast[inside], site_colors(case.cfa, inside.shape)[inside]
    if kind is Kind.TEXTURE:
        strength = float(z.std())
    else:
        strength = sum(float(abs(z[color == c].mean()) * (color == c).mean()) for c in range(3))
    return Changed(
        kind=kind,
        size=size,
        cells=_cells(mask[INNER], case.cfa, any_=False)[cells],
        contrast=strength,
        sites=int(inside.sum()),
    )


def _cells(sites, cfa, *, any_):
    """Cells that are covered: by any site, or by at least half of them."""
    cell = cfa.cell
    blocks = sites.reshape(sites.shape[0] // cell, cell, sites.shape[1] // cell, cell)
    return blocks.any(axis=(1, 3)) if any_ else blocks.mean(axis=(1, 3)) >= 0.5
