"""Pairs whose ground truth is a warped view of what the noisy photo shows: rotation, zoom, smooth local shifts, in any mixture.

The noisy photo samples a canvas at whole pixels, so that what it shows without noise is known exactly; the ground truth
samples it by Lanczos interpolation, at positions rounded to 1/32 pixel.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.photo import Photo
from rawnind.records import Cfa
from tests.imaging.periodic import Periodic, draw_periodic, periodic_light
from tests.imaging.simulation import MOTIFS, RESPONSE, canvas, make_sensor, noise_at, take, through_filters

MARGIN = 96  # canvas around the noisy photo that the ground truth may show; more where it is further away

FIELDS = ("ramp", "shear", "sine", "radial", "bump")


@dataclass(frozen=True, kw_only=True, slots=True)
class WarpCase:
    """How the ground truth differs from the noisy photo.

    Attributes:
        displacement: (dy, dx) in sites at the middle.
        rotation: degrees.
        scale: size of the noisy photo's content relative to the GT's, minus one.
        field: one of `FIELDS`, added to it.
        amplitude: of the field in sites.
        iso: of the noisy photo.
        gain: what brings the noisy photo to the GT's level.
        periodic: what is shown in place of the motif; None for the motif.
    """

    seed: int
    cfa: Cfa
    height: int
    width: int
    motif: str
    displacement: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: float = 0.0
    field: str = "ramp"
    amplitude: float = 0.0
    iso: int = 800
    gain: float = 1.0
    periodic: Periodic | None = None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class WarpedPair:
    """Both photos and the truth about them.

    Attributes:
        light: (3, H, W) camera RGB levels that the noisy photo shows, without noise.
        displacement: (H, W, 2) float32: GT position (y + dy, x + dx) shows what noisy site (y, x) shows.
    """

    ground_truth: Photo
    noisy: Photo
    light: NDArray[np.float32]
    displacement: NDArray[np.float32]


def draw_warp(kind: str, rng: np.random.Generator, height: int, width: int) -> WarpCase:
    """A case of a kind: `shift`, `roll`, `zoom`, `field`, or `all` of them.

    Args:
        kind: what differs.
        rng: draws everything else.
        height: of the photos in sites; cut to whole tiles.
        width: the same.
    """
    cfa = list(Cfa)[int(rng.integers(2))]
    turned, zoomed, bent = kind in {"roll", "all"}, kind in {"zoom", "all"}, kind in {"field", "all"}
    return WarpCase(
        seed=int(rng.integers(2**31)),
        cfa=cfa,
        height=height // cfa.period * cfa.period,
        width=width // cfa.period * cfa.period,
        motif=MOTIFS[int(rng.integers(len(MOTIFS)))],
        displacement=(float(rng.uniform(-30, 30)), float(rng.uniform(-30, 30))),
        rotation=float(rng.uniform(-1, 1)) if turned else 0.0,
        scale=float(rng.uniform(-0.02, 0.02)) if zoomed else 0.0,
        field=FIELDS[int(rng.integers(len(FIELDS)))],
        amplitude=float(rng.uniform(0.2, 3)) if bent else 0.0,
        iso=round(100 * 256 ** rng.random()),
    )


def draw_repeating(rng: np.random.Generator, height: int, width: int) -> WarpCase:
    """A case of a scene that repeats, shifted by up to 128 sites, in half of them a little turned.

    Args:
        rng: draws everything.
        height: of the photos in sites; cut to whole tiles.
        width: the same.
    """
    scene = draw_periodic(rng)
    case = draw_warp("shift", rng, height, width)
    reach = rng.choice([8, 40, 128])
    return replace(
        case,
        displacement=tuple(float(d) for d in rng.uniform(-reach, reach, 2)),
        rotation=float(rng.choice([0.0, rng.normal(0, 0.05)])),
        iso=round(100 * 655.35 ** rng.random()),
        gain=float(2 ** rng.uniform(-1, 1)),
        periodic=scene,
    )


def _canvas(case: WarpCase, shape: tuple[int, int]) -> NDArray[np.float32]:
    if case.periodic is not None:
        return periodic_light(case.periodic, shape, case.seed)
    return canvas(case.motif, shape, case.seed)


def render_warp(case: WarpCase) -> WarpedPair:
    """The pair of a case."""
    shape = case.height, case.width
    y, x = np.mgrid[: case.height, : case.width].astype(np.float64)
    displacement = _displacement(case, y, x)
    margin = max(MARGIN, int(np.ceil(np.abs(displacement).max())) + 8)
    light = _canvas(case, (case.height + 2 * margin, case.width + 2 * margin)) * RESPONSE
    there_y, there_x = y, x
    for _ in range(8):  # the noisy site that shows a GT site's point: a fixed point of y = gt_y - dy(y)
        moved = _displacement(case, there_y, there_x)
        there_y, there_x = y - moved[..., 0], x - moved[..., 1]
    positions = ((there + margin).astype(np.float32) for there in (there_x, there_y))
    seen = np.maximum(cv2.remap(light, *positions, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT), 0)
    plain = light[margin : margin + case.height, margin : margin + case.width] / np.float32(case.gain)
    sensor, rng = make_sensor(case.cfa, shape), np.random.default_rng([case.seed, 7])
    return WarpedPair(
        ground_truth=take(through_filters(seen, case.cfa), sensor, noise_at(100), rng),
        noisy=take(through_filters(plain, case.cfa), sensor, noise_at(case.iso), rng),
        light=np.moveaxis(plain, -1, 0) * np.float32(case.gain),
        displacement=displacement.astype(np.float32),
    )


def _displacement(case: WarpCase, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 2) displacements at noisy positions in sites."""
    v, u = y / case.height - 0.5, x / case.width - 0.5
    r = 4 * (v * v + u * u)
    down, across = {
        "ramp": (2 * v, 0 * u),
        "shear": (0 * v, 2 * v),
        "sine": (np.sin(2 * np.pi * u), np.cos(2 * np.pi * v)),
        "radial": (v * r, u * r),
        "bump": (0 * v, np.exp(-((v - 0.1) ** 2 + (u + 0.1) ** 2) / 0.08)),
    }[case.field]
    from_middle = np.stack([y - (case.height - 1) / 2, x - (case.width - 1) / 2], axis=-1)
    angle, size = np.deg2rad(case.rotation), 1 / (1 + case.scale)
    turn = size * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    similarity = from_middle @ turn.T - from_middle + np.array(case.displacement)
    return similarity + case.amplitude * np.stack([down, across], axis=-1)
